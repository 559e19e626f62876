"""Make the goldens of the tiny models: what TransformerLens says of them, in golden.json and golden.safetensors.

    python make_tiny.py [NAME ...] [--into FOLDER]

A model whose weights lie in FOLDER/NAME is loaded; otherwise it is made there first. All numbers are of a float64 run
unless a name says 32.
"""

import argparse
import contextlib
import io
import json
import math
from collections import namedtuple
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformer_lens import FactoredMatrix, HookedTransformer, patching
from transformer_lens.head_detector import detect_head
from transformers import (
    AutoModelForCausalLM, GPT2LMHeadModel, GPTJConfig, GPTJForCausalLM, GPTNeoConfig, GPTNeoForCausalLM, GPTNeoXConfig,
    GPTNeoXForCausalLM, LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, PreTrainedModel, Qwen2Config,
    Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM,
)  # fmt: skip

from hooked import AttentionOnly, diagonal_scores, hooked, per_head
from train_tiny_induction import BOS, gpt2_config, save, train

SEED = 1234
INPUT_SEED = 7
RANDOM_VOCAB = 160
PERIOD = 20  # the length of the block that input B repeats
CHANGED = 9  # where in that block input C differs

CONVENTIONS = {
    "nonfinite": "-inf entries (masked attn_scores) are stored as 0 in tensors and checksums",
    "split": "hooks recorded with use_attn_result, use_split_qkv_input and use_hook_mlp_in on; "
    "ln1.* recorded in default mode (no per-head copy)",
    "layout": "row-major; hook tensors squeezed to batch 0 unless noted; scores [n_layers][n_heads]",
    "processing": "proc = fold_ln + center_writing_weights (where the norms centre) + center_unembed + fold_value_biases; "
    "raw = none",
}

# Of the processed model, only these hooks are stored whole.
MAIN_HOOKS = (
    "hook_q", "hook_k", "hook_v", "hook_z", "hook_pattern", "hook_resid_post", "hook_normalized", "hook_scale",
    "hook_result", "hook_attn_out", "hook_mlp_out",
)  # fmt: skip


# The models


def fill(model, spread):
    """Draws every weight anew, `spread(name)` wide: norms around 1, so that folding them makes a difference."""
    for name, weight in model.named_parameters():
        norm = name.endswith("weight") and ("ln_" in name or "norm" in name)
        noise = spread(name) * torch.randn_like(weight)
        weight.copy_(1 + noise if norm else noise)
    return model.eval()


def random_gpt2():
    torch.manual_seed(SEED)

    def spread(name):
        if "ln_" in name and name.endswith("weight"):
            return 0.3
        if name.endswith("bias") or "wpe" in name:
            return 0.2
        if "wte" in name:
            return 0.5
        return 0.25 if "c_attn" in name else 0.15

    return fill(GPT2LMHeadModel(gpt2_config(RANDOM_VOCAB)), spread)


def random_llama():
    """SmolLM2's architecture in small: RMS norms, rotary positions, two query heads a key head, tied embedding."""
    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=RANDOM_VOCAB, hidden_size=64, intermediate_size=160, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, rms_norm_eps=1e-5, rope_theta=10000.0,
        tie_word_embeddings=True, bos_token_id=BOS, eos_token_id=BOS, hidden_act="silu",
    )  # fmt: skip

    def spread(name):
        if "norm" in name:
            return 0.3
        if "embed" in name:
            return 0.5
        return 0.25 if "q_proj" in name or "k_proj" in name else 0.15

    return fill(LlamaForCausalLM(config), spread)


SMALL_VOCAB = 64
WINDOW = 7  # of local attention: shorter than every input


def spread(name):
    """How wide the weights of the small models are drawn."""
    if "norm" in name or "ln_" in name:
        return 0.3
    if "bias" in name or "b_" in name or "wpe" in name:
        return 0.2
    if "wte" in name or "embed_tokens" in name or "embed_in" in name:
        return 0.5
    return 0.25 if "q_proj" in name or "k_proj" in name or "query_key" in name else 0.15


def small(kind, config, **family):
    """A random model of 2 layers, 4 heads and width 32."""
    torch.manual_seed(SEED)
    return fill(kind(config(vocab_size=SMALL_VOCAB, bos_token_id=BOS, eos_token_id=BOS, **family)), spread)


