"""Sample rates: which are heard, of files and of pushed samples alike, and the one of samples that name none."""

from numbers import Integral

LOWEST_HZ, HIGHEST_HZ = 1_000, 768_000
DEFAULT_HZ = 16_000


def rate_fault(rate: object) -> str | None:
    """Return which rule a sample rate breaks and how, None if it breaks none."""
    if isinstance(rate, Integral) and not isinstance(rate, bool) and LOWEST_HZ <= int(rate) <= HIGHEST_HZ:
        return None
    shown = f"{rate} Hz" if isinstance(rate, (Integral, float)) and not isinstance(rate, bool) else repr(rate)
    return f"{shown}, a whole number from {LOWEST_HZ:,} to {HIGHEST_HZ:,} Hz is heard"
