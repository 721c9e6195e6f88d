"""What happens to a spoken clip before the student hears it: rooms, microphones, noise, other voices.

Knows sound only. The length and the timing of a clip never change, so the teacher's frames still fit.
"""

import random
from pathlib import Path

import numpy as np
import soundfile

RATE_HZ = 16_000
Sound = np.ndarray


class Noises:
    """Recordings without speech from a folder, and generated noise."""

    def __init__(self, folder: Path) -> None:
        files = sorted(folder.rglob("*.wav"))
        self.recordings = [soundfile.read(path, dtype="int16")[0] for path in files]

    def draw(self, samples: int, pick: random.Random, rng: np.random.Generator) -> Sound:
        """Return noise (samples,) float32 of mean square 1, or silence."""
        if self.recordings and pick.random() < 0.6:
            sound = self.recorded(samples, pick)
        else:
            sound = coloured(samples, pick.uniform(-0.5, 2.2), rng)
            if pick.random() < 0.2:
                sound = sound + 2 * hum(samples, pick)
        power = float(np.mean(sound**2))
        return sound / np.sqrt(power) if power > 1e-12 else sound

    def recorded(self, samples: int, pick: random.Random) -> Sound:
        """Return (samples,) float32 of recordings one after another, some silence between short ones."""
        out, place = np.zeros(samples, np.float32), 0
        while place < samples:
            recording = pick.choice(self.recordings)
            begin = pick.randrange(max(1, len(recording) - RATE_HZ))
            part = recording[begin : begin + samples - place].astype(np.float32) / 32768
            peak = float(np.abs(part).max()) if len(part) else 0.0
            out[place : place + len(part)] = part / max(peak, 0.02)
            place += len(part) + int(pick.random() ** 2 * RATE_HZ)
        return out


def coloured(samples: int, slope: float, rng: np.random.Generator) -> Sound:
    """Return noise whose power falls with frequency to the power ``slope`` (0 white, 1 pink, 2 brown)."""
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    frequency = np.fft.rfftfreq(samples, 1 / RATE_HZ)
    return np.fft.irfft(spectrum / np.maximum(frequency, 20) ** (slope / 2), samples).astype(np.float32)


def hum(samples: int, pick: random.Random) -> Sound:
    """Return mains hum with its first overtones."""
    time, base = np.arange(samples) / RATE_HZ, pick.choice((50.0, 60.0))
    tones = [np.sin(2 * np.pi * base * k * time + pick.uniform(0, 6)) * pick.random() / k for k in range(1, 8)]
    return np.sum(tones, axis=0).astype(np.float32)


def room(sound: Sound, pick: random.Random, rng: np.random.Generator) -> Sound:
    """Return the sound in a room: direct path, then noise that decays by 60 dB in 0.15 to 0.8 s."""
    decay_s = pick.uniform(0.15, 0.8)
    length = int(decay_s * RATE_HZ)
    tail = rng.standard_normal(length) * 10 ** (-3 * np.arange(length) / length)
    delay = int(pick.uniform(0.001, 0.02) * RATE_HZ)
    response = np.concatenate((np.zeros(delay), tail / np.sqrt(np.sum(tail**2)))) * 10 ** (-pick.uniform(-2, 12) / 20)
    response[0] = 1.0
    size = 1 << (len(sound) + len(response) - 2).bit_length()
    wet = np.fft.irfft(np.fft.rfft(sound, size) * np.fft.rfft(response, size), size)[: len(sound)]
    return wet.astype(np.float32)


def microphone(sound: Sound, pick: random.Random) -> Sound:
    """Return the sound through a random smooth frequency response of up to 9 dB, sometimes a telephone's band."""
    spectrum = np.fft.rfft(sound)
    frequency = np.fft.rfftfreq(len(sound), 1 / RATE_HZ)
    nodes = np.array([0, 150, 500, 1500, 3000, 5000, 8000])
    gain = np.interp(frequency, nodes, [pick.uniform(-9, 9) for _ in nodes])
    if pick.random() < 0.12:
        gain -= 40 * ((frequency < pick.uniform(150, 350)) | (frequency > pick.uniform(3200, 4000)))
    elif pick.random() < 0.2:
        gain -= 40 * (frequency > pick.uniform(4500, 7500))
    return np.fft.irfft(spectrum * 10 ** (gain / 20), len(sound)).astype(np.float32)


def vary(sound: Sound, others: list[Sound], noises: Noises, pick: random.Random, rng: np.random.Generator) -> Sound:
    """Return the clip as it might really be recorded; ``others`` are clips of other voices for babble."""
    level = float(np.sqrt(np.mean(sound**2))) + 1e-6
    if pick.random() < 0.5:
        sound = microphone(sound, pick)
    if pick.random() < 0.25:
        sound = room(sound, pick, rng)
    if pick.random() < 0.5:
        ratio_db = pick.uniform(3, 35)
        if pick.random() < 0.15:
            noise = np.zeros(len(sound), np.float32)
            for other in others[: pick.randint(3, 8)]:
                noise += np.resize(np.roll(other, pick.randrange(len(other))), len(sound))
            noise /= np.sqrt(np.mean(noise**2)) + 1e-6
            ratio_db += 4
        else:
            noise = noises.draw(len(sound), pick, rng)
        sound = sound + noise * level * 10 ** (-ratio_db / 20)
    else:
        sound = sound + rng.standard_normal(len(sound)).astype(np.float32) * 10 ** (-pick.uniform(55, 95) / 20)
    sound = sound * 10 ** (pick.uniform(-24, 3) / 20)
    peak = float(np.abs(sound).max())
    return (sound / max(1.0, peak)).astype(np.float32)


def without_speech(noises: Noises, pick: random.Random, rng: np.random.Generator) -> Sound:
    """Return 0.5 to 16 s of noise, music, effects or silence at any level."""
    samples = int(pick.uniform(0.5, 4) ** 2 * RATE_HZ)
    if pick.random() < 0.1:
        return np.zeros(samples, np.float32)
    sound = noises.draw(samples, pick, rng)
    if pick.random() < 0.3:
        sound = microphone(sound, pick)
    peak = float(np.abs(sound).max()) + 1e-9
    return (sound / peak * 10 ** (-pick.uniform(0, 60) / 20)).astype(np.float32)
