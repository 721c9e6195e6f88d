"""Which of a bundle's plans fits this device, and how it becomes a TrtEngine."""

from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

from edgekit.bundle import Bundle
from edgekit.errors import BackendError, BundleFormatError
from edgekit.recipe import load_target, target_names
from edgekit.runtime.backends.device import CudaDevice, Device
from edgekit.runtime.backends.sizes import device_need
from edgekit.runtime.backends.trt.engine import Compiled, Place, TrtEngine
from edgekit.runtime.backends.trt.library import Kind, load_library, make_logger
from edgekit.runtime.backends.trt.plan_stream import stream_reader
from edgekit.runtime.backends.trt.plans import PORTABLE, PlanKey, PlanNote, PlanStore, plan_key
from edgekit.runtime.backends.trt.seal import key_file
from edgekit.runtime.memory import check_load


def load_components(
    bundle: Bundle, names: Iterable[str], kind: Kind, context_tokens: int,
    *, plans: Path | None = None, library: Any = None, device: Device | None = None,  # noqa: ANN401
) -> "dict[str, TrtEngine]":  # fmt: skip
    """Return the Engine of each named component, on the plan that ``edgekit build`` made of it for this device.

    context_tokens: length of the KV cache; plans: the folder of the plans, if
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
            raise BackendError(f"{kind.name}: no CUDA device answers on this machine, {error}") from error
    store = PlanStore(bundle, plans)
    here, version = device.capability, library.__version__
    notes = {
        name: _fitting(
            bundle, store, name, plan_key(bundle, name, kind.name, version, device=here, context_tokens=context_tokens)
        )
        for name in names
    }
    device.use()
    check_load(bundle, device_need(bundle.manifest, names, context_tokens), device.free_mib(), "the GPU")
    place = Place(library, make_logger(library, verbose=False), device)
    runtime = library.Runtime(place.logger)
    if place.logger.first:  # then it is an object around nothing, whose first use ends the process
        raise BackendError(
            f"{kind.name}: no runtime comes up ({place.logger.error()}); `edgekit doctor` looks at the device"
        )
    return {
        name: TrtEngine(
            bundle.manifest.components[name],
            _deserialised(runtime, place, store, name, note),
            place,
            Compiled(store, f"{name}-{note.key.digest()}.compiled", device),
        )
        for name, note in notes.items()
    }


def _fitting(bundle: Bundle, store: PlanStore, name: str, wanted: PlanKey) -> PlanNote:
    """Return the note of a plan that fits; raise BackendError saying what is there instead."""
    said = ["no plan of it is there"]
    if store.has_foreign(name):
        said = [f"its plan was built elsewhere or by an earlier EdgeKit, {key_file()} is not the key that sealed it"]
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
    if plan.changed:
        raise BackendError(
            f"{store.path(name, note.key)}: changed while it was read; see who writes there, and build it again"
        )
    if engine is None:
        raise BackendError(
            f"{store.path(name, note.key)}: TensorRT does not take it ({place.logger.error()}); build it again"
        )
    return engine