SHAPE = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=64)
GATED = SHAPE | dict(num_key_value_heads=2, intermediate_size=48, rms_norm_eps=1e-5, hidden_act="silu")
LLAMA3 = dict(
    rope_type="llama3", rope_theta=1000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
    original_max_position_embeddings=32,
)  # fmt: skip


def random_llama3():
    """Llama 3's scaled rotary positions; an unembedding of its own."""
    return small(LlamaForCausalLM, LlamaConfig, **GATED, rope_parameters=LLAMA3, tie_word_embeddings=False)


def random_mistral():
    return small(MistralForCausalLM, MistralConfig, **GATED, head_dim=12, sliding_window=WINDOW)


def random_qwen2():
    return small(Qwen2ForCausalLM, Qwen2Config, **GATED)


def random_qwen3():
    return small(Qwen3ForCausalLM, Qwen3Config, **GATED, head_dim=12)


def random_neox():
    return small(
        GPTNeoXForCausalLM, GPTNeoXConfig, **SHAPE, intermediate_size=64,
        rope_parameters=dict(rope_type="default", rope_theta=10000.0, partial_rotary_factor=0.5),
    )  # fmt: skip


def random_neo():
    return small(
        GPTNeoForCausalLM, GPTNeoConfig, hidden_size=32, num_layers=2, num_heads=4, max_position_embeddings=64,
        attention_types=[[["global", "local"], 1]], window_size=WINDOW,
    )  # fmt: skip


def random_gptj():
    return small(GPTJForCausalLM, GPTJConfig, n_embd=32, n_layer=2, n_head=4, n_positions=64, rotary_dim=4)


def random_attention(n_layers, normalization_type):
    """A model of attention alone, with or without norms, as TransformerLens's toy models are."""
    torch.manual_seed(SEED)
    config = dict(
        model_type="attn-only", d_model=32, n_layers=n_layers, n_heads=4, d_head=8, n_ctx=64, d_vocab=SMALL_VOCAB,
        attn_only=True, act_fn=None, normalization_type=normalization_type, eps=1e-5, bos_token_id=BOS,
        eos_token_id=BOS,
    )  # fmt: skip
    blank = AttentionOnly(config, {}).empty()

    def drawn(name, shape):
        noise = torch.randn(shape)
        if "ln" in name:
            return 1 + 0.3 * noise if name.endswith(".w") else 0.2 * noise
        if "embed.W_E" in name:
            return 0.5 * noise
        # Without norms, what each layer writes must stay small.
        return (0.2 if normalization_type else 0.15) * noise

    return AttentionOnly(config, {name: drawn(name, shape) for name, shape in blank.items()})


def trained_gpt2():
    with torch.enable_grad():
        return train()


MAKERS = {
    "tiny-gpt2-random": random_gpt2,
    "tiny-gpt2-induction": trained_gpt2,
    "tiny-llama-random": random_llama,
    "tiny-llama3": random_llama3,
    "tiny-neox": random_neox,
    "tiny-neo": random_neo,
    "tiny-gptj": random_gptj,
    "tiny-mistral": random_mistral,
    "tiny-qwen2": random_qwen2,
    "tiny-qwen3": random_qwen3,
    "tiny-attn-only": lambda: random_attention(2, "LN"),
    "tiny-attn-only-bare": lambda: random_attention(3, None),
}

# Of the others fewer whole tensors are stored.
WHOLE = ("tiny-gpt2-random", "tiny-gpt2-induction", "tiny-llama-random")


def load_or_make(name, folder):
    made = (folder / "model.safetensors").exists()
    if name.startswith("tiny-attn-only"):
        if not made:
            MAKERS[name]().save(folder)
        return AttentionOnly.load(folder)
    if not made:
        save(MAKERS[name](), folder)
    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()


# The inputs

# A is random. B is BOS and a random block twice. C is B with one token changed in the first copy of the block.
Inputs = namedtuple("Inputs", "A B C")


def make_inputs(vocab_size):
    generator = torch.Generator().manual_seed(INPUT_SEED)

    def random(length):
        return torch.randint(1, vocab_size, (length,), generator=generator)

    bos = torch.tensor([BOS])
    a, block = random(11), random(PERIOD)
    changed = block.clone()
    changed[CHANGED] = (block[CHANGED] + 7) % (vocab_size - 1) + 1
    return Inputs(torch.cat([bos, a]), torch.cat([bos, block, block]), torch.cat([bos, changed, block]))


