"""PortAudio, by the sounddevice package: loaded and searched where a device is opened, its refusals in words."""

from importlib import import_module
from types import ModuleType
from typing import Any

from edgekit.errors import DeviceError, MissingPackageError
from edgekit.runtime.audio.devices.calls import put_to_rest
from edgekit.runtime.audio.devices.names import Device, Kind, list_devices, matching

_BUSY = -9985  # PortAudio: paDeviceUnavailable
_NOUNS = {"input": "microphone", "output": "speaker"}
# What to do where there is none, and where one is to be chosen.
_STEPS = {
    "input": ("plug one in or name one with --device", "name one with --device"),
    "output": ("plug one in, or run without --speak", "name one with --speaker"),
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


def find_device(portaudio: ModuleType, device: int | str | None, kind: Kind, hint: int | None = None) -> dict[str, Any]:
    """Return PortAudio's facts about a device: its number, words of its name, or None for the system's default.

    ``index`` among them is the number to open it by, None for the default. ``hint``: its number when it was last open,
    which tells one of several that have its name. Raises DeviceError, which names those that there are.
    """
    try:
        if not isinstance(device, str):
            return {**portaudio.query_devices(device, kind), "index": device}
        facts = portaudio.query_devices()
    except (ValueError, portaudio.PortAudioError) as error:
        raise DeviceError(_unfound(_devices(portaudio, kind), device, kind, str(error))) from error
    devices = _devices(portaudio, kind)
    result = matching(devices, device)
    if len(result) > 1 and hint is not None:
        result = [one for one in result if one.number == hint] or result[:1]
    if len(result) != 1:
        raise DeviceError(_unfound(devices, device, kind, "PortAudio lists none"))
    return {**facts[result[0].number], "index": result[0].number}


def start_anew(portaudio: ModuleType) -> bool:
    """Let PortAudio look for devices again, which it does only when it starts; say whether it could be.

    It cannot while a stream is open that cannot rest for a moment, as the speaker does between answers, nor while a
    call into it was left behind.
    """
    if not hasattr(portaudio, "_terminate") or (again := put_to_rest()) is None:
        return False
    try:
        while portaudio._initialized:  # noqa: SLF001 - sounddevice has no other way
            portaudio._terminate()  # noqa: SLF001
        portaudio._initialize()  # noqa: SLF001
    except portaudio.PortAudioError as error:
        raise NotStartedError(f"sound: PortAudio does not start ({' '.join(str(error).split())})") from error
    finally:
        for wake in again:
            wake()
    return True


def is_busy(error: Exception) -> bool:
    """Return whether PortAudio refused because another program holds the device."""
    return _BUSY in error.args or "Device unavailable" in str(error)


def _unfound(devices: list[Device], device: int | str | None, kind: Kind, reason: str) -> str:
    noun, (plug, choose) = _NOUNS[kind], _STEPS[kind]
    if not devices:
        return f"{noun}: none found ({' '.join(reason.split())}); {plug}"
    if device is None:
        return f"{noun}: none is the default; {choose}: {_listed(devices)}"
    if isinstance(device, int):
        return f"{noun} {device}: none has this number; {choose}: {_listed(devices)}"
    if len(several := matching(devices, device)) > 1:
        return f"{noun} '{device}': several match; {choose} by its number: {_listed(several)}"
    return f"{noun} '{device}': none has this name; {choose}: {_listed(devices)}"


def _devices(portaudio: ModuleType, kind: Kind) -> list[Device]:
    try:
        return [one for one in list_devices(portaudio) if one.channels(kind) > 0]
    except portaudio.PortAudioError:
        return []


def _listed(devices: list[Device]) -> str:
    return ", ".join(f"{one.number} ({one.listed})" for one in devices)
