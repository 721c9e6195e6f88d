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

Array = NDArray[Any]
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
    memory = mmap.mmap(-1, size)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):  # Linux, where huge pages may be given to everything unasked
        with suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(memory, kind).reshape(shape)
