"""What sound and packages say of themselves; the doctor asks it in a process of its own."""

from importlib import import_module
from types import ModuleType
from typing import Any

from edgekit.errors import EdgeKitError


def sound(_argument: str) -> dict[str, Any]:
    """Return the names of the default devices, "" where there is none; ``missing``: whether something is to install."""
    from edgekit.runtime.audio.portaudio import NotStartedError, load_portaudio

    try:
        portaudio = load_portaudio("microphone")
    except NotStartedError as error:
        return {"error": str(error)}
    except EdgeKitError as error:
        return {"error": str(error), "missing": True}
    names = {kind: _device_name(portaudio, kind) for kind in ("input", "output")}
    return {"portaudio": portaudio.get_portaudio_version()[1], **names}


def _device_name(portaudio: ModuleType, kind: str) -> str:
    try:
        return str(portaudio.query_devices(None, kind)["name"])
    except (ValueError, portaudio.PortAudioError):  # there is none
        return ""


def package(module: str) -> dict[str, Any]:
    """Return its version."""
    library = import_module(module)
    return {"version": str(getattr(library, "__version__", ""))}
