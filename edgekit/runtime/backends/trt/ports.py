"""Where the inputs, outputs and state of a Call lie: on the device, in page-locked memory of the host, or in both."""

import math
from collections.abc import Mapping

import numpy as np

from edgekit.bundle import TensorSpec
from edgekit.runtime.backends.device import Device, Memory
from edgekit.runtime.engine import Array

Shape = tuple[int, ...]


class Port:
    """An input or output that is no state: page-locked memory and, unless it lies ``on_host``, a place on the device.

    ``held``: the array that was brought to the device and will not change; None where each run brings it anew.
    """

    def __init__(self, device: Device, spec: TensorSpec, *, on_host: bool) -> None:
        self.name, self.on_host = spec.name, on_host
        self.shape: Shape = ()
        self.held: Array | None = None
        self._dtype = np.dtype(spec.dtype)
        self._device = device
        self._staging: Memory | None = None
        self._memory: Memory | None = None
        self._room = 0
        self._place(0)

    @property
    def staging(self) -> Memory:
        """Page-locked memory; none is taken for what goes to the device as it is."""
        if self._staging is None:
            self._staging = Memory(self._device, self._room, host=True)
        return self._staging

    @property
    def nbytes(self) -> int:
        """Bytes of the present shape."""
        return math.prod(self.shape) * self._dtype.itemsize

    @property
    def address(self) -> int:
        """Where TensorRT finds it."""
        return self.staging.value if self._memory is None else self._memory.value

    def make_room(self, shape: Shape) -> bool:
        """Take this shape; return whether there was no room for it, so that the address is another now."""
        self.shape = shape
        if self.nbytes <= self._room:
            return False
        self._place(max(self.nbytes, 2 * self._room))
        return True

    def put(self, array: Array, stream: int) -> None:
        """Bring an input; one that nobody can write any more goes to the device once."""
        assert array.dtype == self._dtype, f"{self.name}: {array.dtype}, {self._dtype} is expected"
        if array.flags.writeable or self.on_host:
            self.held = None
            self.staging.array(self._dtype, self.shape)[...] = array
        elif self.held is not array:
            assert array.flags.c_contiguous, f"{self.name}: {array.strides} is not contiguous"
            self.held = array
            if array.nbytes:
                self._device.copy_in(self.address, array.ctypes.data, array.nbytes, stream)

    def take(self) -> Array:
        """Return an output that has come, in memory of its own."""
        return self.staging.array(self._dtype, self.shape).copy()

    def _place(self, size: int) -> None:
        self._staging = None
        self._memory = None if self.on_host else Memory(self._device, size)
        self._room = size if self._memory is None else self._memory.size
        self.held = None


class State:
    """A state tensor in two places on the device."""

    def __init__(self, device: Device, spec: TensorSpec, sizes: Mapping[str, int]) -> None:
        self.name, self.carried = spec.name.removeprefix("past."), spec.state == "carried"
        self.shape = tuple(size if isinstance(size, int) else sizes[size] for size in spec.shape)
        self.dtype = np.dtype(spec.dtype)
        self.nbytes = math.prod(self.shape) * self.dtype.itemsize
        self.places = (Memory(device, self.nbytes), Memory(device, self.nbytes))
