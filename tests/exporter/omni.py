"""The text parts of the tiny Qwen3-Omni: its weights, its graphs, and a greedy loop over talker and code predictor."""

from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekit.bundle import Precision
from edgekit.exporter.families.qwen import Qwen
from edgekit.exporter.families.qwen3_omni.family import THINKER, open_qwen3_omni
from edgekit.exporter.families.qwen3_omni.talker import SPECIAL_CODES, Talker
from edgekit.exporter.graph import GraphWriter
from edgekit.exporter.weights import Weights
from edgekit.runtime.backends.ort import OrtEngine
from tests.exporter.parts import Array, Rows, engine, part_of
from tests.reference import qwen3_omni as omni

CONFIG = omni.config()
LAYER = {"backbone": "thinker.model.layers.1.mlp", "talker": "talker.model.layers.1.mlp"}
TABLES = "talker.code_predictor.model.codec_embedding"


def parts() -> tuple[Qwen, Talker]:
    """Return thinker and talker of the config."""
    opened = open_qwen3_omni(CONFIG, {})
    return part_of(opened, Qwen), part_of(opened, Talker)


@cache
def weights() -> Mapping[str, Array]:
    """Return every tensor of the text parts."""
    thinker, talker = parts()
    return omni.draw({**thinker.expected(), **talker.expected()})


def graph(
    folder: Path,
    name: str,
    precision: Precision = "float32",
    tensors: Mapping[str, Array] | None = None,
    dialect: str = "ort-cpu",
) -> OrtEngine:
    """Return one component built from the weights, or from ``tensors``."""
    thinker, talker = parts()
    part = thinker if name == "backbone" else talker
    return engine(
        folder, name, partial(part.build, name), weights() if tensors is None else tensors, precision, dialect=dialect
    )


def think(made: OrtEngine, experts_per_token: int = 2) -> Rows:
    """Return a fresh cache of the thinker."""
    return Rows(made, {"experts_per_token": np.array([experts_per_token])})


def greedy(rows: Rows, prompt: Array, count: int) -> list[int]:
    """Return ``count`` greedy tokens after the prompt."""
    table = weights()[THINKER.embedding]
    tokens = [int(rows.run(prompt, [len(prompt) - 1])["logits"].argmax())]
    while len(tokens) < count:
        tokens.append(int(rows.run(table[tokens[-1:]])["logits"].argmax()))
    return tokens


def speak(
    engines: tuple[OrtEngine, OrtEngine], prompt: Array, trailing: Array, pad: Array, frames: int
) -> NDArray[np.int64]:
    """Return greedy codes (frames, codebooks) of talker and code predictor, in the order of generate()."""
    talker, predictor = engines
    first = weights()["talker.model.codec_embedding.weight"]
    others = [weights()[f"{TABLES}.{index}.weight"] for index in range(omni.CODEBOOKS - 1)]
    cache, fresh, found = Rows(talker), prompt, []
    for frame in range(frames):
        told = cache.run(fresh, [len(fresh) - 1])
        codes = [int(told["logits"][0, : len(first) - SPECIAL_CODES].argmax())]
        made, given = Rows(predictor), np.concatenate([told["hidden"], first[codes]])
        for step, table in enumerate(others):
            codes.append(int(made.run(given, step=np.array([step]))["logits"].argmax()))
            given = table[codes[-1:]]
        found.append(codes)
        text = trailing[frame] if frame < len(trailing) else pad
        rows = [table[code] for table, code in zip((first, *others), codes, strict=True)]
        fresh = (np.sum(rows, axis=0) + text)[None].astype(np.float32)
    return np.array(found)


def experts(folder: Path, name: str, precision: Precision, tensors: Mapping[str, Array]) -> OrtEngine:
    """Return the feed-forward of layer 1 alone, its shared expert included: rows ``x`` in, ``y`` out."""
    thinker, talker = parts()
    model, group = (thinker, "experts") if name == "backbone" else (talker.talker, "decoder")
    assert model.experts

    def build(g: GraphWriter, w: Weights) -> None:
        x = g.input("x", "float32", ("rows", model.width))
        y = model.experts.build(g, w, LAYER[name], x, g.constant([2]), groups=(group, group))
        g.output(y, "y", "float32", ("rows", model.width))

    return engine(folder, "experts", build, tensors, precision)


def swapped(root: str, one: int, other: int) -> Mapping[str, Array]:
    """Return the weights with two experts of a layer (``...mlp``) in each other's place."""
    found = dict(weights())
    for part in ("gate", "up", "down"):
        pair = f"{root}.experts.{one}.{part}_proj.weight", f"{root}.experts.{other}.{part}_proj.weight"
        found[pair[0]], found[pair[1]] = found[pair[1]], found[pair[0]]
    return found
