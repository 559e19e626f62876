"""Python's side of encoders that tell classes, as `theirs.py` is of the rest.

    python theirs_classifier.py LIBRARY MODEL

LIBRARY is `transformers` or `transformer_bridge`, MODEL the folder of a classifier of two classes.
"""

import sys
from functools import partial

# First: it keeps the standard output for answers.
from theirs import GOLDEN, alone, ids_of, main  # isort: split

import torch
from torch.nn.utils.rnn import pad_sequence

AT_ONCE = 16


def difference(logits, request):
    return logits[:, request["class"]] - logits[:, request["instead"]]


class Classifier:
    """What is the same by either library."""

    def sizes(self):
        return self.config.num_hidden_layers, self.config.vocab_size

    def classify(self, request):
        """By hand, by length: transformers' pipeline takes sentences as they come, and fills up more."""
        sentences = [torch.tensor(ids) for ids in request["ids"]]
        found = torch.empty(len(sentences), self.config.num_labels)
        order = sorted(range(len(sentences)), key=lambda index: len(sentences[index]))
        for start in range(0, len(order), AT_ONCE):
            together = order[start : start + AT_ONCE]
            ids = [sentences[index] for index in together]
            mask = pad_sequence([torch.ones_like(own) for own in ids], batch_first=True)
            found[together] = self.logits(pad_sequence(ids, batch_first=True), attention_mask=mask).softmax(-1)
        return lambda: {"probabilities": found}

    @torch.inference_mode(False)
    def integrated_gradients(self, request):
        from captum.attr import LayerIntegratedGradients

        ids = ids_of(request)
        integrated = LayerIntegratedGradients(lambda ids: difference(self.logits(ids), request), self.embedding)
        baseline = torch.full_like(ids, request["baseline"])
        # All steps at once: in parts of 1 to 25 it takes as long or longer.
        scores = integrated.attribute(ids, baselines=baseline, n_steps=request["steps"]).sum(-1)
        return lambda: {"scores": scores, "value": difference(self.logits(ids), request)}

    def ablation(self, request):
        """Each head, MLP, layer's attention and layer without it, as headlight's sweep has them."""
        ids, layers, heads = ids_of(request), range(self.config.num_hidden_layers), self.config.num_attention_heads
        measure = partial(self.measured_without, ids, request)
        clean = measure([])
        of_heads = torch.tensor([[measure([(layer, head)]) - clean for head in range(heads)] for layer in layers])
        parts = [
            lambda layer: [(layer, "mlp")],
            lambda layer: [(layer, "attention")],
            lambda layer: [(layer, "attention"), (layer, "mlp")],
        ]
        of_layers = torch.tensor([[measure(part(layer)) - clean for layer in layers] for part in parts])
        return lambda: {"clean": torch.tensor([clean]), "heads": of_heads, "layers": of_layers}


class Transformers(Classifier):
    @torch.inference_mode(False)
    def __init__(self, path):
        from transformers import AutoModelForSequenceClassification

        sys.path.insert(0, str(GOLDEN))
        from make_encoders import NAMES

        # Nothing is trained: no gradient of a weight is wanted.
        self.model = AutoModelForSequenceClassification.from_pretrained(path, dtype=torch.float32).eval().requires_grad_(False)
        self.config = self.model.config
        self.embedding = self.model.get_input_embeddings()
        self.names = NAMES[self.config.model_type]

    def logits(self, ids, **more):
        return self.model(input_ids=ids, **more).logits

    def run_with_cache(self, request):
        from make_encoders import Seen, hooks

        self.model.set_attn_implementation("eager")
        seen = Seen(self.model)
        attentions = self.model(ids_of(request), output_attentions=True).attentions
        for handle in seen.handles:
            handle.remove()
        self.model.set_attn_implementation("sdpa")
        # What headlight keeps where it is asked for alone.
        besides = ("hook_result", "hook_q_input", "hook_k_input", "hook_v_input", "hook_mlp_in")
        return lambda: {name: value for name, value in hooks(self.model, seen, attentions).items() if not name.endswith(besides)}

    def module(self, layer, part):
        block = self.names["layer"].format(layer)
        return self.model.base_model.get_submodule(f"{block}.{self.names[part]}")

    def measured_without(self, ids, request, parts):
        size = self.config.hidden_size // self.config.num_attention_heads

        def without_head(module, given, head):
            given[0][:, :, head * size : (head + 1) * size] = 0.0

        def without_attention(module, given):
            return (torch.zeros_like(given[0]),)

        def nothing(module, given, made):
            return torch.zeros_like(made)

        handles = []
        for layer, part in parts:
            if part == "mlp":
                handles.append(self.module(layer, "mlp_out").register_forward_hook(nothing))
            else:
                without = without_attention if part == "attention" else partial(without_head, head=part)
                handles.append(self.module(layer, "attn_out").register_forward_pre_hook(without))
        value = difference(self.logits(ids), request).item()
        for handle in handles:
            handle.remove()
        return value


