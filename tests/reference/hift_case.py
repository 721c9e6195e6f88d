"""A tiny HiFT of random weights, as a hift.pt holds it, and mel to make sound of. Needs numpy alone.

Weights come from integer draws, so the same come out everywhere. They are scaled for what a trained vocoder does:
pitches from none to some 300 Hz, magnitudes and samples that are seldom at their limits.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekit.exporter.families.step_audio.hift import HiFT

Array = NDArray[np.float32]

SMALL = HiFT(mel_bins=80, width=32, f0_width=24)
SEED = 5
GOLDEN = Path(__file__).parents[1] / "goldens" / "hift.npz"
FORMS = ("pair", "parametrized")
SHORTEST, WHOLE = 1, 11  # mel frames of the golden's whole cases
# Of the golden's streamed case, the last ends the reply; and the same as the published code could be given them: it
# cannot begin with fewer than eight frames.
PIECES = (3, 0, 7, 1, 9, 0, 2)
PIECES_PUBLISHED = (10, 1, 9, 2)
NOISE_SEED = 3


class Arrays:
    """Arrays by name as Tensors."""

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        self._arrays = arrays

    def names(self) -> frozenset[str]:
        """Return the name of every tensor."""
        return frozenset(self._arrays)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of one tensor."""
        return self._arrays[name].shape

    def rows(self, name: str, start: int, stop: int) -> Array:
        """Return rows [start, stop) of one tensor."""
        return self._arrays[name][start:stop]


def stored(size: HiFT = SMALL, *, form: str = "pair", seed: int = SEED) -> dict[str, Array]:
    """Return the tensors of a hift.pt by their published names; weight norm in one of FORMS."""
    draws = np.random.default_rng(seed)

    def uniform(shape: tuple[int, ...], low: float, high: float) -> Array:
        steps = draws.integers(0, 1 << 16, shape).astype(np.float32) / np.float32(1 << 16)
        return steps * np.float32(high - low) + np.float32(low)

    found: dict[str, Array] = {}
    for name, shape in size.expected().items():
        own = "generator." + name.removeprefix("hift.")
        if own.endswith(".bias"):
            found[own] = uniform(shape, -0.2, 0.2)
        elif own.endswith(".alpha"):
            found[own] = uniform(shape, 0.4, 2.0)
        elif any(part in own for part in ("source_downs", "l_linear", "classifier")):
            found[own] = uniform(shape, -1.0, 1.0) / np.float32(np.prod(shape[1:]) ** 0.5)
        else:
            length, direction = _names(own, form)
            found[length] = uniform((shape[0], *(1 for _ in shape[1:])), 0.4, 1.0)
            found[direction] = uniform(shape, -1.0, 1.0)
    found["generator.f0_predictor.classifier.weight"] *= np.float32(900.0)
    found["generator.f0_predictor.classifier.bias"][:] = 40.0
    found["generator.m_source.l_linear.weight"] *= np.float32(8.0)
    found["generator.conv_post.bias"][:9] -= np.float32(0.5)
    return found


def mel(frames: int, seed: int = SEED) -> Array:
    """Return mel (frames, bins) between -4 and 4; the first frames of more are the same."""
    draws = np.random.default_rng([seed, 1]).integers(-128, 129, (frames, SMALL.mel_bins))
    return draws.astype(np.float32) / np.float32(32.0)


def noise(samples: int, seed: int = NOISE_SEED) -> Array:
    """Return noise (samples, harmonics), rounded so that every numpy makes the same."""
    draws = np.random.default_rng([seed, 2]).integers(-300, 301, (samples, 9))
    return draws.astype(np.float32) / np.float32(128.0)


def digest(arrays: Mapping[str, Array]) -> str:
    """Return a hash of names and numbers."""
    total = hashlib.sha256()
    for name in sorted(arrays):
        total.update(name.encode() + arrays[name].tobytes())
    return total.hexdigest()


def _names(weight: str, form: str) -> tuple[str, str]:
    base = weight.removesuffix("weight")
    if form == "pair":
        return base + "weight_g", base + "weight_v"
    return base + "parametrizations.weight.original0", base + "parametrizations.weight.original1"
