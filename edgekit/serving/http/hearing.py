"""Hearing: a recording that came with a request, heard as a stream of the server, while its client waits for it."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import suppress
from typing import Any, TypeVar, cast

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from edgekit.errors import EdgeKitError
from edgekit.runtime.audio.files import Block
from edgekit.runtime.audio.inputs import checked, pieces
from edgekit.runtime.events import Event
from edgekit.runtime.model import recording_fields
from edgekit.runtime.options import RecordingFields, StreamFields
from edgekit.serving.http.errors import ApiError
from edgekit.serving.http.shared import Site
from edgekit.serving.reading import Reader
from edgekit.serving.served import Ended

T = TypeVar("T")


class Hearing:
    """A stream of the server that hears a recording, or answers a question. ``async for`` yields its events.

    ``audio_s``: how much of it there was. Raises, while it is read, AudioError for a recording that cannot be read to
    its end, what made the stream fail, and ApiError for one that ended before. ``close`` ends it, at any time.
    """

    def __init__(self, site: Site, fields: RecordingFields, name: str, *, text: str | None = None) -> None:
        """Raise what ``Server.open`` does."""
        self.audio_s = 0.0
        self._site = site
        self._reader = Reader(site.server, cast("StreamFields", fields), name=name, live=False)
        self._first: Block | None = None
        self._rest: Iterator[Block] = iter(())
        self._text = text

    @classmethod
    async def of(cls, site: Site, audio: bytes, fields: RecordingFields, name: str) -> "Hearing":
        """Return what hears a recording, the bytes of a file, as ``Model.transcribe`` does."""
        model = site.model

        def begun() -> tuple[Iterator[Block], Block]:
            rest = pieces(checked(audio, None), None)
            return rest, next(rest)

        rest, first = await site.aside(begun)
        hearing = cls(site, recording_fields(model.manifest, fields, first), name)
        hearing._rest, hearing._first = rest, first
        return hearing

    async def __aiter__(self) -> AsyncIterator[Event]:
        """Yield every event of the stream."""
        feeding = asyncio.ensure_future(self._feed())
        try:
            async for event in self._reader:
                yield event
            if feeding.done():
                await feeding  # raises what ended the stream, if that is where it began
            if isinstance(self._reader.served.failure, EdgeKitError):
                raise self._reader.served.failure
            _check_ended(self._reader.ended)
        finally:
            self.close()
            feeding.cancel()
            with suppress(asyncio.CancelledError, Exception):  # raised above, or nobody is there to be told
                await feeding

    def close(self) -> None:
        """End the stream."""
        self._reader.served.close()

    async def _feed(self) -> None:
        served = self._reader.served
        try:
            if self._text is not None:
                served.ask(self._text)
            piece = self._first
            while piece is not None and served.ended is None:
                self.audio_s += len(piece.samples) / piece.sample_rate_hz
                await self._reader.push(piece.samples)
                piece = await self._site.aside(self._next)
            served.finish()
        except BaseException:
            self.close()
            raise

    def _next(self) -> Block | None:
        return next(self._rest, None)


def _check_ended(ended: Ended | None) -> None:
    """Raise the error of a stream that did not come to its end."""
    assert ended is not None, "its events have ended"
    if ended.reason == "finished":
        return
    if ended.reason == "duration":
        raise ApiError(413, "file: longer than one stream may be here; send it in parts", param="file", code="duration")
    if ended.reason == "stopping":
        raise ApiError(503, "server: it is stopping; send it again in a moment", code="stopping")
    raise ApiError(500, ended.error or f"stream: it ended before its end ({ended.reason})", code=ended.reason)


class EventStream(StreamingResponse):
    """Server-sent events; what they are made of is closed when they are over, whoever ended them."""

    def __init__(self, events: AsyncIterator[str], hearing: Hearing) -> None:
        super().__init__(events, media_type="text/event-stream")
        self._hearing = hearing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._hearing.close()


async def unless_gone(request: Request, work: Coroutine[Any, Any, Response]) -> Response:
    """Return the answer that some work makes; a client that leaves ends it."""
    working, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request.receive))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        return Response(status_code=499)  # read by nobody
    finally:
        await _cancelled(working, gone)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _cancelled(*tasks: "asyncio.Future[Any]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
