"""A stream is over when its last event can be read, and not before, whichever thread looks when."""

import sys
import time
from contextlib import contextmanager

import numpy as np
import pytest

from edgekit.runtime.events import Text
from edgekit.serving.limits import Limits
from edgekit.serving.served import Ended, Served
from tests.runtime.streams import KINDS, run, sound_of


@contextmanager
def at_every_line(call):
    """Call something before every line of ours, as another thread might have its turn there."""

    def line(frame, event, argument):
        if event == "line":
            sys.settrace(None)
            call()
            sys.settrace(trace)
        return line

    def trace(frame, event, argument):
        return line if "/edgekit/" in frame.f_code.co_filename else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


@pytest.mark.parametrize(("attention", "grid"), KINDS)
def test_whoever_looks_within_a_step_ends_nothing_that_has_events_to_come(load, attention, grid):
    """The taking thread looks too, whenever it likes, and a reader that sees the end reads what there is and goes."""
    model, sound = load(attention, **grid), sound_of(2500)
    box, made = [], []
    served = Served(
        model.stream(level="full"), Limits(), "test", live=False, wake=lambda: None, stir=lambda: None,
        clock=time.monotonic,
    )  # fmt: skip
    served.push(sound)
    served.finish()
    while served.take():
        pass

    def look():
        if not box:
            served.look(time.monotonic())
            if served.ended is not None:
                box.append(served.read())

    while not box:
        with at_every_line(look):
            served.work()
        made += [] if box else served.read()
        look()
    expected = run(model.stream(level="full"), [sound])
    assert [event.kind for event in [*made, *box[0]]] == [event.kind for event in expected]
    assert served.ended == Ended("finished")


@pytest.mark.parametrize(("attention", "grid"), KINDS)
def test_a_stream_is_not_done_while_its_end_is_being_taken(load, attention, grid):
    stream, done = load(attention, **grid).stream(level="full"), []
    stream.push(np.zeros(0, np.float32))
    list(stream.push(sound_of(2000)))

    def clock():
        done.append(stream.done)
        return time.perf_counter()

    stream._take_trace.clock = clock
    stream.finish()
    assert done
    assert not any(done)
    assert [event for event in stream.events() if isinstance(event, Text)]
    assert stream.done
