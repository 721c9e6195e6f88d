"""Guess: whatever is guessed, the answer is the one that plain greedy decoding gives; a good guess saves runs."""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import numpy as np
import pytest

import edgekit
from edgekit.bundle import TokenProtocol
from edgekit.runtime.answer.answerer import Setting
from edgekit.runtime.answer.lookup import CHECKED_AT_ONCE, Guess, Lookup, agreed
from edgekit.runtime.answer.sampler import Greedy
from edgekit.runtime.model import Model
from edgekit.timing import Trace

LENGTH = 2 * CHECKED_AT_ONCE + 8  # tokens of an answer: several runs
CONTEXT = LENGTH + 8


def _follow(tokens: str, said: str, right: int, start: int = 0) -> str:
    lookup = Lookup(tokens, start)
    lookup.follow(said, right)
    return "".join(lookup.next(99))


def test_a_guess_begins_with_its_first_tokens_and_at_most_as_many_as_are_checked_at_once() -> None:
    assert Lookup("abc", 0).next(99) == "abc"
    assert Lookup("abc", 1).next(99) == "bc"
    assert Lookup("abc", 0).next(2) == "ab"
    assert Lookup("abc", 0).next(0) == ""
    assert Lookup("a" * 99, 0).next(99) == "a" * CHECKED_AT_ONCE
    assert Lookup("", 0).next(99) == ""


@pytest.mark.parametrize(
    ("said", "right", "rest"),
    [
        ("abcd", 3, "efgh"),  # all was right, and so was the token after it
        ("abx", 2, ""),  # the third was wrong
        ("abxde", 2, "fgh"),  # two tokens meet it again
        ("abxdx", 2, ""),
        ("abde", 2, "fgh"),  # one was left out
        ("abxycd", 2, "efgh"),  # two were put in
        ("abgh", 2, ""),  # nothing is left
        ("xab", 0, "cdefgh"),
        ("d", 0, ""),  # one token is no meeting, but the first one
        ("a", 0, "bcdefgh"),
    ],
)
def test_a_guess_is_picked_up_where_two_tokens_meet_it_again(said: str, right: int, rest: str) -> None:
    assert _follow("abcdefgh", said, right) == rest


def test_a_guess_is_not_picked_up_before_its_place_nor_far_ahead() -> None:
    assert _follow("abcdefgh", "abcab", 3) == ""
    assert _follow("ab" + "x" * 20 + "cdef", "abcd", 2) == ""
    assert _follow("ab" + "x" * 14 + "cdef", "abcd", 2) == "ef"


def test_sequences_agree_up_to_the_first_difference() -> None:
    assert [agreed(*pair) for pair in (("", ""), ("a", ""), ("ab", "abc"), ("abc", "axc"), ("abc", "abc"))] == [
        0, 0, 2, 1, 3,
    ]  # fmt: skip


