"""Make the goldens of encoder-decoders: random T5s, a Marian and a BART, and what transformers' modules make of a source and a target.

    python make_translators.py [--into FOLDER]

FOLDER/NAME gets config.json, model.safetensors and golden.safetensors, computed in float64 and kept in float32: `source` and `target` of one
pair (the end included) with every activation under TransformerLens's names, `loss` of each token of the target, and
`batch.source`, `batch.target` with `.lengths` of three pairs of several lengths, the `batch.logits` of their targets. written.json holds
what `generate` writes of the three sources, greedily and with beams, under several settings, with the mean log-probability of each.
"""

import argparse
import json
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from transformers import (
    BartConfig, BartForConditionalGeneration, GenerationConfig, MarianConfig, MarianMTModel, MT5Config, MT5ForConditionalGeneration,
    T5Config, T5ForConditionalGeneration,
)  # fmt: skip

# By these random models write what differs by source, and is not one token again and again.
SEEDS = {"t5": 30, "marian": 59, "bart": 21}
SEED = 20
VOCAB = 40
LENGTHS = ((9, 7), (5, 9), (7, 4))

T5 = dict(d_model=24, d_kv=6, d_ff=40, num_layers=2, num_decoder_layers=3, num_heads=3, relative_attention_num_buckets=8,
          relative_attention_max_distance=7, pad_token_id=0, eos_token_id=1, decoder_start_token_id=0)  # fmt: skip
BART = dict(d_model=24, encoder_layers=2, decoder_layers=3, encoder_attention_heads=3, decoder_attention_heads=4, encoder_ffn_dim=40,
            decoder_ffn_dim=32, max_position_embeddings=20)  # fmt: skip
MARIAN = BART | dict(activation_function="swish", scale_embedding=True, pad_token_id=39, eos_token_id=0, decoder_start_token_id=39,
                     forced_eos_token_id=0)  # fmt: skip

MODELS = {
    "t5": (T5ForConditionalGeneration, T5Config, T5),
    # Version 1.1: gated, an unembedding of its own, logits that are not scaled.
    "t5-gated": (T5ForConditionalGeneration, T5Config, T5 | dict(feed_forward_proj="gated-gelu", tie_word_embeddings=False)),
    "mt5": (MT5ForConditionalGeneration, MT5Config, T5 | dict(num_decoder_layers=2)),
    "marian": (MarianMTModel, MarianConfig, MARIAN),
    "marian-apart": (MarianMTModel, MarianConfig, MARIAN | dict(
        share_encoder_decoder_embeddings=False, decoder_vocab_size=36, pad_token_id=35, decoder_start_token_id=35, scale_embedding=False,
    )),
    "bart": (BartForConditionalGeneration, BartConfig, BART | dict(
        pad_token_id=1, bos_token_id=0, eos_token_id=2, decoder_start_token_id=2, forced_eos_token_id=2,
    )),
}  # fmt: skip

# As generation_config.json says it, and as is asked.
SETTINGS = [
    dict(num_beams=1),
    dict(num_beams=2),
    dict(num_beams=4),
    dict(num_beams=4, length_penalty=2.0),
    dict(num_beams=3, length_penalty=0.0, early_stopping=True),
    dict(num_beams=3, length_penalty=-1.0, early_stopping="never"),
    dict(num_beams=4, early_stopping="never"),
    dict(num_beams=1, no_repeat_ngram_size=2),
    dict(num_beams=3, no_repeat_ngram_size=3, min_length=6),
    dict(num_beams=1, bad_words_ids=[[5], [7, 8], [9]]),
    dict(num_beams=4, bad_words_ids=[[3], [4, 5]], forced_bos_token_id=6),
    dict(num_beams=1, forced_bos_token_id=6),
    dict(num_beams=2, forced_eos_token_id=None),
]


def make(name):
    kind, config, settings = MODELS[name]
    torch.manual_seed(SEEDS.get(name, SEED))
    model = kind(config(vocab_size=VOCAB, **settings))
    seen = set()
    for weight_name, weight in model.named_parameters():
        if weight.data_ptr() in seen or "embed_positions" in weight_name and name.startswith("marian"):
            continue
        seen.add(weight.data_ptr())
        norm = weight_name.endswith("weight") and "norm" in weight_name
        embeds = any(part in weight_name for part in ("embed", "shared", "relative"))
        # What is written must hang on more than the token before: what layers add is large, and biases are small. Were
        # scores large, rounding would grow.
        adds = any(weight_name.endswith(part + ".weight") for part in ("out_proj", "fc2", "wo", ".o"))
        reads = weight_name.endswith((".q.weight", ".q_proj.weight"))
        size = 0.3 if norm else 0.1 if weight.dim() == 1 else 1.0 if embeds else 0.8 if adds else 0.1 if reads else 0.5
        weight.data = size * torch.randn_like(weight) + (1 if norm else 0)
    if name == "t5-gated":  # though all configs of transformers 5 say that it is tied
        model.lm_head.weight = torch.nn.Parameter(0.4 * torch.randn_like(model.lm_head.weight))
    if hasattr(model, "final_logits_bias"):
        model.final_logits_bias += 0.3 * torch.randn_like(model.final_logits_bias)
    model.set_attn_implementation("eager")
    return model.eval()


