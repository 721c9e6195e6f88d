"""TrtEngine: a Component's plan in TensorRT, or in TensorRT for RTX, on the first CUDA device.

Knows which of a bundle's plans fits this device and how it is loaded; what a stream does with it is in ``trt_call.py``.
No plan was executed on a GPU yet: what is shown of it is shown with a device in the host's memory.
"""

import threading
import weakref
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.bundle import Bundle, Component
from edgekit.errors import BackendError, BundleFormatError, OutputError
from edgekit.recipe import load_target, target_names
from edgekit.runtime.backends.device import CudaDevice, Device, Memory
from edgekit.runtime.backends.trt.call import TrtCall
from edgekit.runtime.backends.trt.library import load_library, make_logger
from edgekit.runtime.backends.trt.plan_stream import stream_reader
from edgekit.runtime.backends.trt.plans import PORTABLE, PlanKey, PlanNote, PlanStore, plan_key
from edgekit.runtime.engine import Call
from edgekit.runtime.memory import check_load, load_need


@dataclass(frozen=True, slots=True)
class Place:
    """TensorRT's module, what it logs to, and the device that it works on."""

    library: Any
    logger: Any
    device: Device


def load_components(
    bundle: Bundle, names: Iterable[str], kind: str, context_tokens: int,
    *, plans: Path | None = None, library: Any = None, device: Device | None = None,  # noqa: ANN401
) -> "dict[str, TrtEngine]":  # fmt: skip
    """Return the Engine of each named component, on the plan that ``edgekit build`` made of it for this device.

    kind: a backend of ``library.MODULES``; context_tokens: length of the KV cache; plans: the folder of the plans, if
    it is not the one beside the bundle; library, device: in place of that module and of the first CUDA device. Raises
    MissingPackageError or BackendError if TensorRT, a device, its memory or a plan that fits is not there, and
    BundleFormatError for a component that the bundle lacks or that TensorRT could not run.
    """
    names = tuple(names)
    if absent := [name for name in names if name not in bundle.manifest.components]:
        raise BundleFormatError(
            f"{bundle.folder}: no component '{absent[0]}', it has {', '.join(bundle.manifest.components)}; "
            "export it again"
        )
    library = load_library(kind) if library is None else library
    if device is None:
        try:
            device = CudaDevice()  # before a Runtime: without a device that ends the process
        except BackendError as error:
            raise BackendError(f"{kind}: no CUDA device answers on this machine, {error}") from error
    store = PlanStore(bundle, plans)
    here, version = device.capability, library.__version__
    notes = {
        name: _fitting(
            bundle, store, name, plan_key(bundle, name, kind, version, device=here, context_tokens=context_tokens)
        )
        for name in names
    }
    device.use()
    check_load(bundle, load_need(bundle, names, context_tokens, kind), device.free_mib(), "the GPU")
    place = Place(library, make_logger(library, verbose=False), device)
    runtime = library.Runtime(place.logger)
    if place.logger.first:  # then it is an object around nothing, whose first use ends the process
        raise BackendError(
            f"{kind}: no runtime comes up ({place.logger.error()}); `edgekit doctor` looks at the device"
        )
    return {
        name: TrtEngine(
            bundle.manifest.components[name],
            _deserialised(runtime, place, store, name, note),
            place,
            _Compiled(store, f"{name}-{note.key.digest()}.compiled", device),
        )
        for name, note in notes.items()
    }


def _fitting(bundle: Bundle, store: PlanStore, name: str, wanted: PlanKey) -> PlanNote:
    """Return the note of a plan that fits; raise BackendError saying what is there instead."""
    said = ["no plan of it is there"]
    for place, note in enumerate(store.notes(name)):
        found = _differences(note.key, wanted)
        if not found:
            return note
        said = found if not place or len(found) < len(said) else said
    targets = [one for one in map(load_target, target_names()) if wanted.builder in one.backends]
    fitting = [one.name for one in targets if wanted.device in one.compute_capability]
    target = fitting[0] if fitting else "TARGET"
    raise BackendError(
        f"{name}: {' and '.join(said)} ({store.folder}); run `edgekit build {bundle.folder} --target {target}`"
    )


def _differences(found: PlanKey, wanted: PlanKey) -> list[str]:
    """Return why a plan is not the one wanted, ``wanted.device`` being the one device here; nothing if it is."""
    said = []
    if found.builder != wanted.builder:
        said.append(f"its plan is for another backend, {found.builder}")
    elif found.version != wanted.version:
        said.append(f"its plan is for another TensorRT, {found.version}, here is {wanted.version}")
    if (found.graph, found.data) != (wanted.graph, wanted.data):
        said.append("its plan is of another export")
    if found.device != PORTABLE and wanted.device not in found.device.split():
        said.append(f"its plan is for another device, compute capability {found.device}, here is {wanted.device}")
    if found.sizes != wanted.sizes and not said:
        said.append("its plan is for other sizes, such as another length of the cache (--context-tokens)")
    return said


def _deserialised(runtime: Any, place: Place, store: PlanStore, name: str, note: PlanNote) -> Any:  # noqa: ANN401
    """Return TensorRT's engine of a plan whose bytes are what its file says."""
    held = store.open(name, note.key)
    if held is None:
        raise BackendError(f"{store.path(name, note.key)}: damaged, its bytes are not what was built; build it again")
    with closing(held[1]) as plan:
        engine = runtime.deserialize_cuda_engine(stream_reader(place.library, plan))
    if engine is None:
        raise BackendError(
            f"{store.path(name, note.key)}: TensorRT does not take it ({place.logger.error()}); build it again"
        )
    return engine


class _Compiled:
    """What TensorRT for RTX compiled on this device at load, kept beside the plans so that it is done once."""

    def __init__(self, store: PlanStore, file: str, device: Device) -> None:
        self._store, self._file, self._device = store, file, device
        self._cache: Any = None

    def take_from(self, config: Any, notes: list[str]) -> None:  # noqa: ANN401 - an IRuntimeConfig
        """Hand what is kept to a runtime configuration; TensorRT checks that it fits."""
        self._cache = config.create_runtime_cache()
        kept = self._store.cache(self._file)
        if kept and not self._cache.deserialize(kept):
            notes.append(f"{self._file}: of another driver or device, compiled anew")
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

    def __init__(self, component: Component, engine: Any, place: Place, compiled: "_Compiled") -> None:  # noqa: ANN401
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
