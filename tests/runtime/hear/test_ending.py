"""Ending: what a pause is, by its length, its sound and the text before it; and what the Gate makes of that."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.bundle import GateSettings
from edgekit.errors import UsageError
from edgekit.runtime.hear.ending import EndingRule, Evidence, Loudness, ending, ends_sentence
from edgekit.runtime.hear.gate import Closed, Gate, Opened, Output, Paused, Quiet, Resumed, Sound
from tests.runtime.streams import Loudest

RULE = EndingRule(pause_ms=200, open_ms=100, doubt=0.5, fall_db=6.0, patience=1.5)
RATE, WINDOW = 16_000, 400
# One window of sound opens it, eight of silence close it; two windows of pre-roll.
SETTINGS = GateSettings(start=0.5, stop=0.1, min_sound_ms=25, min_silence_ms=200, pre_roll_ms=50)
EARLY = EndingRule(pause_ms=75, open_ms=50, doubt=1.0, fall_db=0.0, patience=0.0)  # three windows, two more


@pytest.mark.parametrize(
    ("silence_ms", "doubt", "fall_db", "sentence", "expected"),
    [
        (199.9, 0.0, 60.0, True, "goes on"),
        (200.0, 0.5, 6.0, True, "end"),
        (200.0, 0.5, 6.0, False, "pause"),
        (200.0, 0.5, 6.0, None, "pause"),
        (299.9, 0.0, 60.0, False, "pause"),
        (300.0, 0.0, 60.0, False, "end"),
        (300.0, 0.0, 60.0, None, "end"),
        (300.0, 0.51, 60.0, True, "goes on"),
        (5000.0, 0.0, 5.9, True, "goes on"),
    ],
)
def test_a_pause_is_what_its_evidence_says(
    silence_ms: float, doubt: float, fall_db: float, sentence: bool | None, expected: str
) -> None:
    assert ending(Evidence(silence_ms, doubt, fall_db, ends_sentence=sentence), RULE) == expected


@pytest.mark.parametrize(
    ("silence_ms", "longest_ms", "sentence", "expected"),
    [
        (200.0, 133.0, True, "end"),
        (200.0, 134.0, True, "goes on"),
        (300.0, 200.0, True, "end"),
        (399.9, 200.0, False, "pause"),
        (400.0, 200.0, False, "end"),
    ],
)
def test_who_paused_for_long_is_waited_for(silence_ms: float, longest_ms: float, sentence: bool, expected: str) -> None:
    assert ending(Evidence(silence_ms, 0.0, 60.0, longest_ms, sentence), RULE) == expected


@given(
    silence_ms=st.floats(0, 1000), more_ms=st.floats(0, 1000), doubt=st.floats(0, 1), fall_db=st.floats(-120, 120),
    sentence=st.sampled_from([True, False, None]),
)  # fmt: skip
def test_more_silence_or_the_end_of_a_sentence_never_make_an_end_less_sure(
    silence_ms: float, more_ms: float, doubt: float, fall_db: float, sentence: bool | None
) -> None:
    order = ["goes on", "pause", "end"]
    evidence = Evidence(silence_ms, doubt, fall_db, silence_ms / 2, sentence)
    now = order.index(ending(evidence, RULE))
    assert order.index(ending(dataclasses.replace(evidence, silence_ms=silence_ms + more_ms), RULE)) >= now
    assert order.index(ending(dataclasses.replace(evidence, ends_sentence=True), RULE)) >= now
    assert order.index(ending(dataclasses.replace(evidence, doubt=doubt / 2), RULE)) >= now


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Done.", True), ("Done?", True), ("Done! ", True), ('"Done."', True), ("(Done.)", True), ("終わり。", True),
        ("Done", False), ("Done,", False), ("Done...", False), ("Done -", False), ("", False), ('"', False),
    ],
)  # fmt: skip
def test_a_sentence_ends_with_its_mark_and_not_with_three_dots(text: str, expected: bool) -> None:
    assert ends_sentence(text) is expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("patience", -0.1),
        ("pause_ms", 0),
        ("pause_ms", "200"),
        ("pause_ms", True),
        ("open_ms", -1),
        ("doubt", 1.1),
        ("fall_db", np.nan),
    ],
)
def test_a_threshold_out_of_its_range_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(UsageError, match=f"^{name}: "):
        EndingRule(**{name: value})  # type: ignore[arg-type]


def test_how_much_quieter_a_window_is_than_the_utterance_is_bounded_for_digital_silence() -> None:
    loud, silent = np.full(400, 0.1, np.float32), np.zeros(400, np.float32)
    loudness = Loudness()
    assert loudness.fall_db(silent) == 0.0  # nothing counted yet
    loudness.add(loud)
    assert loudness.fall_db(loud / 10) == pytest.approx(20, abs=1e-3)
    assert loudness.fall_db(silent) == pytest.approx(100, abs=1e-3)


# The Gate


def gate(rule: EndingRule | None = EARLY) -> Gate:
    return Gate(SETTINGS, RATE, Loudest(WINDOW), rule=rule)


def windows(script: str) -> np.ndarray:
    """Sound of one window a letter: ``#`` sounds, ``.`` does not, ``-`` nearly; every sample is different."""
    levels = np.repeat([{"#": 0.9, ".": 0.01, "-": 0.09}[letter] for letter in script], WINDOW)
    return (levels - np.arange(levels.size) * 1e-7).astype(np.float32)


