"""A small profile that was never measured, and a clock that moves only when it is told to."""

from pathlib import Path

import msgspec
import pytest

from edgekit.profiler.profiles import load_profile

STORED = Path(__file__).parent / "simulated.json"


class FakeClock:
    """Seconds that pass by ``sleep``, or by ``tick`` at every reading."""

    def __init__(self, tick: float = 0.0) -> None:
        self.now = 100.0
        self.tick = tick
        self.slept: list[float] = []

    def __call__(self) -> float:
        self.now += self.tick
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock():
    """Return a new FakeClock."""
    return FakeClock()


@pytest.fixture
def profile():
    """Return the stored profile."""
    return load_profile(STORED)


@pytest.fixture
def slower(profile):
    """Return the same with every figure doubled, and another precision."""
    metrics = tuple(
        msgspec.structs.replace(m, p50=2 * m.p50, p90=2 * m.p90, p99=2 * m.p99, min=2 * m.min, max=2 * m.max)
        for m in profile.metrics
    )
    bundle = msgspec.structs.replace(profile.bundle, precision={"backbone": "float32", "encoder": "float32"})
    return msgspec.structs.replace(profile, metrics=metrics, bundle=bundle)
