"""The tables, the JSON, and the documents' tables."""

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from models import CHECKOUT, Model, sha256
from works import LENS, MB, SAID, Measured

PACKAGES = ("transformer-lens", "torch", "transformers", "plotly")
LIMIT_AIM = 0.75
# What README.md shows of it, beside TransformerLens.
IN_README = (
    "start to first figure",
    "load",
    "run_with_cache, 256 tokens",
    "zero ablation by loss, 50 tokens",
    "generate 64 tokens",
)


@dataclass
class Limit:
    """A forward pass of 256 tokens, and the multiplications alone that it consists of, by headlight's means and by torch's."""

    multiply_adds: int
    forward: list[float]
    multiplied: list[float]
    by_torch: list[float]

    def gflops(self, seconds: list[float]) -> float:
        return 2e-9 * self.multiply_adds / statistics.median(seconds)

    @property
    def share(self) -> float:
        """How much of the machine's throughput the forward pass reaches, against the faster of the two."""
        return self.gflops(self.forward) / max(self.gflops(self.multiplied), self.gflops(self.by_torch))

    def said(self) -> str:
        met = "yes" if self.share >= LIMIT_AIM else "no"
        return (
            f"The machine's limit: a forward pass of 256 tokens is {self.multiply_adds / 1e9:.1f} G multiply-adds. It "
            f"reaches {self.gflops(self.forward):.0f} GFLOP/s; its multiplications alone, on matrices of the same shapes, "
            f"{self.gflops(self.multiplied):.0f} by headlight's means and {self.gflops(self.by_torch):.0f} by torch's: "
            f"{self.share:.0%} of the faster (aim {LIMIT_AIM:.0%}: {met})."
        )


def about(arguments: argparse.Namespace, models: list[Model], packages: tuple[str, ...] = PACKAGES) -> dict[str, Any]:
    def git(*command: str) -> str:
        return subprocess.run(["git", *command], cwd=CHECKOUT, capture_output=True, text=True).stdout.strip()

    rustc = subprocess.run(["rustc", "--version"], cwd=CHECKOUT, capture_output=True, text=True).stdout.strip()
    return {
        "date": datetime.date.today().isoformat(),
        "revision": git("rev-parse", "--short", "HEAD"),
        "changed since": bool(git("status", "--porcelain", "--untracked-files=no")),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "rustc": rustc,
        "packages": {package: version(package) for package in packages},
        "threads": arguments.threads,
        "rounds": arguments.rounds,
        "load": os.getloadavg()[0],
        "models": {
            model.name: sha256(model.path if model.is_gguf else model.path / "model.safetensors") for model in models
        },
    }


def cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def in_words(about: dict[str, Any]) -> str:
    packages = ", ".join(f"{name} {number}" for name, number in about["packages"].items())
    changed = " with changes" if about["changed since"] else ""
    busy = f" (other work on the machine: load {about['load']:.1f})" if about["load"] > about["threads"] + 0.5 else ""
    return (
        f"Measured on {about['date']}: headlight at {about['revision']}{changed}, {packages}; {about['threads']} threads, "
        f"{about['rounds']} rounds in turn; {about['cpu']}, {about['cores']} cores, {about['memory'] / 1e9:.0f} GB, "
        f"{about['system']}{busy}."
    )


def ratio(measured: Measured) -> list[float]:
    return [theirs / ours for theirs, ours in zip(measured.theirs, measured.ours, strict=True)]


def aims(measured: Measured) -> tuple[str, str]:
    """What was aimed at, and whether it was met: for GPT-2 small beside TransformerLens alone."""
    if measured.model != "gpt2-small":
        return "", ""
    aimed, met = [], []
    if measured.work.aim is not None and measured.peer == LENS:
        aimed.append(f"{measured.work.aim:g}x")
        met.append(statistics.median(ratio(measured)) >= measured.work.aim)
    if measured.work.memory_aim is not None:
        aimed.append(f"{memory(measured.work.memory_aim)} at most")
        met.append(measured.our_peak <= measured.work.memory_aim)
    return ", ".join(aimed), ("yes" if all(met) else "no") if met else ""


