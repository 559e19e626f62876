"""Models from 0.1 to 7 billion weights, in the types that files have: opening, runs, tokens and memory of headlight, and where they can
open the file, of an earlier headlight, of transformers in bf16 and of llama.cpp.

`run.py --stored` runs it: it writes the models (8 GB) with examples/random_model.rs, does everything in turn, and prints a table of
medians; --beside DRIVER names the `compare` of an earlier headlight, built of its own checkout.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models import CHECKOUT, TARGET
from report import markdown, memory, seconds
from worker import Failed, Worker

LENGTHS = (64, 256)
NEW = 17


@dataclass(frozen=True)
class Shape:
    name: str
    said: str
    file: str
    weights: float

    @property
    def folder(self) -> Path:
        return TARGET / "stored" / self.name

    @property
    def path(self) -> Path:
        return self.folder / self.file if self.file.endswith(".gguf") else self.folder


SHAPES = [
    Shape("gpt2", "GPT-2 small, f32", "model.safetensors", 0.124e9),
    Shape("gpt2-medium", "GPT-2 medium, bf16", "model.safetensors", 0.355e9),
    Shape("llama-1b", "Llama 1B, bf16", "model.safetensors", 1.24e9),
    Shape("llama-1b-q4k", "Llama 1B, Q4_K", "llama-1b-q4k.gguf", 1.5e9),
    Shape("llama-7b-q4k", "Llama 7B, Q4_K", "llama-7b-q4k.gguf", 6.74e9),
]


def make(shape: Shape) -> None:
    if not shape.folder.exists():
        command = ["cargo", "run", "--release", "--quiet", "--example", "random_model", "--", shape.name, str(shape.folder)]
        subprocess.run(command, cwd=CHECKOUT, check=True)


def ids(count: int) -> list[int]:
    return [7 + 13 * place % 1000 for place in range(count)]


class Watched:
    """The most memory of a process that is not a file's pages, looked at every few milliseconds."""

    def __init__(self, pid: int):
        self.pid, self.most, self.on = pid, 0, True
        self.thread = threading.Thread(target=self.look, daemon=True)
        self.thread.start()

    def look(self) -> None:
        while self.on:
            try:
                status = Path(f"/proc/{self.pid}/status").read_text()
            except OSError:
                return
            anonymous = next((line for line in status.splitlines() if line.startswith("RssAnon:")), "RssAnon: 0")
            self.most = max(self.most, int(anonymous.split()[1]) * 1024)
            time.sleep(0.004)

    def peak(self) -> int:
        self.on = False
        self.thread.join()
        return self.most


class Side:
    """One who opens the model, in a process of its own for each round."""

    def __init__(self, name: str, command: Callable[[Shape], list[str] | None]):
        self.name, self.command = name, command

    def measure(self, shape: Shape, threads: int) -> dict[str, float] | None:
        command = self.command(shape)
        if command is None:
            return None
        worker = Worker(f"{self.name} on {shape.name}", command, TARGET, threads)
        watched = Watched(worker.process.pid)
        found: dict[str, float] = {}
        try:
            run = {"work": "run_with_cache", "keep": "patterns"}
            generate = {"work": "generate", "ids": [ids(4)]}
            # What is read for the first time is nobody's time.
            worker.ask({**generate, "new": 1})
            found["open"] = min(worker.measure({"work": "load", "ids": [ids(4)]}).seconds for _ in range(3))
            for length in LENGTHS:
                found[str(length)] = worker.measure({**run, "ids": [ids(length)]}).seconds
            first = worker.measure({**generate, "new": 1}).seconds
            found["token"] = (worker.measure({**generate, "new": NEW}).seconds - first) / (NEW - 1)
        finally:
            found["memory"] = watched.peak()
            worker.close()
        return found


