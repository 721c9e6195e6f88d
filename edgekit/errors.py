"""Every error EdgeKit raises on purpose. Each is also a builtin, so callers may catch either.

A message names the thing, the value, the rule and the next step, in that order, on one line. What it quotes may be a
stranger's: a line break, a terminal's commands or a megabyte in it do not reach who reads the message.
"""

_LONGEST = 1500  # characters of a message


class EdgeKitError(Exception):
    """Root of everything EdgeKit raises on purpose; the CLI prints it as one line."""

    exit_code = 1

    def __str__(self) -> str:
        """Return the message in one line that a terminal and a log can show."""
        text = super().__str__()
        if len(text) > _LONGEST:
            text = f"{text[: _LONGEST * 2 // 3]} ... {text[-_LONGEST // 3 :]}"
        if text.isprintable():
            return text
        return "".join(one if one.isprintable() else " " if one in "\n\r\t" else ascii(one)[1:-1] for one in text)


class UsageError(EdgeKitError, ValueError):
    """The caller asked for something that no input could satisfy."""

    exit_code = 2


class RegistryError(EdgeKitError, ValueError):
    """A record that is registered lacks something or takes another's name, or a name is known to no registry."""


class RecipeError(EdgeKitError, ValueError):
    """A recipe or target file does not parse, or contradicts itself."""


class SettingsError(EdgeKitError, ValueError):
    """The configuration of a server does not parse, contradicts itself or asks for what may not be."""

    exit_code = 2


class CheckpointError(EdgeKitError, ValueError):
    """A checkpoint is incomplete, misshapen or of a kind EdgeKit does not read."""


class BundleFormatError(EdgeKitError, ValueError):
    """A bundle breaks its format: version, size, hash, path or signature."""


class SignatureError(BundleFormatError):
    """A signature is required of a bundle, and it has none that fits a trusted key."""


class KeyFileError(EdgeKitError, ValueError):
    """A key cannot be used: no key, another kind, open to others; or none is trusted."""


class BundleFileError(EdgeKitError, FileNotFoundError):
    """A bundle, or a file that its manifest lists, is not there."""


class OutputError(EdgeKitError, OSError):
    """A result could not be written; nothing half-written is left behind."""


class CensusError(EdgeKitError, ValueError):
    """The written graph holds weights in another precision than the recipe asked for."""


class QualityError(EdgeKitError, ValueError):
    """A quantised bundle is further from its float twin than the recipe allows."""


class VerifyError(EdgeKitError, ValueError):
    """What runs here differs from what the bundle promises."""


class ProfileError(EdgeKitError, ValueError):
    """A profile does not hold what its schema promises, or nothing could be measured."""


class BackendError(EdgeKitError, RuntimeError):
    """The backend that a bundle needs is not the one this machine has."""


class AudioError(EdgeKitError, ValueError):
    """Audio that cannot be used: empty, truncated, not audio, or not finite."""


class DeviceError(EdgeKitError, OSError):
    """A microphone or speaker is missing, busy or refused."""


class ListenError(EdgeKitError, OSError):
    """An address cannot be listened at: in use, not of this machine, or not allowed."""


class RefusedError(EdgeKitError, RuntimeError):
    """A server does not take a stream, or sound: ``reason`` is a name for programs."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class MissingPackageError(EdgeKitError, ImportError):
    """A command needs a Python package that is not installed."""
