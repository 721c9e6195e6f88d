"""What the data of a client's event must be. The package's own classes take any value of any type."""

from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from edgekit.errors import RefusedError
from edgekit.rates import rate_fault
from edgekit.reprs import quoted
from edgekit.runtime.hear.resampler import MAX_CHANNELS

Width = Literal[1, 2, 4]
_Message = TypeVar("_Message", bound=Struct)


class Transcribe(Struct):
    """What a recording that follows is to be heard as; names and terms to expect are not used."""

    name: str | None = None
    language: str | None = None


class Ping(Struct):
    """To be answered with its text."""

    text: str | None = None


class SelectProgram(Struct):
    """Which of the programs of ``info`` is meant."""

    name: str


class Said(Struct):
    """A text that wants an answer: ``transcript``, as a client sends it."""

    text: str


class Voice(Struct):
    """Who is to read; its language and speaker are not used, a voice has one of each."""

    name: str | None = None


class Synthesize(Struct):
    """A text to be read aloud."""

    text: str
    voice: Voice | None = None


class _Format(Struct):
    rate: int
    width: int
    channels: int


@dataclass(frozen=True, slots=True)
class Format:
    """Of raw samples, little-endian: ``width`` bytes each, unsigned where it is one."""

    rate: int
    width: Width
    channels: int

    @property
    def frame_bytes(self) -> int:
        """Bytes of one sample of every channel."""
        return self.width * self.channels

    def samples(self, payload: bytes) -> NDArray[np.float32] | NDArray[np.int16]:
        """Return a payload as samples, (n,) or (n, channels). Raises RefusedError for one that ends within them."""
        if len(payload) % self.frame_bytes:
            raise RefusedError(
                "format", f"audio-chunk: {len(payload):,} bytes of payload, a multiple of {self.frame_bytes} is needed "
                f"({self.channels} channels of {self.width} bytes); send whole samples",
            )  # fmt: skip
        sound: NDArray[np.float32] | NDArray[np.int16]
        if self.width == 2:
            sound = np.frombuffer(payload, "<i2").astype(np.int16, copy=False)
        elif self.width == 1:
            sound = (np.frombuffer(payload, np.uint8).astype(np.float32) - np.float32(128)) / np.float32(128)
        else:
            sound = np.frombuffer(payload, "<i4").astype(np.float32) / np.float32(2**31)
        return sound if self.channels == 1 else sound.reshape(-1, self.channels)


def message(kind: type[_Message], event: str, data: dict[str, Any]) -> _Message:
    """Return the data of an event. Raises RefusedError for a field that is missing or of another type."""
    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        raise RefusedError("data", f"{event}: {error}; correct it") from error


def audio_format(event: str, data: dict[str, Any]) -> Format:
    """Return the format that an event names. Raises RefusedError for one that is not heard."""
    given = message(_Format, event, data)
    fault = ""
    if reason := rate_fault(given.rate):
        fault = f"rate {reason}"
    elif given.width not in get_args(Width):
        fault = f"width {quoted(given.width)}, samples of 1, 2 or 4 bytes are heard"
    elif not 1 <= given.channels <= MAX_CHANNELS:
        fault = f"channels {quoted(given.channels)}, 1 to {MAX_CHANNELS} are heard"
    if fault:
        raise RefusedError("format", f"{event}: {fault}; convert the sound")
    return Format(given.rate, given.width, given.channels)  # type: ignore[arg-type]
