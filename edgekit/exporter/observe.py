"""Observe: an encoder and an adapter while they hear clips as a stream does: what they make, what goes into linears."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekit.bundle import Component
from edgekit.exporter.blocks import OBSERVED
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
See = Callable[[Mapping[str, Array]], None]
"""Told of what one call put out beside its results, by name; see ``blocks.OBSERVED``."""
Hear = Callable[[Sequence[Float], See], list[Float]]
COMPONENTS = ("encoder", "adapter")


@contextmanager
def observed(opened: Opened, w: Weights, recipe: Recipe, dialect: Dialect, beside: Path) -> Iterator[Hear]:
    """Give what hears the beginning of clips, as much as one piece of the grid takes, and tells what was observed.

    It returns what a backbone would hear of each clip, flat, that of silence added at the end left out. w: its
    ``observes`` says what is told of; ``beside``: a folder for the graphs, which are gone in the end.
    """
    with TemporaryDirectory(prefix=".observed.", dir=beside) as name:
        folder = Path(name)
        engines: list[Engine] = []
        for component in COMPONENTS:
            with GraphWriter(folder, component, dialect) as g:
                opened.build(component, g, w)
                engines.append(open_graph(folder, g.close(w.precision["encoder"]), threads=1))

        def hear(clips: Sequence[Float], see: See) -> list[Float]:
            encoder, adapter = (_Observed(engine, see) for engine in engines)
            front_end = opened.front_end(recipe.grid)
            listener = Listener(front_end, opened.grid(recipe.grid), encoder, adapter, Trace())
            heard = []
            for clip in clips:
                samples, before = clip[: listener.room_samples], listener.frames_computed
                parts = [part.copy() for part in (*listener.push(samples), *listener.finish())]
                computed = (listener.frames_computed - before) * front_end.hop_samples
                heard.append(_spoken(parts, len(samples) / max(computed, 1)))
            return heard

        yield hear


def _spoken(parts: Sequence[Array], share: float) -> Float:
    """Return the first share of the positions that an adapter made, the last axis but one of each part, flat."""
    if not parts:  # a clip too short for a frame
        return np.zeros(0, np.float32)
    whole = np.concatenate(parts, axis=-2)
    spoken: Float = whole[..., : max(1, round(whole.shape[-2] * min(share, 1.0))), :].ravel()
    return spoken


class _Observed:
    """An observing graph's engine as the Listener knows it; what it puts out beside goes to ``see``."""

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
        self._see({name: outputs.pop(name) for name in list(outputs) if name.startswith(OBSERVED)})
        return outputs
