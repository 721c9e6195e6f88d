"""What is told of a server: health, readiness, figures, models, the page; and that nobody reads it who should not."""

import asyncio
import re
import shutil
import socket
import ssl
import subprocess
from itertools import pairwise
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.routing import Route, WebSocketRoute
from websockets.asyncio.client import connect as connect_async
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from edgekit.errors import UsageError
from edgekit.serving.http import app
from edgekit.serving.http.neighbour import Http, HttpSettings
from edgekit.serving.measures import Measures, percentile
from edgekit.serving.server import Server
from edgekit.serving.service.neighbours import bind_error
from edgekit.serving.watch import Watch
from tests.serving.http.conftest import WAIT_S, error_of, settle

TOKEN = "a-token-of-these-tests"  # noqa: S105
PAGE = Path(app.__file__).parent / "page"


@pytest.fixture
def service(serving, load):
    return serving(load(), watch=Watch())


@pytest.fixture
def client(service):
    with service.client() as client:
        yield client


def figures(client: httpx.Client) -> dict[str, float]:
    """Return every figure by its name and labels."""
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    samples = [sample for family in text_string_to_metric_families(answer.text) for sample in family.samples]
    return {f"{one.name}{sorted(one.labels.items())}": one.value for one in samples}


def test_a_server_with_a_model_is_ready(client, service):
    assert (client.get("/health").status_code, client.get("/health").json()) == (200, {"status": "ok"})
    assert (client.get("/ready").status_code, client.get("/ready").json()) == (200, {"status": "ready"})
    assert client.head("/ready").status_code == 200


def test_one_that_loads_is_healthy_and_not_ready(serving):
    with serving(None).client() as client:
        assert client.get("/health").status_code == 200
        assert (client.get("/ready").status_code, client.get("/ready").json()) == (503, {"status": "loading"})
        assert client.get("/").status_code == 200


def test_one_that_stops_is_healthy_and_not_ready(client, service):
    service.server.stopping = True
    assert client.get("/health").status_code == 200
    assert (client.get("/ready").status_code, client.get("/ready").json()) == (503, {"status": "stopping"})


def test_one_whose_thread_is_gone_or_hangs_is_not_healthy(client, service, monkeypatch):
    monkeypatch.setattr(Server, "stuck", lambda self, longest_s: longest_s < 100)
    assert (client.get("/health").status_code, client.get("/health").json()) == (503, {"status": "stuck"})
    assert (client.get("/ready").status_code, client.get("/ready").json()) == (503, {"status": "stuck"})
    monkeypatch.undo()
    service.server._ending = True
    service.server._stir()
    for thread in service.server._threads:
        thread.join(WAIT_S)
    assert client.get("/health").status_code == 503


def test_figures_follow_what_is_done_and_hold_no_text_and_no_name(client, service):
    before = figures(client)
    assert before["edgekit_streams_opened_total[]"] == 0
    name = "a name that nobody is told"
    served = service.server.open({"level": "full"}, name=name)
    assert figures(client)["edgekit_streams[('live', 'true')]"] == 1
    served.push(np.random.default_rng(5).uniform(-0.3, 0.3, 16_000).astype(np.float32))
    served.finish()
    settle(service, lambda: served.ended)
    texts = [event.text for event in served.read() if event.kind == "text" and event.final]
    assert any(texts)
    after = figures(client)
    assert after["edgekit_streams_opened_total[]"] == 1
    assert after["edgekit_streams_ended_total[('reason', 'finished')]"] == 1
    assert after["edgekit_sound_seconds_total[('fate', 'received')]"] == pytest.approx(1.0)
    assert after["edgekit_sound_seconds_total[('fate', 'heard')]"] == pytest.approx(1.0)
    assert after["edgekit_work_seconds_total[]"] > 0
    assert after["process_resident_memory_bytes[]"] > 10**7
    whole = client.get("/metrics").text
    assert name not in whole
    assert not [text for text in texts if text and text in whole]
    with pytest.raises(Exception, match="streams"):
        [service.server.open(name="x") for _ in range(9)]
    assert figures(client)["edgekit_streams_refused_total[('reason', 'streams')]"] == 1


