"""Whisper checkpoints in CTranslate2's container, presented under their Hugging Face names.

Knows the container (binary version 6) and the layout of its WhisperSpec (revision 3): query, key and value are stored
fused, scalars hold what a config would say. Does not know the library: nothing here imports ctranslate2.
Source of both layouts: ctranslate2's Python package, specs/model_spec.py, specs/transformer_spec.py and
specs/whisper_spec.py (4.8).
"""

import math
import os
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.errors import CheckpointError
from edgekit.exporter.sources.stored import (
    FLOATS,
    LARGEST_LIST,
    StoredTensor,
    StoredTensors,
    check_shape,
    opened,
    read_object,
)

BINARY_VERSION = 6
SPEC, REVISION = "WhisperSpec", 3
KINDS = ("F32", "I8", "I16", "I32", "F16", "BF16")  # in the order of the container's type numbers
ITEM_BYTES = {"F32": 4, "I8": 1, "I16": 2, "I32": 4, "F16": 2, "BF16": 2}
LATEST_PLAUSIBLE_VERSION = 255  # tells a container from a pickle: one starts with 0x80, or with "PK" if zipped
GELU = 3  # source: ctranslate2, specs/common_spec.py, Activation
# What Whisper's arithmetic fixes; the container must agree.
FIXED_SCALARS = {
    "decoder/activation": GELU,
    "decoder/alibi": 0,
    "decoder/pre_norm": 1,
    "decoder/scale_embeddings": 0,
    "decoder/start_from_zero_embedding": 0,
}
# Say how CTranslate2 aligns words or scales a bias that Whisper lacks; no part of the arithmetic.
UNUSED_SCALARS = frozenset(
    f"decoder/{name}" for name in ("alibi_use_positive_positions", "alignment_heads", "alignment_layer", "scale_alibi")
)


class CTranslate2Checkpoint(StoredTensors):
    """A folder of model.bin, config.json and tokenizer.json as CTranslate2 keeps Whisper; only headers are in memory.

    config and generation are what the Hugging Face checkpoint's config.json and generation_config.json would say.
    """

    @classmethod
    def open(cls, folder: Path) -> "CTranslate2Checkpoint":
        """Return the checkpoint in a folder. Raises CheckpointError if it is damaged, quantised or not Whisper."""
        container = _read_container(folder / "model.bin")
        tensors = _hugging_face_tensors(container)
        tokens = _special_tokens(folder / "tokenizer.json")
        config = _whisper_config(container, tensors) | _start_and_end(tokens)
        settings = read_object(folder / "config.json")
        return cls(folder, config, _generation(settings, folder / "config.json"), tensors)


@dataclass(frozen=True)
class Container:
    """What one model.bin holds: tensors by name (aliases resolved), scalar values by name, alias -> its target."""

    path: Path
    tensors: Mapping[str, StoredTensor]
    scalars: Mapping[str, int]
    aliases: Mapping[str, str]


def is_container(path: Path) -> bool:
    """Return whether a file starts with a container's version number rather than like a pickle."""
    if not path.is_file():
        return False
    with opened(path) as file:
        return 0 < int.from_bytes(file.read(4), "little") <= LATEST_PLAUSIBLE_VERSION


def _read_container(path: Path) -> Container:
    with opened(path) as file:
        _check_kind(file, path)
        tensors: dict[str, StoredTensor] = {}
        scalars: dict[str, int] = {}
        for _ in range(_number(file, "I", path)):
            stored, size = _read_variable(file, path)
            if stored.name in tensors or stored.name in scalars:
                raise CheckpointError(f"{path}: {stored.name} appears twice; convert the checkpoint again")
            if stored.shape or stored.kind in FLOATS:
                tensors[stored.name] = stored
                file.seek(size, os.SEEK_CUR)
            else:
                scalars[stored.name] = int.from_bytes(_bytes(file, size, path), "little", signed=True)
        aliases: dict[str, str] = {}
        for _ in range(_number(file, "I", path)):
            alias, name = _word(file, path), _word(file, path)
            if alias in aliases or alias in tensors or alias in scalars:
                raise CheckpointError(f"{path}: {alias} appears twice; convert the checkpoint again")
            aliases[alias] = name
        if file.read(1):
            raise CheckpointError(
                f"{path}: bytes after the last alias at {file.tell() - 1}; convert the checkpoint again"
            )
    for alias, name in aliases.items():
        if name not in tensors:
            raise CheckpointError(
                f"{path}: {alias} stands for {name}, which is not stored; convert the checkpoint again"
            )
    tensors |= {alias: tensors[name] for alias, name in aliases.items()}
    return Container(path, tensors, scalars, aliases)


