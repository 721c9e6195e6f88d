"""Conditions: what happens to speech before it is heard, noise at a signal-to-noise ratio or a room.

Works on mono float32 at the rate of the recordings; knows no model and no words. What a clip is given is drawn by its
name: the same whatever else is measured. Recorded noise and talkers come from the folder that
profiles/data/fetch-sounds.py makes.
"""

import zlib
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import ProfileError
from edgekit.profiler.clips import Samples, speech_blocks
from edgekit.profiler.pacing import block_samples
from edgekit.runtime.audio.files import read_audio

RATE_HZ = 16_000  # of the files that profiles/data/fetch-speech.py and fetch-sounds.py write
CLEAN = "clean"
CONDITIONS = (CLEAN, "noise 10 dB", "noise 5 dB", "room 0.3 s", "room 0.6 s")
ROOMS = 8
TALKERS = 6
_PEAK = 0.99


def hear_under(condition: str, name: str, speech: Samples, sounds: Path) -> Samples:
    """Return speech (n,) of a clip's name as it is heard under one of CONDITIONS; rooms need pyroomacoustics.

    Raises ProfileError where ``sounds`` has no recordings.
    """
    if condition == CLEAN:
        return speech
    kind, amount, _ = condition.split()
    # A clip keeps its noise and its room when only their strength changes.
    rng = np.random.default_rng([zlib.crc32(name.encode()), zlib.crc32(kind.encode())])
    if kind == "room":
        responses = _rooms(float(amount))
        return add_room(speech, responses[int(rng.integers(len(responses)))])
    return add_noise(speech, _noise_for(len(speech), rng, sounds), float(amount))


def add_noise(speech: Samples, noise: Samples, snr_db: float) -> Samples:
    """Return speech (n,) with noise (m,), repeated to its length, at a signal-to-noise ratio; scaled down if it clips.

    The ratio is of mean powers: of the speech's 20 ms blocks within 30 dB of the loudest, and of the whole noise.
    """
    spread = np.resize(noise, len(speech)).astype(np.float64)
    active = np.repeat(speech_blocks(speech, RATE_HZ), block_samples(RATE_HZ))[: len(speech)]
    signal_power, noise_power = float(np.mean(speech[active].astype(np.float64) ** 2)), float(np.mean(spread**2))
    if noise_power == 0:
        raise ProfileError("noise: nothing but silence where it is mixed in; choose another recording or place")
    return _unclipped(speech + spread * np.sqrt(signal_power / noise_power) * 10 ** (-snr_db / 20))


def add_room(speech: Samples, response: NDArray[np.float64]) -> Samples:
    """Return speech (n,) heard through a room's impulse response (m,), n + m - 1 - delay samples, as loud as before.

    The way from mouth to microphone is cut off, so speech begins where it began.
    """
    direct = response[int(np.abs(response).argmax()) :]
    length = len(speech) + len(direct) - 1
    size = 1 << (length - 1).bit_length()
    heard = np.fft.irfft(np.fft.rfft(speech, size) * np.fft.rfft(direct, size), size)[:length]
    loudness = np.sqrt(np.mean(speech.astype(np.float64) ** 2) * len(speech) / max(float(np.sum(heard**2)), 1e-12))
    return _unclipped(heard * loudness)


def pink_noise(samples: int, rng: np.random.Generator) -> Samples:
    """Return pink noise (samples,): power falls with 1/f, unit mean power."""
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    spectrum[1:] /= np.sqrt(np.arange(1, len(spectrum)))
    spectrum[0] = 0
    noise = np.fft.irfft(spectrum, samples)
    return np.asarray(noise / np.sqrt(np.mean(noise**2)), np.float32)


def read_samples(path: Path) -> Samples:
    """Return the samples (n,) of a 16 kHz mono file; raises ProfileError for another."""
    audio = read_audio(path)
    if audio.sample_rate_hz != RATE_HZ or (audio.samples.ndim == 2 and audio.samples.shape[1] != 1):
        raise ProfileError(f"{path}: not 16 kHz mono; fetch it again")
    return np.ascontiguousarray(audio.samples.reshape(-1), np.float32)


