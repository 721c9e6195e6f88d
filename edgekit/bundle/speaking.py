"""Speech: what a manifest says of how answers are spoken, by one of the kinds that are registered.

Knows no kind; each is a file of ``speech``.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from edgekit.errors import RegistryError
from edgekit.registry import Registry

_TAG = "kind"


class Speech:
    """What the struct of every kind is; also a frozen ``Struct`` with ``tag_field="kind"`` and the kind as its tag."""

    __slots__ = ()
    sample_rate_hz: int

    @property
    def kind(self) -> str:
        """The name of its kind."""
        return SpeechFormat(type(self)).name

    def files(self) -> tuple[str, ...]:
        """Return the files of the bundle that it names, beside those of its token tables."""
        return ()

    def components(self) -> Mapping[str, tuple[str, ...]]:
        """Return the components that speak, each with the free sizes that its state may have."""
        return {}

    def faults(self, manifest: Any) -> Iterator[str]:  # noqa: ANN401, ARG002 - Manifest, which holds what this is
        """Yield what its fields contradict, each other or the rest of the manifest; see ``faults.py``."""
        yield from ()


@dataclass(frozen=True, slots=True)
class SpeechFormat:
    """A kind as the manifest has it: the struct of its fields."""

    struct: type[Speech]

    def __post_init__(self) -> None:
        """Raise RegistryError for a class that the manifest could not hold."""
        config = getattr(self.struct, "__struct_config__", None)
        fault = "is no msgspec.Struct" if config is None else ""
        if config is not None and (config.tag_field != _TAG or not isinstance(config.tag, str)):
            fault = f"has no name for its kind: tag_field {config.tag_field!r} and tag {config.tag!r}"
        if fault or not issubclass(self.struct, Speech):
            name = getattr(self.struct, "__name__", repr(self.struct))
            raise RegistryError(
                f"speech format '{name}': struct {fault or 'is no Speech'}; write "
                f'class {name}(Struct, Speech, frozen=True, tag_field="{_TAG}", tag="NAME")'
            )

    @property
    def name(self) -> str:
        """The kind."""
        config = self.struct.__struct_config__  # type: ignore[attr-defined]
        return str(config.tag)


SPEECH_FORMATS: Registry[SpeechFormat] = Registry("speech format", SpeechFormat)


def as_speech(value: object, path: str) -> Speech:
    """Return plain data as the struct of its kind; raises msgspec.ValidationError with the path at fault."""
    if not isinstance(value, dict):
        raise msgspec.ValidationError(f"Expected `object`, got `{type(value).__name__}` - at `{path}`")
    kind, known = value.get(_TAG), SPEECH_FORMATS.names()
    if kind not in known:
        raise msgspec.ValidationError(
            f"speech of kind {kind!r}, this EdgeKit knows {', '.join(known)} - at `{path}.{_TAG}`"
        )
    try:
        return msgspec.convert(value, SPEECH_FORMATS.get(kind).struct)
    except msgspec.ValidationError as error:  # whose path begins with the struct
        at = str(error)
        raise msgspec.ValidationError(at.replace("`$", f"`{path}") if "`$" in at else f"{at} - at `{path}`") from error
