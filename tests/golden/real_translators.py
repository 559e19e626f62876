"""Make real_translators.json: what transformers makes of the two encoder-decoders that tests/real/translators.py writes.

    python real_translators.py FOLDER

Of each source: what is written greedily, its mean log-probability, and logits where it is read. Marian's sources are cut by sentencepiece, as the folder
has no tokenizer.json.
"""

import json
import sys
from pathlib import Path

import sentencepiece
import torch
from transformers import AutoModelForSeq2SeqLM, PreTrainedTokenizerFast

HERE = Path(__file__).parent
SOURCES = {
    "marian": [
        "我喜欢在图书馆看书。",
        "今天天气很好,我们去公园散步吧。",
        "中国的首都是北京。",
        "这本书是我妹妹去年在上海买的。",
    ],
    "t5": [
        "translate English to German: The house is wonderful.",
        "translate German to English: Das Haus ist wunderbar.",
        "Is this review positive or negative? Review: This movie was terrible.",
    ],
}
# The columns of the logits that are kept: the likeliest, and some in a row.
LIKELIEST, FIRST = 5, 20


def reader(folder):
    """What cuts a source into ids, and what writes ids as text."""
    if (folder / "tokenizer.json").exists():
        tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
        return (lambda text: tokenizer(text).input_ids), (lambda ids: tokenizer.decode(ids, skip_special_tokens=True))
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "source.spm"))
    ids = json.loads((folder / "vocab.json").read_text())
    texts = {index: piece for piece, index in ids.items()}
    cut = lambda text: [ids.get(piece, ids["<unk>"]) for piece in pieces.encode(text, out_type=str)] + [ids["</s>"]]  # noqa: E731
    return cut, lambda written: "".join(texts[index] for index in written if index != ids["</s>"]).replace("▁", " ").strip()


def main():
    torch.set_grad_enabled(False)
    torch.set_num_threads(1)
    golden = {}
    for name, sources in SOURCES.items():
        folder = Path(sys.argv[1]) / name
        model, cases = AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32).eval(), []
        cut, said = reader(folder)
        for source in sources:
            ids = torch.tensor([cut(source)])
            written = model.generate(ids, num_beams=1, do_sample=False, max_new_tokens=60)[0]
            logits = model(input_ids=ids, decoder_input_ids=written[None, :-1]).logits[0]
            target = written[1:]
            log_probs = logits.double().log_softmax(-1).gather(1, target[:, None])
            likeliest = logits[-1].topk(LIKELIEST)
            cases.append({
                "source": source, "source_ids": ids[0].tolist(), "target": said(target.tolist()), "ids": target.tolist(),
                "log_prob": log_probs.mean().item(), "top_ids": likeliest.indices.tolist(),
                "top_logits": likeliest.values.tolist(), "first_logits": logits[:, :FIRST].tolist(),
            })
        golden[name] = cases
    (HERE / "real_translators.json").write_text(json.dumps(golden, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
