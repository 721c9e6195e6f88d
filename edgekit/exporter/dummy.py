"""Dummies: a config alone becomes something to export, to measure a shape before its weights are fetched.

Seeded noise stands for every tensor, and a tokenizer whose every token reads "▯" for the checkpoint's own: nothing that
such a bundle says can be taken for meaning. Knows no architecture: families say which tensors and tokens they want.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekit.errors import CheckpointError
from edgekit.exporter.families import Family, Opened, find_family
from edgekit.exporter.sources.stored import read_object
from edgekit.recipe import Recipe

SEED = 1
SIGN = "▯"
SUFFIX = "-dummy"
TOKENS_PER_S = 4.0  # ordinary speech: three words a second at 1.3 tokens each
_CONFIG, _GENERATION = "config.json", "generation_config.json"
_NUMBERS_PER_DRAW = 4  # 16 bits each: float32 weights were mostly stored in 16 bits before, and it is the fastest way
_DEVIATION = 65_536 / 12**0.5  # of whole numbers spread evenly over 16 bits
_PIECES = r"\s*\w+|\s*[^\w\s]+"  # what stands between two pieces, such as space at the end, is one too
_FLAGS = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)


class DummyTensors:
    """Seeded uniform noise for every name and shape of ``expected``, drawn where it is asked for.

    A number depends on the seed, its tensor's name and its place alone. Scaled so that a deep network stays finite:
    matrices keep the deviation of their input, norms are near 1, tables, positions and biases are small.
    """

    def __init__(self, expected: Mapping[str, tuple[int, ...]], seed: int) -> None:
        self._expected = expected
        self._seed = seed

    def names(self) -> frozenset[str]:
        """Return the name of every tensor."""
        return frozenset(self._expected)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of one tensor."""
        return self._expected[name]

    def rows(self, name: str, start: int, stop: int) -> NDArray[np.float32]:
        """Return rows [start, stop) of one tensor's first axis as float32; any blocks give the same numbers."""
        shape = self._expected[name]
        row = math.prod(shape[1:])
        first, last = start * row, stop * row
        identity = int.from_bytes(hashlib.sha256(name.encode()).digest(), "little")
        bits = np.random.PCG64([self._seed, identity])  # can jump ahead, and gives the same bits in every numpy
        bits.advance(first // _NUMBERS_PER_DRAW)
        drawn = bits.random_raw(-(-last // _NUMBERS_PER_DRAW) - first // _NUMBERS_PER_DRAW)
        skipped = first % _NUMBERS_PER_DRAW
        numbers = drawn.astype("<u8", copy=False).view("<i2")[skipped : skipped + last - first].astype(np.float32)
        deviation, mean = _spread(name, shape)
        numbers *= np.float32(deviation / _DEVIATION)
        if mean:
            numbers += np.float32(mean)
        return numbers.reshape(stop - start, *shape[1:])


def _spread(name: str, shape: tuple[int, ...]) -> tuple[float, float]:
    """Return deviation and mean: tables and positions, biases, weights of norms, matrices and convolutions."""
    if "embed" in name:
        return 0.1, 0.0
    if len(shape) > 1:
        return math.prod(shape[1:]) ** -0.5, 0.0
    return (0.02, 0.0) if name.endswith(".bias") else (0.1, 1.0)


def dummy_tokenizer(vocabulary: int, marks: Mapping[str, int]) -> str:
    """Return the text of a tokenizer.json: a token for each word or run of signs, and ``▯`` for each token.

    marks: special tokens that a family looks up, and their ids; they are recognised in text and read ``▯`` as well.
    """
    tokens = {number: f"{SIGN}{number}" for number in range(vocabulary)}
    tokens |= {number: mark for mark, number in marks.items()}
    unknown = next(token for number, token in tokens.items() if number not in marks.values())
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": number, "content": mark, **_FLAGS} for mark, number in marks.items()],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"Regex": _PIECES},
            "behavior": "Isolated",
            "invert": False,
        },
        "post_processor": None,
        "decoder": {"type": "Replace", "pattern": {"Regex": ".+"}, "content": SIGN},
        "model": {
            "type": "WordLevel",
            "vocab": {token: number for number, token in tokens.items()},
            "unk_token": unknown,
        },
    }
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Dummy:
    """What stands for a checkpoint: the family of a config, and what a config lacks."""

    tensors: DummyTensors
    family: Family
    opened: Opened
    config: Mapping[str, Any]
    generation: Mapping[str, Any]
    tokenizer: str
    name: str


def open_dummy(path: str | PathLike[str]) -> Dummy:
    """Return the Dummy of a config's file, or of a folder that holds config.json; weights beside it are not looked at.

    Takes generation_config.json from beside it, else what the family publishes. Raises CheckpointError where the config
    contradicts itself.
    """
    file = Path(path)
    file = file / _CONFIG if file.is_dir() else file
    config = read_object(file)
    beside = file.with_name(_GENERATION)
    family = find_family(config)
    generation = read_object(beside) if beside.exists() else family.generation(config)
    opened = family.bind(config, generation)
    expected = opened.expected()
    for tensor, shape in expected.items():
        if min(shape) < 1:
            raise CheckpointError(f"{file}: makes {tensor} {list(shape)}, every size must be 1 or more; correct it")
    vocabulary = expected[opened.embedding][0]
    needed = len(opened.marks) + opened.unnamed
    start = vocabulary - needed
    if start < 1:
        raise CheckpointError(f"{file}: vocab_size {vocabulary}, more than {needed} are needed; correct it")
    tokenizer = dummy_tokenizer(vocabulary, {mark: start + index for index, mark in enumerate(opened.marks)})
    if (highest := max(opened.protocol(tokenizer).ids())) >= vocabulary:
        raise CheckpointError(f"{file}: names token {highest}, vocab_size is {vocabulary}; correct one of them")
    name = file.resolve().parent.name if file.name == _CONFIG else file.stem
    return Dummy(DummyTensors(expected, SEED), family, opened, config, generation, tokenizer, name)


def dummy_recipe(recipe: Recipe, name: str) -> Recipe:
    """Return a recipe without what holds for trained weights only: licence, word errors, a guard against loops.

    Noise ends no answer by itself: where the recipe has no limit, an answer has as many tokens as speech of its length.
    """
    return msgspec.structs.replace(
        recipe,
        name=(recipe.name or name) + SUFFIX,
        license="",
        levels=tuple(msgspec.structs.replace(level, word_error_rate=None) for level in recipe.levels),
        max_tokens_per_s=recipe.max_tokens_per_s or TOKENS_PER_S,
        max_repeats=0,
    )
