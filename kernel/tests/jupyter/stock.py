"""A notebook in evcxr's own kernel: its first cell without the comment signs, the rest as it is.

    python kernel/tests/jupyter/stock.py [--evcxr PATH] [NOTEBOOK]

Without --evcxr, cargo installs evcxr_jupyter in target/stock, which takes minutes; so does the first cell, for which evcxr
builds the crate. What it builds is kept in target/stock as well.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

CHECKOUT = Path(__file__).resolve().parents[3]
STOCK = CHECKOUT / "target/stock"
VERSION = "0.22.0"


def install():
    program = STOCK / "bin/evcxr_jupyter"
    if not program.exists():
        subprocess.run(
            ["cargo", "install", "evcxr_jupyter", "--version", VERSION, "--locked", "--root", STOCK], check=True
        )
    return program


def has_picture(cell):
    return any("image/png" in output.get("data", {}) for output in cell.get("outputs", []))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--evcxr", type=Path, help="evcxr_jupyter, if it is there")
    parser.add_argument("notebook", type=Path, nargs="?", default=CHECKOUT / "notebooks/00_first_look.ipynb")
    arguments = parser.parse_args()
    program = arguments.evcxr or install()

    notebook = nbformat.read(arguments.notebook, as_version=4)
    # Cells that show figures as they are committed, by their places.
    expected = [place for place, cell in enumerate(notebook.cells) if has_picture(cell)]
    first = next(cell for cell in notebook.cells if cell.cell_type == "code")
    first.source = "\n".join(line.removeprefix("// ") for line in first.source.splitlines()[1:])

    build = STOCK / "evcxr"
    build.mkdir(parents=True, exist_ok=True)
    kernels = STOCK / "jupyter/kernels/stock"
    kernels.mkdir(parents=True, exist_ok=True)
    argv = [str(program), "--control_file", "{connection_file}"]
    spec = {"argv": argv, "display_name": "Rust", "language": "rust", "env": {"EVCXR_TMPDIR": str(build)}}
    (kernels / "kernel.json").write_text(json.dumps(spec))
    os.environ["JUPYTER_PATH"] = str(STOCK / "jupyter")

    begun = time.monotonic()
    folder = {"metadata": {"path": str(arguments.notebook.resolve().parent)}}
    client = NotebookClient(notebook, timeout=1800, kernel_name="stock", resources=folder)
    # evcxr's own kernel goes on after an error and calls it text; nothing but its output tells.
    client.execute()
    outputs = [(cell, output) for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = [place for place, cell in enumerate(notebook.cells) if has_picture(cell)]
    lacking = [place for place in expected if place not in pictures]
    wrong = [
        (cell, output)
        for cell, output in outputs
        if output.output_type == "error"
        or (output.get("name") == "stderr" and ("panicked" in output.text or "rror" in output.text))
    ]
    seconds = time.monotonic() - begun
    print(f"{arguments.notebook.name}: figures in {len(pictures)} cells, of {len(expected)}, in {seconds:.0f} s")
    for place in lacking:
        print(f"\nno figure:\n{notebook.cells[place].source}", file=sys.stderr)
    for cell, output in wrong:
        print(f"\n{cell.source}\n\n{output.get('evalue') or output.get('text')}", file=sys.stderr)
    sys.exit(1 if wrong or lacking or not expected else 0)


if __name__ == "__main__":
    main()
