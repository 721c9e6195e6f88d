"""Timeline: the stream time of samples, where some were lost before others."""


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
