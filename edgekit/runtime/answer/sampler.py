"""Sampler: logits to the next token, the likeliest one or a drawn one.

Choosing follows transformers' order: repetition penalty, phrases that came before, forbidden tokens; drawing then goes
on with temperature, top-k, top-p. One difference: penalty and phrases count the tokens of this answer alone.
transformers does so for a talker, whose prompt is no ids, but for a text it counts the prompt's tokens too and so
punishes a model for saying again what it was asked.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
import numpy as np

from edgekit.bundle import Sampling
from edgekit.errors import BackendError, UsageError
from edgekit.runtime.engine import Array

_PLAIN = Sampling()
_SORTED = 256  # tokens; of more than these the hopeless ones are dropped first, which costs less than to sort them


class Sampler(Protocol):
    """Chooses one token; one object per stream, so it may keep a random state."""

    def pick(self, logits: Array, said: Sequence[int]) -> int:
        """Return a token. logits: (vocabulary,) float32; said: the tokens of the answer so far, as they were fed."""
        ...

    def mark(self) -> object:
        """Return where the draws stand; see ``back``."""
        ...

    def back(self, mark: Any) -> None:  # noqa: ANN401 - the sampler's own
        """Draw again what was drawn since the mark."""
        ...


class Limits(Protocol):
    """What may be chosen: every TokenProtocol says it of text, CodeLimits of codes."""

    @property
    def stop(self) -> tuple[int, ...]:
        """Tokens that end an answer; only ``begin_suppress`` can forbid them."""
        ...

    @property
    def suppress(self) -> tuple[int, ...]:
        """Tokens that are never chosen."""
        ...

    @property
    def begin_suppress(self) -> tuple[int, ...]:
        """Tokens that no answer begins with."""
        ...

    @property
    def vocabulary_limit(self) -> int | None:
        """The first of the last tokens that are never chosen."""
        ...


@dataclass(frozen=True, slots=True)
class CodeLimits:
    """Limits of tokens that are codes of speech."""

    stop: tuple[int, ...] = ()
    suppress: tuple[int, ...] = ()
    begin_suppress: tuple[int, ...] = ()
    vocabulary_limit: int | None = None


def sampler(
    limits: Limits, sampling: Sampling, seed: int | Sequence[int] | None = None, component: str = "backbone"
) -> Sampler:
    """Return Greedy for temperature 0, else Sampled; see there."""
    if sampling.temperature == 0:
        return Greedy(limits, sampling, component)
    return Sampled(limits, sampling, seed, component)


def likeliest(sampling: Sampling) -> Sampling:
    """Return a Sampling that draws nothing, and penalises as this one does."""
    return msgspec.structs.replace(sampling, temperature=0.0)


class Greedy:
    """The likeliest token that the limits allow, and that penalty and phrases of a Sampling leave.

    Only ``begin_suppress`` can forbid a token that ends the answer.
    """

    def __init__(self, limits: Limits, sampling: Sampling = _PLAIN, component: str = "backbone") -> None:
        """``component``: what writes the logits, for messages."""
        _check(sampling)
        self._mask, self.sampling, self._component = Mask(limits), sampling, component

    def pick(self, logits: Array, said: Sequence[int]) -> int:
        """Return a token; see Sampler. Raises BackendError if a logit is NaN: the numbers are then worthless."""
        token = int(np.argmax(logits))  # argmax returns the first NaN if there is one
        if np.isnan(logits[token]):
            raise _worthless(self._component)
        spared = unrepeated(logits, self.sampling, said)
        if spared is logits and self._mask.allows(token, not said):
            return token
        spared = self._mask.apply(spared.copy(), not said)
        token = int(np.argmax(spared))
        if math.isinf(spared[token]):  # nothing is left
            token = int(np.argmax(self._mask.apply(logits.copy(), not said)))
        return token

    def mark(self) -> None:
        """Return nothing: there are no draws."""

    def back(self, mark: None) -> None:
        """Do nothing; see ``mark``."""


class Sampled:
    """A token drawn from what Sampling leaves of the allowed ones, one random number each.

    The same seed and the same logits give the same tokens, over any number of answers.
    """

    def __init__(
        self, limits: Limits, sampling: Sampling, seed: int | Sequence[int] | None = None, component: str = "backbone"
    ) -> None:
        """seed: None for other tokens in every run; component: what writes the logits, for messages.

        Raises UsageError for values that cannot be.
        """
        _check(sampling)
        self._mask, self._sampling, self._component = Mask(limits), sampling, component
        self._random = np.random.default_rng(seed)

    def pick(self, logits: Array, said: Sequence[int]) -> int:
        """Return a token; see Sampler. Raises BackendError if the highest logit is no number."""
        allowed = self._mask.apply(np.array(logits, np.float32), not said)
        if not math.isfinite(allowed.max()):  # NaN if there is one
            raise _worthless(self._component)
        spared = unrepeated(allowed, self._sampling, said)
        tokens, weights = remaining(allowed if math.isinf(spared.max()) else spared, self._sampling)
        sums = weights.cumsum()
        # A number in (0, 1], so that the chosen weight is never 0; it is the first whose sum reaches the number.
        return int(tokens[sums.searchsorted((1 - self._random.random()) * sums[-1])])

    def mark(self) -> Mapping[str, Any]:
        """Return the random state."""
        return self._random.bit_generator.state

    def back(self, mark: Mapping[str, Any]) -> None:
        """Draw again what was drawn since the mark."""
        self._random.bit_generator.state = mark


class Scored:
    """Another sampler's choices, and how likely they were among what the limits allow.

    ``logits`` of ``pick`` are what the limits are applied to; a time rule that masks before it is counted too.
    """

    def __init__(self, chosen: Sampler, limits: Limits) -> None:
        self._chosen, self._mask = chosen, Mask(limits)
        self._sum = 0.0
        self._said = 0

    @property
    def mean(self) -> float:
        """The mean log-probability of an answer's tokens, the one that ends it included, as Whisper has it.

        Its sum is of the tokens that were chosen, and is divided by one more than were said: of an answer that was cut
        by one too many. Source: Whisper, decoding.py, GreedyDecoder.update and DecodingTask.run.
        """
        return self._sum / (self._said + 1)

    def pick(self, logits: Array, said: Sequence[int]) -> int:
        """Return a token; see Sampler."""
        token = self._chosen.pick(logits, said)
        allowed = self._mask.apply(np.array(logits, np.float32), not said)
        self._sum += float(allowed[token]) - log_sum(allowed)
        self._said = len(said) + (token not in self._mask.stops)
        return token

    def mark(self) -> object:
        """Return where the draws stand."""
        return self._chosen.mark()

    def back(self, mark: Any) -> None:  # noqa: ANN401 - the sampler's own
        """Draw again what was drawn since the mark."""
        self._chosen.back(mark)


class Teacher:
    """A Sampler that remembers logits and choices, and follows ``forced`` tokens where they are given.

    ``fed``: what it gave out; ``stop`` comes after the forced ones, or after ``at_most`` of its own.
    """

    def __init__(
        self, sampler: Sampler, forced: Sequence[int] | None, stop: int, *, at_most: int | None = None
    ) -> None:
        self.logits: list[Array] = []
        self.picked: list[int] = []
        self.fed: list[int] = []
        self._sampler, self._stop, self._at_most = sampler, stop, at_most
        self._forced = None if forced is None else list(forced)

    def pick(self, logits: Array, said: Sequence[int]) -> int:
        """Return a forced token, or the sampler's choice; see Sampler."""
        self.logits.append(logits.copy())
        self.picked.append(self._sampler.pick(logits, said))
        self.fed.append(self._next())
        return self.fed[-1]

    def mark(self) -> None:
        """Fail: what is forced is not drawn again."""
        raise AssertionError("what is forced is not drawn again")

    def back(self, mark: object) -> None:  # noqa: ARG002 - as Sampler has it
        """Fail, as ``mark`` does."""
        raise AssertionError("what is forced is not drawn again")

    def _next(self) -> int:
        if self._forced is not None:
            return self._forced.pop(0) if self._forced else self._stop
        return self._stop if self._at_most is not None and len(self.fed) >= self._at_most else self.picked[-1]


