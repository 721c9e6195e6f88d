#!/usr/bin/env python3
"""Write a Whisper checkpoint as the one file that whisper.cpp reads.

    python profiles/bench/write-ggml.py FOLDER -o build/bench/whisper.bin

FOLDER is anything that EdgeKit's export reads as Whisper: safetensors, or a CTranslate2 container. With --kind q8_0 the
matrices become blocks of 32 INT8 weights with one half-precision scale, as whisper.cpp's own quantiser makes them; with
f16 they stay half precision. Everything else is what the format fixes: convolutions f16, the rest float32.

The format, in order, all little-endian (source: whisper.cpp, whisper_model_load): a magic number, eleven sizes, the mel
filters, the plain part of the vocabulary as bytes, then each tensor with its name, sizes (innermost first) and type.
"""

import argparse
import json
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import CheckpointError
from edgekit.exporter.sources.checkpoint import open_checkpoint, read
from edgekit.runtime.hear.features import mel_filters

MAGIC = 0x67676D6C
N_FFT, RATE_HZ = 400, 16_000
FILE_KINDS = {"f16": 1, "q8_0": 7 + 2 * 1000}  # the thousands count versions of the block layouts: the second
F32, F16, Q8_0 = 0, 1, 8  # a tensor's type
BLOCK = 32

# Hugging Face -> OpenAI, inside a layer and outside.
IN_LAYER = {
    "self_attn.q_proj": "attn.query",
    "self_attn.k_proj": "attn.key",
    "self_attn.v_proj": "attn.value",
    "self_attn.out_proj": "attn.out",
    "self_attn_layer_norm": "attn_ln",
    "encoder_attn.q_proj": "cross_attn.query",
    "encoder_attn.k_proj": "cross_attn.key",
    "encoder_attn.v_proj": "cross_attn.value",
    "encoder_attn.out_proj": "cross_attn.out",
    "encoder_attn_layer_norm": "cross_attn_ln",
    "fc1": "mlp.0",
    "fc2": "mlp.2",
    "final_layer_norm": "mlp_ln",
}
OUTSIDE = {
    "encoder.layer_norm.weight": "encoder.ln_post.weight",
    "encoder.layer_norm.bias": "encoder.ln_post.bias",
    "encoder.embed_positions.weight": "encoder.positional_embedding",
    "decoder.layer_norm.weight": "decoder.ln.weight",
    "decoder.layer_norm.bias": "decoder.ln.bias",
    "decoder.embed_positions.weight": "decoder.positional_embedding",
    "decoder.embed_tokens.weight": "decoder.token_embedding.weight",
} | {name: name for conv in ("conv1", "conv2") for name in (f"encoder.{conv}.weight", f"encoder.{conv}.bias")}


