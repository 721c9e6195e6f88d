"""Items: what who takes hands to who works, in order: decisions of the Gate with their sound, losses, questions."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from edgekit.runtime.hear.gate import Closed, Output, Resumed


@dataclass(frozen=True, slots=True)
class Lost:
    """The caller dropped samples: ``lost_s`` seconds before sample ``at_sample`` of the stream, at stream time at_s.

    ``settled``: no later item names a sample before this one.
    """

    at_sample: int
    settled: int
    lost_s: float
    dropped_samples: int
    at_s: float


@dataclass(frozen=True, slots=True)
class Asked:
    """A turn in text, its tokens; ``at_sample``: of the stream, when it was asked."""

    turn: Sequence[int]
    at_sample: int


Item = Output | Lost | Asked


class Queue:
    """Items that wait. One thread puts them in and another takes them out.

    ``asked``, ``answered``: how many turns in text were put in by the one, and taken out by the other.
    """

    def __init__(self) -> None:
        self._items: deque[Item] = deque()
        self._tools: deque[Asked] = deque()  # before sound that waits
        self._deferred: deque[Asked] = deque()  # asked while the user talked
        self.asked = self.answered = 0

    @property
    def questions(self) -> int:
        """How many turns in text wait."""
        answered = self.answered  # read first: who works may take out what is put in meanwhile
        return self.asked - answered

    def put(self, item: Item) -> None:
        """Append an item."""
        self._items.append(item)

    def ask(self, item: Asked, *, first: bool) -> None:
        """Put in a turn in text, to be answered after the present one; ``first``: before sound that waits."""
        self.asked += 1
        (self._tools if first else self._items).append(item)

    def waits(self, *, turn_open: bool) -> bool:
        """Return whether there is an item; while the user talks a turn in text is none."""
        return bool(self._items or (not turn_open and (self._tools or self._deferred)))

    def next(self, *, turn_open: bool) -> Item | None:
        """Return the next item, None if there is none."""
        for asked in (self._tools, self._deferred):
            if asked and not turn_open:
                self.answered += 1
                return asked.popleft()
        while self._items:
            item = self._items.popleft()
            if isinstance(item, Asked) and turn_open:  # its turn comes after what the user is saying
                self._deferred.append(item)
                continue
            self.answered += isinstance(item, Asked)
            return item
        return None

    def ahead(self) -> Resumed | Closed | None:
        """Return what becomes of a pause that was taken out, None while that is not known."""
        for index in range(len(self._items)):  # who puts in appends meanwhile
            item = self._items[index]
            if isinstance(item, (Resumed, Closed)):
                return item
        return None

    def clear(self) -> None:
        """Drop everything."""
        for waiting in (self._items, self._tools, self._deferred):
            waiting.clear()
