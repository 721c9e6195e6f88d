"""Calls that may never return: left behind, undone if they return after all, and stderr is heard meanwhile."""

import os
import threading

import pytest

from edgekit.runtime.audio.devices import calls
from edgekit.runtime.audio.devices.calls import Call, FreshProcessError, left_behind, let_go, within


@pytest.fixture
def gate():
    """Return an event that a call waits for; it is set at the end."""
    gate = threading.Event()
    yield gate
    gate.set()
    for thread in threading.enumerate():
        if thread.name == "edgekit-portaudio":
            thread.join(20)
    assert left_behind() == 0


def test_what_returns_in_time_is_returned_and_what_is_raised_is_raised():
    assert within(20, "x", lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        within(20, "x", lambda: 1 // 0)
    assert left_behind() == 0


def test_what_does_not_return_is_left_behind_with_one_line(gate):
    with pytest.raises(FreshProcessError, match=r"^speaker: PortAudio has not answered for 0.01 s; ") as raised:
        within(0.01, "speaker", gate.wait)
    assert raised.value.exit_code == 75
    assert left_behind() == 1


def test_what_returns_after_all_is_undone_by_the_thread_that_was_left_behind(gate):
    undone = []
    call = Call(gate.wait)
    call.abandon(lambda result: undone.append((result, threading.current_thread().name)))
    assert not undone
    gate.set()
    call._thread.join(20)
    assert undone == [(True, "edgekit-portaudio")]


def test_what_had_returned_when_it_was_left_is_undone_at_once():
    undone = []
    call = Call(lambda: 5)
    assert call.wait(20)
    call.abandon(undone.append)
    assert undone == [5]


def test_what_fails_after_all_has_nothing_to_undo(gate):
    call = Call(lambda: gate.wait() and 1 // 0)
    undone = []
    call.abandon(undone.append)
    gate.set()
    call._thread.join(20)
    assert undone == []


def test_a_close_that_hangs_is_left_and_one_that_does_not_is_done(gate, monkeypatch):
    monkeypatch.setattr(calls, "CLOSE_S", 0.01)
    assert let_go(lambda: None)
    assert not let_go(gate.wait)


def test_a_start_that_hangs_with_stderr_led_to_nowhere_silences_nobody(gate, capfd):
    def start():
        before = os.dup(2)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        os.close(nowhere)
        led.set()
        gate.wait()
        os.dup2(before, 2)
        os.close(before)

    led = threading.Event()
    call = Call(start)
    assert led.wait(20)
    os.write(2, b"lost\n")
    call.abandon()
    os.write(2, b"heard\n")
    gate.set()
    call._thread.join(20)
    os.write(2, b"heard after\n")
    assert capfd.readouterr().err == "heard\nheard after\n"
