"""Stream: what ends an answer, what surrounds it, what may be asked for."""

import dataclasses
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
import soundfile

import edgekit
from edgekit.bundle import ComputeLevel, Sampling
from edgekit.errors import BundleFormatError, UsageError
from edgekit.runtime.events import Text
from edgekit.runtime.model import Model
from tests.runtime.streams import (
    CHUNK,
    HOP,
    PIECE,
    RATE,
    final_texts,
    logged,
    roomy,
    run,
    sound_of,
    splits,
)


def test_a_full_context_is_answered_and_the_rest_opens_the_next_answer(load: Callable) -> None:
    model, engines = logged(load("prefix", **roomy(48)))
    samples = sound_of(PIECE * 2)
    events = run(model.stream(level="full"), [samples])
    finals = final_texts(events)
    # 48 - 3 before - 2 after - 12 for the answer = 31: a piece of 20, 2 between pieces and two chunks of 4
    assert [text.end_s for text in finals] == [(PIECE + 2 * CHUNK) / RATE, 2 * PIECE / RATE]
    assert [text.start_s for text in finals] == [0.0, *(text.end_s for text in finals[:-1])]
    sound = engines["adapter"].calls
    prefills = [call["embeds"] for call in engines["backbone"].calls if len(call["logit_rows"]) == 0]
    opening, before = (model.table.rows(model.tokenizer.encode(text)) for text in ("<start>s", "<sound>"))
    assert np.array_equal(prefills[0], opening)  # read once, for all answers
    opened = sum(np.array_equal(part[:1], before) for part in prefills)
    heard = sum(len(part) for part in prefills[1:]) - opened * len(before)
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
    model, engines = logged(load("prefix", **roomy(context)))
    samples = sound_of(frames * HOP)
    whole = run(model.stream(level="full"), [samples])
    finals = final_texts(whole)
    assert finals[-1].end_s == len(samples) / RATE
    assert [text.start_s for text in finals] == [0.0, *(text.end_s for text in finals[:-1])]
    # Whole chunks of 4 embeddings, where one fits at all; an embedding is two frames.
    told = 2 * (room if room < 4 else room // 4 * 4)
    assert finals[0].end_s == min(told, frames) * HOP / RATE
    before = model.table.rows(model.tokenizer.encode("<sound>"))
    _, *prefills = [call["embeds"] for call in engines["backbone"].calls if len(call["logit_rows"]) == 0]
    heard = sum(len(part) - np.array_equal(part[:1], before) for part in prefills)
    assert heard == sum(len(call["frames"]) for call in engines["adapter"].calls) == -(-min(frames + 4, 40) // 2)
    assert run(model.stream(level="full"), splits(samples, "random")) == whole


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
    (final,) = final_texts(run(model.stream(level="full"), [sound_of(PIECE)]))
    assert len(final.tokens) == 4  # two start tokens and three more fit; the last token need not be read back


def test_tokens_per_second_limit_the_answer_and_a_stop_token_ends_it(load: Callable) -> None:
    model = load()
    protocol = model.manifest.protocol
    (full,) = final_texts(run(model.stream(level="full"), [sound_of(PIECE)]))
    assert len(full.tokens) == protocol.max_tokens
    limited = load(protocol=msgspec.structs.replace(protocol, max_tokens_per_s=5.0))
    (cut,) = final_texts(run(limited.stream(level="full"), [sound_of(PIECE)]))
    assert cut.tokens == full.tokens[: int(5.0 * 0.4) + 8]
    barred = msgspec.structs.replace(protocol, begin_suppress=tuple({*full.tokens} - {full.tokens[0]}))
    (same,) = final_texts(run(load(protocol=barred).stream(level="full"), [sound_of(PIECE)]))
    assert same.tokens == full.tokens  # what may not begin an answer may go on in it
    later = next(token for token in full.tokens if token != full.tokens[0])
    stopping = load(protocol=msgspec.structs.replace(protocol, stop=(later,)))
    (stopped,) = final_texts(run(stopping.stream(level="full"), [sound_of(PIECE)]))
    assert stopped.tokens == full.tokens[: full.tokens.index(later)]


@pytest.mark.parametrize(("attention", "length", "count"), [("cross", 6, 4), ("cross", 2, 1), ("prefix", 3, 1)])
def test_an_answer_ends_where_the_conversation_has_its_longest(
    load: Callable, attention: str, length: int, count: int
) -> None:
    protocol = load(attention).manifest.protocol
    (full,) = final_texts(run(load(attention).stream(level="full"), [sound_of(PIECE)]))
    limited = load(attention, protocol=msgspec.structs.replace(protocol, max_length=length))
    (cut,) = final_texts(run(limited.stream(level="full"), [sound_of(PIECE)]))
    assert cut.tokens == full.tokens[:count]  # a cross prompt has two tokens, a prefix one more than three positions


@pytest.mark.parametrize("attention", ["cross", "prefix"])
def test_an_answer_says_no_phrase_twice_where_its_bundle_says_so(load: Callable, attention: str) -> None:
    protocol = load(attention).manifest.protocol
    (full,) = final_texts(run(load(attention).stream(level="full"), [sound_of(PIECE)]))
    assert len(set(full.tokens)) < len(full.tokens)
    once = msgspec.structs.replace(protocol, sampling=Sampling(no_repeat_ngram_size=1))
    (final,) = final_texts(run(load(attention, protocol=once).stream(level="full"), [sound_of(PIECE)]))
    assert len(set(final.tokens)) == len(final.tokens) > 4
    allowed = load(attention, protocol=once).stream(level="full", sampling={"no_repeat_ngram_size": 0})
    assert final_texts(run(allowed, [sound_of(PIECE)]))[0].tokens == full.tokens


def test_a_bundle_that_is_fixed_to_a_language_says_which_it_heard(load: Callable) -> None:
    changes = _multilingual(load())
    fixed = load(protocol=msgspec.structs.replace(changes["protocol"], language="de"))
    (final,) = final_texts(run(fixed.stream(level="full"), [sound_of(PIECE)]))
    assert final.language == "de"
    (detected,) = final_texts(run(fixed.stream(level="full", language="auto"), [sound_of(PIECE)]))
    assert detected.language in {"de", "en"}


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
    model, engines = logged(load(**_multilingual(plain)))
    rows, encode = model.table.rows, model.tokenizer.encode
    events = run(model.stream(level="full"), [sound_of(PIECE)])
    first, second = engines["backbone"].calls[:2]
    np.testing.assert_array_equal(first["embeds"], rows(encode("<start>")))
    logits = engines["backbone"].engine.bind({"context": 10}).run(first)["logits"][0]
    named = {name: encode(f"<{name}>")[0] for name in ("en", "de")}
    found = max(named, key=lambda name: logits[named[name]])
    np.testing.assert_array_equal(second["embeds"], rows(encode(f"<{found}><transcribe><plain>")))
    assert int(second["start"][0]) == 1
    (given,) = final_texts(run(model.stream(level="full", language=found), [sound_of(PIECE)]))
    (detected,) = final_texts(events)
    assert 0.5 <= detected.language_probability <= 1
    assert given == dataclasses.replace(detected, language_probability=None)
    told = engines["backbone"].calls
    count = len(told)
    run(model.stream(level="full", language="de", task="translate"), [sound_of(PIECE)])
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
        ("prefix", {"channels": 0}, "a whole number, 1 to 64, is needed"),
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
    model, engines = logged(load("prefix"))
    run(model.stream(level="full", system="{x}", prompt="hi"), [sound_of(CHUNK)])
    rows, encode = model.table.rows, model.tokenizer.encode
    calls = engines["backbone"].calls
    np.testing.assert_array_equal(calls[0]["embeds"], rows(encode("<start>{x}")))
    np.testing.assert_array_equal(calls[1]["embeds"][:1], rows(encode("<sound>")))
    after = next(call for call in calls if len(call["logit_rows"]))
    np.testing.assert_array_equal(after["embeds"], rows(encode("</sound>hi<plain>")))


def test_a_file_and_its_samples_are_transcribed_alike(load: Callable, tmp_path: Any) -> None:
    model = load()
    codes = (sound_of(PIECE * 3) * 20_000).astype(np.int16)
    soundfile.write(tmp_path / "talk.wav", codes, RATE)
    from_file = model.transcribe(tmp_path / "talk.wav", level="full")
    from_array = model.transcribe(codes, level="full")
    assert from_file.segments == from_array.segments
    assert from_file.text == from_array.text == " ".join(one.text for one in from_file.segments)
    assert from_file.audio_s == from_array.audio_s == 1.2
    assert from_file.trace.total("encoder")[1] == 3 * 20


def test_channels_first_are_refused_before_they_fill_the_memory(load: Callable) -> None:
    model = load()
    with pytest.raises(UsageError, match=r"audio: shape \(2, 960000\), 960000 channels, at most 64"):
        model.transcribe(np.zeros((2, 960_000), np.float32))
    with pytest.raises(UsageError, match="channels: 65, a whole number"):
        model.stream(channels=65)


def test_channels_of_a_recording_are_its_own(load: Callable) -> None:
    with pytest.raises(UsageError, match="channels: a file and an array say their own; leave it out"):
        load().transcribe(np.zeros(RATE, np.float32), channels=1)


@pytest.mark.parametrize(
    ("loading", "message"),
    [
        ({"threads": "2"}, "threads: '2', a whole number, 1 to "),
        ({"threads": 10**6}, "threads: 1000000, a whole number, 1 to "),
        ({"plans": 4}, "plans: 4, the path of a folder is needed"),
        ({"backend": np.zeros(2)}, "backend: <float64 2>, a name is needed"),
        ({"verify_hashes": "no"}, "verify_hashes: 'no', True or False is needed"),
        ({"speak": None}, "speak: None, True or False"),
        ({"threads": 2.5}, "threads: 2.5, a whole number"),
        ({"threads": 0}, "threads: 0, a whole number"),
        ({"context_tokens": "9"}, "context_tokens: '9', this bundle takes 1 to 48"),
    ],
)
def test_what_a_bundle_cannot_be_loaded_with_is_refused_in_one_line(
    tiny_bundle: Callable, loading: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        edgekit.load(tiny_bundle().folder, **loading)


def test_a_bundle_that_no_path_can_name_is_refused_in_one_line() -> None:
    with pytest.raises(UsageError, match="path: 5, the path of a bundle is needed"):
        edgekit.load(5)


def test_an_array_without_samples_is_an_empty_transcript(load: Callable) -> None:
    transcript = load().transcribe(np.zeros(0, np.float32))
    assert (transcript.text, transcript.segments, transcript.audio_s) == ("", (), 0.0)


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
    (full,) = final_texts(run(load().stream(level="full"), [sound_of(PIECE)]))
    word = full.tokens[0]
    others = tuple(token for token in range(load().table.vocabulary) if token != word and token not in protocol.stop)
    babbling = msgspec.structs.replace(protocol, suppress=others, max_tokens=20)
    (free,) = final_texts(run(load(protocol=babbling).stream(level="full"), [sound_of(PIECE)]))
    assert free.tokens == (word,) * 20
    events = run(
        load(protocol=msgspec.structs.replace(babbling, max_repeats=3)).stream(level="full"), [sound_of(PIECE)]
    )
    (ended,) = final_texts(events)
    assert ended.tokens == (word,)
    assert sum(isinstance(event, Text) and not event.final for event in events) <= 12  # ended at the loop, not after
