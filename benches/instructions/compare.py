"""Counts the instructions of the workloads in main.rs and compares them with counts.json. README.md says what for.

    python3 benches/instructions/compare.py             # fails where a count is away from the recorded one
    python3 benches/instructions/compare.py --record    # writes what is found to counts.json
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[1]
COUNTS = HERE / "counts.json"
PROFILES = CHECKOUT / "target" / "instructions"
# Percent. README.md gives the reason.
TOLERANCE = 3.0


def fail(error, help):
    sys.exit(f"error: {error}\nhelp: {help}")


def build():
    """The program that runs a workload."""
    command = ["cargo", "build", "--release", "--locked", "--bench", "instructions", "--message-format=json-render-diagnostics"]
    built = subprocess.run(command, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True)
    if built.returncode:
        fail("the workloads do not build", "the compiler's message is above")
    messages = map(json.loads, built.stdout.splitlines())
    return next(
        message["executable"] for message in messages
        if message["reason"] == "compiler-artifact" and message["target"]["name"] == "instructions"
    )


def count(program, workload):
    """The instruction set that the workload saw, and how many instructions it took."""
    profile = PROFILES / f"{workload}.out"
    profile.unlink(missing_ok=True)
    env = dict(os.environ, RAYON_NUM_THREADS="1")
    # `rep stosb` is an instruction for each byte under Valgrind, and the C library uses it on some processors only.
    env["GLIBC_TUNABLES"] = "glibc.cpu.hwcaps=-ERMS"
    done = subprocess.run(
        ["valgrind", "--tool=callgrind", f"--callgrind-out-file={profile}", "--toggle-collect=instructions::measured",
         program, workload],
        cwd=CHECKOUT, env=env, capture_output=True, text=True,
    )
    collected = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode or not collected:
        fail(f"the workload {workload!r} ended with status {done.returncode} under Valgrind:\n{done.stderr}",
             f"run it by itself: {program} {workload}")
    if int(collected[1]) == 0:
        fail(f"nothing of {workload!r} was counted: Valgrind found no function `instructions::measured`",
             "main.rs must have it, not inlined, and the program its symbols")
    return done.stdout.strip(), int(collected[1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--record", action="store_true", help="write what is found to counts.json")
    arguments = parser.parse_args()
    if not shutil.which("valgrind"):
        fail("valgrind is not installed", "see environment.md")
    program = build()
    PROFILES.mkdir(parents=True, exist_ok=True)
    workloads = subprocess.run([program], capture_output=True, text=True, check=True).stdout.split()
    found = {}
    for workload in workloads:
        instruction_set, found[workload] = count(program, workload)

    recorded = json.loads(COUNTS.read_text()) if COUNTS.exists() else {}
    before = recorded.get(instruction_set, {})
    print(f"instructions with {instruction_set}:")
    away = []
    for workload, now in found.items():
        was = before.get(workload)
        percent = 100 * (now - was) / was if was else None
        print(f"  {workload:8} {now:>13,}" + ("" if was is None else f"  {percent:+.2f} % of {was:,}"))
        if was is not None and abs(percent) > TOLERANCE:
            away.append((workload, was, now, percent))

    if arguments.record:
        recorded[instruction_set] = found
        COUNTS.write_text(json.dumps(recorded, indent=4, sort_keys=True) + "\n")
        return print(f"written to {COUNTS.relative_to(CHECKOUT)}")
    if not before:
        known = ", ".join(repr(name) for name in recorded) or "none"
        return print(f"NOTE: nothing was compared: counts.json has no counts for {instruction_set!r}, but for {known}.\n"
                     "help: add them with `--record`, from a commit that passes elsewhere")
    if before.keys() != found.keys():
        fail(f"counts.json has counts of {', '.join(before)}, but the workloads are {', '.join(found)}",
             f"record them: python3 {HERE.relative_to(CHECKOUT)}/compare.py --record")
    for workload, was, now, percent in away:
        more = "more" if percent > 0 else "fewer"
        print(f"error: `{workload}` takes {now:,} instructions, {abs(percent):.1f} % {more} than the {was:,} recorded; "
              f"{TOLERANCE:g} % is allowed", file=sys.stderr)
    if away:
        fail("the counts are not those of counts.json",
             "`callgrind_annotate target/instructions/WORKLOAD.out` says where they are spent, here and at the commit before;\n"
             f"what is meant to be, gains too, is recorded: python3 {HERE.relative_to(CHECKOUT)}/compare.py --record, "
             "with the reason in the commit's message")


if __name__ == "__main__":
    main()