class Counted:
    """An Engine whose runs are counted, with the position and the number of tokens of each."""

    def __init__(self, engine: Any) -> None:
        self.component, self.engine = engine.component, engine
        self.runs: list[tuple[int, int]] = []

    def bind(self, sizes: Mapping[str, int]) -> "Counted":
        """Bind the engine."""
        self.call = self.engine.bind(sizes)
        return self

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Count and run."""
        self.runs.append((int(inputs["start"][0]), len(inputs["embeds"])))
        return self.call.run(inputs)


class Answerer:
    """A backbone that attends to fixed noise, and a way to ask it with any guess."""

    def __init__(self, model: Model, protocol: TokenProtocol, context_tokens: int) -> None:
        self.engine = Counted(model.engines["backbone"])
        manifest = msgspec.structs.replace(model.manifest, protocol=protocol)
        self.setting = Setting(
            manifest,
            self.engine,
            model.table,
            model.tokenizer,
            Greedy(protocol),
            Trace(),
            context_tokens,
            protocol.max_tokens,
        )
        self.backbone = self.setting.backbone()
        rng = np.random.default_rng(3)
        self._cross = [rng.standard_normal((1, 2, 9, 8)).astype(np.float32) for _ in range(2)]
        self._prompt = model.table.rows((*protocol.start, *protocol.start_tail))

    def __call__(self, guess: Guess, heard_s: float = 1.0, *, fresh: bool = True) -> list[int]:
        """Return the tokens and log the runs; ``fresh``: from an empty KV cache."""
        self.engine.runs.clear()
        if fresh:
            self.backbone.reset(self._cross)
        self.backbone.seek(0)
        (*_, level) = self.setting.manifest.levels
        return list(self.setting.tokens(self.backbone, self._prompt, level, heard_s, guess=guess))


@pytest.fixture
def answerer(tiny_bundle: Callable) -> Callable[..., Answerer]:
    """Return a function that makes an Answerer; its arguments replace the protocol's fields."""
    model = edgekit.load(tiny_bundle().folder, threads=1)

    def make(context_tokens: int = CONTEXT, **fields: Any) -> Answerer:
        protocol = msgspec.structs.replace(model.manifest.protocol, **({"max_tokens": LENGTH} | fields))
        return Answerer(model, protocol, context_tokens)

    return make


def _guesses(answer: list[int]) -> list[tuple[int, ...]]:
    """Return guesses of every kind for an answer."""
    rng = np.random.default_rng(0)
    other = 90 if 90 not in answer else 91
    kinds = [
        (),
        answer,
        answer[:-1],
        [*answer, *answer],
        answer[::-1],
        [other] * (LENGTH + 20),
        [*answer, other],
        answer[1:],
    ]
    kinds += [answer[:at] for at in (1, CHECKED_AT_ONCE, CHECKED_AT_ONCE + 1)]
    for at in range(len(answer)):
        kinds += [[*answer[:at], other, *answer[at + 1 :]], [*answer[:at], other, *answer[at:]]]
        kinds += [[*answer[:at], *answer[at + 1 :]]]
    kinds += [[int(token) for token in rng.choice(answer or [other], rng.integers(0, LENGTH + 30))] for _ in range(30)]
    return [tuple(kind) for kind in kinds]


def _ends(plain: list[int]) -> dict[str, dict[str, Any]]:
    """Return changes of the protocol under which an answer ends in every way there is."""
    later = next(token for at, token in enumerate(plain) if at > 5 and token not in plain[:at])
    return {
        "max_tokens": {},
        "one token": {"max_tokens": 1},
        "as many as are checked at once": {"max_tokens": CHECKED_AT_ONCE},
        "one more": {"max_tokens": CHECKED_AT_ONCE + 1},
        "stop in the middle": {"stop": (later,)},
        "stop at once": {"stop": (plain[0],), "begin_suppress": ()},
        "barred at the beginning only": {"begin_suppress": (plain[0],)},
        "tokens per second": {"max_tokens_per_s": 5.0},
        "full KV cache": {"context_tokens": 20},
        "no room": {"context_tokens": 2},
        "room for one": {"context_tokens": 3},
    }


def test_the_answer_is_the_same_whatever_was_guessed_and_however_it_ends(answerer: Callable[..., Answerer]) -> None:
    plain = answerer()(Guess())
    assert len(plain) == LENGTH
    lengths = set()
    for name, fields in _ends(plain).items():
        ask = answerer(**fields)
        expected = ask(Guess())
        lengths.add(len(expected))
        for guess in _guesses(plain):
            assert ask(Guess(guess)) == expected, (name, guess)
            assert ask.backbone.position <= fields.get("context_tokens", CONTEXT)
    assert {0, 1, 13, 19, CHECKED_AT_ONCE, CHECKED_AT_ONCE + 1} <= lengths


