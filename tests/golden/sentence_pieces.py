"""Pieces of a small SentencePiece BPE and how SentencePiece cuts texts with them, runs of spaces above all.

python tests/golden/sentence_pieces.py   # writes tests/golden/sentence_pieces.json
"""

import io
import json
import pathlib
import random

import sentencepiece

TEXT = """the cat sat on the mat and the dog sat on the log
if x == 10 { return the_cat(x); } else { return the_dog(y); }
for i in 0..100 { println!("{i}"); }
----------------  ==============  ................  ________________
| name | value | what it means |
a quick brown fox jumps over a lazy dog, a quick brown fox jumps over a lazy dog
"""

CASES = [
    "",
    "the cat",
    " the cat",
    "the  cat   sat    on     the      mat",
    "\n\n\tthe\tcat",
    "    return the_cat(x);\n        return the_dog(y);",
    "-----------------------------------",
    "|   |    |     |      |       |",
    "caf\u00e9 \u65e5\u672c \U0001f600",
    "\u2581\u2581the",
    "the ",
    "the     ",
] + [f"{' ' * n}x{' ' * (n + 1)}y" for n in range(1, 40)]


def main() -> None:
    draw = random.Random(0)
    lines = [line for line in TEXT.splitlines() for _ in range(40)]
    indented = [" " * draw.randrange(0, 33) + line.replace(" ", " " * draw.choice([1, 1, 2, 3, 5])) for line in lines]
    model = io.BytesIO()
    # As Llama's was made: no normalisation, a space before a text, runs of spaces kept, bytes for what is in no piece.
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(indented),
        model_writer=model,
        model_type="bpe",
        vocab_size=512,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        split_digits=True,
        minloglevel=2,
    )
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    kinds = [
        2 if pieces.is_unknown(i) else 3 if pieces.is_control(i) else 6 if pieces.is_byte(i) else 1
        for i in range(len(pieces))
    ]
    golden = {
        "sentencepiece": sentencepiece.__version__,
        "tokens": [pieces.id_to_piece(i) for i in range(len(pieces))],
        "kinds": kinds,
        "scores": [pieces.get_score(i) for i in range(len(pieces))],
        "cases": [{"text": text, "ids": pieces.encode(text)} for text in CASES],
    }
    path = pathlib.Path(__file__).with_suffix(".json")
    path.write_text(json.dumps(golden, ensure_ascii=False) + "\n", encoding="utf-8")


main()
