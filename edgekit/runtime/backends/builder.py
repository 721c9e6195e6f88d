"""Build plans with TensorRT 10.3 or later, or with TensorRT for RTX, which needs no GPU for it.

Uses only what both have: a strongly typed network from the ONNX parser, one optimisation profile, a timing cache, a
progress monitor. With TensorRT for RTX 1.7 every build path was run, without a GPU; the full TensorRT was not, and no
plan was executed.
"""

import ctypes
import hashlib
import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.bundle import Bundle
from edgekit.errors import BackendError, MissingPackageError, UsageError
from edgekit.recipe import Target
from edgekit.runtime.backends.external_data import check_external_data
from edgekit.runtime.backends.layers import take_layer_census
from edgekit.runtime.backends.plans import PlanKey, PlanNote, PlanStore
from edgekit.runtime.backends.sizes import InputSizes, input_sizes

Progress = Callable[[str, int, int], None]
"""Called with the component, work done and work in all."""
BUILDERS = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
_LOWEST = {"tensorrt": (10, 3), "tensorrt-rtx": (1, 7)}
_INSTALL = {
    "tensorrt": "take the one of the device's JetPack, or NVIDIA's package",
    "tensorrt-rtx": "pip install 'edgekit-audio[rtx]'",
}
_MAJOR, _MINOR = 75, 76  # CUdevice_attribute: compute capability
_SUCCESS = 0
_PORTABLE = "8.0 to 12.0"  # what TensorRT for RTX builds for unless told otherwise


@dataclass(frozen=True, slots=True)
class Built:
    """One component's plan: where it lies, what its file says, and whether it was there already."""

    component: str
    path: Path
    note: PlanNote
    kept: bool


def device_capability() -> str | None:
    """Return the compute capability of the first CUDA device, such as 8.7; None without a driver or a device."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    count, parts = ctypes.c_int(0), [ctypes.c_int(0), ctypes.c_int(0)]
    if cuda.cuInit(0) != _SUCCESS or cuda.cuDeviceGetCount(ctypes.byref(count)) != _SUCCESS or not count.value:
        return None
    for part, attribute in zip(parts, (_MAJOR, _MINOR), strict=True):
        if cuda.cuDeviceGetAttribute(ctypes.byref(part), attribute, 0) != _SUCCESS:
            return None
    return f"{parts[0].value}.{parts[1].value}"


def build(
    bundle: Bundle, target: Target, *, folder: Path | None = None, context_tokens: int | None = None,
    progress: Progress = lambda _what, _done, _total: None,
) -> list[Built]:  # fmt: skip
    """Return the plan of every component of a bundle, built now or kept from before.

    folder: where plans lie, by default beside the bundle; context_tokens: length of the KV cache, the bundle's own by
    default. Raises BackendError if the target builds no plans, if the builder refuses a graph, or if a plan holds fewer
    INT8 layers than the bundle asks for; MissingPackageError without the builder's package.
    """
    manifest = bundle.manifest
    if manifest.dialect != "standard":
        raise BackendError(
            f"{bundle.folder}: dialect '{manifest.dialect}', plans are built from 'standard'; "
            f"make one with `edgekit export CHECKPOINT --target {target.name} -o BUNDLE`"
        )
    most = manifest.protocol.context_tokens
    context = most if context_tokens is None else context_tokens
    if not 1 <= context <= most:
        raise UsageError(f"context_tokens: {context}, this bundle has 1 to {most}; choose one of those")
    kind = next((backend for backend in target.backends if backend in BUILDERS), None)
    if kind is None:
        raise BackendError(
            f"target '{target.name}': runs on {', '.join(target.backends)}, which needs no plans; "
            "use the bundle as it is"
        )
    trt, device = _load_builder(kind)
    store = PlanStore(bundle, folder)
    return [_build_one(trt, bundle, name, _Job(kind, device, store, context, progress)) for name in manifest.components]


@dataclass(frozen=True, slots=True)
class _Job:
    kind: str
    device: str
    store: PlanStore
    context: int
    progress: Progress


def _load_builder(kind: str) -> tuple[Any, str]:
    """Return the builder's module and the device that its plans are for."""
    try:
        trt = importlib.import_module(BUILDERS[kind])
    except ImportError as error:
        raise MissingPackageError(f"{kind}: {error}, and plans are built with it; {_INSTALL[kind]}") from error
    version = tuple(int(part) for part in trt.__version__.split(".")[:2])
    if version < _LOWEST[kind]:
        lowest = ".".join(map(str, _LOWEST[kind]))
        raise BackendError(f"{kind} {trt.__version__}: too old, {lowest} or newer is needed; {_INSTALL[kind]}")
    if kind == "tensorrt-rtx":
        return trt, _PORTABLE
    device = device_capability()
    if device is None:  # its builder measures kernels on the device, and crashes the process without one
        raise BackendError(
            "tensorrt: no CUDA device answers on this machine, and plans are built on the device they are for; "
            "build there, or for a target with TensorRT for RTX"
        )
    return trt, device


