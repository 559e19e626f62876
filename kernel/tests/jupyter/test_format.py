"""Notebook files against Jupyter's own reader: what it takes as valid is read, and what is not run is kept."""

import copy
import json
import subprocess
from pathlib import Path

import nbformat
import pytest
from nbformat.validator import isvalid

from cells import PROGRAM

# What the program sets in each notebook that it writes.
SET = ("kernelspec", "language_info")
# Faults that Jupyter repairs as it reads, and so must we; the rest of a cell stays.
REPAIRED = {"no id", "an id twice", "an id with a space", "no outputs", "no count"}


def is_valid(notebook):
    """As Jupyter's schema has it, without the repairs that Jupyter makes as it reads."""
    try:
        return isvalid(copy.deepcopy(notebook))
    except (TypeError, KeyError, ImportError):
        return False


def schema(minor):
    return json.loads((Path(nbformat.v4.__file__).parent / f"nbformat.v4.{minor}.schema.json").read_text())


def deref(node, root):
    while "$ref" in node:
        found = root
        for part in node["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        node = found
    return node


def values(node, root, deep=3):
    """Valid values of a part of the schema, of each of its alternatives."""
    node = deref(node, root)
    if "oneOf" in node:
        return [value for part in node["oneOf"] for value in values(part, root, deep)]
    if "enum" in node:
        return node["enum"]
    kind = node.get("type", "object")
    if isinstance(kind, list):
        return [value for one in kind for value in values({**node, "type": one}, root, deep)]
    if kind == "object":
        return objects(node, root, deep)
    if kind == "array":
        items = values(node["items"], root, deep) if "items" in node else []
        return [[], items[:1], *([items] if len(items) > 1 and not node.get("uniqueItems") else [])]
    return {
        "string": ["a"] if node.get("pattern") else ["a", "é\r\nb\n\x0cc"],
        "integer": [max(1, node.get("minimum", 0)), node.get("minimum", 0)],
        "boolean": [True, False],
        "null": [None],
    }[kind]


def objects(node, root, deep):
    """The least object, and for each field and each of its values one that has it."""
    fields = node.get("properties", {})
    required = node.get("required", [])
    least = {name: values(fields[name], root, deep)[0] for name in required}
    found = [least]
    if deep == 0:
        return found
    for name, field in fields.items():
        found += [{**least, name: value} for value in values(field, root, deep - 1) if least.get(name, field) != value]
    extra = node.get("additionalProperties", True)
    if extra is True and "patternProperties" not in node:
        found.append({**least, "unknown": {"deep": [1, None, 0.5, "x"]}})
    elif isinstance(extra, dict):
        found += [{**least, "text/plain": value} for value in values(extra, root, deep - 1)]
    for pattern, field in node.get("patternProperties", {}).items():
        if "json" in pattern:
            found += [{**least, "application/json": any} for any in ({"a": [1]}, ["a", "b"], 1, None)]
        else:
            found += [{**least, "a b.png": value} for value in values(field, root, deep - 1)]
    return found


def notebooks(minor):
    """Valid notebooks of a format, which between them have every field and every alternative."""
    root = schema(minor)
    cells = [cell for kind in ("raw", "markdown", "code") for cell in values(root["definitions"][f"{kind}_cell"], root, 5)]
    for number, cell in enumerate(cells):
        if minor >= 5:
            cell["id"] = f"cell_{number}"
        if cell["cell_type"] == "code":
            # So that it is kept as it is.
            cell["metadata"] = {**cell["metadata"], "tags": [*cell["metadata"].get("tags", []), "skip-execution"]}
    whole = lambda cells, metadata: {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": minor}
    return [whole(cells, {}), *(whole([], metadata) for metadata in values(root["properties"]["metadata"], root))]


def run(folder, given):
    """What the program makes of notebooks in a run of each: the text written, or what it says."""
    for number, one in enumerate(given):
        (folder / f"{number}.ipynb").write_text(one if isinstance(one, str) else json.dumps(one))
    out = folder / "out"
    files = [str(folder / f"{number}.ipynb") for number in range(len(given))]
    done = []
    for number, file in enumerate(files):
        ended = subprocess.run([PROGRAM, "run", file, "--out", str(out)], capture_output=True, text=True, timeout=60)
        written = out / f"{number}.ipynb"
        done.append(nbformat.read(written, as_version=nbformat.NO_CONVERT) if ended.returncode == 0 else ended.stderr)
        assert "panicked" not in ended.stderr
    return done


def same(written, given):
    """Whether all is as it was, but for what the program sets and for the ids that older formats lack."""
    written, given = copy.deepcopy(written), copy.deepcopy(given)
    for notebook in (written, given):
        for name in SET:
            notebook["metadata"].pop(name, None)
        if given["nbformat_minor"] < 5:
            for cell in notebook["cells"]:
                cell.pop("id", None)
    return written["metadata"] == given["metadata"] and written["cells"] == given["cells"]


@pytest.mark.parametrize("minor", range(6))
def test_what_is_valid_is_read_and_kept(tmp_path, minor):
    given = notebooks(minor)
    assert len(given[0]["cells"]) > 50 and len(given) > 8
    for one in given:
        assert is_valid(one), one
    for one, written in zip(given, run(tmp_path, given)):
        assert not isinstance(written, str), f"{json.dumps(one)[:300]}\n{written}"
        assert is_valid(written)
        assert written["nbformat_minor"] == 5
        assert same(written, nbformat.reads(json.dumps(one), as_version=nbformat.NO_CONVERT))


def test_a_later_minor_format_is_read_and_kept(tmp_path):
    given = notebooks(5)[0] | {"nbformat_minor": 6, "new": 1}
    given["cells"].append({"cell_type": "new", "id": "new", "metadata": {}, "anything": [1]})
    given["cells"][-2]["outputs"] = [{"output_type": "new", "anything": 1}]
    assert is_valid(given)
    (written,) = run(tmp_path, [given])
    assert not isinstance(written, str), written
    assert written["nbformat_minor"] == 6 and written["new"] == 1
    assert same(written, nbformat.reads(json.dumps(given), as_version=nbformat.NO_CONVERT))


def faults():
    """Notebooks that are not valid, each with what is wrong in it."""
    cell = lambda **changed: {"cell_type": "code", "id": "a", "metadata": {}, "source": "", "outputs": [], "execution_count": None, **changed}
    without = lambda name: {field: value for field, value in cell().items() if field != name}
    one = lambda *cells, **changed: {"cells": list(cells), "metadata": {}, "nbformat": 4, "nbformat_minor": 5, **changed}
    yield "no id", one(without("id"))
    yield "an id twice", one(cell(), cell())
    yield "an id with a space", one(cell(id="a b"))
    yield "no outputs", one(without("outputs"))
    yield "no count", one(without("execution_count"))
    for field in ("cell_type", "metadata", "source"):
        yield f"no {field}", one(without(field))
        yield f"{field} of another type", one(cell(**{field: 7}))
        yield f"{field} null", one(cell(**{field: None}))
    yield "an unknown kind of cell", one(cell(cell_type="new"))
    yield "a source of numbers", one(cell(source=[1]))
    yield "outputs of another type", one(cell(outputs={}))
    yield "an output of another type", one(cell(outputs=["text"]))
    yield "a count of another type", one(cell(execution_count="1"))
    yield "a count below 0", one(cell(execution_count=-1))
    yield "a cell of another type", one("code")
    yield "cells of another type", one(cells={})
    yield "metadata of another type", one(metadata=[])
    yield "no minor format", {name: value for name, value in one().items() if name != "nbformat_minor"}
    yield "another format", one(nbformat=5)


@pytest.mark.parametrize("fault, given", list(faults()))
def test_what_is_not_valid_is_repaired_or_told(tmp_path, fault, given):
    assert not is_valid(given)
    (written,) = run(tmp_path, [given])
    if fault in REPAIRED:
        assert not isinstance(written, str), written
        assert is_valid(written)
    else:
        assert isinstance(written, str), "it was read"
        assert "damaged" in written or "not a notebook" in written or "has the format" in written, written
        assert "JupyterLab" in written or "not a notebook" in written, "there is no remedy"


def test_a_notebook_of_format_3_is_converted(tmp_path):
    v3 = nbformat.v3
    given = v3.new_notebook(
        metadata=v3.new_metadata(name="old"),
        worksheets=[
            v3.new_worksheet(
                cells=[
                    v3.new_heading_cell("Title", level=2),
                    v3.new_text_cell("markdown", "some *text*"),
                    v3.new_text_cell("raw", "as it is"),
                ]
            )
        ],
    )
    assert is_valid(given)
    (written,) = run(tmp_path, [json.loads(nbformat.writes(given, version=3))])
    assert not isinstance(written, str), written
    assert is_valid(written)
    expected = nbformat.convert(copy.deepcopy(given), 4)
    about = lambda notebook: [(cell["cell_type"], cell["source"]) for cell in notebook["cells"]]
    assert about(written) == about(expected)
