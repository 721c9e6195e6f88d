"""Stream: every split gives the same events, work happens while sound comes in, streams share nothing."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec
import numpy as np
import pytest
import soundfile

import edgekit
from edgekit.bundle import ComputeLevel
from edgekit.errors import AudioError, BundleFormatError, UsageError
from edgekit.runtime.engine import Engine
from edgekit.runtime.events import Event, Lag, LevelChanged, SpeechStarted, SpeechStopped, Text
from edgekit.runtime.model import Model
from edgekit.runtime.policy import Budget
from edgekit.runtime.sampler import Greedy
from edgekit.runtime.stream import Stream

RATE = 16_000
HOP = 160
PIECE = 40 * HOP  # the tiny grid's longest piece: 0.4 s
CHUNK = 8 * HOP


class Logged:
    """An Engine that passes every call on and keeps a copy of what went in."""

    def __init__(self, engine: Engine) -> None:
        self.component = engine.component
        self.engine = engine
        self.calls: list[dict[str, np.ndarray]] = []

    def bind(self, sizes: Mapping[str, int]) -> "LoggedCall":
        """Bind the engine that is logged."""
        return LoggedCall(self.engine.bind(sizes), self.calls)


class LoggedCall:
    """A Call of a Logged engine."""

    def __init__(self, call: Any, calls: list[dict[str, np.ndarray]]) -> None:
        self._call, self._calls = call, calls

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Log and run."""
        self._calls.append({name: array.copy() for name, array in inputs.items()})
        return self._call.run(inputs)

    def reset(self) -> None:
        """Reset the call that is logged."""
        self._call.reset()


def _logged(model: Model) -> tuple[Model, dict[str, Logged]]:
    engines = {name: Logged(engine) for name, engine in model.engines.items()}
    return dataclasses.replace(model, engines=engines), engines


@pytest.fixture
def load(tiny_bundle: Callable) -> Callable[..., Model]:
    """Return a function that loads a tiny bundle; its arguments are those of tiny_bundle."""

    def tiny(attention: str = "cross", **fields: Any) -> Model:
        return edgekit.load(tiny_bundle(attention, **fields).folder, threads=1)

    return tiny


