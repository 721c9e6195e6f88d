"""Long speech: recordings joined so that no pause is left at which a window could end.

Works on mono float32 of one rate; knows no model. Every silence of a recording, by its own loudness, is cut to 80 ms,
as is the one at a join: less than any gate takes for an end of speech. What was said is known by place: the words of
each recording, and where it begins and ends.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import ProfileError
from edgekit.profiler.clips import Samples, speech_blocks
from edgekit.profiler.conditions import RATE_HZ, TALKERS, add_noise, read_samples
from edgekit.profiler.pacing import block_samples
from edgekit.profiler.words import Reference

LANGUAGES_OF_BABBLE = ("fr", "it", "ru")  # others' voices: the Spanish prompts are the English speaker's
_EDGE_BLOCKS = 2  # 40 ms of each silence stay after a word, and 40 ms before the next


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """A recording, samples (n,), and what is said in it."""

    name: str
    samples: Samples
    words: str


@dataclass(frozen=True, slots=True)
class Said:
    """What is said from ``start_s`` to ``end_s`` of long speech, and the name of the recording that it was."""

    name: str
    words: str
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True, eq=False)
class LongSpeech:
    """Samples (n,) at ``rate_hz``, and what is said in them: ``said`` follow each other without a gap."""

    samples: Samples
    rate_hz: int
    said: tuple[Said, ...]

    @property
    def seconds(self) -> float:
        """Length."""
        return len(self.samples) / self.rate_hz

    @property
    def words(self) -> str:
        """All that is said."""
        return " ".join(one.words for one in self.said)

    @property
    def joins(self) -> tuple[float, ...]:
        """Stream times at which a recording begins."""
        return tuple(one.start_s for one in self.said)

    def pieces(self) -> list[Samples]:
        """Return the samples (m,) of each recording, as they are here."""
        ends = [round(one.end_s * self.rate_hz) for one in self.said]
        return np.split(self.samples, ends[:-1])


def join_recordings(recordings: Iterable[Recording], rate_hz: int, seconds: float) -> LongSpeech:
    """Return recordings of one rate in a row, whole ones, until they are ``seconds`` long or longer.

    Raises ProfileError if they are shorter together.
    """
    pieces: list[Samples] = []
    said: list[Said] = []
    count = 0
    for one in recordings:
        if count >= seconds * rate_hz:
            break
        pieces.append(without_pauses(one.samples, rate_hz))
        start, count = count, count + len(pieces[-1])
        said.append(Said(one.name, one.words, start / rate_hz, count / rate_hz))
    if count < seconds * rate_hz:
        raise ProfileError(
            f"long speech: {count / rate_hz:.1f} s in {len(said)} recordings, {seconds:g} s are needed; take more"
        )
    return LongSpeech(np.concatenate(pieces), rate_hz, tuple(said))


def read_recordings(speech: Path, words: Mapping[str, Reference]) -> list[Recording]:
    """Return the 16 kHz WAV files below a folder whose words are known and scored, by name.

    Raises ProfileError where there are none.
    """
    paths = {path.relative_to(speech).with_suffix("").as_posix(): path for path in speech.rglob("*.wav")}
    known = [name for name in sorted(paths) if name in words and words[name].words and not words[name].left_out]
    if not known:
        raise ProfileError(
            f"{speech}: {len(paths)} WAV files, of none the words are known; `make prompt-data` fetches the files, "
            "profiles/data/README.md names the list of words"
        )
    return [Recording(name, read_samples(paths[name]), words[name].words) for name in known]


def with_noise(speech: LongSpeech, noise: Samples, snr_db: float) -> LongSpeech:
    """Return the same with noise (m,), repeated to its length, at a signal-to-noise ratio; see ``add_noise``."""
    return replace(speech, samples=add_noise(speech.samples, noise, snr_db))


def babble(prompts: Path, samples: int, seed: int = 0) -> Samples:
    """Return six talkers at once, (samples,), equally loud and without pauses.

    They are cut at seeded places from the 16 kHz prompts in three languages below a folder. Raises ProfileError where
    one of them is not there.
    """
    voices = [_voice(prompts / language) for language in LANGUAGES_OF_BABBLE]
    rng = np.random.default_rng(seed)
    mixed = np.zeros(samples, np.float64)
    for index in range(TALKERS):
        voice = voices[index % len(voices)]
        part = np.resize(np.roll(voice, -int(rng.integers(len(voice)))), samples).astype(np.float64)
        mixed += part / np.sqrt(np.mean(part**2))
    return np.asarray(mixed / np.sqrt(np.mean(mixed**2)), np.float32)


def without_pauses(samples: Samples, rate_hz: int) -> Samples:
    """Return speech (n,) with every silence cut to at most 80 ms, and to 40 ms at either end.

    What stays is the recording's own, of each silence its beginning and its end. Silence: ``speech_blocks``.
    """
    keep = _near(speech_blocks(samples, rate_hz))
    return samples[np.repeat(keep, block_samples(rate_hz))[: len(samples)]]


def _near(loud: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return for each block whether it is loud, or at most two blocks from one that is."""
    padded = np.pad(loud, _EDGE_BLOCKS)
    return np.asarray(np.lib.stride_tricks.sliding_window_view(padded, 2 * _EDGE_BLOCKS + 1).any(axis=1))


def _voice(folder: Path) -> Samples:
    paths: Sequence[Path] = sorted(folder.rglob("*.wav"))
    if not paths:
        raise ProfileError(f"{folder}: no WAV files there; `make prompt-data` fetches them")
    return np.concatenate([without_pauses(read_samples(path), RATE_HZ) for path in paths])
