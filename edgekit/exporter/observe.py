"""Observe: what goes into the linears of a float encoder and adapter while they hear clips as a stream does."""

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
Hear = Callable[[Sequence[Float], See], None]
COMPONENTS = ("encoder", "adapter")


@contextmanager
def observed(opened: Opened, w: Weights, recipe: Recipe, dialect: Dialect, beside: Path) -> Iterator[Hear]:
    """Give what hears the beginning of clips, as much as one piece of the grid takes, and tells what was observed.

    w: float32 and observing; ``beside``: a folder for the graphs, which are gone in the end.
    """
    with TemporaryDirectory(prefix=".observed.", dir=beside) as name:
        folder = Path(name)
        engines: list[Engine] = []
        for component in COMPONENTS:
            with GraphWriter(folder, component, dialect) as g:
                opened.build(component, g, w)
                engines.append(open_graph(folder, g.close("float32"), threads=1))

        def hear(clips: Sequence[Float], see: See) -> None:
            encoder, adapter = (_Observed(engine, see) for engine in engines)
            listener = Listener(opened.front_end(recipe.grid), opened.grid(recipe.grid), encoder, adapter, Trace())
            for samples in clips:
                for _ in (*listener.push(samples[: listener.room_samples]), *listener.finish()):
                    pass

        yield hear


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
