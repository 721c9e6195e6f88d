"""Times in an answer: the segments that tokens make, and which tokens may come next."""

import msgspec
import numpy as np
import pytest

from edgekit.bundle import Timestamps, TokenProtocol
from edgekit.runtime.answer.sampler import Greedy
from edgekit.runtime.answer.times.timestamps import TextSpan, TimedSampler, log_sum, seconds, spans

FIRST, COUNT = 20, 11
TIMES = Timestamps(first=FIRST, count=COUNT, step_s=0.5, latest_start=2)
STOP, NONE, LOUD = 10, 11, 12  # the end, "no times", and a token that is suppressed
PROTOCOL = TokenProtocol(attention="cross", stop=(STOP,), max_tokens=9, context_tokens=9, suppress=(LOUD,))
A, B, C = 1, 2, 3


def at(time_s):
    """Return the token of a time."""
    return FIRST + round(time_s / TIMES.step_s)


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([], []),
        ([at(0)], []),
        ([at(0), at(2)], []),
        ([at(0.5), A, B, at(2)], [TextSpan(0, 2, 0.5, 2.0)]),
        ([at(0.5), A, at(2), at(2), B, C, at(3)], [TextSpan(0, 1, 0.5, 2.0), TextSpan(1, 3, 2.0, 3.0)]),
        ([at(0.5), A, at(2), at(3), B, at(4)], [TextSpan(0, 1, 0.5, 2.0), TextSpan(1, 2, 3.0, 4.0)]),  # a pause
        ([at(0.5), A, at(2), B, at(3)], [TextSpan(0, 1, 0.5, 2.0), TextSpan(1, 2, 2.0, 3.0)]),  # one time for both
        ([at(0.5), A, B], [TextSpan(0, 2, 0.5, 4.2, closed=False)]),
        ([at(0.5), A, at(2), at(2), B], [TextSpan(0, 1, 0.5, 2.0), TextSpan(1, 2, 2.0, 4.2, closed=False)]),
        ([A, B], [TextSpan(0, 2, 0.0, 4.2, closed=False)]),  # no time at all
        ([A, at(1)], [TextSpan(0, 1, 0.0, 1.0)]),
        ([at(3), A, at(1), at(0), B, at(2)], [TextSpan(0, 1, 3.0, 3.0), TextSpan(1, 2, 3.0, 3.0)]),  # backwards
        ([at(0), A, at(5)], [TextSpan(0, 1, 0.0, 4.2)]),  # behind the sound
        ([at(5), A], [TextSpan(0, 1, 4.2, 4.2, closed=False)]),
    ],
)
def test_segments_are_the_text_between_times(tokens, expected):
    assert spans(tokens, TIMES, 4.2) == expected


def test_text_tokens_are_those_that_are_no_times_on_both_sides_of_them():
    assert [seconds(token, TIMES) for token in (FIRST - 1, FIRST, FIRST + COUNT - 1, FIRST + COUNT)] == [
        None, 0.0, 5.0, None,
    ]  # fmt: skip
    assert spans([FIRST - 1, FIRST + COUNT, at(1)], TIMES, 5.0) == [TextSpan(0, 2, 0.0, 1.0)]


def sampler(never=(NONE, LOUD)):
    return TimedSampler(Greedy(PROTOCOL), TIMES, (STOP,), never)


def logits(**high):
    """Return logits of 34 tokens, three of them behind the times, with some set by name or number."""
    row = np.zeros(34, np.float32)
    for name, value in high.items():
        row[int(name[1:])] = value
    return row


def allowed(said, never=(NONE, LOUD)):
    """Return the tokens that are chosen where one of all is much the likeliest."""
    timed = sampler(never)
    return {token for token in range(34) if timed.pick(logits(**{f"t{token}": 90.0}), said) == token}


TEXT = {*range(FIRST)} - {STOP, NONE, LOUD} | {31, 32, 33}


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ([], {at(0), at(0.5), at(1)}),  # a time, and no late one
        ([at(1)], TEXT | {STOP}),  # no other time: no segment is empty
        ([at(1), A], TEXT | {STOP} | {*range(at(1.5), FIRST + COUNT)}),
        ([at(1), A, at(3)], {STOP, *range(at(3), FIRST + COUNT)}),
        ([at(1), A, at(3), at(3)], TEXT | {STOP}),
        ([at(1), A, at(3), at(4), B], TEXT | {STOP} | {*range(at(4.5), FIRST + COUNT)}),
        ([at(1), A, at(5)], {STOP, at(5)}),
        ([at(1), A, at(5), at(5), B], TEXT | {STOP}),  # no time is left
    ],
)
def test_what_may_come_next(said, expected):
    assert allowed(said) == expected


def test_an_answer_whose_first_token_was_no_time_still_goes_on():
    assert allowed([A]) == TEXT | {STOP} | {*range(FIRST, FIRST + COUNT)}


def test_times_that_are_likely_together_beat_any_one_text():
    row = logits(t1=3.0)  # a time alone is less likely; ten of them have log(10) + 1
    row[at(1.5) : FIRST + COUNT] = 1.0
    assert sampler().pick(row, [at(1), A]) == at(1.5)
    row[1] = 3.1 + np.log(8)
    assert sampler().pick(row, [at(1), A]) == 1


def test_a_token_that_is_never_chosen_does_not_speak_for_text():
    row = logits(**{f"t{LOUD}": 60.0, f"t{NONE}": 60.0, "t1": 3.0})
    row[at(1.5) : FIRST + COUNT] = 2.9
    assert sampler().pick(row, [at(1), A]) == at(1.5)
    assert sampler(never=(NONE,)).pick(row, [at(1), A]) == 1  # why the sampler is told


def test_the_logits_of_the_caller_stay_as_they_are():
    row = logits(t1=3.0)
    before = row.copy()
    sampler().pick(row, [at(1), A, at(3)])
    np.testing.assert_array_equal(row, before)


def test_the_draws_are_those_of_the_sampler_below():
    class Drawn(Greedy):
        def mark(self):
            return "mark"

        def back(self, mark):
            self.went_back = mark

    below = Drawn(msgspec.structs.replace(PROTOCOL))
    timed = TimedSampler(below, TIMES, (STOP,), ())
    timed.back(timed.mark())
    assert below.went_back == "mark"


def test_log_sum_of_nothing_is_nothing():
    assert log_sum(np.full(3, -np.inf)) == -np.inf
    assert log_sum(np.array([1000.0, 1000.0], np.float32)) == pytest.approx(1000 + np.log(2))
