"""Calibrate: the range of what goes into each encoder linear, for activations with a fixed INT8 scale.

Runs the float encoder and adapter on the recipe's check clips, chunk by chunk as a stream does, and chooses for each
linear the range that loses least: beyond it values are cut, within it they are rounded.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import RecipeError
from edgekit.exporter.blocks import OBSERVED
from edgekit.exporter.checks.quality import check_clips
from edgekit.exporter.dialects import Dialect
from edgekit.exporter.families.base import Opened
from edgekit.exporter.graph import GraphWriter
from edgekit.exporter.weights import Weights
from edgekit.recipe import Recipe
from edgekit.runtime.backends.ort import open_graph
from edgekit.runtime.engine import Array, Engine
from edgekit.runtime.hear.features import LogMel

Float = NDArray[np.float32]
_BINS = 2048
_STEPS = 127
_CUTS = np.linspace(0.2, 1.0, 81)  # ranges that are tried, as shares of the largest magnitude
_COMPONENTS = ("encoder", "adapter")
LARGEST_LOSS = 0.06  # of an input by its own rounding, root mean square / its own: beyond it the input stays float


@dataclass(frozen=True, slots=True)
class Calibration:
    """Ranges of the inputs that become INT8, by the linear's name, and the linears whose input stays float."""

    ranges: Mapping[str, float]
    kept_float: tuple[str, ...]


def calibrate(opened: Opened, w: Weights, recipe: Recipe, dialect: Dialect, beside: Path) -> Calibration:
    """Return the Calibration of a family's encoder and adapter. w: float32 and observing; ``beside``: for its graphs.

    Raises RecipeError if the recipe names no clips to hear.
    """
    clips = list(check_clips(recipe, opened.front_end(recipe.grid).sample_rate_hz).values())
    if not clips:
        raise RecipeError(
            "check.clips: the recipe names none, and INT8 activations of the encoder need sound to find their range; "
            "name clips, or export with --encoder float32"
        )
    with TemporaryDirectory(prefix=".calibration.", dir=beside) as name:
        folder = Path(name)
        engines: list[Engine] = []
        for component in _COMPONENTS:
            with GraphWriter(folder, component, dialect) as g:
                opened.build(component, g, w)
                engines.append(open_graph(folder, g.close("float32"), threads=1))
        largest: dict[str, float] = {}
        for found in _heard(opened, engines, clips, recipe):
            for key, values in found.items():
                largest[key] = max(largest.get(key, 0.0), float(np.abs(values).max(initial=0.0)))
        counts = {key: np.zeros(_BINS) for key in largest}
        for found in _heard(opened, engines, clips, recipe):
            for key, values in found.items():
                counts[key] += np.histogram(np.abs(values), _BINS, (0.0, largest[key] or 1.0))[0]
    ranges, kept_float = {}, []
    for key in sorted(counts):
        cut, loss = best_range(counts[key], largest[key] or 1.0)
        if loss > LARGEST_LOSS:
            kept_float.append(key)
        else:
            ranges[key] = cut
    return Calibration(ranges, tuple(kept_float))


def best_range(counts: NDArray[np.float64], largest: float) -> tuple[float, float]:
    """Return the range with the least squared error, and that error: root mean square / that of the values.

    counts: magnitudes in equal bins from 0 to ``largest``.
    """
    centres = (np.arange(len(counts)) + 0.5) * (largest / len(counts))
    errors = []
    for cut in _CUTS * largest:
        step = cut / _STEPS
        kept = np.minimum(np.rint(centres / step), _STEPS) * step
        errors.append(float((counts * np.square(centres - kept)).sum()))
    whole = float((counts * np.square(centres)).sum())
    return float(_CUTS[int(np.argmin(errors))] * largest), (min(errors) / whole) ** 0.5 if whole else 0.0


def _heard(opened: Opened, engines: list[Engine], clips: list[Float], recipe: Recipe) -> Iterator[Mapping[str, Float]]:
    """Yield what goes into the linears of encoder and adapter, chunk by chunk of every clip."""
    grid, front_end = opened.grid(recipe.grid), opened.front_end(recipe.grid)
    encoder, adapter = (engine.bind({}) for engine in engines)
    for samples in clips:
        mel = LogMel(front_end, grid)
        start = np.zeros(1, np.int64)
        adapter.reset()
        for chunk in [*mel.push(samples[: mel.room_samples]), *mel.finish()]:
            positions = grid.positions(chunk.frames)
            inputs: dict[str, Array] = {"mel": chunk.mel, "start": start}
            if grid.masks_last_position:
                inputs["valid"] = start + positions - chunk.last
            outputs = encoder.run(inputs)
            start += positions
            frames = outputs.pop("frames")[: grid.kept_frames(positions, int(start[0]), last=chunk.last)]
            if len(frames):
                outputs |= adapter.run({"frames": frames})
            yield {key.removeprefix(OBSERVED): value for key, value in outputs.items() if key.startswith(OBSERVED)}
