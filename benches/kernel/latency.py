"""How long a cell takes, and how long the first figure: evcxr's own kernel beside headlight's.

Both run the same cells with the same crates on the same machine, in turn (A B A B), each warm: evcxr's own kernel keeps
what it has built in a folder (EVCXR_TMPDIR), headlight's starts from what `headlight-kernel install` has built. The first
two cells name the crates, open the model and draw an attention pattern; the time from the start of the process to that
picture is the time to the first figure. Thirty cells follow, of the sort that a notebook is made of. A cell's time is that
from the request to the message that the kernel is idle. Memory is that of the kernel's process and all below it, when
nothing runs; shared pages are counted once (PSS) and, beside it, with each process (RSS).

    cargo install evcxr_jupyter --version 0.22.0 --locked --root FOLDER
    pip install jupyter_client psutil
    python benches/kernel/latency.py --stock FOLDER/bin/evcxr_jupyter --ours target/release/headlight-kernel

The first run builds the crates for evcxr's own kernel, which takes minutes; `--work` says where they are kept.
"""

import argparse
import json
import os
import platform
import queue
import re
import statistics
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import psutil
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager

CHECKOUT = Path(__file__).resolve().parents[2]
CELLS = [
    "let a = 1;",
    "a + 1",
    "let v: Vec<f32> = (0..10).map(|i| i as f32).collect();",
    "v.iter().sum::<f32>()",
    "let t = Tensor::arange(0f32, 6f32, &Device::Cpu)?.reshape((2, 3))?;",
    "t.matmul(&t.t()?)?",
    "t.sum_all()?.to_scalar::<f32>()?",
    'let run = model.run_with_cache("the cat sat the cat sat")?;',
    "run.pattern(1)?",
    "run.pattern(0)?",
    "fn mean(v: &[f32]) -> f32 {\n    v.iter().sum::<f32>() / v.len() as f32\n}",
    "mean(&v)",
    "#[derive(Debug, Clone)]\nstruct Pair {\n    name: String,\n    value: f32,\n}",
    'let pair = Pair { name: "a".to_string(), value: mean(&v) };',
    "pair.clone()",
    'for i in 0..5 {\n    println!("{i}: {}", v[i]);\n}',
    'model.loss("the cat sat the cat sat")?',
    "let scores = induction_scores(&model)?;",
    "scores.ranked()?[0]",
    "scores.values().figure()?",
    'let wrong: i32 = "text";',
    'let s = format!("{a} and {}", pair.name);',
    "s.len()",
    'model.test_prompt("the quick brown fox jumps the quick brown", " fox")?',
    'let mut counts = std::collections::BTreeMap::new();\nfor word in "a b a".split(\' \') {\n'
    "    *counts.entry(word.to_string()).or_insert(0) += 1;\n}\ncounts.len()",
    'run.get("blocks.0.attn.hook_z")?.shape().to_vec()',
    "let total: usize = (0..1000usize).filter(|n| n % 3 == 0).sum();",
    "total",
    'model.ablate(head(1, 0), Ablation::Zero)?.loss("the cat sat the cat sat")?',
    'println!("done: {total}");',
]
FAILING = {'let wrong: i32 = "text";'}
# Three that stand for many, each with a row of its own.
TYPICAL = {
    "a value": "a + 1",
    "a run with its cache": 'let run = model.run_with_cache("the cat sat the cat sat")?;',
    "a figure": "run.pattern(1)?",
}
assert len(CELLS) == 30


def first_cells():
    lock = tomllib.loads((CHECKOUT / "Cargo.lock").read_text())
    versions = {package["name"]: package["version"] for package in lock["package"]}
    beside = "".join(
        f':dep {name} = {{ version = "{versions[name]}", default-features = false }}\n'
        for name in ("candle-core", "plotly", "tokenizers")
    )
    # Two cells: evcxr's own kernel loses a picture in a cell with `:dep`.
    return [
        f':dep headlight = {{ path = "{CHECKOUT}", default-features = false }}\n{beside}'
        "use headlight::prelude::*;\nuse candle_core::{Device, Tensor};\n"
        'let model = Model::open("built-in")?;',
        'model.run_with_cache("the cat sat the cat sat")?.pattern(1)?',
    ]


