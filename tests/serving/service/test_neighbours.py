"""Several protocols on one loop: bound together or not at all, each fault of an address in one line."""

import asyncio
import errno
import socket
import threading
import time

import pytest

from edgekit.errors import ListenError, UsageError
from edgekit.serving.service.neighbours import Neighbours, Place, bind_error


class Echo:
    """A neighbour that says everything again."""

    name = "echo"

    def __init__(self, host="127.0.0.1", port=0):
        self.host, self.port = host, port
        self.server = None
        self.thread = None
        self.stopped = False

    async def start(self):
        self.thread = threading.current_thread()
        self.server = await asyncio.start_server(self._echo, self.host, self.port)
        self.port = self.server.sockets[0].getsockname()[1]
        return f"echo://{self.host}:{self.port}"

    async def stop(self):
        self.stopped = True
        self.server.close()

    async def _echo(self, reader, writer):
        while data := await reader.read(100):
            writer.write(data)
        writer.close()


class Stubborn(Echo):
    """One that does not stop."""

    async def stop(self):
        self.server.close()
        await asyncio.Event().wait()


def place(neighbour):
    return Place(neighbour, neighbour.host, neighbour.port, "for everybody")


def said(port):
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        client.sendall(b"hello")
        return client.recv(100)


def test_all_of_them_answer_on_one_thread_until_they_are_stopped():
    one, other = Echo(), Echo()
    neighbours = Neighbours([place(one), place(other)])
    shown = neighbours.start()
    assert [address for _, address in shown] == [f"echo://127.0.0.1:{one.port}", f"echo://127.0.0.1:{other.port}"]
    assert said(one.port) == said(other.port) == b"hello"
    assert one.thread is other.thread is not threading.current_thread()
    assert neighbours.alive(time.monotonic(), 5.0)
    neighbours.stop()
    assert one.stopped
    assert other.stopped
    assert not neighbours.alive(time.monotonic(), 5.0)
    with pytest.raises(OSError):  # noqa: PT011 - refused or reset
        said(one.port)
    neighbours.stop()  # again is nothing


def test_a_second_server_on_a_port_is_one_line_and_lets_go_of_what_was_bound():
    with socket.socket() as first:
        first.bind(("127.0.0.1", 0))
        first.listen()
        port = first.getsockname()[1]
        free, taken = Echo(), Echo(port=port)
        neighbours = Neighbours([place(free), place(taken)])
        with pytest.raises(ListenError) as raised:
            neighbours.start()
        assert str(raised.value) == (
            f"echo: 127.0.0.1:{port}: another program, or a second server, listens there; end it, or choose another "
            "port with --echo"
        )
        assert free.stopped
        assert not neighbours.alive(time.monotonic(), 5.0)


@pytest.mark.parametrize(("host", "words"), [
    ("192.0.2.1", "no address of this machine"), ("no-such-host.invalid", "no such host"),
    ("a" * 70 + ".b", ""), ("2001:db8::1", ""),
])  # fmt: skip
def test_an_address_that_is_not_this_machine_s_is_one_line(host, words):
    with pytest.raises(ListenError) as raised:
        Neighbours([place(Echo(host=host))]).start()
    text = str(raised.value)
    assert words in text
    assert "\n" not in text
    assert text.startswith("echo: ")


def test_what_an_error_of_the_system_means_is_said_with_a_next_step():
    for number, port, words in (
        (errno.EACCES, 80, "not allowed, ports below 1024 are the system's; choose another port with --http"),
        (errno.EACCES, 8080, "not allowed, this user may not; choose another port with --http"),
        (errno.EAFNOSUPPORT, 80, "has no such network; choose another address"),
        (errno.ENFILE, 80, "cannot listen there (Too many open files in system)"),
    ):
        assert words in str(bind_error("http", "::1", port, OSError(number, "Too many open files in system")))
    assert str(bind_error("http", "::1", 80, OSError(errno.EACCES, ""))).startswith("http: [::1]:80: ")


def test_an_error_of_our_own_passes_as_it_is():
    class Refusing(Echo):
        async def start(self):
            raise UsageError("token: none; give one")

    with pytest.raises(UsageError, match="^token: none; give one$"):
        Neighbours([place(Refusing())]).start()


def test_one_that_does_not_stop_is_left_and_said(caplog):
    stubborn, other = Stubborn(), Echo()
    neighbours = Neighbours([place(other), place(stubborn)])
    neighbours.start()
    begun = time.monotonic()
    neighbours.stop(0.3)
    assert time.monotonic() - begun < 3
    assert other.stopped
    assert [one.getMessage() for one in caplog.records] == ["echo: not stopped in good order (TimeoutError)"]


def test_a_loop_that_is_held_up_is_not_alive():
    held = threading.Event()
    neighbours = Neighbours([place(echo := Echo())])
    neighbours.start()
    try:
        loop = echo.server.get_loop()
        loop.call_soon_threadsafe(held.wait, 20)
        assert not neighbours.alive(time.monotonic() + 21, 20.0)
    finally:
        held.set()
        neighbours.stop()