def _check_kind(file: BufferedReader, path: Path) -> None:
    version = _number(file, "I", path)
    if version != BINARY_VERSION:
        raise CheckpointError(
            f"{path}: container version {version}, export reads {BINARY_VERSION}; convert with a current ctranslate2"
        )
    spec, revision = _word(file, path), _number(file, "I", path)
    if (spec, revision) != (SPEC, REVISION):
        raise CheckpointError(
            f"{path}: holds {spec} revision {revision}, export reads {SPEC} revision {REVISION}; "
            "take the original checkpoint"
        )


def _read_variable(file: BufferedReader, path: Path) -> tuple[StoredTensor, int]:
    """Return the variable at the file's position and its bytes; leaves the position at the first of them."""
    name = _word(file, path)
    shape = tuple(_number(file, "I", path) for _ in range(_number(file, "B", path)))
    kind_number, size = _number(file, "B", path), _number(file, "I", path)
    if kind_number >= len(KINDS):
        raise CheckpointError(
            f"{path}: {name} has number type {kind_number}, must be below {len(KINDS)}; convert it again"
        )
    kind = KINDS[kind_number]
    needed = math.prod(shape) * ITEM_BYTES[kind]
    if size != needed:
        raise CheckpointError(
            f"{path}: {name} has {size} bytes, its shape needs {needed}; convert the checkpoint again"
        )
    check_shape(shape, f"{path}: {name}")
    stored = StoredTensor(name, path, kind, shape, file.tell())
    if stored.offset + size > os.fstat(file.fileno()).st_size:
        raise CheckpointError(f"{path}: ends inside {name}; fetch the file again")
    return stored, size


def _number(file: BufferedReader, code: str, path: Path) -> int:
    return int(struct.unpack("<" + code, _bytes(file, struct.calcsize("<" + code), path))[0])


def _word(file: BufferedReader, path: Path) -> str:
    data = _bytes(file, _number(file, "H", path), path)
    try:
        return data.removesuffix(b"\0").decode("utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path}: a name before byte {file.tell()} is not UTF-8; fetch the file again") from error


def _bytes(file: BufferedReader, count: int, path: Path) -> bytes:
    data = file.read(count)
    if len(data) != count:
        raise CheckpointError(f"{path}: ends at byte {file.tell()}, inside its list of variables; fetch the file again")
    return data


# The last words of a variable -> those of the Hugging Face tensor.
_AFFINE = {"gamma": "weight", "beta": "bias"}
_WHOLE = {
    "embeddings/weight": "embed_tokens.weight",
    "position_encodings/encodings": "embed_positions.weight",
}
_LAYER_WHOLE = {
    "self_attention/layer_norm": "self_attn_layer_norm",
    "self_attention/linear_1": "self_attn.out_proj",
    "attention/layer_norm": "encoder_attn_layer_norm",
    "attention/linear_0": "encoder_attn.q_proj",
    "attention/linear_2": "encoder_attn.out_proj",
    "ffn/layer_norm": "final_layer_norm",
    "ffn/linear_0": "fc1",
    "ffn/linear_1": "fc2",
}
_LAYER_FUSED = {
    "self_attention/linear_0": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attention/linear_1": ("encoder_attn.k_proj", "encoder_attn.v_proj"),
}


