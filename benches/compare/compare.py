"""The comparison itself: both sides' processes, the check that they find the same, and the rounds."""

import argparse
import re
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import report
from models import CHECKOUT, MODELS, TARGET, Model
from safetensors import safe_open
from worker import Failed, Used, Worker, run_whole
from works import LENS, SAID, WORKS, Measured, Request, Tolerance, Work, tokens

HERE = Path(__file__).resolve().parent
DRIVER = CHECKOUT / "target" / "release" / "examples" / "compare"
OURS = "headlight"


class Differ(Exception):
    """Two sides found different things, so their times say nothing."""


@dataclass(frozen=True)
class Suite:
    """What is measured together, in one environment of Python."""

    models: dict[str, Callable[[], Model]]
    works: list[Work]
    script: str
    """Python's side."""
    packages: tuple[str, ...]
    """Whose versions are said."""
    result: str
    documents: Callable[[list[Measured], list[Model], dict[str, report.Limit], dict[str, Any]], None]
    """Puts what was found into the project's documents."""


SUITE = Suite(MODELS, WORKS, "theirs.py", report.PACKAGES, "result.json", report.into_documents)


@dataclass
class Sides:
    """The processes of one model, started when they are first needed."""

    model: Model
    threads: int
    script: str

    def __post_init__(self) -> None:
        self.workers: dict[str, Worker] = {}

    def __getitem__(self, side: str) -> Worker:
        if side not in self.workers:
            path = str(self.model.path)
            served = [str(DRIVER), "serve", path]
            command = served if side == OURS else [sys.executable, str(HERE / self.script), side, path]
            said = SAID.get(side, side)
            self.workers[side] = Worker(said, command, self.model.path.parent, self.threads)
        return self.workers[side]

    def close(self) -> None:
        for worker in self.workers.values():
            worker.close()


def measure(arguments: argparse.Namespace, suite: Suite) -> int:
    names = [name for name in arguments.model.split(",") if name] if arguments.model else list(suite.models)
    unknown = [name for name in names if name not in suite.models]
    if unknown:
        print(f"there is no model {', '.join(unknown)}: take of {', '.join(suite.models)}", file=sys.stderr)
        return 2
    chosen = [work for work in suite.works if re.search(arguments.only or "", work.name)]
    if arguments.list:
        for work in chosen:
            print(f"{work.name}  [{', '.join(name for name in work.models if name in names)}]")
        return 0
    found: list[Measured] = []
    limits: dict[str, report.Limit] = {}
    refused = []
    models = [suite.models[name]() for name in names]
    for model in models:
        sides = Sides(model, arguments.threads, suite.script)
        try:
            for work in chosen:
                if model.name not in work.models:
                    continue
                request = work.request(model)
                if request is None:
                    continue
                for peer in work.peers:
                    if peer in model.unknown_to:
                        continue
                    try:
                        found.append(compared(sides, work, peer, request, arguments))
                    except Differ as error:
                        refused.append(str(error))
                        print(f"REFUSED: {error}", file=sys.stderr)
            if model.name == "gpt2-small" and re.search(arguments.only or "", "limit") and not arguments.check:
                limits[model.name] = machine_limit(sides, arguments.rounds)
        finally:
            sides.close()
    if arguments.check:
        print(report.differences(found))
    else:
        about = report.about(arguments, models, suite.packages)
        tables = report.tables(found, limits, about)
        print(tables)
        report.write_json(arguments.json or TARGET / suite.result, found, limits, about)
        if arguments.documents and not refused:
            suite.documents(found, models, limits, about)
    for error in refused:
        print(f"error: not compared: {error}", file=sys.stderr)
    return 1 if refused else 0


def compared(sides: Sides, work: Work, peer: str, request: Request, arguments: argparse.Namespace) -> Measured:
    """The check, and then the rounds, A B A B."""
    said = f"{sides.model.name}: {work.name}, {SAID[peer]}"
    print(f"{said} ...", end="", file=sys.stderr, flush=True)
    measured = Measured(work, sides.model.name, peer)
    if request["work"] == "induction_scores":
        # The tokens are headlight's own, drawn before: drawing them is its work alone.
        request = request | sides[OURS].ask(request | {"work": "repeated_ids"})
    with tempfile.TemporaryDirectory() as folder:
        theirs, ours = Path(folder) / "theirs", Path(folder) / "ours"
        measured.their_peak = check(sides, work, peer, request, theirs)
        measured.our_peak = check(sides, work, OURS, request, ours)
        differences(measured, theirs, ours, said)
    if not arguments.check:
        for _ in range(arguments.rounds):
            for side, seconds, cpu in (
                (peer, measured.theirs, measured.their_cpu),
                (OURS, measured.ours, measured.our_cpu),
            ):
                used = once(sides, work, side, request)
                seconds.append(used.seconds)
                cpu.append(used.cpu)
            if (floor := floor_of(sides, work, request)) is not None:
                measured.floor.append(floor)
        ratios = sorted(a / b for a, b in zip(measured.theirs, measured.ours, strict=True))
        print(f" {statistics.median(ratios):.2f} times", end="", file=sys.stderr)
    print(f" (differences at {max(measured.apart.values()):.0%} of the tolerance)", file=sys.stderr)
    return measured


