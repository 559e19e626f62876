"""Make sentiment.json: what transformers makes of two real encoders (`tests/real/sentiment.py` fetches them), in float32.

    python sentiment.py target/sentiment

Of all-MiniLM-L6-v2 the ids and the mean of the last states of some texts, of the classifier their logits and those of pairs in one
filled batch, and how many of the snippets that were held out it has right.
"""

import argparse
import json
from pathlib import Path

import torch
import transformers
from transformers import AutoTokenizer, BertForSequenceClassification, BertModel

TEXTS = [
    "This is an example sentence", "Each sentence is converted", "A delightful, funny and moving film.", "This movie was terrible.",
    "The plot is dull and the acting is wooden.", "Not bad at all.", "It is not good.",
    "The camera takes sharp pictures and the battery lasts for days.", "I can't say that I didn't like it, but...",
    "Café Zürich: 日本語 — 3.14!", "x", "The last 20 minutes are somewhat redeeming, but most of the movie is the same " * 8,
]  # fmt: skip


def rounded(tensor):
    return [round(float(value), 7) for value in tensor.flatten()]


def right_of(model, tokenizer, rows):
    rows = sorted(rows, key=lambda row: len(row[1]))
    right = clear = of_clear = 0
    for start in range(0, len(rows), 50):
        part = rows[start : start + 50]
        logits = model(**tokenizer([text for _, text in part], return_tensors="pt", padding=True)).logits
        for (rating, _), verdict in zip(part, logits.argmax(-1).tolist()):
            right += verdict == int(rating > 0)
            clear += abs(rating) > 1
            of_clear += abs(rating) > 1 and verdict == int(rating > 0)
    return {"of": len(rows), "right": right, "clear": clear, "right_of_clear": of_clear}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    torch.set_grad_enabled(False)
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(folder / "minilm")
    minilm = BertModel.from_pretrained(folder / "minilm").eval()
    classifier = BertForSequenceClassification.from_pretrained(folder / "sentiment").eval()
    found = []
    for text in TEXTS:
        ids = tokenizer(text, return_tensors="pt")
        out = minilm(**ids)
        found.append({
            "text": text, "ids": ids["input_ids"][0].tolist(), "mean": rounded(out.last_hidden_state[0].mean(0)[:8]),
            "pooled": rounded(out.pooler_output[0, :8]), "logits": rounded(classifier(**ids).logits[0]),
        })  # fmt: skip
    pairs = list(zip(TEXTS[:-1], TEXTS[1:]))
    batch = tokenizer([a for a, _ in pairs], [b for _, b in pairs], return_tensors="pt", padding=True)
    rows = [line.rstrip("\n").split("\t", 1) for line in open(folder / "held_out.tsv", encoding="utf-8")]
    rows = [(float(rating), text) for rating, text in rows]
    golden = {
        "made_by": f"transformers {transformers.__version__}", "texts": found, "pairs": rounded(classifier(**batch).logits),
        "held_out": right_of(classifier, tokenizer, rows),
    }  # fmt: skip
    (Path(__file__).parent / "sentiment.json").write_text(json.dumps(golden, indent=1) + "\n")
    print(golden["held_out"])


if __name__ == "__main__":
    main()
