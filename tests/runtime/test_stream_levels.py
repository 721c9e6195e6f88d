"""Stream: the compute level follows backlog and deadline, and is told."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgekit.runtime.events import LevelChanged, Text
from edgekit.runtime.policy import Budget
from tests.runtime.streams import (
    KINDS,
    PIECE,
    RATE,
    final_texts,
    logged,
    run,
    sound_of,
    splits,
)


def test_a_late_caller_gets_a_cheaper_level_and_is_told(load: Callable) -> None:
    model, engines = logged(load())
    stream = model.stream()
    samples = sound_of(PIECE * 2)
    events = stream.push(samples[: PIECE + 512], lag_ms=0.0)  # the gate's window: one more sample ends the first piece
    assert not any(isinstance(event, LevelChanged) for event in events)
    events = stream.push(samples[PIECE + 512 :], lag_ms=1001.0) + stream.finish()
    assert [event.level for event in events if isinstance(event, LevelChanged)] == ["light"]
    experts = [int(call["experts_per_token"][0]) for call in engines["backbone"].calls]
    assert set(experts[: len(experts) // 2]) == {2}
    assert set(experts[len(experts) // 2 :]) == {1}


def test_a_deadline_that_full_misses_leads_to_light(load: Callable) -> None:
    model = load()
    stream = model.stream(budget=Budget(deadline_ms=0.0))
    events = run(stream, [sound_of(PIECE * 3)])
    changed = [event.level for event in events if isinstance(event, LevelChanged)]
    assert changed == ["light"]  # after the first answer had a cost, none is free


@pytest.mark.parametrize("attention", ["cross", "prefix"])
def test_a_slow_first_answer_does_not_keep_full_away_for_good(load: Callable, attention: str) -> None:
    """Ten sounds, each answered; on a clock that only the first answer moves, by 5 s."""
    model = load(attention)
    now, shown = [0.0], []
    quiet = np.zeros(2 * RATE, np.float32)

    def show(text: Text) -> None:
        now[0] += 0.0 if text.final or shown else 5.0
        shown.extend([stream.level.name] if text.final else [])

    stream = model.stream(gate="sound", budget=Budget(deadline_ms=1000.0), on_text=show)
    stream.trace.clock = lambda: now[0]
    events = run(stream, [np.concatenate([quiet, sound_of(4000, seed)]) for seed in range(10)])
    assert len(shown) >= 10
    assert shown[:6] == ["full", *["light"] * 4, "full"]
    assert set(shown[5:]) == {"full"}
    changes = [event.level for event in events if isinstance(event, LevelChanged)]
    assert (changes[0], changes[-1]) == (
        "light",
        "full",
    )  # between them a prefix model hears at full, for that is cheap


@pytest.mark.parametrize("attention", ["cross", "prefix"])
def test_the_level_is_skip_while_the_gate_is_closed_and_that_is_no_change(load: Callable, attention: str) -> None:
    model, quiet = load(attention), np.zeros(2 * RATE, np.float32)
    stream = model.stream(gate="sound")
    events, seen = [], []
    for part in (quiet, sound_of(4000), quiet, quiet, sound_of(4000, seed=1), quiet):
        events += stream.push(part)
        seen.append((stream.level.name, stream._gate.is_open))
    assert {level for level, is_open in seen if is_open} == {"full"}
    assert {level for level, is_open in seen if not is_open} == {"skip"}
    assert seen[0] == ("skip", False)
    events += stream.finish()
    assert stream.level.name == "skip"
    assert len(final_texts(events)) >= 2
    assert not any(isinstance(event, LevelChanged) for event in events)
    pinned = model.stream(gate="sound", level="light")
    pinned.push(quiet)
    assert pinned.level.name == "light"
    without = load(attention, levels=model.manifest.levels[1:]).stream(gate="sound")
    without.push(quiet, lag_ms=2000.0)
    assert without.level.name == "full"  # the last that worked, for none is asked to


@pytest.mark.parametrize(("attention", "fields"), KINDS)
def test_any_split_gives_identical_events_whether_silence_is_skipped_or_not(
    load: Callable, attention: str, fields: dict[str, Any]
) -> None:
    model, quiet = load(attention, **fields), np.zeros(12_000, np.float32)
    samples = np.concatenate([quiet, sound_of(PIECE + 777), quiet, quiet, sound_of(3000, seed=1), quiet[:801]])
    whole = run(model.stream(gate="sound"), [samples])
    assert whole == run(model.stream(gate="sound", level="full"), [samples])
    for kind in ("halves", "random", "near-chunks"):
        assert run(model.stream(gate="sound"), splits(samples, kind)) == whole, kind


def test_a_pinned_level_stays_whatever_the_lag_and_changes_the_answer(load: Callable) -> None:
    model = load()
    answers = {}
    for level in ("light", "full"):
        stream = model.stream(level=level)
        events = stream.push(sound_of(PIECE), lag_ms=1e6) + stream.finish()
        assert not any(isinstance(event, LevelChanged) for event in events)
        answers[level] = final_texts(events)[0].tokens
    assert answers["light"] != answers["full"]
