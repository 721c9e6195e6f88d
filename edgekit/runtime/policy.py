"""Policy: which ComputeLevel is affordable now. A pure function; it neither measures nor remembers."""

from collections.abc import Mapping
from dataclasses import dataclass

from edgekit.bundle.manifest import ComputeLevel

SKIP = "skip"


@dataclass(frozen=True, slots=True)
class Budget:
    """The limits a stream must keep; ``deadline_ms`` is from the end of a chunk's sound to the end of its work."""

    deadline_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Observation:
    """What is known when a chunk is due: whether it sounds, and how late its work begins."""

    sounding: bool
    lag_ms: float


def choose(
    levels: tuple[ComputeLevel, ...], observation: Observation, budget: Budget, cost_ms: Mapping[str, float]
) -> ComputeLevel:
    """Return the level to run the next chunk at; ``levels`` are the bundle's, cheapest first.

    Silence gets ``skip`` if the bundle has it. Otherwise the most capable level that its ``max_lag_ms`` and the
    deadline allow; if none is allowed, the cheapest one, for sound is never skipped. ``cost_ms``: what a chunk costs
    at a level, by name. A level without a cost counts as free: it has to run once to be measured.
    """
    working = [level for level in levels if level.name != SKIP]
    if not observation.sounding or not working:
        for level in levels:
            if level.name == SKIP:
                return level
    for level in reversed(working):
        if level.max_lag_ms is not None and observation.lag_ms > level.max_lag_ms:
            continue
        due_ms = observation.lag_ms + cost_ms.get(level.name, 0.0)
        if budget.deadline_ms is None or due_ms <= budget.deadline_ms:
            return level
    return working[0]
