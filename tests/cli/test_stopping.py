"""A run that is stopped reads nothing more, and hears out what it has read."""

import importlib
import os
import signal
import sys
import threading

import pytest
from cffi import FFI

from edgekit.cli.stopping import Stopping, stopped_by_signals
from edgekit.ending import Ended, ended_by_signals


def test_what_is_read_before_the_stop_is_handed_out_and_nothing_behind_it():
    stopping, read = Stopping(), []
    for piece in stopping.until(iter(range(7))):
        read.append(piece)
        if piece == 3:
            stopping.stop()
    assert read == [0, 1, 2, 3]
    assert stopping.stopped
    assert list(stopping.until(iter(range(7)))) == []


def test_all_of_it_is_read_where_nobody_stops_it():
    stopping = Stopping()
    assert list(stopping.until(iter(range(7)))) == list(range(7))
    assert not stopping.stopped


def test_a_read_that_never_ends_is_ended():
    """A pipe that nobody writes to."""
    stopping = Stopping()
    reader, writer = os.pipe()

    def pieces():
        yield b"first"
        signal.raise_signal(signal.SIGTERM)
        yield os.read(reader, 1)

    try:
        with stopped_by_signals(stopping) as received:
            assert list(stopping.until(pieces())) == [b"first"]
        assert received.number == signal.SIGTERM
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_a_callback_of_c_swallows_comes_again(number):
    """As libsndfile's do while a recording is read: what is raised in them goes nowhere."""
    before = sys.unraisablehook
    swallow = FFI().callback("int(int)", lambda _: signal.raise_signal(number) or 0)

    def work():
        swallow(1)
        threading.Event().wait(60)

    with pytest.raises(Ended) as end:
        ended_by_signals(work)
    assert end.value.number == number
    assert sys.unraisablehook is before
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_an_error_that_a_library_makes_of_a_signal_is_no_error():
    def work():
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt:
            raise ImportError("initialization failed") from None

    with pytest.raises(Ended):
        ended_by_signals(work)


def test_a_signal_waits_while_a_library_is_loaded(tmp_path, monkeypatch):
    """What it raised there could leave one that is loaded by half."""
    (tmp_path / "slow_library.py").write_text("import signal\nsignal.raise_signal(signal.SIGTERM)\nloaded = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    loaded = []

    def work():
        loaded.append(importlib.import_module("slow_library").loaded)
        threading.Event().wait(60)

    with pytest.raises(Ended):
        ended_by_signals(work)
    assert loaded == [True]


def test_a_failure_before_any_signal_is_told_as_it_is():
    with pytest.raises(Ended):
        ended_by_signals(lambda: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(ZeroDivisionError):
        ended_by_signals(lambda: 1 // 0)