def main() -> None:
    """Write the file and say where."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path, help="folder of a Whisper checkpoint")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--kind", choices=tuple(FILE_KINDS), default="q8_0")
    args = parser.parse_args()
    args.output.parent.mkdir(parents=True, exist_ok=True)
    try:
        with args.output.open("wb") as file:
            file.writelines(container(args.checkpoint, args.kind))
    except CheckpointError as error:
        args.output.unlink()
        raise SystemExit(str(error)) from error
    print(f"{args.output}: {args.output.stat().st_size / 2**20:.1f} MiB, {args.kind}")


def container(folder: Path, kind: str) -> Iterator[bytes]:
    """Yield the file piece by piece. Raises CheckpointError for another family or an unreadable checkpoint."""
    checkpoint = open_checkpoint(folder)
    config = checkpoint.config
    if config.get("model_type") != "whisper":
        raise CheckpointError(f"{folder}: model_type is {config.get('model_type')}, whisper.cpp reads whisper only")
    bins = config["num_mel_bins"]
    yield struct.pack("<I", MAGIC)
    yield struct.pack(
        "<11i",
        config["vocab_size"],
        config["max_source_positions"],
        config["d_model"],
        config["encoder_attention_heads"],
        config["encoder_layers"],
        config["max_target_positions"],
        config["d_model"],
        config["decoder_attention_heads"],
        config["decoder_layers"],
        bins,
        FILE_KINDS[kind],
    )
    filters = mel_filters(bins, N_FFT, RATE_HZ)
    yield struct.pack("<2i", *filters.shape) + filters.astype("<f4").tobytes()
    words = vocabulary(folder / "tokenizer.json", config["eos_token_id"])
    yield struct.pack("<i", len(words))
    for word in words:
        yield struct.pack("<I", len(word)) + word
    for name in sorted(checkpoint.names()):
        yield from tensor(openai_name(name), read(checkpoint, name), kind)


def vocabulary(path: Path, end: int) -> list[bytes]:
    """Return the bytes of every token up to the end token; whisper.cpp names the special ones after it itself."""
    table: dict[str, int] = json.loads(path.read_text(encoding="utf-8"))["model"]["vocab"]
    characters = {number: word for word, number in table.items() if number <= end}
    if len(characters) != end + 1:
        raise CheckpointError(f"{path}: {len(characters)} tokens up to {end}; take tokenizer.json from the original")
    byte_of = {character: byte for byte, character in byte_characters().items()}
    return [bytes(byte_of[character] for character in characters[number]) for number in range(end + 1)]


def byte_characters() -> dict[int, str]:
    """Return the character that stands for each byte in GPT-2's vocabulary: itself, or one from 256 on."""
    prints = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in prints]
    return {byte: chr(byte) for byte in prints} | {byte: chr(256 + i) for i, byte in enumerate(others)}


def openai_name(name: str) -> str:
    """Return what OpenAI, and so whisper.cpp, calls a Hugging Face tensor."""
    bare = name.removeprefix("model.")
    if bare in OUTSIDE:
        return OUTSIDE[bare]
    match = re.fullmatch(r"(encoder|decoder)\.layers\.(\d+)\.(.+)\.(weight|bias)", bare)
    if match is None or match[3] not in IN_LAYER:
        raise CheckpointError(f"{name}: no part of a Whisper with a tied head; take the original checkpoint")
    return f"{match[1]}.blocks.{match[2]}.{IN_LAYER[match[3]]}.{match[4]}"


def tensor(name: str, values: NDArray[np.float32], kind: str) -> Iterator[bytes]:
    """Yield one tensor with its header."""
    if re.fullmatch(r"encoder\.conv\d\.bias", name):
        values = values[:, None]  # added to (channels, frames)
    stored: NDArray[Any]
    if values.ndim == 1 or values.shape[-1] == 1 or name.endswith("positional_embedding"):
        number, stored = F32, values.astype("<f4")
    elif kind == "f16" or values.ndim == 3:
        number, stored = F16, values.astype("<f2")
    else:
        number, stored = Q8_0, blocks(name, values)
    encoded = name.encode()
    yield struct.pack("<3i", values.ndim, len(encoded), number)
    yield struct.pack(f"<{values.ndim}i", *reversed(values.shape)) + encoded
    yield stored.tobytes()


def blocks(name: str, values: NDArray[np.float32]) -> NDArray[Any]:
    """Return a matrix as Q8_0: for each 32 weights of a row a half-precision scale (largest / 127) and 32 bytes."""
    if values.shape[1] % BLOCK:
        raise CheckpointError(f"{name}: rows of {values.shape[1]}, Q8_0 needs a multiple of {BLOCK}; use --kind f16")
    groups = values.reshape(-1, BLOCK)
    scale = np.abs(groups).max(axis=1) / np.float32(127)
    steps = np.divide(groups, scale[:, None], out=np.zeros_like(groups), where=scale[:, None] > 0)
    stored = np.empty(len(groups), np.dtype([("scale", "<f2"), ("steps", "i1", BLOCK)]))
    stored["scale"] = scale
    stored["steps"] = np.trunc(steps + np.copysign(np.float32(0.5), steps))  # halves away from zero, as C rounds
    return stored


if __name__ == "__main__":
    main()
