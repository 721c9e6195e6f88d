"""Calibrate: the range of what goes into each encoder linear, for activations with a fixed INT8 scale.

Runs the float encoder and adapter on the recipe's calibration clips through the Listener of streams, and chooses for
each linear the range that loses least: beyond it values are cut, within it they are rounded.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import RecipeError
from edgekit.exporter.blocks import OBSERVED
from edgekit.exporter.checks.quality import calibration_clips
from edgekit.exporter.dialects import Dialect
from edgekit.exporter.families.base import Opened
from edgekit.exporter.observe import observed
from edgekit.exporter.weights import Weights
from edgekit.recipe import Recipe
from edgekit.runtime.engine import Array

_BINS = 2048
_STEPS = 127
_CUTS = np.linspace(0.2, 1.0, 81)  # ranges that are tried, as shares of the largest magnitude
LARGEST_LOSS = 0.06  # of an input by its own rounding, root mean square / its own: beyond it the input stays float


@dataclass(frozen=True, slots=True)
class Calibration:
    """Ranges of the inputs that become INT8, by the linear's name, and the linears whose input stays float."""

    ranges: Mapping[str, float]
    kept_float: tuple[str, ...]


def calibrate(opened: Opened, w: Weights, recipe: Recipe, dialect: Dialect, beside: Path) -> Calibration:
    """Return the Calibration of a family's encoder and adapter.

    w: float32 and observing inputs; ``beside``: a folder for its graphs. Raises RecipeError if the recipe names no
    clips to hear.
    """
    clips = calibration_clips(recipe, opened.front_end(recipe.grid).sample_rate_hz)
    if not clips:
        raise RecipeError(
            "calibrate.clips: the recipe names none, and INT8 activations of the encoder need sound to find their "
            "range; name clips, or export with --encoder float32"
        )
    largest: dict[str, float] = {}

    def widen(inputs: Mapping[str, Array]) -> None:
        for key, magnitudes in _magnitudes(inputs):
            largest[key] = max(largest.get(key, 0.0), float(magnitudes.max(initial=0.0)))

    with observed(opened, w, recipe, dialect, beside) as hear:
        hear(clips, widen)
        counts = {key: np.zeros(_BINS) for key in largest}

        def count(inputs: Mapping[str, Array]) -> None:
            for key, magnitudes in _magnitudes(inputs):
                counts[key] += np.histogram(magnitudes, _BINS, (0.0, largest[key] or 1.0))[0]

        hear(clips, count)
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


def _magnitudes(inputs: Mapping[str, Array]) -> Iterator[tuple[str, Array]]:
    """Yield the name of each linear and the magnitudes of what went into it."""
    for name, x in inputs.items():
        yield name.removeprefix(OBSERVED), np.abs(x)
