"""What a library says of itself, asked in a process of its own: loading one may print, hang or crash.

``python -m edgekit.profiler.doctor.probes NAME [ARGUMENT]`` is that process; it prints one JSON object.
Knows how to ask, not what an answer means.
"""

import base64
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from edgekit.errors import BackendError, EdgeKitError
from edgekit.runtime.backends.device import Driver

_TIMEOUT_S = 120  # TensorRT's provider compiles the graph first
# y = x @ x + x for x (2, 2) float32, opset 13: a library's kernel and one of the provider's own.
_GRAPH = base64.b64decode(
    "CAg6UAoRCgF4CgF4EgFtIgZNYXRNdWwKDgoBbQoBeBIBeSIDQWRkEgFnWhMKAXgSDgoMCAESCAoCCAIKAggCYhMKAXkSDgoMCAESCAoCCAIKAggC"
    "QgQKABAN"
)
_CPU = "CPUExecutionProvider"


@dataclass(frozen=True, slots=True)
class Answer:
    """What the process said; ``error`` says in one line why it said nothing, ``printed`` is all it wrote to stderr."""

    said: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    printed: str = ""


def ask(*arguments: str) -> Answer:
    """Return what a probe says; a crash, an exception or silence becomes the Answer's ``error``."""
    root = str(Path(__file__).resolve().parents[3])
    path = os.pathsep.join(part for part in (root, os.environ.get("PYTHONPATH", "")) if part)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "edgekit.profiler.doctor.probes", *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT_S,
            check=False,
            # from 3.11 on, a folder here that is called like a library is not taken for it
            env={**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"},
        )
    except subprocess.TimeoutExpired:
        return Answer(error=f"no answer within {_TIMEOUT_S} s")
    lines = done.stderr.strip().splitlines() or ["no message"]
    if done.returncode < 0:
        return Answer(error=f"crashed ({signal.Signals(-done.returncode).name})", printed=done.stderr)
    if done.returncode:
        return Answer(error=" ".join(lines[-1].split()), printed=done.stderr)
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return Answer(said, said.pop("error", ""), done.stderr)


def _cuda(_argument: str) -> dict[str, Any]:
    """Return version and devices as the driver's library gives them; ``error`` if it cannot start."""
    try:
        driver = Driver()
        return {"cuda": driver.version(), "devices": [asdict(one) for one in driver.devices()]}
    except BackendError as error:
        return {"error": str(error).removeprefix("CUDA: ").partition("; ")[0]}


def _tensorrt(module: str) -> dict[str, Any]:
    """Return version, and whether it builds and runs; a Runtime is only made where a device is.

    Without a device the Runtime is an object around nothing, and its first use ends the process.
    """
    library: Any = import_module(module)
    said = {"version": library.__version__, "builds": hasattr(library, "Builder"), "runs": False}
    if _cuda("").get("devices"):
        runtime = library.Runtime(library.Logger(library.Logger.ERROR))
        said["runs"] = runtime is not None and runtime.max_threads > 0
    return said


def _onnxruntime(_argument: str) -> dict[str, Any]:
    library: Any = import_module("onnxruntime")
    return {"version": library.__version__, "providers": list(library.get_available_providers())}


def _provider(name: str) -> dict[str, Any]:
    """Return which providers a session for ``name`` really has, and whether the graph ran on it rightly."""
    import numpy as np

    library: Any = import_module("onnxruntime")
    if name != _CPU and hasattr(library, "preload_dlls"):
        library.preload_dlls()  # CUDA from packages of this environment; elsewhere the system's loader finds it
    active = list(library.InferenceSession(_GRAPH, providers=[name]).get_providers())
    if name not in active:
        return {"active": active, "ran": False}
    options = library.SessionOptions()
    if name != _CPU:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    session = library.InferenceSession(_GRAPH, options, providers=[name])
    given = np.array([[1, 2], [3, 4]], np.float32)
    (got,) = session.run(None, {"x": given})
    return {"active": active, "ran": bool(np.allclose(got, given @ given + given, rtol=1e-2))}  # TF32 has 10 bits


def _sound(_argument: str) -> dict[str, Any]:
    """Return the names of the default devices, "" where there is none."""
    from edgekit.runtime.audio.portaudio import load_portaudio

    try:
        portaudio = load_portaudio("microphone")
    except EdgeKitError as error:
        return {"error": str(error)}
    names = {kind: _device_name(portaudio, kind) for kind in ("input", "output")}
    return {"portaudio": portaudio.get_portaudio_version()[1], **names}


def _device_name(portaudio: ModuleType, kind: str) -> str:
    try:
        return str(portaudio.query_devices(None, kind)["name"])
    except (ValueError, portaudio.PortAudioError):  # there is none
        return ""


def _package(module: str) -> dict[str, Any]:
    library = import_module(module)
    return {"version": str(getattr(library, "__version__", ""))}


_PROBES: dict[str, Callable[[str], dict[str, Any]]] = {
    "cuda": _cuda,
    "onnxruntime": _onnxruntime,
    "package": _package,
    "provider": _provider,
    "sound": _sound,
    "tensorrt": _tensorrt,
}

if __name__ == "__main__":
    sys.stdout.write(json.dumps(_PROBES[sys.argv[1]]("".join(sys.argv[2:]))) + "\n")
