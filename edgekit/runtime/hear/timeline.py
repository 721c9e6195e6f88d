"""Timeline: the stream time of samples, where some were lost before others; and where an answer's sound lies."""

import math


class Timeline:
    """Seconds since the first pushed sample, lost ones included, of samples counted at ``rate``."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._drops: list[tuple[int, float]] = []  # (sample, seconds lost before it)
        self._lost_s = 0.0  # seconds lost before any sample that may still be asked for

    def __len__(self) -> int:
        """Return how many losses are remembered one by one."""
        return len(self._drops)

    def lose(self, at_sample: int, lost_s: float) -> None:
        """Take note of ``lost_s`` seconds that were lost before a sample."""
        self._drops.append((at_sample, lost_s))

    def settle(self, before: int) -> None:
        """Take note that no sample before this one will be asked for any more."""
        self._lost_s += sum(lost for at, lost in self._drops if at <= before)
        self._drops = [drop for drop in self._drops if drop[0] > before]

    def seconds(self, sample: int) -> float:
        """Return the time of a sample."""
        return sample / self._rate + self._lost_s + sum(lost for at, lost in self._drops if at <= sample)


class AnswerSound:
    """The sound that an answer is to: from sample ``start`` of the stream, its own words from ``own_start``.

    What comes between was heard for the answer before, and is heard again so that no word is cut. ``resumed``: it goes
    on from another piece, in the midst of speech.
    """

    def __init__(self, time: Timeline, rate: int) -> None:
        self.start = self.own_start = 0
        self.resumed = False
        self._time, self._rate = time, rate

    def begin(self, start: int) -> None:
        """Begin another answer's."""
        self.start = self.own_start = start
        self.resumed = False

    def resume(self, own_start: int) -> None:
        """Go on from another piece: words before ``own_start`` stand in the answer to that."""
        self.own_start, self.resumed = own_start, True

    def seconds(self, sample: int) -> float:
        """Return a sample as seconds of the sound."""
        return (sample - self.start) / self._rate

    def sample(self, seconds: float) -> int:
        """Return the sample that a second of the sound is."""
        return self.start + round(seconds * self._rate)

    def time_s(self, seconds: float) -> float:
        """Return the stream time of a second of the sound."""
        return self._time.seconds(self.sample(seconds))

    def own(self, end_sample: int, heard_end: int, *, full: bool) -> tuple[float, float] | None:
        """Return where its own words are, in seconds; None where all that was heard is its own.

        Unless it is ``full`` its end was decided by a pause, and a word that seems to come later counts.
        """
        if self.own_start == self.start and heard_end == end_sample:
            return None
        return self.seconds(self.own_start), self.seconds(end_sample) if full else math.inf
