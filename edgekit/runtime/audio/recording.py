"""Recording: a file that behaves like a microphone, for trying out what listens to one."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from edgekit.runtime.audio.files import at_rest
from edgekit.runtime.audio.pace import chunks, paced
from edgekit.runtime.audio.ring import Ring
from edgekit.timing import Clock

Samples = NDArray[np.float32]


class Recording:
    """A Source that plays a file like a microphone, in real time, on a thread of its own.

    Raises AudioError if the file cannot be read; one that is damaged later ends the source with that error.
    """

    def __init__(
        self,
        path: Path,
        buffer_s: float = 10.0,
        clock: Clock = time.perf_counter,
        sleep: Callable[[float], object] | None = None,
    ) -> None:
        self._file = at_rest(path)
        first = next(chunks(self._file))
        self.sample_rate_hz = first.sample_rate_hz
        self.channels: int = first.samples.shape[1]
        self.overflows = 0
        self.fresh_s: float | None = None
        self.away = False
        self.ring = Ring(max(1, round(buffer_s * self.sample_rate_hz)) * self.channels)
        self._stop = threading.Event()
        self._clock, self._sleep = clock, sleep or self._stop.wait
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._play, name="edgekit-recording", daemon=True)

    def __enter__(self) -> "Recording":  # noqa: PYI034 - typing.Self needs Python 3.11
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def dropped_samples(self) -> int:
        """Samples per channel that were played but not read in time."""
        return self.ring.dropped_samples // self.channels

    def wait(self, timeout_s: float) -> bool:
        """Sleep until samples are there, at most ``timeout_s``; say whether they are. Raises what ended the file."""
        if self.ring.wait(timeout_s):
            return True
        if self._failure is not None:
            raise self._failure
        return False

    def read(self, max_samples: int) -> Samples:
        """Return the oldest samples that wait, (n, channels) float32 with n <= ``max_samples``. Never blocks."""
        return self.ring.read(max_samples * self.channels).reshape(-1, self.channels)

    def _play(self) -> None:
        try:
            for chunk, _ in paced(self._file, self._clock, self._sleep):
                if self._stop.is_set():
                    break
                self.ring.write(chunk.samples.reshape(-1))
                self.fresh_s = time.monotonic()
        except Exception as error:  # noqa: BLE001 - `wait` raises it, where it can be seen
            self._failure = error
        finally:
            self.ring.close()
