"""Make defaults.json: what transformers makes of a config.json that lacks an entry, has null there, or says it in other words.

    python make_defaults.py [--into FILE]

Every entry of every architecture's config is taken out of a whole one. A row names the model, what of its config.json is
changed, and the entries that are then other than in the whole one, or null if transformers refuses such a file. The models
of attention alone are TransformerLens's. `bos_and_eos` are the classes' own, as `start_and_eos` are, of what has a decoder that reads an
encoder: the token that it begins with, and that ends.
"""

import argparse
import copy
import json
from pathlib import Path

import transformers
from transformers import CONFIG_MAPPING, PreTrainedConfig

HERE = Path(__file__).parent
MODELS = [
    "tiny-gpt2-random", "variants/gpt2-scaled-by-layer", "tiny-neo", "tiny-neox", "variants/neox-no-biases",
    "variants/neox-one-after-the-other", "tiny-gptj", "tiny-llama-random", "tiny-llama3", "variants/llama-biases",
    "variants/llama-linear-scaling", "tiny-mistral", "tiny-qwen2", "variants/qwen2-window-above", "tiny-qwen3",
    "variants/qwen3-biases", "encoders/bert-masked", "encoders/roberta-masked", "encoders/distilbert-masked",
    "translators/t5", "translators/t5-gated", "translators/mt5", "translators/marian", "translators/bart",
]  # fmt: skip
ATTENTION = ["tiny-attn-only", "tiny-attn-only-bare"]

# What changes nothing of a run, beside what all of transformers' configs have.
OTHERS = (
    "attention_dropout", "attn_pdrop", "classifier_dropout", "embd_pdrop", "embed_dropout", "hidden_dropout",
    "initializer_range", "is_decoder", "model_type", "pad_token_id", "pretraining_tp", "reorder_and_upcast_attn",
    "resid_dropout", "resid_pdrop", "use_cache",
)  # fmt: skip
OF_ALL = set(PreTrainedConfig().to_dict()) - {"bos_token_id", "eos_token_id", "tie_word_embeddings"}


def counts(entry):
    return entry not in OTHERS and entry not in OF_ALL and not entry.startswith("summary_")


def whole(config):
    """All entries that transformers has after reading a file; nothing if it refuses the file."""
    told = copy.deepcopy(config)
    try:
        found = CONFIG_MAPPING[told.pop("model_type")].from_dict(told).to_dict()
    except (KeyError, TypeError, ValueError):
        return None
    except Exception as error:  # the classes of strict configs are not exported
        if "Strict" not in type(error).__name__:
            raise
        return None
    return {entry: value for entry, value in found.items() if counts(entry)}


LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0)
WINDOWS = ("max_window_layers", "sliding_window", "use_sliding_window", "num_hidden_layers")


def older(**scaling):
    """Without the entry that transformers writes since version 5."""
    return ["rope_parameters"], scaling


def other_names(width, positions):
    told = dict(hidden_size=width, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=positions)
    return ["n_embd", "n_layer", "n_head", "n_positions"], told


