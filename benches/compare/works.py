"""What is measured, what is aimed at, and how near results must be."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from models import Model

LENS, HF = "transformer_lens", "transformers"
# TransformerLens from 4 on, which wraps transformers' modules.
BRIDGE = "transformer_bridge"
SAID = {LENS: "TransformerLens", HF: "transformers", BRIDGE: "TransformerLens"}

Request = dict[str, Any]
MB = 1_000_000


@dataclass(frozen=True)
class Tolerance:
    """How far two numbers may be apart: a share of the largest number of their array, and something besides."""

    share: float
    besides: float = 0.0


# Sums of some thousand f32 products, through up to 30 layers, in another order: a few units in the sixth digit.
ACTIVATIONS = Tolerance(2e-5)
# Differences of f32 losses and logits, of about 10 nats, each right to about 1e-6.
EFFECTS = Tolerance(1e-4, besides=5e-6)
# f64 against f32.
WEIGHTS = Tolerance(2e-5)
# Shares of the vocabulary: a few tokens' logits may be as good as equal.
SHARES = Tolerance(0.0, besides=1e-4)
EXACT = Tolerance(0.0)


@dataclass(frozen=True)
class Work:
    """One piece of work, and how many times faster it shall be."""

    name: str
    request: Callable[[Model], Request | None]
    """What both are asked for; nothing where the model is too small for it."""
    tolerance: Tolerance = ACTIVATIONS
    peers: tuple[str, ...] = (LENS,)
    models: tuple[str, ...] = ("gpt2-small", "built-in")
    aim: float | None = None
    """How many times faster than TransformerLens on GPT-2 small, on two threads."""
    memory_aim: int | None = None
    """Bytes at most above the loaded model, on GPT-2 small."""
    cold: bool = False
    """A process of its own each time, from its start to its end."""
    until: str | None = None
    """What a run makes last, where it is a forward pass of enough rows: the multiplications until there are its floor."""
    note: str = ""


def floored(until: str, rows: int) -> str | None:
    """With fewer rows it matters how a product is shared among threads, and what one library takes is no floor."""
    return until if rows >= 256 else None


EVERYWHERE = ("gpt2-small", "built-in", "smollm2")


def tokens(model: Model, length: int, batch: int = 1, seed: int = 1) -> list[list[int]] | None:
    """Random ids, the same each time; none of them the last, which ends a text."""
    if length > model.context:
        return None
    draw = random.Random(seed)
    return [[draw.randrange(2, model.vocabulary - 1) for _ in range(length)] for _ in range(batch)]


def on_tokens(work: str, length: int, batch: int = 1, **more: Any) -> Callable[[Model], Request | None]:
    def request(model: Model) -> Request | None:
        ids = tokens(model, length, batch)
        return None if ids is None else {"work": work, "ids": ids, **more}

    return request


def on_pair(length: int) -> Callable[[Model], Request | None]:
    """Two inputs that differ in one token of three."""

    def request(model: Model) -> Request | None:
        clean, other = tokens(model, length), tokens(model, length, seed=2)
        if clean is None or other is None:
            return None
        corrupted = [b if index % 3 == 1 else a for index, (a, b) in enumerate(zip(clean[0], other[0], strict=True))]
        return {"work": "patching", "clean": clean, "ids": [corrupted], **LOGIT_DIFFERENCE}

    return request


def prompts(model: Model) -> Request:
    """A hundred prompts of 25 to 39 tokens, each the first special token and a block said twice, by length."""
    draw = random.Random(3)
    lengths = [12 + index % 8 for index in range(100)]
    batches: dict[int, list[list[int]]] = {}
    first = 0 if model.name == "built-in" else model.vocabulary - 1
    for length in lengths:
        block = draw.sample(range(2, model.vocabulary - 1), length)
        batches.setdefault(length, []).append([first, *block, *block])
    return {"work": "many_prompts", "batches": list(batches.values())}


LOGIT_DIFFERENCE = {"metric": "logit_diff", "correct": 7, "incorrect": 11}
REPEATED = {"length": 50, "batch": 10}
EQUAL_SWEEP = "both without each head, MLP, layer's attention and layer: 180 variants"

WORKS = [
    Work("start to first figure", on_tokens("figure", 20, layer=1), aim=8, cold=True),
    Work(
        "load",
        on_tokens("load", 16, folded=False),
        peers=(LENS, HF),
        models=EVERYWHERE,
        aim=10,
        note="transformers only maps a safetensors file, and reads a weight when it is first used",
    ),
    Work("load, folded", on_tokens("load", 16, folded=True), models=EVERYWHERE, aim=10),
    *(
        Work(
            f"forward, {length} tokens",
            on_tokens("forward", length),
            peers=(LENS, HF),
            models=EVERYWHERE,
            until=floored("logits", length),
        )
        for length in (64, 256, 1024)
    ),
    *(
        Work(
            f"run_with_cache, {length} tokens",
            on_tokens("run_with_cache", length, keep="everything"),
            models=EVERYWHERE if length < 1024 else ("gpt2-small",),
            aim=aim,
            memory_aim=memory,
            until=floored("logits", length),
        )
        for length, aim, memory in ((10, None, None), (64, 1.6, None), (256, 1.6, None), (1024, 1.6, 2200 * MB))
    ),
    Work("run_with_cache, 8 x 64 tokens", on_tokens("run_with_cache", 64, 8, keep="everything"), until="logits"),
    *(
        Work(
            f"run_with_cache without logits, {length} tokens",
            on_tokens("run_with_cache", length, keep="before the logits"),
            aim=2,
            until=floored("blocks", length),
        )
        for length in (64, 256)
    ),
    Work(
        "patterns only, 256 tokens",
        on_tokens("run_with_cache", 256, keep="patterns"),
        peers=(LENS, HF),
        models=EVERYWHERE,
        aim=2.3,
        until="patterns",
        note="transformers runs all layers to their end, with eager attention",
    ),
    Work("induction scores, 10 x 101 tokens", lambda model: {"work": "induction_scores", **REPEATED}),
    Work("patterns of 100 prompts, induction read", prompts),
    Work(
        "zero ablation by loss, 50 tokens",
        on_tokens("ablation", 50, metric="loss"),
        tolerance=EFFECTS,
        aim=3.5,
        note=EQUAL_SWEEP,
    ),
    Work(
        "zero ablation by logit difference, 50 tokens",
        on_tokens("ablation", 50, **LOGIT_DIFFERENCE),
        tolerance=EFFECTS,
        aim=6,
        note=EQUAL_SWEEP,
    ),
    Work("patching resid_pre, 24 tokens", on_pair(24), tolerance=EFFECTS, aim=4, note="each layer and position"),
    Work(
        "K-composition of all heads", lambda model: {"work": "composition"}, tolerance=WEIGHTS, aim=15, memory_aim=200 * MB
    ),
    Work("OV singular values of all heads", lambda model: {"work": "singular_values"}, tolerance=WEIGHTS),
    Work("copying accuracy of two heads", lambda model: {"work": "copying"}, tolerance=SHARES),
    Work(
        "generate 64 tokens",
        on_tokens("generate", 20, new=64),
        tolerance=EXACT,
        peers=(LENS, HF),
        models=EVERYWHERE,
        aim=1.5,
    ),
]


@dataclass
class Measured:
    """What was found of one piece of work beside one peer."""

    work: Work
    model: str
    peer: str
    apart: dict[str, float] = field(default_factory=dict)
    """For each array, its largest difference as a share of its tolerance."""
    furthest: dict[str, float] = field(default_factory=dict)
    """For each array, its largest difference as it is."""
    theirs: list[float] = field(default_factory=list)
    ours: list[float] = field(default_factory=list)
    their_cpu: list[float] = field(default_factory=list)
    our_cpu: list[float] = field(default_factory=list)
    floor: list[float] = field(default_factory=list)
    """Seconds of the multiplications alone that a forward pass cannot do without, on headlight's means."""
    their_peak: int = 0
    our_peak: int = 0