def test_no_counter_goes_back_when_a_stream_ends(client, service):
    counters = []
    served = service.server.open({"level": "full"}, name="x")
    served.push(np.zeros(32_000, np.float32))
    for step in range(30):
        counters.append({name: value for name, value in figures(client).items() if "_total" in name})
        if step == 10:
            served.close()
    for earlier, later in pairwise(counters):
        assert {
            name: value for name, value in earlier.items() if later[name] < value - 1e-9 and "process" not in name
        } == {}


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        ([], 0.5, None),
        ([7.0], 0.95, 7.0),
        ([3.0, 1.0, 2.0], 0.5, 2.0),
        (list(range(1, 101)), 0.95, 95),
        ([1, 2], 0.5, 1),
    ],
)
def test_a_percentile_is_the_smallest_value_that_so_many_do_not_exceed(values, share, expected):
    assert percentile(values, share) == expected


def test_openai_s_client_lists_the_model(service):
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key="none", timeout=WAIT_S) as client:
        [model] = client.models.list()
        assert client.models.retrieve("tiny") == model
        assert (model.id, model.object) == ("tiny", "model")
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("owner/other")


@pytest.mark.parametrize(
    "path", ["/nothing", "/v1", "/v1/", "/page/", "/page/../app.py", "/page/%2e%2e/app.py", "/page//"]
)
def test_there_is_nothing_else(client, path):
    error_of(client.get(path), 404)


@pytest.mark.parametrize("path", ["/v1/models", "/health", "/metrics", "/"])
def test_another_method_is_not_allowed(client, path):
    answer = client.post(path, content=b"x" * 100)
    error_of(answer, 405)
    assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD"}
    error_of(client.get("/v1/audio/transcriptions"), 405)


# Who may come in, on every route there is ----------------------------------------------------------------------------


def every_route(service) -> list[tuple[str, str, bool]]:
    """Return method, path and whether it is a websocket of every route, so that a new one cannot be forgotten."""
    found = []
    for route in app.routes(service.site, page=True):
        path = re.sub(r"\{.*?\}", "x", route.path)
        if isinstance(route, WebSocketRoute):
            found.append(("GET", path, True))
        else:
            assert isinstance(route, Route), "another kind must be tried here, too"
            found += [(method, path, False) for method in route.methods]
    return [*found, ("GET", "/nothing", False), ("OPTIONS", "/v1/models", False), ("GET", "/v1/nothing", True)]


def status_of(service, method: str, path: str, is_socket: bool, headers: dict[str, str]) -> int:
    """Return the status of a request by hand: clients would write a Host of their own."""
    lines = {"host": f"127.0.0.1:{service.port}", **headers}
    if is_socket:
        lines |= {
            "upgrade": "websocket", "connection": "Upgrade", "sec-websocket-version": "13",
            "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
        }  # fmt: skip
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value is not None)
    with service.raw(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode()) as connected:
        return int(connected.recv(4096).split()[1])


FOREIGN = [
    {"origin": "http://evil.example"}, {"origin": "null"}, {"origin": "https://127.0.0.1"}, {"host": "evil.example"},
    {"host": "evil.example:8017"}, {"host": "127.0.0.1"}, {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"}, {"host": "evil.example", "origin": "http://evil.example"},
]  # fmt: skip


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
def test_no_route_answers_another_page(service, headers):
    routes = every_route(service)
    assert len(routes) > 20
    assert {status_of(service, *route, headers) for route in routes} == {403}


def test_every_route_answers_this_machine(service):
    statuses = {route[1:]: status_of(service, *route, {}) for route in every_route(service)}
    denied = {route for route, status in statuses.items() if status in {401, 403}}
    assert denied == {("/v1/nothing", True)}, "a websocket where there is none, which starlette denies so"


def test_with_a_token_only_the_files_of_the_page_are_shown_without_it(serving, load):
    service = serving(load(), token=TOKEN)
    shown = [route for route in every_route(service) if status_of(service, *route, {}) != 401]
    assert {path for _, path, _ in shown} == set(app.PAGE_PATHS)
    given = {"authorization": f"Bearer {TOKEN}"}
    assert 401 not in {status_of(service, *route, given) for route in every_route(service)}
    with service.client() as client:
        answer = client.get("/v1/models")
        assert error_of(answer, 401)["code"] == "invalid_api_key"
        assert TOKEN not in client.get("/").text
        assert service.site.access.page_token not in client.get("/").text
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key=TOKEN) as client:
        assert [model.id for model in client.models.list()] == ["tiny"]
    with (
        openai.OpenAI(base_url=f"{service.url}/v1", api_key="another") as client,
        pytest.raises(openai.AuthenticationError),
    ):
        client.models.list()
    with pytest.raises(InvalidStatus), connect(f"{service.ws}/v1/listen"):
        pass
    with connect(f"{service.ws}/v1/listen", additional_headers={"Authorization": f"Bearer {TOKEN}"}) as ws:
        assert "opened" in ws.recv(timeout=WAIT_S)


