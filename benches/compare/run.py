#!/usr/bin/env python3
"""headlight beside TransformerLens and Hugging Face's transformers: the same work, the same model, in turn.

    python3 benches/compare/run.py [--rounds 5] [--only PATTERN] [--model gpt2-small] [--json FILE] [--documents]

Makes its own Python environment in target/compare/venv, builds headlight's side, makes or fetches the models, sees that
both sides find the same, and only then measures. See benches/compare/README.md.
"""

import argparse
import os
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[1]
TARGET = CHECKOUT / "target" / "compare"
READY = "HEADLIGHT_COMPARE_READY"


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="how often each side does each work [default: 5]")
    parser.add_argument("--threads", type=int, default=2, help="for both sides [default: 2]")
    parser.add_argument("--only", metavar="PATTERN", help="works whose name matches this regular expression")
    parser.add_argument("--model", help="some of gpt2-small, built-in and smollm2 (or of bert and distilbert), with commas between")
    parser.add_argument("--list", action="store_true", help="say what would be measured, and stop")
    parser.add_argument("--check", action="store_true", help="see only whether both sides find the same")
    parser.add_argument("--json", type=Path, metavar="FILE", help="[default: target/compare/result.json, classifier.json]")
    parser.add_argument("--documents", action="store_true", help="put the table into docs/speed.md, and GPT-2 small's into README.md")
    parser.add_argument("--classifier", action="store_true", help="measure encoders that tell classes instead (classifier.py)")
    parser.add_argument("--growth", action="store_true", help="measure how headlight grows instead (growth.py)")
    parser.add_argument("--stored", action="store_true", help="measure models as their files have them instead (stored.py)")
    parser.add_argument("--beside", type=Path, metavar="DRIVER", help="with --stored: the `compare` of an earlier headlight too")
    parser.add_argument("--python", metavar="PATH", help="a Python that has the requirements already")
    arguments = parser.parse_args()
    if arguments.rounds < 1 or arguments.threads < 1:
        parser.error("--rounds and --threads are at least 1")
    return arguments


def prepared_python(given: str | None, of: str) -> str:
    """The Python of an environment with the requirements, which is made where there is none."""
    if given:
        return str(Path(given).absolute())
    folder, requirements = TARGET / f"venv{of}", HERE / f"requirements{of}.txt"
    python, installed = folder / "bin" / "python", folder / "installed.txt"
    wanted = requirements.read_text()
    if not installed.exists() or installed.read_text() != wanted:
        print(f"making a Python environment in {folder}", file=sys.stderr)
        venv.create(folder, with_pip=True, clear=True)
        install = [str(python), "-m", "pip", "install", "--quiet", "-r", str(requirements)]
        subprocess.run(install, check=True)
        installed.write_text(wanted)
    return str(python)


def main() -> None:
    arguments = options()
    if READY not in os.environ:
        python = prepared_python(arguments.python, "-classifier" if arguments.classifier else "")
        os.execve(python, [python, *sys.argv], os.environ | {READY: "1", "HF_HUB_OFFLINE": "1"})
    build = ["cargo", "build", "--release", "--locked", "--example", "compare"]
    if subprocess.run(build, cwd=CHECKOUT).returncode != 0:
        sys.exit("error: headlight's side could not be built")
    # What needs the environment.
    import classifier
    import compare
    import growth
    import stored
    from worker import Failed

    try:
        if arguments.stored:
            sys.exit(stored.measure(arguments, compare.DRIVER))
        if arguments.growth:
            sys.exit(growth.measure(arguments))
        sys.exit(compare.measure(arguments, classifier.SUITE if arguments.classifier else compare.SUITE))
    except Failed as error:
        sys.exit(f"\nerror: {error}")


if __name__ == "__main__":
    main()