def pairs(model):
    """Three sources and targets, all of which end."""
    drawn = torch.Generator().manual_seed(SEED)
    config = model.config
    words = min(getattr(config, "decoder_vocab_size", None) or VOCAB, VOCAB) - 1
    draw = lambda length: [*torch.randint(3, words, (length - 1,), generator=drawn).tolist(), config.eos_token_id]
    return [(draw(source), draw(target)) for source, target in LENGTHS]


def filled(rows, pad):
    longest = max(map(len, rows))
    return torch.tensor([row + [pad] * (longest - len(row)) for row in rows])


class Seen:
    """Keeps what goes into modules and comes out of them."""

    def __init__(self, model):
        self.of = {}
        self.handles = [module.register_forward_hook(self.keep(name), with_kwargs=True) for name, module in model.named_modules()]

    def keep(self, name):
        def hook(module, given, named, made):
            first = lambda value: value[0] if isinstance(value, tuple) else value
            self.of[name] = (first(given) if given else named.get("hidden_states"), first(made))

        return hook

    def into(self, name):
        return self.of[name][0][0]

    def out(self, name):
        return self.of[name][1][0]


def normed(x, eps, centres):
    """What a norm divides by, and what it makes before its gain and bias."""
    x = x - x.mean(-1, keepdim=True) if centres else x
    scale = (x.pow(2).mean(-1, keepdim=True) + eps).sqrt()
    return scale, x / scale


