"""Websockets: /v1/listen takes bare samples and gives events, /v1/watch shows the events of the microphone's stream.

Text frames are JSON, one message each; binary frames are samples, either way. docs/http.md describes both routes.
"""

import asyncio
import json
import math
from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextlib import suppress
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray
from starlette.websockets import WebSocket, WebSocketDisconnect

from edgekit.bundle.ranges import SAMPLING
from edgekit.errors import EdgeKitError, RefusedError, UsageError
from edgekit.reprs import cut
from edgekit.runtime.answer.prompt import check_text
from edgekit.runtime.events import Audio, Event, to_json
from edgekit.runtime.model import Model
from edgekit.runtime.options import StreamFields, check_heard, nearest
from edgekit.serving.guard import SUBPROTOCOL
from edgekit.serving.http.chat import pcm16
from edgekit.serving.http.shared import Site
from edgekit.serving.reading import Reader
from edgekit.serving.served import Ended, Served, check_length

ENCODINGS: dict[str, np.dtype[Any]] = {"s16le": np.dtype("<i2"), "f32le": np.dtype("<f4")}
STATUS_S = 1.0
_REASON_BYTES = 120  # of a closing frame, which holds 123
# Codes of closing frames, RFC 6455 7.4.1 and the IANA registry: going away, data that is none, policy, internal error,
# try again later.
_CODES = {"finished": 1000, "closed": 1000, "duration": 1000, "idle": 1008, "slow": 1008, "usage": 1007, "failed": 1011,
          "stopping": 1001}  # fmt: skip
_USAGE, _LATER, _AWAY = 1008, 1013, 1001
_OWN = ("encoding", "status")
_NOT_BY_NAME = ("budget", "sampling")  # the fields of the latter are
_HINTS = {name: hint for name, hint in get_type_hints(StreamFields).items() if name not in _NOT_BY_NAME}


class Finish(Struct, forbid_unknown_fields=True, tag="finish"):
    """No more sound comes; what came is heard to its end."""


class Close(Struct, forbid_unknown_fields=True, tag="close"):
    """End at once."""


class Ask(Struct, forbid_unknown_fields=True, tag="ask"):
    """A turn in text."""

    text: str
    role: str = "user"


class Interrupt(Struct, forbid_unknown_fields=True, tag="interrupt"):
    """End an answer, of which so much was heard."""

    answer: int
    heard_s: float | None = None


class Hush(Struct, forbid_unknown_fields=True, tag="hush"):
    """Whether answers are not spoken, for now."""

    hushed: bool


Control = Finish | Close | Ask | Interrupt | Hush


class Sockets:
    """The routes."""

    def __init__(self, site: Site) -> None:
        self._site = site

    async def listen(self, socket: WebSocket) -> None:
        """Answer the websocket /v1/listen."""
        await _accept(socket)
        name = f"websocket {socket.client.host}:{socket.client.port}" if socket.client else "websocket"
        try:
            fields, encoding, status = stream_query(socket.query_params.multi_items())
            model = self._site.model
            reader = Reader(self._site.server, fields, name=name)
        except RefusedError as error:
            await _refuse(socket, error.reason, str(error), _LATER)
        except EdgeKitError as error:
            await _refuse(socket, "usage", str(error), _USAGE)
        else:
            options = reader.served.stream.options
            async with reader:
                opened = {
                    "event": "opened", "model": model.manifest.name, "sample_rate_hz": options.sample_rate_hz,
                    "channels": options.channels, "encoding": encoding,
                }  # fmt: skip
                await _Listener(self._site, model, socket, reader, encoding, status=status).run(opened)

    async def watch(self, socket: WebSocket) -> None:
        """Answer the websocket /v1/watch."""
        await _accept(socket)
        watch = self._site.watch
        changed, loop = asyncio.Event(), asyncio.get_running_loop()
        if watch is None:
            await _refuse(socket, "usage", "watch: this server has no microphone of its own; see /v1/listen", _USAGE)
            return

        def wake() -> None:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(changed.set)

        watcher = watch.watcher(wake)
        if watcher is None:
            await _refuse(socket, "watchers", "watch: too many do; try again when one is gone", _LATER)
            return

        async def show() -> None:
            while True:
                changed.clear()
                ended = watcher.ended
                for message in watcher.read():
                    await _send(socket, message)
                if ended:
                    await _close(socket, _AWAY if ended == "stopping" else _USAGE, ended)
                    return
                await changed.wait()

        try:
            status = _statuses(self._site, socket, lambda: watch.served)
            await _first_of(show(), status, _until_gone(socket))
        finally:
            watcher.end("closed")


