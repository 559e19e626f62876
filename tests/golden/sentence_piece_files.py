"""Make sentence-piece-files/: small SentencePiece models as T5 and Marian publish theirs, and how hard texts are cut by them.

    python sentence_piece_files.py [--into FOLDER]

t5/ has spiece.model, t5-bytes/ one with pieces for bytes and no normaliser, marian/ has source.spm, target.spm, vocab.json and
tokenizer_config.json, marian-apart/ a target_vocab.json too. cases.json has for each text what SentencePiece cuts it into and, of Marian's, what
transformers' MarianTokenizer does, and the text of those ids; for T5's those texts with special tokens are by its T5Tokenizer.
"""

import argparse
import json
import shutil
from pathlib import Path

import sentencepiece
import transformers
from sentencepiece.sentencepiece_model_pb2 import ModelProto
from transformers import MarianTokenizer, T5Tokenizer

HERE = Path(__file__).parent
ENGLISH = (
    "the white cat does not see the pretty houses .|we have found the old keys, and the new ones too!|"
    "She said: \"I don't know what it is.\"|A frog can't sing; it croaks.|Ⅳ ﬁve ½ naïve café 東京 Ｆｕｌｌ ｗｉｄｔｈ|1,234.50 euros"
).split("|")
FRENCH = (
    "le chat blanc ne voit pas les jolies maisons .|nous avons trouvé les vieilles clés, et les nouvelles aussi !|"
    "Elle a dit : « je ne sais pas ce que c'est. »|Une grenouille ne chante pas ; elle coasse.|Où est l'élève ? À l'école, bien sûr…|œuvre"
).split("|")

TEXTS = [
    "", " ", "  ", "the white cat", " the white cat", "the  white   cat", "the white cat ", "the\twhite\ncat", "the\u00a0cat", "the\u3000cat",
    "▁the cat", "the▁cat", "▁", "Ｔｈｅ ｃａｔ", "ﬁve", "½", "Ⅳ", "naïve", "nai\u0308ve", "cafe\u0301", "CAFÉ", "東京", "東 京", "日本語", "ｶﾞ", "가",
    "\u1100\u1161", "👩\u200d👩\u200d👧", "🙂", "a\u200bb", "\ufeffthe", "the\u0000cat", "a\u00adb", "…", "« oui »", "don't", "l'élève", "e\u0301le\u0300ve", "İ", "ß", "ĳ", "㎏",
    "x" * 50, "1,234.50", "zzzz qqqq", "<unk>", "</s>", "the </s> cat", "<pad> cat", "\r\nthe", "the cat\u2028sat", "ｱ ｲ", "\u0301", "a\u0301\u0302\u0303",
]  # fmt: skip
OF_MARIAN = [
    ">>fra<< the white cat", ">>fra<<the cat", " >>fra<< the cat", "the >>fra<< cat", ">>xyz<< the cat", ">>fra<<", ">>fra<< >>deu<< cat", ">> the <<",
    ">>fra", "<<",
]  # fmt: skip
OF_T5 = ["<extra_id_0> cat", "the <extra_id_99>", "the<extra_id_0>cat", "<extra_id_100>"]


def train(into, lines, size, **more):
    corpus = into.with_suffix(".txt")
    corpus.write_text("\n".join(lines * 20))
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus), model_prefix=str(into), vocab_size=size, hard_vocab_limit=False, character_coverage=1.0, minloglevel=2, **more
    )
    corpus.unlink()
    into.with_suffix(".vocab").unlink()
    # Where it was trained is nobody's business.
    file = into.with_suffix(".model")
    model = ModelProto.FromString(file.read_bytes())
    for name in ("input", "model_prefix"):
        model.trainer_spec.ClearField(name)
    file.write_bytes(model.SerializeToString())
    return sentencepiece.SentencePieceProcessor(model_file=str(into.with_suffix(".model")))


