"""A whole program in Python: from the start to the first figure.

    python first_figure.py LAYER IDS PAGE [ARRAYS]

Started where the model lies in a folder called `gpt2`, which TransformerLens then opens by that name.
"""

import sys

import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots
from transformer_lens import HookedTransformer


@torch.inference_mode()
def main():
    layer, ids, page, *arrays = sys.argv[1:]
    tokens = [int(token) for token in ids.split(",")]
    model = HookedTransformer.from_pretrained_no_processing("gpt2", device="cpu")
    _, cache = model.run_with_cache(torch.tensor([tokens]))
    pattern = cache["pattern", int(layer)][0]
    columns = 4
    rows = -(-len(pattern) // columns)
    titles = [f"L{layer}H{head}" for head in range(len(pattern))]
    figure = make_subplots(rows, columns, subplot_titles=titles, shared_xaxes="all", shared_yaxes="all")
    for head, values in enumerate(pattern.numpy()):
        heatmap = go.Heatmap(z=values, coloraxis="coloraxis")
        figure.add_trace(heatmap, row=head // columns + 1, col=head % columns + 1)
    figure.update_layout(coloraxis={"colorscale": "Blues", "cmin": 0}, height=220 * rows)
    figure.update_yaxes(autorange="reversed")
    figure.write_html(page, include_plotlyjs=True)
    if arrays:
        from safetensors.torch import save_file

        save_file({"pattern": pattern.flatten().contiguous()}, arrays[0])


if __name__ == "__main__":
    main()
