"""TrtCall: one stream's state on the device, and how a run is given to TensorRT.

State never leaves the device: each tensor of it has two places, and a run reads one and writes the other. Inputs and
outputs pass through page-locked memory. A run whose sizes come again and again, such as the step that decodes a token,
is captured as a CUDA graph and replayed.
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.bundle import TensorSpec
from edgekit.errors import BackendError
from edgekit.runtime.backends.device import Device, Held, Memory
from edgekit.runtime.engine import Array

if TYPE_CHECKING:
    from edgekit.runtime.backends.trt.engine import TrtEngine

_KEPT = 2  # sizes whose graphs are kept: a step of decoding, and the chunk that is heard meanwhile
Shape = tuple[int, ...]


class TrtCall:
    """One stream's state bound to a TrtEngine; see the module docstring. One thread at a time may run it."""

    def __init__(self, engine: "TrtEngine", sizes: Mapping[str, int]) -> None:
        self._engine, self._device = engine, engine.device
        self._device.use()
        self._stream = Held(self._device.open_stream(), self._device.close_stream)
        component, host = engine.component, engine.host_tensors
        self._inputs, self._outputs = (
            {spec.name: _Port(self._device, spec, on_host=spec.name in host) for spec in specs if spec.state == "none"}
            for specs in (component.inputs, component.outputs)
        )
        self._state = [_State(self._device, spec, sizes) for spec in component.inputs if spec.state != "none"]
        self._side = 0  # of the two places of each state tensor, the one that is read next
        self._moves = 0  # how often a port has moved: addresses that a context has from before are stale
        self._given: dict[str, Array] = {}
        self._last: object = None
        self._any = _Lane(self._context())
        self._repeated: dict[object, dict[int, _Lane]] = {}  # by sizes, the latest last; then by side
        self._captures = True
        self.reset()

    def reset(self) -> None:
        """Set state to zero."""
        self._device.use()
        for state in self._state:
            place = state.places[self._side]
            self._device.zero(place.value, place.size, self._stream.value)

    def save(self) -> dict[str, Array]:
        """Return a copy of the ``carried`` state, brought to the host; see Call."""
        self._device.use()
        saved = {}
        for state in self._state:
            if state.carried:
                staging = Memory(self._device, max(1, state.nbytes), host=True)
                self._device.copy_out(staging.value, state.places[self._side].value, state.nbytes, self._stream.value)
                self._device.wait(self._stream.value)
                saved[state.name] = staging.array(state.dtype, state.shape).copy()
        return saved

    def load(self, state: Mapping[str, Array]) -> None:
        """Go on from a copy of the ``carried`` state; see Call."""
        self._device.use()
        for one in self._state:
            if one.carried:
                staging = Memory(self._device, max(1, one.nbytes), host=True)
                staging.array(one.dtype, one.shape)[...] = state[one.name]
                self._device.copy_in(one.places[self._side].value, staging.value, one.nbytes, self._stream.value)
                self._device.wait(self._stream.value)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run once and return every output that is no state, in memory of its own; state moves on.

        Raises BackendError with TensorRT's or the driver's own words if the run fails.
        """
        with self._engine.turn:
            return self._run(inputs)

    def _run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        self._device.use()
        self._given.update(inputs)
        sizes = self._stage()
        lane = self._lane(sizes)
        if lane.ready_for != (sizes, self._side, self._moves):
            self._prepare(lane)
            lane.ready_for = (sizes, self._side, self._moves)
        for name, shape in lane.outputs.items():
            self._outputs[name].shape = shape
        if lane.graph is None and lane.ran and self._captures and lane is not self._any:
            self._capture(lane)
        if lane.graph is not None:
            self._device.launch(lane.graph.value, self._stream.value)
        else:
            self._submit(lane)
        self._device.wait(self._stream.value)
        self._engine.count("eager" if lane.graph is None else "replayed")
        lane.ran = True
        self._side ^= bool(self._state)
        return {name: port.take() for name, port in self._outputs.items()}

    def _stage(self) -> tuple[object, ...]:
        """Bring the inputs to page-locked memory and return all of them that a context or a graph depends on."""
        sizes: list[object] = []
        for name, port in self._inputs.items():
            array = self._given[name]
            self._moves += port.make_room(array.shape)
            port.put(array, self._stream.value)
            sizes.append((port.shape, port.held is not None, array.tobytes() if port.on_host else b""))
        return tuple(sizes)

    def _lane(self, sizes: object) -> "_Lane":
        """Return the context for these sizes: one of their own from the second run in a row on.

        TensorRT wants a context left alone once a graph was captured from it, so each graph has its own.
        """
        pair = self._repeated.pop(sizes, None)
        if pair is None:
            again, self._last = sizes == self._last, sizes
            if not again:
                return self._any
            full = len(self._repeated) == _KEPT
            pair = self._repeated.pop(next(iter(self._repeated))) if full else {}
        self._repeated[sizes], self._last = pair, sizes
        if self._side not in pair:
            pair[self._side] = _Lane(self._context())
        return pair[self._side]

    def _context(self) -> Any:  # noqa: ANN401 - an IExecutionContext
        context, scratch = self._engine.context(), self._engine.scratch
        context.set_device_memory(scratch.value, scratch.size)
        return context

    def _prepare(self, lane: "_Lane") -> None:
        """Tell a context shapes and addresses, and make room for its outputs."""
        context, lane.ready_for, lane.graph, lane.ran = lane.context, None, None, False
        for name, port in self._inputs.items():
            self._set(context, name, port.shape, port.address)
        for state in self._state:
            self._set(context, f"past.{state.name}", state.shape, state.places[self._side].value)
            self._put(context, f"present.{state.name}", state.places[self._side ^ 1].value)
        try:
            unknown = context.infer_shapes()
        except RuntimeError as error:
            raise self._error(f"TensorRT infers no shapes, {error}") from error
        if unknown:
            raise self._error(f"TensorRT lacks the size of '{unknown[0]}'")
        lane.outputs = {}
        for name, port in self._outputs.items():
            shape = tuple(context.get_tensor_shape(name))
            if any(extent < 0 for extent in shape):
                raise self._error(f"the size of output '{name}' is known after the run only")
            self._moves += port.make_room(shape)
            lane.outputs[name] = shape
            self._put(context, name, port.address)

    def _set(self, context: Any, name: str, shape: Shape, address: int) -> None:  # noqa: ANN401
        if not context.set_input_shape(name, shape):
            raise self._error(f"input '{name}' of {shape} is outside of what its plan was built for")
        self._put(context, name, address)

    def _put(self, context: Any, name: str, address: int) -> None:  # noqa: ANN401
        if not context.set_tensor_address(name, address):
            raise self._error(f"TensorRT does not take the address of '{name}'")

    def _submit(self, lane: "_Lane") -> None:
        """Give the stream one run to do, with the copies before and after it."""
        for port in self._inputs.values():
            if not port.on_host and port.held is None and port.nbytes:
                self._device.copy_in(port.address, port.staging.value, port.nbytes, self._stream.value)
        if not lane.context.execute_async_v3(self._stream.value):
            raise self._error("TensorRT does not run it")
        for port in self._outputs.values():
            if not port.on_host and port.nbytes:
                self._device.copy_out(port.staging.value, port.address, port.nbytes, self._stream.value)

    def _capture(self, lane: "_Lane") -> None:
        capturable = getattr(lane.context, "is_stream_capturable", None)  # TensorRT for RTX has it
        if capturable is not None and not capturable(self._stream.value):
            self._engine.count("not capturable")
            return
        try:
            graph = self._device.capture(self._stream.value, lambda: self._submit(lane))
        except BackendError as error:
            self._captures = False
            if (note := f"no CUDA graph: {error}") not in self._engine.notes:
                self._engine.notes.append(note)
            return
        lane.graph = Held(graph, self._device.drop_graph)
        self._engine.count("captured")

    def _error(self, said: str) -> BackendError:
        graph, why = self._engine.component.graph, self._engine.said()
        return BackendError(f"{graph}: {said} ({why}); run `edgekit verify` on the bundle")


class _Lane:
    """An execution context, what it was made ready for, and its graph once there is one."""

    def __init__(self, context: Any) -> None:  # noqa: ANN401 - an IExecutionContext
        self.context = context
        self.ready_for: object = None
        self.outputs: dict[str, Shape] = {}
        self.ran = False  # TensorRT wants one run before it is captured
        self.graph: Held | None = None


class _Port:
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


class _State:
    """A state tensor in two places on the device."""

    def __init__(self, device: Device, spec: TensorSpec, sizes: Mapping[str, int]) -> None:
        self.name, self.carried = spec.name.removeprefix("past."), spec.state == "carried"
        self.shape = tuple(size if isinstance(size, int) else sizes[size] for size in spec.shape)
        self.dtype = np.dtype(spec.dtype)
        self.nbytes = math.prod(self.shape) * self.dtype.itemsize
        self.places = (Memory(device, self.nbytes), Memory(device, self.nbytes))