class Hooks:
    def __init__(self, model, seen):
        self.model, self.seen, self.all = model, seen, {}
        self.is_t5 = "t5" in model.config.model_type
        self.eps = model.config.layer_norm_epsilon if self.is_t5 else 1e-5

    def put(self, name, value):
        assert name not in self.all, name
        self.all[name] = value

    def norm(self, name, module):
        scale, normalized = normed(self.seen.into(module), self.eps, not self.is_t5)
        self.put(f"{name}.hook_scale", scale)
        self.put(f"{name}.hook_normalized", normalized)

    def attention(self, prefix, attn, module, q_read, source_read, heads, pattern):
        """Attention `prefix.attn` of transformers' `module`, which reads a stream for queries, and another for keys and values."""
        seen, config = self.seen, self.model.config
        ways = ("q", "k", "v", "o") if self.is_t5 else ("q_proj", "k_proj", "v_proj", "out_proj")
        query, key, value, output = (f"{module}.{way}" for way in ways)
        split = lambda x: x.reshape(x.shape[0], heads, -1)
        q, k, v = (split(seen.out(part)) for part in (query, key, value))
        between = "cross_" if attn == "cross_attn" else ""
        for way, read in zip("qkv", (q_read, source_read, source_read)):
            self.put(f"{prefix}.hook_{between}{way}_input", read.unsqueeze(1).expand(-1, heads, -1))
        self.put(f"{prefix}.{attn}.hook_q", q)
        self.put(f"{prefix}.{attn}.hook_k", k)
        self.put(f"{prefix}.{attn}.hook_v", v)
        self.put(f"{prefix}.{attn}.hook_pattern", pattern)
        scores = torch.einsum("qhd,khd->hqk", q, k)
        if not self.is_t5:
            self.put(f"{prefix}.{attn}.hook_attn_scores", scores / q.shape[-1] ** 0.5)
        elif attn == "cross_attn":
            self.put(f"{prefix}.{attn}.hook_attn_scores", scores)
        z = split(seen.into(output))
        self.put(f"{prefix}.{attn}.hook_z", z)
        w_o = self.model.get_submodule(output).weight.T.reshape(heads, z.shape[-1], -1)
        self.put(f"{prefix}.{attn}.hook_result", torch.einsum("phd,hdm->phm", z, w_o))
        out = seen.out(output)
        self.put(f"{prefix}.hook_{between}attn_out", out)
        return out

    def t5_stack(self, stack, patterns, cross_patterns):
        seen, config = self.seen, self.model.config
        heads = config.num_heads
        self.put(f"{stack}.hook_embed", seen.out(f"{stack}.embed_tokens") if f"{stack}.embed_tokens" in seen.of else seen.out("shared"))
        for layer, pattern in enumerate(patterns):
            prefix, block = f"{stack}.{layer}", f"{stack}.block.{layer}"
            pre = seen.into(f"{block}.layer.0.layer_norm")
            self.put(f"{prefix}.hook_resid_pre", pre)
            self.norm(f"{prefix}.ln1", f"{block}.layer.0.layer_norm")
            mid = pre + self.attention(prefix, "attn", f"{block}.layer.0.SelfAttention", pre, pre, heads, pattern[0])
            self.put(f"{prefix}.hook_resid_mid", mid)
            last, norm = 1, "ln2"
            if stack == "decoder":
                self.norm(f"{prefix}.ln2", f"{block}.layer.1.layer_norm")
                source = seen.out("encoder.final_layer_norm")
                mid = mid + self.attention(
                    prefix, "cross_attn", f"{block}.layer.1.EncDecAttention", mid, source, heads, cross_patterns[layer][0]
                )
                self.put(f"{prefix}.hook_resid_mid_cross", mid)
                last, norm = 2, "ln3"
            self.put(f"{prefix}.hook_mlp_in", mid)
            self.norm(f"{prefix}.{norm}", f"{block}.layer.{last}.layer_norm")
            mlp = f"{block}.layer.{last}.DenseReluDense"
            if config.is_gated_act:
                self.put(f"{prefix}.mlp.hook_pre", seen.out(f"{mlp}.wi_0"))
                self.put(f"{prefix}.mlp.hook_pre_linear", seen.out(f"{mlp}.wi_1"))
            else:
                self.put(f"{prefix}.mlp.hook_pre", seen.out(f"{mlp}.wi"))
            self.put(f"{prefix}.mlp.hook_post", seen.into(f"{mlp}.wo"))
            self.put(f"{prefix}.hook_mlp_out", seen.out(f"{mlp}.wo"))
            self.put(f"{prefix}.hook_resid_post", mid + seen.out(f"{mlp}.wo"))
        self.norm(f"{stack}_final_ln", f"{stack}.final_layer_norm")

    def bart_stack(self, stack, patterns, cross_patterns):
        seen, config = self.seen, self.model.config
        module = f"model.{stack}"
        heads = getattr(config, f"{stack}_attention_heads")
        scale = config.d_model**0.5 if config.scale_embedding else 1.0
        embed = seen.out(f"{module}.embed_tokens")
        # BART's module of embeddings scales them, Marian's stack does.
        self.put(f"{stack}.hook_embed", embed / scale if config.model_type == "bart" else embed)
        positions = seen.of[f"{module}.embed_positions"][1]
        self.put(f"{stack}.hook_pos_embed", positions.reshape(-1, config.d_model).expand_as(embed))
        if config.model_type == "bart":
            self.norm(f"{stack}.embed.ln", f"{module}.layernorm_embedding")
            self.put(f"{stack}.hook_full_embed", seen.out(f"{module}.layernorm_embedding"))
        for layer, pattern in enumerate(patterns):
            prefix, block = f"{stack}.{layer}", f"{module}.layers.{layer}"
            pre = seen.into(f"{block}.self_attn")
            self.put(f"{prefix}.hook_resid_pre", pre)
            mid = pre + self.attention(prefix, "attn", f"{block}.self_attn", pre, pre, heads, pattern[0])
            self.put(f"{prefix}.hook_resid_mid", mid)
            self.norm(f"{prefix}.ln1", f"{block}.self_attn_layer_norm")
            norm = "ln2"
            if stack == "decoder":
                read = seen.out(f"{block}.self_attn_layer_norm")
                source = seen.out(f"model.encoder.layers.{config.encoder_layers - 1}.final_layer_norm")
                out = self.attention(prefix, "cross_attn", f"{block}.encoder_attn", read, source, heads, cross_patterns[layer][0])
                self.put(f"{prefix}.hook_resid_mid_cross", read + out)
                self.norm(f"{prefix}.ln2", f"{block}.encoder_attn_layer_norm")
                norm = "ln3"
            self.put(f"{prefix}.hook_mlp_in", seen.into(f"{block}.fc1"))
            self.put(f"{prefix}.mlp.hook_pre", seen.out(f"{block}.fc1"))
            self.put(f"{prefix}.mlp.hook_post", seen.into(f"{block}.fc2"))
            self.put(f"{prefix}.hook_mlp_out", seen.out(f"{block}.fc2"))
            self.put(f"{prefix}.hook_resid_post", seen.into(f"{block}.fc1") + seen.out(f"{block}.fc2"))
            self.norm(f"{prefix}.{norm}", f"{block}.final_layer_norm")
            self.put(f"{prefix}.hook_normalized_resid_post", seen.out(f"{block}.final_layer_norm"))