def _noise_for(length: int, rng: np.random.Generator, sounds: Path) -> Samples:
    """Return noise of a kind that the generator draws."""
    kind = int(rng.integers(3))
    if kind == 0:
        return pink_noise(length, rng)
    if kind == 1:
        talkers = _talker_recordings(sounds)
        parts = [_cut(talkers[index % len(talkers)], length, rng) for index in range(TALKERS)]
        loud = [part / max(float(np.sqrt(np.mean(part**2))), 1e-6) for part in parts]
        return np.asarray(np.sum(loud, axis=0), np.float32)
    recordings = _noise_recordings(sounds)
    return _cut(recordings[int(rng.integers(len(recordings)))], length, rng)


def _cut(sound: Samples, length: int, rng: np.random.Generator) -> Samples:
    """Return ``length`` samples from a drawn place on, from the beginning again where the sound ends."""
    return np.resize(np.roll(sound, -int(rng.integers(len(sound)))), length)


@lru_cache(maxsize=1)
def _noise_recordings(sounds: Path) -> list[Samples]:
    """Return the held-out recorded sounds of two seconds and more that are never silent for long."""
    paths = sorted(path for path in (sounds / "held-out").rglob("*.wav") if not path.name.startswith("generated__"))
    if not paths:
        raise ProfileError(f"{sounds}: no sounds there; python profiles/data/fetch-sounds.py fetches them")
    found = [read_samples(path) for path in paths]
    return [sound for sound in found if len(sound) >= 2 * RATE_HZ and _loudness_of_quietest_second(sound) > 1e-3]


def _loudness_of_quietest_second(sound: Samples) -> float:
    """Return the root mean square of the quietest whole second."""
    seconds = sound[: len(sound) // RATE_HZ * RATE_HZ].reshape(-1, RATE_HZ)
    return float(np.sqrt((seconds.astype(np.float64) ** 2).mean(axis=1)).min())


@lru_cache(maxsize=1)
def _talker_recordings(sounds: Path) -> list[Samples]:
    """Return the recordings that babble is made of, one for each language."""
    paths = sorted((sounds / "talkers").glob("*.wav"))
    if not paths:
        raise ProfileError(
            f"{sounds / 'talkers'}: no recordings there; python profiles/data/fetch-sounds.py fetches them"
        )
    return [read_samples(path) for path in paths]


@lru_cache(maxsize=2)
def _rooms(reverberation_s: float) -> list[NDArray[np.float64]]:
    """Return the impulse responses (n,) of seeded rooms with a reverberation time."""
    import pyroomacoustics  # type: ignore[import-not-found]

    rng = np.random.default_rng(round(reverberation_s * 1000))
    responses: list[NDArray[np.float64]] = []
    while len(responses) < ROOMS:
        size = rng.uniform((3.0, 3.0, 2.4), (6.0, 5.0, 3.0))
        mouth, microphone = rng.uniform(0.5, size - 0.5), rng.uniform(0.5, size - 0.5)
        if np.linalg.norm(mouth - microphone) < 1.0:
            continue
        absorption, order = pyroomacoustics.inverse_sabine(reverberation_s, size)
        room = pyroomacoustics.ShoeBox(
            size, fs=RATE_HZ, materials=pyroomacoustics.Material(absorption), max_order=order
        )
        room.add_source(mouth)
        room.add_microphone(microphone)
        room.compute_rir()
        responses.append(np.asarray(room.rir[0][0], np.float64))
    return responses


def _unclipped(sound: NDArray[np.float64]) -> Samples:
    peak = float(np.abs(sound).max(initial=0.0))
    return np.asarray(sound * min(1.0, _PEAK / peak) if peak else sound, np.float32)
