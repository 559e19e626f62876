"""Encoders that tell classes: the models, what is measured of them, and their table.

    python3 benches/compare/run.py --classifier

`compare.py` measures it as it does the rest, beside transformers with captum and beside TransformerLens 4, in an environment of its
own (`requirements-classifier.txt`). Python's side is `theirs_classifier.py`.
"""

import random
import shutil
from pathlib import Path
from typing import Any

import report
import torch
from compare import Suite
from models import SEED, TARGET, Model
from works import BRIDGE, EFFECTS, HF, SAID, Measured, Request, Tolerance, Work, on_tokens

# Tokens of a sentence of a film review, with the two that frame it.
LENGTH = 22
SENTENCES = 100
VOCABULARY = 30522
CONTEXT = 512
# Attention that looks somewhere, and logits that differ.
DEVIATION = 0.05
SIZES = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}


def bert() -> Model:
    from transformers import BertConfig, BertForSequenceClassification

    path = TARGET / "classifier" / "bert"
    make(path, BertForSequenceClassification, BertConfig(vocab_size=VOCABULARY, max_position_embeddings=CONTEXT, **SIZES))
    return Model("bert", "BERT of MiniLM's sizes", path, 6, VOCABULARY, CONTEXT)


def distilbert() -> Model:
    from transformers import DistilBertConfig, DistilBertForSequenceClassification

    path = TARGET / "classifier" / "distilbert"
    make(path, DistilBertForSequenceClassification, DistilBertConfig(vocab_size=VOCABULARY, max_position_embeddings=CONTEXT))
    return Model("distilbert", "DistilBERT's sizes", path, 6, VOCABULARY, CONTEXT, unknown_to=(BRIDGE,))


def make(path: Path, kind: Any, config: Any) -> None:
    """The folder of a classifier of two classes with random weights, unless it is there."""
    if path.exists():
        return
    model = kind(config)
    generator = torch.Generator().manual_seed(SEED)
    for name, weight in model.named_parameters():
        around = 1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0
        weight.data = torch.randn(weight.shape, generator=generator) * DEVIATION + around
    # What is there is whole.
    unfinished = path.with_name(f"{path.name}.part")
    shutil.rmtree(unfinished, ignore_errors=True)
    model.save_pretrained(unfinished)
    unfinished.rename(path)


def sentences(model: Model) -> Request:
    """Of 6 to 44 tokens, 22 in the mean, as sentences of film reviews have."""
    draw = random.Random(3)
    lengths = [round(draw.triangular(6, 44, 16)) for _ in range(SENTENCES)]
    return {"work": "classify", "ids": [[draw.randrange(2, model.vocabulary - 1) for _ in range(length)] for length in lengths]}


DIFFERENCE = {"metric": "class_diff", "class": 1, "instead": 0}
BOTH = (HF, BRIDGE)
EVERYWHERE = ("bert", "distilbert")

WORKS = [
    Work(
        "run_with_cache, 128 tokens",
        on_tokens("run_with_cache", 128, keep="everything"),
        peers=BOTH,
        models=EVERYWHERE,
        note="transformers by a hook on each module, with eager attention for its patterns; it keeps no scores",
    ),
    Work("classify 100 sentences", sentences, peers=BOTH, models=EVERYWHERE, note="sixteen at once, sorted by length"),
    Work(
        f"integrated gradients, 50 steps, {LENGTH} tokens",
        on_tokens("integrated_gradients", LENGTH, steps=50, baseline=0, **DIFFERENCE),
        # Sums of fifty gradients in f32.
        tolerance=Tolerance(1e-4),
        peers=BOTH,
        models=EVERYWHERE,
        note="theirs by captum, all steps at once, which is the fastest there",
    ),
    Work(
        f"zero ablation by class difference, {LENGTH} tokens",
        on_tokens("ablation", LENGTH, **DIFFERENCE),
        tolerance=EFFECTS,
        peers=BOTH,
        models=EVERYWHERE,
        note="all without each head, MLP, layer's attention and layer: 90 variants",
    ),
]

COLUMNS = [0, 1, 2, 3, 4, 7]


def into_documents(found: list[Measured], models: list[Model], _: dict[str, report.Limit], about: dict[str, Any]) -> None:
    said = {model.name: model.said for model in models}
    rows = [[said[measured.model], *(report.row(measured)[column] for column in COLUMNS)] for measured in found]
    for model in models:
        rows += [[model.said, "all of it", SAID[peer], "does not know it", *[""] * (len(COLUMNS) - 3)] for peer in model.unknown_to]
    table = report.markdown(["model", *(report.HEADER[column] for column in COLUMNS)], rows)
    report.put("docs/speed.md", "classifier", [table, report.in_words(about)])


SUITE = Suite(
    {"bert": bert, "distilbert": distilbert},
    WORKS,
    "theirs_classifier.py",
    ("transformer-lens", "torch", "transformers", "captum"),
    "classifier.json",
    into_documents,
)
