"""Decoder: what hands out the samples of one recording in order. Knows nothing of what decodes."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class RefusedError(Exception):
    """What a decoder does not read; says why, in its words."""


class DamagedError(Exception):
    """What ends in the middle; says how."""


class Decoder(Protocol):
    """One recording, open."""

    @property
    def sample_rate_hz(self) -> int:
        """Samples a second."""
        ...

    @property
    def channels(self) -> int:
        """Samples at a time."""
        ...

    @property
    def damaged(self) -> int:
        """Frames read so far that were damaged, and are silent or wrong."""
        ...

    def read(self, samples: int) -> NDArray[np.float32]:
        """Return the next samples, (n, channels) float32, none at the end. Raises DamagedError, OSError."""
        ...

    def close(self) -> None:
        """Let the file go."""
        ...
