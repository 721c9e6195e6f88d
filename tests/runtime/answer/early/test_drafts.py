"""Checked tokens: a close call among them is decided as if nothing had been guessed."""

from collections.abc import Generator, Sequence

import numpy as np
import pytest

from edgekit.bundle import Sampling
from edgekit.runtime.answer.early.drafts import CLOSE, checked
from edgekit.runtime.answer.lookup import Guess
from edgekit.runtime.answer.sampler import CodeLimits, Greedy, Sampler, sampler

NOISE = 0.1  # what reading several tokens in one run adds to the second likeliest
ANSWER = [3, 1, 2, 1, 0]


def written(guess: Guess, chosen: Sampler, leads: Sequence[float], runs: list[Guess]) -> Generator[int, None, str]:
    """Yield an answer whose tokens lead by so much, as logits say that change where tokens are guessed."""
    runs.append(guess)
    said = list(guess.tokens[: guess.settled])
    yield from said
    while len(said) < len(ANSWER):
        logits = np.zeros(5, np.float32)
        logits[ANSWER[len(said)]], logits[4] = 9.0, 9.0 - leads[len(said)]
        logits[4] += NOISE if guess.tokens and not guess.singly else 0.0
        said.append(chosen.pick(logits, tuple(said)))
        yield said[-1]
    return "end"


def answer(
    leads: Sequence[float], chosen: Sampler, guess: tuple[int, ...] = (3, 1)
) -> tuple[list[int], str, list[Guess]]:
    """Return the tokens, what their writer returns, and the guesses that it was given."""
    runs, ends = list[Guess](), list[str]()

    def write(one: Guess, by: Sampler) -> Generator[int, None, str]:
        return written(one, by, leads, runs)

    def ended() -> Generator[int, None, None]:
        ends.append((yield from checked(guess, chosen, CodeLimits(), write)))

    return list(ended()), ends[0], runs


@pytest.mark.parametrize("close", range(len(ANSWER)))
def test_a_choice_that_a_guess_would_change_is_made_without_one(close: int) -> None:
    leads = [2.0] * len(ANSWER)
    leads[close] = NOISE / 2
    tokens, end, runs = answer(leads, Greedy(CodeLimits()))
    assert (tokens, end) == (ANSWER, "end")
    again = Guess(tuple(ANSWER[:close]), close, singly=True) if close else Guess()
    assert runs == [Guess((3, 1)), again]


def test_choices_that_are_not_close_are_written_once() -> None:
    assert answer([CLOSE + NOISE + 0.01] * 5, Greedy(CodeLimits())) == (ANSWER, "end", [Guess((3, 1))])


def test_what_is_drawn_or_has_no_guess_is_written_without() -> None:
    drawn = sampler(CodeLimits(), Sampling(temperature=0.01), 1)
    assert answer([2.0] * 5, drawn)[1:] == ("end", [Guess()])
    assert answer([0.05] * 5, Greedy(CodeLimits()), ()) == (ANSWER, "end", [Guess()])
