"""Partial text and an end of speech in two steps together: each keeps its promise whatever the other one does."""

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgekit.bundle import GateSettings
from edgekit.runtime.answer.early import partials
from edgekit.runtime.events import Event, LevelChanged, Provisional, Text, Withdrawn
from edgekit.runtime.hear.ending import EndingRule
from edgekit.runtime.model import Model
from edgekit.runtime.policy import Budget
from edgekit.runtime.stream import Stream
from tests.runtime.answer.early.test_partials_contract import KINDS, finals, grows, holds, wordy
from tests.runtime.answer.early.test_provisional import (
    EARLIER,
    GATE,
    RULE,
    WINDOW,
    Writing,
    account,
    as_script,
    assert_in_order,
    comparable,
    in_windows,
    run,
    said,
    steered,
)
from tests.runtime.dictation import Written, dictate, dictating, in_segments, sound, speech

PROPERTY: dict[str, Any] = {
    "deadline": None, "derandomize": True, "suppress_health_check": [HealthCheck.function_scoped_fixture],
}  # fmt: skip
PARTS = st.lists(st.tuples(st.integers(1, 14), st.integers(0, 12)), min_size=1, max_size=5)
CUTS = st.lists(st.integers(1, 20_000), max_size=20)
READS = st.lists(st.sampled_from([-1, 0, 1, 2, 5]), min_size=1, max_size=5)
SPOKEN = speech(26.0)


