"""Drawn tokens: what is left to draw from, how often each comes, and that a seed repeats them."""

from collections.abc import Iterable
from itertools import islice, repeat

import numpy as np
import pytest

from edgekit.bundle import Sampling, TokenProtocol
from edgekit.errors import BackendError, UsageError
from edgekit.runtime.answer.sampler import CodeLimits, Greedy, Sampled, Sampler, remaining, sampler

SIZE = 12
DRAWS = 4000
FREE = CodeLimits()


def _logits(seed: int = 0, size: int = SIZE) -> np.ndarray:
    return (2 * np.random.default_rng(seed).standard_normal(size)).astype(np.float32)


def _shares(sampled: Sampled, logits: np.ndarray, *, first: bool = True) -> np.ndarray:
    """Return how often each token was drawn."""
    drawn = [sampled.pick(logits, [] if first else [0]) for _ in range(DRAWS)]
    return np.bincount(drawn, minlength=len(logits)) / DRAWS


def _answer(chosen: Sampler, logits: Iterable[np.ndarray], count: int) -> list[int]:
    """Return the first tokens of an answer."""
    said: list[int] = []
    for row in islice(logits, count):
        said.append(chosen.pick(row, said))
    return said


def _softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits.astype(np.float64) - logits.max())
    return weights / weights.sum()


def _close(shares: np.ndarray, wanted: np.ndarray) -> None:
    # five standard deviations of a share of DRAWS draws; what is not left never comes
    np.testing.assert_array_less(np.abs(shares - wanted), 5 * np.sqrt(wanted * (1 - wanted) / DRAWS) + 1e-12)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_tokens_come_as_often_as_softmax_says(temperature: float) -> None:
    logits = _logits()
    _close(_shares(Sampled(FREE, Sampling(temperature=temperature), 1), logits), _softmax(logits / temperature))


@pytest.mark.parametrize("top_k", [1, 2, 5, SIZE, SIZE + 1])
def test_only_the_k_likeliest_are_left(top_k: int) -> None:
    logits = _logits()
    left = np.argsort(logits)[-top_k:]
    wanted = np.zeros(SIZE)
    wanted[left] = _softmax(logits[left])
    _close(_shares(Sampled(FREE, Sampling(temperature=1.0, top_k=top_k), 1), logits), wanted)


def test_all_of_equals_at_the_kth_place_are_left_as_in_transformers() -> None:
    logits = np.array([3, 1, 2, 2, 2, 0], np.float32)
    shares = _shares(Sampled(FREE, Sampling(temperature=1.0, top_k=2), 1), logits)
    assert set(np.flatnonzero(shares)) == {0, 2, 3, 4}


@pytest.mark.parametrize(
    ("top_p", "left"), [(0.05, [3]), (0.4, [3]), (0.41, [3, 2]), (0.7, [3, 2]), (0.9, [3, 2, 1]), (1.0, [3, 2, 1, 0])]
)
def test_the_fewest_tokens_that_weigh_top_p_are_left(top_p: float, left: list[int]) -> None:
    weights = np.array([0.1, 0.2, 0.3, 0.4])
    wanted = np.zeros(4)
    wanted[left] = weights[left] / weights[left].sum()
    logits = np.log(weights * 7).astype(np.float32)
    _close(_shares(Sampled(FREE, Sampling(temperature=1.0, top_p=top_p - 1e-4), 1), logits), wanted)


def test_as_much_as_top_p_spares_goes_to_the_last_bit() -> None:
    tokens, weights = remaining(np.zeros(4, np.float32), Sampling(temperature=1.0, top_p=0.5))
    assert (sorted(tokens), weights.tolist()) == ([2, 3], [1, 1])


def test_top_p_counts_what_temperature_and_top_k_left() -> None:
    weights = np.array([0.1, 0.2, 0.3, 0.4])
    logits = (2 * np.log(weights)).astype(np.float32)
    sampling = Sampling(temperature=2.0, top_k=3, top_p=0.5)  # 0.4 of 0.9 left is less than a half
    _close(_shares(Sampled(FREE, sampling, 1), logits), np.array([0, 0, 3 / 7, 4 / 7]))


@pytest.mark.parametrize("size", [SIZE, 20_000])
@pytest.mark.parametrize("top_p", [0.3, 0.6, 0.95])
def test_a_large_vocabulary_keeps_what_sorting_all_of_it_would_keep(size: int, top_p: float) -> None:
    logits = _logits(2, size)
    every = _softmax(logits)
    order = np.argsort(every)
    tokens, weights = remaining(logits, Sampling(temperature=1.0, top_p=top_p))
    assert sorted(tokens) == sorted(order[int((np.cumsum(every[order]) <= 1 - top_p).sum()) :])
    np.testing.assert_allclose(weights, every[tokens] / every.max(), rtol=1e-6)  # float32 logits


def test_the_penalty_counts_the_tokens_of_this_answer_each_once() -> None:
    logits = np.array([2.0, 1.5, 1.1, -5.0], np.float32)
    sampled = Sampled(FREE, Sampling(temperature=1.0, top_k=1, repetition_penalty=2.0), 1)
    for _ in range(2):
        assert _answer(sampled, repeat(logits), 5) == [0, 1, 2, 0, 0]


