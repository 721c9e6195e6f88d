"""How an answer ended: why it was cut, what is told of it, and what is asked of a bundle for it."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest

import edgekit
from edgekit.errors import BundleFormatError, UsageError
from edgekit.runtime.events import Text, TextCut, to_json
from edgekit.runtime.model import Model
from tests.runtime.conftest import CONTEXT, special
from tests.runtime.dictation import (
    Piece,
    Written,
    cuts,
    dictating,
    in_segments,
    names,
    speech,
    take_down,
    texts,
    written,
)
from tests.runtime.streams import PIECE, final_texts, run, sound_of

SHORT = speech(4.0)  # ten words, thirty tokens, less than a piece


@pytest.mark.parametrize(
    ("protocol", "loading", "options", "reason", "tokens"),
    [
        ({}, {}, {}, None, 30),
        ({}, {}, {"max_tokens": 30}, "max_tokens", 30),  # nobody knows whether it would have ended
        ({}, {}, {"max_tokens": 31}, None, 30),
        ({"max_tokens": 7}, {}, {}, "max_tokens", 7),
        ({}, {"context_tokens": 21}, {}, "context", 20),  # two of the prompt; the last is not read
        ({"max_length": 12}, {}, {}, "max_length", 10),
        ({"max_tokens_per_s": 1.0}, {}, {}, "rate", 12),  # 4 s, and eight to spare
    ],
)
@pytest.mark.parametrize("times", [None, "words"])
def test_an_answer_that_the_model_did_not_end_says_so(
    load: Callable[..., Model], *, protocol: Any, loading: Any, options: Any, reason: Any, tokens: int, times: Any
) -> None:
    model = dictating(load, resumes=True, aligns=True, **protocol)
    if loading:
        model = replace(model, **loading)
    _, events = take_down(model, SHORT, times=times, **options)
    (text,) = texts(events)
    assert cuts(events) == [reason] * (reason is not None)
    assert text.truncated == (reason is not None)
    assert len(text.tokens) == tokens
    for event in events[events.index(text) :]:
        line = json.loads(json.dumps(to_json(event)))
        if isinstance(event, Text):
            assert line["truncated"] is (reason is not None)
            assert [one["text"] for one in line["segments"]] == [one.text for one in event.segments]
        if isinstance(event, TextCut):
            assert line == {"event": "text_cut", "reason": reason, "at_s": text.end_s, "answer": text.answer}


def test_times_count_as_tokens_of_an_answer(load: Callable[..., Model]) -> None:
    model = dictating(load, resumes=True, aligns=True)
    for most, tokens, cut in ((33, 30, []), (32, 30, ["max_tokens"]), (31, 30, ["max_tokens"]), (4, 3, ["max_tokens"])):
        _, events = take_down(model, SHORT, closed_late, times="segments", max_tokens=most)
        assert cuts(events) == cut
        assert len(texts(events)[0].tokens) == tokens


def closed_late(piece: Piece) -> Written:
    """Write one segment: thirty tokens between two times."""
    return in_segments(piece, 99)


def test_a_loop_is_cut_and_its_text_has_the_phrase_once(load: Callable[..., Model]) -> None:
    def writes(piece: Piece) -> Written:
        return (
            in_segments(Piece(**{**vars(piece), "words": piece.words[:2]}), 9, closes_last=False) + [("zz", 0.9)] * 20
        )

    for times in (None, "words", "segments"):
        _, events = take_down(dictating(load, resumes=True, aligns=True), speech(6.0), writes, times=times)
        (text,) = [text for text in texts(events) if text.truncated]
        assert text.text.split() == ["aa", "ab", "zz"]
        assert cuts(events) == ["repeats"]
        assert [word.text for one in text.segments for word in one.words] == (
            ["aa", "ab", "zz"] if times == "words" else []
        )


def test_a_context_that_holds_no_more_sound_is_told(load: Callable[..., Model]) -> None:
    events = run(load("prefix", context_tokens=48).stream(level="full"), [sound_of(PIECE * 2)])
    assert [event.reason for event in events if isinstance(event, TextCut)].count("sound") == 1
    assert len(final_texts(events)) == 2


def test_prefix_bundles_answer_all_pieces_at_once_and_hear_none_again(load: Callable[..., Model]) -> None:
    stream = load("prefix", context_tokens=200).stream(level="full")
    events = run(stream, [sound_of(PIECE * 3 + 77)])
    assert len(final_texts(events)) == 1
    assert stream.samples_heard_again == 0
    assert final_texts(events)[0].segments == ()


@pytest.mark.parametrize(
    ("attention", "times", "message"),
    [
        ("cross", "words", "times: 'words', this bundle writes none of these"),
        ("cross", "segments", "times: 'segments', this bundle writes none of these"),
        ("prefix", "words", "times: 'words', this bundle answers what it hears and knows no times of words"),
        ("cross", "letters", "times: 'letters' is not known; choose one of: segments, words"),
    ],
)
def test_times_that_there_are_none_of_are_refused(
    load: Callable[..., Model], attention: str, times: Any, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        load(attention).stream(times=times)


@pytest.mark.parametrize("context", [CONTEXT, 12, 6, 5, 4, 3])
@pytest.mark.parametrize("times", [None, "words", "segments"])
def test_a_small_context_is_enough_for_the_times_too(load: Callable[..., Model], context: int, times: Any) -> None:
    model = replace(dictating(load, resumes=True, aligns=True), context_tokens=context)
    said = speech(2.0)
    _, events = take_down(model, said, times=times)
    assert written(events)[0][0] == "a" if written(events) else context == 3
    texts(events)


def _silent(model: Model, probability: float) -> Model:
    """Return a model that takes any sound for no speech, as likely as that."""
    backbone = model.engines["backbone"]
    quiet = special("</sound>")
    protocol = msgspec.structs.replace(model.manifest.protocol, no_speech=quiet)
    manifest = msgspec.structs.replace(model.manifest, protocol=protocol)
    return replace(
        model,
        bundle=replace(model.bundle, manifest=manifest),
        engines={**model.engines, "backbone": Doubting(backbone, quiet, probability)},
    )


class Doubting:
    """An Engine whose logits say how likely nobody speaks, and that it is unsure of every token."""

    def __init__(self, engine: Any, quiet: int, probability: float) -> None:
        self.component, self.counts, self.notes = engine.component, engine.counts, engine.notes
        self._engine, self._quiet, self._probability = engine, quiet, probability

    def bind(self, sizes: Any) -> Any:
        """Bind the engine below."""
        call = self._engine.bind(sizes)
        run_below, quiet, probability = call.run, self._quiet, self._probability

        def doubting(inputs: Any) -> Any:
            outputs = dict(run_below(inputs))
            logits = outputs["logits"].copy() * 0.01  # nearly alike
            others = np.delete(np.arange(logits.shape[1]), quiet)
            rest = np.log(np.exp(logits[:, others]).sum(axis=1))
            logits[:, quiet] = rest + np.log(probability / (1 - probability))
            return outputs | {"logits": logits}

        call.run = doubting
        return call


@pytest.mark.parametrize("context", [CONTEXT, 12, 8, 5])
@pytest.mark.parametrize(("probability", "kept"), [(0.9, False), (0.3, True)])
def test_an_answer_to_no_speech_is_dropped_however_it_ended(
    load: Callable[..., Model], context: int, probability: float, *, kept: bool
) -> None:
    model = _silent(load(context_tokens=context), probability)
    for options in ({"gate": "off"}, {"gate": "off", "max_tokens": 3}):
        (text,) = final_texts(run(model.stream(level="full", **options), [sound_of(PIECE - 9)]))
        assert bool(text.text) == kept


@pytest.mark.parametrize(
    ("alignment", "queries", "message"),
    [
        (((0, 0), (0, 1)), False, "output 'queries' of the backbone is not there"),
        (((0, 0), (1, 0)), True, "protocol.alignment has 2 layers, output 'queries'"),
        (((1, 0),), True, "layer 1, head 0, the adapter makes 'cross'"),
        (((0, 0), (0, 2)), True, "layer 0, head 2"),
        (((0, -1), (0, 0)), True, r"at `\$.protocol.alignment\[0\]\[1\]`, which is -1"),
    ],
)
def test_a_bundle_whose_alignment_its_graphs_do_not_have_is_refused(
    tiny_bundle: Callable, alignment: Any, message: str, *, queries: bool
) -> None:
    bundle = tiny_bundle("cross", writes_queries=queries)
    bundle.change(protocol=msgspec.structs.replace(bundle.manifest.protocol, alignment=alignment))
    with pytest.raises(BundleFormatError, match=message):
        edgekit.load(bundle.folder, threads=1)


def test_graphs_that_write_queries_tell_words_of_any_answer(tiny_bundle: Callable) -> None:
    bundle = tiny_bundle("cross", writes_queries=True)
    bundle.change(protocol=msgspec.structs.replace(bundle.manifest.protocol, alignment=((0, 0), (0, 1))))
    model = edgekit.load(bundle.folder, threads=1)
    for samples in (1, 159, 321, PIECE - 1, PIECE, PIECE * 2 + 5):
        events = run(model.stream(level="full", times="words"), [sound_of(samples)])
        for text in texts(events):
            heard = [word for segment in text.segments for word in segment.words]
            assert " ".join(word.text for word in heard).split() == text.text.split()
    assert names(SHORT)[:2] == ["aa", "ab"]
