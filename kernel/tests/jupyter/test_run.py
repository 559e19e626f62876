"""Notebooks that run without Jupyter, read with Jupyter's own reader afterwards."""

import json
import re
import resource
import subprocess

import nbformat
import pytest

from cells import PROGRAM


def notebook(*cells):
    """A notebook of code cells: a source, or a source and its tags."""
    sources = [(cell, []) if isinstance(cell, str) else cell for cell in cells]
    made = [nbformat.v4.new_code_cell(source, metadata={"tags": tags} if tags else {}) for source, tags in sources]
    return nbformat.v4.new_notebook(cells=made)


def run(folder, given, *arguments, stdin=subprocess.DEVNULL):
    """Runs a notebook; the ended process, and the notebook as it was written."""
    path = folder / "given.ipynb"
    nbformat.write(given, path)
    command = [PROGRAM, "run", str(path), "--out", str(folder / "out"), *arguments]
    ended = subprocess.run(command, stdin=stdin, capture_output=True, text=True, timeout=300)
    written = nbformat.read(folder / "out" / "given.ipynb", as_version=nbformat.NO_CONVERT)
    nbformat.validate(written)
    return ended, written


def results(written):
    """The text of each cell's last output."""
    last = lambda cell: cell.outputs[-1] if cell.outputs else {}
    text = lambda output: output.get("data", {}).get("text/plain") or output.get("text") or output.get("ename")
    return [text(last(cell)) for cell in written.cells]


def test_nobody_waits_for_standard_input(tmp_path):
    read = 'let mut line = String::new();\nlet n = std::io::stdin().read_line(&mut line)?;\n(n, line)'
    given = notebook("let keep = 7;", read, 'std::process::Command::new("cat").status()?.success()', "keep")
    for stdin in (subprocess.DEVNULL, subprocess.PIPE):
        # A pipe that nobody writes to and nobody closes.
        ended = subprocess.Popen(["sleep", "300"], stdout=subprocess.PIPE) if stdin == subprocess.PIPE else None
        try:
            done, written = run(tmp_path, given, "--timeout", "60", stdin=ended.stdout if ended else stdin)
        finally:
            if ended:
                ended.kill()
        assert done.returncode == 0, done.stderr
        assert results(written) == [None, '(0, "")', "true", "7"]


def test_an_endless_loop_that_prints_ends_in_a_small_notebook(tmp_path):
    given = notebook('loop { println!("{}", "y".repeat(100)); }')
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    ended, written = run(tmp_path, given, "--timeout", "3")
    assert ended.returncode == 1 and "timeout" in ended.stderr
    text, error = written.cells[0].outputs
    first, missing, last = re.split(r"\[… ([\d.]+) MB of text left out here …\]\n", text.text)
    assert {len(line) for line in (first + last).splitlines()} == {100}
    for end in (first, last):
        assert 900_000 < len(end) <= 1 << 20
    assert float(missing) > 1
    # The kernel itself and the compiler, but not what was printed.
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    assert max(before, peak) < 1_500_000, f"{peak} KB"


def test_tags_mean_what_they_mean_to_nbclient(tmp_path):
    given = notebook(
        "let a = 1;",
        ('panic!("never");', ["skip-execution"]),
        ('panic!("told");', ["raises-exception"]),
        "a",
    )
    given.cells[1].outputs = [nbformat.v4.new_output("stream", name="stdout", text="from before\n")]
    given.cells[1].execution_count = 9
    given.cells[3].outputs = [nbformat.v4.new_output("stream", name="stdout", text="from before\n")]
    ended, written = run(tmp_path, given)
    assert ended.returncode == 0, ended.stderr
    assert results(written) == [None, "from before\n", "panic", "1"]
    assert [cell.execution_count for cell in written.cells] == [1, 9, 2, 3]


def test_what_a_cell_took_with_it_is_told(tmp_path):
    given = notebook("let v = vec![1, 2, 3]; let n = 7;", 'let moved = v; panic!("after a move")', "n", "v")
    ended, written = run(tmp_path, given, "--allow-errors")
    assert ended.returncode == 0, ended.stderr
    told = "\n".join(written.cells[1].outputs[-1].traceback)
    assert "`v` is gone" in told and "The variables of earlier cells are kept." not in told
    assert results(written)[2:] == ["7", "error[E0425]"]
