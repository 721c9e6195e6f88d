"""Build plans with TensorRT 10.3 or later, or with TensorRT for RTX, which needs no GPU for it.

Uses only what both have: a strongly typed network from the ONNX parser, one optimisation profile, a timing cache, a
progress monitor. With TensorRT for RTX 1.7 every build path was run, without a GPU; the full TensorRT was not, and no
plan was executed.
"""

import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import msgspec

from edgekit.bundle import Bundle, Manifest
from edgekit.errors import BackendError, UsageError
from edgekit.limits import ROOT
from edgekit.recipe import Target
from edgekit.runtime.backends.base import Progress
from edgekit.runtime.backends.device import device_capability
from edgekit.runtime.backends.sizes import InputSizes, input_sizes
from edgekit.runtime.backends.trt.layers import count_layers, take_layer_census
from edgekit.runtime.backends.trt.library import Kind, load_library, make_logger, one_line
from edgekit.runtime.backends.trt.plan_stream import stream_reader, write_plan
from edgekit.runtime.backends.trt.plans import PORTABLE, PlanDraft, PlanNote, PlanStore, plan_key
from edgekit.runtime.graphs.source import GraphSource, bundle_graph
from edgekit.runtime.memory import MIB, available_mib, build_peak_mib, check_build


@dataclass(frozen=True, slots=True)
class Built:
    """One component's plan: where it lies, what its file says, and whether it was there already."""

    component: str
    path: Path
    note: PlanNote
    kept: bool

    @property
    def size_bytes(self) -> int:
        """How large the plan is."""
        return self.note.bytes

    @property
    def build_s(self) -> float:
        """How long it took to build."""
        return self.note.build_s

    @property
    def summary(self) -> str:
        """How many layers are surely in INT8 or INT4, and in which types the inspector sees them work."""
        asked = self.note.quantised_asked
        counted = f"INT8 or INT4 in {self.note.quantised_layers} of {asked} layers" if asked else "no INT8 asked for"
        if not self.note.layers:
            return counted
        return f"{counted}, by the inspector {', '.join(f'{count} {kind}' for kind, count in self.note.layers.items())}"

    @property
    def facts(self) -> Mapping[str, Any]:
        """The note of the plan's file, as JSON takes it."""
        found: dict[str, Any] = msgspec.to_builtins(self.note)
        return found


def build(
    bundle: Bundle, target: Target, kind: Kind, *, folder: Path | None = None, context_tokens: int | None = None,
    progress: Progress = lambda _what, _done, _total: None, root: Path = ROOT,
) -> list[Built]:  # fmt: skip
    """Return the plan of every component of a bundle, built now or kept from before; see Builder.

    root: below it lies what the machine says of its memory. Raises BackendError if there is not the memory for a plan,
    if the builder refuses a graph, or if a plan holds fewer INT8 layers than the bundle asks for; MissingPackageError
    without the builder's package.
    """
    manifest = bundle.manifest
    most = manifest.protocol.context_tokens
    context = most if context_tokens is None else context_tokens
    if not 1 <= context <= most:
        raise UsageError(f"context_tokens: {context}, this bundle has 1 to {most}; choose one of those")
    trt, device = _load_builder(kind, target)
    peaks = {name: build_peak_mib(manifest, name) for name in manifest.components}
    store = PlanStore(bundle, folder)
    job = _Job(kind, device, store, context, progress, target.unified_memory, root)
    # What is left behind by one is in the way of the next, so the largest comes first.
    built = {name: _build_one(trt, bundle, name, job) for name in sorted(peaks, key=lambda name: -peaks[name])}
    return [built[name] for name in manifest.components]


@dataclass(frozen=True, slots=True)
class _Job:
    kind: Kind
    device: str
    store: PlanStore
    context: int
    progress: Progress
    shares_memory: bool
    root: Path


