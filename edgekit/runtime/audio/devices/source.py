"""Source: sound that comes by itself, from a device or as if from one."""

from types import TracebackType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgekit.runtime.audio.ring import Ring

Samples = NDArray[np.float32]


class Source(Protocol):
    """Sound that comes by itself, into a Ring; recording while in a ``with`` block. LastingMicrophone is one."""

    sample_rate_hz: int
    channels: int
    ring: Ring

    @property
    def overflows(self) -> int:
        """How often the device lost samples before they were counted."""
        ...

    @property
    def fresh_s(self) -> float | None:
        """When sound last came that the device did not make up, by ``time.monotonic``; None before the first."""
        ...

    @property
    def away(self) -> bool:
        """Whether it is known, and was said, that no sound comes, and it tries for some."""
        ...

    def __enter__(self) -> object:
        """Begin to record."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop: nothing is written to the ring any more."""
        ...

    @property
    def dropped_samples(self) -> int:
        """Samples per channel that were recorded but not read in time, or are missing before what is read next."""
        ...

    def wait(self, timeout_s: float) -> bool:
        """Sleep until samples are there, at most ``timeout_s``; say whether they are. Raises what ended the source."""
        ...

    def read(self, max_samples: int) -> Samples:
        """Return the oldest samples that wait, (n, channels) float32 with n <= ``max_samples``. Never blocks."""
        ...
