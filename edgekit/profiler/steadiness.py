"""Steadiness: whether what a process holds grows with time, by its own /proc and a slope that one step does not move.

The slope is Theil and Sen's, the median of the slopes between all pairs, and its interval Sen's: Sen, P. K. 1968,
Estimates of the regression coefficient based on Kendall's tau; Kendall, M. G. 1975, Rank correlation methods: the
variance with ties.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekit.profiler.footprint import memory_of

_ONE_IN_TWENTY = 1.959964  # standard deviations, both sides


@dataclass(frozen=True, slots=True)
class Holding:
    """What this process holds: resident memory in MiB, open descriptors, threads."""

    memory_mib: float
    descriptors: int
    threads: int


def holding(pid: int | None = None) -> Holding:
    """Return what a process holds now, by default this one. Raises ProfileError where /proc does not say it."""
    place = Path("/proc", "self" if pid is None else str(pid))
    descriptors = sum(1 for _ in (place / "fd").iterdir()) - (pid is None)  # one of them reads the folder
    threads = sum(1 for _ in (place / "task").iterdir())
    return Holding(memory_of(pid).now_mib, descriptors, threads)


@dataclass(frozen=True, slots=True)
class Trend:
    """The slope of a figure by time, with its interval of 95 %."""

    slope: float
    low: float
    high: float

    @property
    def grows(self) -> bool:
        """Whether it rises, by more than chance."""
        return self.low > 0


def trend(times: Sequence[float], values: Sequence[float]) -> Trend:
    """Return the Trend of values at times, at least four of each, not all at one time."""
    x, y = np.asarray(times, float), np.asarray(values, float)
    first, second = np.triu_indices(len(x), 1)
    apart = x[second] != x[first]
    slopes = np.sort((y[second] - y[first])[apart] / (x[second] - x[first])[apart])
    count = len(y)
    ties = np.unique(y, return_counts=True)[1].astype(float)
    variance = (count * (count - 1) * (2 * count + 5) - float((ties * (ties - 1) * (2 * ties + 5)).sum())) / 18
    reach = _ONE_IN_TWENTY * math.sqrt(max(0.0, variance)) / 2
    middle, last = (len(slopes) - 1) / 2, len(slopes) - 1
    low, high = (float(slopes[min(last, max(0, round(middle + way * reach)))]) for way in (-1, 1))
    return Trend(float(np.median(slopes)), low, high)
