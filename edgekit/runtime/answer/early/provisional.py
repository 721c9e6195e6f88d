"""Pause: an answer that is made before it is sure that what it answers is over.

Its events wait until the end is confirmed; or all of it is taken back, and speech goes on as if nothing had been. Knows
events, decisions of the Gate and Evidence of an end; knows nothing of samples, nor how work goes back.
"""

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from edgekit.runtime.events import Audio, AudioCut, AudioEnded, Event, LevelChanged, Provisional, Text, Withdrawn
from edgekit.runtime.hear.ending import EndingRule, Evidence, ending, ends_sentence
from edgekit.runtime.hear.gate import Paused, Quiet, Resumed
from edgekit.runtime.hear.items import Item, Queue

MOST_SOUND_S = 2.0  # made ahead of an answer that may be withdrawn: enough to begin at once, and little to be wasted

Task = Generator[Event | None, None, None]
Seconds = Callable[[int], float]
"""The time of a sample of the stream."""


@dataclass(slots=True)
class _Made:
    """An answer that may be withdrawn. ``parked``: what comes next waits for the end to be confirmed.

    ``known``: evidence of the end so far, each with the time when it was there.
    """

    task: Task
    mark: object
    at_s: float
    known: list[tuple[Evidence, float]]
    held: list[Event] = field(default_factory=list)
    text: Text | None = None  # final
    sound_s: float = 0.0
    parked: bool = False


class Pause:
    """The pauses of one stream's user, one after another. ``on``: one is, and what becomes of it was not come to yet.

    ``back`` goes back to a mark of the work. ``writes``: answers are what the user said, so that one tells whether a
    sentence has ended.
    """

    def __init__(self, rule: EndingRule, back: Callable[[Any], None], *, writes: bool) -> None:
        self.on = False
        self._rule, self._back, self._writes = rule, back, writes
        self._made: _Made | None = None
        self._shown: int | None = None  # the answer whose text was shown

    @property
    def works(self) -> bool:
        """Whether there is work to do before it is known what becomes of the pause."""
        made = self._made
        return made is not None and not made.parked

    def begin(self, item: Paused, task: Task, mark: object, seconds: Seconds) -> Task:
        """Begin the answer that there is if this is the end; ``mark``: where the work stands before."""
        self.on = True
        self._made = _Made(task, mark, seconds(item.end_sample), [(item.evidence, seconds(item.decided_sample))])
        return self._step(self._made)

    def next(self, queue: Queue) -> Task | None:
        """Return a bounded piece of the answer's work; None if there is none, or if there are items to take first.

        Where speech goes on the work goes back at once.
        """
        made = self._made
        if made is None:
            return None
        if isinstance(queue.ahead(), Resumed):
            self._back(made.mark)
            return None
        return None if made.parked or queue.waits(turn_open=True) else self._step(made)

    def hear(self, item: Item, seconds: Seconds) -> Iterator[Event]:
        """Take what the Gate decided in the pause; yield what it makes known."""
        match item:
            case Quiet(decided_sample, evidence) if self._made is not None:
                self._made.known.append((evidence, seconds(decided_sample)))
                yield from self._show(self._made)
            case Resumed(at_sample=at_sample):
                shown, self._shown, self.on = self._shown, None, False
                if shown is not None:
                    yield Withdrawn(shown, seconds(at_sample))
            case _:
                pass

    def until_confirmed(self) -> Iterator[None]:
        """Wait, where the end may still be withdrawn: for what follows and cannot be taken back."""
        while self.on:
            if self._made is not None:
                self._made.parked = True
            yield None

    def confirm(self, *, hushed: bool) -> Task | None:
        """End the pause; return what yields the answer, without the sound made so far if ``hushed``; None if none was
        made.
        """
        made, self._made, self._shown, self.on = self._made, None, None, False
        return None if made is None else _adopted(made, hushed=hushed)

    def drop(self) -> None:
        """Drop the answer. The pause itself lasts: another is made where the end is confirmed."""
        if self._made is not None:
            self._made.task.close()
        self._made = None

    def _step(self, made: _Made) -> Task:
        """Do one bounded piece of work and hold back its events; yield Provisional where there is a text to show."""
        for event in made.task:
            if event is None:
                break
            if isinstance(event, LevelChanged):  # a level that was chosen stays so
                yield event
                continue
            made.held.append(event)
            if isinstance(event, Text) and event.final and made.text is None:
                made.text = event
            if isinstance(event, Audio):
                made.sound_s += len(event.samples) / event.sample_rate_hz
        else:
            made.parked = True
        made.parked = made.parked or made.sound_s >= MOST_SOUND_S
        yield from self._show(made)

    def _show(self, made: _Made) -> Iterator[Provisional]:
        text = made.text
        if self._shown is not None or text is None or not text.text:
            return
        sign = ends_sentence(text.text) if self._writes else None
        for evidence, decided_at_s in made.known:
            if ending(replace(evidence, ends_sentence=sign), self._rule) == "end":
                self._shown = text.answer
                yield Provisional(
                    text.text, text.answer, made.at_s, decided_at_s, text.start_s, text.tokens, text.language,
                    text.language_probability,
                )  # fmt: skip
                return


def _adopted(made: _Made, *, hushed: bool) -> Task:
    for event in made.held:
        if not (hushed and isinstance(event, (Audio, AudioCut, AudioEnded))):
            yield event
    yield from made.task