@dataclass
class Subject:
    """One model in every form that is asked: transformers', and TransformerLens's, raw and processed."""

    hf: PreTrainedModel | None
    raw32: HookedTransformer
    proc32: HookedTransformer
    raw: HookedTransformer
    proc: HookedTransformer
    inputs: Inputs

    @classmethod
    def of(cls, hf):
        """Of a model of transformers', or of attention alone, which transformers does not have."""
        alone = isinstance(hf, AttentionOnly)
        lens = hf.hooked if alone else partial(hooked, hf)
        forms = [lens(dtype, proc) for dtype in (torch.float32, torch.float64) for proc in (False, True)]
        return cls(None if alone else hf, *forms, make_inputs(forms[0].cfg.d_vocab))

    @property
    def forms(self):
        """The float64 models by the names that the goldens give them."""
        return {"raw": self.raw, "proc": self.proc}

    @property
    def layers(self):
        return range(self.raw.cfg.n_layers)

    @property
    def heads(self):
        return range(self.raw.cfg.n_heads)

    @cached_property
    def cache_b(self):
        return self.raw.run_with_cache(self.inputs.B[None])[1]

    @cached_property
    def cache_c(self):
        return self.raw.run_with_cache(self.inputs.C[None])[1]

    @cached_property
    def logits_b(self):
        return self.raw(self.inputs.B[None])


def stored(tensor: Tensor):
    return tensor.detach().to(torch.float32).contiguous().clone()


def listed(tensor: Tensor):
    return tensor.detach().to(torch.float64).tolist()


def largest(tensor: Tensor):
    return tensor.abs().max().item()


# What is asked: each function gives entries of golden.json, and those that end in `tensors` of golden.safetensors.


def logits_of(subject, ids):
    batch = ids[None]
    of_transformers = {"hf": subject.hf(batch).logits[0]} if subject.hf else {}
    return of_transformers | {
        "raw32": subject.raw32(batch)[0], "proc32": subject.proc32(batch)[0], "raw64": subject.raw(batch)[0],
        "proc64": subject.proc(batch)[0],
    }  # fmt: skip


def logit_agreement(subject):
    """How far apart the forms' logits are: the error that a float32 run may have."""

    def agreement(ids):
        logits = logits_of(subject, ids)
        raw, proc = logits["raw32"], logits["proc32"]
        return {
            **({"hf_vs_raw_maxabs": largest(logits["hf"] - raw)} if subject.hf else {}),
            "raw32_vs_raw64": largest(raw - logits["raw64"]),
            "proc32_vs_proc64": largest(proc - logits["proc64"]),
            "logsoftmax_raw_vs_proc": largest(raw.log_softmax(-1) - proc.log_softmax(-1)),
            "proc_row_mean_maxabs": largest(proc.mean(-1)),
        }

    return {name: agreement(ids) for name, ids in subject.inputs._asdict().items()}


def logit_tensors(subject):
    return {
        f"{name}.logits.{form}": stored(logits)
        for name, ids in subject.inputs._asdict().items()
        for form, logits in logits_of(subject, ids).items()
        if form in ("hf", "raw64", "proc64")
    }


def loss_per_token(model, ids, logits=None):
    logits = model(ids[None]) if logits is None else logits
    return model.loss_fn(logits, ids[None], per_token=True)[0]


def losses(subject):
    per_token = {name: loss_per_token(subject.raw, ids) for name, ids in subject.inputs._asdict().items()}
    return {
        "loss_per_token_raw64": {name: listed(loss) for name, loss in per_token.items()},
        "loss_mean_raw64": {name: loss.mean().item() for name, loss in per_token.items()},
    }


def use_all_hooks(model, on):
    model.set_use_attn_result(on)
    model.set_use_split_qkv_input(on)
    if not model.cfg.attn_only:
        model.set_use_hook_mlp_in(on)


