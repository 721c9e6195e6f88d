"""How onnxruntime is on a machine, and each of its providers.

They are asked in a process of their own and have to compute something: some fall back to the CPU without a word.
"""

import base64
import re
import sys
from importlib.metadata import PackageNotFoundError, requires
from typing import Any

import numpy as np

from edgekit.runtime.backends.examining import APT, DRIVER_LIBRARY, Answer, Examined, Finding, Machine
from edgekit.runtime.backends.ort import HOST, Provider
from edgekit.runtime.graphs.library import load_onnxruntime
from edgekit.versions import installed, older

# y = x @ x + x for x (2, 2) float32, opset 13: a library's kernel and one of the provider's own.
GRAPH = base64.b64decode(
    "CAg6UAoRCgF4CgF4EgFtIgZNYXRNdWwKDgoBbQoBeBIBeSIDQWRkEgFnWhMKAXgSDgoMCAESCAoCCAIKAggCYhMKAXkSDgoMCAESCAoCCAIKAggC"
    "QgQKABAN"
)
_WHEELS = (3, 11)  # the oldest Python that onnxruntime 1.24 and later have wheels for
_NEWER_PYTHON = "python3.11 -m venv VENV, and install EdgeKit there: later wheels are for Python 3.11 and up"


def examine_provider(machine: Machine, provider: Provider) -> Examined:
    """Return how onnxruntime is on a machine and, where a provider is built in, how that is."""
    answer = machine.ask(f"{__name__}:probe_package", "")
    package = _package(answer)
    if provider.name not in answer.said.get("providers", ()):
        return Examined((package,), here=False)
    found = _provider(machine, provider, machine.ask(f"{__name__}:probe_provider", provider.name))
    return Examined((package, found), here=package.state == found.state == "ok")


def _package(answer: Answer) -> Finding:
    if not answer.said:
        if "No module named 'onnxruntime'" in answer.error:
            text = "not installed, the CPU's backend and the speech gate need it"
            return Finding("onnxruntime", "missing", text, "pip install 'edgekit-audio[cpu]'")
        text = f"does not load: {answer.error}"
        return Finding("onnxruntime", "wrong", text, "pip install --force-reinstall onnxruntime")
    version = answer.said["version"]
    both = [name for name in ("onnxruntime", "onnxruntime-gpu") if installed(name)]
    if len(both) > 1:
        return Finding(
            "onnxruntime",
            "wrong",
            f"{version}, from two packages that write the same module",
            "pip uninstall -y onnxruntime onnxruntime-gpu, then pip install one of them",
        )
    needed = _lowest_onnxruntime()
    if older(version, needed):
        text = f"{version}, bundles made by this EdgeKit ask for {needed} or later"
        fix = f"pip install '{both[0] if both else 'onnxruntime'}>={needed}'"
        return Finding("onnxruntime", "wrong", text, fix if sys.version_info >= _WHEELS else _NEWER_PYTHON)
    return Finding("onnxruntime", "ok", version)


def _provider(machine: Machine, provider: Provider, answer: Answer) -> Finding:
    short = f"onnxruntime {provider.device}"
    if answer.said.get("ran"):
        return Finding(short, "ok", "loads and computes")
    library = re.search(r"error: (lib[\w.+-]+): cannot open shared object file", answer.printed)
    if answer.error:
        reason = answer.error
    elif provider.name in answer.said["active"]:
        reason = "it loads and computes wrongly"
    else:
        why = f"{library[1]} is not found" if library else "it says not why"
        reason = f"built in, but falls back to {', '.join(answer.said['active'])} without an error: {why}"
    fix = library_fix(machine, library[1] if library else "") if machine.gpu else ""
    return Finding(short, "wrong", reason if machine.gpu else f"{reason}; no NVIDIA GPU here, so nothing is lost", fix)


def library_fix(machine: Machine, library: str) -> str:
    """Return what to type where a provider misses a library; "" where it does not say which."""
    if machine.jetson:
        return APT
    if library.startswith("libcuda.so"):
        return DRIVER_LIBRARY
    return "pip install 'onnxruntime-gpu[cuda,cudnn]'" if library else ""


def probe_package(_argument: str) -> dict[str, Any]:
    """Return its version and the providers that are built in."""
    library = load_onnxruntime()
    return {"version": library.__version__, "providers": list(library.get_available_providers())}


def probe_provider(name: str) -> dict[str, Any]:
    """Return which providers a session for ``name`` really has, and whether the graph ran on it rightly."""
    library = load_onnxruntime()
    if name != HOST.name and hasattr(library, "preload_dlls"):
        library.preload_dlls()  # CUDA from packages of this environment; elsewhere the system's loader finds it
    active = list(library.InferenceSession(GRAPH, providers=[name]).get_providers())
    if name not in active:
        return {"active": active, "ran": False}
    options = library.SessionOptions()
    if name != HOST.name:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    session = library.InferenceSession(GRAPH, options, providers=[name])
    given = np.array([[1, 2], [3, 4]], np.float32)
    (got,) = session.run(None, {"x": given})
    return {"active": active, "ran": bool(np.allclose(got, given @ given + given, rtol=1e-2))}  # TF32 has 10 bits


def _lowest_onnxruntime() -> str:
    """Return the lower bound that extra ``cpu`` puts on onnxruntime; "" where EdgeKit is not installed."""
    try:
        bounds = requires("edgekit-audio") or []
    except PackageNotFoundError:
        return ""
    found = [re.match(r"onnxruntime>=([\d.]+)", bound) for bound in bounds]
    return next((one[1] for one in found if one), "")
