"""OrtEngine: a Component on onnxruntime's CPU backend.

Knows onnxruntime's sessions and bindings and both kinds of state tensors; knows nothing of audio or text. A bundle of
the ``standard`` dialect, which is made for TensorRT, runs here as its numerical twin.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.bundle import Bundle, Component, TensorSpec
from edgekit.errors import BackendError, BundleFormatError, MissingPackageError
from edgekit.runtime.backends.external_data import check_external_data
from edgekit.runtime.engine import Array, Call, allocate

DIALECTS = ("ort-cpu", "standard")
_PROVIDER = "CPUExecutionProvider"
_FATAL_ONLY = 4  # an error is raised; one line of it is enough
_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(bool)": "bool",
}


class OrtEngine:
    """A Component in an onnxruntime session; shared by streams, so it holds no state of theirs."""

    def __init__(self, component: Component, session: Any) -> None:
        self.component = component
        self._session = session

    def bind(self, sizes: Mapping[str, int]) -> Call:
        """Allocate the component's state tensors, free sizes taken from ``sizes``, and return a Call on them."""
        return OrtCall(self._session, self.component, allocate(self.component, sizes))


class OrtCall:
    """One stream's state bound to an OrtEngine: each buffer is handed to onnxruntime once, not at every run."""

    def __init__(self, session: Any, component: Component, state: dict[str, Array]) -> None:
        import onnxruntime

        self._share = onnxruntime.OrtValue.ortvalue_from_numpy  # shares the array's memory on the CPU
        self._session = session
        self._component = component
        self._binding = session.io_binding()
        self._bound: dict[str, Array] = {}
        self._carried: list[tuple[Array, Array]] = []
        for spec in component.inputs:
            if spec.state == "none":
                continue
            name = spec.name.removeprefix("past.")
            past = state[name]
            present = past if spec.state == "in-place" else np.zeros_like(past)
            self._binding.bind_ortvalue_input(spec.name, self._share(past))
            self._binding.bind_ortvalue_output(f"present.{name}", self._share(present))
            # The binding keeps the memory's address only: the arrays must live as long as it does.
            self._bound[spec.name], self._bound[f"present.{name}"] = past, present
            if spec.state == "carried":
                self._carried.append((past, present))
        self._outputs = [spec.name for spec in component.outputs if spec.state == "none"]
        self._place = {
            spec.name: index
            for index, spec in enumerate(
                [spec for spec in component.outputs if spec.state != "none"]
                + [spec for spec in component.outputs if spec.state == "none"]
            )
        }

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run once and return every output that is not state, in memory of its own; ``carried`` state moves on.

        Raises BackendError with onnxruntime's own words if the run fails.
        """
        for name, array in inputs.items():
            if self._bound.get(name) is not array:
                self._bind_input(name, array)
        for name in self._outputs:
            # Anew at every run: a bound output keeps its first shape and its memory, which the caller now holds.
            self._binding.bind_output(name, "cpu")
        try:
            self._session.run_with_iobinding(self._binding)
        except RuntimeError as error:
            raise BackendError(
                f"{self._component.graph}: onnxruntime failed ({_one_line(error)}); run `edgekit verify` on the bundle"
            ) from error
        for past, present in self._carried:
            np.copyto(past, present)
        values = self._binding.get_outputs()
        return {name: values[self._place[name]].numpy() for name in self._outputs}

    def reset(self) -> None:
        """Set ``carried`` state to zero."""
        for past, _ in self._carried:
            past.fill(0)

    def _bind_input(self, name: str, array: Array) -> None:
        assert array.flags.c_contiguous, f"{name}: {array.strides} is not contiguous"
        self._binding.bind_ortvalue_input(name, self._share(array))
        self._bound[name] = array


def load_component(bundle: Bundle, name: str, threads: int) -> OrtEngine:
    """Return the Component called ``name`` of a bundle, loaded on the CPU with ``threads`` threads.

    Raises BackendError if onnxruntime cannot run it (wrong dialect, too old, refused), BundleFormatError if the graph's
    signature or external data is not what the manifest says, MissingPackageError without onnxruntime.
    """
    manifest = bundle.manifest
    if manifest.dialect not in DIALECTS:
        raise BackendError(
            f"{bundle.folder}: dialect '{manifest.dialect}' does not run on onnxruntime's CPU backend, "
            f"{' and '.join(DIALECTS)} do; make one with `edgekit export CHECKPOINT --target cpu -o BUNDLE`"
        )
    component = manifest.components.get(name)
    if component is None:
        raise BundleFormatError(
            f"{bundle.folder}: no component '{name}', it has {', '.join(manifest.components)}; export it again"
        )
    bundle.file(component.graph)
    return open_graph(bundle.folder, component, threads, manifest.requires.onnxruntime)


def open_graph(folder: Path, component: Component, threads: int, required: str | None = None) -> OrtEngine:
    """Return a Component whose graph lies in ``folder``, loaded; errors as of ``load_component``."""
    onnxruntime = _import_onnxruntime(required)
    path = folder / component.graph
    check_external_data(folder, component.graph, component.data)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _FATAL_ONLY
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    # A spinning thread burns a core between two pushes, on a device that has few.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=[_PROVIDER])
    except Exception as error:  # onnxruntime has no common base class for its own errors
        raise BackendError(
            f"{path}: onnxruntime {onnxruntime.__version__} refuses it ({_one_line(error)}); "
            "install another onnxruntime or export it again"
        ) from error
    if (provider := session.get_providers()[0]) != _PROVIDER:
        raise BackendError(f"{path}: onnxruntime chose {provider}, asked for {_PROVIDER}; reinstall onnxruntime")
    _check_signature(component.graph, "input", session.get_inputs(), component.inputs)
    _check_signature(component.graph, "output", session.get_outputs(), component.outputs)
    _check_state(component)
    return OrtEngine(component, session)


def _import_onnxruntime(required: str | None) -> Any:
    """Return the onnxruntime module, at least of version ``required``."""
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingPackageError(
            f"onnxruntime: {_one_line(error)}, but this bundle runs on it; pip install 'edgekit-audio[cpu]'"
        ) from error
    if required is not None and _version(onnxruntime.__version__) < _version(required):
        raise BackendError(
            f"onnxruntime {onnxruntime.__version__} is too old, this bundle needs {required} or newer; "
            f"pip install 'onnxruntime>={required}'"
        )
    return onnxruntime


def _version(text: str) -> tuple[int, ...]:
    """Return the leading numbers of a version such as '1.31.1' or '1.32.0.dev2026'."""
    numbers = []
    for part in text.split(".")[:3]:
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers)


def _check_signature(graph: str, kind: str, found: list[Any], specs: tuple[TensorSpec, ...]) -> None:
    """Raise BundleFormatError unless a session's inputs or outputs are those of the manifest."""
    nodes = {node.name: node for node in found}
    expected = {spec.name: spec for spec in specs}
    if odd := sorted(nodes.keys() ^ expected.keys()):
        where = "is not in the manifest" if odd[0] in nodes else "is in the manifest only"
        raise BundleFormatError(f"{graph}: {kind} '{odd[0]}' {where}; re-export or pick the matching bundle")
    for name, spec in expected.items():
        node = nodes[name]
        if _DTYPES.get(node.type) != spec.dtype or not _same_shape(node.shape, spec.shape):
            raise BundleFormatError(
                f"{graph}: {kind} '{name}' is {node.type} {_shape(node.shape)}, "
                f"manifest says {spec.dtype} {_shape(spec.shape)}; re-export or pick the matching bundle"
            )


def _check_state(component: Component) -> None:
    """Raise BundleFormatError unless state tensors come in pairs of one kind and shape."""
    past = {spec.name.removeprefix("past."): spec for spec in component.inputs if spec.state != "none"}
    present = {spec.name.removeprefix("present."): spec for spec in component.outputs if spec.state != "none"}
    for name in sorted(past.keys() | present.keys()):
        pair = (past.get(name), present.get(name))
        if pair[0] is None or pair[1] is None or pair[0].state != pair[1].state or pair[0].shape != pair[1].shape:
            raise BundleFormatError(
                f"{component.graph}: state '{name}' has no 'past.{name}' and 'present.{name}' of one kind and shape; "
                "export it again"
            )


def _same_shape(found: list[int | str | None], expected: tuple[int | str, ...]) -> bool:
    """Return whether ranks agree and every size that the graph fixes is fixed alike in the manifest."""
    return len(found) == len(expected) and all(
        here == there for here, there in zip(found, expected, strict=True) if isinstance(here, int)
    )


def _shape(sizes: list[int | str | None] | tuple[int | str, ...]) -> str:
    return "(" + ", ".join("?" if size is None else str(size) for size in sizes) + ")"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