def seconds(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def memory(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1000 * MB else f"{count / MB:.0f} MB"


def at_most(measured: Measured) -> float | None:
    """How many times faster than theirs the multiplications alone are."""
    if not measured.floor:
        return None
    return statistics.median(theirs / floor for theirs, floor in zip(measured.theirs, measured.floor, strict=True))


def row(measured: Measured) -> list[str]:
    median = statistics.median
    ratios = ratio(measured)
    most = at_most(measured)
    return [
        measured.work.name,
        SAID[measured.peer],
        seconds(median(measured.theirs)),
        seconds(median(measured.ours)),
        f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
        f"{most:.2f}" if most is not None else "",
        f"{seconds(median(measured.their_cpu))} / {seconds(median(measured.our_cpu))}",
        f"{memory(measured.their_peak)} / {memory(measured.our_peak)}",
        *aims(measured),
    ]


HEADER = ["work", "beside", "theirs, s", "ours, s", "times faster (min to max)", "products alone", "CPU s", "memory", "aim", "met"]


def markdown(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def tables(found: list[Measured], limits: dict[str, Limit], about: dict[str, Any]) -> str:
    parts = [in_words(about)]
    for model in dict.fromkeys(measured.model for measured in found):
        of_model = [measured for measured in found if measured.model == model]
        parts += [f"### {model}", markdown(HEADER, [row(measured) for measured in of_model])]
        parts += [limits[model].said()] if model in limits else []
        notes = {m.work.name: m.work.note for m in of_model if m.work.note}
        parts += ["\n".join(f"- {name}: {note}." for name, note in notes.items())] if notes else []
    return "\n\n".join(parts)


def differences(found: list[Measured]) -> str:
    """The largest differences of each work, where nothing else is asked for."""
    rows = []
    for measured in found:
        name = max(measured.apart, key=lambda name: measured.apart[name])
        furthest, share = measured.furthest[name], measured.apart[name]
        rows.append([
            measured.model, measured.work.name, SAID[measured.peer], str(len(measured.apart)), f"`{name}`",
            f"{furthest:.2g}", f"{share:.1%}",
        ])  # fmt: skip
    header = ["model", "work", "beside", "arrays", "the furthest", "by", "of what is allowed"]
    return markdown(header, rows)


def write_json(path: Path, found: list[Measured], limits: dict[str, Limit], about: dict[str, Any]) -> None:
    works = []
    for measured in found:
        aim, met = aims(measured)
        works.append({
            "model": measured.model, "work": measured.work.name, "beside": measured.peer,
            "ratio_median": statistics.median(ratio(measured)), "ratios": ratio(measured),
            "theirs_seconds": measured.theirs, "ours_seconds": measured.ours,
            "floor_seconds": measured.floor, "at_most": at_most(measured),
            "theirs_cpu_seconds": measured.their_cpu, "ours_cpu_seconds": measured.our_cpu,
            "theirs_peak_bytes": measured.their_peak, "ours_peak_bytes": measured.our_peak,
            "aim": aim, "met": met, "largest_differences": measured.furthest, "note": measured.work.note,
        })  # fmt: skip
    limited = {name: asdict(limit) | {"share": limit.share, "aim": LIMIT_AIM} for name, limit in limits.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"about": about, "works": works, "limits": limited}, indent=1) + "\n")


def into_documents(found: list[Measured], _: list[Model], limits: dict[str, Limit], about: dict[str, Any]) -> None:
    """Puts GPT-2 small's rows between the marks in docs/speed.md, and a few of them in README.md."""
    of_model = [measured for measured in found if measured.model == "gpt2-small"]
    if not of_model:
        raise SystemExit("error: nothing of gpt2-small was measured, which is what the documents show")
    few = [measured for measured in of_model if measured.work.name in IN_README and measured.peer == LENS]
    if len(few) != len(IN_README):
        raise SystemExit(f"error: README.md shows {', '.join(IN_README)}, and not all of it was measured")
    below = [*(limit.said() for limit in limits.values()), in_words(about)]
    for name, rows, columns, more in [
        ("docs/speed.md", of_model, [0, 1, 2, 3, 4, 5, 7, 8], below),
        ("README.md", few, [0, 1, 2, 3, 4, 7], []),
    ]:
        cells = [row(measured) for measured in rows]
        table = markdown([HEADER[c] for c in columns], [[of_row[c] for c in columns] for of_row in cells])
        put(name, "compare", [table, *more])


def put(name: str, mark: str, parts: list[str]) -> None:
    """Puts paragraphs between two marks of a document."""
    path, start, end = CHECKOUT / name, f"<!-- {mark}: start -->", f"<!-- {mark}: end -->"
    text = path.read_text(encoding="utf-8")
    if text.count(start) != 1 or text.count(end) != 1:
        raise SystemExit(f"error: {name} must have {start} and {end} once each")
    before, rest = text.split(start)
    after = rest.split(end)[1]
    between = "\n\n".join(parts)
    path.write_text(f"{before}{start}\n{between}\n{end}{after}", encoding="utf-8")
