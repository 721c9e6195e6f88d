"""Engine: a loaded Component on one backend; and the events a Stream emits.

An Engine holds no conversation state and is shared by streams. A stream binds its own state tensors once and then only
hands over what changes; this is the seam between the streaming logic and onnxruntime or TensorRT.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgekit.bundle import Component

Array = NDArray[Any]


class Call(Protocol):
    """An Engine with one stream's state bound to it."""

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run once and return every output that is not in-place state. ``carried`` state is kept for the next call.

        An array that is passed again unchanged in identity and shape is not bound again: rewrite it in place.
        """
        ...

    def reset(self) -> None:
        """Set ``carried`` state to zero. In-place caches need no reset: only their first positions are read."""
        ...


class Engine(Protocol):
    """A loaded Component; see the module docstring."""

    component: Component

    def bind(self, sizes: Mapping[str, int]) -> Call:
        """Allocate the component's state tensors, free sizes taken from ``sizes``, and return a Call on them."""
        ...


def allocate(component: Component, sizes: Mapping[str, int]) -> dict[str, Array]:
    """Return zeros for every state input of a component, by name without the ``past.`` prefix."""
    return {
        spec.name.removeprefix("past."): np.zeros(
            [size if isinstance(size, int) else sizes[size] for size in spec.shape], spec.dtype
        )
        for spec in component.inputs
        if spec.state != "none"
    }
