"""The Gate: hysteresis, durations and pre-roll on a detector whose score is the window's loudest sample."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgekit.bundle import GateSettings
from edgekit.errors import UsageError
from edgekit.runtime.hear.gate import Closed, Gate, Opened, Output, Played, Sound

RATE, WINDOW = 16_000, 512
# Two windows of sound open it, three of silence close it, two windows of pre-roll.
SETTINGS = GateSettings(start=0.5, stop=0.3, min_sound_ms=64, min_silence_ms=96, pre_roll_ms=64)


class Loudness:
    """A detector that a test can steer: its score is the loudest sample."""

    window_samples = WINDOW

    def __init__(self) -> None:
        self.resets = 0

    def score(self, window: NDArray[np.float32]) -> float:
        """Return the loudest sample."""
        assert window.shape == (WINDOW,)
        return float(window.max())

    def reset(self) -> None:
        """Count the call."""
        self.resets += 1


def gate(settings: GateSettings = SETTINGS) -> Gate:
    return Gate(settings, RATE, Loudness())


def windows(*levels: float) -> NDArray[np.float32]:
    """Sound whose windows score ``levels``; every sample is different, so that a shift cannot hide."""
    sound = np.repeat(np.array(levels, np.float32), WINDOW)
    return sound - (np.arange(sound.size) % WINDOW).astype(np.float32) * np.float32(1e-5)


def summary(outputs: list[Output]) -> list[tuple[str, object]]:
    described: list[tuple[str, object]] = []
    for output in outputs:
        match output:
            case Opened(at):
                described.append(("opened", at // WINDOW))
            case Sound(samples, sounding):
                described.append(("sound" if sounding else "quiet", samples.size // WINDOW))
            case Closed(end, decided):
                described.append(("closed", (end // WINDOW, decided // WINDOW)))
    return described


def test_it_opens_after_enough_sound_and_hands_out_the_pre_roll() -> None:
    outputs = gate().push(windows(0, 0, 0, 0, 0.9, 0.9, 0.9))
    assert summary(outputs) == [("opened", 2), ("quiet", 2), ("sound", 2), ("sound", 1)]
    sound = np.concatenate([output.samples for output in outputs if isinstance(output, Sound)])
    np.testing.assert_array_equal(sound, windows(0, 0, 0, 0, 0.9, 0.9, 0.9)[2 * WINDOW :])


def test_one_window_of_sound_is_too_short() -> None:
    assert gate().push(windows(0, 0.9, 0, 0.9, 0, 0.9)) == []


def test_a_second_window_need_only_reach_the_stop_threshold() -> None:
    assert summary(gate().push(windows(0, 0, 0.9, 0.4)))[0] == ("opened", 0)
    assert gate().push(windows(0, 0, 0.4, 0.4, 0.4)) == []


def test_thresholds_count_when_they_are_just_met() -> None:
    settings = GateSettings(start=0.5, stop=0.25, min_sound_ms=1, min_silence_ms=1, pre_roll_ms=0)
    half = np.full(WINDOW, 0.5, np.float32)
    outputs = gate(settings).push(np.concatenate([half, half / 2, half / 4]))
    assert summary(outputs) == [("opened", 0), ("sound", 1), ("sound", 1), ("quiet", 1), ("closed", (2, 3))]


def test_it_closes_after_enough_silence_which_was_handed_out_meanwhile() -> None:
    outputs = gate().push(windows(0.9, 0.9, 0.4, 0, 0, 0, 0))
    assert summary(outputs) == [
        ("opened", 0),
        ("sound", 2),
        ("sound", 1),
        ("quiet", 1),
        ("quiet", 1),
        ("quiet", 1),
        ("closed", (3, 6)),
    ]


def test_a_pause_shorter_than_the_silence_does_not_close_it() -> None:
    outputs = gate().push(windows(0.9, 0.9, 0, 0, 0.4, 0, 0, 0.4))
    assert not [output for output in outputs if isinstance(output, Closed)]


def test_pre_roll_never_repeats_samples_of_the_utterance_before() -> None:
    outputs = gate().push(windows(0.9, 0.9, 0, 0, 0, 0, 0.9, 0.9))
    assert summary(outputs)[-4:] == [("closed", (2, 5)), ("opened", 5), ("quiet", 1), ("sound", 2)]


def test_pre_roll_stops_at_the_first_sample() -> None:
    assert summary(gate().push(windows(0, 0.9, 0.9))) == [("opened", 0), ("quiet", 1), ("sound", 2)]


def test_pre_roll_is_exact_to_the_sample() -> None:
    settings = GateSettings(start=0.5, stop=0.3, min_sound_ms=32, pre_roll_ms=50)  # 800 samples
    opened, before, sound = gate(settings).push(windows(0, 0, 0, 0.9))
    assert opened == Opened(3 * WINDOW - 800)
    assert isinstance(before, Sound)
    assert isinstance(sound, Sound)
    assert (before.sounding, sound.sounding) == (False, True)
    np.testing.assert_array_equal(before.samples, windows(0, 0, 0, 0.9)[3 * WINDOW - 800 : 3 * WINDOW])
    np.testing.assert_array_equal(sound.samples, windows(0, 0, 0, 0.9)[3 * WINDOW :])


def test_the_usual_pre_roll_is_at_least_300_ms() -> None:
    opened = Gate(GateSettings(), RATE, Loudness()).push(windows(*[0] * 20, 0.9, 0.9))[0]
    assert isinstance(opened, Opened)
    assert 20 * WINDOW - opened.at_sample >= 0.3 * 16_000


def test_finish_closes_an_open_gate_at_the_last_sample() -> None:
    stream = gate()
    stream.push(windows(0.9, 0.9))
    outputs = stream.push(windows(0.9)[:100]) + stream.finish()
    assert isinstance(outputs[0], Sound)
    assert outputs[0].samples.size == 100
    assert outputs[1:] == [Closed(2 * WINDOW + 100, 2 * WINDOW + 100)]
    assert not stream.is_open


def test_an_incomplete_last_window_can_open_it() -> None:
    stream = gate()
    assert stream.push(windows(0, 0.9, 0.9)[:-1]) == []
    outputs = stream.finish()
    assert [outputs[0], outputs[-1]] == [Opened(0), Closed(3 * WINDOW - 1, 3 * WINDOW - 1)]
    assert [output.samples.size for output in outputs if isinstance(output, Sound)] == [WINDOW, 2 * WINDOW - 1]


def test_finish_of_a_silent_or_empty_stream_gives_nothing() -> None:
    assert gate().finish() == []
    stream = gate()
    stream.push(windows(0, 0, 0, 0.9)[:-1])
    assert stream.finish() == []
    assert (stream.gated_samples, stream.pending_samples) == (4 * WINDOW - 1, 0)


def test_finish_forgets_the_run_and_the_detector_but_goes_on_counting() -> None:
    detector = Loudness()
    stream = Gate(SETTINGS, RATE, detector)
    stream.push(windows(0, 0.9))
    stream.finish()
    assert detector.resets == 1
    assert stream.push(windows(0.9)) == []
    assert summary(stream.push(windows(0.9))) == [("opened", 2), ("sound", 2)]


def test_off_passes_everything_through() -> None:
    stream = Gate(GateSettings(kind="off"), RATE)
    sound = windows(0, 0, 0, 0)[:-7]
    outputs = stream.push(sound) + stream.finish()
    assert outputs[0] == Opened(0)
    assert outputs[-1] == Closed(sound.size, sound.size)
    passed = np.concatenate([output.samples for output in outputs if isinstance(output, Sound)])
    np.testing.assert_array_equal(passed, sound)
    assert (stream.passed_samples, stream.gated_samples, stream.probability) == (sound.size, 0, 1.0)
    assert Gate(GateSettings(kind="off"), RATE).finish() == []


def test_off_takes_a_single_sample() -> None:
    stream = Gate(GateSettings(kind="off"), RATE)
    assert stream.push(np.ones(1, np.float32)) == []
    assert [type(output) for output in stream.finish()] == [Opened, Sound, Closed]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    levels=st.lists(st.sampled_from([0.0, 0.4, 0.9]), max_size=24),
    tail=st.integers(0, WINDOW - 1),
    cuts=st.lists(st.integers(0, 25 * WINDOW), max_size=10),
    pre_roll_ms=st.sampled_from([0, 1, 50, 64, 320]),
)
def test_any_split_gives_the_same_outputs_and_no_sample_is_lost(
    levels: list[float], tail: int, cuts: list[int], pre_roll_ms: int
) -> None:
    chosen = GateSettings(start=0.5, stop=0.3, min_sound_ms=64, min_silence_ms=96, pre_roll_ms=pre_roll_ms)
    sound = windows(*levels, 0.9)[: len(levels) * WINDOW + tail]
    whole = gate(chosen)
    expected = whole.push(sound) + whole.finish()
    stream = gate(chosen)
    outputs: list[Output] = []
    pushed = 0
    for part in np.split(sound, sorted(min(cut, sound.size) for cut in cuts)):
        buffer = part.copy()
        outputs += stream.push(buffer)
        buffer[:] = np.nan  # a caller may reuse its buffer
        pushed += part.size
        assert stream.passed_samples + stream.gated_samples + stream.pending_samples == pushed
        handed_out = sum(output.samples.size for output in outputs if isinstance(output, Sound))
        assert handed_out == stream.passed_samples
        assert stream.pending_samples <= pre_roll_ms * 16 + 3 * WINDOW
    outputs += stream.finish()
    assert stream.pending_samples == 0
    assert stream.passed_samples + stream.gated_samples == sound.size
    assert len(outputs) == len(expected)
    position = -1
    for ours, theirs in zip(outputs, expected, strict=True):
        match ours, theirs:
            case Sound(samples, sounding), Sound(reference, expectation):
                assert samples.tobytes() == reference.tobytes()
                assert sounding == expectation
                assert samples.tobytes() == sound[position : position + samples.size].tobytes()
                position += samples.size
            case Opened(at), _:
                assert ours == theirs
                assert at >= position
                position = at
            case Closed(end, decided), _:
                assert ours == theirs
                assert end <= decided == position


def test_memory_does_not_hold_on_to_a_large_push() -> None:
    stream = gate()
    tracemalloc.start()
    stream.push(np.zeros(600_001, np.float32))
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 100_000


def test_stereo_is_refused() -> None:
    with pytest.raises(UsageError, match=r"shape \(2, 2\)"):
        gate().push(np.zeros((2, 2), np.float32))


def over(*states):
    """Return what is played beside a gate, a state for each window."""
    played = Played(WINDOW / RATE)
    for state in states:
        played.add(state)
    return played


def test_what_is_played_alone_does_not_open_the_gate_and_more_than_it_opens_it_sooner():
    sound = windows(0.9, 0.9, 0.9, 0.9, 0.2, 0.2)
    for states, expected in (
        ((None,) * 6, 2),
        ((False,) * 6, None),
        ((False, False, True, True, True, True), 4),
        ((False,) * 4 + (True, True), 6),
        ((False,) * 4 + (None, None), None),
    ):
        stream = gate()
        stream.played = over(*states)
        opened = [
            end for end in range(1, 7) if stream.push(sound[(end - 1) * WINDOW : end * WINDOW]) and stream.is_open
        ]
        assert opened[:1] == ([] if expected is None else [expected])


def test_a_gate_that_is_open_or_off_stays_so_whatever_is_played():
    stream = gate()
    stream.played = over(None, None, False, False, False, False)
    stream.push(windows(0.9, 0.9, 0.9, 0.9, 0.9))
    assert stream.is_open
    always = Gate(GateSettings(kind="off"), RATE)
    always.played = over(False)
    always.push(windows(0.0))
    assert always.is_open


def test_what_was_played_long_ago_is_forgotten_and_what_is_not_known_is_none():
    played = over(*[True] * 10_000)
    assert played.until(10_000 * WINDOW / RATE) is True
    assert played.until(10_001 * WINDOW / RATE) is None
    assert played.until(WINDOW / RATE) is None
