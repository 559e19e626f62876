"""Make built-in-sentiment.json: what transformers makes of the built-in classifier, in float32.

    python built_in_sentiment.py

The ids and logits of held-out reviews, and the logits of pairs of them in one filled batch.
"""

import json
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

HERE = Path(__file__).parent
FOLDER = HERE.parent.parent / "assets" / "built-in-sentiment"


def main():
    torch.set_grad_enabled(False)
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    model = AutoModelForSequenceClassification.from_pretrained(FOLDER, dtype=torch.float32).eval()
    lines = (FOLDER / "held_out.tsv").read_text().splitlines()
    texts = [line.split("\t")[2] for line in lines][::9] + ["The plot wasn't [MASK]!", "Ein xyz, not bad"]
    each = []
    for text in texts:
        ids = tokenizer(text, return_tensors="pt")
        logits = [round(float(logit), 6) for logit in model(**ids).logits[0]]
        each.append({"text": text, "ids": ids["input_ids"][0].tolist(), "logits": logits})
    pairs = tokenizer(texts[:-1], texts[1:], return_tensors="pt", padding=True)
    logits = [round(float(logit), 6) for logit in model(**pairs).logits.flatten()]
    lines = ",\n".join(json.dumps(entry) for entry in each)
    (HERE / "built-in-sentiment.json").write_text(f'{{"texts": [\n{lines}\n],\n"pairs": {logits}}}\n')


if __name__ == "__main__":
    main()
