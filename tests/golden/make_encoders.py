"""Make the goldens of encoders, and of decoders that tell classes: random models, and what transformers' modules make of an input.

    python make_encoders.py [--into FOLDER]

FOLDER/NAME gets config.json, model.safetensors and golden.safetensors, all in float32: `ids` and `types` of one input with the
activations under TransformerLens's names (HookedEncoder's meaning: what attention adds before it is added, sums before their norms),
and `batch.ids`, `batch.mask` of three inputs of several lengths with what they are read out by, `batch.out`. `grad` is the gradient of
the first number read out (of a masked token, of the last position's first logit) with respect to the embeddings of words; `ig` are
captum's integrated gradients of the first class, 50 steps from the token that fills, for each token.
"""

import argparse
from pathlib import Path

import torch
import transformers
from captum.attr import LayerIntegratedGradients
from safetensors.torch import save_file
from transformers import (
    BertConfig, BertForMaskedLM, BertForNextSentencePrediction, BertForSequenceClassification, BertModel, DistilBertConfig,
    DistilBertForMaskedLM, DistilBertForSequenceClassification, DistilBertModel, GPT2Config, GPT2ForSequenceClassification,
    LlamaConfig, LlamaForSequenceClassification, RobertaConfig, RobertaForMaskedLM, RobertaForSequenceClassification,
)  # fmt: skip

SEED = 99
VOCAB = 48
PAD = {"bert": 0, "roberta": 1, "distilbert": 0, "gpt2": 47, "llama": 47}
LENGTHS = (12, 7, 9)

BERT = dict(
    hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40, max_position_embeddings=32, hidden_act="gelu",
)
DISTIL = dict(dim=24, n_layers=2, n_heads=3, hidden_dim=40, max_position_embeddings=32)
LABELS = dict(id2label={0: "bad", 1: "so-so", 2: "good"}, label2id={"bad": 0, "so-so": 1, "good": 2})

MODELS = {
    "bert-masked": (BertForMaskedLM, BertConfig, BERT),
    "bert-classes": (BertForSequenceClassification, BertConfig, BERT | LABELS),
    "bert-several": (BertForSequenceClassification, BertConfig, BERT | LABELS | dict(problem_type="multi_label_classification")),
    "bert-next": (BertForNextSentencePrediction, BertConfig, BERT),
    "bert-bare": (BertModel, BertConfig, BERT | dict(hidden_act="gelu_new")),
    "roberta-masked": (RobertaForMaskedLM, RobertaConfig, BERT | dict(max_position_embeddings=34, type_vocab_size=1)),
    "roberta-classes": (RobertaForSequenceClassification, RobertaConfig, BERT | LABELS | dict(type_vocab_size=1)),
    "distilbert-masked": (DistilBertForMaskedLM, DistilBertConfig, DISTIL),
    "distilbert-classes": (DistilBertForSequenceClassification, DistilBertConfig, DISTIL | LABELS),
    "distilbert-bare": (DistilBertModel, DistilBertConfig, DISTIL),
    "gpt2-classes": (GPT2ForSequenceClassification, GPT2Config, LABELS | dict(n_embd=24, n_layer=2, n_head=3, n_positions=32)),
    "llama-classes": (LlamaForSequenceClassification, LlamaConfig, LABELS | dict(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=3, num_key_value_heads=1, intermediate_size=40,
        max_position_embeddings=32,
    )),
}  # fmt: skip


def spread(name):
    if "norm" in name.lower() or "ln_" in name:
        return 0.3
    if "embed" in name or "wte" in name or "wpe" in name:
        return 0.5
    return 0.2 if "bias" in name else 0.3


def make(name):
    kind, config, settings = MODELS[name]
    torch.manual_seed(SEED)
    model = kind(config(vocab_size=VOCAB, pad_token_id=PAD[config.model_type], **settings))
    for weight_name, weight in model.named_parameters():
        norm = weight_name.endswith("weight") and ("norm" in weight_name.lower() or "ln_" in weight_name)
        weight.data = spread(weight_name) * torch.randn_like(weight) + (1 if norm else 0)
    model.config._attn_implementation = "eager"
    return model.eval()