class Session:
    """One kernel, from its start to its end."""

    def __init__(self, name, specs, log):
        self.began = time.monotonic()
        self.manager = KernelManager(kernel_name=name, kernel_spec_manager=KernelSpecManager(kernel_dirs=[str(specs)]))
        self.manager.start_kernel(stdout=log, stderr=log, env=dict(os.environ))
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=600)
        self.ready = time.monotonic() - self.began

    def run(self, code, timeout):
        """The seconds that a cell took, the moment its first picture came, and its status."""
        sent = time.monotonic()
        id = self.client.execute(code, allow_stdin=False, stop_on_error=False)
        picture, failed, idle = None, None, None
        while idle is None:
            left = sent + timeout - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"a cell took more than {timeout} s: {code}")
            try:
                message = self.client.get_iopub_msg(timeout=left)
            except queue.Empty:
                continue
            if message["parent_header"].get("msg_id") != id:
                continue
            now, kind, content = time.monotonic(), message["msg_type"], message["content"]
            if kind in ("display_data", "execute_result") and "image/png" in content["data"]:
                picture = picture or now
            # evcxr's own kernel tells of `?` on the standard error alone.
            if kind == "error" or kind == "stream" and content["name"] == "stderr":
                failed = (failed or "") + str(content)
            if kind == "status" and content["execution_state"] == "idle":
                idle = now
        return idle - sent, picture, failed

    def memory(self):
        """MB, with shared pages counted once, and with each process."""
        time.sleep(3)
        kernel = psutil.Process(self.manager.provisioner.pid)
        all = [process.memory_full_info() for process in [kernel, *kernel.children(recursive=True)]]
        pss = sum(getattr(one, "pss", one.rss) for one in all)
        return pss / 1e6, sum(one.rss for one in all) / 1e6

    def end(self):
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


def measure(name, specs, log, timeout):
    session = Session(name, specs, log)
    try:
        for code in first_cells():
            _, picture, failed = session.run(code, timeout)
        if picture is None:
            raise RuntimeError(f"{name} shows no figure: {failed}")
        idle = session.memory()
        cells = []
        for code in CELLS:
            seconds, _, failed = session.run(code, 120)
            if bool(failed) != (code in FAILING):
                raise RuntimeError(f"{name}, {code!r}: {failed or 'no error'}")
            cells.append(seconds)
        return {
            "ready": session.ready,
            "first_figure": picture - session.began,
            "idle": idle,
            "after": session.memory(),
            "cells": cells,
        }
    finally:
        session.end()


def write_specs(folder, arguments):
    kept = folder / "evcxr"
    kept.mkdir(parents=True, exist_ok=True)
    for name, argv, env in [
        ("stock", [str(arguments.stock), "--control_file", "{connection_file}"], {"EVCXR_TMPDIR": str(kept)}),
        ("ours", [str(arguments.ours), "start", "{connection_file}"], {}),
    ]:
        (folder / "kernels" / name).mkdir(parents=True, exist_ok=True)
        spec = {"argv": argv, "display_name": name, "language": "rust", "interrupt_mode": "message", "env": env}
        (folder / "kernels" / name / "kernel.json").write_text(json.dumps(spec))
    return folder / "kernels"


