"""Entry: what every request and websocket goes through before anything of it is parsed: who it is from, how large.

The outermost layer of the application, so that no route can be forgotten.
"""

import asyncio
import time
from collections.abc import Iterable

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edgekit.serving.guard import Access, denied
from edgekit.serving.http.bounds import too_large_a_head
from edgekit.serving.http.errors import ApiError
from edgekit.serving.limits import Limits
from edgekit.serving.server import Server

_PATIENCE_S, _SLOWEST_BYTES_S = 30.0, 4096  # a body comes within that time, and longer at so many bytes a second
# Where a body is on its way the connection stays open: to close it before all was read would reset it, and a client
# that sends first and reads then would never see why. What comes is passed over, for as long as ``bounds.watch`` lets.
_CLOSE = {"Connection": "close"}
_HEADERS = (
    (b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer"), (b"cache-control", b"no-store"),
    (b"cross-origin-resource-policy", b"same-origin"), (b"x-frame-options", b"DENY"),
)  # fmt: skip
_MAY = {"Access-Control-Allow-Methods": "GET, POST", "Access-Control-Allow-Headers": "Authorization, Content-Type"}
_UVICORN_S = (b"connection", b"content-length", b"content-type")  # its own, and where a websocket is denied once more
_NO_PAGE = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")


class Entry:
    """An ASGI application around another. ``page``: paths of files that hold no secret; see ``guard.denied``."""

    def __init__(self, app: ASGIApp, access: Access, server: Server, page: Iterable[str]) -> None:
        self._app, self._access, self._server, self._page = app, access, server, frozenset(page)
        self._bodies = 0  # requests with one, in progress: each may be in memory

    @property
    def _limits(self) -> Limits:
        return self._server.limits  # others, when they are read again

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or deny it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        error, friend = self._error(scope), _friend(scope, self._access)
        send = _with_headers(send, friend) if scope["type"] == "http" else send
        if error is None and friend and _asks_first(scope):
            await Response(status_code=204, headers=_MAY)(scope, receive, send)
        elif error is not None:
            if not _has_body(scope):
                error.headers |= _CLOSE
            await _deny(error, scope, receive, send)
        elif scope["type"] == "websocket" or scope["method"] in {"GET", "HEAD"}:
            await self._app(scope, receive, send)
        else:
            self._bodies += 1
            try:
                await self._app(scope, _Body(receive, self._limits).receive, send)
            finally:
                self._bodies -= 1

    def _error(self, scope: Scope) -> ApiError | None:
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        if sum(len(name) + len(value) for name, value in headers) > self._limits.header_bytes:
            return too_large_a_head(self._limits)
        secure = scope["scheme"] in {"https", "wss"}
        local = (scope.get("server") or (None,))[0]
        socket = scope["type"] == "websocket"
        page = not socket and scope["method"] in {"GET", "HEAD"} and scope["path"] in self._page
        page = page or (_friend(scope, self._access) != b"" and _asks_first(scope))  # without its token, as browsers do
        refusal = denied(self._access, "https" if secure else "http", headers, local=local, socket=socket, page=page)
        if refusal is not None:
            return ApiError(refusal.status, refusal.message, code=refusal.code)
        return None if socket else self._body_error(scope["method"], headers)

    def _body_error(self, method: str, headers: list[tuple[bytes, bytes]]) -> ApiError | None:
        if {name for name, _ in headers} >= {b"content-length", b"transfer-encoding"}:  # RFC 9112 6.1: an ambiguity
            two = ApiError(400, "request: Content-Length beside Transfer-Encoding; send one of them", code="length")
            two.headers |= _CLOSE
            return two
        if method in {"GET", "HEAD"}:
            return None
        length = next((value for name, value in headers if name == b"content-length"), b"0")
        if length.isdigit() and int(length) > self._limits.body_bytes:
            return _too_large(self._limits)
        if self._bodies >= self._limits.streams:
            message = f"requests: {self._bodies} are in progress, at most {self._limits.streams} may be; try again"
            return ApiError(429, f"{message} in a moment", code="streams")
        return None


class _Body:
    """Hands a body on, counted."""

    def __init__(self, receive: Receive, limits: Limits) -> None:
        self._receive, self._limits = receive, limits
        self._bytes, self._begun, self._whole = 0, time.monotonic(), False

    async def receive(self) -> Message:
        """Return the next piece; once the body is whole, that the client is gone."""
        if self._whole:
            return await self._receive()
        left_s = self._begun + _PATIENCE_S + self._bytes / _SLOWEST_BYTES_S - time.monotonic()
        try:
            message = await asyncio.wait_for(self._receive(), max(0.0, left_s))
        except asyncio.TimeoutError as error:
            slow = ApiError(408, f"body: {self._bytes:,} bytes came, too slowly; send it again", code="slow")
            slow.headers |= _CLOSE
            raise slow from error
        self._bytes += len(message.get("body", b""))
        self._whole = message["type"] == "http.disconnect" or not message.get("more_body", False)
        if self._bytes > self._limits.body_bytes:
            large = _too_large(self._limits)
            large.headers |= _CLOSE  # it may have no end
            raise large
        return message


def _has_body(scope: Scope) -> bool:
    return any(name in {b"content-length", b"transfer-encoding"} for name, _ in scope["headers"])


def _too_large(limits: Limits) -> ApiError:
    return ApiError(413, f"body: larger than {limits.body_bytes:,} bytes; send less at once", code="body")


def _friend(scope: Scope, access: Access) -> bytes:
    """Return the Origin of a request that is one of ``origins``; empty if it has another or none."""
    origin = next((value for name, value in scope["headers"] if name == b"origin"), b"")
    return origin if origin.decode("latin-1").lower() in access.origins else b""


def _asks_first(scope: Scope) -> bool:
    """Return whether a browser asks if its page may send what it wants to (a preflight of CORS, WHATWG Fetch 4.8)."""
    return bool(scope["type"] == "http" and scope["method"] == "OPTIONS")


def _with_headers(send: Send, friend: bytes) -> Send:
    """Return what sends an answer with our headers; ``friend``: the other origin that may read it, if any."""
    shared = [(b"access-control-allow-origin", friend), (b"vary", b"Origin")] if friend else []

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            own = {name for name, _ in message["headers"]}
            more = [header for header in (*_HEADERS, _NO_PAGE, *shared) if header[0] not in own]
            message = {**message, "headers": [*message["headers"], *more]}
        await send(message)

    return sent


async def _deny(error: ApiError, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        await error.response()(scope, receive, send)
        return
    await receive()  # that it would like to connect
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1008})
        return
    response = error.response()
    headers = [header for header in response.raw_headers if header[0] not in _UVICORN_S]
    await send({"type": "websocket.http.response.start", "status": response.status_code, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": bytes(response.body)})