def every_hook(model, ids):
    """Every hook's value, batch 0 only, masked scores as 0; ln1's without its copies for each head."""
    use_all_hooks(model, True)
    _, cache = model.run_with_cache(ids[None])
    model.set_use_split_qkv_input(False)
    _, unsplit = model.run_with_cache(ids[None], names_filter=lambda name: ".ln1." in name)
    use_all_hooks(model, False)
    # The norms of single heads' queries and keys (Qwen3) run over batch, position and head in one axis.
    values = {name: value for name, value in cache.items() if ".q_norm." not in name and ".k_norm." not in name}
    values |= unsplit.items()
    return {name: value[0].masked_fill(~torch.isfinite(value[0]), 0) for name, value in values.items()}


def checksum(value):
    return {
        "shape": list(value.shape), "sum": value.sum().item(), "abs_sum": value.abs().sum().item(),
        "l2": value.norm().item(), "first": listed(value.flatten()[:6]), "last": listed(value.flatten()[-6:]),
    }  # fmt: skip


def hook_checksums(subject):
    hooks = {
        form: {name: checksum(value) for name, value in every_hook(model, subject.inputs.A).items()}
        for form, model in subject.forms.items()
    }
    return {"hooks_A": hooks, "hook_order": list(hooks["raw"])}


def hook_tensors(subject):
    of_a = {
        f"A.{form}.{name}": stored(value)
        for form, model in subject.forms.items()
        for name, value in every_hook(model, subject.inputs.A).items()
        if form == "raw" or name.endswith(MAIN_HOOKS)
    }
    of_b = {
        f"B.raw.blocks.{layer}.attn.hook_{name}": stored(subject.cache_b[name, layer][0])
        for layer in subject.layers
        for name in ("pattern", "z")
    }
    return of_a | of_b


def detect_head_scores(subject):
    """TransformerLens's `detect_head` with each combination of its options."""

    def scores(ids):
        subject.raw32.to_tokens = lambda _: ids[None]  # detect_head takes text only
        if subject.raw32.cfg.use_qk_norm:  # the norms of single heads have no batch axis to remove
            patterns = partial(HookedTransformer.run_with_cache, names_filter=lambda name: "pattern" in name)
            subject.raw32.run_with_cache = partial(patterns, subject.raw32)
        return {
            f"{head}|{measure}|exclude_bos={bos}|exclude_current={current}": listed(
                detect_head(
                    subject.raw32, "", head, error_measure=measure, exclude_bos=bos, exclude_current_token=current
                )
            )
            for head in ("previous_token_head", "duplicate_token_head", "induction_head")
            for measure in ("mul", "abs")
            for bos in (False, True)
            for current in (False, True)
        }

    return {"A": scores(subject.inputs.A), "B": scores(subject.inputs.B)}


def diagonal_detectors(subject):
    patterns = [subject.cache_b["pattern", layer][0] for layer in subject.layers]
    return {"period": PERIOD} | diagonal_scores(patterns, PERIOD)


def loss_of_halves(subject):
    loss = loss_per_token(subject.raw, subject.inputs.B, subject.logits_b)
    return {
        "first_half_mean": loss[:PERIOD].mean().item(),
        "second_half_mean": loss[PERIOD:].mean().item(),
        "per_token": listed(loss),
    }


def ordered_eigenvalues(eigenvalues):
    """As (real, imaginary), the largest first; then by real part, then the one above its conjugate."""

    def rank(value):
        real, imaginary = value
        return -round(math.hypot(real, imaginary), 9), -round(real, 9), -imaginary

    return [
        [sorted(((value.real, value.imag) for value in head), key=rank) for head in layer]
        for layer in eigenvalues.tolist()
    ]


def positivity(eigenvalues):
    """Elhage et al.'s copying score: the eigenvalues' sum over the sum of their absolute values."""
    return eigenvalues.sum(-1).real / eigenvalues.abs().sum(-1)


def circuit(name, matrix):
    eigenvalues = matrix.eigenvalues
    return {
        f"{name}_eig": ordered_eigenvalues(eigenvalues),
        f"{name}_trace": listed(eigenvalues.sum(-1).real),
        f"{name}_eig_positivity": listed(positivity(eigenvalues)),
    }


