"""Bounds of a connection, below anything that is parsed: how many, how slow, how long one may be on its way out.

uvicorn bounds none of these: it counts requests, not connections, and waits for a request's head, or for somebody to
read an answer, as long as the other side keeps its socket open.
"""

import asyncio
import json
import logging
import math
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from edgekit.serving.http.errors import ApiError
from edgekit.serving.limits import Limits
from edgekit.timing import Clock

HEAD_S = 10.0  # for the head of a request, and for what is left of a body nobody wants
ALARM_S = 60.0  # between two warnings of the same text
_NO_TEXT = "Invalid UTF-8 sequence received from client"
_EVERY_S = 0.5
_LONGEST_LINE, _MOST_LINES = 8000, 120  # of a websocket's head: what is over 8,192 and 128 websockets does not answer


def protocol_of(limits: Limits) -> type[H11Protocol]:
    """Return a protocol of uvicorn's that takes so many connections and heads of that size."""

    class Bounded(H11Protocol):
        """H11Protocol, but for one connection too many, and with our errors."""

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > limits.connections:
                message = f"connections: {limits.connections} are open, no more may be; try again in a moment"
                self._answer(ApiError(503, message, code="connections"))

        def send_400_response(self, msg: str) -> None:
            if self.conn.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:  # an answer is on its way
                self.transport.close()
            elif len(self.conn.trailing_data[0]) > limits.header_bytes:
                self._answer(too_large_a_head(limits))
            else:
                self._answer(ApiError(400, f"request: {msg.rstrip('.').lower()}; send HTTP/1.1"))

        def handle_websocket_upgrade(self, event: h11.Request) -> None:
            lines = [len(event.target), *(len(name) + len(value) for name, value in event.headers)]
            if max(lines) > _LONGEST_LINE or len(lines) > _MOST_LINES:
                self._answer(too_large_a_head(limits))
            else:
                super().handle_websocket_upgrade(event)

        def _answer(self, error: ApiError) -> None:
            body = json.dumps(error.to_dict()).encode()
            headers = {
                "content-type": "application/json", "content-length": len(body), "connection": "close", **error.headers,
            }  # fmt: skip
            head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            self.transport.write(f"HTTP/1.1 {error.status} Refused\r\n{head}\r\n".encode() + body)
            self.transport.close()

    return Bounded


class Alarms:
    """A filter of what uvicorn logs: what clients make it say comes once in a while, whatever they send.

    Each is told by its answer. That a websocket which was denied with a reason is our mistake, is never said.
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._said_at: dict[str, float] = {}  # texts of uvicorn's own, of which there are few
        self._lock = threading.Lock()

    def __call__(self, record: logging.LogRecord) -> bool:
        """Return whether a record is to be logged; of a client's doing without a traceback."""
        text = str(record.msg)
        if "without completing handshake" in text:
            return False
        if record.levelno > logging.WARNING and _NO_TEXT not in text:
            return True
        record.exc_info = None
        with self._lock:
            now = self._clock()
            if now - self._said_at.get(text, -math.inf) < ALARM_S:
                return False
            self._said_at[text] = now
        return True


alarms = Alarms()
"""That of this process, whose loggers are one, too."""


def too_large_a_head(limits: Limits) -> ApiError:
    """Return the error of a request whose head is larger than may be."""
    return ApiError(431, f"request: its head is larger than {limits.header_bytes:,} bytes; send less", code="head")


class Door(socket.socket):
    """A socket that listens and lets in so many at once, whether or not they ever say a word.

    asyncio counts nobody who is silent within the handshake of TLS, and waits a minute for each.
    """

    most = 0
    accepted: tuple[tuple[socket.socket, float], ...] = ()  # those that are open, and since when

    def accept(self) -> tuple[socket.socket, Any]:
        """Return the next connection and its address. Raises ConnectionAbortedError for one too many."""
        connected, address = super().accept()
        still = tuple(one for one in self.accepted if one[0].fileno() >= 0)
        if len(still) >= self.most:
            connected.close()
            raise ConnectionAbortedError
        self.accepted = (*still, (connected, time.monotonic()))
        return connected, address


async def watch_door(door: Door, state: ServerState, head_s: float = HEAD_S) -> None:
    """End connections whose handshake of TLS takes longer than ``head_s``, until cancelled."""
    while True:
        known = {one.transport.get_extra_info("socket").fileno() for one in state.connections}
        late = [one for one, since in door.accepted if time.monotonic() - since > head_s and one.fileno() not in known]
        for one in late:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        await asyncio.sleep(_EVERY_S)


async def watch(state: ServerState, slow_s: Callable[[], float], head_s: float = HEAD_S) -> None:
    """Abort connections that keep the server waiting, until cancelled.

    Those that send no whole head in ``head_s``, and those that read nothing of what is written for ``slow_s()``, be it
    an answer or the last words of a connection that is closed.
    """
    loop = asyncio.get_running_loop()
    since: dict[Any, tuple[tuple[object, ...], float]] = {}  # what keeps each waiting, and from when on
    while True:
        now = loop.time()
        waiting = {protocol: why for protocol in list(state.connections) if (why := _waits(protocol)) is not None}
        since = {
            protocol: since[protocol] if protocol in since and since[protocol][0] == why else (why, now)
            for protocol, why in waiting.items()
        }
        for protocol, (why, begun) in since.items():
            if now - begun > (head_s if why[0] == "head" else slow_s()):
                protocol.transport.abort()
        await asyncio.sleep(_EVERY_S)


def _waits(protocol: Any) -> tuple[object, ...] | None:  # noqa: ANN401 - uvicorn has eight kinds
    """Return what a connection waits for, which is another thing as soon as there is progress; None for nothing."""
    transport = protocol.transport
    unread = transport.get_write_buffer_size()
    # Who writes waits from the upper limit on until the lower one is reached: in between, too, nobody reads.
    if transport.is_closing() or unread > transport.get_write_buffer_limits()[0]:
        return "unread", unread
    if not getattr(protocol, "handshake_initiated", True):
        return ("head",)  # a websocket whose head uvicorn could not make sense of
    if isinstance(protocol, H11Protocol):
        cycle = protocol.cycle
        done = cycle is None or cycle.response_complete
        if protocol.conn.their_state is h11.IDLE or (done and protocol.conn.their_state is h11.SEND_BODY):
            return "head", cycle
    return None