def inputs(model):
    drawn = torch.Generator().manual_seed(SEED)
    pad = model.config.pad_token_id
    batch = torch.randint(2, VOCAB - 1, (len(LENGTHS), max(LENGTHS)), generator=drawn)
    mask = torch.zeros_like(batch)
    for row, length in enumerate(LENGTHS):
        mask[row, :length] = 1
        batch[row, length:] = pad
    return batch, mask


class Seen:
    """Keeps what goes into modules and comes out of them."""

    def __init__(self, model):
        self.of = {}
        self.handles = [module.register_forward_hook(self.keep(name)) for name, module in model.named_modules()]

    def keep(self, name):
        def hook(module, given, made):
            first = lambda value: value[0] if isinstance(value, tuple) else value
            self.of[name] = (first(given) if given else None, first(made))

        return hook

    def into(self, name):
        return self.of[name][0][0]

    def out(self, name):
        return self.of[name][1][0]


def normed(x, eps):
    """What a norm divides by, and what it makes before its gain and bias."""
    centred = x - x.mean(-1, keepdim=True)
    scale = (centred.pow(2).mean(-1, keepdim=True) + eps).sqrt()
    return scale, centred / scale


NAMES = {
    "bert": dict(
        embeddings="embeddings", layer="encoder.layer.{}", query="attention.self.query", key="attention.self.key",
        value="attention.self.value", attn_out="attention.output.dense", ln1="attention.output.LayerNorm",
        pre="intermediate.dense", mlp_out="output.dense", ln2="output.LayerNorm",
    ),
    "distilbert": dict(
        embeddings="embeddings", layer="transformer.layer.{}", query="attention.q_lin", key="attention.k_lin",
        value="attention.v_lin", attn_out="attention.out_lin", ln1="sa_layer_norm", pre="ffn.lin1", mlp_out="ffn.lin2",
        ln2="output_layer_norm",
    ),
}  # fmt: skip
NAMES["roberta"] = NAMES["bert"]


def hooks(model, seen, attentions):
    """The activations of the one input."""
    family = model.config.model_type
    names = NAMES[family]
    stack = "" if type(model).__name__ in ("BertModel", "DistilBertModel") else family + "."
    eps = getattr(model.config, "layer_norm_eps", 1e-12)
    heads, all_hooks = model.config.num_attention_heads, {}
    embeddings = stack + names["embeddings"]
    put = all_hooks.__setitem__
    put("hook_embed", seen.out(f"{embeddings}.word_embeddings"))
    put("hook_pos_embed", seen.out(f"{embeddings}.position_embeddings").expand_as(all_hooks["hook_embed"]))
    if family != "distilbert":
        put("hook_token_type_embed", seen.out(f"{embeddings}.token_type_embeddings"))
    scale, normalized = normed(seen.into(f"{embeddings}.LayerNorm"), eps)
    put("embed.ln.hook_scale", scale)
    put("embed.ln.hook_normalized", normalized)
    put("hook_full_embed", seen.out(f"{embeddings}.LayerNorm"))
    split = lambda x: x.reshape(x.shape[0], heads, -1)
    for layer in range(model.config.num_hidden_layers):
        block = stack + names["layer"].format(layer)
        of = lambda part: f"{block}.{names[part]}"
        hook = lambda name, value: put(f"blocks.{layer}.{name}", value)
        pre = seen.into(of("query"))
        hook("hook_resid_pre", pre)
        for name in ("q", "k", "v"):
            hook(f"hook_{name}_input", pre.unsqueeze(1).expand(-1, heads, -1))
        q, k, v = (split(seen.out(of(part))) for part in ("query", "key", "value"))
        hook("attn.hook_q", q)
        hook("attn.hook_k", k)
        hook("attn.hook_v", v)
        hook("attn.hook_attn_scores", torch.einsum("qhd,khd->hqk", q, k) / q.shape[-1] ** 0.5)
        hook("attn.hook_pattern", attentions[layer][0])
        z = split(seen.into(of("attn_out")))
        hook("attn.hook_z", z)
        w_o = model.get_submodule(of("attn_out")).weight.T.reshape(heads, z.shape[-1], -1)
        hook("attn.hook_result", torch.einsum("phd,hdm->phm", z, w_o))
        hook("hook_attn_out", seen.out(of("attn_out")))
        hook("hook_resid_mid", pre + seen.out(of("attn_out")))
        for norm, total in (("ln1", pre + seen.out(of("attn_out"))), ("ln2", seen.into(of("pre")) + seen.out(of("mlp_out")))):
            scale, normalized = normed(total, eps)
            hook(f"{norm}.hook_scale", scale)
            hook(f"{norm}.hook_normalized", normalized)
        hook("hook_mlp_in", seen.into(of("pre")))
        hook("mlp.hook_pre", seen.out(of("pre")))
        hook("mlp.hook_post", seen.into(of("mlp_out")))
        hook("hook_mlp_out", seen.out(of("mlp_out")))
        hook("hook_resid_post", seen.into(of("pre")) + seen.out(of("mlp_out")))
        hook("hook_normalized_resid_post", seen.out(of("ln2")))
    head = {
        "bert": ("cls.predictions.transform.LayerNorm", "cls.predictions.decoder"), "roberta": ("lm_head.layer_norm", "lm_head.decoder"),
        "distilbert": ("vocab_layer_norm", "vocab_projector"),
    }[family]  # fmt: skip
    if head[1] in seen.of:
        scale, normalized = normed(seen.into(head[0]), eps)
        put("mlm_head.ln.hook_scale", scale)
        put("mlm_head.ln.hook_normalized", normalized)
        put("unembed.hook_in", seen.into(head[1]))
        put("unembed.hook_out", seen.out(head[1]))
    if "pooler.activation" in seen.of or f"{stack}pooler.activation" in seen.of:
        put("pooler.hook_pooler_out", seen.out(f"{stack}pooler.activation"))
    classes = {"roberta": "classifier.out_proj"}.get(family, "cls.seq_relationship" if "cls.seq_relationship" in seen.of else "classifier")
    if classes in seen.of and "hook_pooler_out" not in str(seen.of.get(classes)):
        put("pooler.hook_pooler_out", seen.into(classes))
        put("classifier.hook_out", seen.out(classes))
    return all_hooks


