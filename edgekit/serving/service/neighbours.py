"""Neighbours: what speaks another's protocol beside one server, all on one asyncio loop, on a thread of its own."""

import asyncio
import errno
import importlib
import logging
import socket
import threading
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from edgekit.errors import EdgeKitError, ListenError
from edgekit.serving.guard import is_loopback
from edgekit.serving.server import Server
from edgekit.serving.settings import Settings
from edgekit.serving.watch import Watch

START_S, STOP_S = 30.0, 1.0  # binding looks names up; a connection that does not close is left
_BEAT_S = 0.5
_PRIVILEGED = 1024
_HTTP = ("starlette", "uvicorn", "websockets", "python_multipart", "prometheus_client")
_T = TypeVar("_T")
_log = logging.getLogger(__name__)


class Neighbour(Protocol):
    """One protocol at one address."""

    name: str

    async def start(self) -> str:
        """Bind; return the address to show. Raises OSError."""
        ...

    async def stop(self) -> None:
        """Take no further connection, close those that there are."""
        ...


@dataclass(frozen=True, slots=True)
class Place:
    """A neighbour, where it is to listen, and what protects it where others reach it."""

    neighbour: Neighbour
    host: str
    port: int
    protection: str

    @property
    def reach(self) -> str:
        """Who can reach it, in words."""
        return "this machine alone" if is_loopback(self.host) else f"open to the network, {self.protection}"


def places(settings: Settings, server: Server, *, http: bool, watch: Watch | None = None) -> list[Place]:
    """Return the neighbours that the settings ask for; ``http``: whether that is one if nothing is said of it.

    ``watch``: the microphone's own stream, for the page.

    Each is imported where it is asked for: its packages are an extra. Raises ImportError where one is missing.
    """
    asked = []
    if settings.http.on if settings.http.on is not None else http:
        _import(*_HTTP)
        made = importlib.import_module("edgekit.serving.http.neighbour").Http(server, settings.http, watch=watch)
        asked.append(Place(made, settings.http.host, settings.http.port, "by TLS, for who has the token"))
    if settings.wyoming.on:
        own = settings.wyoming
        _import("wyoming", *["zeroconf"] * (own.zeroconf and not is_loopback(own.host)))
        module = importlib.import_module("edgekit.serving.wyoming.neighbour")
        made = module.Wyoming(server, own)
        who = f"for {', '.join(own.networks)}" if own.networks else "for everybody"
        asked.append(Place(made, own.host, own.port, f"in clear and without a token, {who}"))
    return asked


def _import(*packages: str) -> None:
    """Raise ModuleNotFoundError for what is missing, before anything is loaded or bound."""
    for name in packages:
        importlib.import_module(name)


class Neighbours:
    """See the module. ``start`` and ``stop`` may be called from any thread but the loop's."""

    def __init__(self, asked: Sequence[Place]) -> None:
        self._asked = asked
        self._started: list[Neighbour] = []
        self._loop: asyncio.AbstractEventLoop  # from `start` on
        self._thread = threading.Thread(target=self._run, name="edgekit-neighbours", daemon=True)
        self._beat_at = time.monotonic()

    def start(self) -> list[tuple[Place, str]]:
        """Bind them all; return the address of each. Raises ListenError, with none of them bound."""
        self._loop = asyncio.new_event_loop()
        self._beat_at = time.monotonic()
        self._thread.start()
        shown = []
        try:
            for place in self._asked:
                name = place.neighbour.name
                try:
                    shown.append((place, self._call(place.neighbour.start(), START_S)))
                except EdgeKitError:
                    raise
                except (OSError, UnicodeError, asyncio.TimeoutError) as error:
                    raise bind_error(name, place.host, place.port, error) from error
                self._started.append(place.neighbour)
        except BaseException:
            self.stop()
            raise
        return shown

    def stop(self, within_s: float = STOP_S) -> None:
        """Stop them within some seconds and end the loop."""
        end = time.monotonic() + within_s
        while self._started:
            self._stop_one(self._started.pop(), max(0.1, end - time.monotonic()))
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(within_s)

    def _stop_one(self, neighbour: Neighbour, within_s: float) -> None:
        try:
            self._call(neighbour.stop(), within_s)
        except Exception as error:  # noqa: BLE001 - the others are stopped all the same
            _log.warning("%s: not stopped in good order (%s)", neighbour.name, type(error).__name__)

    def alive(self, now: float, longest_s: float) -> bool:
        """Return whether the loop has come round within so many seconds of ``time.monotonic()``."""
        return self._thread.is_alive() and now - self._beat_at <= longest_s

    def _call(self, work: Coroutine[Any, Any, _T], within_s: float) -> _T:
        future = asyncio.run_coroutine_threadsafe(_in_time(work, within_s), self._loop)
        return future.result()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.call_soon(self._beat)
        try:
            self._loop.run_forever()
        finally:
            tasks = asyncio.all_tasks(self._loop)
            for task in tasks:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()

    def _beat(self) -> None:
        self._beat_at = time.monotonic()
        self._loop.call_later(_BEAT_S, self._beat)


async def _in_time(work: Coroutine[Any, Any, _T], within_s: float) -> _T:
    return await asyncio.wait_for(work, within_s)


def bind_error(name: str, host: str, port: int, error: BaseException) -> ListenError:
    """Return in one line why nothing can listen there: address, rule, next step."""
    place = f"{name}: {f'[{host}]' if ':' in host else host}:{port}"
    if isinstance(error, socket.gaierror):
        return ListenError(f"{place}: no such host ({error.strerror}); give an address of this machine")
    number = getattr(error, "errno", None)
    if number == errno.EADDRINUSE:
        return ListenError(
            f"{place}: another program, or a second server, listens there; end it, or choose another port with --{name}"
        )
    if number == errno.EADDRNOTAVAIL:
        return ListenError(
            f"{place}: no address of this machine; `ip address` shows those that are, 127.0.0.1 always is"
        )
    if number in {errno.EACCES, errno.EPERM}:
        least = f"ports below {_PRIVILEGED} are the system's" if port < _PRIVILEGED else "this user may not"
        return ListenError(f"{place}: not allowed, {least}; choose another port with --{name}")
    if number in {errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT}:
        return ListenError(f"{place}: this machine, or the service's unit, has no such network; choose another address")
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return ListenError(f"{place}: cannot listen there ({reason}); choose another address")