def full_ov(model):
    """How often a head, attending to a token, raises that same token's logit the most, or among the five most."""
    matrix = FactoredMatrix(model.W_E @ model.OV.A, model.OV.B @ model.W_U)  # [layer, head, token, token]
    product, own = matrix.AB, torch.arange(model.cfg.d_vocab)
    top5 = (product.topk(5, -1).indices == own[:, None]).any(-1)
    return {
        "fullOV_top1_acc": listed((product.argmax(-1) == own).double().mean(-1)),
        "fullOV_top5_acc": listed(top5.double().mean(-1)),
        "fullOV_eig_positivity": listed(positivity(matrix.eigenvalues)),
    }


def positional_attention_to_previous(model):
    """The mean attention to the previous token if heads saw position embeddings alone, unnormalised."""
    query, key = model.W_pos @ model.W_Q, model.W_pos @ model.W_K
    scores = query @ key.transpose(-1, -2)  # [layer, head, query, key]
    masked = [
        block.attn.apply_causal_mask(scores[None, layer] / block.attn.attn_scale)[0]
        for layer, block in enumerate(model.blocks)
    ]
    return per_head([scores.softmax(-1) for scores in masked], lambda pattern: pattern.diagonal(-1).mean())


def circuits(subject, model):
    qk, ov = model.QK, model.OV
    found = {"OV_S": listed(ov.S), "QK_S": listed(qk.S), "OV_norm": listed(ov.norm()), "QK_norm": listed(qk.norm())}
    found |= circuit("OV", ov) | circuit("QK", qk) | full_ov(model)
    if model.cfg.positional_embedding_type == "standard":
        found["posQK_prev_token_mass"] = positional_attention_to_previous(model)
    found["composition"] = {kind: listed(model.all_composition_scores(kind)) for kind in "QKV"}
    return found


def circuit_tensors(subject):
    return {
        f"W.{form}.{name}": stored(product)
        for form, model in subject.forms.items()
        for name, product in (("OV_L0H0", model.OV[0, 0].AB), ("QK_L1H1", model.QK[1, 1].AB))
    }


def processed_weights(subject):
    """A checksum of each processed weight; buffers (masks, rotary tables) are not weights."""
    return {
        name: {"shape": list(weight.shape), "sum": weight.sum().item(), "l2": weight.norm().item()}
        for name, weight in subject.proc.state_dict().items()
        if not any(buffer in name for buffer in ("mask", "IGNORE", "rotary"))
    }


def changed_z(subject, kind, layer, head):
    """What input B's `z` of one head is replaced by."""
    z = subject.cache_b["z", layer]
    replacement = {
        "zero": torch.zeros_like(z),
        "mean": z.mean(dim=(0, 1), keepdim=True).expand_as(z),
        "resample": subject.cache_c["z", layer],
    }[kind]
    return replacement[:, :, head]


def ablate_head(subject, kind, layer, head):
    """Logits on B with one head's output replaced."""

    replacement = changed_z(subject, kind, layer, head)

    def edit(z, hook):
        z = z.clone()
        z[:, :, head] = replacement
        return z

    return subject.raw.run_with_hooks(subject.inputs.B[None], fwd_hooks=[(f"blocks.{layer}.attn.hook_z", edit)])


def head_ablations(subject, kind):
    """What ablating each head does to the loss, to that of the second copy, and to the logits."""
    base_logits = subject.logits_b
    base = loss_per_token(subject.raw, subject.inputs.B, base_logits)

    def effects(layer, head):
        logits = ablate_head(subject, kind, layer, head)
        loss = loss_per_token(subject.raw, subject.inputs.B, logits)
        return {
            "delta_mean_loss": (loss.mean() - base.mean()).item(),
            "delta_second_half_loss": (loss[PERIOD:].mean() - base[PERIOD:].mean()).item(),
            "max_abs_logit_change": largest(logits - base_logits),
        }

    found = [[effects(layer, head) for head in subject.heads] for layer in subject.layers]
    return {key: [[effect[key] for effect in layer] for layer in found] for key in found[0][0]}


def mlp_ablations(subject):
    """What zeroing each MLP does to the mean loss on B."""
    if subject.raw.cfg.attn_only:
        return []
    batch = subject.inputs.B[None]
    base = loss_per_token(subject.raw, subject.inputs.B, subject.logits_b).mean().item()

    def zeroed(layer):
        hook = (f"blocks.{layer}.hook_mlp_out", lambda out, hook: torch.zeros_like(out))
        return subject.raw.loss_fn(subject.raw.run_with_hooks(batch, fwd_hooks=[hook]), batch).item()

    return [zeroed(layer) - base for layer in subject.layers]


