"""TrtEngine and TrtCall: a plan in TensorRT, or in TensorRT for RTX, on the first CUDA device, and its use by a stream.

State never leaves the device: each tensor of it has two places, and a run reads one and writes the other. Inputs and
outputs pass through page-locked memory. A run whose sizes come again and again, such as the step that decodes a token,
is captured as a CUDA graph and replayed. Which plan fits is decided in ``loading.py``.

No plan was executed on a GPU yet: what is shown of it is shown with a device in the host's memory.
"""

import threading
import weakref
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgekit.bundle import Component
from edgekit.errors import BackendError, BundleFormatError, OutputError
from edgekit.runtime.backends.device import Device, Held, Memory
from edgekit.runtime.backends.trt.plans import PlanStore
from edgekit.runtime.backends.trt.ports import Port, Shape, State
from edgekit.runtime.engine import Array, Call

_KEPT = 2  # sizes whose graphs are kept: a step of decoding, and the chunk that is heard meanwhile


@dataclass(frozen=True, slots=True)
class Place:
    """TensorRT's module, what it logs to, and the device that it works on."""

    library: Any
    logger: Any
    device: Device


class Compiled:
    """What TensorRT for RTX compiled on this device at load, kept beside the plans so that it is done once."""

    def __init__(self, store: PlanStore, file: str, device: Device) -> None:
        self._store, self._file, self._device = store, file, device
        self._cache: Any = None

    def take_from(self, config: Any, notes: list[str]) -> None:  # noqa: ANN401 - an IRuntimeConfig
        """Hand what this device kept to a runtime configuration; TensorRT checks that it fits."""
        self._cache = config.create_runtime_cache()
        kept = self._store.cache(self._file)
        if kept and not self._cache.deserialize(kept):
            notes.append(f"{self._file}: of another driver or device, compiled anew")
        elif not kept and self._store.has_cache(self._file):
            notes.append(f"{self._file}: not sealed by this device, compiled anew")
        config.set_runtime_cache(self._cache)

    def keep(self, notes: list[str]) -> None:
        """Write down what was compiled since; a disk that does not take it costs time at the next start only."""
        if self._cache is None:
            return
        self._device.use()
        data = bytes(memoryview(self._cache.serialize()))
        if data != self._store.cache(self._file):
            try:
                self._store.keep_cache(self._file, data)
            except OutputError as error:
                notes.append(str(error))


class TrtEngine:
    """A Component's plan; shared by streams, so it holds no state of theirs.

    ``scratch``: memory on the device that a run needs beside its inputs and outputs. One for all, since a flow alone
    has ten Calls; their runs take turns.

    ``counts``: runs that were ``eager`` or ``replayed``, and graphs ``captured``; ``notes``: what was not as hoped.
    """

    def __init__(self, component: Component, engine: Any, place: Place, compiled: Compiled) -> None:  # noqa: ANN401
        """Raise BackendError or BundleFormatError if the plan's inputs and outputs are not the manifest's."""
        self.component, self.device = component, place.device
        self.counts: Counter[str] = Counter()
        self.notes: list[str] = []
        self._engine, self._place, self._compiled = engine, place, compiled
        self._lock = threading.Lock()
        self.turn = threading.Lock()  # of the run that uses ``scratch``, until the device is done with it
        self.device.use()
        self.scratch = Memory(self.device, int(engine.device_memory_size_v2))
        trt = place.library
        self._check(trt)
        self.host_tensors = frozenset(
            name for name in self._names() if engine.get_tensor_location(name) == trt.TensorLocation.HOST
        )
        self._context_kind: Any = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if hasattr(trt, "IRuntimeCache"):  # TensorRT for RTX
            strategy, self._context_kind = self._context_kind, engine.create_runtime_config()
            self._context_kind.set_execution_context_allocation_strategy(strategy)
            compiled.take_from(self._context_kind, self.notes)
        weakref.finalize(self, compiled.keep, self.notes)

    def bind(self, sizes: Mapping[str, int]) -> Call:
        """Allocate the component's state tensors on the device, free sizes from ``sizes``; return a Call on them."""
        call = TrtCall(self, sizes)
        self._compiled.keep(self.notes)
        return call

    def context(self) -> Any:  # noqa: ANN401 - an IExecutionContext
        """Return a new execution context, which has no memory yet."""
        with self._lock:
            context = self._engine.create_execution_context(self._context_kind)
        if context is None:
            raise BackendError(f"{self.component.graph}: TensorRT makes no context ({self.said()}); free memory")
        return context

    def said(self) -> str:
        """Return TensorRT's own words about what went wrong last."""
        return str(self._place.logger.error())

    def count(self, what: str) -> None:
        """Count one more run or graph."""
        with self._lock:
            self.counts[what] += 1

    def _names(self) -> list[str]:
        return [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]

    def _check(self, trt: Any) -> None:  # noqa: ANN401 - TensorRT's module
        component = self.component
        specs = {spec.name: spec for spec in (*component.inputs, *component.outputs)}
        if odd := sorted(specs.keys() ^ set(self._names())):
            raise BackendError(f"{component.graph}: '{odd[0]}' is in its plan or in the manifest only; build it again")
        for name, spec in specs.items():
            dtype = np.dtype(trt.nptype(self._engine.get_tensor_dtype(name)))
            if dtype != np.dtype(spec.dtype):
                raise BackendError(
                    f"{component.graph}: '{name}' is {dtype} in its plan, {spec.dtype} in the manifest; build it again"
                )
            if spec.state == "in-place":
                raise BundleFormatError(
                    f"{component.graph}: state '{name}' is in-place, which TensorRT cannot; export it again"
                )


class TrtCall:
    """One stream's state bound to a TrtEngine; see the module docstring. One thread at a time may run it."""

    def __init__(self, engine: TrtEngine, sizes: Mapping[str, int]) -> None:
        self._engine, self._device = engine, engine.device
        self._device.use()
        self._stream = Held(self._device.open_stream(), self._device.close_stream)
        component, host = engine.component, engine.host_tensors
        self._inputs, self._outputs = (
            {spec.name: Port(self._device, spec, on_host=spec.name in host) for spec in specs if spec.state == "none"}
            for specs in (component.inputs, component.outputs)
        )
        self._state = [State(self._device, spec, sizes) for spec in component.inputs if spec.state != "none"]
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
                staging = Memory(self._device, state.nbytes, host=True)
                self._device.copy_out(staging.value, state.places[self._side].value, state.nbytes, self._stream.value)
                self._device.wait(self._stream.value)
                saved[state.name] = staging.array(state.dtype, state.shape).copy()
        return saved

    def load(self, state: Mapping[str, Array]) -> None:
        """Go on from a copy of the ``carried`` state; see Call."""
        self._device.use()
        for one in self._state:
            if one.carried:
                staging = Memory(self._device, one.nbytes, host=True)
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