def _build_one(trt: Any, bundle: Bundle, name: str, job: _Job) -> Built:  # noqa: ANN401 - TensorRT's module
    component = bundle.manifest.components[name]
    hashes = {entry.path: entry.sha256 for entry in bundle.manifest.files}
    sizes = input_sizes(bundle.manifest, name, job.context)
    key = PlanKey(
        graph=hashes[component.graph],
        data=hashes[component.data] if component.data else "",
        builder=job.kind,
        version=trt.__version__,
        device=job.device,
        sizes=" ".join(f"{key}:{one.low}:{one.usual}:{one.high}" for key, one in sorted(sizes.items())),
    )
    path = job.store.path(name, key)
    if (held := job.store.read(name, key)) is not None:
        return Built(name, path, held[0], kept=True)
    check_external_data(bundle.folder, component.graph, component.data)
    started = time.perf_counter()
    plan, log = _serialise(trt, bundle.folder / component.graph, sizes, job)
    data_bytes = (bundle.folder / component.data).stat().st_size if component.data else 0
    rows = [row for row in bundle.manifest.census if row.component == name]
    census = take_layer_census(rows, data_bytes, log, len(plan))
    if census.int8 < census.asked:
        raise BackendError(
            f"{component.graph}: the plan surely holds {census.int8} layers in INT8 or INT4, the bundle has "
            f"{census.asked} ({census.weight_bytes} bytes of weights, {data_bytes} in the bundle); use another version "
            f"than {job.kind} {trt.__version__}"
        )
    note = PlanNote(
        key=key, int8_layers=census.int8, int8_asked=census.asked, weight_bytes=census.weight_bytes,
        build_s=round(time.perf_counter() - started, 3), sha256=hashlib.sha256(plan).hexdigest(), bytes=len(plan),
    )  # fmt: skip
    return Built(name, job.store.publish(name, note, plan), note, kept=False)


def _serialise(
    trt: Any,  # noqa: ANN401 - TensorRT's module
    graph: Path,
    sizes: dict[str, InputSizes],
    job: _Job,
) -> tuple[memoryview, list[str]]:
    """Return the plan of one graph and the builder's log."""
    logger = _make_logger(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(graph)):
        said = _one_line(parser.get_error(0).desc() if parser.num_errors else "no reason given")
        raise BackendError(f"{graph}: {job.kind} {trt.__version__} cannot read it ({said}); export it again")
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        if (size := sizes.get(tensor.name)) is None:
            continue
        if tensor.is_shape_tensor:
            profile.set_shape_input(tensor.name, size.low, size.usual, size.high)
        elif any(extent < 0 for extent in tensor.shape):
            profile.set_shape(tensor.name, size.low, size.usual, size.high)
    config.add_optimization_profile(profile)
    config.progress_monitor = _make_monitor(trt, graph.stem, job.progress)
    timings = f"{job.kind}-{trt.__version__}-{job.device}"
    measures = job.kind == "tensorrt"  # TensorRT for RTX measures nothing before a plan first runs
    if measures:
        config.set_timing_cache(config.create_timing_cache(job.store.timing_cache(timings)), False)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise BackendError(
            f"{graph}: {job.kind} {trt.__version__} builds no plan of it ({logger.error()}); export it again"
        )
    if measures and (measured := config.get_timing_cache()) is not None:
        job.store.keep_timings(timings, memoryview(measured.serialize()))
    return memoryview(plan), logger.lines


def _make_logger(trt: Any) -> Any:  # noqa: ANN401 - a subclass of TensorRT's
    class Logger(trt.ILogger):  # type: ignore[misc]
        """Keeps every line; prints none."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: list[str] = []
            self._errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:  # noqa: ANN401
            self.lines.append(message)
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self._errors.append(message)

        def error(self) -> str:
            """Return the first error."""
            return _one_line(self._errors[0]) if self._errors else "no reason given"

    return Logger()


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


def _one_line(text: str) -> str:
    return " ".join(str(text).split())
