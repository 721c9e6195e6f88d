"""Engine: a loaded Component on one backend, and Call, one stream's state bound to it.

An Engine holds no conversation state and is shared by streams. A stream binds its own state tensors once and then only
hands over what changes; this is the seam between the streaming logic and onnxruntime or TensorRT.
"""

import math
import mmap
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgekit.bundle import Component
from edgekit.errors import BackendError

Array = NDArray[Any]
Sizes = Mapping[str, tuple[int, int, int]]
"""Lowest, usual and highest value by the name of a free size."""
_MAPPED_BYTES = 1 << 20


class Call(Protocol):
    """An Engine with one stream's state bound to it."""

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run once and return every output that is not in-place state. ``carried`` state is kept for the next call.

        An array that is passed again unchanged in identity and shape is not bound again: rewrite it in place. One that
        is not writeable is never written again: a backend on a device brings it there once and keeps it.
        """
        ...

    def reset(self) -> None:
        """Set ``carried`` state to zero. In-place caches need no reset: only their first positions are read."""
        ...

    def save(self) -> Mapping[str, Array]:
        """Return a copy of the ``carried`` state by name; in-place caches go back by the length that is read."""
        ...

    def load(self, state: Mapping[str, Array]) -> None:
        """Go on from what ``save`` of this Call returned."""
        ...


class Engine(Protocol):
    """A loaded Component; see the module docstring."""

    component: Component

    @property
    def counts(self) -> Mapping[str, int]:
        """What a report shows of how it runs, such as nodes by provider or runs that were replayed."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """What was not as hoped, in words."""
        ...

    def bind(self, sizes: Mapping[str, int]) -> Call:
        """Allocate the component's state tensors, free sizes taken from ``sizes``, and return a Call on them."""
        ...


def allocate(component: Component, sizes: Mapping[str, int]) -> dict[str, Array]:
    """Return zeros for every state input of a component, by name without the ``past.`` prefix."""
    return {
        spec.name.removeprefix("past."): _zeros(
            [size if isinstance(size, int) else sizes[size] for size in spec.shape], spec.dtype
        )
        for spec in component.inputs
        if spec.state != "none"
    }


def _zeros(shape: Sequence[int], dtype: str) -> Array:
    """Return zeros that take memory by small pages, each when it is first written.

    numpy asks the system for huge pages (2 MiB), and a token writes a few hundred bytes into each of many: a KV cache
    for 4,096 tokens would then be resident as a whole after the first.
    """
    kind = np.dtype(dtype)
    size = math.prod(shape) * kind.itemsize
    if size < _MAPPED_BYTES:
        return np.zeros(shape, kind)
    try:
        memory = mmap.mmap(-1, size)
    except (OSError, OverflowError, ValueError) as error:
        raise BackendError(
            f"a state of {'x'.join(map(str, shape))} {dtype} takes {size / (1 << 20):,.0f} MiB, which this machine "
            "does not give; shorten the cache with context_tokens"
        ) from error
    if hasattr(mmap, "MADV_NOHUGEPAGE"):  # Linux, where huge pages may be given to everything unasked
        with suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(memory, kind).reshape(shape)


class Recorded:
    """An Engine whose calls are kept, inputs and outputs."""

    def __init__(self, engine: Engine) -> None:
        self.component: Component = engine.component
        self.counts, self.notes = engine.counts, engine.notes
        self.calls: list[tuple[dict[str, Array], dict[str, Array]]] = []
        self._engine = engine

    def bind(self, sizes: Mapping[str, int]) -> Call:
        """Bind the engine that is recorded."""
        return _RecordedCall(self._engine.bind(sizes), self.calls)


class _RecordedCall:
    def __init__(self, call: Call, calls: list[tuple[dict[str, Array], dict[str, Array]]]) -> None:
        self._call, self._calls = call, calls

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        outputs = self._call.run(inputs)
        self._calls.append(({k: v.copy() for k, v in inputs.items()}, {k: v.copy() for k, v in outputs.items()}))
        return outputs

    def reset(self) -> None:
        self._call.reset()

    def save(self) -> Mapping[str, Array]:
        return self._call.save()

    def load(self, state: Mapping[str, Array]) -> None:
        self._call.load(state)
