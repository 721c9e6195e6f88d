"""EchoFree: a microphone beside a loudspeaker, without the loudspeaker."""

from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from edgekit.runtime.audio.devices.source import Source
from edgekit.runtime.audio.echo.canceller import EchoCanceller

Samples = NDArray[np.float32]


class EchoFree:
    """The Source that a microphone and a canceller make: as many samples, a frame of the canceller later.

    When it ends, silence of that length is recorded behind the last sample, which therefore still comes out.
    """

    def __init__(self, microphone: Source, canceller: EchoCanceller) -> None:
        assert microphone.channels == 1
        self._microphone, self.canceller = microphone, canceller
        self.sample_rate_hz, self.channels, self.ring = microphone.sample_rate_hz, 1, microphone.ring

    def __enter__(self) -> "EchoFree":  # noqa: PYI034 - typing.Self needs Python 3.11
        self._microphone.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._microphone.__exit__(kind, error, trace)
        self.ring.write(np.zeros(self.canceller.frame_samples, np.float32))

    @property
    def overflows(self) -> int:
        """How often the device lost samples before they were counted."""
        return self._microphone.overflows

    @property
    def fresh_s(self) -> float | None:
        """When sound last came that the device did not make up, by ``time.monotonic``; None before the first."""
        return self._microphone.fresh_s

    @property
    def away(self) -> bool:
        """Whether no sound comes, and it tries for some."""
        return self._microphone.away

    @property
    def dropped_samples(self) -> int:
        """Samples that were recorded but not read in time, or are missing before what is read next."""
        return self._microphone.dropped_samples

    def wait(self, timeout_s: float) -> bool:
        """Sleep until samples are there, at most ``timeout_s``; say whether they are."""
        return self._microphone.wait(timeout_s)

    def read(self, max_samples: int) -> Samples:
        """Return the oldest samples that wait, (n, 1) float32 with n <= ``max_samples``. Never blocks."""
        samples = self._microphone.read(max_samples)
        return self.canceller.cancel(samples[:, 0], self.ring.available_samples)[:, None]