def transformers_worker(path: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    dtype = torch.float32 if Path(path).name == "gpt2" else torch.bfloat16

    def opened() -> Any:
        return AutoModelForCausalLM.from_pretrained(path, dtype=dtype, attn_implementation="eager").eval()

    model = opened()

    @torch.inference_mode()
    def work(request: dict[str, Any]) -> None:
        given = torch.tensor(request.get("ids", [[1]]))
        match request["work"]:
            case "load":
                opened()
            case "run_with_cache":
                model(given, output_attentions=True)
            case "generate":
                new = request["new"]
                model.generate(given, max_new_tokens=new, min_new_tokens=new, do_sample=False, pad_token_id=0)

    serve(work)


def llama_cpp_worker(path: str) -> None:
    import xllamacpp

    def opened() -> Any:
        parameters = xllamacpp.CommonParams()
        parameters.model.path = path
        parameters.n_ctx = 512
        parameters.n_parallel = 1
        parameters.warmup = False
        parameters.cpuparams.n_threads = int(os.environ["OMP_NUM_THREADS"])
        return xllamacpp.Server(parameters)

    server = opened()

    def work(request: dict[str, Any]) -> None:
        if request["work"] == "load":
            return
        new = request.get("new", 1)
        body = {"prompt": request["ids"][0], "n_predict": new, "cache_prompt": False, "ignore_eos": True}
        call = urllib.request.Request(
            f"{server.listening_address}/completion", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        urllib.request.urlopen(call, timeout=600).read()

    serve(work)


def serve(work: Callable[[dict[str, Any]], None]) -> None:
    print(json.dumps({}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        start = time.perf_counter()
        if request["work"] != "tidy":
            work(request)
        print(json.dumps({"seconds": time.perf_counter() - start}), flush=True)


def sides(driver: Path, beside: Path | None) -> list[Side]:
    own = [sys.executable, str(Path(__file__).resolve())]
    small = {"gpt2", "gpt2-medium", "llama-1b"}
    all_sides = [
        Side("headlight", lambda shape: [str(driver), "serve", str(shape.path)]),
        Side("transformers", lambda shape: [*own, "transformers", str(shape.path)] if shape.name in small else None),
        Side("llama.cpp", lambda shape: [*own, "llama.cpp", str(shape.path)] if shape.path.suffix == ".gguf" else None),
    ]
    if beside:
        # It holds four bytes for each number, and reads all of them when it opens.
        command = lambda shape: [str(beside), "serve", str(shape.path)] if shape.weights < 3e9 else None  # noqa: E731
        all_sides.insert(1, Side("an earlier headlight", command))
    return all_sides


def measure(arguments: argparse.Namespace, driver: Path) -> None:
    found: dict[str, dict[str, list[dict[str, float]]]] = {}
    for shape in SHAPES:
        if arguments.only and shape.name not in arguments.only.split(","):
            continue
        make(shape)
        of_shape = found.setdefault(shape.name, {})
        for _ in range(arguments.rounds):
            for side in sides(driver, arguments.beside):
                try:
                    one = side.measure(shape, arguments.threads)
                except Failed as failed:
                    print(failed, file=sys.stderr)
                    continue
                if one:
                    of_shape.setdefault(side.name, []).append(one)
                    print(shape.name, side.name, one, file=sys.stderr, flush=True)
    (TARGET / "stored.json").write_text(json.dumps(found, indent=1) + "\n")
    print(table(found))
    draw(found)
    print(f"\ndrawn to {TARGET / 'stored.html'}", file=sys.stderr)


def median(rounds: list[dict[str, float]], what: str) -> float:
    return statistics.median(one[what] for one in rounds)


def table(found: dict[str, dict[str, list[dict[str, float]]]]) -> str:
    rows = []
    for shape in SHAPES:
        for name, rounds in found.get(shape.name, {}).items():
            # llama.cpp's server is not opened again.
            opens = "" if name == "llama.cpp" else seconds(median(rounds, "open"))
            times = [seconds(median(rounds, what)) for what in (*map(str, LENGTHS), "token")]
            rows.append([shape.said, name, opens, *times, memory(int(median(rounds, "memory")))])
    return markdown(["model", "by", "opens, s", "64 tokens, s", "256 tokens, s", "a new token, s", "memory beside the file's pages"], rows)


def draw(found: dict[str, dict[str, list[dict[str, float]]]]) -> None:
    from plotly.subplots import make_subplots

    drawn = [("open", "opening"), ("64", "64 tokens, patterns kept"), ("token", "a new token"), ("memory", "memory beside the file's pages")]
    colours = {"headlight": "#2b4c7e", "an earlier headlight": "#9aa7b8", "transformers": "#c8504b", "llama.cpp": "#d9a441"}
    figure = make_subplots(1, len(drawn), subplot_titles=[said for _, said in drawn], horizontal_spacing=0.055)
    for column, (what, _) in enumerate(drawn, 1):
        for name, colour in colours.items():
            of_side = [(shape, found[shape.name][name]) for shape in SHAPES if name in found.get(shape.name, {})]
            if not of_side or (name == "llama.cpp" and what == "open"):
                continue
            scale = 1e-9 if what == "memory" else 1
            figure.add_scatter(
                x=[shape.weights / 1e9 for shape, _ in of_side],
                y=[median(rounds, what) * scale for _, rounds in of_side],
                text=[shape.said for shape, _ in of_side], name=name, legendgroup=name, showlegend=column == 2,
                mode="lines+markers", line_color=colour, row=1, col=column,
            )  # fmt: skip
        figure.update_xaxes(type="log", tickvals=[0.1, 0.3, 1, 3, 7], title="billion weights", row=1, col=column)
        ticks = [10**power for power in range(-3, 3)]
        unit = "GB" if what == "memory" else "s"
        figure.update_yaxes(type="log", tickvals=ticks, ticktext=[f"{tick:g} {unit}" for tick in ticks], row=1, col=column)
    figure.update_xaxes(gridcolor="#e4e4e4", linecolor="#888", ticks="outside")
    figure.update_yaxes(gridcolor="#e4e4e4", linecolor="#888", ticks="outside")
    figure.update_layout(
        title="Models from 0.1 to 7 billion weights: GPT-2 small in f32, then bf16, from 1.5 on Q4_K", plot_bgcolor="white",
        height=420, width=1280, margin={"t": 90, "b": 90, "l": 60, "r": 20}, legend={"orientation": "h", "y": -0.22},
    )  # fmt: skip
    figure.write_html(TARGET / "stored.html", include_plotlyjs=True, config={"displayModeBar": False})


if __name__ == "__main__":
    {"transformers": transformers_worker, "llama.cpp": llama_cpp_worker}[sys.argv[1]](sys.argv[2])
