"""OrtEngine: a Component on onnxruntime, on the CPU or on an NVIDIA GPU.

Knows onnxruntime's sessions and what a graph must be for a manifest; knows nothing of audio or text. On the CPU bundles
of the dialects made for GPUs run as their numerical twins.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekit.bundle import Bundle, Component, TensorSpec
from edgekit.errors import BackendError, BundleFormatError, MissingPackageError
from edgekit.runtime.backends.external_data import check_external_data
from edgekit.runtime.backends.ort_call import Device, OrtCall, Recorder, one_line
from edgekit.runtime.backends.ort_cuda import (
    CUDA,
    FATAL_ONLY,
    check_placement,
    cuda_options,
    prepare_cuda,
    why_inactive,
)
from edgekit.runtime.engine import Call, allocate
from edgekit.versions import older

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": CUDA}
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
    """A Component in an onnxruntime session; shared by streams, so it holds no state of theirs.

    ``counts``: how many nodes each provider runs; known of a GPU's sessions only. ``records``: whether CUDA graphs are
    recorded of calls that come again in the same shapes.
    """

    def __init__(
        self, component: Component, session: Any, device: Device = "cpu", nodes: Mapping[str, int] | None = None, *,
        records: bool = False, notes: tuple[str, ...] = (),
    ) -> None:  # fmt: skip
        self.component = component
        self.device: Device = device
        self.counts: Mapping[str, int] = dict(nodes or {})
        self.notes = notes
        self.records = records
        self.session = session
        self._recorder = Recorder()

    def bind(self, sizes: Mapping[str, int]) -> Call:
        """Allocate the component's state tensors, free sizes taken from ``sizes``, and return a Call on them."""
        state = allocate(self.component, sizes)
        return OrtCall(self.session, self.component, state, self.device, self._recorder if self.records else None)


def load_component(bundle: Bundle, name: str, threads: int, device: Device = "cpu") -> OrtEngine:
    """Return the Component called ``name`` of a bundle, loaded with ``threads`` threads on the CPU.

    Raises BackendError if onnxruntime cannot run it on the device (too old, refused, no GPU), BundleFormatError if the
    graph's signature or external data is not what the manifest says, MissingPackageError without onnxruntime.
    """
    manifest = bundle.manifest
    component = manifest.components.get(name)
    if component is None:
        raise BundleFormatError(
            f"{bundle.folder}: no component '{name}', it has {', '.join(manifest.components)}; export it again"
        )
    bundle.file(component.graph)
    return open_graph(bundle.folder, component, threads, manifest.requires.onnxruntime, device)


def open_graph(
    folder: Path, component: Component, threads: int, required: str | None = None, device: Device = "cpu"
) -> OrtEngine:
    """Return a Component whose graph lies in ``folder``, loaded; errors as of ``load_component``."""
    onnxruntime = _import_onnxruntime(required, device)
    path = folder / component.graph
    check_external_data(folder, component.graph, component.data)
    records = False
    notes: tuple[str, ...] = ()
    if device == "cuda":
        prepare_cuda(onnxruntime)
        # Arrays that stay on the GPU for one utterance lie elsewhere for the next; a graph has the addresses in it.
        records = not any("sound" in spec.shape for spec in component.inputs)
    try:
        session = _open(onnxruntime, path, threads, device, records=records)
    except BackendError as error:
        if not records or "graph capture" not in str(error):
            raise
        records, notes = False, (f"no CUDA graph: {error}",)
        session = _open(onnxruntime, path, threads, device, records=False)
    nodes = check_placement(path, session) if device == "cuda" else {}
    _check_signature(component.graph, "input", session.get_inputs(), component.inputs)
    _check_signature(component.graph, "output", session.get_outputs(), component.outputs)
    _check_state(component)
    return OrtEngine(component, session, device, nodes, records=records, notes=notes)


def _open(onnxruntime: Any, path: Path, threads: int, device: Device, *, records: bool) -> Any:
    """Return a session that runs on the device; BackendError if there is none."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = FATAL_ONLY
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    # A spinning thread burns a core between two pushes, on a device that has few.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    provider: Any = _PROVIDERS[device]
    if device == "cuda":
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        provider = (CUDA, cuda_options(records=records))
    try:
        # Without enable_fallback=0 it prints why the provider does not start, and takes the CPU.
        session = onnxruntime.InferenceSession(str(path), options, providers=[provider], enable_fallback=0)
    except Exception as error:  # onnxruntime has no common base class for its own errors
        step = "`edgekit doctor` looks at the device" if device == "cuda" else "install another onnxruntime"
        raise BackendError(
            f"{path}: onnxruntime {onnxruntime.__version__} refuses it ({one_line(error)}); {step}, or export it again"
        ) from error
    if (active := session.get_providers()[0]) != _PROVIDERS[device]:
        reason = why_inactive(onnxruntime) if device == "cuda" else "it says not why; reinstall onnxruntime"
        raise BackendError(f"{path}: onnxruntime chose {active}, asked for {_PROVIDERS[device]}: {reason}")
    return session


def _import_onnxruntime(required: str | None, device: Device) -> Any:
    """Return the onnxruntime module, at least of version ``required``."""
    extra = "gpu" if device == "cuda" else "cpu"
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingPackageError(
            f"onnxruntime: {one_line(error)}, but this bundle runs on it; pip install 'edgekit-audio[{extra}]'"
        ) from error
    if required is not None and older(onnxruntime.__version__, required):
        package = "onnxruntime-gpu" if device == "cuda" else "onnxruntime"
        raise BackendError(
            f"onnxruntime {onnxruntime.__version__} is too old, this bundle needs {required} or newer; "
            f"pip install '{package}>={required}'"
        )
    return onnxruntime


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
