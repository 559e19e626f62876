"""HookedTransformers of models that transformers has loaded, made without the network, and scores of their heads."""

import copy
import json
from dataclasses import dataclass
from typing import Callable

import torch
from safetensors.torch import load_file, save_file
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.pretrained.weight_conversions import (
    convert_gpt2_weights, convert_gptj_weights, convert_llama_weights, convert_mistral_weights, convert_neo_weights,
    convert_neox_weights, convert_qwen2_weights, convert_qwen3_weights,
)  # fmt: skip


def layer_normed(eps):
    return dict(normalization_type="LN", eps=eps)


def gpt2(config):
    return layer_normed(config.layer_norm_epsilon) | dict(
        d_mlp=config.n_inner or 4 * config.n_embd, act_fn="gelu_new", positional_embedding_type="standard",
        scale_attn_by_inverse_layer_idx=False,
    )  # fmt: skip


def gpt_neo(config):
    return layer_normed(config.layer_norm_epsilon) | dict(
        d_mlp=config.intermediate_size or 4 * config.hidden_size, act_fn=config.activation_function,
        use_attn_scale=False, use_local_attn=True, attn_types=config.attention_layers, window_size=config.window_size,
    )  # fmt: skip


def gpt_neox(config):
    rotary = config.rope_parameters
    d_head = config.hidden_size // config.num_attention_heads
    return layer_normed(config.layer_norm_eps) | dict(
        d_mlp=config.intermediate_size, act_fn=config.hidden_act, parallel_attn_mlp=config.use_parallel_residual,
        positional_embedding_type="rotary", rotary_adjacent_pairs=False, rotary_base=int(rotary["rope_theta"]),
        rotary_dim=round(rotary["partial_rotary_factor"] * d_head),
    )  # fmt: skip


def gptj(config):
    return layer_normed(config.layer_norm_epsilon) | dict(
        d_mlp=config.n_inner or 4 * config.n_embd, act_fn=config.activation_function, parallel_attn_mlp=True,
        positional_embedding_type="rotary", rotary_dim=config.rotary_dim, rotary_adjacent_pairs=True,
    )  # fmt: skip


def llama(config):
    rotary = config.rope_parameters
    family = dict(
        normalization_type="RMS", final_rms=True, eps=config.rms_norm_eps, d_mlp=config.intermediate_size,
        act_fn="silu", gated_mlp=True, n_key_value_heads=config.num_key_value_heads,
        positional_embedding_type="rotary", rotary_dim=head_width(config), rotary_adjacent_pairs=False,
        rotary_base=int(rotary["rope_theta"]),
    )  # fmt: skip
    if rotary["rope_type"] == "llama3":
        family |= dict(
            use_NTK_by_parts_rope=True, NTK_by_parts_factor=rotary["factor"],
            NTK_by_parts_low_freq_factor=rotary["low_freq_factor"],
            NTK_by_parts_high_freq_factor=rotary["high_freq_factor"],
            NTK_original_ctx_len=rotary["original_max_position_embeddings"],
        )  # fmt: skip
    return family


def mistral(config):
    local = ["local"] * config.num_hidden_layers
    return llama(config) | dict(use_local_attn=True, attn_types=local, window_size=config.sliding_window)


def qwen3(config):
    return llama(config) | dict(use_qk_norm=True)


@dataclass
class Family:
    """What TransformerLens calls an architecture, how its config is told, and how its weights are converted."""

    original: str
    config: Callable
    convert: Callable


FAMILIES = {
    "gpt2": Family("GPT2LMHeadModel", gpt2, convert_gpt2_weights),
    "gpt_neo": Family("GPTNeoForCausalLM", gpt_neo, convert_neo_weights),
    "gpt_neox": Family("GPTNeoXForCausalLM", gpt_neox, convert_neox_weights),
    "gptj": Family("GPTJForCausalLM", gptj, convert_gptj_weights),
    "llama": Family("LlamaForCausalLM", llama, convert_llama_weights),
    "mistral": Family("MistralForCausalLM", mistral, convert_mistral_weights),
    "qwen2": Family("Qwen2ForCausalLM", llama, convert_qwen2_weights),
    "qwen3": Family("Qwen3ForCausalLM", qwen3, convert_qwen3_weights),
}


