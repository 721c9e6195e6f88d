"""A service over HTTP that really runs: uvicorn on a thread, a model of random weights or of real ones behind it."""

import asyncio
import json
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

import edgekit
from edgekit.exporter.export import ExportOptions, export
from edgekit.runtime.model import Model
from edgekit.serving.http.neighbour import Http, HttpSettings
from edgekit.serving.limits import Limits
from edgekit.serving.server import Server
from tests.exporter import speaking
from tests.exporter.test_hub import QUICK
from tests.runtime.conftest import load, tiny_bundle

__all__ = ["load", "tiny_bundle"]
ROOT = Path(__file__).resolve().parents[3]
CLIP = ROOT / "export/clips/librivox-0930.flac"
CHECKPOINT = ROOT / "models/edgekit-tiny/edgekit_tiny/checkpoint"
WAIT_S = 30.0  # for what comes at once, unless something is broken


class Service:
    """A neighbour that runs."""

    def __init__(self, server: Server, http: Http, loop: asyncio.AbstractEventLoop, url: str) -> None:
        self.server, self.http, self.url = server, http, url
        self._loop = loop
        self.host, _, port = url.split("//")[1].rpartition(":")
        self.port = int(port)
        self.ws = f"ws://{self.host}:{self.port}"

    @property
    def site(self):
        return self.http._site

    @property
    def connections(self) -> set:
        return self.http._http.server_state.connections

    def client(self, **settings) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=WAIT_S, **settings)

    def raw(self, data: bytes = b"") -> socket.socket:
        """Return a socket that is connected, on which some bytes were sent."""
        connected = socket.create_connection((self.host, self.port), timeout=WAIT_S)
        connected.sendall(data)
        return connected

    def on_loop(self, work: Callable):
        """Return what something returns on the loop's thread."""

        async def run():
            return work()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(WAIT_S)


@pytest.fixture(scope="module")
def serving() -> Iterator[Callable[..., Service]]:
    """Return a function that serves a model; fields of HttpSettings, ``limits`` and what Http takes by name."""
    with ExitStack() as stack:
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, daemon=True)
        thread.start()

        def done(work):
            return asyncio.run_coroutine_threadsafe(work, loop).result(WAIT_S)

        def close() -> None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join(WAIT_S)
            loop.close()

        stack.callback(close)

        def serve(model: Model | None, limits: Limits | None = None, **fields) -> Service:
            own = {name: fields.pop(name) for name in ("watch", "measures") if name in fields}
            server = stack.enter_context(Server(model, limits))
            server.defaults = fields.pop("defaults", {})
            http = Http(server, HttpSettings(**{"port": 0, **fields}), **own)
            url = done(http.start())
            stack.callback(lambda: done(http.stop()))
            return Service(server, http, loop, url)

        yield serve


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Model:
    """Return edgekit-tiny in INT8, as `make demo` exports it."""
    folder = tmp_path_factory.mktemp("tiny") / "bundle"
    export(CHECKPOINT, folder, ExportOptions())
    return edgekit.load(folder, threads=1)


@pytest.fixture(scope="session")
def speaking_model(tmp_path_factory) -> Model:
    """Return a model of random weights that converses and speaks."""
    checkpoint = speaking.write(tmp_path_factory.mktemp("speaking"))
    folder = tmp_path_factory.mktemp("bundles") / "speaking"
    export(checkpoint, folder, ExportOptions(recipe=QUICK, precision="float32"))
    return edgekit.load(folder, threads=1, speak=True)


def settle(service: Service, true: Callable[[], object]) -> None:
    """Wait until something is so."""
    end = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < end, "it did not come"
        service.on_loop(lambda: None)


def error_of(response: httpx.Response, status: int) -> dict:
    """Return the error of an answer, having checked that it is one of OpenAI's form, in one line."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"].isprintable()
    assert len(json.dumps(error)) < 2000
    return error


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        [shutil.which("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem", "-out",
         "cert.pem", "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
    return str(folder / "cert.pem"), str(folder / "key.pem")
