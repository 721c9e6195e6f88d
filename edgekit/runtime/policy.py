"""Policy: which ComputeLevel is affordable now.

``choose`` is a pure function; Costs remembers what levels cost, and for how long that is believed; Levels asks both for
a stream. None of them measures.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from edgekit.bundle.manifest import ComputeLevel

SKIP = "skip"
WorkKind = Literal["hear", "answer"]
DRAFT_SHARE = 0.25  # of the time: the rest is for hearing, and for what else the device does
_FIRST_WAIT = 4  # decisions until a level that cost too much is tried again
_LONGEST_WAIT = 64


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


def draft_due(observation: Observation, chunk_ms: float, since_ms: float, cost_ms: float) -> bool:
    """Say whether to write a draft of an utterance: there is new speech, nothing waits, and it is not too dear.

    observation.sounding: whether there was speech since the last draft, which ``since_ms`` less sound knew, and which
    cost ``cost_ms`` (0.0 if there was none). What is dear is not given up but comes less often. A backlog of a part of
    a chunk is normal: sound that came while the last one was worked on.
    """
    allowed = DRAFT_SHARE * since_ms
    return observation.sounding and observation.lag_ms <= DRAFT_SHARE * chunk_ms and cost_ms <= allowed


@dataclass(slots=True)
class Costs:
    """What a chunk costs at each level, as last measured: ``ms`` by name, for ``choose``.

    A level that is passed over is not measured, so one slow run, such as a cold first one, would lock it out for good.
    Its cost is therefore forgotten after 4 decisions, and it runs once more; as long as that turns out too slow again,
    after twice as many, at most 64.
    """

    levels: tuple[ComputeLevel, ...]
    ms: dict[str, float] = field(default_factory=dict)
    _waited: dict[str, int] = field(default_factory=dict)
    _wait: dict[str, int] = field(default_factory=dict)

    def decided(self, chosen: ComputeLevel) -> None:
        """Take note of a decision for sound: every more capable level was passed over."""
        if chosen.name in self.ms:  # chosen for what it costs, not for want of knowing
            self._wait.pop(chosen.name, None)
        self._waited.pop(chosen.name, None)
        for level in self.levels[self.levels.index(chosen) + 1 :]:
            if level.name not in self.ms:
                continue
            wait = self._wait.get(level.name, _FIRST_WAIT)
            self._waited[level.name] = self._waited.get(level.name, 0) + 1
            if self._waited[level.name] == wait:
                del self.ms[level.name], self._waited[level.name]
                self._wait[level.name] = min(2 * wait, _LONGEST_WAIT)

    def measured(self, level: ComputeLevel, ms: float) -> None:
        """Keep what the level cost just now."""
        self.ms[level.name] = ms


class Levels:
    """The level of one stream's work: ``pinned``, or the Policy's choice before each piece of work.

    levels: the bundle's, cheapest first, of which ``working`` do something. ``current``: in use while there is sound.
    """

    def __init__(
        self,
        levels: tuple[ComputeLevel, ...],
        working: Sequence[ComputeLevel],
        pinned: ComputeLevel | None,
        budget: Budget | None,
    ) -> None:
        self._levels, self._best, self._pinned = levels, working[-1], pinned
        self._budget = budget or Budget()
        self.current = pinned or working[-1]
        self._costs: dict[WorkKind, Costs] = {"hear": Costs(levels), "answer": Costs(levels)}

    @property
    def resting(self) -> ComputeLevel:
        """The level while there is no sound: ``skip``, if the bundle has it and none is pinned."""
        skip = [level for level in self._levels if level.name == SKIP]
        return skip[0] if skip and self._pinned is None else self.current

    def choose(self, work: WorkKind, lag_ms: float | None) -> bool:
        """Choose the level for what is due now; say whether it changed. lag_ms: None where nothing is live or late."""
        if self._pinned is not None:
            return False
        before = self.current
        if lag_ms is None:
            self.current = self._best
        else:
            costs = self._costs[work]
            observation = Observation(sounding=True, lag_ms=lag_ms)
            self.current = choose(self._levels, observation, self._budget, costs.ms)
            costs.decided(self.current)
        return self.current != before

    def measured(self, work: WorkKind, ms: float) -> None:
        """Keep what a piece of work just cost at the current level."""
        self._costs[work].measured(self.current, ms)