def hooks(model, seen, output):
    found = Hooks(model, seen)
    stack = found.t5_stack if found.is_t5 else found.bart_stack
    stack("encoder", output.encoder_attentions, None)
    stack("decoder", output.decoder_attentions, output.cross_attentions)
    found.put("unembed.hook_in", seen.into("lm_head"))
    found.put("unembed.hook_out", output.logits[0])
    if found.is_t5:
        with_bias(found, output)
    return found.all


def with_bias(found, output):
    """T5's scores of its own attentions, whose bias is the first layer's."""
    for stack in ("encoder", "decoder"):
        first = found.model.get_submodule(f"{stack}.block.0.layer.0.SelfAttention")
        for layer in range(len(getattr(output, f"{stack}_attentions"))):
            q, k = (found.all[f"{stack}.{layer}.attn.hook_{way}"] for way in "qk")
            bias = first.compute_bias(q.shape[0], k.shape[0])[0]
            scores = torch.einsum("qhd,khd->hqk", q, k) + bias
            if stack == "decoder":
                scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -torch.inf)
            found.put(f"{stack}.{layer}.attn.hook_attn_scores", scores)


def mask_scores(all_hooks):
    """What lies ahead in a causal stack is masked."""
    for name, scores in all_hooks.items():
        if name.startswith("decoder") and name.endswith(".attn.hook_attn_scores"):
            all_hooks[name] = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -torch.inf)


def shifted(model, target):
    return [model.config.decoder_start_token_id, *target[:-1]]


def written(model, sources):
    """What is written of each source under each setting."""
    for setting in SETTINGS:
        asked = dict(max_length=12, do_sample=False, use_cache=False) | setting
        if "forced_eos_token_id" not in asked and "t5" not in model.config.model_type:
            asked["forced_eos_token_id"] = model.config.eos_token_id
        # As if read from the file: one that is passed along takes from the model what it has none of.
        model.generation_config = GenerationConfig(
            eos_token_id=model.config.eos_token_id, pad_token_id=model.config.pad_token_id,
            decoder_start_token_id=model.config.decoder_start_token_id, **asked,
        )  # fmt: skip
        each = []
        for source in sources:
            ids = model.generate(torch.tensor([source]))[0].tolist()[1:]
            end = model.config.eos_token_id
            if end in ids:
                ids = ids[: ids.index(end) + 1]
            logits = model(input_ids=torch.tensor([source]), decoder_input_ids=torch.tensor([shifted(model, ids)]), use_cache=False).logits[0]
            log_probs = logits.log_softmax(-1)[torch.arange(len(ids)), torch.tensor(ids)]
            each.append({"ids": ids, "log_prob": log_probs.mean().item()})
        yield {"setting": asked, "written": each}


@torch.no_grad()
def write(name, folder):
    model = make(name)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    # In f64, so that what is apart is not transformers' rounding.
    model.double()
    all_pairs = pairs(model)
    source, target = all_pairs[0]
    seen = Seen(model)
    given = dict(input_ids=torch.tensor([source]), decoder_input_ids=torch.tensor([shifted(model, target)]))
    output = model(**given, output_attentions=True, use_cache=False)
    all_hooks = hooks(model, seen, output)
    mask_scores(all_hooks)
    for handle in seen.handles:
        handle.remove()
    losses = torch.nn.functional.cross_entropy(output.logits[0], torch.tensor(target), reduction="none")
    golden = {"source": torch.tensor(source).to(torch.uint32), "target": torch.tensor(target).to(torch.uint32), "loss": losses}
    golden |= {f"hooks.{hook}": value for hook, value in all_hooks.items()}
    pad = model.config.pad_token_id
    sources, targets = ([pair[way] for pair in all_pairs] for way in (0, 1))
    read = [shifted(model, target) for target in targets]
    batch = filled(sources, pad)
    mask = torch.tensor([[int(at < len(row)) for at in range(batch.shape[1])] for row in sources])
    golden["batch.logits"] = model(input_ids=batch, attention_mask=mask, decoder_input_ids=filled(read, pad), use_cache=False).logits
    for way, rows in (("source", sources), ("target", targets)):
        golden[f"batch.{way}"] = filled(rows, 0).to(torch.uint32)
        golden[f"batch.{way}.lengths"] = torch.tensor([len(row) for row in rows]).to(torch.uint32)
    in_f32 = lambda value: value.float() if value.is_floating_point() else value
    save_file({key: in_f32(value).detach().contiguous().clone() for key, value in golden.items()}, folder / "golden.safetensors")
    lines = ",\n".join(json.dumps(row) for row in written(model, sources))
    (folder / "written.json").write_text(f"[\n{lines}\n]\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--into", type=Path, default=Path(__file__).parent / "translators", metavar="FOLDER")
    arguments = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    for name in MODELS:
        write(name, arguments.into / name)
    print(f"wrote {len(MODELS)} models into {arguments.into}")


if __name__ == "__main__":
    main()
