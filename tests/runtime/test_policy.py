"""The Policy: with given costs no chunk misses its deadline by choice."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.bundle import ComputeLevel
from edgekit.runtime.policy import DRAFT_SHARE, Budget, Costs, Observation, choose, draft_due

SKIP = ComputeLevel(name="skip")
LIGHT = ComputeLevel(name="light", experts_per_token=2)
MIDDLE = ComputeLevel(name="middle", experts_per_token=4)
FULL = ComputeLevel(name="full", experts_per_token=8, max_lag_ms=500.0)
LEVELS = (SKIP, LIGHT, MIDDLE, FULL)
COSTS = {"skip": 0.0, "light": 100.0, "middle": 200.0, "full": 400.0}


def name(lag_ms: float, deadline_ms: float | None, *, sounding: bool = True, costs: dict[str, float] = COSTS) -> str:
    return choose(LEVELS, Observation(sounding, lag_ms), Budget(deadline_ms), costs).name


def test_silence_is_skipped_whatever_the_lag() -> None:
    assert name(0, None, sounding=False) == "skip"
    assert name(10_000, 10, sounding=False) == "skip"


def test_silence_is_worked_on_where_the_bundle_cannot_skip() -> None:
    assert choose((LIGHT, FULL), Observation(False, 0), Budget(), COSTS) is FULL


def test_without_a_deadline_the_most_capable_level_runs_while_its_lag_allows() -> None:
    assert name(0, None) == "full"
    assert name(500, None) == "full"
    assert name(500.1, None) == "middle"


@pytest.mark.parametrize(
    ("lag_ms", "level"),
    [(0, "full"), (100, "full"), (100.1, "middle"), (300, "middle"), (300.1, "light"), (400, "light")],
)
def test_the_most_capable_level_that_keeps_the_deadline_runs(lag_ms: float, level: str) -> None:
    assert name(lag_ms, 500) == level


def test_sound_is_never_skipped_even_when_nothing_keeps_the_deadline() -> None:
    assert name(400.1, 500) == "light"
    assert name(1e9, 0) == "light"


def test_a_level_of_unknown_cost_runs_so_that_it_gets_one() -> None:
    assert name(0, 300, costs={}) == "full"
    assert name(0, 300, costs={"full": 400.0}) == "middle"


def test_a_single_level_is_always_chosen() -> None:
    for sounding in (True, False):
        assert choose((FULL,), Observation(sounding, 1e6), Budget(1.0), COSTS) is FULL
    assert choose((SKIP,), Observation(True, 0), Budget(), COSTS) is SKIP


times = st.floats(0, 2_000)
levels = st.lists(
    st.builds(ComputeLevel, name=st.just("?"), max_lag_ms=st.one_of(st.none(), times)), min_size=1, max_size=5
).map(lambda made: tuple(ComputeLevel(name=f"level {i}", max_lag_ms=one.max_lag_ms) for i, one in enumerate(made)))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(levels=levels, skips=st.booleans(), costs=st.lists(times, min_size=5, max_size=5), lag=times, deadline=times)
def test_whenever_some_level_meets_the_deadline_the_chosen_one_does(
    levels: tuple[ComputeLevel, ...], skips: bool, costs: list[float], lag: float, deadline: float
) -> None:
    cost = {level.name: value for level, value in zip(levels, costs, strict=False)}
    offered = (SKIP, *levels) if skips else levels
    chosen = choose(offered, Observation(True, lag), Budget(deadline), cost)
    allowed = [
        level
        for level in levels
        if (level.max_lag_ms is None or lag <= level.max_lag_ms) and lag + cost[level.name] <= deadline
    ]
    assert chosen == (allowed[-1] if allowed else levels[0])


@settings(max_examples=100, deadline=None, derandomize=True)
@given(seed_costs=st.tuples(times, times, times), deadline=times, stalls=st.lists(times, min_size=5, max_size=40))
def test_under_a_fake_clock_no_chunk_is_late_by_choice(
    seed_costs: tuple[float, float, float], deadline: float, stalls: list[float]
) -> None:
    """Chunks of 640 ms; before each the machine stalls for a while, so that work falls behind."""
    costs = dict(zip(("light", "middle", "full"), sorted(seed_costs), strict=True))
    now = 0.0
    for index, stall in enumerate(stalls):
        heard = 640.0 * (index + 1)
        now = max(now, heard) + stall
        lag = now - heard
        level = choose(LEVELS, Observation(True, lag), Budget(deadline), costs)
        now += costs[level.name]
        late = lag + costs[level.name] > deadline
        assert not late or lag + costs["light"] > deadline


def decisions(number: int, deadline_ms: float, cost: Callable[[str, int], float]) -> list[str]:
    """Return the levels chosen one after the other; ``cost``: of the n-th run at a level."""
    costs, chosen = Costs(LEVELS), []
    for _ in range(number):
        level = choose(LEVELS, Observation(True, 0.0), Budget(deadline_ms), costs.ms)
        costs.decided(level)
        costs.measured(level, cost(level.name, chosen.count(level.name)))
        chosen.append(level.name)
    return chosen


def test_one_slow_run_does_not_lock_a_level_out() -> None:
    chosen = decisions(20, 500.0, lambda name, run: 3_000.0 if name == "full" and run == 0 else COSTS[name])
    assert chosen == ["full"] + ["middle"] * 4 + ["full"] * 15


def test_a_level_that_stays_too_slow_is_tried_less_and_less() -> None:
    chosen = decisions(400, 300.0, lambda name, _run: COSTS[name])
    tried = [index for index, name in enumerate(chosen) if name == "full"]
    assert tried == [0, 5, 14, 31, 64, 129, 194, 259, 324, 389]  # after 4, 8, 16, 32, then 64 of the others
    assert set(chosen) == {"full", "middle"}


def test_a_level_that_was_fast_again_is_tried_soon_after_its_next_slow_run() -> None:
    slow = (0, 1, 2, 6)  # of the runs at full
    chosen = decisions(60, 500.0, lambda name, run: 3_000.0 if name == "full" and run in slow else COSTS[name])
    tried = [index for index, name in enumerate(chosen) if name == "full"]
    assert tried[:9] == [0, 5, 14, 31, 32, 33, 34, 39, 40]


def test_a_cheaper_level_keeps_its_cost_while_a_better_one_runs() -> None:
    costs = Costs(LEVELS)
    costs.measured(LIGHT, 100.0)
    for _ in range(100):
        costs.decided(FULL)
    assert costs.ms == {"light": 100.0}


@pytest.mark.parametrize(
    ("lag_ms", "since_ms", "cost_ms", "due"),
    [
        (0, 640, 0, True),
        (160, 640, 160, True),
        (160.1, 640, 0, False),
        (160.1, 6400, 0, False),  # who is behind catches up first, however old the draft is
        (0, 640, 160.1, False),
        (0, 1280, 160.1, True),
    ],
)
def test_a_draft_is_due_if_nothing_waits_and_its_cost_is_a_small_share(
    lag_ms: float, since_ms: float, cost_ms: float, due: bool
) -> None:
    assert draft_due(Observation(True, lag_ms), 640, since_ms, cost_ms) == due
    assert not draft_due(Observation(False, lag_ms), 640, since_ms, cost_ms)


@settings(deadline=None, derandomize=True)
@given(costs=st.lists(st.floats(0, 5000), min_size=1, max_size=40))
def test_drafts_never_take_more_than_their_share_but_for_the_last_one(costs: list[float]) -> None:
    written, cost_ms, since_ms = [], 0.0, 0.0
    for cost in costs * 40:
        since_ms += 640
        if draft_due(Observation(True, 0), 640, since_ms, cost_ms):
            written.append(cost)
            cost_ms, since_ms = cost, 0.0
    assert sum(written[:-1]) <= DRAFT_SHARE * 640 * len(costs) * 40
    assert len(written) > 1  # a slow first one does not keep the others away for good
