"""Device: memory, streams and graphs of one CUDA device, by the driver's own library, which needs no package.

Knows ``libcuda`` (CUDA 11.4 and later, cuda.h) and nothing of TensorRT or bundles. The calls were made against a
stand-in for the library; no GPU has answered them yet.
"""

import ctypes
import math
import weakref
from collections.abc import Callable
from contextlib import suppress
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_ubyte, c_uint, c_ulonglong, c_void_p
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import BackendError
from edgekit.runtime.memory import MIB, available_mib

LIBRARY = "libcuda.so.1"
_SUCCESS = 0
_MAJOR, _MINOR = 75, 76  # CUdevice_attribute: compute capability
_INTEGRATED = 18  # CUdevice_attribute: shares the machine's memory
_NON_BLOCKING = 1  # CUstream_flags: waits for no work of the default stream
_THREAD_LOCAL = 1  # CUstreamCaptureMode: what other threads do meanwhile disturbs no capture
_LEAST_BYTES = 256  # an empty tensor needs an address, too
_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cuInit": (c_uint,),
    "cuDriverGetVersion": (POINTER(c_int),),
    "cuDeviceGetCount": (POINTER(c_int),),
    "cuDeviceGet": (POINTER(c_int), c_int),
    "cuDeviceGetName": (c_char_p, c_int, c_int),
    "cuDeviceGetAttribute": (POINTER(c_int), c_int, c_int),
    "cuDeviceTotalMem_v2": (POINTER(c_size_t), c_int),
    "cuDevicePrimaryCtxRetain": (POINTER(c_void_p), c_int),
    "cuCtxSetCurrent": (c_void_p,),
    "cuMemGetInfo_v2": (POINTER(c_size_t), POINTER(c_size_t)),
    "cuMemAlloc_v2": (POINTER(c_ulonglong), c_size_t),
    "cuMemFree_v2": (c_ulonglong,),
    "cuMemHostAlloc": (POINTER(c_void_p), c_size_t, c_uint),
    "cuMemFreeHost": (c_void_p,),
    "cuMemcpyHtoDAsync_v2": (c_ulonglong, c_void_p, c_size_t, c_void_p),
    "cuMemcpyDtoHAsync_v2": (c_void_p, c_ulonglong, c_size_t, c_void_p),
    "cuMemsetD8Async": (c_ulonglong, c_ubyte, c_size_t, c_void_p),
    "cuStreamCreate": (POINTER(c_void_p), c_uint),
    "cuStreamDestroy_v2": (c_void_p,),
    "cuStreamSynchronize": (c_void_p,),
    "cuStreamBeginCapture_v2": (c_void_p, c_int),
    "cuStreamEndCapture": (c_void_p, POINTER(c_void_p)),
    "cuGraphInstantiateWithFlags": (POINTER(c_void_p), c_void_p, c_ulonglong),
    "cuGraphDestroy": (c_void_p,),
    "cuGraphLaunch": (c_void_p, c_void_p),
    "cuGraphExecDestroy": (c_void_p,),
}


class Device(Protocol):
    """What a backend asks of a device; addresses, streams and graphs are integers. Errors are BackendError."""

    capability: str

    def use(self) -> None:
        """Make the calling thread work with this device."""
        ...

    def free_mib(self) -> float | None:
        """Return how much memory may still be taken on the device; None if that is not known."""
        ...

    def allocate(self, size: int) -> int:
        """Return the address of memory on the device; what it holds is not told."""
        ...

    def free(self, address: int) -> None:
        """Give memory back."""
        ...

    def allocate_host(self, size: int) -> int:
        """Return the address of page-locked memory of the host."""
        ...

    def free_host(self, address: int) -> None:
        """Give page-locked memory back."""
        ...

    def copy_in(self, device: int, host: int, size: int, stream: int) -> None:
        """Copy bytes to the device, in the order of a stream."""
        ...

    def copy_out(self, host: int, device: int, size: int, stream: int) -> None:
        """Copy bytes from the device, in the order of a stream."""
        ...

    def zero(self, device: int, size: int, stream: int) -> None:
        """Set bytes on the device to zero, in the order of a stream."""
        ...

    def open_stream(self) -> int:
        """Return a new stream: work that is done in order."""
        ...

    def close_stream(self, stream: int) -> None:
        """Give a stream back."""
        ...

    def wait(self, stream: int) -> None:
        """Return when all work of a stream is done."""
        ...

    def capture(self, stream: int, submit: Callable[[], None]) -> int:
        """Return a graph of what ``submit`` gives a stream to do; nothing of it is done yet."""
        ...

    def launch(self, graph: int, stream: int) -> None:
        """Do what a graph holds, in the order of a stream."""
        ...

    def drop_graph(self, graph: int) -> None:
        """Give a graph back."""
        ...


