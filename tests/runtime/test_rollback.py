"""Rollback: mark, anything, back, and the stream goes on bit for bit as if nothing had been."""

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgekit.bundle import Sampling
from edgekit.runtime.events import Event
from edgekit.runtime.hear.gate import Closed, Sound
from edgekit.runtime.model import Model
from edgekit.runtime.stream import Stream
from tests.runtime.streams import KINDS, PIECE, sound_of

WARM = Sampling(temperature=1.5, repetition_penalty=1.2)
_MODELS: dict[str, Model] = {}


def anything(stream: Stream, samples: int, seed: int, *, closes: bool, steps: int) -> None:
    """Let other sound of the same turn be heard, its end decided perhaps, and some of the answer be written."""
    work = stream._work
    for part in np.array_split(sound_of(samples, seed), 3):
        work.put(Sound(part, sounding=True))
    if closes:
        end = work._piece_end + samples
        work.put(Closed(end, end))
    while work._items:
        work.step()
    for _ in range(steps):
        if work._task is not None:
            work.step()
    work.made.clear()


def kept(load: Callable, attention: str, fields: dict[str, Any]) -> Model:
    """Return the model of a kind, loaded once: hypothesis comes again and again."""
    name = f"{attention} {fields}"
    if name not in _MODELS:
        _MODELS[name] = load(attention, **fields, context_tokens=120)
    return _MODELS[name]


@settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(KINDS),
    before=st.integers(600, 3000),
    junk=st.integers(0, 2800),
    rest=st.integers(0, 4000),
    closes=st.booleans(),
    steps=st.integers(0, 20),
    draws=st.booleans(),
    partials=st.booleans(),
)
def test_what_goes_on_from_a_mark_is_what_would_have_been(
    load: Callable, *, kind: tuple[str, dict[str, Any]], before: int, junk: int, rest: int, closes: bool, steps: int,
    draws: bool, partials: bool,
) -> None:  # fmt: skip
    model = kept(load, *kind)
    options: dict[str, Any] = {"level": "full", "gate": "off"}
    options |= {"sampling": WARM, "seed": 3} if draws else {}
    options |= {"partials": partials and kind[0] == "cross"}
    first, last = sound_of(before), sound_of(rest, seed=1)
    plain, stream = (model.stream(**options) for _ in range(2))
    for one in (plain, stream):
        one.measure(clock=lambda: 0.0)
    expected = list(plain.push(first)) + list(plain.push(last)) + list(plain.finish())
    events: list[Event] = list(stream.push(first))
    mark = stream.mark()
    frames = stream.frames_computed
    anything(stream, junk, 7, closes=closes, steps=steps)
    stream.back(mark)
    assert stream.frames_computed >= frames  # a measure of work, which was done
    anything(stream, junk // 2, 8, closes=not closes, steps=steps // 2)
    stream.back(mark)  # a mark may serve again
    events += list(stream.push(last)) + list(stream.finish())
    assert events == expected


def test_turns_and_draws_after_a_mark_are_remembered_as_if_nothing_had_been(load: Callable) -> None:
    fields = {"again": "<stop>", "turn": "<start>{role}{text}<stop>", "roles": {"user": "u"}, "max_tokens": 5}
    protocol = msgspec.structs.replace(load("prefix", context_tokens=400).manifest.protocol, **fields)
    model = load("prefix", protocol=protocol)
    said: list[list[Event]] = []
    for disturbs in (False, True):
        stream = model.stream(level="full", turns="all", sampling=WARM, seed=1)
        events = list(stream.ask("a")) + list(stream.push(sound_of(2000)))
        if disturbs:
            mark = stream.mark()
            anything(stream, 1500, 5, closes=True, steps=3)
            stream.back(mark)
        events += list(stream.push(sound_of(2000, seed=2))) + list(stream.finish())
        said.append(events)
    assert said[0] == said[1]


def test_a_mark_dies_with_its_turn(load: Callable) -> None:
    stream = load().stream(level="full", gate="off")
    list(stream.push(sound_of(1000)))
    mark = stream.mark()
    list(stream.push(sound_of(PIECE)))
    with pytest.raises(AssertionError, match="a mark dies with its turn"):
        stream.back(mark)


def test_a_mark_is_made_between_items(load: Callable) -> None:
    stream = load().stream(level="full", gate="off")
    stream.push(sound_of(PIECE * 2))
    while stream._work._task is None:
        stream.step()
    with pytest.raises(AssertionError, match="between two items"):
        stream.mark()
