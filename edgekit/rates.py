"""Sample rates: which are heard, of files and of pushed samples alike, and the one of samples that name none."""

from numbers import Integral

LOWEST_HZ, HIGHEST_HZ = 1_000, 768_000
DEFAULT_HZ = 16_000
_MOST_SHOWN = 10**30


def rate_fault(rate: object) -> str | None:
    """Return which rule a sample rate breaks and how, None if it breaks none."""
    if isinstance(rate, Integral) and not isinstance(rate, bool) and LOWEST_HZ <= int(rate) <= HIGHEST_HZ:
        return None
    return f"{_shown(rate)}, a whole number from {LOWEST_HZ:,} to {HIGHEST_HZ:,} Hz is heard"


def _shown(rate: object) -> str:
    if isinstance(rate, float):
        return f"{rate} Hz"
    if isinstance(rate, Integral) and not isinstance(rate, bool):
        return f"{rate} Hz" if abs(int(rate)) < _MOST_SHOWN else "a number of many digits"
    return repr(rate) if rate is None or isinstance(rate, (str, bool)) else f"<{type(rate).__name__}>"
