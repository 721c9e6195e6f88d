"""Limits: what one server gives to its streams together, and to each of them. Plain data, with its ranges."""

from typing import Annotated

from msgspec import Meta, Struct

Seconds = Annotated[float, Meta(gt=0, le=7 * 24 * 3600)]


class Limits(Struct, frozen=True, forbid_unknown_fields=True):
    """Bounds of a server. What would exceed one is refused or ended by name; nothing is cut in silence."""

    streams: Annotated[int, Meta(ge=1, le=256)] = 4  # at once; one more is refused
    late_s: Seconds = 2.0  # while a live stream is so far behind, no further one begins
    audio_s: Seconds = 4 * 3600.0  # of one stream; what was said until then is finished
    idle_s: Seconds = 300.0  # without sound, a question or work
    slow_s: Seconds = 10.0  # its events wait to be read and nobody reads
    events: Annotated[int, Meta(ge=16, le=65_536)] = 256  # that wait to be read; a stream with more is not stepped
    inbox_s: Annotated[float, Meta(ge=0.5, le=60)] = 10.0  # of sound that nobody has taken yet
    waiting_s: Annotated[float, Meta(ge=1, le=30)] = 20.0  # of sound that counts, taken and not heard yet
    body_bytes: Annotated[int, Meta(ge=1024, le=2**32)] = 100 * 2**20  # of one request, before anything is parsed
    message_bytes: Annotated[int, Meta(ge=1024, le=2**26)] = 2**20  # of one frame of a websocket, one event of Wyoming
    header_bytes: Annotated[int, Meta(ge=512, le=2**20)] = 16 * 2**10  # of one request, one event
    connections: Annotated[int, Meta(ge=1, le=4096)] = 64  # at once, those that ask for no stream included
