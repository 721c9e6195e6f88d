"""What the live comparison asks of a family's torch reference. Knows no torch: the references themselves do."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from edgekit.runtime.judge.probe import Heard

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Prompt:
    """Tokens that stand before the sound and after it."""

    before: tuple[int, ...]
    after: tuple[int, ...]


@dataclass(frozen=True)
class Written:
    """Greedy tokens, the start included, and the smallest lead of a chosen token's logit over the next one."""

    tokens: list[int]
    lead: float


class Reference(Protocol):
    """A checkpoint as torch runs it on EdgeKit's grid, in float32; every answer is a numpy array."""

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Return the reference of a checkpoint's folder."""
        ...

    def hear(self, mel: Array, chunk_positions: int = 0) -> Array:
        """Return what is compared of hearing, (n, width), for normalised log-mel (mel_bins, frames).

        ``chunk_positions`` 0 is the published encoder; otherwise a position sees its own and earlier chunks only.
        """
        ...

    def heard(self, ours: Heard) -> Array:
        """Return what a bundle heard where ``hear`` says what it should have."""
        ...

    def answer(self, heard: Array, prompt: Prompt, tokens: Sequence[int], experts_per_token: int | None) -> Array:
        """Return logits (tokens + 1, vocabulary) after the prompt and after each of the tokens, all forced.

        heard: what ``hear`` returned; experts_per_token: None takes the config's.
        """
        ...


class PrefixReference:
    """What references have in common whose sound stands in the token stream, as embeddings between tokens."""

    def embed(self, tokens: list[int]) -> Array:
        """Return rows (tokens, hidden) of the token table."""
        raise NotImplementedError

    def logits(self, embeds: Array, experts_per_token: int | None = None) -> Array:
        """Return logits (rows, vocabulary) after each row of ``embeds``."""
        raise NotImplementedError

    def heard(self, ours: Heard) -> Array:
        """Return the embeddings that a bundle made of sound."""
        return np.concatenate(ours.parts)

    def answer(self, heard: Array, prompt: Prompt, tokens: Sequence[int], experts_per_token: int | None) -> Array:
        """Return logits (tokens + 1, vocabulary) after the prompt and after each of the tokens, all forced."""
        lead = np.concatenate([self.embed(list(prompt.before)), heard, self.embed(list(prompt.after))])
        embeds = np.concatenate([lead, self.embed(list(tokens))])
        return self.logits(embeds, experts_per_token)[len(lead) - 1 :]