def _sound(samples: int, seed: int = 0, loudness: float = 0.3) -> np.ndarray:
    """Return noise whose loudness and colour change, so that every stretch of it is different."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal(samples)
    swell = 1 + np.sin(np.arange(samples) * rng.uniform(0.001, 0.003))
    return (loudness * swell * np.sin(np.cumsum(0.2 + 0.15 * swell) + 0.3 * noise)).astype(np.float32)


def _splits(samples: np.ndarray, kind: str) -> Iterator[np.ndarray]:
    """Yield ``samples`` in parts."""
    rng = np.random.default_rng(7)
    if kind == "samples":
        yield from np.split(samples, len(samples))
        return
    sizes = {"chunks": (CHUNK,), "near-chunks": (CHUNK - 1, CHUNK + 1), "halves": (-(-len(samples) // 2),)}.get(kind)
    while len(samples):
        size = int(rng.choice(sizes or (0, 0, 1, 159, 160, 161, 511, 512, 2000, 7000)))
        yield samples[:size]
        samples = samples[size:]
    yield samples


def _run(stream: Stream, parts: Iterator[np.ndarray] | list[np.ndarray]) -> list[Event]:
    events = [event for part in parts for event in stream.push(part)]
    return events + stream.finish()


def _finals(events: list[Event]) -> list[Text]:
    return [event for event in events if isinstance(event, Text) and event.final]


def _spoken(events: list[Event]) -> str:
    return " | ".join(text.text for text in _finals(events))


KINDS = [
    ("cross", {}),
    ("prefix", {}),
    ("prefix", {"masks_last_position": True}),
]


@pytest.mark.parametrize("gate", ["off", "sound"])
@pytest.mark.parametrize(("attention", "fields"), KINDS)
def test_any_split_gives_identical_events(load: Callable, attention: str, fields: dict[str, Any], gate: str) -> None:
    model = load(attention, **fields)
    quiet = np.zeros(12_000, np.float32)
    samples = np.concatenate([quiet, _sound(PIECE * 2 + 777), quiet, _sound(3000, seed=1), quiet[:801]])
    whole = _run(model.stream(gate=gate, level="full"), [samples])
    assert len(set(_spoken(whole).split(" | "))) > 1  # the sound does decide the text
    for kind in ("halves", "random", "chunks", "near-chunks"):
        assert _run(model.stream(gate=gate, level="full"), _splits(samples, kind)) == whole, kind


@pytest.mark.parametrize(("attention", "fields"), KINDS)
def test_pushing_single_samples_gives_identical_events(load: Callable, attention: str, fields: dict[str, Any]) -> None:
    model = load(attention, **fields)
    samples = _sound(PIECE + CHUNK + 3)
    whole = _run(model.stream(level="full"), [samples])
    assert _run(model.stream(level="full"), _splits(samples, "samples")) == whole


@pytest.mark.parametrize("length", [0, 1, HOP - 1, HOP, HOP + 1, CHUNK, CHUNK + HOP, PIECE - 1, PIECE, PIECE + 1])
@pytest.mark.parametrize("attention", ["cross", "prefix"])
def test_awkward_lengths_are_answered_in_as_many_pieces_as_they_have(
    load: Callable, attention: str, length: int
) -> None:
    model = load(attention)
    events = _run(model.stream(level="full"), [_sound(length)])
    assert events == _run(model.stream(level="full"), _splits(_sound(length), "random"))
    finals = _finals(events)
    assert len(finals) == (-(-length // PIECE) if attention == "cross" else min(length, 1))
    if length:
        assert (finals[0].start_s, finals[-1].end_s) == (0.0, length / RATE)


def test_another_rate_and_more_channels_split_the_same(load: Callable) -> None:
    model = load()
    samples = np.stack([_sound(30_000), _sound(30_000, seed=3)], axis=1)
    options = {"sample_rate_hz": 44_100, "channels": 2, "level": "full"}
    whole = _run(model.stream(**options), [samples])
    assert _spoken(whole)
    assert _run(model.stream(**options), _splits(samples, "random")) == whole


def test_a_split_at_the_longest_piece_loses_and_repeats_no_sample(load: Callable) -> None:
    model = load()
    samples = _sound(PIECE * 3 + 1000)
    finals = _finals(_run(model.stream(level="full"), [samples]))
    pieces = np.split(samples, [PIECE, 2 * PIECE, 3 * PIECE])
    alone = [_finals(_run(model.stream(level="full"), [piece]))[0].tokens for piece in pieces]
    assert [text.tokens for text in finals] == alone
    assert len(set(alone)) > 1
    assert [text.start_s for text in finals] == [0.0, 0.4, 0.8, 1.2]
    assert [text.end_s for text in finals] == [0.4, 0.8, 1.2, len(samples) / RATE]


def test_pieces_of_one_prefix_turn_start_the_encoder_afresh_and_share_the_context(load: Callable) -> None:
    model, engines = _logged(load("prefix", **_roomy(200)))
    samples = _sound(PIECE + CHUNK)
    (final,) = _finals(_run(model.stream(level="full"), [samples]))
    assert (final.start_s, final.end_s) == (0.0, len(samples) / RATE)
    starts = [int(call["start"][0]) for call in engines["encoder"].calls]
    assert starts == [0, 4, 8, 12, 16, 0, 4]  # 40 frames; then 8 of sound and 4 of silence
    embeds = [call["embeds"] for call in engines["backbone"].calls]
    between = model.table.rows(model.tokenizer.encode("</sound><sound>"))
    np.testing.assert_array_equal(embeds[6][:2], between)
    assert [len(part) for part in embeds[:9]] == [3, 4, 4, 4, 4, 4, 2 + 4, 2, 2]
    first_of_piece = engines["adapter"].calls[5]["frames"]
    alone, engines = _logged(load("prefix", **_roomy(200)))
    _run(alone.stream(level="full"), [samples[PIECE:]])
    np.testing.assert_array_equal(engines["adapter"].calls[0]["frames"], first_of_piece)
    np.testing.assert_array_equal(engines["backbone"].calls[1]["embeds"], embeds[6][2:])  # the carried tail is zero


@pytest.mark.parametrize("frames", [1, 2, 7, 8, 9, 21, 35, 36])
def test_only_the_last_chunk_hides_its_last_position(load: Callable, frames: int) -> None:
    model, engines = _logged(load("prefix", masks_last_position=True))
    _run(model.stream(level="full"), [_sound(frames * HOP)])
    calls = engines["encoder"].calls
    own = [call["mel"].shape[1] - 3 for call in calls]  # two frames on the left and one on the right are context
    assert own == [8] * ((frames + 3) // 8) + [(frames + 3) % 8 + 1]  # four frames of silence end it
    heard = np.cumsum([-(-count // 2) for count in own])
    assert [int(call["start"][0]) for call in calls] == [0, *heard[:-1]]
    assert [int(call["valid"][0]) for call in calls] == [*heard[:-1], heard[-1] - 1]


def _roomy(context_tokens: int) -> dict[str, Any]:
    return {"context_tokens": context_tokens}


@pytest.mark.parametrize(("attention", "fields"), KINDS)
def test_steps_with_caches_equal_one_run_over_everything(
    load: Callable, attention: str, fields: dict[str, Any]
) -> None:
    model, engines = _logged(load(attention, **fields))
    (final,) = _finals(_run(model.stream(level="light"), [_sound(PIECE)]))
    calls = engines["backbone"].calls
    assert [int(call["start"][0]) for call in calls] == list(np.cumsum([0, *(len(c["embeds"]) for c in calls)])[:-1])
    embeds = np.concatenate([call["embeds"] for call in calls])
    answered = len(embeds) - len(final.tokens)  # the first token comes from the row before the answer
    inputs = {name: array for name, array in calls[-1].items() if name.startswith("cross.") or "experts" in name}
    inputs |= {"embeds": embeds, "start": np.array([0]), "logit_rows": np.arange(answered, len(embeds))}
    logits = engines["backbone"].engine.bind({"context": 100}).run(inputs)["logits"]
    greedy = Greedy(model.manifest.protocol)
    picked = [greedy.pick(row, first=index == 0) for index, row in enumerate(logits)]
    assert picked == list(final.tokens)
    assert len(picked) == model.manifest.protocol.max_tokens


def test_the_encoder_works_while_sound_comes_in_and_the_answer_waits_for_its_end(load: Callable) -> None:
    model = load("prefix")
    stream = model.stream(level="full")
    samples = _sound(PIECE)
    stream.push(samples[:-1])
    before = [span.name for span in stream.trace.spans]
    assert before.count("encoder") == before.count("adapter") == 4  # the fifth chunk waits for its right context
    assert before.count("prefill") == 1 + 4
    assert "decode" not in before
    stream.push(samples[-1:])
    stream.finish()
    after = [span.name for span in stream.trace.spans[len(before) :]]
    assert after.count("encoder") == 1
    assert after.count("decode") == model.manifest.protocol.max_tokens - 1
    assert stream.trace.total("encoder")[1] == 20
    assert stream.frames_computed == stream.frames_received == 40


@pytest.mark.parametrize("attention", ["cross", "prefix"])
def test_interleaved_streams_do_not_disturb_each_other(load: Callable, attention: str) -> None:
    model = load(attention)
    sounds = [_sound(PIECE + 5000 * who, seed=who) for who in range(3)]
    alone = [_run(model.stream(level="full"), [sound]) for sound in sounds]
    assert len({_spoken(events) for events in alone}) > 1
    streams = [model.stream(level="full") for _ in sounds]
    together: list[list[Event]] = [[] for _ in sounds]
    for start in range(0, PIECE + 10_000, 700):
        for who, stream in enumerate(streams):
            together[who] += stream.push(sounds[who][start : start + 700])
    for who, stream in enumerate(streams):
        together[who] += stream.finish()
    assert together == alone


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_push_that_is_not_finite_is_refused_and_changes_nothing(load: Callable, bad: float) -> None:
    model = load()
    samples = _sound(PIECE)
    expected = _run(model.stream(level="full"), [samples])
    stream = model.stream(level="full")
    events = stream.push(samples[:1000])
    broken = samples[1000:2000].copy()
    broken[17] = bad
    with pytest.raises(AudioError, match="sample 1017"):
        stream.push(broken, dropped_samples=5)
    events += stream.push(samples[1000:])
    assert events + stream.finish() == expected
    assert stream.samples_received == len(samples)


def test_wrong_shapes_and_types_are_refused_and_change_nothing(load: Callable) -> None:
    stream = load().stream(level="full")
    for samples in (np.zeros((10, 2), np.float32), np.zeros((1, 1, 1), np.float32), np.zeros(10, np.int32)):
        with pytest.raises(UsageError, match="samples: "):
            stream.push(samples)
    assert stream.push([]) == []
    assert stream.samples_received == 0


def test_int16_samples_are_the_same_sound(load: Callable) -> None:
    model = load()
    codes = (_sound(PIECE) * 20_000).astype(np.int16)
    as_float = codes.astype(np.float32) / 32768
    assert _run(model.stream(level="full"), [codes]) == _run(model.stream(level="full"), [as_float])


def test_after_finish_nothing_may_be_pushed_and_nothing_more_comes(load: Callable) -> None:
    stream = load().stream()
    assert _run(stream, [_sound(1000)])
    with pytest.raises(UsageError, match="finished"):
        stream.push(_sound(10))
    assert stream.finish() == []


def test_text_grows_token_by_token_and_is_shown_as_it_comes(load: Callable) -> None:
    shown: list[tuple[int, Text]] = []
    model = load()
    stream = model.stream(level="full", on_text=lambda text: shown.append((len(stream.trace.spans), text)))
    events = _run(stream, [_sound(PIECE)])
    texts = [event for event in events if isinstance(event, Text)]
    assert [text for _, text in shown] == texts
    assert [text.final for text in texts] == [False] * 12 + [True]
    assert len({spans for spans, _ in shown[:-1]}) == 12  # a step of work lies between any two
    lengths = [len(text.text) for text in texts]
    assert lengths == sorted(lengths)
    assert texts[-1].text == model.tokenizer.decode(texts[-1].tokens).strip()


def test_silence_reaches_no_engine_behind_a_gate(load: Callable) -> None:
    model = load()
    stream = model.stream(gate="sound")
    assert _run(stream, [np.zeros(RATE, np.float32)]) == []
    assert stream.frames_computed == 0
    assert stream.samples_gated == stream.samples_received == RATE
    assert stream.frames_received == 100


def test_events_of_a_gated_sound_come_in_order_with_its_bounds(load: Callable) -> None:
    model = load()
    stream = model.stream(gate="sound", level="full")
    quiet = np.zeros(RATE, np.float32)
    events = stream.push(np.concatenate([quiet, _sound(4000), quiet, quiet, quiet]))
    started, finals = events[0], _finals(events)
    (stopped,) = (event for event in events if isinstance(event, SpeechStopped))
    assert isinstance(started, SpeechStarted)
    assert 0.6 < started.at_s <= 1.0
    assert 1.25 <= stopped.at_s < stopped.decided_at_s <= 4.25
    assert [text.start_s for text in finals] == [started.at_s, *(text.end_s for text in finals[:-1])]
    assert stopped.at_s <= finals[-1].end_s <= stopped.decided_at_s
    assert all(text.start_s < text.end_s for text in finals)  # a piece of closing silence alone is not answered
    assert stream.finish() == []
    assert 0 < stream.samples_gated < stream.samples_received


def test_lost_samples_are_told_and_move_the_times_behind_them(load: Callable) -> None:
    model = load()
    first, second = _sound(3000), _sound(PIECE - 3000, seed=2)
    stream = model.stream(level="full")
    stream.push(first)
    events = stream.push(second, dropped_samples=8000)
    assert events[0] == Lag(8000, 3000 / RATE)
    (final,) = _finals(events + stream.finish())
    assert (final.start_s, final.end_s) == (0.0, (PIECE + 8000) / RATE)
    expected = _finals(_run(model.stream(level="full"), [first, second]))
    assert final.tokens == expected[0].tokens


def test_drops_between_sounds_do_not_pile_up(load: Callable) -> None:
    stream = load().stream(gate="sound")
    for _ in range(200):
        stream.push(np.zeros(512, np.float32), dropped_samples=512)
    assert len(stream._drops) < 40  # those within the pre-roll are still needed
    quiet = np.zeros(RATE, np.float32)
    started = next(event for event in stream.push(_sound(8000)) if isinstance(event, SpeechStarted))
    assert 200 * 1024 / RATE - 0.7 < started.at_s <= 200 * 1024 / RATE
    stream.push(quiet)


def test_a_late_caller_gets_a_cheaper_level_and_is_told(load: Callable) -> None:
    model, engines = _logged(load())
    stream = model.stream()
    samples = _sound(PIECE * 2)
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
    events = _run(stream, [_sound(PIECE * 3)])
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
    events = _run(stream, [np.concatenate([quiet, _sound(4000, seed)]) for seed in range(10)])
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
    for part in (quiet, _sound(4000), quiet, quiet, _sound(4000, seed=1), quiet):
        events += stream.push(part)
        seen.append((stream.level.name, stream._gate.is_open))
    assert {level for level, is_open in seen if is_open} == {"full"}
    assert {level for level, is_open in seen if not is_open} == {"skip"}
    assert seen[0] == ("skip", False)
    events += stream.finish()
    assert stream.level.name == "skip"
    assert len(_finals(events)) >= 2
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
    samples = np.concatenate([quiet, _sound(PIECE + 777), quiet, quiet, _sound(3000, seed=1), quiet[:801]])
    whole = _run(model.stream(gate="sound"), [samples])
    assert whole == _run(model.stream(gate="sound", level="full"), [samples])
    for kind in ("halves", "random", "near-chunks"):
        assert _run(model.stream(gate="sound"), _splits(samples, kind)) == whole, kind


def test_a_pinned_level_stays_whatever_the_lag_and_changes_the_answer(load: Callable) -> None:
    model = load()
    answers = {}
    for level in ("light", "full"):
        stream = model.stream(level=level)
        events = stream.push(_sound(PIECE), lag_ms=1e6) + stream.finish()
        assert not any(isinstance(event, LevelChanged) for event in events)
        answers[level] = _finals(events)[0].tokens
    assert answers["light"] != answers["full"]


def test_a_full_context_is_answered_and_the_rest_opens_the_next_answer(load: Callable) -> None:
    model, engines = _logged(load("prefix", **_roomy(48)))
    samples = _sound(PIECE * 2)
    events = _run(model.stream(level="full"), [samples])
    finals = _finals(events)
    # 48 - 3 before - 2 after - 12 for the answer = 31: a piece of 20, 2 between pieces and two chunks of 4
    assert [text.end_s for text in finals] == [(PIECE + 2 * CHUNK) / RATE, 2 * PIECE / RATE]
    assert [text.start_s for text in finals] == [0.0, *(text.end_s for text in finals[:-1])]
    sound = engines["adapter"].calls
    prefills = [call["embeds"] for call in engines["backbone"].calls if len(call["logit_rows"]) == 0]
    before = model.table.rows(model.tokenizer.encode("<start>s<sound>"))
    opened = sum(np.array_equal(part, before) for part in prefills)
    heard = sum(len(part) for part in prefills) - opened * len(before)
    between = sum(int(call["start"][0]) == 0 for call in engines["encoder"].calls[1:])
    assert opened == len(finals)
    assert heard in (sum(len(call["frames"]) for call in sound), sum(len(c["frames"]) for c in sound) + 2 * between)
    assert max(int(call["start"][0]) + len(call["embeds"]) for call in engines["backbone"].calls) <= 48


@pytest.mark.parametrize(
    ("context", "room"), [(9, 2), (10, 3), (11, 4), (12, 4), (13, 5), (24, 13), (27, 16), (30, 18), (31, 19)]
)
@pytest.mark.parametrize("frames", [1, 8, 12, 20, 21, 40])
def test_a_context_smaller_than_one_piece_still_hears_everything(
    load: Callable, context: int, room: int, frames: int
) -> None:
    model, engines = _logged(load("prefix", **_roomy(context)))
    samples = _sound(frames * HOP)
    whole = _run(model.stream(level="full"), [samples])
    finals = _finals(whole)
    assert finals[-1].end_s == len(samples) / RATE
    assert [text.start_s for text in finals] == [0.0, *(text.end_s for text in finals[:-1])]
    # Whole chunks of 4 embeddings, where one fits at all; an embedding is two frames.
    told = 2 * (room if room < 4 else room // 4 * 4)
    assert finals[0].end_s == min(told, frames) * HOP / RATE
    before = model.table.rows(model.tokenizer.encode("<start>s<sound>"))
    prefills = [call["embeds"] for call in engines["backbone"].calls if len(call["logit_rows"]) == 0]
    heard = sum(len(part) for part in prefills if not np.array_equal(part, before))
    assert heard == sum(len(call["frames"]) for call in engines["adapter"].calls) == -(-min(frames + 4, 40) // 2)
    assert _run(model.stream(level="full"), _splits(samples, "random")) == whole


def test_a_context_without_room_for_sound_is_refused_when_the_stream_is_made(tiny_bundle: Callable) -> None:
    folder = tiny_bundle("prefix").folder
    with pytest.raises(UsageError, match="context_tokens: 6"):
        edgekit.load(folder, threads=1, context_tokens=6).stream()
    with pytest.raises(UsageError, match="this bundle takes 1 to 48"):
        edgekit.load(folder, threads=1, context_tokens=49)
    with pytest.raises(UsageError, match="context_tokens: 1"):
        edgekit.load(tiny_bundle().folder, threads=1, context_tokens=1).stream()


def test_a_cross_answer_ends_when_the_context_is_full(tiny_bundle: Callable) -> None:
    model = edgekit.load(tiny_bundle().folder, threads=1, context_tokens=5)
    (final,) = _finals(_run(model.stream(level="full"), [_sound(PIECE)]))
    assert len(final.tokens) == 4  # two start tokens and three more fit; the last token need not be read back


def test_tokens_per_second_limit_the_answer_and_a_stop_token_ends_it(load: Callable) -> None:
    model = load()
    protocol = model.manifest.protocol
    (full,) = _finals(_run(model.stream(level="full"), [_sound(PIECE)]))
    assert len(full.tokens) == protocol.max_tokens
    limited = load(protocol=msgspec.structs.replace(protocol, max_tokens_per_s=5.0))
    (cut,) = _finals(_run(limited.stream(level="full"), [_sound(PIECE)]))
    assert cut.tokens == full.tokens[: int(5.0 * 0.4) + 8]
    barred = msgspec.structs.replace(protocol, begin_suppress=tuple({*full.tokens} - {full.tokens[0]}))
    (same,) = _finals(_run(load(protocol=barred).stream(level="full"), [_sound(PIECE)]))
    assert same.tokens == full.tokens  # what may not begin an answer may go on in it
    later = next(token for token in full.tokens if token != full.tokens[0])
    stopping = load(protocol=msgspec.structs.replace(protocol, stop=(later,)))
    (stopped,) = _finals(_run(stopping.stream(level="full"), [_sound(PIECE)]))
    assert stopped.tokens == full.tokens[: full.tokens.index(later)]


def _multilingual(model: Model) -> dict[str, Any]:
    named = {name: model.tokenizer.encode(f"<{name}>")[0] for name in ("en", "de", "transcribe", "translate")}
    protocol = msgspec.structs.replace(
        model.manifest.protocol,
        languages={"en": named["en"], "de": named["de"]},
        tasks={"translate": named["translate"], "transcribe": named["transcribe"]},
    )
    return {"protocol": protocol}


def test_a_multilingual_bundle_finds_the_likeliest_language_unless_it_is_told(load: Callable) -> None:
    plain = load()
    model, engines = _logged(load(**_multilingual(plain)))
    rows, encode = model.table.rows, model.tokenizer.encode
    events = _run(model.stream(level="full"), [_sound(PIECE)])
    first, second = engines["backbone"].calls[:2]
    np.testing.assert_array_equal(first["embeds"], rows(encode("<start>")))
    logits = engines["backbone"].engine.bind({"context": 10}).run(first)["logits"][0]
    named = {name: encode(f"<{name}>")[0] for name in ("en", "de")}
    found = max(named, key=lambda name: logits[named[name]])
    np.testing.assert_array_equal(second["embeds"], rows(encode(f"<{found}><transcribe><plain>")))
    assert int(second["start"][0]) == 1
    assert _finals(_run(model.stream(level="full", language=found), [_sound(PIECE)])) == _finals(events)
    told = engines["backbone"].calls
    count = len(told)
    _run(model.stream(level="full", language="de", task="translate"), [_sound(PIECE)])
    np.testing.assert_array_equal(told[count]["embeds"], rows(encode("<start><de><translate><plain>")))


@pytest.mark.parametrize(
    ("attention", "option", "message"),
    [
        ("cross", {"language": "de"}, "it has no choice of language: leave it out"),
        ("cross", {"task": "translate"}, "it has no choice of task"),
        ("cross", {"prompt": "x"}, "no choice of prompt"),
        ("prefix", {"language": "de"}, "no choice of language"),
        ("prefix", {"level": "huge"}, "choose one of: light, full"),
        ("prefix", {"level": "skip"}, "choose one of: light, full"),
        ("prefix", {"gate": "door"}, "choose one of: speech, sound, off"),
        ("prefix", {"channels": 0}, "at least 1"),
    ],
)
def test_an_option_the_bundle_does_not_have_is_refused(
    load: Callable, attention: str, option: dict[str, Any], message: str
) -> None:
    model = load(attention)
    with pytest.raises(UsageError, match=message):
        model.stream(**option)


def test_an_unknown_language_is_refused_with_the_known_ones(load: Callable) -> None:
    model = load(**_multilingual(load()))
    with pytest.raises(UsageError, match="language: 'fr' is not in this bundle; choose one of: de, en"):
        model.stream(language="fr")


def test_system_and_prompt_stand_around_the_sound(load: Callable) -> None:
    model, engines = _logged(load("prefix"))
    _run(model.stream(level="full", system="{x}", prompt="hi"), [_sound(CHUNK)])
    rows, encode = model.table.rows, model.tokenizer.encode
    calls = engines["backbone"].calls
    np.testing.assert_array_equal(calls[0]["embeds"], rows(encode("<start>{x}<sound>")))
    after = next(call for call in calls if len(call["logit_rows"]))
    np.testing.assert_array_equal(after["embeds"], rows(encode("</sound>hi<plain>")))


def test_a_file_and_its_samples_are_transcribed_alike(load: Callable, tmp_path: Any) -> None:
    model = load()
    codes = (_sound(PIECE * 3) * 20_000).astype(np.int16)
    soundfile.write(tmp_path / "talk.wav", codes, RATE)
    from_file = model.transcribe(tmp_path / "talk.wav", level="full")
    from_array = model.transcribe(codes, level="full")
    assert from_file.utterances == from_array.utterances
    assert from_file.text == from_array.text == " ".join(one.text for one in from_file.utterances)
    assert from_file.audio_s == from_array.audio_s == 1.2
    assert from_file.trace.total("encoder")[1] == 3 * 20


def test_channels_first_are_refused_before_they_fill_the_memory(load: Callable) -> None:
    model = load()
    with pytest.raises(UsageError, match="960000 channels, at most 64 are heard; transpose"):
        model.transcribe(np.zeros((2, 960_000), np.float32))
    with pytest.raises(UsageError, match="65 channels"):
        model.stream(channels=65)


def test_an_array_without_samples_is_an_empty_transcript(load: Callable) -> None:
    transcript = load().transcribe(np.zeros(0, np.float32))
    assert (transcript.text, transcript.utterances, transcript.audio_s) == ("", (), 0.0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"levels": (ComputeLevel(name="full"),)}, "level 'full' has no experts_per_token"),
        ({"levels": (ComputeLevel(name="skip"),)}, "no compute level but 'skip'"),
    ],
)
def test_levels_that_cannot_run_are_refused_at_load(load: Callable, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(BundleFormatError, match=message):
        load(**fields)


def test_a_protocol_token_outside_the_table_is_refused_at_load(load: Callable) -> None:
    protocol = msgspec.structs.replace(load().manifest.protocol, suppress=(4, 9999))
    with pytest.raises(BundleFormatError, match="token 9999 of the protocol"):
        load(protocol=protocol)


def test_the_public_names_are_there() -> None:
    for name in edgekit.__all__:
        assert getattr(edgekit, name)
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        _ = edgekit.lod


def test_an_answer_that_loops_is_ended_and_its_repeats_left_out(load: Callable) -> None:
    protocol = load().manifest.protocol
    (full,) = _finals(_run(load().stream(level="full"), [_sound(PIECE)]))
    word = full.tokens[0]
    others = tuple(token for token in range(load().table.vocabulary) if token != word and token not in protocol.stop)
    babbling = msgspec.structs.replace(protocol, suppress=others, max_tokens=20)
    (free,) = _finals(_run(load(protocol=babbling).stream(level="full"), [_sound(PIECE)]))
    assert free.tokens == (word,) * 20
    events = _run(load(protocol=msgspec.structs.replace(babbling, max_repeats=3)).stream(level="full"), [_sound(PIECE)])
    (ended,) = _finals(events)
    assert ended.tokens == (word,)
    assert sum(isinstance(event, Text) and not event.final for event in events) <= 12  # ended at the loop, not after