def test_a_page_that_is_a_friend_s_may_ask_and_read(serving, load):
    friend = "https://notes.example"
    service = serving(load(), token=TOKEN, origins=(friend,))
    with service.client(headers={"origin": friend}) as client:
        first = client.options("/v1/models", headers={"access-control-request-headers": "authorization"})
        assert (first.status_code, first.headers["access-control-allow-origin"]) == (204, friend)
        assert "Authorization" in first.headers["access-control-allow-headers"]
        denied = client.get("/v1/models")
        assert error_of(denied, 401)
        assert denied.headers["access-control-allow-origin"] == friend, "or its script does not see why"
        answer = client.get("/v1/models", headers={"authorization": f"Bearer {TOKEN}"})
        assert (answer.status_code, answer.headers["vary"]) == (200, "Origin")
    with service.client(headers={"origin": "https://evil.example"}) as client:
        for answer in (client.options("/v1/models"), client.get("/v1/models")):
            error_of(answer, 403)
            assert "access-control-allow-origin" not in answer.headers


def test_a_forwarded_address_is_not_believed(service):
    assert (
        status_of(service, "GET", "/health", False, {"x-forwarded-host": "evil", "x-forwarded-for": "192.0.2.1"}) == 200
    )
    assert status_of(service, "GET", "/health", False, {"host": "evil", "x-forwarded-host": "127.0.0.1"}) == 403


def test_other_machines_need_a_token_and_tls(load, tmp_path):
    with pytest.raises(UsageError, match="^http.host: '0.0.0.0' can be reached from other machines"):
        Http(Server(), HttpSettings(host="0.0.0.0"))  # noqa: S104


def test_with_a_certificate_it_is_https(serving, load, certificate):
    cert, key = certificate
    service = serving(load(), host="0.0.0.0", token=TOKEN, cert=cert, key=key)  # noqa: S104
    assert service.url.startswith("https://0.0.0.0:")
    trust = ssl.create_default_context(cafile=cert)
    url = f"https://127.0.0.1:{service.port}"
    with httpx.Client(base_url=url, verify=trust) as client:
        error_of(client.get("/health"), 401)
        given = {"authorization": f"Bearer {TOKEN}"}
        assert client.get("/health", headers=given).status_code == 200
        assert client.get("/health", headers=given | {"origin": url}).status_code == 200
        error_of(client.get("/health", headers=given | {"origin": url.replace("https", "http")}), 403)
    socket_url = f"wss://localhost:{service.port}/v1/listen"
    with connect(socket_url, ssl=trust, additional_headers=given) as ws:
        assert "opened" in ws.recv(timeout=WAIT_S)


def test_a_certificate_or_a_key_that_is_none_is_told_by_its_name(tmp_path, serving, certificate):
    cert, key = certificate
    none, away, locked, other = (str(tmp_path / name) for name in ("none.pem", "away.pem", "locked.pem", "other.pem"))
    Path(none).write_text("no certificate", encoding="utf-8")
    openssl = shutil.which("openssl")
    command = [openssl, "pkey", "-in", key, "-aes256", "-passout", "pass:secret", "-out", locked]
    subprocess.run(command, check=True, capture_output=True)
    subprocess.run([openssl, "genrsa", "-out", other, "2048"], check=True, capture_output=True)
    for pair, says in (
        ((none, key), f"^http.cert: {none}: .*; give a certificate in PEM$"),
        ((cert, none), f"^http.key: {none}: .*; give the key of {cert} in PEM, without a passphrase$"),
        ((cert, locked), f"^http.key: {locked}: "), ((cert, other), f"^http.key: {other}: key values mismatch; "),
        ((away, key), f"^http.cert: {away}: No such file or directory; give a file in PEM that this user may read$"),
        ((cert, away), f"^http.key: {away}: No such file or directory; "), ((str(tmp_path), key), "^http.cert: "),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=says):
            serving(None, cert=pair[0], key=pair[1])