def check(sides: Sides, work: Work, side: str, request: Request, arrays: Path) -> int:
    """Does the work once, with what it found written to a file, and says the most memory that it took."""
    if work.cold:
        return whole(sides, side, request, arrays).peak
    return sides[side].ask(request | {"arrays": str(arrays)})["peak"]


def once(sides: Sides, work: Work, side: str, request: Request) -> Used:
    return whole(sides, side, request, None) if work.cold else sides[side].measure(request)


def floor_of(sides: Sides, work: Work, request: Request) -> float | None:
    """The multiplications alone, in headlight's process, of a GPT-2's forward pass."""
    if work.until is None or sides.model.name == "smollm2":
        return None
    ids = request["ids"]
    asked = {"work": "floor", "until": work.until, "batch": len(ids), "length": len(ids[0])}
    return sides[OURS].measure(asked).seconds


def whole(sides: Sides, side: str, request: Request, arrays: Path | None) -> Used:
    """A program that opens the model, runs the ids, and writes a figure as a page."""
    page = TARGET / f"figure-{side}.html"
    page.unlink(missing_ok=True)
    program = {
        OURS: [str(DRIVER), "figure", str(sides.model.path)],
        LENS: [sys.executable, str(HERE / "first_figure.py")],
    }[side]
    ids = ",".join(map(str, request["ids"][0]))
    command = [*program, str(request["layer"]), ids, str(page), *([str(arrays)] if arrays else [])]
    used = run_whole(SAID.get(side, side), command, sides.model.path.parent, sides.threads)
    if not page.exists() or page.stat().st_size < 10_000:
        raise Failed(f"{SAID.get(side, side)} wrote no figure")
    return used


def differences(measured: Measured, theirs: Path, ours: Path, said: str) -> None:
    """Compares array by array. HookedTransformer and headlight have the same, others some of it."""
    with safe_open(theirs, "np") as a, safe_open(ours, "np") as b:
        names, our_names = set(a.keys()), set(b.keys())
        if measured.peer != LENS:
            our_names &= names
        if not names or names != our_names:
            raise Differ(f"{said}: only one side has {', '.join(sorted(names ^ our_names)) or 'nothing'}")
        wrong = []
        for name in sorted(names):
            apart, tolerated = distance(a.get_tensor(name), b.get_tensor(name), measured.work.tolerance)
            measured.furthest[name] = apart
            measured.apart[name] = 0.0 if apart == 0 else apart / tolerated if tolerated else float("inf")
            # What is not a number is no nearer than what is too far.
            if not apart <= tolerated:
                wrong.append(f"`{name}` by {apart:.3g}, where {tolerated:.3g} is allowed")
    if wrong:
        raise Differ(f"{said}: {'; '.join(wrong[:5])}{f', and {len(wrong) - 5} more' if len(wrong) > 5 else ''}")


def distance(theirs: np.ndarray, ours: np.ndarray, tolerance: Tolerance) -> tuple[float, float]:
    """The largest difference, and how large it may be. Infinities must stand in the same places."""
    if theirs.size != ours.size or theirs.size == 0:
        return float("inf"), 0.0
    theirs, ours = theirs.ravel().astype(np.float64), ours.ravel().astype(np.float64)
    infinite = np.isinf(theirs) | np.isinf(ours)
    if not np.array_equal(theirs[infinite], ours[infinite]):
        return float("inf"), 0.0
    finite = ~infinite
    if not finite.any():
        return 0.0, 0.0
    largest = float(np.abs(theirs[finite]).max())
    return float(np.abs(theirs[finite] - ours[finite]).max()), tolerance.share * largest + tolerance.besides


def machine_limit(sides: Sides, rounds: int) -> report.Limit:
    request = {"work": "limit", "ids": tokens(sides.model, 256), "rounds": 2 * rounds}
    print("the machine's limit ...", file=sys.stderr)
    ours, torch = sides[OURS].ask(request), sides[LENS].ask(request)
    return report.Limit(ours["multiply_adds"], ours["forward"], ours["multiplied"], torch["multiplied"])
