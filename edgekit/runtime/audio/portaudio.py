"""PortAudio, by the sounddevice package: loaded where a device is opened, its refusals in words."""

from importlib import import_module
from types import ModuleType

from edgekit.errors import DeviceError, MissingPackageError

_BUSY = -9985  # PortAudio: paDeviceUnavailable


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


def is_busy(error: Exception) -> bool:
    """Return whether PortAudio refused because another program holds the device."""
    return _BUSY in error.args or "Device unavailable" in str(error)