@pytest.fixture(autouse=True)
def quick_talkers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let many letters be said in the tenths of a second that the tiny grid hears."""
    monkeypatch.setattr(partials, "TOKENS_PER_S", 80)


def stream_of(
    load: Callable[..., Model], kind: str, asked: Any, rule: EndingRule | None = RULE, gate: GateSettings = GATE
) -> Stream:
    """Return a stream of a kind with partials as they are asked for, whose gate can be steered."""
    attention, fields, options = KINDS[kind]
    model = wordy(load, attention, **fields)
    return steered(model.stream(**(options | {"level": "full", "gate": "sound", "partials": asked})), rule, gate)


def keeps(events: Sequence[Event], asked: str) -> None:
    """Hold every event to what was promised before it."""
    grows(list(events))
    assert_in_order(list(events))
    if asked == "committed":
        holds(list(events))
    stood: dict[int, str] = {}
    for event in events:
        if isinstance(event, Text):
            stood[event.answer] = event.stable_text
        if isinstance(event, Provisional) and asked == "committed":
            assert event.text.startswith(stood.get(event.answer, ""))


@settings(max_examples=150, **PROPERTY)
@given(
    kind=st.sampled_from(sorted(KINDS)), asked=st.sampled_from(["agreed", "committed"]), parts=PARTS, cuts=CUTS,
    reads=READS, seed=st.integers(0, 30),
)  # fmt: skip
def test_every_split_gives_the_same_events_and_each_keeps_its_promise(
    load: Callable[..., Model], *, kind: str, asked: str, parts: list[tuple[int, int]], cuts: list[int],
    reads: list[int], seed: int,
) -> None:  # fmt: skip
    heard = said(as_script(parts), seed)
    whole = in_windows(stream_of(load, kind, asked), heard)
    events = run(stream_of(load, kind, asked), heard, cuts, reads)
    assert comparable(events) == comparable(whole)
    for one in (whole, events):
        keeps(one, asked)
    if asked == "agreed":
        assert finals(events) == finals(in_windows(stream_of(load, kind, False), heard))


@settings(max_examples=100, **PROPERTY)
@given(
    kind=st.sampled_from(sorted(KINDS)), asked=st.sampled_from(["agreed", "committed"]), cuts=CUTS, reads=READS,
    parts=st.lists(st.tuples(st.integers(1, 14), st.integers(0, 7)), min_size=1, max_size=5), seed=st.integers(0, 30),
)  # fmt: skip
def test_what_stood_before_a_pause_stands_after_it_as_if_it_had_not_been(
    load: Callable[..., Model], *, kind: str, asked: str, parts: list[tuple[int, int]], cuts: list[int],
    reads: list[int], seed: int,
) -> None:  # fmt: skip
    heard = said(as_script(parts) + "#", seed)  # it ends in sound: no pause is an end
    never = in_windows(stream_of(load, kind, asked, None), heard)
    events = run(stream_of(load, kind, asked), heard, cuts, reads)
    assert comparable(events) == comparable(never)


@settings(max_examples=100, **PROPERTY)
@given(
    kind=st.sampled_from(sorted(KINDS)), asked=st.sampled_from(["agreed", "committed"]), cuts=CUTS, reads=READS,
    parts=st.lists(
        st.tuples(st.integers(1, 14), st.integers(0, 12).filter(lambda silent: silent < 3 or silent > 7)),
        min_size=1, max_size=5,
    ),
    seed=st.integers(0, 30),
)  # fmt: skip
def test_an_end_that_is_confirmed_has_the_text_of_a_gate_that_closes_there(
    load: Callable[..., Model], *, kind: str, asked: str, parts: list[tuple[int, int]], cuts: list[int],
    reads: list[int], seed: int,
) -> None:  # fmt: skip
    heard = said(as_script(parts), seed)
    closing = in_windows(stream_of(load, kind, asked, None, EARLIER), heard)
    assert comparable(run(stream_of(load, kind, asked), heard, cuts, reads)) == comparable(closing)


def test_words_stand_before_a_pause_that_is_taken_back_and_before_one_that_is_not(load: Callable[..., Model]) -> None:
    """The properties above would hold of a stream that shows nothing."""
    stood: Counter[str] = Counter()
    for kind in sorted(KINDS):
        for seed in range(6):
            shown = ""
            for event in in_windows(stream_of(load, kind, "committed"), said("#" * 14 + "......####........", seed)):
                match event:
                    case Text(final=False):
                        shown = event.stable_text
                    case Provisional():
                        before = shown
                    case Withdrawn():
                        stood["taken back"] += bool(before)
                    case Text():
                        stood["confirmed"] += bool(shown)
                        stood[kind] += bool(shown)
    assert stood["taken back"] > 20
    assert stood["confirmed"] > 20
    assert sum(stood[kind] > 0 for kind in KINDS) > len(KINDS) // 2


WRITERS = {
    "segments": in_segments,
    "late": lambda piece: in_segments(piece, 11, closes_last=False),
    "longer words later": lambda piece: longer(piece.words, piece.end_s),
}


def longer(words: Sequence[Any], end_s: float) -> Written:
    """Write other words the longer the piece is."""
    return [(f"{word.text}{'x' * (at < end_s - 5)}", (word.start_s + word.end_s) / 2) for at, word in enumerate(words)]


def paused(pauses: Sequence[tuple[int, int]]) -> np.ndarray:
    """Return the sound of words, with silence of so many windows at so many hundredths of a second."""
    heard = sound(SPOKEN)
    heard[::WINDOW] = 0.4
    for at, windows in pauses:
        start = at * RATE_CS // WINDOW * WINDOW
        heard[start : start + windows * WINDOW] = 0.001
    return heard


RATE_CS = 160
LONG: dict[str, Any] = {
    "name": st.sampled_from(sorted(WRITERS)),
    "resumes": st.booleans(),
    "times": st.sampled_from([None, "segments", "words"]),
    "asked": st.sampled_from(["agreed", "committed"]),
    "pauses": st.lists(st.tuples(st.integers(20, 2500), st.integers(3, 7)), min_size=1, max_size=4),
    "steps": st.sampled_from([-1, 0, 1, 3]),
}


@settings(max_examples=30, **PROPERTY)
@given(**LONG)
def test_speech_beyond_a_piece_keeps_what_stood_through_pauses(
    load: Callable[..., Model], *, name: str, resumes: bool, times: Any, asked: str, pauses: list[tuple[int, int]],
    steps: int,
) -> None:  # fmt: skip
    times = None if times == "segments" and not resumes else times
    model, heard = dictating(load, resumes=resumes, aligns=True), paused(pauses)

    def make(asked: Any, rule: EndingRule | None) -> Stream:
        stream = dictate(model, SPOKEN, WRITERS[name], times=times, partials=asked, gate="sound").stream
        return steered(stream, rule)

    never = run(make(asked, None), heard, list(range(1600, len(heard), 1600)), [-1])
    events = run(make(asked, RULE), heard, list(range(700, len(heard), 1100)), [-1, steps])
    assert comparable(events) == comparable(never)
    keeps(events, asked)


@settings(max_examples=80, **PROPERTY)
@given(
    asked=st.sampled_from(["agreed", "committed"]), seed=st.integers(0, 20),
    acts=st.lists(
        st.tuples(
            st.sampled_from(["push", "ask", "tool", "interrupt", "hush", "speak", "lose"]),
            st.integers(1, 9), st.integers(0, 12), st.sampled_from([-1, 0, 1, 3]),
        ),
        min_size=2, max_size=8,
    ),
    ends=st.sampled_from(["finish", "close", "close in a pause"]),
)  # fmt: skip
def test_whatever_is_asked_or_interrupted_in_a_pause_the_account_balances(
    load: Callable[..., Model], *, asked: str, seed: int, acts: list[tuple[str, int, int, int]], ends: str
) -> None:
    model = wordy(load, "prefix", again="<stop>", turn="<start>{role}{text}<stop>", roles={"user": "u", "tool": "t"})
    stream = steered(model.stream(prompt="transcribe", turns="all", gate="sound", level="full", partials=asked))
    events: list[Event] = []
    for at, (act, loud, silent, steps) in enumerate(acts):
        heard = said("#" * loud + "." * silent, seed + at)
        match act:
            case "ask" | "tool":
                stream.ask("ab", role="user" if act == "ask" else "tool")
            case "interrupt":
                stream.interrupt(max([1, *(event.answer for event in events if isinstance(event, Text))]))
            case "hush" | "speak":
                stream.hushed = act == "hush"
        stream.push(heard, dropped_samples=320 if act == "lose" else 0)
        account(stream)
        while stream.pending and steps:
            events += stream.step()
            account(stream)
            steps -= 1  # noqa: PLW2901 - what is left of them
    if ends == "close in a pause":
        stream.push(said("####....."))
        events += stream.step()
    if ends != "finish":
        stream.close()
        account(stream)
        assert not stream.pending
        return
    stream.finish()
    while stream.pending:
        events += stream.step()
        account(stream)
    assert stream.samples_waiting == 0
    assert stream.samples_abandoned == 0
    shown = [event for event in events if isinstance(event, (Provisional, Withdrawn))]
    assert all(
        isinstance(before, Provisional)
        for before, event in itertools.pairwise([None, *shown])
        if isinstance(event, Withdrawn)
    )


@pytest.mark.parametrize(("prompt", "decided_s"), [("transcribe", 0.18), (None, 0.22)])
def test_a_sentence_that_ends_is_a_sign_of_a_model_that_converses_where_it_writes_down(
    load: Callable[..., Model], prompt: str | None, decided_s: float
) -> None:
    """Three windows of silence are enough then; the sentence of an answer is the model's own."""
    model = wordy(load, "prefix")
    model = replace(model, tokenizer=Writing(model.tokenizer, "!"))  # type: ignore[arg-type]
    stream = steered(model.stream(prompt=prompt, gate="sound", level="full"))
    (event,) = (event for event in in_windows(stream, said("######.........")) if isinstance(event, Provisional))
    assert event.decided_at_s == decided_s


@pytest.mark.parametrize("kind", ["dictation", "plain"])
def test_silence_that_was_held_back_in_a_pause_makes_nothing_late(load: Callable[..., Model], kind: str) -> None:
    """No cheaper compute level is chosen for it: the device was not too slow."""
    attention, fields, options = KINDS[kind]
    model, heard = (
        wordy(load, attention, **fields),
        said("##########" + "." * 20 + "#####" + "." * 18 + "#####" + "." * 24),
    )
    gate = msgspec.structs.replace(GATE, min_silence_ms=480)
    for rule in (None, RULE):
        budget = Budget(deadline_ms=60.0)
        stream = steered(model.stream(**(options | {"gate": "sound", "budget": budget})), rule, gate)
        events: list[Event] = []
        for part in np.split(heard, range(WINDOW, len(heard), WINDOW)):
            events += stream.push(part, lag_ms=0.0)
        if rule is not None:
            assert any(isinstance(event, Withdrawn) for event in events)
        assert not any(isinstance(event, LevelChanged) for event in events)
        stream.close()
