"""The notebooks of the project: as they are committed, and run as a reader would who opens all solutions."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from cells import NAME

FOLDER = Path(__file__).resolve().parents[3] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
PLOTLY = "application/vnd.plotly.v1+json"
# What makes a long notebook short.
SHORT = {"04_phase_change": {"steps": "40"}}
SOLUTION = re.compile(r"<details>\s*<summary>Solution</summary>\s*```rust\n(.*?)```.*?</details>", re.DOTALL)

each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells_of(notebook, kind):
    return [cell for cell in notebook.cells if cell.cell_type == kind]


def solutions_of(notebook):
    return [code for cell in cells_of(notebook, "markdown") for code in SOLUTION.findall(cell.source)]


def test_there_are_seven():
    assert [path.stem[:2] for path in NOTEBOOKS] == ["00", "01", "02", "03", "04", "05", "06"]


@each
def test_it_is_of_the_common_form(path):
    assert path.stat().st_size < 2_000_000
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "headlight"
    code = cells_of(notebook, "code")
    assert len(code) <= 30
    assert all(len(cell.source.splitlines()) <= 25 for cell in code), "what is longer belongs in the crate"
    assert [cell for cell in code if "parameters" in cell.metadata.get("tags", [])] == [code[1]]
    assert code[0].source.splitlines()[1:] == [
        '// :dep headlight = { path = "..", default-features = false }',
        "// use headlight::prelude::*;",
    ]
    assert any("assert" in cell.source for cell in code), "a notebook states what it claims"
    last = notebook.cells[-1].source
    assert "## Exercises" in last and len(solutions_of(notebook)) >= 3
    for cell in cells_of(notebook, "markdown"):
        for link in re.findall(r"\]\(([^)#:]+)[^):]*\)", cell.source):
            assert (FOLDER / link).exists(), f"{link} is not there"


@each
def test_it_is_committed_as_it_ran(path):
    notebook = nbformat.read(path, as_version=4)
    code = cells_of(notebook, "code")
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    pictures = [output.data for output in outputs if PLOTLY in output.get("data", {})]
    assert len(pictures) >= 5 and all("image/png" in data for data in pictures)
    # Numbers that are rounded do not change with the last bits of a sum.
    for data in pictures:
        matrices = [trace["z"] for trace in data[PLOTLY]["data"] if "z" in trace]
        values = [value for matrix in matrices for row in matrix for value in row if value is not None]
        assert all(value == float(f"{value:.4g}") for value in values), "a number is not rounded"


@each
def test_it_runs_and_so_do_its_solutions(path):
    notebook = nbformat.read(path, as_version=4)
    parameters = cells_of(notebook, "code")[1]
    for name, value in SHORT.get(path.stem, {}).items():
        parameters.source, found = re.subn(rf"(let {name}\b[^=]*=) \w+;", rf"\1 {value};", parameters.source)
        assert found == 1
    notebook.cells += [nbformat.v4.new_code_cell(code) for code in solutions_of(notebook)]
    # An error in a cell is raised here.
    NotebookClient(
        notebook, timeout=600, kernel_name=NAME, resources={"metadata": {"path": str(FOLDER)}}
    ).execute()
