"""Compute levels of a model whose tokens choose among experts: fewer experts when late."""

from edgekit.bundle import ComputeLevel

# Backlog up to which a count of experts is still affordable; the fewest are allowed at any backlog.
_LAG_MS = {3: 4000.0, 4: 2000.0}
_FULL_LAG_MS = 1000.0


def expert_levels(experts: int) -> tuple[ComputeLevel, ...]:
    """Return ``skip``, 2, 3 and 4 experts where that is fewer than ``experts``, and ``full``; cheapest first."""
    light = [
        ComputeLevel(name=f"experts-{count}", experts_per_token=count, max_lag_ms=_LAG_MS.get(count))
        for count in (2, 3, 4)
        if count < experts
    ]
    full = ComputeLevel(name="full", experts_per_token=experts or None, max_lag_ms=_FULL_LAG_MS if light else None)
    return (ComputeLevel(name="skip"), *light, full)
