r"""Framing: the bytes of a connection as events of Wyoming; what a length counts is kept only if the length may be.

    {"type": "audio-chunk", "data_length": 46, "payload_length": 2048}\n  46 bytes of JSON  2,048 bytes of sound

The package's own reader takes a line and lengths of any size, and answers damage with an end that says nothing; so this
one stands in its place. Knows no sockets. Source: README of the package wyoming, "Format".
"""

from typing import Annotated, Any

import msgspec
from msgspec import Meta
from wyoming.event import Event

from edgekit.errors import RefusedError
from edgekit.serving.limits import Limits

_LONGEST_TYPE = 100  # characters; the longest of the protocol has 19
_NEXT = "speak Wyoming"
_Length = Annotated[int, Meta(ge=0, le=2**53)]  # a number that can be shown; far more than may come


class _Header(msgspec.Struct):
    """What is known of a header; others may be added to it (``version`` was)."""

    type: Annotated[str, Meta(min_length=1, max_length=_LONGEST_TYPE)]
    data: dict[str, Any] | None = None
    data_length: _Length | None = None
    payload_length: _Length | None = None


class Framing:
    """Takes bytes as they come and gives whole events; what it holds is bounded by the limits and one ``put``."""

    def __init__(self, limits: Limits) -> None:
        self._header_bytes, self._message_bytes = limits.header_bytes, limits.message_bytes
        self._held = bytearray()
        self._searched = 0  # bytes of it in which no line ends
        self._header: _Header | None = None

    @property
    def between(self) -> bool:
        """Whether no event has begun that is not whole."""
        return not self._held and self._header is None

    def put(self, data: bytes) -> None:
        """Put in what came; take every event before putting in more."""
        self._held += data

    def take(self) -> Event | None:
        """Return the next event, None where it is not whole yet. After a RefusedError nothing can be made of the rest.

        Its reason: ``header``, ``data`` or ``length``.
        """
        if self._header is None:
            end = self._held.find(b"\n", self._searched)
            if max(end, len(self._held) if end < 0 else 0) > self._header_bytes:
                raise RefusedError(
                    "header", f"header: no line of at most {self._header_bytes:,} bytes; {_NEXT}"
                )  # fmt: skip
            if end < 0:
                self._searched = len(self._held)
                return None
            self._header = self._read_header(bytes(self._held[:end]))
            del self._held[: end + 1]
            self._searched = 0
        header = self._header
        data_end = header.data_length or 0
        end = data_end + (header.payload_length or 0)
        if len(self._held) < end:
            return None
        data = header.data or {}
        if data_end:
            data = data | _decoded(bytes(self._held[:data_end]), dict[str, Any], "data")
        payload = bytes(self._held[data_end:end]) if end > data_end else None
        del self._held[:end]
        self._header = None
        return Event(type=header.type, data=data, payload=payload)

    def _read_header(self, text: bytes) -> _Header:
        header: _Header = _decoded(text, _Header, "header")
        length = (header.data_length or 0) + (header.payload_length or 0)
        if length > self._message_bytes:
            raise RefusedError(
                "length", f"event: {length:,} bytes of data and payload, at most {self._message_bytes:,} are taken; "
                "send sound in smaller pieces",
            )  # fmt: skip
        return header


def _decoded(text: bytes, kind: Any, name: str) -> Any:  # noqa: ANN401 - of msgspec
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        why = "nested too deep" if isinstance(error, RecursionError) else str(error)
        raise RefusedError(name, f"{name}: no JSON object of Wyoming ({why}); {_NEXT}") from error
