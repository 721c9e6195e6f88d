"""Resampler: sound of any rate and channels to mono of one rate, the same bits for every split of the input."""

from importlib import import_module
from types import ModuleType

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgekit.errors import AudioError, MissingPackageError, UsageError
from edgekit.rates import rate_fault
from edgekit.runtime.hear.downmix import Downmix

Samples = NDArray[np.float32]

_INT16_SCALE = 32_768
MAX_CHANNELS = 64  # more is an array (channels, n), not a recording
LOUDEST = 16.0  # 24 dB above full scale: no recording, but integers that became floats
_SCALE = f"divide what was int16 by {_INT16_SCALE}, or give it as int16"


def check_sound(samples: Samples, name: str, position: int, step: str) -> None:
    """Raise AudioError if a sample is NaN, infinite or beyond LOUDEST, naming the first.

    position: that of ``samples[0]``. step: what to do where it is too loud.
    """
    fits = np.abs(samples) <= LOUDEST  # of NaN it is False
    if fits.all():
        return
    at = int(fits.reshape(len(samples), -1).all(axis=1).argmin())
    found = samples[at].flat[int(fits[at].argmin())]
    if not np.isfinite(found):
        raise AudioError(
            f"{name}: sample {position + at} is NaN or infinite, finite ones are needed; repair or record it again"
        )
    raise AudioError(f"{name}: sample {position + at} is {found:.6g}, [-1, 1] is full scale; {step}")


def as_samples(samples: ArrayLike, channels: int) -> Samples:
    """Return a copy of samples as (n, channels) float32; (n,) is one channel, int16 is scaled to [-1, 1].

    Raises UsageError for another shape or another type.
    """
    try:
        array = np.asarray(samples)
    except ValueError as error:
        raise UsageError(f"samples: {error}; give one array, (n,) or (n, {channels})") from error
    if array.ndim == 1 and (channels == 1 or array.size == 0):
        array = array.reshape(-1, channels)
    if array.ndim != 2 or array.shape[1] != channels:
        if array.ndim == 0:
            raise UsageError(f"samples: {type(samples).__name__}, an array is needed; give float32 or int16 samples")
        shapes = "(n,) or (n, 1)" if channels == 1 else f"(n, {channels})"
        raise UsageError(f"samples: shape {array.shape}, {shapes} is needed; transpose them or set channels")
    if array.dtype == np.int16:
        return array.astype(np.float32) / np.float32(_INT16_SCALE)
    if array.dtype.kind != "f" and array.size:
        raise UsageError(f"samples: {array.dtype}, floats in [-1, 1] or int16 are needed; convert them first")
    with np.errstate(over="ignore"):  # an infinity is refused with its position
        return array.astype(np.float32)


class Resampler:
    """Turns sound of any rate and channels into mono of ``rate_out``, in blocks of 20 ms counted from the first sample.

    Because the blocks are fixed, every split of the input gives the same bits. ``name`` is what errors and the log call
    the sound, which is empty where the log shall say nothing. Raises UsageError for a rate or a number of channels that
    is not heard.
    """

    def __init__(self, rate_in: int, channels: int, name: str = "input", *, rate_out: int) -> None:
        if fault := rate_fault(rate_in):
            raise UsageError(f"{name}: {fault}; give the rate that the samples have")
        if channels < 1:
            raise UsageError(f"{name}: {channels} channels, at least 1 is needed; give their number")
        if channels > MAX_CHANNELS:
            raise UsageError(
                f"{name}: {channels} channels, at most {MAX_CHANNELS} are heard; transpose the samples to (n, channels)"
            )
        self._rate, self._rate_out, self._name = rate_in, rate_out, name
        self._block = np.zeros((rate_in // 50, channels), np.float32)
        self._downmix = Downmix(channels, name)
        self._soxr = _soxr() if rate_in != rate_out else None
        self._reset()

    def push(self, samples: Samples) -> Samples:
        """Return the mono samples, (n,) float32, that new ``samples``, (n, channels) or mono (n,), complete.

        Raises AudioError at a NaN, an infinity or what is far beyond full scale, naming its position since the first
        sample.
        """
        samples = self.check(samples)
        self._pushed += len(samples)
        outputs = []
        while len(samples):
            taken = samples[: len(self._block) - self._filled]
            self._block[self._filled : self._filled + len(taken)] = taken
            self._filled += len(taken)
            samples = samples[len(taken) :]
            if self._filled == len(self._block):
                outputs.append(self._convert(last=False))
        return np.concatenate([np.zeros(0, np.float32), *outputs])

    def check(self, samples: Samples) -> Samples:
        """Return samples as (n, channels) float32; raises what ``push`` does, and changes nothing."""
        channels = self._block.shape[1]
        samples = np.asarray(samples, np.float32)
        if samples.ndim == 1 and channels == 1:
            samples = samples[:, None]
        if samples.ndim != 2 or samples.shape[1] != channels:
            raise UsageError(f"{self._name}: shape {samples.shape}, (n, {channels}) was announced; push that")
        check_sound(samples, self._name, self._pushed, _SCALE)
        return samples

    def finish(self) -> Samples:
        """Return the remaining samples and start afresh."""
        rest = self._convert(last=True)
        self._reset()
        return rest

    def _reset(self) -> None:
        self._pushed = self._filled = 0
        self._downmix.reset()
        if self._soxr is not None:
            self._stream = self._soxr.ResampleStream(self._rate, self._rate_out, 1, dtype="float32", quality="HQ")

    def _convert(self, *, last: bool) -> Samples:
        mono = self._downmix.mix(self._block[: self._filled])
        self._filled = 0
        if self._soxr is None:
            return mono.copy()
        samples: Samples = self._stream.resample_chunk(np.ascontiguousarray(mono), last=last)
        return samples


def _soxr() -> ModuleType:
    try:
        return import_module("soxr")
    except ImportError as error:
        raise MissingPackageError(f"soxr: {error}, resampling needs it; `pip install soxr`") from error
