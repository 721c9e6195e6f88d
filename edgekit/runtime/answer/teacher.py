"""Teacher: a Sampler that remembers what it saw and chose, and may be told what to give out."""

from collections.abc import Sequence

from edgekit.runtime.answer.sampler import Sampler
from edgekit.runtime.engine import Array


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

    def pick(self, logits: Array, *, first: bool) -> int:
        """Return a forced token, or the sampler's choice; see Sampler."""
        self.logits.append(logits.copy())
        self.picked.append(self._sampler.pick(logits, first=first))
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
