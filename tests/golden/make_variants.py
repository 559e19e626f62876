"""Make the goldens of settings that the tiny models do not have: random models, smaller still, and transformers' logits.

    python make_variants.py [--into FOLDER]

FOLDER/NAME gets config.json, model.safetensors, and golden.safetensors with the ids and their logits, in float32.
"""

import argparse
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from transformers import (
    AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, GPTJConfig, GPTJForCausalLM, GPTNeoConfig, GPTNeoForCausalLM,
    GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, Qwen2Config,
    Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM,
)  # fmt: skip

from make_tiny import SEED, fill, spread
from train_tiny_induction import BOS, save

VOCAB = 32
SHAPE = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=32)
GATED = SHAPE | dict(num_key_value_heads=2, intermediate_size=24, rms_norm_eps=1e-5, hidden_act="silu")
NEOX = SHAPE | dict(intermediate_size=32)

VARIANTS = {
    "gpt2-scaled-by-layer": (GPT2LMHeadModel, GPT2Config, dict(
        n_embd=16, n_layer=2, n_head=4, n_positions=32, scale_attn_by_inverse_layer_idx=True, n_inner=24,
        activation_function="gelu", tie_word_embeddings=False,
    )),
    "llama-biases": (LlamaForCausalLM, LlamaConfig, GATED | dict(attention_bias=True)),
    "llama-linear-scaling": (LlamaForCausalLM, LlamaConfig, GATED | dict(
        rope_parameters=dict(rope_type="linear", rope_theta=500.0, factor=3.0),
    )),
    "llama-no-sharing": (LlamaForCausalLM, LlamaConfig, GATED | dict(num_key_value_heads=4)),
    "llama-one-key": (LlamaForCausalLM, LlamaConfig, GATED | dict(num_key_value_heads=1)),
    "mistral-no-window": (MistralForCausalLM, MistralConfig, GATED | dict(sliding_window=None)),
    "qwen2-window-above": (Qwen2ForCausalLM, Qwen2Config, GATED | dict(
        use_sliding_window=True, sliding_window=5, max_window_layers=1,
    )),
    "qwen3-biases": (Qwen3ForCausalLM, Qwen3Config, GATED | dict(attention_bias=True, head_dim=6)),
    "neox-one-after-the-other": (GPTNeoXForCausalLM, GPTNeoXConfig, NEOX | dict(
        use_parallel_residual=False,
        rope_parameters=dict(rope_type="default", rope_theta=10000.0, partial_rotary_factor=0.5),
    )),
    "neox-no-biases": (GPTNeoXForCausalLM, GPTNeoXConfig, NEOX | dict(
        attention_bias=False,
        rope_parameters=dict(rope_type="default", rope_theta=100.0, partial_rotary_factor=1.0),
    )),
    "neo-two-global": (GPTNeoForCausalLM, GPTNeoConfig, dict(
        hidden_size=16, num_layers=3, num_heads=4, max_position_embeddings=32, intermediate_size=24, window_size=4,
        attention_types=[[["global"], 2], [["local"], 1]],
    )),
    "gptj-all-turned": (GPTJForCausalLM, GPTJConfig, dict(
        n_embd=16, n_layer=2, n_head=4, n_positions=32, n_inner=24, rotary_dim=4,
    )),
}  # fmt: skip


def write(name, folder):
    kind, config, settings = VARIANTS[name]
    torch.manual_seed(SEED)
    settings = settings | dict(vocab_size=VOCAB, bos_token_id=BOS, eos_token_id=BOS)
    save(fill(kind(config(**settings)), spread), folder)
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()
    ids = torch.randint(1, VOCAB, (1, 16), generator=torch.Generator().manual_seed(SEED))
    logits = model(ids).logits[0].contiguous()
    save_file({"ids": ids[0].to(torch.uint32), "logits": logits}, folder / "golden.safetensors")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--into", type=Path, default=Path(__file__).parent / "variants", metavar="FOLDER")
    arguments = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    for name in VARIANTS:
        write(name, arguments.into / name)
    print(f"wrote {len(VARIANTS)} models into {arguments.into}")


if __name__ == "__main__":
    main()