class TransformerBridge(Classifier):
    """TransformerLens has no classifiers: it is given the model as one of next sentences, whose head is the same arithmetic."""

    @torch.inference_mode(False)
    def __init__(self, path):
        from transformer_lens import TransformerBridge
        from transformers import AutoModelForSequenceClassification, BertForNextSentencePrediction

        classifier = AutoModelForSequenceClassification.from_pretrained(path, dtype=torch.float32)
        model = BertForNextSentencePrediction.from_pretrained(path, dtype=torch.float32, attn_implementation="eager")
        model.cls.seq_relationship.load_state_dict(classifier.classifier.state_dict())
        self.config = classifier.config
        self.model = TransformerBridge.boot_transformers(str(path), hf_model=model.eval().requires_grad_(False), device="cpu")
        self.embedding = self.model.embed

    def logits(self, ids, **more):
        return self.model(ids, **more)

    def run_with_cache(self, request):
        _, cache = self.model.run_with_cache(ids_of(request))
        return lambda: {self.named(name): alone(cache[name]) for name in cache if self.named(name)}

    ALIKE = (
        *(f"attn.hook_{name}" for name in ("q", "k", "v", "z", "pattern")),
        "mlp.hook_pre", "mlp.hook_post", "hook_resid_pre", "hook_mlp_out", "ln1.hook_scale", "ln2.hook_scale",
    )  # fmt: skip
    OTHERWISE = {
        "embed.hook_out": "hook_embed", "pos_embed.hook_out": "hook_pos_embed",
        "token_type_embed.hook_out": "hook_token_type_embed", "embed_ln.hook_scale": "embed.ln.hook_scale",
        "embed_ln.hook_out": "hook_full_embed", "pooler.hook_out": "pooler.hook_pooler_out", "unembed.hook_out": "classifier.hook_out",
    }  # fmt: skip

    def named(self, name):
        """headlight's name of an activation that both have."""
        if name.startswith("blocks."):
            _, layer, own = name.split(".", 2)
            # Its names of sums are of what the norms make of them, its scores are patterns.
            other = {"hook_resid_post": "hook_normalized_resid_post", "attn.o.hook_out": "hook_attn_out"}.get(own)
            return f"blocks.{layer}.{other}" if other else name if own in self.ALIKE else None
        return self.OTHERWISE.get(name)

    def measured_without(self, ids, request, parts):
        def without_head(z, hook, head):
            z[:, :, head] = 0.0
            return z

        def zero(activation, hook):
            return torch.zeros_like(activation)

        hooks = []
        for layer, part in parts:
            name = f"blocks.{layer}.hook_mlp_out" if part == "mlp" else f"blocks.{layer}.attn.hook_z"
            hooks.append((name, partial(without_head, head=part) if isinstance(part, int) else zero))
        return difference(self.model.run_with_hooks(ids, fwd_hooks=hooks), request).item()


if __name__ == "__main__":
    main({"transformers": Transformers, "transformer_bridge": TransformerBridge})
