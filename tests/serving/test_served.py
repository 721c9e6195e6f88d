"""A stream is over when its last event can be read, and not before, whichever thread looks when."""

import time

import numpy as np
import pytest

from edgekit.runtime.events import Text
from edgekit.serving.limits import Limits
from edgekit.serving.served import Ended, Served
from tests.runtime.streams import KINDS, run, sound_of


def looked_at(model, look):
    """Return a Served; ``look`` is called whenever a clock is read: within a step too, and before its events."""
    stream = model.stream(level="full")

    def clock():
        look()
        return time.monotonic()

    stream._work_trace.clock = clock
    return Served(stream, Limits(), "test", live=False, wake=lambda: None, stir=lambda: None, clock=clock)


@pytest.mark.parametrize(("attention", "grid"), KINDS)
def test_a_look_between_a_step_and_its_events_ends_nothing(load, attention, grid):
    """The taking thread looks too; it once found the stream done whose last text was still in the worker's hands."""
    model, box, read = load(attention, **grid), [], []

    def look():
        if box and not read:
            box[0].look(time.monotonic())
            if box[0].ended is not None:  # a reader that sees the end reads what there is, and goes
                read.append([])
                read[0] += box[0].read()

    served = looked_at(model, look)
    sound = sound_of(9000)
    served.push(sound)
    served.finish()
    while served.take():
        pass
    box.append(served)
    made = []
    while served.ended is None:
        served.work()
        made += [] if served.ended else served.read()
    made += read[0] if read else served.read()
    assert served.ended == Ended("finished")
    expected = [event.text for event in run(model.stream(level="full"), [sound]) if isinstance(event, Text)]
    assert [event.text for event in made if isinstance(event, Text)] == expected
    assert expected


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
