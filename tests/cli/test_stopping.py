"""A run that is stopped reads nothing more, and hears out what it has read."""

import os
import signal

from edgekit.cli.stopping import Stopping
from edgekit.runtime.daemon import stopped_by_signals


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
