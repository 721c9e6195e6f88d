"""OrtEngine: a Component on onnxruntime, wherever one of its providers computes.

Knows onnxruntime's sessions and what a graph must be for a manifest; knows nothing of audio or text. What is particular
to a provider, the CPU's apart, is told by who has one; see Provider.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekit.bundle import Bundle, Component, TensorSpec
from edgekit.errors import BackendError, BundleFormatError, MissingPackageError
from edgekit.runtime.backends.ort_call import Device, OrtCall, Recorder, one_line
from edgekit.runtime.backends.ort_data import give_data, loading
from edgekit.runtime.engine import Call, allocate
from edgekit.runtime.graphs.library import load_onnxruntime
from edgekit.runtime.graphs.source import GraphSource, bundle_graph, written_graph
from edgekit.versions import older

FATAL_ONLY = 4  # onnxruntime's log level: an error is raised, and one line of it is enough
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


class Provider:
    """What computes in onnxruntime: here the host's own processor, and what others do otherwise.

    ``extra``: of EdgeKit's package, which brings it; ``package``: the one of onnxruntime that has it; ``step``: what to
    do where no session starts.
    """

    name = "CPUExecutionProvider"
    device: Device = "cpu"
    extra = "cpu"
    package = "onnxruntime"
    step = "install another onnxruntime"

    def prepare(self, onnxruntime: Any) -> None:
        """Do what must be done before the first session. Raises BackendError where the provider is not built in."""

    def records(self, component: Component) -> bool:  # noqa: ARG002 - as others have it
        """Return whether to ask for recorded runs of a component."""
        return False

    def configured(self, options: Any, *, records: bool) -> Any:  # noqa: ARG002 - as others have it
        """Add to a session's options; return the provider as a session takes it."""
        return self.name

    def check(self, path: Path, session: Any) -> Mapping[str, int]:  # noqa: ARG002 - as others have it
        """Return what a report shows of a session, such as nodes by provider; raise BackendError if it is no good."""
        return {}

    def why_inactive(self, onnxruntime: Any) -> str:  # noqa: ARG002 - as others have it
        """Return why a session that was made runs elsewhere, and what to type."""
        return "it says not why; reinstall onnxruntime"


HOST = Provider()


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


def load_component(bundle: Bundle, name: str, threads: int, provider: Provider = HOST) -> OrtEngine:
    """Return the Component called ``name`` of a bundle, loaded with ``threads`` threads on the CPU.

    Raises BackendError if onnxruntime cannot run it there (too old, refused, no GPU), BundleFormatError if the graph
    may not be loaded or its signature is not what the manifest says, MissingPackageError without onnxruntime.
    """
    manifest = bundle.manifest
    source = bundle_graph(bundle, name)
    # onnxruntime 1.31 makes a graph of these wrong when asked for exact sums: it adds one zero point for all channels.
    exact = not any(row.op == "DequantizeLinear" and row.component == name for row in manifest.census)
    return _load(source, manifest.components[name], threads, manifest.requires.onnxruntime, provider, exact=exact)


def open_graph(
    folder: Path, component: Component, threads: int, provider: Provider = HOST, *, exact: bool = True
) -> OrtEngine:
    """Return a Component whose graph was just written into ``folder``, loaded; errors as of ``load_component``.

    Its ops are not compared with a list. ``exact``: products of 8 bits are summed exactly on every processor.
    """
    return _load(written_graph(folder, component), component, threads, None, provider, exact=exact)


def _load(
    source: GraphSource, component: Component, threads: int, required: str | None, provider: Provider, *, exact: bool
) -> OrtEngine:
    onnxruntime = _import_onnxruntime(required, provider)
    path = source.path
    folded = source.check().folded_bytes
    provider.prepare(onnxruntime)
    records = provider.records(component)
    notes: tuple[str, ...] = ()
    try:
        session = _open(onnxruntime, source, threads, folded, provider, records=records, exact=exact)
    except BackendError as error:
        if not records or "graph capture" not in str(error):
            raise
        records, notes = False, (f"no CUDA graph: {error}",)
        session = _open(onnxruntime, source, threads, folded, provider, records=False, exact=exact)
    nodes = provider.check(path, session)
    _check_signature(component.graph, "input", session.get_inputs(), component.inputs)
    _check_signature(component.graph, "output", session.get_outputs(), component.outputs)
    _check_state(component)
    return OrtEngine(component, session, provider.device, nodes, records=records, notes=notes)


def _open(
    onnxruntime: Any, source: GraphSource, threads: int, folded: int, provider: Provider, *, records: bool, exact: bool
) -> Any:
    """Return a session that runs on the provider; BackendError if there is none.

    folded: bytes up to which one value may be computed from others at loading.
    """
    path = source.path
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = FATAL_ONLY
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    # A spinning thread burns a core between two pushes, on a device that has few.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # x86 without VNNI adds two products of 8 bits in 16 and cuts what does not fit; this takes a slower, exact form.
    options.add_session_config_entry("session.x64quantprecision", "1" if exact else "0")
    options.add_session_config_entry("session.load_model_format", "ONNX")  # else its content may choose another
    options.add_session_config_entry("optimization.constant_folding_max_output_size_in_bytes", str(folded))
    mapped = give_data(options, source)
    providers = [provider.configured(options, records=records)]
    try:
        # Without enable_fallback=0 it prints why the provider does not start, and takes the CPU.
        with loading(source, mapped):
            session = onnxruntime.InferenceSession(source.graph, options, providers=providers, enable_fallback=0)
    except BundleFormatError:
        raise
    except Exception as error:  # onnxruntime has no common base class for its own errors
        raise BackendError(
            f"{path}: onnxruntime {onnxruntime.__version__} refuses it ({one_line(error)}); {provider.step}, "
            "or export it again"
        ) from error
    if (active := session.get_providers()[0]) != provider.name:
        raise BackendError(
            f"{path}: onnxruntime chose {active}, asked for {provider.name}: {provider.why_inactive(onnxruntime)}"
        )
    session.mapped = mapped  # what it has not packed is read from there, as long as it lives
    return session


def _import_onnxruntime(required: str | None, provider: Provider) -> Any:
    """Return the onnxruntime module, at least of version ``required``."""
    try:
        onnxruntime = load_onnxruntime()
    except ImportError as error:
        install = _install(f"edgekit-audio[{provider.extra}]")
        raise MissingPackageError(f"onnxruntime: {one_line(error)}, but this bundle runs on it; {install}") from error
    if required is not None and older(onnxruntime.__version__, required):
        raise BackendError(
            f"onnxruntime {onnxruntime.__version__} is too old, this bundle needs {required} or newer; "
            f"{_install(f'{provider.package}>={required}')}"
        )
    return onnxruntime


def _install(requirement: str) -> str:
    """Return what to type for a package of onnxruntime's, none of which is made for Python 3.10 any more."""
    if sys.version_info < (3, 11):
        return "none that it could run on is made for Python 3.10: use Python 3.11 or later"
    return f"pip install '{requirement}'"


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
