"""Clients that mean harm, or have bugs: each is answered as HTTP has it, or ended, and the next client is served."""

import asyncio
import contextlib
import json
import logging
import socket
import threading
import time
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
from msgspec import structs
from websockets.sync.client import connect

from edgekit.serving.guard import offered
from edgekit.serving.http import bounds, entry, transcriptions
from edgekit.serving.limits import Limits
from tests.serving.http.conftest import WAIT_S, settle

LIMITS = Limits(
    streams=2, slow_s=0.5, idle_s=60.0, events=16, body_bytes=100_000, header_bytes=4096, connections=16,
    message_bytes=100_000,
)  # fmt: skip


@pytest.fixture
def service(serving, load, monkeypatch):
    real = bounds.watch
    monkeypatch.setattr(bounds, "watch", lambda state, slow_s: real(state, slow_s, head_s=0.5))
    monkeypatch.setattr(entry, "_PATIENCE_S", 0.5)
    service = serving(load(), LIMITS)
    yield service
    # another client is served, and nothing is left of the one before
    settle(service, lambda: not service.connections)
    with service.client() as client:
        assert client.get("/health").status_code == 200
        answer = client.post("/v1/audio/transcriptions", files={"file": b"no sound"})
        assert answer.status_code == 400
    assert not service.server.streams