def test_a_looping_answer_ends_at_the_same_token_whatever_was_guessed(answerer: Callable[..., Answerer]) -> None:
    plain = answerer()(Guess())
    others = tuple(token for token in range(256) if token != plain[0])
    ask = answerer(suppress=others, max_repeats=3)
    expected = ask(Guess())
    assert expected == [plain[0]] * 12
    for guess in [*_guesses(expected), (plain[0],) * (LENGTH + 20)]:
        assert ask(Guess(guess)) == expected, guess


def test_a_right_guess_takes_few_runs_and_a_wrong_one_no_more_than_a_run_each(
    answerer: Callable[..., Answerer],
) -> None:
    ask = answerer()
    plain = ask(Guess())
    assert ask.engine.runs == [(0, 2), *((at, 1) for at in range(2, LENGTH + 1))]
    assert ask(Guess(tuple(plain))) == plain
    most = CHECKED_AT_ONCE
    assert ask.engine.runs == [(0, 2 + most), (2 + most, 1 + most), (2 + 2 * most + 1, 1 + 5)]
    other = next(token for token in range(93) if token not in plain)
    assert ask(Guess((*plain[:20], other, *plain[21:]))) == plain
    assert len(ask.engine.runs) <= 8  # three as before, one that finds the mistake, a few until the guess is met again
    ask(Guess((other,) * LENGTH))
    assert len(ask.engine.runs) == LENGTH


def test_a_run_of_many_tokens_is_a_prefill_and_a_run_of_one_a_decode(answerer: Callable[..., Answerer]) -> None:
    ask = answerer(max_tokens=20)
    plain = ask(Guess())
    ask.setting.trace.spans.clear()
    ask(Guess(tuple(plain[:10])))
    assert [(span.name, span.count) for span in ask.setting.trace.spans] == [("prefill", 12), *[("decode", 1)] * 9]
    ask.setting.trace.spans.clear()
    ask(Guess(tuple(plain[:10]), timed=False))
    assert ask.setting.trace.spans == []


@pytest.mark.parametrize("steps", [0, 1, 5])
def test_steps_bound_what_is_said_beyond_the_guess(answerer: Callable[..., Answerer], steps: int) -> None:
    ask = answerer()
    plain = ask(Guess())
    assert ask(Guess(max_steps=steps)) == plain[: 1 + steps]
    assert ask(Guess(tuple(plain[:20]), max_steps=steps)) == plain[: 21 + steps]
    assert ask(Guess((*plain[:20], 91), max_steps=steps)) == plain[: 21 + steps]


def test_settled_tokens_are_fed_behind_the_prompt_and_what_follows_them_is_checked(
    answerer: Callable[..., Answerer],
) -> None:
    ask = answerer()
    plain = ask(Guess())
    assert ask(Guess((*plain[:12], 91), settled=10)) == plain
    assert ask.engine.runs[0] == (0, 2 + 10 + 3)
    assert ask(Guess(tuple(plain[:10]), settled=10)) == plain
    assert ask.engine.runs[0] == (0, 2 + 10)
    assert ask(Guess(tuple(plain[:10]), settled=10, singly=True)) == plain
    assert ask.engine.runs[:11] == [(0, 2), *((2 + at, 1) for at in range(10))]


def test_settled_tokens_stand_whatever_the_model_would_have_said(answerer: Callable[..., Answerer]) -> None:
    ask = answerer()
    other = next(token for token in range(93) if token != ask(Guess())[0])
    assert ask(Guess((other, other), settled=2))[:2] == [other, other]


def test_as_many_settled_tokens_as_there_may_be_are_the_answer(answerer: Callable[..., Answerer]) -> None:
    for fields in ({"max_tokens": 5}, {"context_tokens": 6}):
        ask = answerer(**fields)
        plain = ask(Guess())
        assert len(plain) == 5
        assert ask(Guess(tuple(plain), settled=5)) == plain
        assert ask.engine.runs == [(0, 2 + 4)]
