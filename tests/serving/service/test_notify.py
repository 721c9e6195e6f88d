"""What systemd is told, on a real socket of datagrams as systemd has one."""

import os
import socket
import time

import pytest

from edgekit.serving.service.notify import STATUS_S, Notify


class Systemd:
    """A socket that is notified, and a clock that stands until it is moved."""

    def __init__(self, address):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.setblocking(False)
        self.now = 100.0
        name = address.decode() if isinstance(address, bytes) else address
        self.environment = {"NOTIFY_SOCKET": name.replace("\0", "@", 1), "OTHER": "1"}

    def clock(self):
        return self.now

    def notify(self, **variables):
        return Notify(self.environment | variables, clock=self.clock)

    @property
    def told(self):
        """Return what came, each datagram a list of lines."""
        came = []
        try:
            while True:
                came.append(self.socket.recv(4096).decode().split("\n"))
        except BlockingIOError:
            return came


@pytest.fixture(params=["path", "abstract"])
def systemd(request, tmp_path):
    """Bind such a socket, by a path and in the abstract names of Linux."""
    systemd = Systemd(str(tmp_path / "notify") if request.param == "path" else f"\0edgekit-test-{os.getpid()}")
    yield systemd
    systemd.socket.close()


def test_a_start_a_reload_and_an_end_are_told(systemd):
    notify = systemd.notify()
    notify.ready()
    notify.reloading()
    notify.ready()
    notify.stopping()
    ready, reloading, again, stopping = systemd.told
    assert (ready, again, stopping) == (["READY=1"], ["READY=1"], ["STOPPING=1"])
    assert reloading[0] == "RELOADING=1"
    name, _, value = reloading[1].partition("=")
    assert name == "MONOTONIC_USEC"  # of the machine's clock, by which systemd tells this reload from an earlier one
    assert 0 <= time.monotonic() - int(value) / 1e6 < 60


def test_nobody_is_told_where_nobody_asked():
    notify = Notify({})
    assert not notify.on
    assert notify.watchdog_s is None
    notify.ready()
    notify.feed(lambda: pytest.fail("nobody feeds"))


def test_a_status_is_one_line_told_when_it_changes_and_seldom(systemd):
    notify = systemd.notify()
    notify.status("1 of 4\nstreams")
    notify.status("2 of 4 streams")
    assert systemd.told == [["STATUS=1 of 4 streams"]]
    systemd.now += STATUS_S
    notify.status("1 of 4\nstreams")
    assert systemd.told == []
    notify.status("2 of 4 streams")
    assert systemd.told == [["STATUS=2 of 4 streams"]]


def test_a_watchdog_is_fed_in_half_its_time_and_only_by_what_is_alive(systemd):
    notify = systemd.notify(WATCHDOG_USEC="30000000", WATCHDOG_PID=str(os.getpid()))
    assert notify.watchdog_s == 30
    fed = []
    for alive in (True, True, False, True):
        notify.feed(lambda alive=alive: alive)
        systemd.now += 14.9
        fed.append(len(systemd.told))
        notify.feed(lambda: pytest.fail("too early")) if alive else None
        systemd.now += 0.2
    assert fed == [1, 1, 0, 1]


@pytest.mark.parametrize(("microseconds", "process"), [("30000000", "1"), ("0", ""), ("", ""), ("x", ""), ("-5", "")])
def test_a_watchdog_of_another_process_or_of_no_time_is_none(systemd, microseconds, process):
    assert systemd.notify(WATCHDOG_USEC=microseconds, WATCHDOG_PID=process).watchdog_s is None


def test_a_start_is_extended_again_and_again_while_it_lasts(systemd):
    notify = systemd.notify()
    for _ in range(100):
        notify.loading()
        systemd.now += 0.25
    told = systemd.told
    assert told == [["EXTEND_TIMEOUT_USEC=30000000"]] * 3  # every ten of 25 seconds


def test_programs_that_are_started_answer_for_themselves(systemd):
    environment = systemd.environment | {"WATCHDOG_USEC": "1", "WATCHDOG_PID": "1"}
    Notify(environment)
    assert environment == {"OTHER": "1"}


def test_a_socket_that_takes_nothing_is_said_once_and_ends_nothing(tmp_path, caplog):
    notify = Notify({"NOTIFY_SOCKET": str(tmp_path / "gone"), "WATCHDOG_USEC": "1"})
    for _ in range(3):
        notify.ready()
    (record,) = caplog.records
    assert record.getMessage().startswith("systemd: not told that READY=1 (")
    for address in ("a\0b", "/" + "x" * 300, "relative\ud800"):
        Notify({"NOTIFY_SOCKET": address}).ready()


def test_a_systemd_that_does_not_read_keeps_nobody_waiting(systemd, caplog):
    notify = systemd.notify(WATCHDOG_USEC="2")
    begun = time.monotonic()
    for number in range(2000):  # more than a socket's queue holds
        systemd.now += STATUS_S
        notify.feed(lambda: True)
        notify.status(str(number))
    assert time.monotonic() - begun < 10
    assert len(caplog.records) == 1
    told = [line for (line,) in systemd.told]
    assert 2 < len(told) < 2000
    systemd.now += STATUS_S
    notify.status("1999")  # it was not taken before
    assert systemd.told == [["STATUS=1999"]]
    notify.stopping()
    assert systemd.told == [["STOPPING=1"]]