def head(service, line: str = "POST /v1/audio/transcriptions HTTP/1.1", **headers: str) -> bytes:
    lines = {"host": f"127.0.0.1:{service.port}", **{name.replace("_", "-"): value for name, value in headers.items()}}
    return (f"{line}\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items()) + "\r\n").encode()


def answer(connected: socket.socket) -> tuple[int, dict]:
    """Return the status and the error of what is answered until the server closes."""
    data = b""
    try:
        while piece := connected.recv(65_536):
            data += piece
    except ConnectionResetError:
        pass
    assert data, "nothing was answered"
    first, _, body = data.partition(b"\r\n\r\n")
    return int(first.split()[1]), json.loads(body)["error"]


def is_closed(connected: socket.socket) -> bool:
    """Return whether the server closes, whatever of an answer comes before: its head and its body may come apart."""
    try:
        while connected.recv(65_536):
            pass
    except ConnectionResetError:
        pass
    except TimeoutError:
        return False
    return True


def test_a_body_that_says_it_is_too_large_is_refused_before_any_of_it_comes(service):
    with service.raw(
        head(service, content_length="100001", content_type="multipart/form-data; boundary=x")
    ) as connected:
        status, error = answer(connected)
    assert (status, error["message"]) == (413, "body: larger than 100,000 bytes; send less at once")


def test_a_body_that_does_not_say_how_large_it_is_is_counted(service):
    start = head(service, transfer_encoding="chunked", content_type="multipart/form-data; boundary=x")
    opening = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    with service.raw(start + b"%x\r\n%s\r\n" % (len(opening), opening)) as connected:
        sent = 0
        try:
            while sent < 10**7:
                connected.sendall(b"4000\r\n" + bytes(0x4000) + b"\r\n")
                sent += 0x4000
        except (BrokenPipeError, ConnectionResetError):
            pass
        assert sent < 10**7
        settle(service, lambda: not service.connections)


@pytest.mark.parametrize("value", ["-1", "1e3", "0x10", "9" * 400, "5, 6"])
def test_a_length_that_is_none_is_a_bad_request(service, value):
    with service.raw(head(service, content_length=value)) as connected:
        status, _ = answer(connected)
    assert status in {400, 413}


@pytest.mark.parametrize("size", [5_000, 60_000, 500_000])
def test_a_head_that_is_too_large_is_refused(service, size):
    with service.raw() as connected:
        try:
            connected.sendall(head(service, cookie="x" * size))
        except (BrokenPipeError, ConnectionResetError):
            return  # refused before its end
        status, error = answer(connected)
    assert (status, error["code"]) == (431, "head")


@pytest.mark.parametrize(
    "line",
    ["nonsense", "GET /\x00 HTTP/1.1", "\x16\x03\x01\x02\x00", "GET  / HTTP/1.1"],
)
def test_what_is_no_http_is_a_bad_request(service, line):
    with service.raw(head(service, line)) as connected:
        status, error = answer(connected)
    assert status == 400
    assert error["message"] == "request: invalid http request received; send HTTP/1.1"


def test_nobody_fills_the_log_by_what_is_no_http_or_no_text(service, caplog, monkeypatch):
    monkeypatch.setattr(bounds.alarms, "_said_at", {})
    for _ in range(7):
        with service.raw(head(service, "nonsense")) as connected:
            assert answer(connected)[0] == 400
        with connect(f"{service.ws}/v1/listen") as ws:
            ws.socket.sendall(b"\x81\x84" + bytes(4) + b"\xff" * 4)
            settle(service, lambda: not service.server.streams)
    said = [record for record in caplog.records if record.name == "uvicorn.error" and record.levelname != "DEBUG"]
    assert sorted(record.msg for record in said if record.levelname != "INFO") == [
        "Invalid HTTP request received.", "Invalid UTF-8 sequence received from client.",
    ]  # fmt: skip
    assert not any(record.exc_info for record in said)


def test_what_a_client_makes_uvicorn_say_comes_again_after_a_minute_and_our_own_bugs_every_time():
    now = [5.0]
    alarms = bounds.Alarms(lambda: now[0])

    def said(level: int, text: str) -> bool:
        return alarms(logging.LogRecord("uvicorn.error", level, "", 0, text, (), None))

    assert [said(logging.WARNING, text) for text in ("a", "a", "b", "a")] == [True, False, True, False]
    now[0] += bounds.ALARM_S
    assert [said(logging.WARNING, "a"), said(logging.WARNING, "a")] == [True, False]
    assert all(said(logging.ERROR, "Exception in ASGI application\n") for _ in range(3))
    assert not said(logging.ERROR, "ASGI callable returned without completing handshake.")


def test_a_head_that_comes_letter_by_letter_is_not_waited_for(service):
    begun = time.monotonic()
    with service.raw() as connected:
        for letter in head(service, "GET /health HTTP/1.1", cookie="x" * 2000).decode():
            try:
                connected.sendall(letter.encode())
            except (BrokenPipeError, ConnectionResetError):
                break
            if time.monotonic() - begun > WAIT_S:
                raise AssertionError("it is still taken")
            connected.settimeout(0.01)
            try:
                assert connected.recv(10) == b""
                break
            except TimeoutError:
                continue
            except ConnectionResetError:
                break


def test_who_connects_and_says_nothing_is_let_go(service):
    with service.raw() as connected, service.raw(head(service, "GET /health HTTP/1.1")) as again:
        assert is_closed(connected)
        assert again.recv(65_536).startswith(b"HTTP/1.1 200")
        assert is_closed(again), "after an answer, too"


def test_a_body_that_does_not_come_is_not_waited_for(service):
    start = head(service, content_length="5000", content_type="multipart/form-data; boundary=x")
    with service.raw(start + b"--x\r\n") as connected:
        status, error = answer(connected)
    assert (status, error["code"]) == (408, "slow")


def test_a_body_that_nobody_wants_and_that_does_not_end_is_not_waited_for(service):
    with service.raw(head(service, "POST /nothing HTTP/1.1", content_length="5000")) as connected:
        assert answer(connected)[0] == 404  # and closed


@pytest.mark.parametrize("line", ["POST /v1/audio/transcriptions HTTP/1.1", "GET /health HTTP/1.1"])
def test_a_length_beside_pieces_is_refused_and_what_follows_is_no_request(service, line):
    """A proxy in front may take one for the end of the request, and this server the other."""
    smuggled = b"0\r\n\r\nGET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
    with service.raw(head(service, line, content_length="5", transfer_encoding="chunked") + smuggled) as connected:
        data = b""
        while piece := connected.recv(65_536):
            data += piece
    assert data.startswith(b"HTTP/1.1 400")
    assert b"Content-Length beside Transfer-Encoding" in data
    assert data.count(b"HTTP/1.1 ") == 1


def test_a_recording_is_in_memory_once_while_it_is_heard(service, monkeypatch):
    """So that a few large ones at once do not end a small machine."""
    kept = []
    real = transcriptions.read_form

    async def read(request):
        kept.append(await real(request))
        return kept[-1]

    monkeypatch.setattr(transcriptions, "read_form", read)
    with service.client() as client:
        client.post("/v1/audio/transcriptions", files={"file": bytes(50_000)})
    assert [form.file for form in kept] == [None]


def test_more_bodies_at_once_than_streams_are_refused(service):
    start = head(service, content_length="5000", content_type="multipart/form-data; boundary=x")
    with service.raw(start) as one, service.raw(start) as two:
        settle(service, lambda: len(service.connections) == 2)
        with service.raw(start) as three:
            status, error = answer(three)
        assert (status, error["code"]) == (429, "streams")
        assert [answer(connected)[0] for connected in (one, two)] == [408, 408]


def test_limits_that_are_read_again_hold_for_requests_too(service):
    service.server.limits = structs.replace(service.server.limits, streams=1)
    start = head(service, content_length="5000", content_type="multipart/form-data; boundary=x")
    with service.raw(start) as one:
        settle(service, lambda: len(service.connections) == 1)
        with service.raw(start) as two:
            status, error = answer(two)
        assert (status, error["code"]) == (429, "streams")
        assert answer(one)[0] == 408


async def posted(service, sound: bytes) -> tuple[int, str]:
    async with httpx.AsyncClient(base_url=service.url, timeout=WAIT_S) as client:
        refused = await client.post("/v1/audio/transcriptions", files={"file": sound})
    return refused.status_code, refused.json()["error"]["code"]


def test_who_sends_all_before_it_reads_is_told_why_it_is_refused(service):
    """A connection that is closed with bytes unread is reset, and the answer is lost with it."""
    start = head(service, content_length="5000", content_type="multipart/form-data; boundary=x")
    with service.raw(start) as one, service.raw(start) as two:
        settle(service, lambda: len(service.connections) == 2)
        assert asyncio.run(posted(service, bytes(90_000))) == (429, "streams")
        assert [answer(connected)[0] for connected in (one, two)] == [408, 408]
    assert asyncio.run(posted(service, bytes(8_000_000))) == (413, "body")


def test_who_leaves_while_it_sends_is_no_bug_of_ours(service, caplog):
    start = head(service, content_length="5000", content_type="multipart/form-data; boundary=x")
    for body in (start + b"--x\r\n", head(service, "POST /v1/chat/completions HTTP/1.1", content_length="9",
                                          content_type="application/json") + b"{"):  # fmt: skip
        with service.raw(body):
            settle(service, lambda: service.connections)
        settle(service, lambda: not service.connections)
    assert "Traceback" not in caplog.text
    assert "Exception" not in caplog.text


def test_silent_connections_are_bounded_before_tls_and_none_is_waited_for_long(serving, load, certificate, monkeypatch):
    """Their handshakes are waited for a minute each by asyncio, which counts none and runs out of descriptors."""
    real = bounds.watch_door
    monkeypatch.setattr(bounds, "watch_door", lambda door, state: real(door, state, head_s=1.0))
    cert, key = certificate
    service = serving(load(), LIMITS, cert=str(cert), key=str(key))
    silent = [service.raw() for _ in range(50)]
    try:
        ended = 0
        for connected in silent:
            connected.settimeout(WAIT_S)
            ended += is_closed(connected)
        assert ended == 50
        with service.client(verify=False) as client:

            def healthy() -> bool:
                """Return whether there is a place again: one that was ended is let go of a moment later."""
                with contextlib.suppress(httpx.TransportError):
                    return client.get("/health").status_code == 200
                return False

            settle(service, healthy)
    finally:
        for connected in silent:
            connected.close()


def test_a_client_that_closes_its_half_frees_its_place(service):
    start = head(service, content_length="5000", content_type="multipart/form-data; boundary=x")
    with service.raw(start + b"--x\r\n") as connected:
        connected.shutdown(socket.SHUT_WR)
        assert is_closed(connected)
    with connect(f"{service.ws}/v1/listen") as ws:
        assert "opened" in ws.recv(timeout=WAIT_S)
        ws.socket.shutdown(socket.SHUT_WR)
        settle(service, lambda: not service.server.streams)


def test_a_websocket_that_never_reads_is_ended_and_harms_nobody(service):
    """Its answers fill its socket, then its outbox; then its stream is ended by name, and its connection dropped."""
    protocols = offered(service.site.access.page_token)
    with service.raw() as connected:
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        key = head(
            service, "GET /v1/listen?level=full HTTP/1.1", upgrade="websocket", connection="Upgrade",
            sec_websocket_version="13", sec_websocket_key="dGhlIHNhbXBsZSBub25jZQ==",
            sec_websocket_protocol=", ".join(protocols),
        )  # fmt: skip
        connected.sendall(key)
        bad = b"\x81\xfe\x00\xc8" + bytes(4) + b"x" * 200  # a masked text frame, no message: each is answered
        try:
            end = time.monotonic() + WAIT_S
            while time.monotonic() < end:
                connected.sendall(bad * 50)
        except (BrokenPipeError, ConnectionResetError, TimeoutError):
            pass
        with connect(f"{service.ws}/v1/listen") as ws:
            assert "opened" in ws.recv(timeout=WAIT_S)
        settle(service, lambda: not service.connections)


@pytest.mark.parametrize(
    ("unread", "waits"), [(16_384, None), (16_385, ("unread", 16_385)), (70_000, ("unread", 70_000))]
)
def test_who_reads_nothing_is_seen_wherever_a_writer_waits(unread, waits):
    """Between its two limits asyncio lets nobody write who waited before: the system may have taken a little more."""

    class Transport(asyncio.Transport):
        def get_write_buffer_size(self) -> int:
            return unread

        def get_write_buffer_limits(self) -> tuple[int, int]:
            return 16_384, 65_536

        def is_closing(self) -> bool:
            return False

    assert bounds._waits(SimpleNamespace(transport=Transport())) == waits


def test_a_thousand_connects_leave_nothing(service):
    with service.client() as client:
        client.get("/health")
    threads, opened = threading.active_count(), []
    for _ in range(1000):
        connected = service.raw()
        opened.append(connected)
        if len(opened) > 100:
            opened.pop(0).close()
    refusals = sum(_refused(connected) for connected in opened)
    assert refusals > 50, "no more than 16 are open at once"
    for connected in opened:
        connected.close()
    settle(service, lambda: not service.connections)
    assert threading.active_count() <= threads


def _refused(connected: socket.socket) -> bool:
    connected.settimeout(WAIT_S)
    try:
        return connected.recv(4096).startswith(b"HTTP/1.1 503")
    except ConnectionResetError:
        return True


def test_a_thousand_requests_on_one_connection_and_some_at_once_are_answered(service):
    request = head(service, "GET /health HTTP/1.1")
    with service.raw() as connected:
        sender = threading.Thread(target=connected.sendall, args=(request * 1000,))
        sender.start()
        data = b""
        while data.count(b"HTTP/1.1 200") < 1000:
            piece = connected.recv(65_536)
            assert piece, "closed"
            data += piece
        sender.join(WAIT_S)


@pytest.mark.parametrize(
    "headers",
    [
        {"cookie": "x" * 3000}, {f"x{index}": "y" for index in range(200)}, {"sec_websocket_key": "short"},
        {"sec_websocket_version": "7"}, {"sec_websocket_extensions": "\x80, ;;"},
    ],
    ids=["long", "many", "key", "version", "extensions"],
)  # fmt: skip
def test_a_broken_handshake_is_answered_or_dropped(service, headers):
    usual = {
        "upgrade": "websocket", "connection": "Upgrade", "sec_websocket_version": "13",
        "sec_websocket_key": "dGhlIHNhbXBsZSBub25jZQ==",
    }  # fmt: skip
    with service.raw(head(service, "GET /v1/listen HTTP/1.1", **{**usual, **headers})) as connected:
        data = connected.recv(65_536)
    assert not data or data.startswith(b"HTTP/1.1 ")


@pytest.mark.parametrize("opcode", range(16))
def test_any_frame_is_taken_or_ends_its_websocket(service, opcode):
    rng = np.random.default_rng(opcode)
    with connect(f"{service.ws}/v1/listen") as ws:
        assert "opened" in ws.recv(timeout=WAIT_S)
        noise = bytes([0x80 | opcode, 0x80 | 100]) + rng.bytes(4) + rng.bytes(100)
        try:
            ws.socket.sendall(noise + rng.bytes(3000))
        except OSError:
            return
    settle(service, lambda: not service.server.streams)
