"""The application: which path is answered by what. Everything comes in through ``Entry``."""

import html
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute

from edgekit.errors import EdgeKitError
from edgekit.serving.guard import BEARER, SUBPROTOCOL
from edgekit.serving.http.chat import Chat
from edgekit.serving.http.entry import Entry
from edgekit.serving.http.errors import ApiError, on_error
from edgekit.serving.http.shared import Site
from edgekit.serving.http.sockets import Sockets
from edgekit.serving.http.transcriptions import Transcriptions, check_model

_PAGE = Path(__file__).resolve().parent / "page"
FILES = {
    "page.js": "text/javascript",
    "sender.js": "text/javascript",
    "page.css": "text/css",
    "icon.svg": "image/svg+xml",
}
"""What the page consists of, by content type."""
PAGE_PATHS = ("/", *(f"/page/{name}" for name in FILES))
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; worker-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def make_app(site: Site, *, page: bool) -> Entry:
    """Return the application; ``page``: with the page."""
    app = Starlette(
        routes=routes(site, page=page),
        exception_handlers={
            ApiError: on_error, EdgeKitError: on_error, HTTPException: on_error, ClientDisconnect: _on_nobody,
            Exception: _on_our_error,
        },
    )  # fmt: skip
    return Entry(app, site.access, site.server, PAGE_PATHS if page else ())


def routes(site: Site, *, page: bool) -> list[BaseRoute]:
    """Return every route there is."""
    audio = Transcriptions(site)
    sockets, about = Sockets(site), _About(site)
    result: list[BaseRoute] = [
        Route("/v1/audio/transcriptions", audio.transcriptions, methods=["POST"]),
        Route("/v1/audio/translations", audio.translations, methods=["POST"]),
        Route("/v1/chat/completions", Chat(site).completions, methods=["POST"]),
        Route("/v1/models", about.models),
        Route("/v1/models/{name:path}", about.model),
        WebSocketRoute("/v1/listen", sockets.listen),
        WebSocketRoute("/v1/watch", sockets.watch),
        Route("/health", about.health),
        Route("/ready", about.ready),
        Route("/metrics", about.metrics),
    ]
    if page:
        result += [Route("/", about.page), *(Route(f"/page/{name}", _file(name, kind)) for name, kind in FILES.items())]
    return result


class _About:
    """What is told of the server itself."""

    def __init__(self, site: Site) -> None:
        self._site, self._began = site, int(time.time())

    async def models(self, _: Request) -> Response:
        """Answer GET /v1/models."""
        return JSONResponse({"object": "list", "data": [self._model()]})

    async def model(self, request: Request) -> Response:
        """Answer GET /v1/models/NAME."""
        check_model(request.path_params["name"], self._site.model)
        return JSONResponse(self._model())

    async def health(self, _: Request) -> Response:
        """Answer GET /health: 200 while the server's threads run and none is stuck."""
        healthy = self._site.measures.healthy
        return JSONResponse({"status": "ok" if healthy else "stuck"}, 200 if healthy else 503)

    async def ready(self, _: Request) -> Response:
        """Answer GET /ready: 200 if a stream would be taken."""
        server = self._site.server
        status = "stopping" if server.stopping else "loading" if server.model is None else "ready"
        ready = server.ready and self._site.measures.healthy
        return JSONResponse({"status": status if ready or status != "ready" else "stuck"}, 200 if ready else 503)

    async def metrics(self, _: Request) -> Response:
        """Answer GET /metrics in Prometheus' text format."""
        body, kind = self._site.measures.exposition()
        return Response(body, headers={"content-type": kind})

    async def page(self, _: Request) -> Response:
        """Answer GET /. The page carries a token only where there is none that everybody needs."""
        access = self._site.access
        facts = {
            "TOKEN": "" if access.token else access.page_token, "ASKS": "yes" if access.token else "",
            "WATCHES": "yes" if self._site.watch is not None else "", "BEARER": BEARER, "SUBPROTOCOL": SUBPROTOCOL,
            "MODEL": self._site.server.model.manifest.name if self._site.server.model else "",
        }  # fmt: skip
        text = (_PAGE / "index.html").read_text(encoding="utf-8")
        for name, value in facts.items():
            text = text.replace(f"@{name}@", html.escape(value))
        return Response(text, media_type="text/html", headers={"content-security-policy": _POLICY})

    def _model(self) -> dict[str, Any]:
        manifest = self._site.model.manifest
        return {"id": manifest.name, "object": "model", "created": self._began, "owned_by": "edgekit"}


def _file(name: str, kind: str) -> Callable[[Request], Any]:
    async def answer(_: Request) -> Response:
        return Response((_PAGE / name).read_bytes(), media_type=kind)

    return answer


async def _on_nobody(_: Request, _error: Exception) -> Response:
    """Return what nobody reads: the client left while its request came."""
    return Response(status_code=499)


async def _on_our_error(_: Request, error: Exception) -> Response:
    """Return the answer to a request that met a bug of ours; uvicorn logs it with its traceback."""
    return ApiError(500, f"server: unexpected {type(error).__name__}; see its log", code="internal").response()
