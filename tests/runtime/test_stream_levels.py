"""Stream: the compute level follows backlog and deadline, and is told."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from edgekit.runtime.engine import Engine
from edgekit.runtime.events import Event, LevelChanged, Text
from edgekit.runtime.model import Model
from edgekit.runtime.policy import Budget
from tests.runtime.streams import (
    KINDS,
    PIECE,
    RATE,
    Logged,
    LoggedCall,
    final_texts,
    logged,
    run,
    sound_of,
    splits,
)


class Slow(Logged):
    """An Engine whose runs that give logits move a clock by ``cost_s``, as long as ``slow`` says so."""

    def __init__(self, engine: Engine, clock: list[float], cost_s: float, slow: Callable[[], bool]) -> None:
        super().__init__(engine)
        self.clock, self.cost_s, self.slow = clock, cost_s, slow

    def bind(self, sizes: Mapping[str, int]) -> "SlowCall":
        """Bind the engine that is slow."""
        return SlowCall(self.engine.bind(sizes), self)


class SlowCall(LoggedCall):
    """A Call of it."""

    def __init__(self, call: Any, engine: Slow) -> None:
        super().__init__(call, engine.calls)
        self._engine = engine

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run, and let time pass."""
        self._engine.clock[0] += self._engine.cost_s if len(inputs["logit_rows"]) and self._engine.slow() else 0.0
        return super().run(inputs)


def slowed(model: Model, clock: list[float], cost_s: float, slow: Callable[[], bool] = lambda: True) -> Model:
    """Return a model whose backbone is Slow."""
    backbone = Slow(model.engines["backbone"], clock, cost_s, slow)
    return dataclasses.replace(model, engines=model.engines | {"backbone": backbone})


def test_a_late_caller_gets_a_cheaper_level_and_is_told(load: Callable) -> None:
    model, engines = logged(load())
    stream = model.stream()
    samples = sound_of(PIECE * 2)
    events = list(
        stream.push(samples[: PIECE + 512], lag_ms=0.0)
    )  # the gate's window: one more sample ends the first piece
    assert not any(isinstance(event, LevelChanged) for event in events)
    events = list(stream.push(samples[PIECE + 512 :], lag_ms=1001.0)) + list(stream.finish())
    assert [event.level for event in events if isinstance(event, LevelChanged)] == ["light"]
    experts = [int(call["experts_per_token"][0]) for call in engines["backbone"].calls]
    assert set(experts[: len(experts) // 2]) == {2}
    assert set(experts[len(experts) // 2 :]) == {1}


def test_a_deadline_that_full_misses_leads_to_light(load: Callable) -> None:
    now = [0.0]
    stream = slowed(load(), now, 0.1).stream(budget=Budget(deadline_ms=50.0))
    stream.measure(clock=lambda: now[0])
    events = run(stream, splits(sound_of(PIECE * 3), "windows"), lag_ms=0.0)
    changed = [event.level for event in events if isinstance(event, LevelChanged)]
    assert changed == ["light"]  # after the first answer had a cost, none is free


@pytest.mark.parametrize("attention", ["cross", "prefix"])
def test_a_slow_first_answer_does_not_keep_full_away_for_good(load: Callable, attention: str) -> None:
    """Ten sounds, each answered; on a clock that only the first answer moves, by 5 s."""
    now, shown = [0.0], []

    model = slowed(load(attention), now, 5.0, lambda: not shown)
    quiet = np.zeros(2 * RATE, np.float32)
    stream = model.stream(gate="sound", budget=Budget(deadline_ms=1000.0))
    stream.measure(clock=lambda: now[0])
    events: list[Event] = []
    for seed in range(10):
        for part in splits(np.concatenate([quiet, sound_of(4000, seed)]), "windows"):
            for event in stream.push(part, lag_ms=0.0):
                events.append(event)
                shown.extend([stream.level.name] if isinstance(event, Text) and event.final else [])
    for event in stream.finish():
        events.append(event)
        shown.extend(
            [event.answer and stream._work.levels.current.name] if isinstance(event, Text) and event.final else []
        )
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
        events += list(stream.push(part))
        seen.append((stream.level.name, stream._gate.is_open))
    assert {level for level, is_open in seen if is_open} == {"full"}
    assert {level for level, is_open in seen if not is_open} == {"skip"}
    assert seen[0] == ("skip", False)
    events += list(stream.finish())
    assert stream.level.name == "skip"
    assert len(final_texts(events)) >= 2
    assert not any(isinstance(event, LevelChanged) for event in events)
    pinned = model.stream(gate="sound", level="light")
    list(pinned.push(quiet))
    assert pinned.level.name == "light"
    without = load(attention, levels=model.manifest.levels[1:]).stream(gate="sound")
    list(without.push(quiet, lag_ms=2000.0))
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
        events = list(stream.push(sound_of(PIECE), lag_ms=1e6)) + list(stream.finish())
        assert not any(isinstance(event, LevelChanged) for event in events)
        answers[level] = final_texts(events)[0].tokens
    assert answers["light"] != answers["full"]