class _Listener:
    """One websocket with its stream."""

    def __init__(
        self, site: Site, model: Model, socket: WebSocket, reader: Reader, encoding: str, *, status: bool
    ) -> None:
        self._site, self._model, self._socket, self._reader = site, model, socket, reader
        self._served = reader.served
        self._encoding, self._status = encoding, status
        self._dtype = ENCODINGS[encoding]
        self._channels = self._served.stream.options.channels
        self._rest = b""  # of a sample whose other bytes come with the next frame
        self._finished = False

    async def run(self, opened: Mapping[str, Any]) -> None:
        """Take and send until the stream has ended or the client is gone."""
        await _send(self._socket, opened)
        talking = [self._take(), self._give(), self._ended_slow()]
        if self._status:
            talking.append(_statuses(self._site, self._socket, lambda: self._served))
        try:
            await _first_of(*talking)
        except EdgeKitError as error:
            self._served.fail(error)
            await self._say_ended()

    async def _take(self) -> None:
        while True:
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            if (data := message.get("bytes")) is not None:
                await self._sound(data)
            else:
                await self._control(message.get("text") or "")

    async def _sound(self, data: bytes) -> None:
        """Take bytes of sound; frames may be cut anywhere."""
        if self._finished:
            await self._say_error(f"binary frame: {len(data)} bytes after finish; open another websocket")
            return
        data = self._rest + data
        whole = len(data) - len(data) % (self._dtype.itemsize * self._channels)
        self._rest = data[whole:]
        samples: NDArray[Any] = np.frombuffer(data[:whole], self._dtype)
        if not len(samples):
            return
        if self._channels > 1:
            samples = samples.reshape(-1, self._channels)
        # in pieces: of a frame of a minute no more is put in than there is room for
        second = self._served.stream.options.sample_rate_hz
        for start in range(0, len(samples), second):
            await self._reader.push(samples[start : start + second])

    async def _control(self, text: str) -> None:
        """Do what a message says. One that cannot be done is answered, and changes nothing."""
        try:
            message = _control(text)
            if isinstance(message, Close):
                self._served.close()
            elif isinstance(message, Finish):
                if self._rest:
                    await self._say_error(f"finish: {len(self._rest)} bytes are left over, no whole sample; left out")
                self._finished, self._rest = True, b""
                self._served.finish()
            elif isinstance(message, Ask):
                self._ask(message)
            elif isinstance(message, Interrupt):
                check_heard(message.heard_s)
                self._served.interrupt(message.answer, message.heard_s)
            else:
                self._served.stream.hushed = message.hushed
        except (UsageError, RefusedError) as error:
            await self._say_error(str(error), error.reason if isinstance(error, RefusedError) else "usage")

    def _ask(self, message: Ask) -> None:
        """Ask, having looked first whether the bundle takes that: later it would end the stream."""
        if not self._served.stream.converses:
            raise UsageError("ask: this bundle writes down speech and answers no questions; leave it out")
        if message.role not in (roles := self._model.manifest.protocol.roles):
            role = cut(ascii(message.role), 60)
            raise UsageError(f"role: {role} is not in this bundle; choose one of: {', '.join(roles) or 'none'}")
        check_length("text", message.text)  # first: the next one makes tokens of it, on the loop that all share
        check_text(self._model.tokenizer, "text", message.text)
        self._served.ask(message.text, message.role)

    async def _give(self) -> None:
        async for event in self._reader:
            await self._event(event)
        await self._say_ended()

    async def _event(self, event: Event) -> None:
        await _send(self._socket, to_json(event))
        if isinstance(event, Audio):
            samples = event.samples.astype("<f4").tobytes() if self._encoding == "f32le" else pcm16(event.samples)
            await self._socket.send_bytes(samples)

    async def _ended_slow(self) -> None:
        """Return when the stream was ended because nobody reads: nothing can be sent any more."""
        while self._served.ended is None or self._served.ended.reason != "slow":  # noqa: ASYNC110 - set on a thread
            await asyncio.sleep(STATUS_S)

    async def _say_error(self, error: str, reason: str = "usage") -> None:
        await _send(self._socket, {"event": "error", "reason": reason, "error": error})

    async def _say_ended(self) -> None:
        ended = self._served.ended or Ended("closed")
        await _send(self._socket, {"event": "ended", "reason": ended.reason, "error": ended.error})
        await _close(self._socket, _CODES[ended.reason], ended.error or ended.reason)


