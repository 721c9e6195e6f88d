"""``tensorrt`` and ``tensorrt-rtx``: plans of the ``standard`` dialect on an NVIDIA GPU."""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from edgekit.bundle import Bundle
from edgekit.recipe import Target
from edgekit.runtime.backends import device
from edgekit.runtime.backends.base import Built, LoadSettings, Progress, Runs
from edgekit.runtime.backends.examining import APT, Answer, Examined, Finding, Machine
from edgekit.runtime.backends.sizes import device_need
from edgekit.runtime.backends.trt.engine import TrtEngine
from edgekit.runtime.backends.trt.library import Kind
from edgekit.runtime.backends.trt.loading import load_components
from edgekit.runtime.memory import Need
from edgekit.versions import older


class TensorRT:
    """One of the two TensorRTs; see Backend. A machine has one or the other: the full one is meant where both are."""

    everywhere = False

    def __init__(self, kind: Kind, preference: int = 0) -> None:
        self.name = kind.name
        self.dialects = (Runs("standard", preference),)
        self._kind = kind

    def absent(self) -> str:
        """Return why its module is not here."""
        kind = self._kind
        return "" if find_spec(kind.module) else f"{kind.module} is not installed; {kind.install}"

    def load(self, bundle: Bundle, names: tuple[str, ...], settings: LoadSettings) -> dict[str, TrtEngine]:
        """Return the Engine of each component, on a plan that was built for this device; see Backend."""
        return load_components(bundle, names, self._kind, settings.context_tokens, plans=settings.plans)

    def need(self, bundle: Bundle, names: tuple[str, ...], context_tokens: int) -> Need:
        """Return what lies on the device for certain; what TensorRT takes beside that was not measured."""
        return device_need(bundle.manifest, names, context_tokens)

    def build(
        self, bundle: Bundle, target: Target, folder: Path | None, context_tokens: int | None, progress: Progress
    ) -> list[Built]:
        """Return the plan of every component; see Builder."""
        from edgekit.runtime.backends.trt.builder import build

        return [*build(bundle, target, self._kind, folder=folder, context_tokens=context_tokens, progress=progress)]

    def examine(self, machine: Machine) -> Examined:
        """Return how it is here; nothing is said of TensorRT for RTX where it is not installed."""
        answer = machine.ask(f"{__name__}:probe", self._kind.module)
        finding = _finding(self._kind, machine, answer)
        return Examined((finding,) if finding else (), here=bool(finding and finding.state == "ok" and machine.gpu))


def _finding(kind: Kind, machine: Machine, answer: Answer) -> Finding | None:
    if answer.said:
        return _loaded(kind, machine, answer)
    if f"No module named '{kind.module}'" not in answer.error:
        fix = f"pip install --force-reinstall {kind.module}"
        return Finding(kind.title, "wrong", f"does not load: {answer.error}", fix)
    return None if kind.portable else _absent(kind, machine)


def _absent(kind: Kind, machine: Machine) -> Finding:
    if hidden := _hidden(machine.root, kind):
        fix = "python3 -m venv --system-site-packages VENV, and install EdgeKit there"
        return Finding(kind.title, "wrong", f"{hidden} is there, but this Python does not see it", fix)
    fix = (APT if machine.jetson else f"pip install {kind.module}") if machine.gpu else ""
    return Finding(kind.title, "missing", "not installed; only engines for NVIDIA GPUs need it", fix)


def _hidden(root: Path, kind: Kind) -> Path | None:
    """Return where the system's Python has it; a virtual environment sees it only if it was made to."""
    found = sorted((root / "usr/lib").glob(f"python3*/dist-packages/{kind.module}"))
    return found[0] if found else None


def _loaded(kind: Kind, machine: Machine, answer: Answer) -> Finding:
    version = answer.said["version"]
    if not kind.portable and older(version, kind.lowest):
        fix = "on a Jetson: flash JetPack 6.2 or 7"
        return Finding(kind.title, "wrong", f"{version}, {kind.lowest} or later is needed", fix)
    if not answer.said["builds"]:
        fix = f"pip install {kind.module}"
        return Finding(kind.title, "wrong", f"{version}, which runs engines and cannot build them", fix)
    if machine.gpu and not answer.said["runs"]:
        return Finding(kind.title, "wrong", f"{version}, which finds no device to run on; see driver and GPU")
    text = version if machine.gpu else f"{version}; builds engines here, which run where a GPU is"
    return Finding(kind.title, "ok", text)


def probe(module: str) -> dict[str, Any]:
    """Return version, and whether it builds and runs; a Runtime is only made where a device is.

    Without a device the Runtime is an object around nothing, and its first use ends the process.
    """
    library: Any = import_module(module)
    said = {"version": library.__version__, "builds": hasattr(library, "Builder"), "runs": False}
    if device.probe().get("devices"):
        runtime = library.Runtime(library.Logger(library.Logger.ERROR))
        said["runs"] = runtime is not None and runtime.max_threads > 0
    return said