def pieces(model):
    return [model.id_to_piece(index) for index in range(model.get_piece_size())]


def marian(into, apart):
    into.mkdir(parents=True, exist_ok=True)
    # What normalises fills most of such a file: one folder has it.
    more = {"normalization_rule_name": "identity"} if apart else {}
    source = train(into / "source", ENGLISH, 130, bos_id=-1, eos_id=0, unk_id=1, **more)
    target = train(into / "target", FRENCH, 140, bos_id=-1, eos_id=0, unk_id=1, **more)
    for name in ("source", "target"):
        (into / f"{name}.model").rename(into / f"{name}.spm")
    # Some pieces of either language are in no vocabulary, as in those that are published.
    kept = lambda model: [piece for index, piece in enumerate(pieces(model)) if index < 2 or index % 17]
    ids = lambda names: {name: index for index, name in enumerate(dict.fromkeys(names))}
    marks = [">>fra<<", ">>deu<<"]
    config = {"source_lang": "en", "target_lang": "fr", "model_max_length": 512, "separate_vocabs": apart}
    if apart:
        vocab = ids([*kept(source), *marks, "<pad>"])
        (into / "target_vocab.json").write_text(json.dumps(ids([*kept(target), "<pad>"]), ensure_ascii=False))
    else:
        vocab = ids([*kept(source), *kept(target), *marks, "<pad>"])
    (into / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False))
    (into / "tokenizer_config.json").write_text(json.dumps(config))
    more = {"target_vocab_file": str(into / "target_vocab.json")} if apart else {}
    tokenizer = MarianTokenizer(
        source_spm=str(into / "source.spm"), target_spm=str(into / "target.spm"), vocab=str(into / "vocab.json"),
        separate_vocabs=apart, **more,
    )  # fmt: skip
    for text in TEXTS + OF_MARIAN:
        source_ids = tokenizer(text).input_ids
        target_ids = tokenizer(text_target=text).input_ids
        tokenizer._switch_to_target_mode()
        written = tokenizer.decode(target_ids, skip_special_tokens=True)
        tokenizer._switch_to_input_mode()
        yield {"text": text, "source": source_ids, "target": target_ids, "written": written}


def t5(into, **more):
    into.mkdir(parents=True, exist_ok=True)
    model = train(into / "spiece", ENGLISH + FRENCH, 400, bos_id=-1, pad_id=0, eos_id=1, unk_id=2, **more)
    tokenizer = T5Tokenizer.from_pretrained(str(into))
    special = ["<pad>", "</s>", "<unk>", *(f"<extra_id_{index}>" for index in range(100))]
    for text in TEXTS + OF_T5:
        ids = tokenizer(text).input_ids if any(token in text for token in special) else [*model.encode(text), 1]
        yield {"text": text, "ids": ids, "written": model.decode([id for id in ids if 2 < id < model.get_piece_size()])}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--into", type=Path, default=HERE / "sentence-piece-files", metavar="FOLDER")
    into = parser.parse_args().into
    transformers.utils.logging.set_verbosity_error()
    shutil.rmtree(into, ignore_errors=True)
    cases = {
        "marian": list(marian(into / "marian", False)),
        "marian-apart": list(marian(into / "marian-apart", True)),
        "t5": list(t5(into / "t5")),
        "t5-bytes": list(t5(into / "t5-bytes", byte_fallback=True, normalization_rule_name="identity")),
    }
    for name in ("t5", "t5-bytes"):
        for path in (into / name).iterdir():
            if path.name == "spiece.model":
                continue
            path.unlink()
    lines = ",\n".join(f"{json.dumps(name)}: [\n" + ",\n".join(map(json.dumps, rows)) + "\n]" for name, rows in cases.items())
    (into / "cases.json").write_text(f"{{\n{lines}\n}}\n")
    print(f"wrote {sum(map(len, cases.values()))} cases into {into}")


if __name__ == "__main__":
    main()
