"""Downmix: the channels of a sound to one, their mean; or one of them, where the mean would be near silence.

A balanced microphone on a stereo jack, or a call recorded with one side upside down: the channels are each other's
opposite. Knows nothing of rates; what it decides depends on the blocks that it is given.
"""

import logging

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]

_LOG = logging.getLogger(__name__)
_CANCEL, _AGREE = 0.05, 0.2  # of the power that the mean of unrelated channels has: 13 and 7 dB below
_AS_LOUD = 0.8  # of the loudest channel's power, 1 dB: the first such is heard
_QUIETEST = 1e-9  # power of the channels, -90 dB of full scale: below it dither may cancel
_KEPT = 0.98  # of the powers, from block to block: a second, if a block is 20 ms


def to_mono(samples: Samples) -> Samples:
    """Return the mean of the channels, (n,) float32; ``samples``: (n, channels)."""
    if samples.shape[1] == 1:
        return samples[:, 0]
    mean: NDArray[np.float64] = samples.mean(axis=1, dtype=np.float64)
    return mean.astype(np.float32)


class Downmix:
    """The downmix of one stream, block by block. ``name``: what the log calls the sound; empty: nothing is logged."""

    def __init__(self, channels: int, name: str) -> None:
        self._channels, self._name = channels, name
        self.reset()

    def reset(self) -> None:
        """Forget everything heard."""
        self._each, self._mean, self._weight = np.zeros(self._channels), 0.0, 0.0  # powers, lately
        self._alone: int | None = None  # the channel that is heard in place of the mean
        self._begun = False

    def mix(self, samples: Samples) -> Samples:
        """Return the next block, (n, channels), as one channel (n,) float32; a change of mind fades over the block."""
        mean = to_mono(samples)
        if self._channels == 1 or not len(samples):
            return mean
        before = self._alone
        self._decide(samples, mean)
        after = mean if self._alone is None else samples[:, self._alone]
        if self._begun and self._alone != before:
            start = mean if before is None else samples[:, before]
            share = (np.arange(len(samples)) + 0.5) / len(samples)
            after = (start + share * (after - start)).astype(np.float32)
        self._begun = True
        return after

    def _decide(self, samples: Samples, mean: Samples) -> None:
        self._each = _KEPT * self._each + np.square(samples, dtype=np.float64).mean(axis=0)
        self._mean = _KEPT * self._mean + float(np.square(mean, dtype=np.float64).mean())
        self._weight = _KEPT * self._weight + 1.0
        unrelated = float(self._each.sum()) / self._channels**2
        if self._alone is not None:
            if self._mean > _AGREE * unrelated:
                self._alone = None
        elif self._mean < _CANCEL * unrelated and unrelated > _QUIETEST * self._weight:
            self._alone = int((self._each > _AS_LOUD * self._each.max()).argmax())
            if self._name:
                _LOG.warning(
                    "%s: its channels cancel each other, channel %d is heard alone", self._name, self._alone + 1
                )
                self._name = ""
