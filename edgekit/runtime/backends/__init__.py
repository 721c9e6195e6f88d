"""Backends: what loads a bundle's Components, one Engine for each; one file or folder per backend.

Knows which backend runs which dialect, and that what was requested runs or is an error: nothing falls back to another
unless that is allowed, and then it is told. A stranger adds one by ``register``, before a bundle is loaded; ``Backend``
in ``base`` says what it must have.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from edgekit.bundle import Bundle
from edgekit.errors import BackendError, MissingPackageError, UsageError
from edgekit.recipe import Target
from edgekit.registry import Registry
from edgekit.runtime.backends.base import Backend, Builder, Built, LoadSettings, Progress, Runs
from edgekit.runtime.backends.ort_cpu import OrtCpu
from edgekit.runtime.backends.ort_cuda import OrtCuda
from edgekit.runtime.backends.trt.backend import TensorRT
from edgekit.runtime.backends.trt.library import FULL, RTX
from edgekit.runtime.engine import Engine

__all__ = [
    "BACKENDS", "Backend", "Builder", "Built", "LoadSettings", "LoadedEngines", "Runs", "build_plans", "load_engines",
    "register", "registered", "twin_of",
]  # fmt: skip

BACKENDS = Registry[Backend]("backend", Backend)
register, registered = BACKENDS.register, BACKENDS.registered

register(OrtCpu())
register(OrtCuda())
register(TensorRT(FULL))
register(TensorRT(RTX, preference=1))


@dataclass(frozen=True, slots=True)
class LoadedEngines:
    """Engines by component, the backend that runs them, and why it is not the one requested; empty if it is."""

    engines: dict[str, Engine]
    backend: str
    fallback: str = ""


def twin_of(dialect: str) -> str:
    """Return the name of the backend that runs a dialect on any machine. Raises BackendError if none does."""
    for _, backend in _offers(dialect):
        if backend.everywhere:
            return backend.name
    raise BackendError(f"dialect '{dialect}': no backend runs it without a device; register one that does")


def load_engines(bundle: Bundle, names: Iterable[str], settings: LoadSettings) -> LoadedEngines:
    """Return the Engine of each named component, all on one backend.

    Raises UsageError for a backend that does not run the bundle's dialect, and for ``plans`` of one that is no Builder;
    BackendError or MissingPackageError if the backend is not there, does not take a component, or has not the memory
    for it. Where ``allow_fallback`` is set these two make one run it that needs no device.
    """
    backend, names = _requested(bundle, settings.backend), tuple(names)
    if settings.plans is not None and not isinstance(backend, Builder):
        raise UsageError(f"plans: {settings.plans}, {backend.name} runs the bundle as it is; leave them out")
    try:
        return LoadedEngines(dict(backend.load(bundle, names, settings)), backend.name)
    except (BackendError, MissingPackageError) as error:
        if not settings.allow_fallback or backend.everywhere:
            raise
        twin = BACKENDS.get(twin_of(bundle.manifest.dialect))
        reason = str(error).removeprefix(f"{backend.name}: ")
        return LoadedEngines(dict(twin.load(bundle, names, settings)), twin.name, fallback=f"{backend.name}: {reason}")


def _requested(bundle: Bundle, name: str | None) -> Backend:
    dialect = bundle.manifest.dialect
    offers = _offers(dialect)
    if not offers:
        raise BackendError(f"{bundle.folder}: of dialect '{dialect}', which no backend runs; register one that does")
    if name is None:
        here = (backend for runs, backend in offers if not runs.twin and not backend.absent())
        return next(here, offers[0][1])  # where none is installed, the preferred one's absence is what to tell
    for _, backend in offers:
        if backend.name == name:
            return backend
    raise UsageError(
        f"backend '{name}': {bundle.folder} is of dialect '{dialect}', which runs on "
        f"{', '.join(backend.name for _, backend in offers)}; choose one of these, or export for another target"
    )


def _offers(dialect: str) -> list[tuple[Runs, Backend]]:
    """Return the backends that run a dialect, the preferred one first, numerical twins last."""
    found = [(runs, backend) for backend in BACKENDS for runs in backend.dialects if runs.dialect == dialect]
    return sorted(found, key=lambda offer: (offer[0].twin, offer[0].preference))


def build_plans(
    bundle: Bundle, target: Target, *, folder: Path | None = None, context_tokens: int | None = None,
    progress: Progress = lambda _what, _done, _total: None,
) -> list[Built]:  # fmt: skip
    """Return the plan of every component of a bundle for a target, built now or kept from before.

    folder: where plans lie, by default beside the bundle; context_tokens: length of the KV cache, the bundle's own by
    default. Raises BackendError if the target builds no plans, or not of this dialect, and what its backend's ``build``
    does.
    """
    known = {one.name: one for one in BACKENDS}
    backend = next((known[name] for name in target.backends if isinstance(known.get(name), Builder)), None)
    if backend is None or not isinstance(backend, Builder):
        raise BackendError(
            f"target '{target.name}': runs on {', '.join(target.backends)}, which needs no plans; "
            "use the bundle as it is"
        )
    dialects = [runs.dialect for runs in backend.dialects]
    if bundle.manifest.dialect not in dialects:
        wanted = ", ".join(f"'{one}'" for one in dialects)
        raise BackendError(
            f"{bundle.folder}: dialect '{bundle.manifest.dialect}', plans are built from {wanted}; "
            f"make one with `edgekit export CHECKPOINT --target {target.name} -o BUNDLE`"
        )
    return backend.build(bundle, target, folder, context_tokens, progress)