class Held:
    """An integer of a Device's, given back with this object."""

    def __init__(self, value: int, give_back: Callable[[int], None]) -> None:
        self.value = value
        weakref.finalize(self, _give_back, give_back, value)


def _give_back(give_back: Callable[[int], None], value: int) -> None:
    with suppress(BackendError):  # once a run broke the device, which was told, it answers every call with that
        give_back(value)


class Memory(Held):
    """Bytes on a device or, with ``host``, page-locked in the host's memory; at least so many."""

    def __init__(self, device: Device, size: int, *, host: bool = False) -> None:
        self.size = max(size, _LEAST_BYTES)
        allocate, free = (device.allocate_host, device.free_host) if host else (device.allocate, device.free)
        super().__init__(allocate(self.size), free)

    def array(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        """Return an array on the first bytes; they must be the host's, and outlive it."""
        count = math.prod(shape)
        assert count * dtype.itemsize <= self.size, f"{shape} of {dtype} in {self.size} bytes"
        held = memoryview((ctypes.c_ubyte * self.size).from_address(self.value))
        found: NDArray[Any] = np.frombuffer(held, dtype, count).reshape(shape)
        return found


@dataclass(frozen=True, slots=True)
class Found:
    """What the driver says of one device."""

    name: str
    compute_capability: str
    memory_mib: int


class Driver:
    """``libcuda``: every call that does not succeed is a BackendError with the driver's own words."""

    def __init__(self) -> None:
        """Raise BackendError without the library, or if it finds no device to work with."""
        try:
            self._library = ctypes.CDLL(LIBRARY)
        except OSError as error:
            raise BackendError(f"CUDA: {error}; `edgekit doctor` says what to install") from error
        self.call("cuInit", 0)

    def call(self, name: str, *arguments: Any) -> None:  # noqa: ANN401 - as the function has them
        """Call a function of the library."""
        function = getattr(self._library, name, None)
        if function is None:
            raise BackendError(f"CUDA: {LIBRARY} has no {name}; install a newer driver")
        function.argtypes, function.restype = _SIGNATURES[name], c_int
        if (code := function(*arguments)) != _SUCCESS:
            raise BackendError(f"CUDA: {name} answers {code}{self._words(code)}; `edgekit doctor` looks at the device")

    def version(self) -> str:
        """Return the latest CUDA that the driver speaks."""
        version = c_int()
        self.call("cuDriverGetVersion", byref(version))
        return f"{version.value // 1000}.{version.value % 1000 // 10}"

    def devices(self) -> list[Found]:
        """Return what the driver says of every device, the first one first."""
        count = c_int()
        self.call("cuDeviceGetCount", byref(count))
        return [self._found(index) for index in range(count.value)]

    def _found(self, index: int) -> Found:
        name, major, minor, size = ctypes.create_string_buffer(256), c_int(), c_int(), c_size_t()
        self.call("cuDeviceGetName", name, len(name), index)
        self.call("cuDeviceGetAttribute", byref(major), _MAJOR, index)
        self.call("cuDeviceGetAttribute", byref(minor), _MINOR, index)
        self.call("cuDeviceTotalMem_v2", byref(size), index)
        return Found(name.value.decode(errors="replace"), f"{major.value}.{minor.value}", size.value >> 20)

    def _words(self, code: int) -> str:
        function, text = getattr(self._library, "cuGetErrorString", None), c_char_p()
        if function is None or function(c_int(code), byref(text)) != _SUCCESS or text.value is None:
            return ""
        return f" ({text.value.decode(errors='replace')})"


def probe(_argument: str = "") -> dict[str, Any]:
    """Return version and devices as the driver's library gives them; ``error`` if it cannot start."""
    try:
        driver = Driver()
        return {"cuda": driver.version(), "devices": [asdict(one) for one in driver.devices()]}
    except BackendError as error:
        return {"error": str(error).removeprefix("CUDA: ").partition("; ")[0]}


def device_capability() -> str:
    """Return the compute capability of the first CUDA device, such as 8.7.

    Raises BackendError without a driver or a device.
    """
    found = Driver().devices()
    if not found:
        raise BackendError("CUDA: the driver answers, but shows no device; `edgekit doctor` says what to type")
    return found[0].compute_capability


def cuda_free_mib() -> float | None:
    """Return how much memory may still be taken on the first CUDA device; None where none answers."""
    try:
        return CudaDevice().free_mib()
    except BackendError:  # which whoever asks for the device next tells better
        return None


class CudaDevice:
    """The first CUDA device, in its primary context, which TensorRT works in, too; see Device."""

    def __init__(self) -> None:
        """Raise BackendError without a driver or a device."""
        self.capability = device_capability()
        self._driver = Driver()
        ordinal, context = c_int(), c_void_p()
        self._driver.call("cuDeviceGet", byref(ordinal), 0)
        self._driver.call("cuDevicePrimaryCtxRetain", byref(context), ordinal)
        self._context, self._ordinal = context, ordinal
        self.use()

    def use(self) -> None:
        """Make the calling thread work with this device."""
        self._driver.call("cuCtxSetCurrent", self._context)

    def free_mib(self) -> float | None:
        """Return what the driver calls free; of a device that shares the machine's memory, what the machine has.

        There the driver does not count what the kernel would give back, such as pages of files.
        """
        shares, free, total = c_int(), c_size_t(), c_size_t()
        self._driver.call("cuDeviceGetAttribute", byref(shares), _INTEGRATED, self._ordinal)
        if shares.value:
            return available_mib()
        self._driver.call("cuMemGetInfo_v2", byref(free), byref(total))
        return free.value / MIB

    def allocate(self, size: int) -> int:
        """Return the address of memory on the device."""
        address = c_ulonglong()
        self._driver.call("cuMemAlloc_v2", byref(address), size)
        return address.value

    def free(self, address: int) -> None:
        """Give memory back, from any thread."""
        self.use()
        self._driver.call("cuMemFree_v2", address)

    def allocate_host(self, size: int) -> int:
        """Return the address of page-locked memory of the host."""
        address = c_void_p()
        self._driver.call("cuMemHostAlloc", byref(address), size, 0)
        return _value(address)

    def free_host(self, address: int) -> None:
        """Give page-locked memory back, from any thread."""
        self.use()
        self._driver.call("cuMemFreeHost", address)

    def copy_in(self, device: int, host: int, size: int, stream: int) -> None:
        """Copy bytes to the device, in the order of a stream."""
        self._driver.call("cuMemcpyHtoDAsync_v2", device, host, size, stream)

    def copy_out(self, host: int, device: int, size: int, stream: int) -> None:
        """Copy bytes from the device, in the order of a stream."""
        self._driver.call("cuMemcpyDtoHAsync_v2", host, device, size, stream)

    def zero(self, device: int, size: int, stream: int) -> None:
        """Set bytes on the device to zero, in the order of a stream."""
        self._driver.call("cuMemsetD8Async", device, 0, size, stream)

    def open_stream(self) -> int:
        """Return a new stream."""
        stream = c_void_p()
        self._driver.call("cuStreamCreate", byref(stream), _NON_BLOCKING)
        return _value(stream)

    def close_stream(self, stream: int) -> None:
        """Give a stream back, from any thread."""
        self.use()
        self._driver.call("cuStreamDestroy_v2", stream)

    def wait(self, stream: int) -> None:
        """Return when all work of a stream is done."""
        self._driver.call("cuStreamSynchronize", stream)

    def capture(self, stream: int, submit: Callable[[], None]) -> int:
        """Return a graph of what ``submit`` gives a stream to do."""
        graph, made = c_void_p(), c_void_p()
        self._driver.call("cuStreamBeginCapture_v2", stream, _THREAD_LOCAL)
        try:
            submit()
        except BaseException:  # which is what is told; a stream that is left capturing takes no more work
            with suppress(BackendError):
                self._driver.call("cuStreamEndCapture", stream, byref(graph))
            if graph.value is not None:
                self._driver.call("cuGraphDestroy", graph)
            raise
        self._driver.call("cuStreamEndCapture", stream, byref(graph))
        try:
            self._driver.call("cuGraphInstantiateWithFlags", byref(made), graph, 0)
        finally:
            self._driver.call("cuGraphDestroy", graph)
        return _value(made)

    def launch(self, graph: int, stream: int) -> None:
        """Do what a graph holds, in the order of a stream."""
        self._driver.call("cuGraphLaunch", graph, stream)

    def drop_graph(self, graph: int) -> None:
        """Give a graph back, from any thread."""
        self.use()
        self._driver.call("cuGraphExecDestroy", graph)


def _value(pointer: c_void_p) -> int:
    assert pointer.value is not None, "the driver gave a null pointer and called it success"
    return pointer.value