def knockout(subject):
    """How much each position's logits change when position 25 cannot attend to 6 in layer 1."""

    def edit(scores, hook):
        scores = scores.clone()
        scores[:, :, PERIOD + 5, 6] = float("-inf")
        return scores

    hooks = [("blocks.1.attn.hook_attn_scores", edit)]
    logits = subject.raw.run_with_hooks(subject.inputs.B[None], fwd_hooks=hooks)
    return listed((logits - subject.logits_b).abs().amax(-1)[0])


def ablations(subject):
    found = {kind: head_ablations(subject, kind) for kind in ("zero", "mean", "resample")}
    found["zero_mlp_out_delta_mean_loss"] = mlp_ablations(subject)
    found["knockout_scores_L1_q25_k6_all_heads_max_logit_change_per_pos"] = knockout(subject)
    return found


def attribution(subject):
    """What parts of the residual stream say for B's last token, and against the one two before, at the last but one."""
    model, ids, position = subject.proc, subject.inputs.B, -2
    right, wrong = int(ids[-1]), int(ids[-3])
    direction = model.W_U[:, right] - model.W_U[:, wrong]
    logits, cache = model.run_with_cache(ids[None])
    at = dict(layer=-1, pos_slice=position, return_labels=True)
    has_mid = "blocks.0.hook_resid_mid" in cache

    def direct(stack, labels):
        normalised = cache.apply_ln_to_stack(stack, layer=-1, pos_slice=position)
        return {"labels": labels, "logit_diff": listed((normalised @ direction)[:, 0])}

    decomposed, decomposed_labels = cache.decompose_resid(**at)
    full, full_labels = cache.get_full_resid_decomposition(expand_neurons=False, apply_ln=True, **at)
    full_difference = listed((full @ direction)[:, 0])
    attributed = cache.logit_attrs(
        decomposed, tokens=torch.tensor([right]), incorrect_tokens=torch.tensor([wrong]), pos_slice=position,
        batch_slice=None,
    )  # fmt: skip
    return {
        "answer_token": right,
        "wrong_token": wrong,
        "position": str(position),
        "accumulated_resid": direct(*cache.accumulated_resid(incl_mid=has_mid, **at)),
        "decompose_resid": direct(decomposed, decomposed_labels),
        "stack_head_results": direct(*cache.stack_head_results(**at)),
        "full_resid_decomposition(no neurons, ln applied)": {"labels": full_labels, "logit_diff": full_difference},
        "actual_logit_diff": (logits[0, position, right] - logits[0, position, wrong]).item(),
        "sum_of_full_decomposition": float(sum(full_difference)),
        "bU_diff": (model.b_U[right] - model.b_U[wrong]).item(),
        "logit_attrs(decompose_resid)": listed(attributed[:, 0]),
    } | logit_lens(model, cache, ids)


def logit_lens(model, cache, ids):
    """The likeliest token, and the next one's log-probability, as read from the stream after each layer."""
    stream = cache.accumulated_resid(layer=-1, incl_mid=False, apply_ln=True)
    logits = (stream @ model.W_U + model.b_U)[:, 0]  # [layer, position, token]
    following = ids[1:][None, :, None].repeat(len(logits), 1, 1)
    return {
        "logit_lens_top1_per_layer_pos": logits.argmax(-1).tolist(),
        "logit_lens_logprob_of_next": listed(logits[:, :-1].log_softmax(-1).gather(-1, following)[..., 0]),
    }


class PatchingMetric:
    """Where C's changed token comes round again: the logit of what B's block says there against what C's says."""

    def __init__(self, inputs):
        self.position = PERIOD + CHANGED
        self.clean, self.corrupted = int(inputs.B[1 + CHANGED]), int(inputs.C[1 + CHANGED])

    def __call__(self, logits):
        return logits[0, self.position, self.clean] - logits[0, self.position, self.corrupted]

    def __str__(self):
        return f"logit[pos {self.position}, {self.clean}] - logit[pos {self.position}, {self.corrupted}]"