def table(results):
    stock, ours = results["stock"], results["ours"]
    cells = {name: [s for run in runs for s in run["cells"]] for name, runs in results.items()}
    rows = []
    # A cell that fails to compile is as much a cell as the others.
    for label, of in [
        ("a cell, median", statistics.median),
        ("a cell, fastest", min),
        ("a cell, slowest", max),
        ("thirty cells", lambda all: sum(all) / len(stock)),
    ]:
        rows.append((label, of(cells["stock"]), of(cells["ours"]), "s"))
    for label, code in TYPICAL.items():
        at = CELLS.index(code)
        of = lambda runs: statistics.median(run["cells"][at] for run in runs)
        rows.append((f"{label}: `{code}`", of(stock), of(ours), "s"))
    for label, key in [("start to a reply, cells may have to wait", "ready"), ("start to first figure", "first_figure")]:
        of = lambda runs: statistics.median(run[key] for run in runs)
        rows.append((label, of(stock), of(ours), "s"))
    for label, key, which in [
        ("memory when idle, shared pages once", "idle", 0),
        ("memory when idle, of each process", "idle", 1),
        ("memory after the cells, shared pages once", "after", 0),
    ]:
        of = lambda runs: statistics.median(run[key][which] for run in runs)
        rows.append((label, of(stock), of(ours), "MB"))
    lines = ["| | evcxr_jupyter | headlight | ratio |", "|---|---|---|---|"]
    for label, one, two, unit in rows:
        show = (lambda x: f"{x:.2f} s") if unit == "s" else (lambda x: f"{x:.0f} MB")
        lines.append(f"| {label} | {show(one)} | {show(two)} | {two / one:.2f} |")
    return "\n".join(lines)


def by_cell(results):
    lines = ["| cell | evcxr_jupyter | headlight |", "|---|---|---|"]
    for at, code in enumerate(CELLS):
        one, two = (statistics.median(run["cells"][at] for run in results[name]) for name in ("stock", "ours"))
        code = re.sub(r"\s+", " ", code).replace("|", "\\|")
        lines.append(f"| `{code[:60]}` | {one:.2f} s | {two:.2f} s |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stock", type=Path, required=True, help="the program evcxr_jupyter")
    parser.add_argument("--ours", type=Path, default=CHECKOUT / "target/release/headlight-kernel")
    parser.add_argument("--work", type=Path, default=CHECKOUT / "target/kernel-latency", help="what is kept between runs")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", type=Path, help="where all figures are written")
    parser.add_argument("--warm", action="store_true", help="both have run here before: no round to warm them up")
    parser.add_argument("--only", choices=["stock", "ours"], help="one of the two, without a table: to warm it up")
    arguments = parser.parse_args()
    arguments.stock, arguments.ours = arguments.stock.resolve(), arguments.ours.resolve()
    specs = write_specs(arguments.work.resolve(), arguments)
    results = {"stock": [], "ours": []}
    with open(arguments.work / "kernels.log", "ab") as log:
        if arguments.only:
            found = measure(arguments.only, specs, log, 3600)
            return print(json.dumps(found, indent=1))
        for name in [] if arguments.warm else results:
            print(f"warming up {name}; the first time it builds", file=sys.stderr)
            measure(name, specs, log, 3600)
        for round in range(arguments.rounds):
            for name in results:
                found = measure(name, specs, log, 600)
                results[name].append(found)
                median = statistics.median(found["cells"])
                print(f"round {round + 1}, {name}: a cell {median:.2f} s, first figure {found['first_figure']:.1f} s", file=sys.stderr)
    rustc = subprocess.run(["rustc", "--version"], capture_output=True, text=True, cwd=CHECKOUT).stdout.strip()
    # Above the number of cores, others were at work, and the seconds are theirs too.
    load = os.getloadavg()[2]
    print(f"\n{rustc}, {psutil.cpu_count()} cores of {platform.machine()}, {arguments.rounds} rounds, mean load {load:.1f}\n")
    print(table(results), by_cell(results), sep="\n\n")
    if arguments.json:
        arguments.json.write_text(json.dumps({"cells": CELLS, "rustc": rustc, **results}, indent=1))


if __name__ == "__main__":
    main()
