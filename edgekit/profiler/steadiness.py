"""Steadiness: whether what a process holds grows with time, by its own /proc and a test that asks for no shape.

Mann, H. B. 1945, Nonparametric tests against trend; Kendall, M. G. 1975, Rank correlation methods: the variance with
ties. The slope is Theil and Sen's: the median of the slopes between all pairs (Sen, P. K. 1968).
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
    """The slope of a figure by time, and whether it differs from zero at one in twenty."""

    slope: float
    z: float

    @property
    def grows(self) -> bool:
        """Whether it rises, by more than chance."""
        return self.z > _ONE_IN_TWENTY


def trend(times: Sequence[float], values: Sequence[float]) -> Trend:
    """Return the Trend of values at times, at least four of each, not all at one time."""
    x, y = np.asarray(times, float), np.asarray(values, float)
    first, second = np.triu_indices(len(x), 1)
    across = x[second] - x[first]
    slope = float(np.median((y[second] - y[first])[across != 0] / across[across != 0]))
    score = float(np.sign(y[second] - y[first]).sum())
    count = len(y)
    ties = np.unique(y, return_counts=True)[1].astype(float)
    spread = (count * (count - 1) * (2 * count + 5) - float((ties * (ties - 1) * (2 * ties + 5)).sum())) / 18
    return Trend(
        slope, 0.0 if spread <= 0 else (score - math.copysign(min(1.0, abs(score)), score)) / math.sqrt(spread)
    )
