"""A server of one model with Wyoming at a free port, and a client that gives up."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace

import pytest
from wyoming.client import AsyncTcpClient
from wyoming.event import Event

from edgekit.runtime.model import Model
from edgekit.serving.limits import Limits
from edgekit.serving.server import Server
from edgekit.serving.wyoming.neighbour import Wyoming
from tests.runtime.conftest import load, tiny_bundle

__all__ = ["load", "tiny_bundle"]
WAIT_S = 20.0  # for what comes at once, unless something is broken


@dataclass(frozen=True)
class Settings:
    """What a configuration says of Wyoming."""

    host: str = "127.0.0.1"
    port: int = 0
    zeroconf: bool = False
    name: str = "kitchen"
    networks: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()


class Client(AsyncTcpClient):
    """The neighbour's own client; what does not come in time is an error."""

    def __init__(self, address: str) -> None:
        host, port = address.removeprefix("tcp://").rsplit(":", 1)
        super().__init__(host.strip("[]"), int(port))

    async def disconnect(self) -> None:
        """Leave, also where the server was quicker."""
        with suppress(OSError):
            await super().disconnect()

    async def say(self, *messages: object) -> None:
        """Send messages of the package."""
        for message in messages:
            await self.write_event(message.event())

    async def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self._writer.write(data)
        await self._writer.drain()

    def half_close(self) -> None:
        """Send no more, and go on reading."""
        self._writer.write_eof()

    async def next(self) -> Event:
        """Return the next event; there must be one."""
        event = await asyncio.wait_for(self.read_event(), WAIT_S)
        assert event is not None, "the connection ended"
        return event

    async def until(self, *kinds: str) -> list[Event]:
        """Return the events up to the first of one of these kinds."""
        events = [await self.next()]
        while events[-1].type not in kinds:
            events.append(await self.next())
        return events

    async def is_over(self) -> bool:
        """Return whether the server has ended the connection and sent nothing more."""
        return await asyncio.wait_for(self._reader.read(1), WAIT_S) == b""


class At:
    """Where a server listens."""

    def __init__(self, server: Server, wyoming: Wyoming, address: str) -> None:
        self.server, self.wyoming, self.address = server, wyoming, address

    def client(self) -> Client:
        """Return a client, to be entered."""
        return Client(self.address)


@pytest.fixture
def listening(load: Callable[..., Model]) -> Callable[..., AsyncIterator[At]]:
    """Return a context in which a server listens: of a model (a tiny one), settings and limits by name."""

    @asynccontextmanager
    async def at(model: Model | None = None, fields: dict | None = None, loaded: bool = True, **changed: object):
        own = {name: changed.pop(name) for name in list(changed) if name in Settings.__dataclass_fields__}
        server = Server((model or load()) if loaded else None, Limits(**changed))
        server.defaults = fields or {}
        wyoming = Wyoming(server, replace(Settings(), **own))
        with server:
            address = await asyncio.wait_for(wyoming.start(), WAIT_S)
            try:
                yield At(server, wyoming, address)
            finally:
                server.stop(0.0)
                await asyncio.wait_for(wyoming.stop(), WAIT_S)

    return at
