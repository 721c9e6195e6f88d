"""Stream: every split gives the same events, work happens while sound comes in, streams share nothing."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgekit.errors import AudioError, UsageError
from edgekit.runtime.answer.sampler import Greedy
from edgekit.runtime.events import Event, Lag, SpeechStarted, SpeechStopped, Text
from tests.runtime.streams import (
    CHUNK,
    HOP,
    KINDS,
    PIECE,
    RATE,
    final_texts,
    logged,
    roomy,
    run,
    sound_of,
    splits,
    spoken,
)


@pytest.mark.parametrize("gate", ["off", "sound"])
@pytest.mark.parametrize(("attention", "fields"), KINDS)
def test_any_split_gives_identical_events(load: Callable, attention: str, fields: dict[str, Any], gate: str) -> None:
    model = load(attention, **fields)
    quiet = np.zeros(12_000, np.float32)
    samples = np.concatenate([quiet, sound_of(PIECE * 2 + 777), quiet, sound_of(3000, seed=1), quiet[:801]])
    whole = run(model.stream(gate=gate, level="full"), [samples])
    assert len(set(spoken(whole).split(" | "))) > 1  # the sound does decide the text
    for kind in ("halves", "random", "chunks", "near-chunks"):
        assert run(model.stream(gate=gate, level="full"), splits(samples, kind)) == whole, kind


@pytest.mark.parametrize(("attention", "fields"), KINDS)
def test_pushing_single_samples_gives_identical_events(load: Callable, attention: str, fields: dict[str, Any]) -> None:
    model = load(attention, **fields)
    samples = sound_of(PIECE + CHUNK + 3)
    whole = run(model.stream(level="full"), [samples])
    assert run(model.stream(level="full"), splits(samples, "samples")) == whole


@pytest.mark.parametrize("length", [0, 1, HOP - 1, HOP, HOP + 1, CHUNK, CHUNK + HOP, PIECE - 1, PIECE, PIECE + 1])
@pytest.mark.parametrize("attention", ["cross", "prefix"])
def test_awkward_lengths_are_answered_in_as_many_pieces_as_they_have(
    load: Callable, attention: str, length: int
) -> None:
    model = load(attention)
    events = run(model.stream(level="full"), [sound_of(length)])
    assert events == run(model.stream(level="full"), splits(sound_of(length), "random"))
    finals = final_texts(events)
    assert len(finals) == (-(-length // PIECE) if attention == "cross" else min(length, 1))
    if length:
        assert (finals[0].start_s, finals[-1].end_s) == (0.0, length / RATE)


def test_another_rate_and_more_channels_split_the_same(load: Callable) -> None:
    model = load()
    samples = np.stack([sound_of(30_000), sound_of(30_000, seed=3)], axis=1)
    options = {"sample_rate_hz": 44_100, "channels": 2, "level": "full"}
    whole = run(model.stream(**options), [samples])
    assert spoken(whole)
    assert run(model.stream(**options), splits(samples, "random")) == whole


def test_a_split_at_the_longest_piece_loses_and_repeats_no_sample(load: Callable) -> None:
    model = load()
    samples = sound_of(PIECE * 3 + 1000)
    finals = final_texts(run(model.stream(level="full"), [samples]))
    pieces = np.split(samples, [PIECE, 2 * PIECE, 3 * PIECE])
    alone = [final_texts(run(model.stream(level="full"), [piece]))[0].tokens for piece in pieces]
    assert [text.tokens for text in finals] == alone
    assert len(set(alone)) > 1
    assert [text.start_s for text in finals] == [0.0, 0.4, 0.8, 1.2]
    assert [text.end_s for text in finals] == [0.4, 0.8, 1.2, len(samples) / RATE]


def test_pieces_of_one_prefix_turn_start_the_encoder_afresh_and_share_the_context(load: Callable) -> None:
    model, engines = logged(load("prefix", **roomy(200)))
    samples = sound_of(PIECE + CHUNK)
    (final,) = final_texts(run(model.stream(level="full"), [samples]))
    assert (final.start_s, final.end_s) == (0.0, len(samples) / RATE)
    starts = [int(call["start"][0]) for call in engines["encoder"].calls]
    assert starts == [0, 4, 8, 12, 16, 0, 4]  # 40 frames; then 8 of sound and 4 of silence
    embeds = [call["embeds"] for call in engines["backbone"].calls]
    between = model.table.rows(model.tokenizer.encode("</sound><sound>"))
    np.testing.assert_array_equal(embeds[6][:2], between)
    assert [len(part) for part in embeds[:9]] == [2, 1 + 4, 4, 4, 4, 4, 2 + 4, 2, 2]
    first_of_piece = engines["adapter"].calls[5]["frames"]
    alone, engines = logged(load("prefix", **roomy(200)))
    run(alone.stream(level="full"), [samples[PIECE:]])
    np.testing.assert_array_equal(engines["adapter"].calls[0]["frames"], first_of_piece)
    np.testing.assert_array_equal(engines["backbone"].calls[1]["embeds"][1:], embeds[6][2:])  # the carried tail is zero


@pytest.mark.parametrize("frames", [1, 2, 7, 8, 9, 21, 35, 36])
def test_only_the_last_chunk_hides_its_last_position(load: Callable, frames: int) -> None:
    model, engines = logged(load("prefix", masks_last_position=True))
    run(model.stream(level="full"), [sound_of(frames * HOP)])
    calls = engines["encoder"].calls
    own = [call["mel"].shape[1] - 3 for call in calls]  # two frames on the left and one on the right are context
    assert own == [8] * ((frames + 3) // 8) + [(frames + 3) % 8 + 1]  # four frames of silence end it
    heard = np.cumsum([-(-count // 2) for count in own])
    assert [int(call["start"][0]) for call in calls] == [0, *heard[:-1]]
    assert [int(call["valid"][0]) for call in calls] == [*heard[:-1], heard[-1] - 1]


@pytest.mark.parametrize(("attention", "fields"), KINDS)
def test_steps_with_caches_equal_one_run_over_everything(
    load: Callable, attention: str, fields: dict[str, Any]
) -> None:
    model, engines = logged(load(attention, **fields))
    (final,) = final_texts(run(model.stream(level="light"), [sound_of(PIECE)]))
    calls = engines["backbone"].calls
    assert [int(call["start"][0]) for call in calls] == list(np.cumsum([0, *(len(c["embeds"]) for c in calls)])[:-1])
    embeds = np.concatenate([call["embeds"] for call in calls])
    answered = len(embeds) - len(final.tokens)  # the first token comes from the row before the answer
    inputs = {name: array for name, array in calls[-1].items() if name.startswith("cross.") or "experts" in name}
    inputs |= {"embeds": embeds, "start": np.array([0]), "logit_rows": np.arange(answered, len(embeds))}
    logits = engines["backbone"].engine.bind({"context": 100}).run(inputs)["logits"]
    greedy = Greedy(model.manifest.protocol)
    picked = [greedy.pick(row, final.tokens[:index]) for index, row in enumerate(logits)]
    assert picked == list(final.tokens)
    assert len(picked) == model.manifest.protocol.max_tokens


def test_the_encoder_works_while_sound_comes_in_and_the_answer_waits_for_its_end(load: Callable) -> None:
    model = load("prefix")
    stream = model.stream(level="full")
    samples = sound_of(PIECE)
    list(stream.push(samples[:-1]))
    before = [span.name for span in stream.trace.spans]
    assert before.count("encoder") == before.count("adapter") == 4  # the fifth chunk waits for its right context
    assert before.count("prefill") == 1 + 4
    assert "decode" not in before
    list(stream.push(samples[-1:]))
    list(stream.finish())
    after = [span.name for span in stream.trace.spans[len(before) :]]
    assert after.count("encoder") == 1
    assert after.count("decode") == model.manifest.protocol.max_tokens - 1
    assert stream.trace.total("encoder")[1] == 20
    assert stream.frames_computed == stream.frames_received == 40


@pytest.mark.parametrize("attention", ["cross", "prefix"])
def test_interleaved_streams_do_not_disturb_each_other(load: Callable, attention: str) -> None:
    model = load(attention)
    sounds = [sound_of(PIECE + 5000 * who, seed=who) for who in range(3)]
    alone = [run(model.stream(level="full"), [sound]) for sound in sounds]
    assert len({spoken(events) for events in alone}) > 1
    streams = [model.stream(level="full") for _ in sounds]
    together: list[list[Event]] = [[] for _ in sounds]
    for start in range(0, PIECE + 10_000, 700):
        for who, stream in enumerate(streams):
            together[who] += list(stream.push(sounds[who][start : start + 700]))
    for who, stream in enumerate(streams):
        together[who] += list(stream.finish())
    assert together == alone


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 32_767.0, -17.0, 1e18])
def test_a_push_that_is_not_finite_or_far_beyond_full_scale_is_refused_and_changes_nothing(
    load: Callable, bad: float
) -> None:
    model = load()
    samples = sound_of(PIECE)
    expected = run(model.stream(level="full"), [samples])
    stream = model.stream(level="full")
    events = list(stream.push(samples[:1000]))
    broken = samples[1000:2000].copy()
    broken[17] = bad
    with pytest.raises(AudioError, match="sample 1017"):
        list(stream.push(broken, dropped_samples=5))
    events += list(stream.push(samples[1000:]))
    assert events + list(stream.finish()) == expected
    assert stream.samples_received == len(samples)


def test_wrong_shapes_and_types_are_refused_and_change_nothing(load: Callable) -> None:
    stream = load().stream(level="full")
    for samples in (np.zeros((10, 2), np.float32), np.zeros((1, 1, 1), np.float32), np.zeros(10, np.int32)):
        with pytest.raises(UsageError, match="samples: "):
            list(stream.push(samples))
    assert list(stream.push([])) == []
    assert stream.samples_received == 0


def test_int16_samples_are_the_same_sound(load: Callable) -> None:
    model = load()
    codes = (sound_of(PIECE) * 20_000).astype(np.int16)
    as_float = codes.astype(np.float32) / 32768
    assert run(model.stream(level="full"), [codes]) == run(model.stream(level="full"), [as_float])


def test_after_finish_nothing_may_be_pushed_and_nothing_more_comes(load: Callable) -> None:
    stream = load().stream()
    assert run(stream, [sound_of(1000)])
    with pytest.raises(UsageError, match="finished"):
        list(stream.push(sound_of(10)))
    assert list(stream.finish()) == []


def test_text_grows_token_by_token_and_is_shown_as_it_comes(load: Callable) -> None:
    model = load()
    stream = model.stream(level="full")
    events = [*stream.push(sound_of(PIECE))]
    shown = [(len(stream.trace.spans), event) for event in stream.finish() if isinstance(event, Text)]
    texts = [text for _, text in shown]
    assert final_texts(events) == []
    assert [text.final for text in texts] == [False] * 12 + [True]
    assert len({spans for spans, _ in shown[:-1]}) == 12  # a step of work lies between any two
    lengths = [len(text.text) for text in texts]
    assert lengths == sorted(lengths)
    assert texts[-1].text == model.tokenizer.decode(texts[-1].tokens).strip()


def test_silence_reaches_no_engine_behind_a_gate(load: Callable) -> None:
    model = load()
    stream = model.stream(gate="sound")
    assert run(stream, [np.zeros(RATE, np.float32)]) == []
    assert stream.frames_computed == 0
    assert stream.samples_gated == stream.samples_received == RATE
    assert stream.frames_received == 100


def test_events_of_a_gated_sound_come_in_order_with_its_bounds(load: Callable) -> None:
    model = load()
    stream = model.stream(gate="sound", level="full")
    quiet = np.zeros(RATE, np.float32)
    events = list(stream.push(np.concatenate([quiet, sound_of(4000), quiet, quiet, quiet])))
    started, finals = events[0], final_texts(events)
    (stopped,) = (event for event in events if isinstance(event, SpeechStopped))
    assert isinstance(started, SpeechStarted)
    assert 0.6 < started.at_s <= 1.0
    assert 1.25 <= stopped.at_s < stopped.decided_at_s <= 4.25
    assert [text.start_s for text in finals] == [started.at_s, *(text.end_s for text in finals[:-1])]
    assert stopped.at_s <= finals[-1].end_s <= stopped.decided_at_s
    assert all(text.start_s < text.end_s for text in finals)  # a piece of closing silence alone is not answered
    assert list(stream.finish()) == []
    assert 0 < stream.samples_gated < stream.samples_received


def test_lost_samples_are_told_and_move_the_times_behind_them(load: Callable) -> None:
    model = load()
    first, second = sound_of(3000), sound_of(PIECE - 3000, seed=2)
    stream = model.stream(level="full")
    list(stream.push(first))
    events = list(stream.push(second, dropped_samples=8000))
    assert events[0] == Lag(8000, 3000 / RATE)
    (final,) = final_texts(events + list(stream.finish()))
    assert (final.start_s, final.end_s) == (0.0, (PIECE + 8000) / RATE)
    expected = final_texts(run(model.stream(level="full"), [first, second]))
    assert final.tokens == expected[0].tokens


def test_drops_between_sounds_do_not_pile_up(load: Callable) -> None:
    stream = load().stream(gate="sound")
    for _ in range(200):
        list(stream.push(np.zeros(512, np.float32), dropped_samples=512))
    assert len(stream._work._time) < 40  # those within the pre-roll are still needed
    quiet = np.zeros(RATE, np.float32)
    started = next(event for event in stream.push(sound_of(8000)) if isinstance(event, SpeechStarted))
    assert 200 * 1024 / RATE - 0.7 < started.at_s <= 200 * 1024 / RATE
    list(stream.push(quiet))
