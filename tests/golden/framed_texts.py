"""Make framed_texts.json: how transformers' tokenizers of BERT and RoBERTa cut and frame texts, from files of before `tokenizer.json`.

    python framed_texts.py

A WordPiece and a byte-level BPE of a few hundred pieces are trained here on the texts below; the file has their vocab.txt, vocab.json and
merges.txt, and for each setting of tokenizer_config.json every text's ids and types, alone and in a pair with the next one.
"""

import json
import tempfile
from pathlib import Path

import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import BertTokenizer, RobertaTokenizer

HERE = Path(__file__).parent
TEXTS = [
    "The film was not bad at all.", "Unbelievable! A café in Zürich, naïve résumé.", "don't stop; it's John's",
    "hello    world\tand\nnew lines", "  leading and trailing  ", "UPPER lower MiXeD", "日本語と中文 mixed with English",
    "emoji 🙂 and 👩‍👩‍👧 family", "numbers 3.14159 and 1,000,000", "a" * 120, "soft\u00adhyphen zero\u200bwidth nb\u00a0space",
    "e\u0301 combined, é composed", "control \x07 bell", "[MASK] is the [SEP] of [CLS]", "The capital of <mask> is</s> Paris.",
    "x", "...", "ﬁne ligature Ⅷ", "İstanbul ß ẞ", "snake_case and kebab-case and CamelCase", "tab\there", "mid[MASK]dle", "mid <mask>dle",
    "very very very very very good, but too long", "“quotes” — dashes – and…", "\ufeffmark of byte order", "한국어 텍스트",
]  # fmt: skip
# As RoBERTa's own files say it: it takes the space before it along.
MASK = {"content": "<mask>", "lstrip": True, "normalized": True, "rstrip": False, "single_word": False}
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def word_piece():
    trained = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    trained.normalizer = normalizers.BertNormalizer(lowercase=False)
    trained.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    lower = [text.lower() for text in TEXTS]
    trained.train_from_iterator(TEXTS + lower, trainers.WordPieceTrainer(vocab_size=420, special_tokens=SPECIAL, show_progress=False))
    return [piece for piece, _ in sorted(trained.get_vocab().items(), key=lambda item: item[1])]


def byte_level():
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    trained.train_from_iterator(TEXTS, trainer)
    model = json.loads(trained.to_str())["model"]
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    return model["vocab"], merges


def told(config):
    """What a class is told in Python of what its files say."""
    return {key: AddedToken(**value) if isinstance(value, dict) else value for key, value in config.items()}


def cases(tokenizer):
    for index, text in enumerate(TEXTS):
        second = TEXTS[(index + 1) % len(TEXTS)]
        alone, pair = tokenizer(text, return_token_type_ids=True), tokenizer(text, second, return_token_type_ids=True)
        yield {
            "text": text, "ids": alone["input_ids"], "second": second, "pair": pair["input_ids"], "types": pair["token_type_ids"],
            "bare": tokenizer(text, add_special_tokens=False)["input_ids"],
        }  # fmt: skip


def main():
    pieces, (vocab, merges) = word_piece(), byte_level()
    settings = [
        {}, {"do_lower_case": False}, {"do_lower_case": True, "strip_accents": False}, {"do_lower_case": False, "strip_accents": True},
        {"tokenize_chinese_chars": False},
    ]  # fmt: skip
    found = {"made_by": f"transformers {transformers.__version__}", "texts": TEXTS, "vocab.txt": pieces, "vocab.json": vocab, "merges.txt": merges}
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / "vocab.txt").write_text("".join(piece + "\n" for piece in pieces))
        (folder / "vocab.json").write_text(json.dumps(vocab))
        (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(pair + "\n" for pair in merges))
        found["bert"] = [
            {"config": one, "cases": list(cases(BertTokenizer(vocab=str(folder / "vocab.txt"), **one)))} for one in settings
        ]
        found["roberta"] = [
            {"config": one, "cases": list(cases(RobertaTokenizer(vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"), **told(one))))}
            for one in ({}, {"add_prefix_space": True}, {"mask_token": MASK})
        ]
    (HERE / "framed_texts.json").write_text(json.dumps(found, ensure_ascii=True, separators=(",", ":")) + "\n")
    print(f"wrote {len(TEXTS)} texts of {len(settings) + 3} settings")


if __name__ == "__main__":
    main()