def read_out(output):
    """What a model is read out by."""
    for name in ("logits", "pooler_output", "last_hidden_state"):
        if getattr(output, name, None) is not None:
            return getattr(output, name)
    raise ValueError("nothing is read out")


def write(name, folder):
    model = make(name)
    model.save_pretrained(folder)
    for beside in folder.glob("generation_config.json"):
        beside.unlink()
    batch, mask = inputs(model)
    ids = batch[:1]
    types = torch.zeros_like(ids)
    if model.config.model_type == "bert":
        types[:, 5:] = 1
    told = {"token_type_ids": types} if model.config.model_type == "bert" else {}
    seen = Seen(model)
    embedding = model.get_input_embeddings()
    words = {}
    grab = embedding.register_forward_hook(lambda module, given, made: words.update(made=made.detach().requires_grad_()) or words["made"])
    output = model(input_ids=ids, output_attentions=True, **told)
    grab.remove()
    first = read_out(output)[0]
    first = first if first.dim() == 1 else first[-1]
    (gradient,) = torch.autograd.grad(first[0], words["made"], retain_graph=True)
    golden = {"ids": ids[0].to(torch.uint32), "types": types[0].to(torch.uint32), "out": read_out(output)[0], "grad": gradient[0]}
    if model.config.model_type in NAMES:
        golden |= {f"hooks.{hook}": value for hook, value in hooks(model, seen, output.attentions).items()}
    if read_out(output).shape == (1, 3):
        told = dict(told, attention_mask=torch.ones_like(ids))
        integrated = LayerIntegratedGradients(lambda ids: model(input_ids=ids, **told).logits, embedding)
        internal = dict(internal_batch_size=1)
        baseline = torch.full_like(ids, model.config.pad_token_id)
        golden["ig"] = integrated.attribute(ids, baselines=baseline, target=0, n_steps=50, **internal)[0].sum(-1)
    golden["batch.ids"], golden["batch.mask"] = batch.to(torch.uint32), mask.to(torch.uint32)
    golden["batch.out"] = read_out(model(input_ids=batch, attention_mask=mask))
    save_file({key: value.detach().contiguous().clone() for key, value in golden.items()}, folder / "golden.safetensors")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--into", type=Path, default=Path(__file__).parent / "encoders", metavar="FOLDER")
    arguments = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    for name in MODELS:
        write(name, arguments.into / name)
    print(f"wrote {len(MODELS)} models into {arguments.into}")


if __name__ == "__main__":
    main()
