"""Calibrate: the range of what goes into each encoder linear, for activations with a fixed INT8 scale.

Runs the float encoder and adapter on the recipe's calibration clips through the Listener of streams, and chooses for
each linear the range that loses least: beyond it values are cut, within it they are rounded.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekit.bundle import Component
from edgekit.errors import RecipeError
from edgekit.exporter.blocks import OBSERVED
from edgekit.exporter.checks.quality import calibration_clips
from edgekit.exporter.dialects import Dialect
from edgekit.exporter.families.base import Opened
from edgekit.exporter.graph import GraphWriter
from edgekit.exporter.weights import Weights
from edgekit.recipe import Recipe
from edgekit.runtime.backends.ort import open_graph
from edgekit.runtime.engine import Array, Call, Engine
from edgekit.runtime.hear.listener import Listener
from edgekit.timing import Trace

Float = NDArray[np.float32]
See = Callable[[str, Float], None]
"""Told of the magnitudes that go into one linear in one call, by the linear's name."""
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
    clips = calibration_clips(recipe, opened.front_end(recipe.grid).sample_rate_hz)
    if not clips:
        raise RecipeError(
            "calibrate.clips: the recipe names none, and INT8 activations of the encoder need sound to find their "
            "range; name clips, or export with --encoder float32"
        )
    with TemporaryDirectory(prefix=".calibration.", dir=beside) as name:
        folder = Path(name)
        engines: list[Engine] = []
        for component in _COMPONENTS:
            with GraphWriter(folder, component, dialect) as g:
                opened.build(component, g, w)
                engines.append(open_graph(folder, g.close("float32"), threads=1))
        largest: dict[str, float] = {}

        def widen(key: str, magnitudes: Float) -> None:
            largest[key] = max(largest.get(key, 0.0), float(magnitudes.max(initial=0.0)))

        _hear(opened, engines, clips, recipe, widen)
        counts = {key: np.zeros(_BINS) for key in largest}

        def count(key: str, magnitudes: Float) -> None:
            counts[key] += np.histogram(magnitudes, _BINS, (0.0, largest[key] or 1.0))[0]

        _hear(opened, engines, clips, recipe, count)
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


class _Observed:
    """A calibration graph's engine as the Listener knows it; what goes into its linears goes to ``see``."""

    def __init__(self, engine: Engine, see: See) -> None:
        outputs = tuple(spec for spec in engine.component.outputs if not spec.name.startswith(OBSERVED))
        self.component: Component = msgspec.structs.replace(engine.component, outputs=outputs)
        self.counts, self.notes = engine.counts, engine.notes
        self._engine, self._see = engine, see

    def bind(self, sizes: Mapping[str, int]) -> Call:
        """Bind the engine that is observed."""
        return _ObservedCall(self._engine.bind(sizes), self._see)


class _ObservedCall:
    def __init__(self, call: Call, see: See) -> None:
        self._call, self._see = call, see
        self.reset, self.save, self.load = call.reset, call.save, call.load

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        outputs = self._call.run(inputs)
        for name in [name for name in outputs if name.startswith(OBSERVED)]:
            self._see(name.removeprefix(OBSERVED), np.abs(outputs.pop(name)))
        return outputs


def _hear(opened: Opened, engines: Sequence[Engine], clips: Sequence[Float], recipe: Recipe, see: See) -> None:
    """Hear the beginning of every clip as a stream does; ``see`` is told of every linear's input, call by call."""
    grid, front_end = opened.grid(recipe.grid), opened.front_end(recipe.grid)
    encoder, adapter = (_Observed(engine, see) for engine in engines)
    listener = Listener(front_end, grid, encoder, adapter, Trace())
    for samples in clips:
        for _ in (*listener.push(samples[: listener.room_samples]), *listener.finish()):
            pass
