"""Http: what a service tells its neighbours over HTTP, on uvicorn; see ``app.py`` for the routes.

Light to import: starlette and uvicorn are loaded when it starts.
"""

import asyncio
import contextlib
import logging
import socket
import ssl
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.errors import MissingPackageError, UsageError
from edgekit.plainfiles import read_plain
from edgekit.serving.guard import Access, check_bind, new_token
from edgekit.serving.measures import Measures
from edgekit.serving.server import Server
from edgekit.serving.settings import HttpSettings
from edgekit.serving.watch import Watch

if TYPE_CHECKING:
    import uvicorn

    from edgekit.serving.http.bounds import Door
    from edgekit.serving.http.shared import Site

_STOP_S = 0.5  # for answers that are being sent
_LARGEST_PEM = 2**20  # bytes


class Http:
    """A neighbour of the server: ``start`` and ``stop`` it on one event loop.

    ``watch``: the microphone's own stream, for the page to show.
    """

    name = "http"

    def __init__(
        self,
        server: Server,
        settings: HttpSettings,
        measures: Measures | None = None,
        *,
        watch: Watch | None = None,
    ) -> None:
        """Raise UsageError for an address that others reach without a token and TLS."""
        check_bind(settings.host, settings.token, settings.cert, settings.key)
        self._server, self._settings = server, settings
        self._measures = measures or Measures(server)
        self._watch = watch
        self._site: Site | None = None
        self._http: uvicorn.Server | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> str:
        """Listen; return the address, for people.

        Raises OSError where nothing can listen there, UsageError where the certificate cannot be used,
        MissingPackageError without the extra.
        """
        try:
            import uvicorn

            from edgekit.serving.http.app import make_app
            from edgekit.serving.http.bounds import Door, alarms, protocol_of, watch, watch_door
            from edgekit.serving.http.shared import Site
        except ImportError as error:
            raise MissingPackageError(f"http: {error}; `pip install 'edgekit-audio[serve]'`") from error

        class Quiet(uvicorn.Server):
            """uvicorn's server, which leaves signals to who runs the process."""

            @contextlib.contextmanager
            def capture_signals(self):  # type: ignore[no-untyped-def] # noqa: ANN202 - a Generator, as there
                yield

        settings, limits = self._settings, self._server.limits
        _check_certificate(settings)
        listening = _bound(settings.host, settings.port, Door)
        listening.most = 2 * limits.connections  # one too many of those that were let in is told so
        port = listening.getsockname()[1]
        access = Access(
            settings.host, port, frozenset(settings.hosts), frozenset(one.lower() for one in settings.origins),
            settings.token, new_token(),
        )  # fmt: skip
        self._site = Site(self._server, self._measures, access, self._watch)
        config = uvicorn.Config(
            make_app(self._site, page=settings.page),
            http=protocol_of(limits), ws="websockets-sansio", lifespan="off", interface="asgi3", log_config=None,
            log_level="warning",
            access_log=False, proxy_headers=False, server_header=False, workers=1,
            ws_max_size=limits.message_bytes, ws_per_message_deflate=False, ws_ping_timeout=None,
            h11_max_incomplete_event_size=limits.header_bytes, timeout_graceful_shutdown=_STOP_S,  # type: ignore[arg-type] # asyncio's, which may be a float
            ssl_certfile=settings.cert, ssl_keyfile=settings.key,
        )  # fmt: skip
        logging.getLogger("uvicorn.error").addFilter(alarms)
        self._http = Quiet(config)
        serving = asyncio.ensure_future(self._http.serve(sockets=[listening]))
        state = self._http.server_state
        watching = (watch(state, lambda: self._server.limits.slow_s), watch_door(listening, state))
        self._tasks = [serving, *map(asyncio.ensure_future, watching)]
        while not self._http.started:
            if serving.done():
                listening.close()
                serving.result()
            await asyncio.sleep(0)
        shown = f"[{settings.host}]" if ":" in settings.host else settings.host
        return f"{'https' if settings.cert else 'http'}://{shown}:{port}"

    async def stop(self) -> None:
        """Let what is being answered end, for a moment, then close every connection."""
        if self._http is None or self._site is None:
            return
        if self._watch is not None:
            self._watch.close()
        self._http.should_exit = True
        serving, *watching = self._tasks
        await serving
        for task in watching:
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)
        for connection in list(self._http.server_state.connections):
            connection.transport.abort()
        self._site.decoding.shutdown(wait=False, cancel_futures=True)
        self._http = None


def _bound(host: str, port: int, made: "type[Door]") -> "Door":
    """Return a socket that is bound. Raises OSError where that cannot be, such as for a second server on a port."""
    kind, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    listening = made(kind, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(128)
    except OSError:
        listening.close()
        raise
    listening.setblocking(False)
    return listening


def _check_certificate(settings: HttpSettings) -> None:
    """Raise UsageError for a file that is not there, or of which TLS cannot be made, by its name."""
    if settings.cert is None or settings.key is None:
        return
    _check_readable("cert", settings.cert)
    _check_readable("key", settings.key)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_verify_locations(settings.cert)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(f"http.cert: {settings.cert}: {_tls(error)}; give a certificate in PEM") from error
    try:
        context.load_cert_chain(settings.cert, settings.key, password="")  # none is asked for on a terminal
    except (OSError, ssl.SSLError) as error:
        raise UsageError(
            f"http.key: {settings.key}: {_tls(error)}; give the key of {settings.cert} in PEM, without a passphrase"
        ) from error


def _check_readable(name: str, path: str) -> None:
    try:
        read_plain(Path(path), _LARGEST_PEM)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UsageError(f"http.{name}: {path}: {reason}; give a file in PEM that this user may read") from error


def _tls(error: OSError) -> str:
    """Return what OpenSSL says, without its own places."""
    return (getattr(error, "reason", None) or error.strerror or str(error)).replace("_", " ").lower()
