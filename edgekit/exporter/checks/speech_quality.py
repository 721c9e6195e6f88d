"""What a quantised bundle says, against what its float twin says: the quality gate of bundles that speak.

The twin speaks its own answer to a check clip, the likeliest code each time. The bundle is fed the same codes: where
would it have taken others, and how far is its sound from the twin's? Knows codes and samples, no graphs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.runtime.hear.features import mel_filters
from edgekit.runtime.judge.probe import Answer, Heard, speak
from edgekit.runtime.model import Model
from edgekit.runtime.speak import Spoken

Float = NDArray[np.float32]
Double = NDArray[np.float64]
MEL_BINS = 80
WINDOW_MS, HOP_MS = 40, 10
RANGE_DB = 80.0  # so far below the twin's loudest band nothing counts
_QUIETEST = 1e-10  # power of a band: silence has a logarithm too
_NATURAL_DB = 20 / np.log(10)  # decibels of a natural logarithm of magnitudes


@dataclass(frozen=True, slots=True)
class Pair:
    """One clip: what a bundle says where it is fed the twin's codes, and what the twin says."""

    ours: Spoken
    theirs: Spoken


def speak_both(candidate: Model, twin: Model, heard: tuple[Heard, Heard], expected: Answer) -> Pair:
    """Return what both say to what each heard; ``expected``: the twin's answer."""
    theirs = speak(twin, heard[1], expected.tokens)
    return Pair(speak(candidate, heard[0], expected.tokens, forced=theirs), theirs)


def compare_speech(pairs: Sequence[Pair], rate_hz: int) -> tuple[dict[str, float], dict[str, Any]]:
    """Return the values that have limits, ``code_mismatch`` and ``mel_error_db``, and what they are made of.

    ``mel_error_db`` is the sound's, or, where a vocoder makes sound of mel frames, theirs: the vocoder is the same
    float graph in both, and the phase of its tones adds up every rounding. A value is absent where there was nothing to
    compare: no code was chosen, or no sound was made.
    """
    measured: dict[str, float] = {}
    found: dict[str, Any] = {"frames": sum(len(pair.theirs.codes) for pair in pairs)}
    books = code_mismatches(pairs)
    if any(book.size for book in books):
        measured["code_mismatch"] = float(np.concatenate(books).mean())
        found["code_mismatch"] = {str(index): float(book.mean()) for index, book in enumerate(books) if book.size}
    sounds = [sound_distance_db(pair.ours.samples, pair.theirs.samples, rate_hz) for pair in pairs]
    mels = [mel_distance_db(pair.ours.mel, pair.theirs.mel) for pair in pairs]
    errors = {"mel": root_mean_square(mels), "sound": root_mean_square(sounds)}
    found["mel_error_db"] = {name: error for name, error in errors.items() if error is not None}
    for error in found["mel_error_db"].values():
        if np.isnan(error) or "mel_error_db" not in measured:
            measured["mel_error_db"] = error
    return measured, found


def code_mismatches(pairs: Sequence[Pair]) -> list[NDArray[np.bool_]]:
    """Return for each codebook whether the codes differ that both would have taken after the same ones before."""
    books = max((len(pair.theirs.picked) for pair in pairs), default=0)
    return [
        np.concatenate([pair.ours.picked[book] != pair.theirs.picked[book] for pair in pairs]) for book in range(books)
    ]


def sound_distance_db(ours: Float, theirs: Float, rate_hz: int) -> Double:
    """Return the differences in decibels, (frames, MEL_BINS), of the log-mel of two sounds (n,) at ``rate_hz``.

    Bands of a Hann window of WINDOW_MS every HOP_MS; what is more than RANGE_DB below the loudest of ``theirs`` counts
    as just that, in both. The shorter sound is followed by silence.
    """
    count = max(len(ours), len(theirs))
    one, other = (_mel_db(np.pad(sound, (0, count - len(sound))), rate_hz) for sound in (ours, theirs))
    if not other.size:
        return other
    floor = other.max() - RANGE_DB
    difference: Double = np.maximum(one, floor) - np.maximum(other, floor)
    return difference


def mel_distance_db(ours: Float, theirs: Float) -> Double:
    """Return the differences in decibels of mel frames (n, bins) that are natural logarithms of magnitudes."""
    difference: Double = _NATURAL_DB * (ours.astype(np.float64) - theirs)
    return difference


def root_mean_square(parts: Sequence[Double]) -> float | None:
    """Return that of all numbers of all parts, None where there are none."""
    count = sum(part.size for part in parts)
    return float(np.sqrt(sum(float(np.square(part).sum()) for part in parts) / count)) if count else None


def _mel_db(samples: Float, rate_hz: int) -> Double:
    """Return mel power in decibels (frames, MEL_BINS), of a window around every HOP_MS; silence is all around."""
    n_fft, hop = rate_hz * WINDOW_MS // 1000, rate_hz * HOP_MS // 1000
    if not len(samples):
        return np.zeros((0, MEL_BINS))
    padded = np.pad(samples.astype(np.float64), (n_fft // 2, n_fft // 2 - 1))
    frames = np.lib.stride_tricks.sliding_window_view(padded, n_fft)[::hop]
    window = 0.5 - 0.5 * np.cos(np.arange(n_fft) * (2 * np.pi / n_fft))
    power = np.abs(np.fft.rfft(frames * window)) ** 2
    mel: Double = 10 * np.log10(
        np.maximum(power @ mel_filters(MEL_BINS, n_fft, rate_hz).astype(np.float64).T, _QUIETEST)
    )
    return mel