def _hugging_face_tensors(container: Container) -> dict[str, StoredTensor]:
    _refuse_quantised(container)
    found: dict[str, StoredTensor] = {}
    for variable, stored in container.tensors.items():
        if variable == "decoder/projection/weight" and container.aliases.get(variable) == "decoder/embeddings/weight":
            continue  # tied, as in every published Whisper: the table is kept once
        for name, tensor in _split(variable, stored):
            if name.endswith(".k_proj.bias"):
                _check_zero(tensor)
            else:
                found[name] = tensor
    return found


def _refuse_quantised(container: Container) -> None:
    for variable in sorted(container.tensors.keys() | container.scalars.keys()):
        stored = container.tensors.get(variable)
        if variable.endswith(("/weight_scale", "/weight_zero")) or (stored and stored.kind.startswith("I")):
            kind = container.tensors.get(re.sub("_(scale|zero)$", "", variable), stored)
            method = f"{variable}, {kind.kind if kind else 'scale'}"
            raise CheckpointError(
                f"{container.path}: pre-quantised checkpoint ({method}): export needs the original float weights"
            )


def _split(variable: str, stored: StoredTensor) -> Iterator[tuple[str, StoredTensor]]:
    """Yield (Hugging Face name, tensor) for each tensor that a variable holds."""
    match = re.fullmatch(
        r"(encoder|decoder)/(?:layer_(0|[1-9][0-9]{0,5})/)?(.+)/(weight|bias|gamma|beta|encodings)", variable
    )
    if match is None or not stored.shape:
        raise _unknown(variable, stored)
    side, layer, module, last = match.groups()
    word = _AFFINE.get(last, last)
    if layer is None:
        yield _named(_outside_layers(side, module, last, stored), stored)
        return
    stem = f"model.{side}.layers.{int(layer)}"
    if module in _LAYER_WHOLE:
        yield _named(f"{stem}.{_LAYER_WHOLE[module]}.{word}", stored)
    elif module in _LAYER_FUSED:
        parts = _LAYER_FUSED[module]
        rows, rest = divmod(stored.shape[0], len(parts))
        if rest:
            raise CheckpointError(
                f"{variable}: {stored.shape[0]} rows, must be {len(parts)} equal parts; convert the checkpoint again"
            )
        for i, part in enumerate(parts):
            name = f"{stem}.{part}.{word}"
            yield name, stored.part(name, i * rows, (i + 1) * rows)
    else:
        raise _unknown(variable, stored)


def _outside_layers(side: str, module: str, last: str, stored: StoredTensor) -> str:
    tail = f"{module}/{last}"
    if tail in _WHOLE:
        return f"model.{side}.{_WHOLE[tail]}"
    if module == "layer_norm" and last in _AFFINE:
        return f"model.{side}.layer_norm.{_AFFINE[last]}"
    if (side, module) in (("encoder", "conv1"), ("encoder", "conv2")):
        return f"model.{side}.{module}.{last}"
    if (side, tail) == ("decoder", "projection/weight"):
        return "proj_out.weight"
    raise _unknown(f"{side}/{tail}", stored)


def _named(name: str, stored: StoredTensor) -> tuple[str, StoredTensor]:
    return name, replace(stored, name=name)


def _unknown(variable: str, stored: StoredTensor) -> CheckpointError:
    return CheckpointError(
        f"{stored.path}: variable {variable} {list(stored.shape)} is no part of Whisper; take the original checkpoint"
    )


def _check_zero(bias: StoredTensor) -> None:
    # Whisper's keys have no bias: fusing with queries and values puts zeros in its place.
    values = bias.rows(0, bias.shape[0])
    if values.any():
        raise CheckpointError(
            f"{bias.name}: {values[values != 0][0]} at index {int(np.flatnonzero(values)[0])}, "
            "Whisper's keys have no bias; take the original checkpoint"
        )


