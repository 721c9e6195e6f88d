"""Backends: what loads a bundle's Components, one Engine for each.

Knows which backend runs which dialect, and that what was asked for runs or is an error: nothing falls back to another
unless that is allowed, and then it is told.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from edgekit.bundle import Bundle
from edgekit.errors import BackendError, MissingPackageError, UsageError
from edgekit.runtime.backends import ort
from edgekit.runtime.backends.device import cuda_free_mib
from edgekit.runtime.backends.ort_call import Device
from edgekit.runtime.backends.trt import engine as trt
from edgekit.runtime.engine import Engine
from edgekit.runtime.memory import ROOT, available_mib, check_load, load_need

CPU, CUDA = "onnxruntime-cpu", "onnxruntime-cuda"
BACKENDS: dict[str, tuple[str, ...]] = {
    "ort-cpu": (CPU,),
    "ort-cuda": (CUDA, CPU),
    "standard": ("tensorrt", "tensorrt-rtx", CPU),
}
"""What runs a dialect: for ``ort-cuda`` and ``standard`` the CPU is the numerical twin, too slow for use."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """Engines by component, the backend that runs them, and why it is not the one asked for; empty if it is."""

    engines: dict[str, Engine]
    backend: str
    fallback: str = ""


@dataclass(frozen=True, slots=True)
class LoadSettings:
    """How engines are loaded. ``backend`` None: the dialect's own. ``threads``: of each engine on the CPU.

    ``plans``: the folder of TensorRT's plans, if it is not the one beside the bundle. ``root``: below it lies what the
    machine says of its memory; its own unless a test says otherwise.
    """

    threads: int
    context_tokens: int
    backend: str | None = None
    allow_fallback: bool = False
    plans: Path | None = None
    root: Path = ROOT


def load_engines(bundle: Bundle, names: Iterable[str], settings: LoadSettings) -> Loaded:
    """Return the Engine of each named component, all on one backend.

    Raises UsageError for a backend that does not run the bundle's dialect, BackendError or MissingPackageError if the
    backend is not there, does not take a component, or has not the memory for it. Where ``allow_fallback`` is set these
    two make the CPU run it.
    """
    asked, names = _asked(bundle, settings.backend), tuple(names)
    try:
        return Loaded(_load(bundle, names, asked, settings), asked)
    except (BackendError, MissingPackageError) as error:
        if not settings.allow_fallback or asked == CPU:
            raise
        reason = str(error).removeprefix(f"{asked}: ")
        return Loaded(_load(bundle, names, CPU, settings), CPU, fallback=f"{asked}: {reason}")


def _asked(bundle: Bundle, backend: str | None) -> str:
    dialect = bundle.manifest.dialect
    offered = BACKENDS[dialect]
    if backend is None:
        # A machine has one TensorRT or the other; where it has none, the first one's absence is what to tell.
        return "tensorrt-rtx" if dialect == "standard" and _has_only_rtx() else offered[0]
    if backend not in offered:
        raise UsageError(
            f"backend '{backend}': {bundle.folder} is of dialect '{dialect}', which runs on {', '.join(offered)}; "
            "choose one of these, or export for another target"
        )
    return backend


def _has_only_rtx() -> bool:
    return find_spec("tensorrt") is None and find_spec("tensorrt_rtx") is not None


def _load(bundle: Bundle, names: tuple[str, ...], backend: str, settings: LoadSettings) -> dict[str, Engine]:
    if backend not in (CPU, CUDA):
        return dict(trt.load_components(bundle, names, backend, settings.context_tokens, plans=settings.plans))
    device: Device = "cuda" if backend == CUDA else "cpu"
    need = load_need(bundle, names, settings.context_tokens, backend)
    if device == "cuda":
        check_load(bundle, need, cuda_free_mib(), "the GPU")
    else:
        check_load(bundle, need, available_mib(settings.root))
    return {name: ort.load_component(bundle, name, settings.threads, device) for name in names}
