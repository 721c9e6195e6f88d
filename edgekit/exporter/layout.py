"""What lies in a folder, told by the names of its files: a checkpoint, or something else and what to do about it.

Opens no weights. The same names say the same of a folder here and of a repository on the hub.
"""

import difflib
import re
from collections.abc import Callable, Collection, Mapping
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

from edgekit.errors import CheckpointError
from edgekit.exporter.families import find_family, short_names
from edgekit.exporter.sources.checkpoint import refuse_quantised
from edgekit.exporter.sources.stored import read_object

CONFIG = "config.json"
ADAPTER = "adapter_config.json"
_GENERATION, _CONTAINER = "generation_config.json", "model.bin"
_WEIGHTS = ("*.safetensors", "*.safetensors.index.json", _CONTAINER, "pytorch_model*.bin")
# What people have in place of a checkpoint, by the names of its files.
_OTHERS = (
    ("rank*.safetensors", "a checkpoint of TensorRT-LLM"),
    ("*.engine", "an engine of TensorRT"),
    ("*.plan", "a plan of TensorRT"),
    ("*.gguf", "GGUF, made for llama.cpp and its kin"),
    ("ggml-*.bin", "ggml, made for llama.cpp's kin"),
    ("*.onnx", "an ONNX graph, as optimum writes it"),
    ("onnx/*.onnx", "an ONNX graph, as optimum writes it"),
    ("*.mlmodelc", "a model of Core ML"),
    ("*.mlpackage", "a model of Core ML"),
    ("*.npz", "weights of MLX"),
    ("*.tflite", "a graph of LiteRT"),
    ("*.nemo", "an archive of NeMo"),
    ("*.msgpack", "weights of Flax"),
    ("*.h5", "weights of TensorFlow"),
    ("*.pt", "a file of torch's, such as OpenAI's own or a trainer's"),
    ("*.pth", "a file of torch's"),
    ("*.ckpt", "a file of a trainer's"),
)
_ARCHIVES = ("*.zip", "*.tar", "*.tar.*", "*.tgz")
_CUT_OFF = 0.6


def checkpoint_folder(path: Path) -> Path:
    """Return the folder of a checkpoint that a family takes: a path that is one, or the one its config.json lies in.

    Raises CheckpointError for everything else, before a byte of weights is read.
    """
    if path.name == CONFIG and path.is_file():
        path = path.parent
    if not path.is_dir():
        raise CheckpointError(f"{path}: {_no_folder(path)}")
    try:
        names = _names(path)
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}; give a folder that may be read") from error
    refuse_others(str(path), names, lambda name: read_object(path / name))
    recognise(path, names)
    return path


def refuse_others(where: str, names: Collection[str], read: Callable[[str], Mapping[str, Any]]) -> None:
    """Return if a folder, by the names of its files, may be a checkpoint; read: of one of them, the JSON object.

    Raises CheckpointError that says what it is instead, and what to do.
    """
    if reason := _instead(where, names, read):
        raise CheckpointError(f"{where}: {reason}")


def recognise(folder: Path, names: Collection[str]) -> None:
    """Return if a family takes the configs in a folder; names: of the checkpoint's files, there or still on the hub.

    Raises CheckpointError. What CTranslate2 wrote has a config that names nothing: its container says what it is.
    """
    if [name for name in names if _is_weights(name)] == [_CONTAINER]:
        return
    config = read_object(folder / CONFIG)
    generation = read_object(folder / _GENERATION) if _GENERATION in names else {}
    refuse_quantised(config, folder / CONFIG)
    find_family(config).bind(config, generation)


def nearest(text: str, names: Collection[str]) -> str:
    """Return what is perhaps meant by a text; empty if nothing is near."""
    small = {name.lower(): name for name in names}
    return next((small[near] for near in difflib.get_close_matches(text.lower(), small, n=1, cutoff=_CUT_OFF)), "")


def _names(folder: Path) -> frozenset[str]:
    """Return the names in a folder, and one level down those that tell what it is."""
    found = [path.name for path in folder.iterdir()]
    for pattern in ("*/" + CONFIG, "*/manifest.json", "onnx/*.onnx", "snapshots/*/" + CONFIG):
        found += [path.relative_to(folder).as_posix() for path in folder.glob(pattern)]
    return frozenset(found)


def _instead(where: str, names: Collection[str], read: Callable[[str], Mapping[str, Any]]) -> str:
    if "manifest.json" in names and any(fnmatchcase(name, "*.onnx") for name in names):
        return (
            f"is a bundle, export makes one of a checkpoint; run it: `edgekit run {where} FILE`, or of a float32 one "
            f"make a smaller one: `edgekit quantize {where} -o BUNDLE`"
        )
    if ADAPTER in names:
        base = read(ADAPTER).get("base_model_name_or_path") or "its base model"
        return (
            f"holds an adapter ({ADAPTER}, LoRA or the like), which is a difference to {base}; merge them with peft's "
            "merge_and_unload(), write that with save_pretrained(FOLDER), and export FOLDER"
        )
    if CONFIG in names and any(_is_weights(name) for name in names):
        return ""
    for name in sorted(names):
        if kind := _other(name):
            return f"holds {name}, {kind}; {_take(f'{PurePosixPath(where).name} {name}')}"
    if CONFIG not in names:
        return _no_config(where, names)
    return ""  # a config alone: whoever wants weights says so


def _no_config(where: str, names: Collection[str]) -> str:
    inside = sorted(name.removesuffix(f"/{CONFIG}") for name in names if name.endswith(f"/{CONFIG}"))
    if inside:
        return f"has no {CONFIG}, its folder {inside[0]} has one; give {where}/{inside[0]}{_more(inside)}"
    if not names:
        return "is empty; put config.json, weights and tokenizer there, or give another folder, or an id of the hub"
    if any(_is_weights(name) for name in names):
        return f"has weights and no {CONFIG}, which says what they are; fetch the whole checkpoint"
    return f"has no {CONFIG}; give the folder that holds {CONFIG} and the weights, or an id of the hub"


def _no_folder(path: Path) -> str:
    """Return what is wrong with a path that is no folder."""
    if not path.exists():
        return "no such folder; give the checkpoint's folder or its config.json"
    if kind := _other(path.name):
        return f"is {kind}, export starts from a folder; {_take(path.name)}"
    if any(fnmatchcase(path.name, pattern) for pattern in _ARCHIVES):
        return "is an archive, export starts from a folder; unpack it and give the folder"
    return f"is a file, export starts from a folder; give the one that it lies in: {path.parent}"


def _is_weights(name: str) -> bool:
    return not _other(name) and any(fnmatchcase(name, pattern) for pattern in _WEIGHTS)


def _other(name: str) -> str:
    return next((kind for pattern, kind in _OTHERS if fnmatchcase(name, pattern)), "")


def _take(text: str) -> str:
    """Return what to take instead, and of the published checkpoints the one whose size a text names, if it does."""
    sizes = {name.partition("-")[2]: name for name in short_names()}
    named = [size for size in sizes if re.search(rf"(?<![a-z0-9]){re.escape(size)}(?![a-z0-9])", text.lower())]
    like = f", such as `edgekit export {sizes[max(named, key=len)]} -o BUNDLE`" if named else ""
    return f"take the checkpoint that it was made of, with {CONFIG} and safetensors{like}"


def _more(names: list[str]) -> str:
    return f" (or {', '.join(names[1:4])})" if len(names) > 1 else ""