def _load_builder(kind: Kind, target: Target) -> tuple[Any, str]:
    """Return the builder's module and the device that its plans are for."""
    trt = load_library(kind)
    if kind.portable:
        known = trt.ComputeCapability.__members__
        if odd := [one for one in target.compute_capability if _member(one) not in known]:
            raise BackendError(
                f"target '{target.name}': compute capability {odd[0]}, {kind.name} {trt.__version__} builds for "
                f"{', '.join(one for one in known if one.startswith('SM'))}; use a target with TensorRT"
            )
        return trt, " ".join(target.compute_capability) or PORTABLE
    try:
        here = device_capability()
    except BackendError as error:  # its builder measures kernels on the device, and crashes the process without one
        raise BackendError(
            f"{kind.name}: no CUDA device answers on this machine, and plans are built on the device they are for "
            f"({str(error).partition('; ')[0]}); "
            "build there, or for a target with TensorRT for RTX"
        ) from error
    if target.compute_capability and here not in target.compute_capability:
        raise BackendError(
            f"target '{target.name}': for compute capability {' or '.join(target.compute_capability)}, this machine's "
            f"is {here}, and plans are built on the device they are for; build there, or for this machine's target"
        )
    return trt, here


def _member(capability: str) -> str:
    """Return what TensorRT for RTX calls a compute capability: SM86 for 8.6."""
    return "SM" + capability.replace(".", "")


def _build_one(trt: Any, bundle: Bundle, name: str, job: _Job) -> Built:  # noqa: ANN401 - TensorRT's module
    component = bundle.manifest.components[name]
    sizes = input_sizes(bundle.manifest, name, job.context)
    key = plan_key(bundle, name, job.kind.name, trt.__version__, device=job.device, context_tokens=job.context)
    path = job.store.path(name, key)
    if (held := job.store.open(name, key)) is not None:
        note, plan = held
        plan.close()
        return Built(name, path, note, kept=True)
    source = bundle_graph(bundle, name)
    source.check()
    left_mib = check_build(bundle, name, available_mib(job.root))
    started = time.perf_counter()
    data_bytes = source.data.bytes if source.data else 0
    rows = [row for row in bundle.manifest.census if row.component == name]
    with job.store.draft(name) as draft:
        log = _serialise(
            trt, source, sizes, job, draft,
            workspace_mib=left_mib if job.shares_memory else None,
        )  # fmt: skip
        census = take_layer_census(rows, data_bytes, log, draft.bytes)
        if census.quantised < census.asked:
            raise BackendError(
                f"{component.graph}: the plan surely holds {census.quantised} layers in INT8 or INT4, the bundle has "
                f"{census.asked} ({census.weight_bytes} bytes of weights, {data_bytes} in the bundle); use another "
                f"version than {job.kind.name} {trt.__version__}"
            )
        layers = {} if job.kind.portable else _inspect(trt, draft)  # another device's plan cannot be looked into
        # A builder that joins layers into fewer than there are linears tells nothing of each.
        apart = sum(layers.values()) >= census.asked
        if layers and apart and "int8" not in layers and _rounds_inputs(bundle.manifest, name):
            raise BackendError(
                f"{component.graph}: the bundle has INT8 activations, the plan no layer that reads any ({layers}); use "
                f"another version than {job.kind.name} {trt.__version__}"
            )
        note = PlanNote(
            key=key, quantised_layers=census.quantised, quantised_asked=census.asked, weight_bytes=census.weight_bytes,
            build_s=round(time.perf_counter() - started, 3), sha256=draft.sha256, bytes=draft.bytes,
            layers=layers,
        )  # fmt: skip
        return Built(name, draft.publish(note), note, kept=False)


def _rounds_inputs(manifest: Manifest, name: str) -> bool:
    """Return whether linears of a component take INT8 activations."""
    static = manifest.recipe.get("quantize", {}).get("encoder_activations") == "static"
    return static and name in ("encoder", "adapter") and manifest.components[name].precision == "int8"


def _inspect(trt: Any, draft: PlanDraft) -> dict[str, int]:  # noqa: ANN401 - TensorRT's module
    """Return how many layers of a plan work in which type, of a plan for the device that answers here."""
    logger = make_logger(trt, verbose=False)
    runtime = trt.Runtime(logger)
    with closing(draft.reader()) as plan:
        engine = runtime.deserialize_cuda_engine(stream_reader(trt, plan))
    if engine is None:
        raise BackendError(f"{plan.size} bytes of a plan: TensorRT does not take what it built ({logger.error()})")
    return count_layers(engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON))