def activation_patching(subject):
    """The metric on C with one activation after another as on B."""
    metric = PatchingMetric(subject.inputs)
    clean, corrupted = subject.inputs.B[None], subject.inputs.C[None]
    patches = {
        "resid_pre": patching.get_act_patch_resid_pre,
        "attn_out": patching.get_act_patch_attn_out,
        "mlp_out": patching.get_act_patch_mlp_out,
        "head_out_all_pos": patching.get_act_patch_attn_head_out_all_pos,
        "head_pattern_all_pos": patching.get_act_patch_attn_head_pattern_all_pos,
        "head_q_all_pos": patching.get_act_patch_attn_head_q_all_pos,
        "head_k_all_pos": patching.get_act_patch_attn_head_k_all_pos,
        "head_v_all_pos": patching.get_act_patch_attn_head_v_all_pos,
    }
    if subject.raw.cfg.attn_only:
        del patches["mlp_out"]
    found = {
        "metric": str(metric),
        "clean": metric(subject.raw(clean)).item(),
        "corrupted": metric(subject.raw(corrupted)).item(),
    }
    with contextlib.redirect_stderr(io.StringIO()):  # progress bars
        return found | {
            name: listed(patch(subject.raw, corrupted, subject.cache_b, metric)) for name, patch in patches.items()
        }


def attribution_patching(subject):
    """What activation patching of each head's `z` comes to by the metric's gradient on C."""
    model, gradients = subject.raw, {}
    metric = PatchingMetric(subject.inputs)

    def keep(gradient, hook):
        gradients[hook.layer()] = gradient.detach().clone()

    with torch.enable_grad(), model.hooks(bwd_hooks=[(lambda name: name.endswith("hook_z"), keep)]):
        metric(model(subject.inputs.C[None])).backward()
    changes = {layer: subject.cache_b["z", layer] - subject.cache_c["z", layer] for layer in subject.layers}
    return [
        [(changes[layer] * gradients[layer])[0, :, head].sum().item() for head in subject.heads]
        for layer in subject.layers
    ]


def greedy(subject, prompt_len=30, added=11):
    """The likeliest continuation of B's first tokens."""
    ids = subject.inputs.B[:prompt_len][None]
    for _ in range(added):
        ids = torch.cat([ids, subject.raw(ids)[:, -1].argmax(-1, keepdim=True)], 1)
    return ids[0].tolist()


# The files


def golden_json(subject):
    return {
        "made_by": "tests/golden/make_tiny.py",
        "versions": {
            "transformer_lens": version("transformer-lens"),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "conventions": CONVENTIONS,
        "tokens": dict(zip(("A", "B_repeated", "C_corrupted"), (ids.tolist() for ids in subject.inputs))),
        "logit_agreement": logit_agreement(subject),
        **losses(subject),
        **hook_checksums(subject),
        "detect_head_raw32": detect_head_scores(subject),
        "arena_detectors_B_raw64": diagonal_detectors(subject),
        "B_loss_halves_raw64": loss_of_halves(subject),
        "weights_fp64": {form: circuits(subject, model) for form, model in subject.forms.items()},
        "head_labels": subject.proc.all_head_labels(),
        "processed_state_dict_fp64": processed_weights(subject),
        "ablation_B_raw64": ablations(subject),
        "attribution_B_proc64": attribution(subject),
        "patching_raw64": activation_patching(subject),
        "attribution_patching_hook_z_raw64": attribution_patching(subject),
        "greedy_from_B30": greedy(subject),
    }


def write_golden(name, folder):
    subject = Subject.of(load_or_make(name, folder))
    (folder / "golden.json").write_text(json.dumps(golden_json(subject), separators=(",", ":")))
    tensors = logit_tensors(subject) | hook_tensors(subject) | circuit_tensors(subject)
    if name not in WHOLE:
        # What else is said of B and C is in their losses and scores.
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(("C.", "B.raw"))}
    save_file(tensors, folder / "golden.safetensors")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(MAKERS)}; all if none is given")
    parser.add_argument("--into", type=Path, default=Path(__file__).parent, metavar="FOLDER", help="here by default")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(MAKERS):
        parser.error(f"no such model: {', '.join(sorted(unknown))}")
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    for name in arguments.names or MAKERS:
        write_golden(name, arguments.into / name)
        print(f"wrote {arguments.into / name}")


if __name__ == "__main__":
    main()