def unrepeated(logits: Array, sampling: Sampling, said: Sequence[int]) -> Array:
    """Return the logits with those of tokens said before penalised, and minus infinity where a phrase would come again.

    logits: (vocabulary,) float32, which stay as they are, and are returned if nothing changes. Where all of them end at
    minus infinity, who chooses takes them as they were. Source: transformers, generation/logits_process.py.
    """
    size = sampling.no_repeat_ngram_size
    penalised = sampling.repetition_penalty != 1 and bool(said)
    if not penalised and not 0 < size <= len(said):
        return logits
    logits = logits.copy()
    if penalised:
        repeated = np.unique(np.asarray(said, np.int64))
        scores, penalty = logits[repeated], np.float32(sampling.repetition_penalty)
        logits[repeated] = np.where(scores < 0, scores * penalty, scores / penalty)
    if 0 < size <= len(said):
        past = np.asarray(said, np.int64)
        phrases = np.lib.stride_tricks.sliding_window_view(past, size)
        same = (phrases[:, :-1] == past[len(past) - size + 1 :]).all(axis=1)
        logits[phrases[same, -1]] = -np.inf
    return logits


def remaining(logits: Array, sampling: Sampling) -> tuple[Array, Array]:
    """Return the tokens that may be drawn and their weights, the likeliest one's 1.

    logits: (vocabulary,) float32, minus infinity where forbidden, a finite one among them. Source: transformers,
    generation/logits_process.py.
    """
    if sampling.top_k is None or sampling.top_k >= len(logits):
        tokens = np.arange(len(logits))
    else:  # division by the temperature would not change who is among them
        (tokens,) = (logits >= np.partition(logits, -sampling.top_k)[-sampling.top_k]).nonzero()
    scores = logits[tokens].astype(np.float64)
    weights = np.exp((scores - scores.max()) / sampling.temperature)
    if sampling.top_p is None or sampling.top_p >= 1:
        return tokens, weights
    removed = (1 - sampling.top_p) * weights.sum()  # the least likely go, as long as they weigh no more than this
    lost = 0.0
    if len(weights) > _SORTED:
        small = weights < removed / len(weights)  # all of these go
        lost = weights[small].sum()
        tokens, weights = tokens[~small], weights[~small]
    order = weights.argsort(kind="stable")
    gone = int((lost + weights[order].cumsum()).searchsorted(removed, side="right"))
    kept = order[min(gone, len(order) - 1) :]
    return tokens[kept], weights[kept]