def _serialise(
    trt: Any,  # noqa: ANN401 - TensorRT's module
    source: GraphSource,
    sizes: dict[str, InputSizes],
    job: _Job,
    draft: PlanDraft,
    *,
    workspace_mib: float | None,
) -> list[str]:
    """Write the plan of one graph, whose kernels may take so much beside it, and return the builder's log."""
    graph, logger = source.path, make_logger(trt, verbose=True)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not _parse(parser, source):
        said = one_line(parser.get_error(0).desc() if parser.num_errors else "no reason given")
        raise BackendError(f"{graph}: {job.kind.name} {trt.__version__} cannot read it ({said}); export it again")
    config = builder.create_builder_config()
    if job.kind.portable and job.device != PORTABLE:
        _name_devices(trt, config, job.device.split())
    config.add_optimization_profile(_make_profile(builder, network, sizes))
    if workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, int(workspace_mib) * MIB)
    config.progress_monitor = _make_monitor(trt, graph.stem, job.progress)
    timings = f"{job.kind.name}-{trt.__version__}-{job.device}.timings"
    if not job.kind.portable:
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # else the inspector knows names only
        known = config.create_timing_cache(job.store.cache(timings)) or config.create_timing_cache(b"")
        config.set_timing_cache(known, False)
    if not write_plan(trt, builder, network, config, draft):
        limit, step = "", "export it again"
        if workspace_mib is not None:
            limit, step = (
                f" with {workspace_mib:,.0f} MiB left for its kernels",
                "end other programs, or export it again",
            )
        raise BackendError(
            f"{graph}: {job.kind.name} {trt.__version__} builds no plan of it{limit} ({logger.error()}); {step}"
        )
    if not job.kind.portable and (measured := config.get_timing_cache()) is not None:
        job.store.keep_cache(timings, memoryview(measured.serialize()))
    return cast("list[str]", logger.lines)


def _parse(parser: Any, source: GraphSource) -> bool:  # noqa: ANN401 - TensorRT's
    """Parse a graph's bytes and the data file that was checked with them; return whether that succeeded.

    The parser opens data by name beside the graph's path: there a link leads to the open file.
    """
    if source.data is None or source.location is None:
        return bool(parser.parse(source.graph))
    with TemporaryDirectory(prefix="edgekit-") as folder:
        here = Path(f"/proc/self/fd/{source.data.descriptor}")
        (Path(folder) / source.location).symlink_to(
            here if here.exists() else (source.path.parent / source.location).resolve()
        )
        parsed = bool(parser.parse(source.graph, str(Path(folder) / source.path.name)))
    source.data.check_unchanged()
    return parsed


def _name_devices(trt: Any, config: Any, capabilities: list[str]) -> None:  # noqa: ANN401
    config.num_compute_capabilities = len(capabilities)
    for index, one in enumerate(capabilities):
        config.set_compute_capability(getattr(trt.ComputeCapability, _member(one)), index)


def _make_profile(builder: Any, network: Any, sizes: dict[str, InputSizes]) -> Any:  # noqa: ANN401
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        if (size := sizes.get(tensor.name)) is None:
            continue
        if tensor.is_shape_tensor:
            profile.set_shape_input(tensor.name, size.low, size.usual, size.high)
        elif any(extent < 0 for extent in tensor.shape):
            profile.set_shape(tensor.name, size.low, size.usual, size.high)
    return profile


def _make_monitor(trt: Any, component: str, progress: Progress) -> Any:  # noqa: ANN401 - a subclass of TensorRT's
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        """Tells of the outermost phase, whose steps are the whole build."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._outer: str | None = None
            self._steps = 0

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            if parent is None:
                self._outer, self._steps = phase, steps
                progress(component, 0, steps)

        def step_complete(self, phase: str, step: int) -> bool:
            if phase == self._outer:
                progress(component, step + 1, self._steps)
            return True

        def phase_finish(self, phase: str) -> None:
            if phase == self._outer:
                progress(component, self._steps, self._steps)

    return Monitor()
