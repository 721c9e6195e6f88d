"""HiFT written out in torch, from its formulas: what the exported vocoder is compared with.

Computes in float64 unless told otherwise, so that a difference is the graph's own rounding. Names are those of a
published hift.pt.
"""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as nn

RATES, KERNELS = (8, 5, 3), (16, 11, 7)
N_FFT, HOP, FRAME = 16, 4, 480
HELD = 8 * FRAME


class HiFTTwin:
    """The vocoder of a state dict; sound and mel have a batch axis of 1."""

    def __init__(self, stored: Mapping[str, NDArray[np.float32]], dtype: torch.dtype = torch.float64) -> None:
        self.dtype = dtype
        plain = {name.removeprefix("generator."): torch.tensor(array).to(dtype) for name, array in stored.items()}
        self.at = {name: value for name, value in plain.items() if not name.endswith(_LENGTHS + _DIRECTIONS)}
        for length, direction in zip(_LENGTHS, _DIRECTIONS, strict=True):
            for name, value in plain.items():
                if name.endswith(direction):
                    base = name.removesuffix(direction)
                    norm = torch.linalg.vector_norm(value.flatten(1), dim=1).reshape(-1, 1, 1)
                    self.at[base + "weight"] = value / norm * plain[base + length]
        self.window = torch.hann_window(N_FFT, periodic=True, dtype=torch.float64).to(dtype)

    def f0(self, mel: torch.Tensor) -> torch.Tensor:
        """Return pitches (1, T) of mel (1, bins, T)."""
        for place in (0, 2, 4, 6, 8):
            mel = nn.elu(self._conv(mel, f"f0_predictor.condnet.{place}", padding=1))
        return self._linear(mel.mT, "f0_predictor.classifier").squeeze(-1).abs()

    def source(self, f0: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Return the source (1, n) of pitches (1, T) and noise (n, 9): a sine and its overtones, joined by a linear."""
        every = nn.interpolate(f0[:, None], scale_factor=float(FRAME), mode="nearest")  # (1, 1, n)
        turns = every * torch.arange(1, 10, dtype=self.dtype).reshape(1, -1, 1) / 24_000 % 1
        summed = nn.interpolate(turns, scale_factor=1 / FRAME, mode="linear").cumsum(2)
        angle = nn.interpolate(summed * (2 * torch.pi * FRAME), scale_factor=float(FRAME), mode="linear")
        voiced = (every > 10).to(self.dtype)
        hiss = voiced * 0.003 + (1 - voiced) * (0.1 / 3)
        mixed = angle.sin() * 0.1 * voiced + hiss * noise.to(self.dtype).T[None]
        return self._linear(mixed.mT, "m_source.l_linear").squeeze(-1).tanh()

    def stft(self, sound: torch.Tensor) -> torch.Tensor:
        """Return the spectrum (1, 18, n / 4 + 1) of sound (1, n): real parts, then imaginary ones."""
        spectrum = torch.stft(sound, N_FFT, HOP, window=self.window, return_complex=True)
        return torch.cat([spectrum.real, spectrum.imag], 1)

    def istft(self, magnitude: torch.Tensor, phase: torch.Tensor) -> torch.Tensor:
        """Return sound (1, n) of magnitudes, cut at 100, and phases (1, 9, n / 4 + 1)."""
        return torch.istft(torch.polar(magnitude.clamp(max=100.0), phase), N_FFT, HOP, window=self.window)

    def decode(self, mel: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        """Return sound (1, n) of mel (1, bins, T) and source (1, n)."""
        spectrum, x = self.stft(source), self._conv(mel, "conv_pre", padding=3)
        for level, (rate, kernel) in enumerate(zip(RATES, KERNELS, strict=True)):
            up = f"ups.{level}."
            x = nn.conv_transpose1d(
                nn.leaky_relu(x, 0.1), self.at[up + "weight"], self.at[up + "bias"], rate, (kernel - rate) // 2
            )
            if level == 2:
                x = torch.cat([x[..., 1:2], x], -1)
            down = int(np.prod(RATES[level + 1 :]))
            heard = self._conv(spectrum, f"source_downs.{level}", padding=down // 2, stride=down)
            x = x + self._block(heard, f"source_resblocks.{level}")
            x = sum(self._block(x, f"resblocks.{3 * level + index}") for index in range(3)) / 3
        x = self._conv(nn.leaky_relu(x, 0.01), "conv_post", padding=3)
        return self.istft(x[:, :9].exp(), x[:, 9:].sin()).clamp(-0.99, 0.99)

    def speak(
        self, mel: NDArray[np.float32], noise: NDArray[np.float32], kept: NDArray[np.float32] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return samples and source (n,) of mel (T, bins), noise (n, 9) and perhaps a ``kept`` beginning."""
        with torch.inference_mode():
            x = torch.tensor(mel).to(self.dtype).T[None]
            source = self.source(self.f0(x), torch.tensor(noise))
            if kept is not None and kept.size:
                source[0, : kept.size] = torch.tensor(kept).to(self.dtype)
            samples = self.decode(x, source)
        return samples[0].float().numpy(), source[0].float().numpy()

    def _block(self, x: torch.Tensor, name: str) -> torch.Tensor:
        for step, dilation in enumerate((1, 3, 5)):
            y = self._snake(x, f"{name}.activations1.{step}.alpha")
            y = self._conv(y, f"{name}.convs1.{step}", padding="same", dilation=dilation)
            y = self._snake(y, f"{name}.activations2.{step}.alpha")
            x = x + self._conv(y, f"{name}.convs2.{step}", padding="same")
        return x

    def _snake(self, x: torch.Tensor, name: str) -> torch.Tensor:
        alpha = self.at[name][:, None]
        return x + (alpha * x).sin().square() / (alpha + 1e-9)

    def _conv(self, x: torch.Tensor, name: str, **how: object) -> torch.Tensor:
        return nn.conv1d(x, self.at[f"{name}.weight"], self.at[f"{name}.bias"], **how)  # type: ignore[arg-type]

    def _linear(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return nn.linear(x, self.at[f"{name}.weight"], self.at[f"{name}.bias"])


class StreamTwin:
    """A reply made sound piece by piece as the published code does it; ``noise`` gives what a call needs, (n, 9)."""

    def __init__(self, twin: HiFTTwin, noise: Callable[[int, int], NDArray[np.float32]]) -> None:
        self._twin, self._noise = twin, noise
        self._mel: NDArray[np.float32] | None = None
        self._source = self._speech = np.zeros(0, np.float32)
        self._window = np.hamming(2 * HELD)

    def push(self, mel: NDArray[np.float32], *, last: bool) -> NDArray[np.float32]:
        """Return the samples that mel (T, bins) completes: all but the last eight frames', unless it is the last."""
        joined = mel if self._mel is None else np.concatenate([self._mel, mel])
        samples, source = self._twin.speak(joined, self._noise(len(joined) * FRAME, len(self._source)), self._source)
        if len(self._speech):
            samples[:HELD] = samples[:HELD] * self._window[:HELD] + self._speech[-HELD:] * self._window[HELD:]
        self._mel, self._source, self._speech = joined[-8:], source[-HELD:], samples[-HELD:].copy()
        return np.clip(samples if last else samples[:-HELD], -1.0, 1.0)


_LENGTHS = ("weight_g", "parametrizations.weight.original0")
_DIRECTIONS = ("weight_v", "parametrizations.weight.original1")
