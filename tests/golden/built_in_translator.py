"""Make built-in-translator.json: what transformers makes of the built-in translator, in float32.

    python built_in_translator.py

The ids and logits of held-out pairs, and what is written of their sources, greedily and with four beams.
"""

import json
from pathlib import Path

import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

HERE = Path(__file__).parent
FOLDER = HERE.parent.parent / "assets" / "built-in-translator"


def main():
    torch.set_grad_enabled(False)
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    model = AutoModelForSeq2SeqLM.from_pretrained(FOLDER, dtype=torch.float32).eval()
    lines = [line.split("\t") for line in (FOLDER / "held_out.tsv").read_text().splitlines()][::11]
    each = []
    for source, target, *_ in lines:
        ids, labels = tokenizer(source, return_tensors="pt")["input_ids"], tokenizer(target, return_tensors="pt")["input_ids"]
        logits = model(input_ids=ids, labels=labels, use_cache=False).logits[0]
        largest, at = logits.max(-1)
        written = [model.generate(input_ids=ids, num_beams=beams, do_sample=False)[0].tolist()[1:] for beams in (1, 4)]
        each.append({
            "source": source, "target": target, "ids": ids[0].tolist(), "labels": labels[0].tolist(), "largest": at.tolist(),
            "logits": [round(float(value), 5) for value in largest], "mean": round(float(logits.mean()), 6),
            "greedy": written[0], "beams": written[1],
        })  # fmt: skip
    lines = ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in each)
    (HERE / "built-in-translator.json").write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()
