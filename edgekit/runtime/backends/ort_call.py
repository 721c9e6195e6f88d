"""OrtCall: one stream's state bound to an onnxruntime session, on the device where the session computes.

Knows onnxruntime's bindings, both kinds of state tensors and CUDA graphs; knows nothing of bundles. The device is a
name: on ``cpu`` the same code binds memory that numpy shares. Nothing here was run on a GPU yet.
"""

import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from threading import Lock
from typing import Any, Literal

import numpy as np

from edgekit.bundle import Component
from edgekit.errors import BackendError
from edgekit.runtime.engine import Array
from edgekit.runtime.graphs.library import load_onnxruntime

Device = Literal["cpu", "cuda"]
GRAPH_ID = "gpu_graph_id"  # onnxruntime's run option: which CUDA graph to record or replay
_NO_GRAPH = "-1"
_MOST_GRAPHS = 8  # of one call: what is seldom run in one shape is not worth the memory of a graph
_MOST_SEEN = 64

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Recorder:
    """What the calls of one session share that record graphs: unused numbers for them, and whose turn it is.

    Source: onnxruntime's documentation, CUDA graphs: one run at a time.
    """

    ids: Iterator[int] = field(default_factory=lambda: count(1))
    lock: Lock = field(default_factory=Lock)


class OrtCall:
    """See the module docstring. Each state buffer is handed to onnxruntime once and stays where it is."""

    def __init__(
        self, session: Any, component: Component, state: Mapping[str, Array], device: Device = "cpu",
        recorder: Recorder | None = None,
    ) -> None:  # fmt: skip
        """state: what state starts as, by name without ``past.``; recorder: the session's, if it records graphs."""
        self._value = load_onnxruntime().OrtValue
        self._session, self._component, self._device = session, component, device
        self._recorder = recorder
        self._graphs: dict[tuple[Any, ...], _Graph] = {}
        self._seen: dict[tuple[Any, ...], Shapes] = {}
        self._options = _run_options(_NO_GRAPH)
        self._binding = session.io_binding()
        self._inputs: dict[str, Array] = {}
        self._in_place: dict[str, Any] = {}
        self._carried: dict[str, list[Any]] = {}  # two values by name: what the next run reads and what it writes
        self._turn = False
        for spec in component.inputs:
            name = spec.name.removeprefix("past.")
            if spec.state == "in-place":
                self._in_place[name] = self._held(state[name])
            elif spec.state == "carried":
                self._carried[name] = [self._held(state[name]), self._held(np.zeros_like(state[name]))]
        self._zeros = {name: np.zeros_like(state[name]) for name in self._carried}
        self._on_host = self._read_on_host()
        self._bind_state(self._binding)
        # A binding keeps outputs in the order in which they were first bound.
        self._outputs = [spec.name for spec in component.outputs if spec.state == "none"]
        self._states = len(component.outputs) - len(self._outputs)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run once and return every output that is not state, in memory of its own; ``carried`` state moves on.

        Raises BackendError with onnxruntime's own words if the run fails.
        """
        for name, array in inputs.items():
            assert array.flags.c_contiguous, f"{name}: {array.strides} is not contiguous"
        try:
            found = self._run_or_replay(inputs, self._recorder) if self._recorder else self._run(inputs)
        except RuntimeError as error:
            raise BackendError(
                f"{self._component.graph}: onnxruntime failed ({one_line(error)}); run `edgekit verify` on the bundle"
            ) from error
        if self._carried:
            for pair in self._carried.values():
                pair.reverse()
            self._turn = not self._turn
            self._bind_carried(self._binding)
        return found

    def reset(self) -> None:
        """Set ``carried`` state to zero."""
        self.load(self._zeros)

    def save(self) -> dict[str, Array]:
        """Return a copy of the ``carried`` state; see Call."""
        return {name: np.array(past.numpy()) for name, (past, _) in self._carried.items()}

    def load(self, state: Mapping[str, Array]) -> None:
        """Go on from a copy of the ``carried`` state; see Call."""
        for name, (past, _) in self._carried.items():
            past.update_inplace(state[name])

    def _run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        for name, array in inputs.items():
            self._bind_input(name, array)
        for name in self._outputs:
            # Anew at every run: a bound output keeps its first shape and its memory, which the caller now holds.
            self._binding.bind_output(name, "cpu")
        if self._device != "cpu":
            self._binding.synchronize_inputs()  # binding copied them there
        self._session.run_with_iobinding(self._binding, self._options)
        values = self._binding.get_outputs()[self._states :]
        return {name: value.numpy() for name, value in zip(self._outputs, values, strict=True)}

    def _bind_input(self, name: str, array: Array) -> None:
        """Bind an array unless it is bound: on the CPU it is shared, a GPU has a copy of what it was when bound."""
        kept = self._device == "cpu" or not array.flags.writeable
        if not kept or self._inputs.get(name) is not array:
            self._binding.bind_ortvalue_input(name, self._value.ortvalue_from_numpy(array))
            # The binding keeps the memory's address only: the array must live as long as it does.
            self._inputs[name] = array

    def _run_or_replay(self, inputs: Mapping[str, Array], recorder: Recorder) -> dict[str, Array]:
        """Record a run that comes a second time in the same shapes, and replay it from then on."""
        # What the host reads, such as a number of experts, becomes part of a graph. So do the addresses of carried
        # state, which come by turns.
        host = tuple((name, inputs[name].tobytes()) for name in sorted(self._on_host & inputs.keys()))
        key = (self._turn, host, *((name, array.shape) for name, array in sorted(inputs.items())))
        with recorder.lock:
            graph = self._graphs.get(key)
            if graph is None and key in self._seen and len(self._graphs) < _MOST_GRAPHS:
                graph = self._graphs[key] = self._record(inputs, self._seen[key], next(recorder.ids))
            if graph is not None:
                return graph.run(inputs)
            found = self._run(inputs)
        if all(array.size and array.flags.writeable for array in inputs.values()):
            if len(self._seen) == _MOST_SEEN:
                self._seen.clear()
            self._seen[key] = {name: array.shape for name, array in found.items()}
        return found

    def _record(self, inputs: Mapping[str, Array], shapes: Shapes, graph_id: int) -> "_Graph":
        """Return a Graph with buffers of its own for these inputs and outputs; its first run records it."""
        binding = self._session.io_binding()
        self._bind_state(binding)
        dtypes = {spec.name: np.dtype(spec.dtype) for spec in self._component.outputs}
        given = {
            name: self._value.ortvalue_from_numpy(array.copy(), "cpu" if name in self._on_host else self._device, 0)
            for name, array in inputs.items()
        }
        made = {
            name: self._value.ortvalue_from_shape_and_type(shape, dtypes[name], self._device, 0)
            for name, shape in shapes.items()
        }
        for name, value in given.items():
            binding.bind_ortvalue_input(name, value)
        for name, value in made.items():
            binding.bind_ortvalue_output(name, value)
        weakref.finalize(self, self._session.release_captured_graph, graph_id).atexit = False
        fed = {name: value for name, value in given.items() if name not in self._on_host}
        return _Graph(self._session, binding, fed, made, graph_id)

    def _read_on_host(self) -> frozenset[str]:
        """Return the inputs that the session reads on the host while it computes elsewhere."""
        if self._device == "cpu":
            return frozenset()
        infos = zip(self._session.get_inputs(), self._session.get_input_memory_infos(), strict=True)
        return frozenset(node.name for node, info in infos if info.name.lower() != self._device)

    def _bind_state(self, binding: Any) -> None:
        for name, value in self._in_place.items():
            binding.bind_ortvalue_input(f"past.{name}", value)
            binding.bind_ortvalue_output(f"present.{name}", value)
        self._bind_carried(binding)

    def _bind_carried(self, binding: Any) -> None:
        for name, (past, present) in self._carried.items():
            binding.bind_ortvalue_input(f"past.{name}", past)
            binding.bind_ortvalue_output(f"present.{name}", present)

    def _held(self, array: Array) -> Any:
        """Return a value on the device: the array's own memory on the CPU."""
        try:
            return self._value.ortvalue_from_numpy(array, self._device, 0)
        except RuntimeError as error:
            raise BackendError(
                f"{self._component.graph}: no place for {array.nbytes} bytes of state on the device "
                f"({one_line(error)}); end other programs, or take a shorter --context-tokens"
            ) from error


class _Graph:
    """A run whose kernels are recorded: the same buffers every time, launched as one."""

    def __init__(
        self, session: Any, binding: Any, inputs: Mapping[str, Any], outputs: Mapping[str, Any], graph_id: int
    ) -> None:
        self._session, self._binding = session, binding
        self._inputs, self._outputs = inputs, outputs
        self._options = _run_options(str(graph_id))

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Copy the inputs in, run and copy the outputs out."""
        for name, value in self._inputs.items():
            value.update_inplace(inputs[name])
        self._session.run_with_iobinding(self._binding, self._options)
        return {name: np.array(value.numpy()) for name, value in self._outputs.items()}


def _run_options(graph_id: str) -> Any:
    options = load_onnxruntime().RunOptions()
    options.add_run_config_entry(GRAPH_ID, graph_id)
    return options


def one_line(error: BaseException) -> str:
    """Return an error's message on one line."""
    return " ".join(str(error).split())