def stream_query(items: Iterable[tuple[str, str]]) -> tuple[StreamFields, str, bool]:
    """Return the options of a stream, the encoding of samples and whether figures are wanted, by a query.

    Raises UsageError for a name that is not known or comes twice, and for a value that none of them could have.
    """
    fields: dict[str, Any] = {}
    sampling: dict[str, Any] = {}
    own: dict[str, str] = {}
    given: set[str] = set()
    for name, value in items:
        if name in given:
            raise UsageError(f"{cut(ascii(name)[1:-1], 60)}: given twice; give it once")
        given.add(name)
        if name in _OWN:
            own[name] = value
        elif name in SAMPLING:
            sampling[name] = _number(name, value)
        elif name in _HINTS:
            fields[name] = _value(name, value, _HINTS[name])
        else:
            known = [*_HINTS, *SAMPLING, *_OWN]
            raise UsageError(f"{cut(ascii(name)[1:-1], 60)}: no option of a stream; {nearest(name, known)}")
    if sampling:
        fields["sampling"] = sampling
    encoding, status = own.get("encoding", "s16le"), own.get("status", "false")
    if encoding not in ENCODINGS:
        raise UsageError(f"encoding: {cut(ascii(encoding), 60)} is not known; choose one of: {', '.join(ENCODINGS)}")
    if status not in {"true", "false"}:
        raise UsageError(f"status: {cut(ascii(status), 60)}, true or false is needed; correct it")
    return StreamFields(**fields), encoding, status == "true"  # type: ignore[typeddict-item]


def _value(name: str, text: str, hint: Any) -> Any:  # noqa: ANN401 - as the option's type says
    """Return what a text means for an option; StreamOptions says whether it may be that, but where a query says it."""
    kinds = _kinds(hint)
    if bool in kinds:
        words = [word for one in (hint, *get_args(hint)) if get_origin(one) is Literal for word in get_args(one)]
        if text in {"true", "false"}:
            return text == "true"
        if text not in words and not (int in kinds and text.isascii() and text.isdigit()):
            known = ", ".join(["true", "false", *words, *["a number from 0"] * (int in kinds)])
            raise UsageError(f"{name}: {cut(ascii(text), 60)} is not known; choose one of: {known}")
    digits = text.removeprefix("-")
    if int in kinds and digits.isascii() and digits.isdigit() and len(digits) <= 18:
        return int(text)
    return _number(name, text) if kinds <= {float, type(None)} else text


def _kinds(hint: Any) -> set[Any]:  # noqa: ANN401
    arguments = get_args(hint)
    if not arguments:
        return {hint}
    if get_origin(hint) is Literal:
        return {str}
    return set().union(*map(_kinds, arguments))


def _number(name: str, text: str) -> float | int:
    try:
        number = float(text)
    except ValueError as error:
        raise UsageError(f"{name}: {cut(ascii(text), 60)}, a number is needed; correct it") from error
    return int(number) if math.isfinite(number) and number.is_integer() and "." not in text else number


def _control(text: str) -> Control:
    try:
        message: Control = msgspec.json.decode(text, type=Control)
    except RecursionError as error:
        raise UsageError("text frame: nested too deeply; send a message as docs/http.md has it") from error
    except msgspec.ValidationError as error:
        raise UsageError(f"text frame: {_line(error)}; docs/http.md lists the messages and their fields") from error
    except (msgspec.DecodeError, ValueError) as error:
        raise UsageError(f"text frame: {_line(error)}; send samples in binary frames, messages as JSON") from error
    return message


def _line(error: Exception) -> str:
    return cut(ascii(str(error))[1:-1], 200)


async def _statuses(site: Site, socket: WebSocket, served: Callable[[], Served | None]) -> None:
    """Tell the figures again and again; ``served`` returns the stream that they are of."""
    while True:
        await _send(socket, {"event": "status", **site.measures.facts(served())})
        await asyncio.sleep(STATUS_S)


async def _accept(socket: WebSocket) -> None:
    offered = ",".join(socket.scope["subprotocols"]).split(",")  # not every uvicorn takes the header apart
    speaks = SUBPROTOCOL in [one.strip() for one in offered]
    await socket.accept(subprotocol=SUBPROTOCOL if speaks else None)


async def _refuse(socket: WebSocket, reason: str, error: str, code: int) -> None:
    await _send(socket, {"event": "error", "reason": reason, "error": error})
    await _close(socket, code, error)


async def _send(socket: WebSocket, message: Mapping[str, Any]) -> None:
    await socket.send_text(json.dumps(message, ensure_ascii=False))


async def _close(socket: WebSocket, code: int, reason: str) -> None:
    await socket.close(code, reason.encode()[:_REASON_BYTES].decode(errors="ignore"))


async def _until_gone(socket: WebSocket) -> None:
    """Return when the client is gone; what it sends is not read."""
    while (await socket.receive())["type"] != "websocket.disconnect":
        pass


async def _first_of(*works: Coroutine[Any, Any, None]) -> None:
    """Do several things until one is done, and end the others; a client that is gone is no error."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            with suppress(WebSocketDisconnect):
                task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