def test_a_second_server_on_a_port_is_told_in_one_line_and_the_first_goes_on(serving, service):
    with pytest.raises(OSError, match="in use") as refused:
        serving(None, port=service.port)
    assert str(bind_error("http", "127.0.0.1", service.port, refused.value)) == (
        f"http: 127.0.0.1:{service.port}: another program, or a second server, listens there; end it, or choose "
        "another port with --http"
    )
    with service.client() as client:
        assert client.get("/health").status_code == 200


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid"])
def test_an_address_that_is_none_of_this_machine_is_told(serving, host, certificate):
    cert, key = certificate
    with pytest.raises(OSError) as refused:  # noqa: PT011 - each of its own kind
        serving(None, host=host, token=TOKEN, cert=cert, key=key)
    assert str(bind_error("http", host, 0, refused.value)).startswith(f"http: {host}:0: no ")


# The page ------------------------------------------------------------------------------------------------------------


def test_the_page_carries_a_token_and_names_nothing_outside(client, service):
    answer = client.get("/")
    assert service.site.access.page_token in answer.text
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert {policy[name] for name in ("script-src", "style-src", "connect-src", "img-src")} == {"'self'"}
    assert policy["frame-ancestors"] == "'none'"
    assert "@" not in answer.text
    linked = re.findall(r'(?:src|href)="([^"]*)"', answer.text)
    assert linked
    for path in linked:
        assert client.get(path).status_code == 200


@pytest.mark.parametrize("path", sorted(PAGE.iterdir()), ids=lambda path: path.name)
def test_no_file_of_the_page_names_an_address_or_writes_html(path, client):
    text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
    assert not re.findall(r"(?:https?:)?//[\w.]+\.\w+|@import|url\(", text)
    assert "innerHTML" not in text
    if path.name != "index.html":
        answer = client.get(f"/page/{path.name}")
        assert answer.text == path.read_text(encoding="utf-8")
        assert answer.headers["content-type"].startswith(app.FILES[path.name])
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_inline_scripts_and_styles_are_none(client):
    page = client.get("/").text
    assert not re.findall(r"<script(?![^>]*src=)|<style|\son\w+=|style=", page)


def test_a_model_s_name_cannot_write_into_the_page(serving, load):
    service = serving(load(name='"><script>alert(1)</script>'))
    with service.client() as client:
        assert "<script>alert" not in client.get("/").text


def test_without_a_page_there_is_none(serving):
    with serving(None, page=False).client() as client:
        error_of(client.get("/"), 404)
        error_of(client.get("/page/page.js"), 404)


def test_a_server_that_is_stopped_lets_go_of_its_port(load):
    async def twice():
        with Server() as server:
            http = Http(server, HttpSettings(port=0))
            url = await http.start()
            await http.stop()
            await http.stop()
            again = Http(server, HttpSettings(port=int(url.rpartition(":")[2])))
            assert await again.start() == url
            await again.stop()
            with pytest.raises(OSError, match="refused"):
                socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])))

    asyncio.run(twice())


def test_stopping_waits_for_nobody_who_does_not_leave(load):
    async def stop() -> float:
        with Server(load()) as server:
            http = Http(server, HttpSettings(port=0), watch=Watch())
            url = (await http.start()).replace("http", "ws")
            opened = [connect_async(f"{url}{path}") for path in ("/v1/listen", "/v1/watch?", "/v1/listen?status=true")]
            sockets = [await one for one in opened]
            silent = socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])))
            body = (
                b"POST /v1/audio/transcriptions HTTP/1.1\r\nhost: "
                + url[5:].encode()
                + b"\r\ncontent-length: 99\r\n\r\n"
            )
            silent.sendall(body)
            await sockets[0].recv()
            begun = asyncio.get_running_loop().time()
            await http.stop()
            took_s = asyncio.get_running_loop().time() - begun
            silent.close()
            for one in sockets:
                await one.close()
            assert not http._tasks or all(task.done() for task in http._tasks)
        return took_s

    assert asyncio.run(stop()) < 2.0


def test_the_figures_of_a_stream_are_plain(load):
    with Server(load()) as server:
        facts = Measures(server).facts(server.open(name="x"))
    assert set(facts) == {"streams", "most_streams", "busy", "behind_s", "latencies", "stream"}