def log_sum(logits: Array) -> float:
    """Return the logarithm of the sum of the exponentials."""
    highest = float(logits.max())
    return highest if np.isinf(highest) else highest + float(np.log(np.exp(logits - highest).sum()))


class Mask:
    """Forbidden tokens of a Limits, as arrays."""

    def __init__(self, limits: Limits) -> None:
        self._limit = limits.vocabulary_limit
        self._stop = np.array(limits.stop, np.int64)
        self._suppress = np.array(sorted(set(limits.suppress) - set(limits.stop)), np.int64)
        self._begin = np.union1d(self._suppress, np.array(limits.begin_suppress, np.int64))
        self.stops = frozenset(limits.stop)
        self._banned_tokens = frozenset(self._suppress.tolist()), frozenset(self._begin.tolist())

    def allows(self, token: int, first: bool) -> bool:
        """Return whether the token may be chosen."""
        inside = self._limit is None or token < self._limit or token in self.stops
        return inside and token not in self._banned_tokens[first]

    def apply(self, logits: Array, first: bool) -> Array:
        """Set forbidden logits to minus infinity in place and return them."""
        if self._limit is not None:
            stops = logits[self._stop]
            logits[self._limit :] = -np.inf
            logits[self._stop] = stops
        banned = self._begin if first else self._suppress
        if len(banned):
            logits[banned] = -np.inf
        return logits


def _check(sampling: Sampling) -> None:
    """Raise UsageError for values that cannot be."""
    for name, value, fits, rule in (
        ("temperature", sampling.temperature, sampling.temperature >= 0, "0 or more is needed"),
        ("top_k", sampling.top_k, sampling.top_k is None or sampling.top_k >= 1, "at least 1 is needed"),
        ("top_p", sampling.top_p, sampling.top_p is None or 0 < sampling.top_p <= 1, "more than 0 up to 1 is needed"),
        ("repetition_penalty", sampling.repetition_penalty, sampling.repetition_penalty > 0, "more than 0 is needed"),
        (
            "no_repeat_ngram_size",
            sampling.no_repeat_ngram_size,
            sampling.no_repeat_ngram_size >= 0,
            "0 or more is needed",
        ),
    ):
        if not fits:
            raise UsageError(f"{name}: {value}, {rule}; choose another value")


def _worthless(component: str) -> BackendError:
    return BackendError(
        f"{component}: its logits are not numbers (NaN); check the bundle with `edgekit verify`, "
        "or export it with another precision"
    )
