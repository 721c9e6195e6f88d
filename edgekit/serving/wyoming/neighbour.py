"""Wyoming: listens at a port for Home Assistant and others who speak that protocol, and lets them in.

The protocol has neither passwords nor encryption, so its door is the address: this machine, and the networks that the
settings name (docs/decisions/wyoming.md).
"""

import asyncio
import logging
import socket
from contextlib import suppress

from wyoming.error import Error
from wyoming.event import async_write_event

from edgekit.errors import EdgeKitError
from edgekit.serving.guard import check_open, is_loopback
from edgekit.serving.server import Server
from edgekit.serving.settings import WyomingSettings
from edgekit.serving.wyoming.admission import Admission
from edgekit.serving.wyoming.announcement import Announcement
from edgekit.serving.wyoming.connection import Connection

_STOP_S = 0.8  # for answers that are on their way
_READY_S = 0.5  # between two looks whether the model is loaded
_REFUSING_S = 1.0  # to tell a client that it is refused
_log = logging.getLogger(__name__)


class Wyoming:
    """See the module."""

    name = "wyoming"

    def __init__(self, server: Server, settings: WyomingSettings) -> None:
        """Raise UsageError for networks that are none."""
        self._server, self._settings = server, settings
        self._admission = Admission(settings.networks)
        self._listening: asyncio.Server | None = None
        self._open: dict[asyncio.Task[None], Connection] = {}
        self._announcing: asyncio.Task[None] | None = None
        self._announcement: Announcement | None = None

    async def start(self) -> str:
        """Listen; return the address. Raises UsageError where others could connect and nobody said who may, OSError."""
        host, port = self._settings.host, self._settings.port
        loop = asyncio.get_running_loop()
        resolved = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        addresses = list(dict.fromkeys(str(one[4][0]) for one in resolved))
        check_open(host, addresses, self._admission.networks)
        self._listening = await asyncio.start_server(self._accept, addresses, port)
        bound, port = self._listening.sockets[0].getsockname()[:2]
        address = f"tcp://[{bound}]:{port}" if ":" in bound else f"tcp://{bound}:{port}"
        if not all(map(is_loopback, addresses)):
            _log.warning(
                "wyoming: %s has no password and no encryption; it serves whoever comes from %s",
                address, ", ".join(map(str, self._admission.networks)),
            )  # fmt: skip
            if self._settings.zeroconf:
                every = any(one in {"0.0.0.0", "::"} for one in addresses)  # noqa: S104 - read, not bound
                self._announcing = asyncio.create_task(self._announce(port, [] if every else addresses))
        elif self._settings.zeroconf:
            _log.debug("wyoming: not announced, nobody else reaches %s", address)
        return address

    async def stop(self) -> None:
        """Take no further client, let answers that are on their way arrive, and close.

        Stop the server's streams first, or at the same time: a recording that goes on has no answer on its way.
        """
        if self._listening is not None:
            self._listening.close()
        await self._take_back()
        for task in [task for task, connection in self._open.items() if not connection.working]:
            task.cancel()
        if self._open:
            await asyncio.wait(self._open, timeout=_STOP_S)
        left = list(self._open)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    @property
    def announced(self) -> str:
        """The name by which it is announced, empty while it is not."""
        return self._announcement.name if self._announcement else ""

    @property
    def clients(self) -> int:
        """How many are connected."""
        return len(self._open)

    async def _accept(self, incoming: asyncio.StreamReader, outgoing: asyncio.StreamWriter) -> None:
        peer = outgoing.get_extra_info("peername") or ("", 0)
        client = str(peer[0])
        if not self._admission.admits(client):
            await _turn_away(outgoing, "client", f"wyoming: {client} is in none of `networks`; add it there")
        elif len(self._open) >= self._server.limits.connections:
            most = self._server.limits.connections
            await _turn_away(
                outgoing, "connections", f"wyoming: {most} clients are connected, no more may be; close one"
            )
        else:
            connection = Connection(
                self._server, incoming, outgoing, name=f"wyoming {client}:{peer[1]}", program=self._settings.name,
                languages=tuple(self._settings.languages),
            )  # fmt: skip
            task = asyncio.current_task()
            assert task is not None
            self._open[task] = connection
            try:
                await connection.run()
            except asyncio.CancelledError:
                return  # by stop; asyncio would write of an error that nobody looked at
            finally:
                del self._open[task]

    async def _announce(self, port: int, addresses: list[str]) -> None:
        """Announce it once the model is loaded: Home Assistant asks at once what there is, and gives up soon."""
        while (model := self._server.model) is None:  # noqa: ASYNC110 - who loads it is a thread that knows no loop
            await asyncio.sleep(_READY_S)
        name = f"{self._settings.name or model.manifest.name}-{socket.gethostname()}"
        announcement = Announcement(name, port, addresses)
        self._announcement = announcement
        try:
            await announcement.start()
        except (OSError, EdgeKitError) as error:
            _log.warning("wyoming: not announced (%s); name host and port to Home Assistant yourself", error)

    async def _take_back(self) -> None:
        if self._announcing is not None:
            self._announcing.cancel()
            with suppress(asyncio.CancelledError):
                await self._announcing
        if self._announcement is not None:
            await self._announcement.stop()


async def _turn_away(outgoing: asyncio.StreamWriter, reason: str, text: str) -> None:
    """Say why a client is not served, and close."""
    _log.warning("%s", text)
    with suppress(OSError, asyncio.TimeoutError):
        await asyncio.wait_for(async_write_event(Error(text=text, code=reason).event(), outgoing), _REFUSING_S)
    outgoing.close()  # a line fits into what the system holds for who does not read
