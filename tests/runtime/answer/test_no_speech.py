"""The no-speech rule: what a backbone writes of sound in which nobody spoke does not stand.

The tiny bundle's weights are random: which token stands for no speech is chosen so that some sound is silent to it.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest

from edgekit.bundle import GateSettings, Sampling, TokenProtocol
from edgekit.runtime.answer.sampler import Greedy, Sampled, Scored
from edgekit.runtime.engine import Recorded
from edgekit.runtime.events import Event, TextCut
from edgekit.runtime.model import Model
from tests.runtime.streams import HOP, PIECE, final_texts, run, sound_of

SEEDS = range(24)
NO_SPEECH = 57  # likely to begin an answer to some of their sounds


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    return logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max()


def _protocol(**fields: Any) -> TokenProtocol:
    return TokenProtocol(attention="cross", stop=(10,), max_tokens=1, context_tokens=1, **fields)


def test_the_mean_is_over_what_the_limits_allow_and_over_one_token_more_than_were_said() -> None:
    limits = _protocol(suppress=(3,), begin_suppress=(10,), vocabulary_limit=8)
    rows = np.random.default_rng(0).standard_normal((3, 12)).astype(np.float32)
    rows[0, 5], rows[1, 2], rows[2, 10] = 4.0, 4.0, 4.0
    rows[:, 3] = 9.0  # the likeliest, and forbidden: what it takes away does not count
    scored = Scored(Greedy(limits), limits)
    said: list[int] = []
    sums = 0.0
    for first, row in zip((True, False, False), rows, strict=True):
        token = scored.pick(row, said)
        allowed = [one for one in range(12) if one != 3 and (one < 8 or (one == 10 and not first))]
        sums += _log_softmax(row[allowed].astype(np.float64))[allowed.index(token)]
        assert scored.mean == pytest.approx(sums / (len(said) + 1 + (token != 10)), rel=1e-5)
        said.append(token)
    assert said == [5, 2, 10]
    assert scored.mean == pytest.approx(sums / 3, rel=1e-5)  # two tokens and the one that ends them


def test_what_is_scored_is_chosen_and_drawn_as_before() -> None:
    limits, rows = _protocol(suppress=(3,)), np.random.default_rng(1).standard_normal((20, 12)).astype(np.float32)
    plain, scored = (Sampled(limits, Sampling(temperature=1.0), 7) for _ in range(2))
    watched = Scored(scored, limits)
    mark = watched.mark()
    drawn = [watched.pick(row, []) for row in rows]
    assert drawn == [plain.pick(row, []) for row in rows]
    watched.back(mark)
    assert drawn == [watched.pick(row, []) for row in rows]


def _heard(model: Model, seed: int, **options: Any) -> tuple[list[Event], dict[int, np.ndarray]]:
    """Return the events of one piece of sound, and the logits after each position, as they were last computed."""
    recorded = Recorded(model.engines["backbone"])
    watched = dataclasses.replace(model, engines={**model.engines, "backbone": recorded})
    events = run(watched.stream(level="full", **options), [sound_of(PIECE - HOP, seed)])
    logits = {
        int(inputs["start"][0]) + int(row): after
        for inputs, outputs in recorded.calls
        for row, after in zip(inputs["logit_rows"], outputs["logits"], strict=True)
    }
    return events, logits


def _with(load: Callable, gate: str = "off", **changes: Any) -> Model:
    """Return the tiny model whose protocol has other values, to which some of SEEDS are silent."""
    protocol = load().manifest.protocol
    protocol = msgspec.structs.replace(
        protocol, **{"no_speech": NO_SPEECH, "sampling": Sampling(temperature=3.0), **changes}
    )
    return load(protocol=protocol, gate=GateSettings(kind=gate))


def _verdict(model: Model, plain: Model, seed: int) -> tuple[float, float]:
    """Return the probability of no speech and the mean log-probability, computed from the logits of all positions.

    ``plain``: the same without the rule.
    """
    protocol = model.manifest.protocol
    _, after = _heard(model, seed)
    silence = float(np.exp(_log_softmax(after[len(protocol.start) - 1])[NO_SPEECH]))
    events, logits = _heard(plain, seed)
    (text,) = final_texts(events)
    said = [*text.tokens, *([] if text.truncated else protocol.stop)]
    begun = len(protocol.start) + len(protocol.start_tail) - 1
    allowed = [one for one in range(protocol.vocabulary_limit or 0) if one not in protocol.suppress]
    allowed += protocol.stop
    scores = [_log_softmax(logits[begun + at][allowed])[allowed.index(token)] for at, token in enumerate(said)]
    return silence, sum(scores) / (len(text.tokens) + 1)


def test_a_text_stands_unless_no_speech_is_likely_and_the_text_is_not(load: Callable) -> None:
    model, plain = _with(load), _with(load, no_speech=None)
    kinds = set()
    for seed in SEEDS:
        silence, mean = _verdict(model, plain, seed)
        (text,) = final_texts(_heard(model, seed)[0])
        (without,) = final_texts(_heard(plain, seed)[0])
        kinds.add((silence > 0.6, mean < -1))
        if silence > 0.6 and mean < -1:
            assert (text.text, text.tokens, text.truncated) == ("", (), False)
        else:
            assert text == without
    assert kinds == {(False, False), (False, True), (True, False), (True, True)}


def test_nothing_is_missing_of_full_pieces_in_which_nobody_spoke(load: Callable) -> None:
    plain = load().manifest.protocol
    model = _with(load, begin_suppress=plain.stop)  # so that a text is empty by the rule alone
    silent = cuts = 0
    for seed in SEEDS:
        events = run(model.stream(level="full"), [sound_of(4 * PIECE, seed)])
        cut = {event.answer for event in events if isinstance(event, TextCut)}
        cuts += len(cut)
        for text in final_texts(events):
            silent += not text.text
            assert text.text or (text.tokens, text.segments, text.truncated, text.answer in cut) == (
                (),
                (),
                False,
                False,
            )
    assert silent > 3
    assert cuts > 3


def test_where_a_gate_lets_speech_through_alone_every_text_stands(load: Callable) -> None:
    sounds = np.concatenate([sound_of(PIECE, seed) for seed in SEEDS])
    for gate, rules in (("off", True), ("sound", True), ("speech", False)):
        stream = _with(load, gate=gate).stream(level="full")
        assert stream._work._answerer._setting.any_sound == rules
        if gate == "sound":
            assert "" in {text.text for text in final_texts(run(stream, [sounds]))}


@pytest.mark.parametrize("loudest", [0.0, 2 / 32768])
def test_digital_silence_is_asked_for_no_words_where_the_gate_lets_it_through(load: Callable, loudest: float) -> None:
    stream = load().stream(level="full", gate="off")
    events = run(stream, [np.full(PIECE // 2, loudest, np.float32)])
    assert [(text.text, text.tokens, text.truncated) for text in final_texts(events)] == [("", (), False)]
    assert not [span for span in stream.trace.spans if span.name in {"prefill", "decode"}]
    louder = run(load().stream(level="full", gate="off"), [np.full(PIECE // 2, 4 / 32768, np.float32)])
    assert final_texts(louder)[0].tokens
