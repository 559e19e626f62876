"""What the classes of transformers make of one vocab.json and merges.txt, which do not say how text is cut.

python tests/golden/byte_level.py   # writes tests/golden/byte_level.json
"""

import json
import pathlib
import tempfile

import tokenizers
import transformers
from tokenizers import pre_tokenizers, trainers

TEXT = """IT'S don't we'll they've call(foo) and .bar = (x) -> [y];
1234567 12 345 6789 a1b22c333   spaces    and\ttabs\n\n  new lines\r\n\r\nplain words then more plain words then
caf\u00e9 na\u00efve cafe\u0301 \u65e5\u672c\u8a9e !!! ?! ... --- it's IT'S 's 'll
"""

CASES = [
    "call(foo) and .bar",
    "IT'S x=1234\n\n it's",
    "cafe\u0301",
    "plain words then",
    "  plain   words",
    "12345 6789",
    "x\r\n\r\ny",
    "!!!\n\nwords",
    "<|endoftext|>then",
    "<|im_start|>plain<|im_end|>",
]

# What tokenizer_config.json says, and of what family the model is.
KINDS = {
    "gpt2": ("GPT2Tokenizer", "gpt2", {}),
    "gpt2, fast": ("GPT2Tokenizer", "gpt2", {"tokenizer_class": "GPT2TokenizerFast"}),
    "gpt2 with a space before": (
        "GPT2Tokenizer",
        "gpt2",
        {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": True},
    ),
    "gpt_neo": ("GPT2Tokenizer", "gpt_neo", {}),
    "gptj": ("GPT2Tokenizer", "gptj", {}),
    "gpt_neox": ("GPTNeoXTokenizer", "gpt_neox", {}),
    "qwen2": ("Qwen2Tokenizer", "qwen2", {}),
    "qwen3": ("Qwen2Tokenizer", "qwen3", {}),
    "llama that says whose": ("GPT2Tokenizer", "llama", {"tokenizer_class": "GPT2Tokenizer"}),
    "qwen2 with tokens added": (
        "Qwen2Tokenizer",
        "qwen2",
        {
            "tokenizer_class": "Qwen2Tokenizer",
            "eos_token": "<|im_end|>",
            "added_tokens_decoder": {
                str(id): {
                    "content": content,
                    "lstrip": False,
                    "normalized": False,
                    "rstrip": False,
                    "single_word": False,
                    "special": True,
                }
                for id, content in [(370, "<|im_start|>"), (371, "<|im_end|>")]
            },
        },
    ),
}


def main() -> None:
    trained = tokenizers.Tokenizer(tokenizers.models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=370,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    trained.train_from_iterator([TEXT] * 8, trainer)
    model = json.loads(trained.to_str())["model"]
    assert len(model["vocab"]) == 370, len(model["vocab"])
    merges = "\n".join(["#version: 0.2", *(" ".join(pair) for pair in model["merges"])]) + "\n"
    kinds = {}
    for name, (cls, family, config) in KINDS.items():
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder)
            (path / "vocab.json").write_text(json.dumps(model["vocab"]), encoding="utf-8")
            (path / "merges.txt").write_text(merges, encoding="utf-8")
            (path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
            tokenizer = getattr(transformers, cls).from_pretrained(folder)
            cases = [{"text": text, "ids": tokenizer(text, add_special_tokens=False)["input_ids"]} for text in CASES]
        kinds[name] = {"family": family, "config": config, "cases": cases}
    golden = {
        "transformers": transformers.__version__,
        "vocab": model["vocab"],
        "merges": merges,
        "kinds": kinds,
    }
    path = pathlib.Path(__file__).with_suffix(".json")
    path.write_text(json.dumps(golden, ensure_ascii=False) + "\n", encoding="utf-8")


main()
