"""Log-mel features in torch: the teacher's full window and the student's streaming grid.

Knows Whisper's front end. Source: Whisper, audio.py; the streaming form takes the maximum of what was heard so far.
"""

import functools

import numpy as np
import torch
from torch import Tensor
from transformers import WhisperFeatureExtractor

RATE_HZ, N_FFT, HOP = 16_000, 400, 160
WINDOW = 3000  # mel frames of 10 ms: 30 s
DYNAMIC_RANGE = 8.0  # log10 units


@functools.cache
def mel_filters() -> Tensor:
    """Return Whisper's 80 filters, (80, 201)."""
    return torch.from_numpy(WhisperFeatureExtractor(feature_size=80).mel_filters.T.astype(np.float32))


def log_power(samples: Tensor, frames: int) -> Tensor:
    """Return log10 of the mel power, (80, frames), of samples (n,); silence follows them, a mirror goes before."""
    padded = torch.zeros(frames * HOP + N_FFT // 2)
    padded[: len(samples)] = samples
    padded = torch.cat([padded[1 : N_FFT // 2 + 1].flip(0), padded])
    spectrum = torch.stft(padded, N_FFT, HOP, window=torch.hann_window(N_FFT), center=False, return_complex=True)
    return (mel_filters() @ spectrum[:, :frames].abs() ** 2).clamp_min(1e-10).log10()


def whole_window(samples: Tensor) -> Tensor:
    """Return the features that Whisper computes, (80, 3000)."""
    log = log_power(samples, WINDOW)
    return (torch.maximum(log, log.max() - DYNAMIC_RANGE) + 4) / 4


def streaming(samples: Tensor, chunk: int, closing: int, fill: int | None = None) -> Tensor:
    """Return features (80, frames) of samples, ``closing`` frames of silence, and filling to a multiple of 2 * fill.

    chunk, fill: positions of 20 ms; fill is a chunk if None. The floor follows the maximum of the frames up to and with
    the first of the next chunk.
    """
    step, unit = 2 * chunk, 2 * (fill or chunk)
    frames = max(1, -(-(-(-len(samples) // HOP) + closing) // unit)) * unit
    log = log_power(samples[: frames * HOP], frames)
    groups = (torch.arange(frames) - 1).clamp_min(0) // step
    highest = torch.stack([part.max() for part in log[:, 1:].split(step, dim=1)])
    highest[0] = torch.maximum(highest[0], log[:, 0].max())
    return (torch.maximum(log, highest.cummax(0).values[groups] - DYNAMIC_RANGE) + 4) / 4
