"""PortAudio, by the sounddevice package: loaded and searched where a device is opened, its refusals in words."""

from importlib import import_module
from types import ModuleType
from typing import Any, Literal

from edgekit.errors import DeviceError, MissingPackageError

_BUSY = -9985  # PortAudio: paDeviceUnavailable
_NOUNS = {"input": "microphone", "output": "speaker"}
# What to do where there is none, and where one is to be chosen; only the microphone is chosen by an option.
_STEPS = {
    "input": ("plug one in or name one with --device", "name one with --device"),
    "output": ("plug one in, or run without --speak", "choose another default output"),
}


class NotStartedError(DeviceError):
    """PortAudio is installed and does not start."""


def load_portaudio(device: str) -> ModuleType:
    """Return the sounddevice module for a ``device`` that errors name: MissingPackageError, DeviceError."""
    try:
        return import_module("sounddevice")
    except ImportError as error:
        raise MissingPackageError(
            f"sounddevice: {error}, the {device} needs it; `pip install 'edgekit-audio[mic]'`"
        ) from error
    except OSError as error:
        raise DeviceError(f"{device}: {error}, the PortAudio library is needed; `apt install libportaudio2`") from error
    except Exception as error:  # its own PortAudioError, of a module that there is not yet
        if type(error).__name__ != "PortAudioError":
            raise
        reason = " ".join(str(error.args[0] if error.args else error).split())
        raise NotStartedError(
            f"{device}: PortAudio does not start ({reason}); correct ~/.asoundrc if there is one, then `edgekit doctor`"
        ) from error


def find_device(portaudio: ModuleType, device: int | str | None, kind: Literal["input", "output"]) -> Any:  # noqa: ANN401 - sounddevice's
    """Return PortAudio's facts about a device: its number, words of its name, or None for the system's default.

    Raises DeviceError, which names those that there are.
    """
    try:
        return portaudio.query_devices(device, kind)
    except (ValueError, portaudio.PortAudioError) as error:
        raise DeviceError(_unfound(_names(portaudio, kind), device, kind, str(error))) from error


def is_busy(error: Exception) -> bool:
    """Return whether PortAudio refused because another program holds the device."""
    return _BUSY in error.args or "Device unavailable" in str(error)


def _unfound(names: dict[int, str], device: int | str | None, kind: str, reason: str) -> str:
    noun, (plug, choose) = _NOUNS[kind], _STEPS[kind]
    if not names:
        return f"{noun}: none found ({' '.join(reason.split())}); {plug}"
    if device is None:
        return f"{noun}: none is the default; {choose}: {_listed(names)}"
    if isinstance(device, int):
        return f"{noun} {device}: none has this number; {choose}: {_listed(names)}"
    matching = {number: name for number, name in names.items() if _matches(device, name)}
    if len(matching) > 1:
        return f"{noun} '{device}': several match; {choose} by its number: {_listed(matching)}"
    return f"{noun} '{device}': none has this name; {choose}: {_listed(names)}"


def _names(portaudio: ModuleType, kind: str) -> dict[int, str]:
    """Return number and name of every device of a kind, behind the name what of the system it is reached by."""
    try:
        systems = portaudio.query_hostapis()
        return {
            number: f"{facts['name']}, {systems[facts['hostapi']]['name']}"
            for number, facts in enumerate(portaudio.query_devices())
            if facts[f"max_{kind}_channels"] > 0
        }
    except portaudio.PortAudioError:
        return {}


def _matches(words: str, name: str) -> bool:
    """Return whether a name holds these words in their order, as sounddevice has it."""
    at = 0
    for word in words.lower().split():
        at = name.lower().find(word, at)
        if at < 0:
            return False
        at += len(word)
    return True


def _listed(names: dict[int, str]) -> str:
    return ", ".join(f"{number} ({name})" for number, name in names.items())
