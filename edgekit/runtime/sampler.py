"""Sampler: logits to the next token."""

from typing import Protocol

import numpy as np

from edgekit.bundle import TokenProtocol
from edgekit.errors import BackendError
from edgekit.runtime.engine import Array


class Sampler(Protocol):
    """Chooses one token; one object per stream, so it may keep a random state."""

    def pick(self, logits: Array, *, first: bool) -> int:
        """Return a token. logits: (vocabulary,) float32; first: whether it is the first one of an answer."""
        ...


class Greedy:
    """The likeliest token that the protocol allows. Only ``begin_suppress`` can forbid a token that ends the answer."""

    def __init__(self, protocol: TokenProtocol) -> None:
        self._limit = protocol.vocabulary_limit
        self._stop = np.array(protocol.stop, np.int64)
        self._suppress = _without(protocol.suppress, protocol.stop)
        self._begin = np.union1d(self._suppress, np.array(protocol.begin_suppress, np.int64))

    def pick(self, logits: Array, *, first: bool) -> int:
        """Return a token; see Sampler. Raises BackendError if a logit is NaN: the numbers are then worthless."""
        token = int(np.argmax(logits))  # argmax returns the first NaN if there is one
        if np.isnan(logits[token]):
            raise BackendError(
                "backbone: its logits are not numbers (NaN); check the bundle with `edgekit verify`, "
                "or export it with another precision"
            )
        banned = self._begin if first else self._suppress
        if (self._limit is None or token < self._limit or token in self._stop) and token not in banned:
            return token
        masked = logits.copy()
        stops = masked[self._stop]
        if self._limit is not None:
            masked[self._limit :] = -np.inf
        masked[self._stop] = stops
        masked[banned] = -np.inf
        return int(np.argmax(masked))


def _without(tokens: tuple[int, ...], kept: tuple[int, ...]) -> Array:
    return np.array(sorted(set(tokens) - set(kept)), np.int64)
