"""Reader: a Served for asyncio: pushing waits for room, events come by ``async for``."""

import asyncio
from collections.abc import AsyncIterator
from types import TracebackType
from typing import TYPE_CHECKING

from edgekit.runtime.events import Event
from edgekit.runtime.options import StreamOptions
from edgekit.serving.served import Ended, Samples, Served
from edgekit.serving.server import Server

if TYPE_CHECKING:
    from edgekit.runtime.options import StreamFields

_AT_ONCE = 32  # events between two chances for other connections


class Reader:
    """One stream of a server, for one connection on the running event loop; leaving the ``async with`` block ends it.

    One task may push while another reads. ``served``: see there. Raises what ``Server.open`` raises.
    """

    def __init__(
        self, server: Server, options: "StreamOptions | StreamFields | None" = None, *, name: str, live: bool = True
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._something, self._room = asyncio.Event(), asyncio.Event()
        self.served: Served = server.open(options, name=name, live=live, wake=self._woken)

    async def __aenter__(self) -> "Reader":  # noqa: PYI034 - typing.Self needs Python 3.11
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.served.close()

    @property
    def ended(self) -> Ended | None:
        """Why the stream is over, None while it is not."""
        return self.served.ended

    async def push(self, samples: Samples) -> None:
        """Push sound once there is room for it; nothing, if the stream has ended meanwhile."""
        while self.served.ended is None:
            self._room.clear()
            if self.served.room:
                self.served.push(samples)
                return
            await self._room.wait()

    async def __aiter__(self) -> AsyncIterator[Event]:
        """Yield every event until the stream has ended."""
        while True:
            self._something.clear()
            ended = self.served.ended  # first: its last events are there before it is set
            events = self.served.read(_AT_ONCE)
            for event in events:
                yield event
            if events:
                await asyncio.sleep(0)
            elif ended is not None:
                return
            else:
                await self._something.wait()

    def _woken(self) -> None:
        """Called on a thread of the server."""
        try:
            self._loop.call_soon_threadsafe(self._look)
        except RuntimeError:  # the loop is closed: nobody reads any more
            return

    def _look(self) -> None:
        self._something.set()
        self._room.set()
