"""How headlight's time and memory grow: with tokens, heads, layers and prompts.

    python3 benches/compare/run.py --growth

Measures run_with_cache on GPT-2s with random weights, draws it to target/compare/growth.html, and prints the exponents:
the slopes of straight lines through logarithms, by least squares over the upper half of each row of sizes, where what
does not grow weighs least. 1 is linear, 2 quadratic.
"""

import argparse
import json
import math
import statistics
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path

from compare import DRIVER
from models import MODELS, TARGET, Model, make_gpt2
from report import about, in_words, markdown, memory, seconds
from worker import Worker
from works import tokens

WIDTH = 768
# The unembedding grows with none of these but tokens, and would hide how the layers grow.
VOCABULARY = 1000
CONTEXT = 1024


@dataclass
class Row:
    """One size that grows while the others stay."""

    name: str
    said: str
    sizes: list[int]
    seconds: list[float] = field(default_factory=list)
    peaks: list[int] = field(default_factory=list)


ROWS = [
    Row("tokens", "12 layers, 12 heads, 1 prompt", [16, 32, 64, 128, 256, 512, 1024]),
    Row("heads", "12 layers as wide, 256 tokens", [4, 8, 12, 16, 24, 32]),
    Row("layers", "12 heads, 256 tokens", [2, 4, 8, 12, 16, 24]),
    Row("prompts", "12 layers, 12 heads, 64 tokens each", [1, 2, 4, 8, 16, 32, 64]),
]


def measure(arguments: argparse.Namespace) -> None:
    for row in ROWS:
        for size in row.sizes:
            layers = size if row.name == "layers" else 12
            heads = size if row.name == "heads" else 12
            length = {"tokens": size, "prompts": 64}.get(row.name, 256)
            model = random_model(layers, heads)
            ids = tokens(model, length, size if row.name == "prompts" else 1)
            request = {"work": "run_with_cache", "keep": "everything", "ids": ids}
            took, peak = measured(model, request, arguments)
            row.seconds.append(took)
            row.peaks.append(peak)
            print(f"{row.name} {size}: {seconds(took)} s, {memory(peak)}", file=sys.stderr)
    facts = about(arguments, [MODELS["built-in"]()])
    print(in_words(facts), table(), sep="\n\n")
    draw()
    result = {"about": facts, "rows": [asdict(row) for row in ROWS]}
    (TARGET / "growth.json").write_text(json.dumps(result, indent=1) + "\n")
    print(f"\ndrawn to {TARGET / 'growth.html'}", file=sys.stderr)


def random_model(layers: int, heads: int) -> Model:
    path = TARGET / "growth" / f"{layers}-layers-{heads}-heads" / "gpt2"
    make_gpt2(path, layers, heads, WIDTH, VOCABULARY, CONTEXT)
    return Model(f"{layers} layers, {heads} heads", "random weights", path, layers, VOCABULARY, CONTEXT)


def measured(model: Model, request: dict, arguments: argparse.Namespace) -> tuple[float, int]:
    """The median of the rounds after a first that counts for memory alone, in a process of its own."""
    command = [str(DRIVER), "serve", str(model.path)]
    worker = Worker("headlight", command, model.path.parent, arguments.threads)
    try:
        with tempfile.TemporaryDirectory() as folder:
            peak = worker.ask(request | {"arrays": str(Path(folder) / "arrays")})["peak"]
        return statistics.median(worker.measure(request).seconds for _ in range(arguments.rounds)), peak
    finally:
        worker.close()


def fitted(sizes: list[int], values: list[float] | list[int]) -> tuple[float, list[int], list[float]]:
    """The slope of the logarithms, by least squares over the upper half, and the line through it."""
    half = len(sizes) // 2
    points = [(math.log(size), math.log(max(value, 1e-9))) for size, value in zip(sizes[half:], values[half:], strict=True)]
    x, y = (statistics.mean(axis) for axis in zip(*points, strict=True))
    slope = sum((a - x) * (b - y) for a, b in points) / sum((a - x) ** 2 for a, _ in points)
    return slope, sizes[half:], [math.exp(y + slope * (math.log(size) - x)) for size in sizes[half:]]


def exponent(sizes: list[int], values: list[float] | list[int]) -> float:
    return fitted(sizes, values)[0]


def table() -> str:
    rows = []
    for row in ROWS:
        ends = [0, len(row.sizes) - 1]
        rows.append([
            row.name, row.said, f"{row.sizes[0]} to {row.sizes[-1]}",
            " to ".join(seconds(row.seconds[end]) for end in ends), f"{exponent(row.sizes, row.seconds):.2f}",
            " to ".join(memory(row.peaks[end]) for end in ends), f"{exponent(row.sizes, row.peaks):.2f}",
        ])  # fmt: skip
    header = ["what grows", "beside", "from, to", "seconds", "exponent", "memory above the model", "exponent"]
    return markdown(header, rows)


def draw() -> None:
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    titles = [f"{row.name}<br><sub>{row.said}</sub>" for row in ROWS]
    figure = make_subplots(2, len(ROWS), subplot_titles=titles, vertical_spacing=0.12, horizontal_spacing=0.06)
    for column, row in enumerate(ROWS, 1):
        megabytes = [peak / 1e6 for peak in row.peaks]
        for line, values in ((1, row.seconds), (2, megabytes)):
            slope, along, fit = fitted(row.sizes, values)
            place = {"row": line, "col": column}
            figure.add_scatter(x=along, y=fit, mode="lines", line={"color": "#c8504b", "width": 6}, opacity=0.45, **place)
            figure.add_scatter(x=row.sizes, y=values, mode="lines+markers", line_color="#2b4c7e", **place)
            figure.add_annotation(
                text=f"exponent {slope:.2f}", xref="x domain", yref="y domain", x=0.04, y=0.95, showarrow=False,
                font={"size": 14, "color": "#c8504b"}, **place,
            )  # fmt: skip
            ticks = round_numbers(values)
            text = [f"{tick / 1000:g} GB" if tick >= 1000 else f"{tick:g} MB" for tick in ticks]
            text = text if line == 2 else [f"{tick:g} s" for tick in ticks]
            figure.update_xaxes(type="log", tickvals=row.sizes, ticktext=row.sizes, **place)
            figure.update_yaxes(type="log", tickvals=ticks, ticktext=text, **place)
    figure.update_xaxes(gridcolor="#e4e4e4", linecolor="#888", ticks="outside")
    figure.update_yaxes(gridcolor="#e4e4e4", linecolor="#888", ticks="outside")
    figure.update_yaxes(title="time", row=1, col=1)
    figure.update_yaxes(title="memory above the model", row=2, col=1)
    figure.update_layout(
        title="run_with_cache as its input and its model grow; in red the line fitted to the upper half", showlegend=False,
        plot_bgcolor="white", height=680, width=1280, margin={"t": 110, "b": 40, "l": 90, "r": 20},
    )  # fmt: skip
    figure.write_html(TARGET / "growth.html", include_plotlyjs=True, config={"displayModeBar": False})


def round_numbers(values: list[float]) -> list[float]:
    """Round numbers about some values: few where they are far apart, more where they are near."""
    low, high = 0.85 * min(values), 1.15 * max(values)
    leading = (1, 2, 5) if high / low > 6 else (1, 1.2, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5, 5.5, 6, 7, 8)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [number for decade in decades for first in leading if low <= (number := first * 10**decade) <= high]
