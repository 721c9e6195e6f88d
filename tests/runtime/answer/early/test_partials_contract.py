"""The contract of partials: what stands grows, what is committed begins the final text, and nothing is left behind."""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgekit.bundle import Sampling, Thinking
from edgekit.bundle.manifest import Question
from edgekit.errors import UsageError
from edgekit.runtime.answer.early import partials
from edgekit.runtime.assemble import writes_partials
from edgekit.runtime.events import Event, Text
from edgekit.runtime.model import Model
from edgekit.runtime.options import StreamOptions
from edgekit.runtime.stream import Stream
from tests.runtime.conftest import special
from tests.runtime.dictation import Piece, Written, dictate, dictating, in_segments, look, sound, speech
from tests.runtime.streams import CHUNK, PIECE, RATE, run, sound_of
from tests.runtime.test_rollback import anything

WRITTEN = " 6O3BC8LMAVYD0"  # of which the tiny models make words
VARIED = Sampling(no_repeat_ngram_size=2)
LONG = speech(33.2)
_MODELS: dict[str, Model] = {}


@pytest.fixture(autouse=True)
def quick_talkers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let many letters be said in the tenths of a second that the tiny grid hears."""
    monkeypatch.setattr(partials, "TOKENS_PER_S", 80)


def wordy(load: Callable[..., Model], attention: str = "cross", **fields: Any) -> Model:
    """Return a tiny model that writes short words of few letters, which it is often sure of."""
    name = f"{attention} {fields}"
    if name not in _MODELS:
        plain = load(attention, context_tokens=120)
        kept = {token for letter in WRITTEN for token in plain.tokenizer.encode(letter)}
        never = tuple(token for token in range(plain.table.vocabulary) if token not in kept)
        own = {
            "suppress": never,
            "sampling": VARIED,
            "max_tokens": 30,
            "context_tokens": 120,
            "questions": {"transcribe": Question()},
        }
        if attention == "cross":
            own.pop("questions")
        _MODELS[name] = load(attention, protocol=msgspec.structs.replace(plain.manifest.protocol, **(own | fields)))
    return _MODELS[name]


def still(model: Model, **options: Any) -> Stream:
    """Return a Stream whose clock stands still, so that drafts cost nothing."""
    stream = model.stream(**({"level": "full", "gate": "off"} | options))
    stream.measure(clock=lambda: 0.0)
    return stream


def finals(events: list[Event]) -> list[Text]:
    return [event for event in events if isinstance(event, Text) and event.final]


def grows(events: list[Event]) -> int:
    """Hold every text to what was shown of its answer; return how many characters stood before it was whole."""
    stood: dict[int, str] = {}
    most = 0
    for event in events:
        if not isinstance(event, Text):
            continue
        before = stood.get(event.answer, "")
        assert before.endswith(event.revises)
        left = before[: len(before) - len(event.revises)]
        assert event.text.startswith(left)
        assert event.stable_text.startswith(left)
        assert event.stable_text + event.unstable_text == event.text
        assert not event.final or (event.stable == len(event.text) and not event.revises)
        stood[event.answer] = event.stable_text
        most += 0 if event.final else len(event.stable_text)
    return most


def holds(events: list[Event]) -> int:
    """Hold the texts of committed partials to their promise; return how many characters were promised."""
    whole = {text.answer: text.text for text in finals(events)}
    promised = 0
    for event in events:
        if isinstance(event, Text) and not event.final:
            assert not event.revises
            assert whole[event.answer].startswith(event.stable_text)
            promised += event.stable
    return promised


KINDS: Mapping[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "plain": ("cross", {}, {}),
    "loops": ("cross", {"max_repeats": 2}, {}),
    "few tokens": ("cross", {"max_tokens": 7}, {}),
    "tokens per second": ("cross", {"max_tokens_per_s": 40.0}, {}),
    "short conversation": ("cross", {"max_length": 14}, {}),
    "languages": ("cross", {"languages": {f"l{token}": token for token in range(60)}}, {}),
    "a language": ("cross", {"languages": {f"l{token}": token for token in range(60)}}, {"language": "l7"}),
    "any sound": ("cross", {"no_speech": special("<sound>")}, {"gate": "sound"}),
    "draws": ("cross", {}, {"sampling": Sampling(temperature=1.2, no_repeat_ngram_size=2), "seed": 5}),
    "dictation": ("prefix", {}, {"prompt": "transcribe"}),
    "looping dictation": ("prefix", {"max_repeats": 2}, {"prompt": "transcribe"}),
    "dictation that draws": (
        "prefix",
        {},
        {"prompt": "transcribe", "sampling": Sampling(temperature=1.2, no_repeat_ngram_size=2), "seed": 5},
    ),
    "dictation in turns": ("prefix", {"again": "<stop>"}, {"prompt": "transcribe", "turns": "all", "gate": "sound"}),
}


@settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    kind=st.sampled_from(sorted(KINDS)),
    seed=st.integers(0, 30),
    cuts=st.lists(st.integers(0, 3 * PIECE), max_size=9),
    lags=st.lists(st.sampled_from([None, 0.0, 19.0, 300.0]), min_size=10, max_size=10),
)
def test_what_is_committed_begins_the_final_text_and_what_is_agreed_changes_none(
    load: Callable[..., Model], kind: str, seed: int, cuts: list[int], lags: list[float | None]
) -> None:
    attention, fields, options = KINDS[kind]
    model = wordy(load, attention, **fields)
    quiet = np.zeros(12_000, np.float32)
    samples = np.concatenate([quiet, sound_of(PIECE + 2777, seed), quiet, sound_of(3100, seed + 1), quiet[:801]])
    said: dict[Any, list[Event]] = {}
    for asked in (False, "agreed", "committed"):
        stream = still(model, partials=asked, **options)
        parts = np.split(samples, sorted(cuts))
        told = [event for part, lag in zip(parts, lags, strict=False) for event in stream.push(part, lag_ms=lag)]
        said[asked] = told + list(stream.finish())
    assert finals(said["agreed"]) == finals(said[False])
    grows(said["agreed"])
    grows(said["committed"])
    holds(said["committed"])
    assert [text.answer for text in finals(said["committed"])] == [text.answer for text in finals(said[False])]


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(sorted(KINDS)),
    asked=st.sampled_from(["agreed", "committed"]),
    before=st.integers(600, 3000),
    junk=st.integers(0, 2800),
    rest=st.integers(0, 3000),
    closes=st.booleans(),
    steps=st.integers(0, 30),
)
def test_what_stood_at_a_mark_is_what_stands_after_going_back(
    load: Callable[..., Model], *, kind: str, asked: str, before: int, junk: int, rest: int, closes: bool, steps: int
) -> None:
    attention, fields, options = KINDS[kind]
    model = wordy(load, attention, **fields)
    first, last = sound_of(before), sound_of(rest, 1)
    plain, stream = (still(model, **({"partials": asked} | options | {"gate": "off"})) for _ in range(2))
    expected = list(plain.push(first)) + list(plain.push(last)) + list(plain.finish())
    events = list(stream.push(first))
    mark = stream.mark()
    anything(stream, junk, 7, closes=closes, steps=steps)
    stream.back(mark)
    anything(stream, junk // 2, 8, closes=not closes, steps=steps // 2)
    stream.back(mark)
    events += list(stream.push(last)) + list(stream.finish())
    assert events == expected
    grows(events)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_words_stand_in_every_kind_before_they_are_whole(load: Callable[..., Model], kind: str) -> None:
    attention, fields, options = KINDS[kind]
    stood = promised = 0
    for seed in range(12):
        parts = [sound_of(PIECE - 900, seed), np.zeros(300, np.float32)]
        stood += grows(run(still(wordy(load, attention, **fields), partials=True, **options), parts))
        promised += holds(run(still(wordy(load, attention, **fields), partials="committed", **options), parts))
    assert stood
    assert promised


def test_what_is_committed_is_not_what_would_have_been_said_without(load: Callable[..., Model]) -> None:
    model, changed = wordy(load), 0
    for seed in range(40):
        parts = [sound_of(PIECE - 900, seed)]
        plain = finals(run(still(model), parts))
        committed = run(still(model, partials="committed"), parts)
        holds(committed)
        changed += [text.text for text in plain] != [text.text for text in finals(committed)]
    assert changed


def whole(piece: Piece) -> Written:
    """Write one segment without an end."""
    return in_segments(piece, 10**6, closes_last=False)


def late(piece: Piece) -> Written:
    """Write segments of which the last is not closed."""
    return in_segments(piece, 11, closes_last=False)


def stops_short(piece: Piece) -> Written:
    """Write all but the last third of the words, once a piece is long."""
    kept = len(piece.words) if piece.end_s < 8 else 2 * len(piece.words) // 3
    return in_segments(Piece(**{**vars(piece), "words": piece.words[:kept]}), 4)


def loops(piece: Piece) -> Written:
    """Say the last word again and again, once a piece is long."""
    written = in_segments(piece, 5)
    return written if piece.end_s < 6 else written + [look(piece.words[-1])] * 40


def changes_its_mind(piece: Piece) -> Written:
    """Write other words the longer the piece is."""
    words = [replace(word, text=f"{word.text}{'x' * (at < piece.end_s - 5)}") for at, word in enumerate(piece.words)]
    return in_segments(Piece(**{**vars(piece), "words": words}), 5)


def dictated(load: Callable[..., Model], writes: Any, *, resumes: bool, aligns: bool, **options: Any) -> list[Event]:
    """Return what comes of half a minute without a pause, in pieces of ten seconds."""
    dictation = dictate(dictating(load, resumes=resumes, aligns=aligns), LONG, writes, **options)
    dictation.stream.measure(clock=lambda: 0.0)
    return run(dictation.stream, np.array_split(sound(LONG), 200))


PIECES = [(True, True), (False, True), (False, False)]


@pytest.mark.parametrize(("resumes", "aligns"), PIECES)
@pytest.mark.parametrize("times", [None, "segments", "words"])
@pytest.mark.parametrize("writes", [in_segments, whole, late])
def test_pieces_of_long_speech_keep_what_stood_and_lose_no_word(
    load: Callable[..., Model], writes: Any, times: Any, *, resumes: bool, aligns: bool
) -> None:
    if (times == "segments" and not resumes) or (times == "words" and not aligns):
        pytest.skip("refused; see test_answer_times")
    how = {"resumes": resumes, "aligns": aligns, "times": times}
    said = {asked: dictated(load, writes, partials=asked, **how) for asked in (False, "agreed", "committed")}
    assert finals(said["agreed"]) == finals(said[False])
    assert grows(said["agreed"]) > 500
    assert grows(said["committed"]) > 500
    assert holds(said["committed"]) > 500
    texts = {name: " ".join(text.text for text in finals(events)) for name, events in said.items()}
    assert texts["committed"] == texts[False]


@pytest.mark.parametrize(("resumes", "aligns"), PIECES)
@pytest.mark.parametrize("writes", [stops_short, loops, changes_its_mind])
def test_what_is_committed_stands_however_a_long_answer_is_cut(
    load: Callable[..., Model], writes: Any, *, resumes: bool, aligns: bool
) -> None:
    how = {"resumes": resumes, "aligns": aligns}
    plain = dictated(load, writes, **how)
    agreed, committed = (dictated(load, writes, partials=asked, **how) for asked in ("agreed", "committed"))
    assert finals(agreed) == finals(plain)
    grows(agreed)
    grows(committed)
    assert holds(committed) > 500
    bounds = [(text.start_s, text.end_s) for text in finals(committed)]
    assert all(one[1] == other[0] for one, other in itertools.pairwise(bounds))


def test_committed_partials_of_a_bundle_that_knows_segments_and_no_words_are_refused(
    load: Callable[..., Model],
) -> None:
    model = dictating(load, resumes=True, aligns=False)
    with pytest.raises(UsageError, match="partials: 'committed', tiny does not know when a word ended"):
        model.stream(partials="committed")
    model.stream(partials="agreed")


def test_a_model_that_is_asked_to_write_down_leaves_nothing_of_a_draft(load: Callable[..., Model]) -> None:
    """What is heard after a draft, and what is remembered of the turn, is as if there had been none."""
    model = wordy(load, "prefix", again="<stop>", turn="<start>{role}{text}<stop>", roles={"user": "u"})
    said: dict[Any, list[Event]] = {}
    for asked in (False, True):
        stream = still(model, prompt="transcribe", turns="all", partials=asked)
        events = list(stream.push(sound_of(3000, 1)))
        assert any(span.name == "draft" for span in stream.trace.spans) == asked
        stream._work.queue.clear()
        marks = stream._answerer.mark()
        assert (marks.position, marks.held) == (stream._answerer._backbone.position, stream._answerer._held)
        events += list(stream.push(sound_of(PIECE, 2))) + list(stream.ask("ab")) + list(stream.finish())
        said[asked] = finals(events)
    assert len(said[True]) > 1
    assert said[True] == said[False]


def test_who_may_write_partials_is_said_by_name(load: Callable[..., Model]) -> None:
    cross, prefix = wordy(load), wordy(load, "prefix")
    assert writes_partials(cross.manifest)
    assert not writes_partials(prefix.manifest)
    assert writes_partials(prefix.manifest, StreamOptions(prompt="transcribe"))
    assert not writes_partials(prefix.manifest, StreamOptions(prompt="transcribe", speak=True))
    thinks = wordy(load, "prefix", thinking=Thinking(open="<de>", close="<en>", then="~", usual=True))
    assert not writes_partials(thinks.manifest, StreamOptions(prompt="transcribe"))
    assert writes_partials(thinks.manifest, StreamOptions(prompt="transcribe", think=False))
    line = "partials: tiny writes nothing before an utterance is over: {}; leave them out"
    with pytest.raises(UsageError) as refused:
        prefix.stream(partials=True)
    assert str(refused.value) == line.format("it answers what it hears, unless prompt is 'transcribe'")
    with pytest.raises(UsageError) as refused:
        load("prefix").stream(partials=True, prompt="transcribe")
    assert str(refused.value) == line.format("it answers what it hears")
    grid = msgspec.structs.replace(cross.manifest.grid, mode="exact", chunk_frames=cross.manifest.grid.max_frames)
    whole = replace(cross, bundle=replace(cross.bundle, manifest=msgspec.structs.replace(cross.manifest, grid=grid)))
    with pytest.raises(UsageError) as refused:
        whole.stream(partials="committed")
    assert str(refused.value) == line.format("it hears 0.4 s at once")


def test_an_unknown_kind_of_partials_is_refused(load: Callable[..., Model]) -> None:
    for value in ("yes", 1, None, [], "Agreed"):
        with pytest.raises(UsageError, match="partials: .* choose one of: True, False, agreed, committed"):
            load().stream(partials=value)


def test_drafts_give_way_before_the_level_does(load: Callable[..., Model]) -> None:
    """A lag that ends drafts is far below the one at which a cheaper level is chosen."""
    model = wordy(load)
    stream = model.stream(gate="off", partials=True)
    stream.measure(clock=lambda: 0.0)
    for _ in range(3):
        list(stream.push(sound_of(CHUNK), lag_ms=200.0))
    assert not any(span.name == "draft" for span in stream.trace.spans)
    assert stream.level.name == "full"
    assert stream.level.max_lag_ms is not None
    assert stream.level.max_lag_ms > 200.0


def test_digital_silence_is_not_drafted(load: Callable[..., Model]) -> None:
    stream = still(wordy(load), partials="committed")
    events = run(stream, [np.zeros(round(0.3 * RATE), np.float32)])
    assert not any(span.name == "draft" for span in stream.trace.spans)
    assert all(event.final for event in events if isinstance(event, Text))
