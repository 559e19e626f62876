"""Make a tiny GPT-2 as torch.save writes it, with transformers' logits of it.

    python make_torch.py [--into FOLDER]

Weights are random, from a seed. Nothing is fetched.
"""

import argparse
import json
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel

HERE = Path(__file__).resolve().parent
IDS = [0, 5, 9, 5, 41, 27, 9]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--into", type=Path, default=HERE / "tiny-torch")
    folder = parser.parse_args().into
    torch.manual_seed(0)
    config = GPT2Config(
        n_layer=1, n_head=2, n_embd=8, vocab_size=44, n_positions=16, bos_token_id=0, eos_token_id=0
    )
    model = GPT2LMHeadModel(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    with torch.no_grad():
        logits = model(torch.tensor([IDS])).logits[0]
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(config.to_json_string(use_diff=True))
    state = model.state_dict()
    # As checkpoints may have it: a parameter, a mask, tensors that are parts of another.
    state["transformer.ln_f.bias"] = torch.nn.Parameter(state["transformer.ln_f.bias"].clone())
    state["transformer.h.0.attn.bias"] = torch.ones(1, 1, 16, 16, dtype=torch.uint8)
    pair = torch.stack([state["transformer.h.0.ln_1.weight"], state["transformer.h.0.ln_1.bias"]])
    state["transformer.h.0.ln_1.weight"], state["transformer.h.0.ln_1.bias"] = pair[0], pair[1]
    torch.save(state, folder / "pytorch_model.bin")
    values = [round(value, 6) for value in logits.flatten().tolist()]
    (folder / "golden.json").write_text(json.dumps({"ids": IDS, "logits": values}, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