def _whisper_config(container: Container, tensors: Mapping[str, StoredTensor]) -> dict[str, Any]:
    for name, value in container.scalars.items():
        if name in UNUSED_SCALARS or name.endswith("/num_heads"):
            continue
        if FIXED_SCALARS.get(name) != value:
            wanted = FIXED_SCALARS.get(name, "none such")
            raise CheckpointError(
                f"{container.path}: {name} is {value}, Whisper has {wanted}; take the original checkpoint"
            )
    shape = {name: tensor.shape for name, tensor in tensors.items()}

    def size(name: str, axis: int, rank: int) -> int:
        if len(shape.get(name, ())) != rank:
            raise CheckpointError(
                f"{container.path}: {name} is {list(shape.get(name, ()))}, must have {rank} axes; convert it again"
            )
        return shape[name][axis]

    def heads(side: str) -> int:
        count = container.scalars.get(f"{side}/num_heads", 0)
        if count < 1 or width % count:
            raise CheckpointError(
                f"{container.path}: {side}/num_heads is {count}, must divide {width}; convert it again"
            )
        return count

    width = size("model.decoder.embed_tokens.weight", 1, 2)
    return {
        "model_type": "whisper",
        "architectures": ["WhisperForConditionalGeneration"],
        "is_encoder_decoder": True,
        "activation_function": "gelu",
        "scale_embedding": False,
        "tie_word_embeddings": "proj_out.weight" not in tensors,
        "d_model": width,
        "vocab_size": size("model.decoder.embed_tokens.weight", 0, 2),
        "num_mel_bins": size("model.encoder.conv1.weight", 1, 3),
        "max_source_positions": size("model.encoder.embed_positions.weight", 0, 2),
        "max_target_positions": size("model.decoder.embed_positions.weight", 0, 2),
        "encoder_layers": _layers("encoder", tensors),
        "decoder_layers": _layers("decoder", tensors),
        "encoder_attention_heads": heads("encoder"),
        "decoder_attention_heads": heads("decoder"),
        "encoder_ffn_dim": size("model.encoder.layers.0.fc1.weight", 0, 2),
        "decoder_ffn_dim": size("model.decoder.layers.0.fc1.weight", 0, 2),
    }


def _layers(side: str, tensors: Mapping[str, StoredTensor]) -> int:
    stem = f"model.{side}.layers."
    return 1 + max((int(name.split(".")[3]) for name in tensors if name.startswith(stem)), default=-1)


def _special_tokens(path: Path) -> dict[str, int]:
    added = read_object(path, LARGEST_LIST).get("added_tokens")
    try:
        return {str(token["content"]): int(token["id"]) for token in added}  # type: ignore[union-attr]
    except (TypeError, KeyError, ValueError, ArithmeticError) as error:
        raise CheckpointError(f"{path}: no readable added_tokens; take tokenizer.json from the original") from error


def _start_and_end(tokens: Mapping[str, int]) -> dict[str, int]:
    end = _token(tokens, "<|endoftext|>")
    return {
        "decoder_start_token_id": _token(tokens, "<|startoftranscript|>"),
        "eos_token_id": end,
        "bos_token_id": end,
        "pad_token_id": end,
    }


def _token(tokens: Mapping[str, int], token: str) -> int:
    if token not in tokens:
        raise CheckpointError(
            f"tokenizer.json: no special token {token}; take tokenizer.json from the original checkpoint"
        )
    return tokens[token]


def _generation(settings: Mapping[str, Any], source: Path) -> dict[str, Any]:
    """Return what CTranslate2's config.json says of generation under Hugging Face's names, and a file of those beside.

    Languages, tasks and <|notimestamps|> are known by the names of their tokens.
    """
    beside = source.with_name("generation_config.json")
    generation = read_object(beside) if beside.exists() else {}
    generation |= {
        "suppress_tokens": _ids(settings, "suppress_ids", source),
        "begin_suppress_tokens": _ids(settings, "suppress_ids_begin", source),
    }
    if settings.get("alignment_heads") is not None:
        generation["alignment_heads"] = settings["alignment_heads"]
    return generation


def _ids(settings: Mapping[str, Any], key: str, source: Path) -> list[int]:
    ids = settings.get(key) or []
    if not isinstance(ids, list) or not all(type(number) is int for number in ids):
        raise CheckpointError(f"{source}: {key} is {str(ids)[:40]}, must be a list of token ids; convert it again")
    return ids
