"""Python's side of the comparison: answers one JSON line for each that it reads, as `driver.rs` does.

    python theirs.py LIBRARY MODEL

LIBRARY is `transformer_lens` or `transformers`, MODEL a GPT-2's folder or a GGUF file. TransformerLens opens models by
name only; it is started where MODEL lies in a folder called `gpt2`, which transformers then reads in place of the hub.
Each function below is the work as the library's own documentation, or the ARENA course, would have it done.
"""

import ctypes
import gc
import json
import os
import sys
import time
from functools import partial
from pathlib import Path

# Answers have the standard output for themselves: libraries print on it.
ANSWERS = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)

import torch
from safetensors.torch import save_file

MOST_COMPARED = 1 << 20
GOLDEN = Path(__file__).resolve().parents[2] / "tests" / "golden"


def ids_of(request, key="ids"):
    return torch.tensor(request[key])


def alone(tensor):
    """Without the batch axis of a single input."""
    return tensor.squeeze(0) if tensor.shape[0] == 1 else tensor


class TransformerLens:
    def __init__(self, path):
        self.path = path
        self.model = self.opened(folded=False)

    def opened(self, folded):
        from transformer_lens import HookedTransformer

        if self.path.suffix == ".gguf":
            return self.opened_gguf(folded)
        open_model = HookedTransformer.from_pretrained if folded else HookedTransformer.from_pretrained_no_processing
        return open_model("gpt2", device="cpu")

    def opened_gguf(self, folded):
        """TransformerLens reads no GGUF files: it is given what transformers has read."""
        from transformer_lens import HookedTransformer

        sys.path.insert(0, str(GOLDEN))
        from hooked import FAMILIES, hooked_config

        hf = transformers_model(self.path)
        config = hooked_config(hf.config, torch.float32, folded)
        model = HookedTransformer(config)
        weights = FAMILIES[hf.config.model_type].convert(hf, config)
        model.load_and_process_state_dict(
            weights, fold_ln=folded, center_writing_weights=folded, center_unembed=folded, fold_value_biases=folded
        )
        return model.eval()

    def sizes(self):
        return self.model.cfg.n_layers, self.model.cfg.d_vocab

    def load(self, request):
        model = self.opened(request["folded"])
        return lambda: self.loaded_arrays(model, ids_of(request))

    @staticmethod
    def loaded_arrays(model, ids):
        arrays = {"logits": alone(model(ids)), "W_E": model.W_E, "W_U": model.W_U}
        for layer in {0, model.cfg.n_layers - 1}:
            attention, mlp = model.blocks[layer].attn, model.blocks[layer].mlp
            for name in ("W_Q", "W_K", "W_V", "W_O"):
                arrays[f"blocks.{layer}.attn.{name}"] = getattr(attention, name)
            for name in ("W_in", "W_out"):
                arrays[f"blocks.{layer}.mlp.{name}"] = getattr(mlp, name)
        return arrays

    def forward(self, request):
        logits = self.model(ids_of(request), return_type="logits")
        return lambda: {"logits": alone(logits)}

    def run_with_cache(self, request):
        ids, last = ids_of(request), self.model.cfg.n_layers
        if request["keep"] == "everything":
            logits, cache = self.model.run_with_cache(ids)
            return lambda: {name: alone(cache[name]) for name in cache} | {"unembed.hook_out": alone(logits)}
        patterns = request["keep"] == "patterns"
        names = (lambda name: name.endswith("hook_pattern")) if patterns else None
        _, cache = self.model.run_with_cache(ids, return_type=None, names_filter=names, stop_at_layer=last)
        return lambda: {name: alone(cache[name]) for name in cache}

    def stripes(self, ids, distance):
        """Each head's mean attention to the key `distance` before [batch, layer, head]: ARENA's induction detector."""
        config = self.model.cfg
        scores = torch.zeros(len(ids), config.n_layers, config.n_heads)

        def read(pattern, hook):
            scores[:, hook.layer()] = pattern.diagonal(-distance, -2, -1).mean(-1)

        self.model.run_with_hooks(
            ids,
            return_type=None,
            stop_at_layer=config.n_layers,
            fwd_hooks=[(lambda name: name.endswith("pattern"), read)],
        )
        return scores

    def induction_scores(self, request):
        scores = self.stripes(ids_of(request), request["length"] - 1).mean(0)
        return lambda: {"scores": scores}

    def many_prompts(self, request):
        scores = [self.stripes(torch.tensor(batch), (len(batch[0]) - 1) // 2 - 1) for batch in request["batches"]]
        return lambda: {"scores": torch.cat(scores)}

    def metric(self, request, ids):
        """The metric of a model with hooks, as a function of the hooks."""
        if request["metric"] == "loss":
            return lambda hooks: self.model.run_with_hooks(ids, return_type="loss", fwd_hooks=hooks).item()
        measure = partial(logit_difference, correct=request["correct"], incorrect=request["incorrect"])
        return lambda hooks: measure(self.model.run_with_hooks(ids, return_type="logits", fwd_hooks=hooks)).item()

    def ablation(self, request):
        """Each head, MLP, layer's attention and layer without it, as headlight's sweep has them."""
        config, measure = self.model.cfg, self.metric(request, ids_of(request))
        layers = range(config.n_layers)

        def without_head(z, hook, head):
            z[:, :, head] = 0.0
            return z

        def zero(activation, hook):
            return torch.zeros_like(activation)

        def z(layer):
            return f"blocks.{layer}.attn.hook_z"

        def mlp(layer):
            return f"blocks.{layer}.hook_mlp_out"

        clean = measure([])
        heads = torch.zeros(config.n_layers, config.n_heads)
        for layer in layers:
            for head in range(config.n_heads):
                heads[layer, head] = measure([(z(layer), partial(without_head, head=head))]) - clean
        parts = [
            lambda layer: [(mlp(layer), zero)],
            lambda layer: [(z(layer), zero)],
            lambda layer: [(z(layer), zero), (mlp(layer), zero)],
        ]
        of_layers = torch.tensor([[measure(part(layer)) - clean for layer in layers] for part in parts])
        return lambda: {"clean": torch.tensor([clean]), "heads": heads, "layers": of_layers}

    def patching(self, request):
        from transformer_lens import patching

        clean, corrupted = ids_of(request, "clean"), ids_of(request)
        measure = partial(logit_difference, correct=request["correct"], incorrect=request["incorrect"])
        _, cache = self.model.run_with_cache(
            clean,
            return_type=None,
            stop_at_layer=self.model.cfg.n_layers,
            names_filter=lambda name: name.endswith("hook_resid_pre"),
        )
        patched = patching.get_act_patch_resid_pre(self.model, corrupted, cache, measure)
        return lambda: {"patched": patched}

    def composition(self, request):
        scores = self.model.all_composition_scores("K")
        return lambda: {"scores": scores}

    def singular_values(self, request):
        values = self.model.OV.S
        return lambda: {"values": values.flatten(0, 1)}

    def copying(self, request):
        """ARENA's top-1 accuracy of the full OV circuit of two heads together."""
        model, rows = self.model, 1000
        attention = model.blocks[model.cfg.n_layers - 1].attn
        read = torch.cat([attention.W_V[0], attention.W_V[1]], 1)
        write = torch.cat([attention.W_O[0], attention.W_O[1]], 0)
        left, right = model.W_E @ read, write @ model.W_U
        vocabulary = torch.arange(model.cfg.d_vocab)

        def share(copied):
            found = sum(copied(left[own] @ right, own).sum().item() for own in vocabulary.split(rows))
            return torch.tensor([found / model.cfg.d_vocab])

        first = share(lambda logits, own: logits.argmax(1) == own)

        def among(logits, own):
            return (logits > logits.gather(1, own[:, None])).sum(1) < model.cfg.d_vocab // 10

        return lambda: {"among the first": first, "among the first tenth": share(among)}

    def generate(self, request):
        ids = ids_of(request)
        generated = self.model.generate(
            ids, max_new_tokens=request["new"], do_sample=False, stop_at_eos=False, use_past_kv_cache=True, verbose=False
        )
        return lambda: {"ids": generated[0, ids.shape[1] :]}

    def limit(self, request):
        """The multiplications of a GPT-2's forward pass, as `driver.rs` has them, by torch."""
        config, length = self.model.cfg, len(request["ids"][0])
        width, heads, head = config.d_model, config.n_heads, config.d_head
        layer = [
            ((length, width), (width, 3 * heads * head)),
            ((heads, length, head), (heads, head, length)),
            ((heads, length, length), (heads, length, head)),
            ((length, heads * head), (heads * head, width)),
            ((length, width), (width, config.d_mlp)),
            ((length, config.d_mlp), (config.d_mlp, width)),
        ]
        shapes = layer * config.n_layers + [((length, width), (width, config.d_vocab))]
        pairs = [(torch.rand(left), torch.rand(right)) for left, right in shapes]
        seconds = []
        for _ in range(request["rounds"] + 1):
            start = time.perf_counter()
            for left, right in pairs:
                left @ right
            seconds.append(time.perf_counter() - start)
        return {"multiplied": seconds[1:]}


def logit_difference(logits, correct, incorrect):
    return logits[0, -1, correct] - logits[0, -1, incorrect]


def transformers_model(path):
    from transformers import AutoModelForCausalLM

    if path.suffix == ".gguf":
        return AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()


class Transformers:
    """Hugging Face's transformers, with its fused attention (sdpa) unless patterns are asked for, which are eager's."""

    def __init__(self, path):
        self.path = path
        self.model = transformers_model(path)

    def sizes(self):
        return self.model.config.num_hidden_layers, self.model.config.vocab_size

    def load(self, request):
        model = transformers_model(self.path)
        return lambda: {"logits": alone(model(ids_of(request)).logits)}

    def forward(self, request):
        logits = self.model(ids_of(request), use_cache=False).logits
        return lambda: {"logits": alone(logits)}

    def run_with_cache(self, request):
        self.model.set_attn_implementation("eager")
        output = self.model.base_model(ids_of(request), output_attentions=True, use_cache=False)
        self.model.set_attn_implementation("sdpa")
        attentions = output.attentions
        return lambda: {f"blocks.{layer}.attn.hook_pattern": alone(found) for layer, found in enumerate(attentions)}

    def generate(self, request):
        ids = ids_of(request)
        generated = self.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=request["new"], do_sample=False,
            eos_token_id=None, pad_token_id=0,
        )  # fmt: skip
        return lambda: {"ids": generated[0, ids.shape[1] :]}


LIBRARIES = {"transformer_lens": TransformerLens, "transformers": Transformers}


def thinned(tensor):
    values = tensor.detach().float().flatten()
    step = -(-len(values) // MOST_COMPARED) | 1
    return values[::step].clone()


def memory(line):
    for text in Path("/proc/self/status").read_text().splitlines():
        if text.startswith(line):
            return int(text.split()[1]) * 1024
    raise RuntimeError(f"the system says no {line}")


def trim():
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except AttributeError:
        pass  # not glibc


def answer(library, request, loaded):
    if request["work"] == "limit":
        return library.limit(request)
    if request["work"] == "tidy":
        gc.collect()
        return {}
    work = getattr(library, request["work"])
    if "arrays" in request:
        trim()
        Path("/proc/self/clear_refs").write_text("5")
    start = time.perf_counter()
    found = work(request)
    reply = {"seconds": time.perf_counter() - start}
    if "arrays" in request:
        reply["peak"] = max(memory("VmHWM:") - loaded, 0)
        save_file({name: thinned(tensor) for name, tensor in found().items()}, request["arrays"])
    return reply


@torch.inference_mode()
def main(libraries):
    from transformers.utils.logging import disable_progress_bar

    name, path = sys.argv[1:]
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    disable_progress_bar()
    library = libraries[name](Path(path))
    trim()
    loaded = memory("VmRSS:")
    layers, vocabulary = library.sizes()
    print(json.dumps({"loaded": loaded, "layers": layers, "vocabulary": vocabulary}), file=ANSWERS)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            reply = answer(library, request, loaded)
        except Exception as error:  # said to the harness, which stops
            reply = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), file=ANSWERS)


if __name__ == "__main__":
    main(LIBRARIES)
