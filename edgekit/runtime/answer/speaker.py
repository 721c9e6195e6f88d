"""Speaker: what speaks an answer while it is being written; the counterpart of Listener.

One per Stream. Knows tokens and rows of the backbone, and makes samples; knows nothing of turns, prompts or devices.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Literal, Protocol

from edgekit.runtime.engine import Array

Cut = Literal["frames", "context"]


class Speaker(Protocol):
    """One stream's voice."""

    sample_rate_hz: int
    cut: Cut | None
    """Why the speech of the answer just finished ended before its end, if it did; see AudioCut."""

    def open(self) -> None:
        """Begin a conversation: forget every turn."""
        ...

    def read(self, tokens: Sequence[int] | None, rows: Array, hidden: Array | None) -> None:
        """Take a part of what the backbone is told, in order; answers go to ``say`` instead.

        tokens: (n,) ids, None where the rows are sound. rows: (n, width) float32, what the backbone was fed. hidden:
        (n, width) float32, the backbone's output ``hidden`` for them; None where it was not run on them yet, for text.
        """
        ...

    def takes(self, token: int) -> bool:
        """Return whether a token of an answer is sound only and no text."""
        ...

    def say(self, token: int) -> Iterator[Array | None]:
        """Take the next token of the answer and yield samples (n,) float32 in [-1, 1] as soon as they exist.

        None between them is the end of a bounded piece of work, such as a frame of codes or a solver's step.
        """
        ...

    def finish(self) -> Iterator[Array | None]:
        """End the answer and yield the rest of its samples, None as above; the next ``read`` is of the next turn."""
        ...

    def heard_tokens(self, seconds: float) -> int | None:
        """Return how many of the answer's tokens so far have their sound in its first ``seconds``; None if unknown."""
        ...

    def mark(self) -> object:
        """Return where the conversation stands, between two answers; see ``back``."""
        ...

    def back(self, mark: Any) -> None:  # noqa: ANN401 - the speaker's own
        """Forget what was read, said and drawn since the mark; an answer in progress ends unsaid."""
        ...