def summary(outputs: list[Output]) -> str:
    """Return decisions as letters: sound as in ``windows``, ( and ) for open and closed, P, Q and R."""
    letters = {Opened: "(", Closed: ")", Paused: "P", Quiet: "Q", Resumed: "R"}
    return "".join(
        letters[type(output)]
        if not isinstance(output, Sound)
        else ("#" if output.sounding else ".") * (len(output.samples) // WINDOW)
        for output in outputs
    )


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("##..#", "(##..#"),  # one window less than a pause
        ("##...#", "(##...PR#"),
        ("##....#", "(##...PR.#"),
        ("##.....#", "(##...PQR..#"),
        ("##.......#", "(##...PQR....#"),  # one less than the end
        ("##........", "(##...PQ)"),
        ("##........#", "(##...PQ)(..#"),  # what was held back is the pre-roll
        ("##...#...#........", "(##...PR#...PR#...PQ)"),
    ],
)
def test_silence_is_held_back_after_a_pause_until_speech_goes_on_or_the_gate_closes(script: str, expected: str) -> None:
    assert summary(gate().push(windows(script))) == expected


def test_decisions_name_the_samples_where_they_are_due_and_what_was_known() -> None:
    outputs = [one for one in gate().push(windows("##.....#........")) if not isinstance(one, Sound)]
    opened, paused, quiet, resumed, again, last, closed = outputs
    assert isinstance(paused, Paused)
    assert isinstance(again, Paused)
    assert isinstance(quiet, Quiet)
    assert opened == Opened(0)
    assert (paused.end_sample, paused.decided_sample) == (2 * WINDOW, 5 * WINDOW)
    assert paused.evidence.silence_ms == 87.5  # and half of the window in which sound ended
    assert paused.evidence.doubt == pytest.approx(0.1, abs=0.01)
    assert paused.evidence.fall_db == pytest.approx(39.1, abs=0.2)
    assert (quiet.decided_sample, quiet.evidence.silence_ms) == (7 * WINDOW, 137.5)
    assert resumed == Resumed(7 * WINDOW, 2 * WINDOW)
    assert (again.end_sample, again.decided_sample) == (8 * WINDOW, 11 * WINDOW)
    assert isinstance(last, Quiet)
    assert closed == Closed(8 * WINDOW, 16 * WINDOW)


def test_the_longest_silence_counts_until_the_gate_closes() -> None:
    rule = dataclasses.replace(EARLY, patience=1.2)  # after three windows four are a pause, after five seven
    one = gate(rule)
    assert summary(one.push(windows("##...#...#....#.....#......#"))) == "(##...PR#...#....PR#.....PR#......#"
    assert summary(one.push(windows("........#...#"))) == "........)(#...PR#"


def test_a_pause_waits_until_it_is_quiet_enough() -> None:
    rule = dataclasses.replace(EARLY, doubt=0.5)
    assert summary(gate(rule).push(windows("##-----.#"))) == "(##......PQR#"
    faint = dataclasses.replace(EARLY, fall_db=30.0)
    assert summary(gate(faint).push(windows("##---..#"))) == "(##....PQR.#"


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    script=st.lists(st.tuples(st.sampled_from("#.-"), st.integers(1, 10)), max_size=12),
    cuts=st.lists(st.integers(0, 40_000), max_size=12),
    rest=st.integers(0, WINDOW),
    finishes=st.booleans(),
)
def test_the_same_sound_comes_out_as_without_pauses_and_every_sample_is_accounted_for(
    script: list[tuple[str, int]], cuts: list[int], rest: int, finishes: bool
) -> None:
    sound = windows("".join(letter * count for letter, count in script))
    sound = np.concatenate([sound, windows("#")[:rest]])
    plain, early, whole = gate(None), gate(), gate()
    decisions: list[list[Output]] = [[], []]
    for part in np.split(sound, sorted(cut for cut in cuts if cut < len(sound))):
        for one, outputs in zip((plain, early), decisions, strict=True):
            outputs.extend(one.push(part))
            passed = sum(len(output.samples) for output in outputs if isinstance(output, Sound))
            assert passed == one.passed_samples
            assert one.pushed_samples == one.passed_samples + one.gated_samples + one.pending_samples
            assert one.pending_samples >= 0
        assert early.is_open == plain.is_open
        assert early.passed_samples <= plain.passed_samples
    if finishes:
        for one, outputs in zip((plain, early), decisions, strict=True):
            outputs.extend(one.finish())
            assert one.pending_samples == 0
    outputs = whole.push(sound) + (whole.finish() if finishes else [])
    assert [repr(one) for one in outputs] == [repr(one) for one in decisions[1]]  # any split
    ends = [[one for one in made if isinstance(one, Closed)] for made in decisions]
    assert ends[0] == ends[1]
    # Between two ends the same sound is handed out, but for the silence of a pause that was one.
    for before, after in zip(*map(utterances, decisions), strict=True):
        start = after[0]
        assert isinstance(start, Opened)
        heard = sound_in(after)
        assert start.at_sample <= opened_at(before)  # what was held back is its pre-roll
        np.testing.assert_array_equal(heard, sound[start.at_sample : start.at_sample + len(heard)])
        silence = opened_at(before) + len(sound_in(before)) - start.at_sample - len(heard)
        assert silence >= 0
        assert silence == 0 or not np.any(sound[start.at_sample + len(heard) :][:silence] >= 0.1)


def utterances(outputs: list[Output]) -> list[list[Output]]:
    """Return the outputs from each Opened on."""
    starts = [index for index, one in enumerate(outputs) if isinstance(one, Opened)]
    return [outputs[start:end] for start, end in itertools.pairwise([*starts, len(outputs)])]


def opened_at(outputs: list[Output]) -> int:
    (at,) = (one.at_sample for one in outputs if isinstance(one, Opened))
    return at


def sound_in(outputs: list[Output]) -> np.ndarray:
    return np.concatenate([one.samples for one in outputs if isinstance(one, Sound)])