def test_the_penalty_makes_negative_logits_more_so() -> None:
    logits = np.array([-1.0, -1.5, -9.0], np.float32)
    sampled = Sampled(FREE, Sampling(temperature=1.0, top_k=1, repetition_penalty=2.0), 1)
    assert _answer(sampled, repeat(logits), 3) == [0, 1, 0]


def test_forbidden_tokens_never_come_and_the_logits_stay_as_they_were() -> None:
    limits = CodeLimits(stop=(10,), suppress=(3, 4, 10), begin_suppress=(5,), vocabulary_limit=8)
    logits = np.zeros(SIZE, np.float32)
    shares = _shares(Sampled(limits, Sampling(temperature=1.0, repetition_penalty=1.5), 1), logits)
    assert np.flatnonzero(shares).tolist() == [0, 1, 2, 6, 7, 10]
    shares = _shares(Sampled(limits, Sampling(temperature=1.0, top_k=11), 1), logits, first=False)
    assert np.flatnonzero(shares).tolist() == [0, 1, 2, 5, 6, 7, 10]
    assert not logits.any()


def test_a_protocol_of_text_is_limits_too() -> None:
    protocol = TokenProtocol(attention="cross", stop=(1,), max_tokens=1, context_tokens=1, suppress=(0, 2))
    picks = {Sampled(protocol, Sampling(temperature=9.0), 1).pick(_logits(size=4), [0]) for _ in range(50)}
    assert picks <= {1, 3}


def test_a_seed_repeats_its_tokens_over_several_answers_and_another_seed_does_not() -> None:
    def draw(seed: int) -> list[int]:
        sampled = sampler(FREE, Sampling(temperature=1.0, top_k=9, top_p=0.95, repetition_penalty=1.1), seed)
        return [token for answer in range(4) for token in _answer(sampled, map(_logits, range(10 * answer, 40)), 10)]

    assert draw(3) == draw(3)
    assert draw(3) != draw(4)


def test_temperature_0_is_the_likeliest_token_whatever_is_asked_of_draws() -> None:
    greedy = sampler(FREE, Sampling(temperature=0.0, top_k=3, top_p=0.1), 1)
    assert isinstance(greedy, Greedy)
    assert [greedy.pick(_logits(), [0]) for _ in range(3)] == [int(np.argmax(_logits()))] * 3


@pytest.mark.parametrize("temperature", [0.0, 1e-6])
def test_the_penalty_is_for_the_likeliest_token_too(temperature: float) -> None:
    logits = np.array([2.0, 1.5, 1.1, -5.0], np.float32)
    chosen = sampler(FREE, Sampling(temperature=temperature, repetition_penalty=2.0), 1)
    assert _answer(chosen, repeat(logits), 5) == [0, 1, 2, 0, 0]
    assert logits.tolist() == [2.0, 1.5, np.float32(1.1), -5.0]


@pytest.mark.parametrize(
    ("size", "answer"), [(1, [0, 1, 2, 3]), (2, [0, 0, 1, 0, 2, 0, 3, 0]), (3, [0, 0, 0, 1, 0, 0])]
)
@pytest.mark.parametrize("temperature", [0.0, 1e-6])
def test_no_phrase_of_that_many_tokens_comes_twice(temperature: float, size: int, answer: list[int]) -> None:
    logits = np.array([5.0, 4.0, 3.0, 2.0], np.float32)
    chosen = sampler(FREE, Sampling(temperature=temperature, no_repeat_ngram_size=size), 1)
    assert _answer(chosen, repeat(logits), len(answer)) == answer


@pytest.mark.parametrize("temperature", [0.0, 1e-6])
def test_where_every_token_would_be_a_phrase_again_the_likeliest_comes(temperature: float) -> None:
    chosen = sampler(CodeLimits(suppress=(0,)), Sampling(temperature=temperature, no_repeat_ngram_size=1), 1)
    assert _answer(chosen, repeat(np.array([5.0, 4.0, 3.0], np.float32)), 4) == [1, 2, 1, 1]


def test_a_very_low_temperature_draws_the_likeliest_token() -> None:
    sampled = sampler(FREE, Sampling(temperature=1e-6), 1)
    assert [sampled.pick(1000 * _logits(), [0]) for _ in range(9)] == [int(np.argmax(_logits()))] * 9


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("sampling", [Sampling(temperature=1.0), Sampling(temperature=1.0, top_k=3, top_p=0.5)])
def test_logits_that_are_no_numbers_raise_and_name_the_component(bad: float, sampling: Sampling) -> None:
    logits = _logits()
    logits[5] = bad
    with pytest.raises(BackendError, match="^talker: its logits are not numbers"):
        sampler(FREE, sampling, 1, "talker").pick(logits, [])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1), ("temperature", float("nan")), ("top_k", 0), ("top_k", -1), ("top_p", 0.0),
        ("top_p", 1.01), ("repetition_penalty", 0.0),
    ],
)  # fmt: skip
def test_values_that_cannot_be_are_refused(field: str, value: float) -> None:
    with pytest.raises(UsageError, match=f"^{field}: "):
        sampler(FREE, Sampling(**{"temperature": 1.0, field: value}), 1)
