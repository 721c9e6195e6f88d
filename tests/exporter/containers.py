"""Write containers as CTranslate2 keeps Whisper, from the layout in ctranslate2's specs/model_spec.py."""

import json
import struct
from pathlib import Path

import numpy as np

KINDS = ["float32", "int8", "int16", "int32", "float16", "bfloat16"]
WIDTH, MELS, FEED, VOCABULARY, SOUND, TEXT = 6, 5, 8, 30, 7, 9
LAYERS = {"encoder": 2, "decoder": 1}
MARKS = ["endoftext", "startoftranscript", "en", "de", "translate", "transcribe", "startoflm", "startofprev"]
MARKS += ["nospeech", "notimestamps"]
SETTINGS = {"suppress_ids": [1, 2], "suppress_ids_begin": [3], "alignment_heads": [[0, 1]], "lang_ids": [22]}


def word(text: str) -> bytes:
    return struct.pack("<H", len(text.encode()) + 1) + text.encode() + b"\0"


def variable(name: str, values: np.ndarray) -> bytes:
    head = word(name) + struct.pack("<B", values.ndim) + struct.pack(f"<{values.ndim}I", *values.shape)
    return head + struct.pack("<BI", KINDS.index(values.dtype.name), values.nbytes) + values.tobytes()


def container(
    variables: dict[str, np.ndarray],
    aliases: dict[str, str],
    version: int = 6,
    spec: str = "WhisperSpec",
    revision: int = 3,
) -> bytes:
    """Return the bytes of a model.bin."""
    parts = [struct.pack("<I", version), word(spec), struct.pack("<II", revision, len(variables))]
    parts += [variable(name, values) for name, values in sorted(variables.items())]
    parts += [struct.pack("<I", len(aliases)), *(word(alias) + word(name) for alias, name in aliases.items())]
    return b"".join(parts)


SELF, CROSS = "self_attn.", "encoder_attn."
# Container module -> the Hugging Face linears fused in it, rows of each, columns.
LINEARS = {
    "self_attention/linear_0": ([f"{SELF}q_proj", f"{SELF}k_proj", f"{SELF}v_proj"], WIDTH, WIDTH),
    "self_attention/linear_1": ([f"{SELF}out_proj"], WIDTH, WIDTH),
    "attention/linear_0": ([f"{CROSS}q_proj"], WIDTH, WIDTH),
    "attention/linear_1": ([f"{CROSS}k_proj", f"{CROSS}v_proj"], WIDTH, WIDTH),
    "attention/linear_2": ([f"{CROSS}out_proj"], WIDTH, WIDTH),
    "ffn/linear_0": (["fc1"], FEED, WIDTH),
    "ffn/linear_1": (["fc2"], WIDTH, FEED),
}
NORMS = {
    "self_attention/layer_norm": "self_attn_layer_norm",
    "attention/layer_norm": "encoder_attn_layer_norm",
    "ffn/layer_norm": "final_layer_norm",
}
SHAPES = {
    "encoder/position_encodings/encodings": ("model.encoder.embed_positions.weight", (SOUND, WIDTH)),
    "decoder/position_encodings/encodings": ("model.decoder.embed_positions.weight", (TEXT, WIDTH)),
    "encoder/conv1/weight": ("model.encoder.conv1.weight", (WIDTH, MELS, 3)),
    "encoder/conv1/bias": ("model.encoder.conv1.bias", (WIDTH,)),
    "encoder/conv2/weight": ("model.encoder.conv2.weight", (WIDTH, WIDTH, 3)),
    "encoder/conv2/bias": ("model.encoder.conv2.bias", (WIDTH,)),
    "decoder/embeddings/weight": ("model.decoder.embed_tokens.weight", (VOCABULARY, WIDTH)),
}
SCALARS = {"activation": 3, "alibi": 0, "pre_norm": 1, "scale_embeddings": 0, "start_from_zero_embedding": 0}
SCALARS |= {"alibi_use_positive_positions": 1, "scale_alibi": 0}


def whisper(kind: object = np.float16, seed: int = 0) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return (container variables, Hugging Face tensors) of one tiny random Whisper; key biases are zero."""
    rng = np.random.default_rng(seed)
    norms = {f"{side}/layer_norm": f"model.{side}.layer_norm" for side in LAYERS}
    linears = {}
    for side, layer in [(side, layer) for side, count in LAYERS.items() for layer in range(count)]:
        here, there = f"{side}/layer_{layer}/", f"model.{side}.layers.{layer}."
        mine = [module for module in [*NORMS, *LINEARS] if side == "decoder" or not module.startswith("attention")]
        norms |= {here + module: there + NORMS[module] for module in mine if module in NORMS}
        linears |= {here + module: (there, *LINEARS[module]) for module in mine if module in LINEARS}
    shapes = SHAPES | {f"{module}/gamma": (f"{name}.weight", (WIDTH,)) for module, name in norms.items()}
    shapes |= {f"{module}/beta": (f"{name}.bias", (WIDTH,)) for module, name in norms.items()}

    stored = {variable: rng.standard_normal(shape).astype(kind) for variable, (_, shape) in shapes.items()}
    wanted = {name: stored[variable] for variable, (name, _) in shapes.items()}
    for module, (there, parts, rows, columns) in linears.items():
        weights = {f"{there}{part}.weight": rng.standard_normal((rows, columns)).astype(kind) for part in parts}
        biases = {f"{there}{part}.bias": rng.standard_normal(rows).astype(kind) for part in parts}
        for name in biases:
            biases[name] *= not name.endswith("k_proj.bias")
        stored[f"{module}/weight"] = np.concatenate(list(weights.values()))
        stored[f"{module}/bias"] = np.concatenate(list(biases.values()))
        wanted |= weights | {name: bias for name, bias in biases.items() if not name.endswith("k_proj.bias")}
    stored |= {f"decoder/{name}": np.asarray(value, np.int8) for name, value in SCALARS.items()}
    stored |= {f"{side}/num_heads": np.asarray(2, np.int16) for side in LAYERS}
    stored |= {"decoder/alignment_layer": np.asarray(-1, np.int16), "decoder/alignment_heads": np.asarray(1, np.int16)}
    return stored, wanted


TIED = {"decoder/projection/weight": "decoder/embeddings/weight"}


def write(folder: Path, content: bytes, vocabulary: int = VOCABULARY) -> Path:
    """Write model.bin, config.json and tokenizer.json; returns the folder."""
    folder.mkdir(exist_ok=True)
    (folder / "model.bin").write_bytes(content)
    (folder / "config.json").write_text(json.dumps(SETTINGS))
    start = vocabulary - len(MARKS)
    added = [{"id": start + i, "content": f"<|{mark}|>"} for i, mark in enumerate(MARKS)]
    (folder / "tokenizer.json").write_text(json.dumps({"added_tokens": added}))
    return folder