def head_width(config):
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def processed_norm(normalization):
    """TransformerLens's name of a norm whose weights are folded away."""
    return normalization and normalization + "Pre"


def hooked_config(config, dtype, processed):
    """What HookedTransformer wants to know of a model; `processed` has its norms' weights folded away."""
    family = FAMILIES[config.model_type]
    told = dict(
        d_model=config.hidden_size, n_layers=config.num_hidden_layers, n_heads=config.num_attention_heads,
        d_head=head_width(config), n_ctx=config.max_position_embeddings, d_vocab=config.vocab_size,
        original_architecture=family.original,
    )  # fmt: skip
    return made_config(told | family.config(config), dtype, processed)


def made_config(told, dtype, processed):
    if processed:
        told = told | dict(normalization_type=processed_norm(told["normalization_type"]))
    return HookedTransformerConfig(
        **told, device="cpu", dtype=dtype, init_weights=False, seed=0, default_prepend_bos=False
    )


def hooked(model, dtype, processed):
    """The model as a HookedTransformer.

    `processed` is TransformerLens's own default: fold_ln, center_writing_weights (which TransformerLens leaves out
    where no norm centres), center_unembed and fold_value_biases. Otherwise the weights are as they are.
    """
    family = FAMILIES[model.config.model_type]
    lens = HookedTransformer(hooked_config(model.config, dtype, processed))
    return loaded(lens, family.convert(copy.deepcopy(model).to(dtype), lens.cfg), processed)


def loaded(lens, weights, processed):
    lens.load_and_process_state_dict(
        {name: weight.detach().clone() for name, weight in weights.items()},
        fold_ln=processed,
        center_writing_weights=processed,
        center_unembed=processed,
        fold_value_biases=processed,
        refactor_factored_attn_matrices=False,
    )
    return lens.eval()


BUFFERS = ("mask", "IGNORE")
TOKENS = ("bos_token_id", "eos_token_id")


class AttentionOnly:
    """A model of attention alone, in TransformerLens's own format: its config, and weights by TransformerLens's names."""

    def __init__(self, config, weights):
        self.told, self.weights = config, weights

    @classmethod
    def load(cls, folder):
        return cls(json.loads((folder / "config.json").read_text()), load_file(folder / "model.safetensors"))

    def save(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(self.told, indent=2) + "\n")
        save_file(self.weights, folder / "model.safetensors")

    def empty(self):
        """The shapes of its weights, by name."""
        blank = self.blank(torch.float32, processed=False).state_dict()
        return {name: weight.shape for name, weight in blank.items() if not name.endswith(BUFFERS)}

    def blank(self, dtype, processed):
        told = {key: value for key, value in self.told.items() if key not in ("model_type", *TOKENS)}
        return HookedTransformer(made_config(told, dtype, processed))

    def hooked(self, dtype, processed):
        lens = self.blank(dtype, processed)
        weights = {name: weight.to(dtype) for name, weight in self.weights.items()}
        buffers = {name: weight for name, weight in lens.state_dict().items() if name.endswith(BUFFERS)}
        return loaded(lens, weights | buffers, processed)


def per_head(patterns, score):
    """`score` of every head's pattern [query, key], as [layer][head]."""
    return [[score(pattern).item() for pattern in layer] for layer in patterns]


def diagonal_scores(patterns, period):
    """The mean attention along one diagonal, or to the first token: ARENA's detectors.

    `patterns` has one [head, query, key] a layer, on BOS and then a block of `period` tokens said twice.
    """

    def along(offset):
        return per_head(patterns, lambda pattern: pattern.diagonal(offset).mean())

    return {
        "induction": along(1 - period),
        "prev_token": along(-1),
        "current_token": along(0),
        "first_token": per_head(patterns, lambda pattern: pattern[:, 0].mean()),
        "duplicate_token(diag -n)": along(-period),
    }