# Beside single entries: what is taken out, and what is put in.
MORE = {
    "tiny-gpt2-random": [other_names(64, 128), ([], {"num_attention_heads": 8}), ([], {"n_ctx": 64})],
    "tiny-gptj": [other_names(32, 64)],
    "tiny-neo": [
        (["num_layers", "num_heads"], {"num_hidden_layers": 2, "num_attention_heads": 8}),
        (["attention_layers", "attention_types"], {}),
        (["attention_layers"], {"attention_types": []}),
        (["attention_types"], {"attention_layers": ["local", "global"]}),
        ([], {"attention_layers": ["local", "local"]}),
    ],
    "tiny-neox": [
        older(rotary_pct=0.5),
        older(rotary_emb_base=77),
        older(rope_theta=77.0),
        older(rotary_pct=1.0, rope_parameters={"partial_rotary_factor": 0.5}),
        older(rotary_pct=1.0, rotary_emb_base=50, rope_scaling={"type": "linear", "factor": 2.0}),
    ],
    "tiny-llama3": [
        older(rope_theta=500.0),
        older(rope_theta=500.0, rope_parameters={}),
        older(rope_theta=500.0, rope_parameters={"rope_theta": 7.0}),
        ([], {"rope_scaling": {"type": "linear", "factor": 2.0}}),
        ([], {"rope_scaling": {}}),
        ([], {"rope_scaling": None}),
        older(rope_scaling={"factor": 8.0}),
        older(rope_scaling={"type": "linear"}),
        older(rope_scaling={"type": "linear", "rope_type": "default", "factor": 8.0}),
        older(rope_scaling=LLAMA3, original_max_position_embeddings=16),
        *[older(rope_scaling={key: LLAMA3[key] for key in LLAMA3 if key != lacking}) for lacking in LLAMA3],
        (["num_key_value_heads", "head_dim"], {}),
    ],
    "tiny-mistral": [([], {"sliding_window": 3, "layer_types": ["full_attention"] * 2})],
    "tiny-qwen2": [([], {"sliding_window": 3}), ([], {"layer_types": ["full_attention"]}), ([], {"head_dim": 8})],
    "variants/qwen2-window-above": [
        *[(["layer_types", entry], {}) for entry in WINDOWS],
        (["layer_types"], {"max_window_layers": 0}),
        (["layer_types"], {"sliding_window": None}),
        ([], {"use_sliding_window": False, "layer_types": None}),
    ],
}


def rows(model):
    config = json.loads((HERE / model / "config.json").read_text())
    full = whole(config)
    changes = [([entry], {}) for entry in full]
    changes += [([], {entry: None}) for entry in full]
    for unset, set in changes + MORE.get(model, []):
        told = {entry: value for entry, value in config.items() if entry not in unset} | set
        found = whole(told)
        if found is None and list(set.values()) == [None]:
            continue  # what transformers has no use for
        if found is not None:
            found = {entry: value for entry, value in found.items() if value != full.get(entry)}
        yield dict(model=model, unset=unset, set=set, then=found)


def rows_of_attention(model):
    from transformer_lens import HookedTransformerConfig

    config = json.loads((HERE / model / "config.json").read_text())
    config = {key: value for key, value in config.items() if key not in ("model_type", "bos_token_id", "eos_token_id")}
    for key in config:
        if key in ("attn_only", "act_fn"):
            continue  # what the model_type says
        told = {entry: value for entry, value in config.items() if entry != key}
        try:
            value = getattr(HookedTransformerConfig(**told), key)
            # -1 is nothing yet, which a tokenizer then says.
            then = None if value == -1 else {} if value == config[key] else {key: value}
        except TypeError:
            then = None
        yield dict(model=model, unset=[key], set={}, then=then)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--into", type=Path, default=HERE / "defaults.json", metavar="FILE")
    arguments = parser.parse_args()
    transformers.logging.set_verbosity_error()
    found = [row for model in MODELS for row in rows(model)]
    found += [row for model in ATTENTION for row in rows_of_attention(model)]
    types = dict.fromkeys(json.loads((HERE / model / "config.json").read_text())["model_type"] for model in MODELS)
    configs = {name: CONFIG_MAPPING[name]() for name in types}
    ends = {name: [getattr(config, "bos_token_id", None), config.eos_token_id] for name, config in configs.items()}
    starts = {
        name: [getattr(config, "decoder_start_token_id", None), config.eos_token_id]
        for name, config in configs.items() if config.is_encoder_decoder
    }  # fmt: skip
    lines = ",\n".join("  " + json.dumps(row) for row in found)
    made_by = f"transformers {transformers.__version__}"
    head = f'{{\n"made_by": {json.dumps(made_by)},\n"bos_and_eos": {json.dumps(ends)},\n"start_and_eos": {json.dumps(starts)},\n'
    arguments.into.write_text(head + f'"rows": [\n{lines}\n]\n}}\n')
    print(f"wrote {len(found)} rows into {arguments.into}")


if __name__ == "__main__":
    main()
