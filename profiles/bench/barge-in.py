#!/usr/bin/env python3
"""Measure whether a loudspeaker's echo opens the gate, and how soon somebody who talks over it does.

    python profiles/data/fetch-speech.py
    python profiles/bench/barge-in.py --bundle bundles/edgekit-tiny-int8

Prompts of some speakers are played at 24 kHz through simulated rooms into a microphone of 16 kHz, its clock 50
millionths beside the loudspeaker's; prompts of other speakers are spoken over them. All of it goes through the code of
`edgekit listen --speak`: the loudspeaker's callback, the canceller, the bundle's gate. Beside it the same without the
canceller's package, and without any knowledge of what is played. Writes JSON and Markdown under profiles/<device>/.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import soxr
from numpy.typing import NDArray

import edgekit
from edgekit.bundle import open_bundle
from edgekit.bundle.manifest import GateSettings
from edgekit.profiler.comparison import Findings, make_comparison, save_comparison
from edgekit.profiler.words import count_words, words_of
from edgekit.runtime.audio.echo.canceller import EchoCanceller
from edgekit.runtime.audio.echo.reference import Reference
from edgekit.runtime.audio.files import read_mono
from edgekit.runtime.audio.ring import Ring
from edgekit.runtime.hear.gate import Closed, Gate, Opened, Played

ROOT = Path(__file__).resolve().parents[2]
PLAYED_HZ, HEARD_HZ = 24_000, 16_000
ECHO_DB, NOISE_DBFS, DRIFT = -6.0, -60.0, 50e-6
SILENT_S = 60.0  # before the first answer, in which the clocks are compared
LEVEL = 0.08  # RMS of what is played, while it sounds
TALK = 6 * HEARD_HZ  # where a prompt interrupts whose words are counted
ROOMS = ((20, 0.2), (60, 0.4), (120, 0.3), (180, 0.6), (250, 0.5))  # delay in ms, RT60 in s
NOTICED_S = 0.5
BLOCKS = (160, 441, 1024, 320, 57)  # the microphone's, in turn
FALSE, NOTICED, AFTER, LEFT, COST = "False openings", "Noticed", "Noticed after", "Echo left", "Cost"
CHANGED, CANCELLED, UNAWARE = "Words changed", "pywebrtc-audio and its gate", "neither"
SILENT_AFTER_S = 0.035  # a block of ours and what the loudspeaker's device holds
Samples = NDArray[np.float32]


@dataclass(frozen=True)
class Scene:
    """What is played (24 kHz), what the microphone hears of it and of others (16 kHz), and where these talk."""

    played: Samples
    heard: Samples
    talks: tuple[tuple[int, int], ...]
    room: str


@dataclass(frozen=True)
class Heard:
    """What reached the gate, when it opened and closed (samples), and the canceller's time."""

    left: Samples
    openings: list[tuple[int, int]]
    seconds: float


Hears = Callable[[Scene, GateSettings], Heard]


def main() -> None:
    """Measure, write and say where."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, required=True, help="whose gate is meant")
    parser.add_argument("--speech", type=Path, nargs="+", default=[ROOT / "data/prompts", ROOT / "data/short-prompts"])
    parser.add_argument("--play", nargs="+", default=["en", "fr"], help="languages, each of another speaker, played")
    parser.add_argument("--talk", nargs="+", default=["es", "it", "ru"], help="languages that talk over them")
    parser.add_argument("--words", default="en", help="language whose prompts interrupt, to be written down")
    parser.add_argument("--prompts", type=int, default=43, help="at most so many of them")
    parser.add_argument("--seconds", type=float, default=130.0, help="of playback in each of five rooms")
    parser.add_argument("--seed", type=int, default=3, help="the constants were chosen with 1 and 2")
    parser.add_argument("--output", type=Path, default=ROOT / "profiles")
    args = parser.parse_args()

    settings = open_bundle(args.bundle, check_hashes=False).manifest.gate
    played, talking = read(args.speech, args.play), read(args.speech, args.talk)
    findings, details = Findings(), {}
    for level in (None, 6.0, 0.0):
        scenes = [
            scene(
                played, talking, room, level, seconds=args.seconds, seed=args.seed + 100 * (level is not None) + index
            )
            for index, room in enumerate(ROOMS)
        ]
        for name, hears in SUBJECTS.items():
            details[f"{name}, {level}"] = measure(findings, name, hears, scenes=scenes, level=level, settings=settings)
    model = edgekit.load(args.bundle)
    count_words_changed(findings, model, read(args.speech[:1], [args.words])[: args.prompts], played, args.seed)
    comparison = make_comparison(
        title="A loudspeaker beside the microphone",
        question="Does the echo of what is played open the gate, and is somebody noticed who talks over it?",
        settings={
            "Playback": f"prompts of {len(args.play)} speakers, {args.seconds:.0f} s in each of {len(ROOMS)} rooms "
            f"after {SILENT_S:.0f} s of silence, the canceller new in each; echo at {ECHO_DB:.0f} dB, delays "
            f"{ROOMS[0][0]} to {ROOMS[-1][0]} ms, RT60 0.2 to 0.6 s, noise at {NOISE_DBFS:.0f} dBFS, clocks "
            f"{DRIFT * 1e6:.0f} ppm apart",
            "Talking": f"prompts of {len(args.talk)} other speakers, at most 3 s of each, at 6 and 0 dB against the "
            "echo (RMS of what is within 30 dB of the loudest 10 ms, both)",
        },
        figures=findings.figures(),
        ratios=[],
        definitions={
            FALSE: "Openings of the gate that no talking explains, in the whole playback.",
            NOTICED: f"Utterances that open the gate within {NOTICED_S:.1f} s of their first sample within 30 dB of "
            "their loudest 10 ms; the time of the sound, without the work.",
            AFTER: "From that sample to the opening, of those that open it at all.",
            LEFT: "Energy that the gate hears / that the microphone hears, from 5 s of playback on, noise included.",
            CHANGED: "Substitutions, insertions and deletions in what the bundle hears of prompts spoken over playback "
            f"at 6 dB against its echo, which stops {SILENT_AFTER_S * 1000:.0f} ms after the gate with the canceller "
            "opens, against what it hears of the prompt alone. `neither`: the microphone's sound, stopped as soon.",
            COST: "Processor time of the canceller (and what aligns both) / time of the sound, while something is "
            "played.",
        },
        packages=["pywebrtc-audio"],
        notes=[],
        details=details,
    )
    print(save_comparison(comparison, args.output, f"{args.bundle.name.rsplit('-int8', 1)[0]}-barge-in"))


def measure(
    findings: Findings, name: str, hears: Hears, *, scenes: list[Scene], level: float | None, settings: GateSettings
) -> dict[str, object]:
    """Add what a subject does in some scenes; return it room by room."""
    false, seconds, delays, rooms = 0, 0.0, [], {}
    for one in scenes:
        heard = hears(one, settings)
        noticed, wrong = judged(heard.openings, one.talks)
        false += len(wrong)
        seconds += len(one.heard) / HEARD_HZ - SILENT_S
        delays += noticed
        rooms[one.room] = {"false_at_s": wrong, "noticed_after_s": noticed}
        if level is None:
            tail = round((SILENT_S + 5) * HEARD_HZ)
            findings.add(
                LEFT, name, "dB", 10 * np.log10(np.mean(heard.left[tail:] ** 2) / np.mean(one.heard[tail:] ** 2))
            )
            findings.add(COST, name, "share of a core", heard.seconds / (len(one.heard) / HEARD_HZ - SILENT_S))
    where = "echo alone" if level is None else f"{level:+.0f} dB"
    findings.add(f"{FALSE}, {where}, {seconds / 60:.1f} minutes", name, "openings", false)
    if level is not None:
        share = np.mean([delay is not None and delay <= NOTICED_S for delay in delays])
        findings.add(f"{NOTICED}, {where}, of {len(delays)}", name, "share", float(share))
        findings.add(f"{AFTER}, {where}", name, "s", *(delay for delay in delays if delay is not None))
    print(
        name,
        where,
        f"{false} false,",
        f"{sum(d is not None and d <= NOTICED_S for d in delays)} of {len(delays)}",
        flush=True,
    )
    return rooms


def aware(one: Scene, settings: GateSettings, *, cancels: bool) -> Heard:
    """Hear as `listen --speak` does."""
    ring = Ring(12 * PLAYED_HZ)
    canceller = EchoCanceller(Reference(ring, PLAYED_HZ, HEARD_HZ), HEARD_HZ, cancels=cancels)
    given = 0

    def cancel(start: int, block: Samples) -> Samples:
        nonlocal given
        due = round((start + len(block)) * PLAYED_HZ * (1 + DRIFT) / HEARD_HZ)
        due += -due % 240  # the loudspeaker's callback has blocks of its own
        ring.write(one.played[given:due])
        given = due
        return canceller.cancel(block)

    return hear(one, settings, cancel, canceller.played)


def unaware(one: Scene, settings: GateSettings) -> Heard:
    """Hear as if nothing were played."""
    return hear(one, settings, lambda _, block: block, None)


def hear(one: Scene, settings: GateSettings, cancel: Callable[[int, Samples], Samples], played: Played | None) -> Heard:
    """Return what the gate hears, block by block, and when it is open."""
    gate = Gate(settings, HEARD_HZ)
    gate.played = played
    left: list[Samples] = []
    openings: list[list[int]] = []
    seconds, start, index = 0.0, 0, 0
    while start < len(one.heard):
        block = one.heard[start : start + BLOCKS[index % len(BLOCKS)]]
        begun = time.thread_time()
        left.append(cancel(start, block))
        seconds += time.thread_time() - begun
        start, index = start + len(block), index + 1
        for output in gate.push(left[-1]):
            if isinstance(output, Opened):
                openings.append([gate.pushed_samples, len(one.heard)])
            elif isinstance(output, Closed):
                openings[-1][1] = output.decided_sample
    return Heard(np.concatenate(left), [(begin, end) for begin, end in openings], seconds)


SUBJECTS: dict[str, Hears] = {
    CANCELLED: partial(aware, cancels=True),
    "the gate that knows what is played": partial(aware, cancels=False),
    UNAWARE: unaware,
}


def count_words_changed(
    findings: Findings, model: edgekit.Model, sounds: list[Samples], played: list[Samples], seed: int
) -> None:
    """Add how many words of who interrupts are heard otherwise than without any echo."""
    settings, generator = model.manifest.gate, np.random.default_rng(seed)
    wrong, said = {CANCELLED: 0, UNAWARE: 0}, 0
    for index, sound in enumerate(sounds):
        plain = model.transcribe(sound, gate="off").text
        if not words_of(plain):
            continue
        near = playback(played, 7.0 + len(sound) / HEARD_HZ, generator)
        taps = response(*reversed(ROOMS[index % len(ROOMS)]), 0.0, generator)
        scenes = partial(talked_over, near, taps, sound, seed + index)
        openings = [one for one, _ in aware(scenes(len(near)), settings, cancels=True).openings if one > TALK]
        stopped = scenes(openings[0] + round(SILENT_AFTER_S * HEARD_HZ) if openings else len(near))
        count = partial(count_words, plain)
        for name, left in ((CANCELLED, aware(stopped, settings, cancels=True).left), (UNAWARE, stopped.heard)):
            text = model.transcribe(left[TALK - 4800 : TALK + len(sound) + 1600], gate="off").text
            wrong[name] += count(text).wrong
        said += count(plain).said
    for name, words in wrong.items():
        findings.add(f"{CHANGED}, of {said} in {len(sounds)} prompts", name, "words", words)


def talked_over(near: Samples, taps: Samples, sound: Samples, seed: int, until: int) -> Scene:
    """Return the scene of a prompt that begins at TALK over playback, which stops at the sample ``until``."""
    cut = np.where(np.arange(len(near)) < until, near, np.float32(0))
    echo = through(cut, taps) * (loudness(near) * 10 ** (ECHO_DB / 20) / loudness(through(near, taps)))
    heard = echo + np.random.default_rng(seed).normal(0, 10 ** (NOISE_DBFS / 20), len(echo)).astype(np.float32)
    heard[TALK : TALK + len(sound)] += sound * (LEVEL / loudness(sound))
    given = soxr.resample(cut, HEARD_HZ, PLAYED_HZ * (1 + DRIFT), quality="VHQ").astype(np.float32)
    return Scene(given, heard, (), "")


def judged(
    openings: list[tuple[int, int]], talks: tuple[tuple[int, int], ...]
) -> tuple[list[float | None], list[float]]:
    """Return after how many seconds each talk was noticed, None for never, and when the gate opened for none."""
    explained, noticed = set(), []
    for begin, end in talks:
        within = [one for one in openings if begin <= one[0] <= end + HEARD_HZ // 4]
        already = [one for one in openings if one[0] < begin < one[1]]
        noticed.append((within[0][0] - begin) / HEARD_HZ if within and not already else None)
        explained.update(within)
    return noticed, [round(one[0] / HEARD_HZ, 2) for one in openings if one not in explained]


def scene(
    played: list[Samples],
    talking: list[Samples],
    room: tuple[int, float],
    level: float | None,
    *,
    seconds: float,
    seed: int,
) -> Scene:
    """Return what is played in a room and heard there; ``level``: of who talks over it, against the echo, in dB."""
    generator = np.random.default_rng(seed)
    delay_ms, rt60 = room
    silence = np.zeros(round(SILENT_S * HEARD_HZ), np.float32)
    near = np.concatenate([silence, playback(played, seconds, generator)])
    echo = through(near, response(rt60, delay_ms, 0.0, generator))
    echo *= loudness(near) * 10 ** (ECHO_DB / 20) / loudness(echo)
    given = soxr.resample(near, HEARD_HZ, PLAYED_HZ * (1 + DRIFT), quality="VHQ").astype(np.float32)
    heard = echo + generator.normal(0, 10 ** (NOISE_DBFS / 20), len(echo)).astype(np.float32)
    talks, at = [], round((SILENT_S + 5) * HEARD_HZ)
    for index in generator.permutation(len(talking)) if level is not None else ():
        said = trimmed(talking[index])[: 3 * HEARD_HZ]
        if len(said) < 0.8 * HEARD_HZ:
            continue
        if at + len(said) + HEARD_HZ > len(heard):
            break
        voice = through(np.pad(said, (0, HEARD_HZ // 4)), response(0.3, 0, 6.0, generator))
        voice *= loudness(echo) * 10 ** (level / 20) / loudness(voice)
        heard[at : at + len(voice)] += voice
        talks.append((at, at + len(said)))
        at += len(said) + round(generator.uniform(3.0, 4.5) * HEARD_HZ)
    return Scene(given, heard, tuple(talks), f"{delay_ms} ms, RT60 {rt60} s")


def playback(clips: list[Samples], seconds: float, generator: np.random.Generator) -> Samples:
    """Return prompts of one loudness, one after the other with pauses of 0.3 to 1.5 s."""
    parts: list[Samples] = []
    for index in np.tile(generator.permutation(len(clips)), 10):
        clip = clips[index]
        parts += [clip / loudness(clip) * LEVEL, np.zeros(round(generator.uniform(0.3, 1.5) * HEARD_HZ), np.float32)]
        if sum(map(len, parts)) > seconds * HEARD_HZ:
            break
    return np.concatenate(parts)[: round(seconds * HEARD_HZ)].astype(np.float32)


def response(rt60: float, delay_ms: float, direct_db: float, generator: np.random.Generator) -> Samples:
    """Return a room's impulse response: the direct sound, and noise that decays by 60 dB in ``rt60`` seconds.

    ``direct_db``: of the direct sound against all the rest. Source: J.-D. Polack's model of late reverberation.
    """
    times = np.arange(round(1.2 * rt60 * HEARD_HZ)) / HEARD_HZ
    tail = generator.standard_normal(len(times)) * 10 ** (-3 * times / rt60)
    tail[: round(0.002 * HEARD_HZ)] = 0.0
    tail *= np.sqrt(10 ** (-direct_db / 10) / np.sum(tail**2))
    tail[0] = 1.0
    return np.concatenate([np.zeros(round(delay_ms * HEARD_HZ / 1000)), tail]).astype(np.float32)


def through(sound: Samples, taps: Samples) -> Samples:
    """Return the sound after a filter, as long as before."""
    size = 1 << (len(sound) + len(taps)).bit_length()
    return np.fft.irfft(np.fft.rfft(sound, size) * np.fft.rfft(taps, size), size)[: len(sound)].astype(np.float32)


def trimmed(sound: Samples) -> Samples:
    """Return a prompt without what is silent before and after."""
    energy = energies(sound)
    sounding = np.flatnonzero(energy > energy.max() * 1e-3)
    return sound[sounding[0] * 160 : (sounding[-1] + 1) * 160]


def loudness(sound: Samples) -> float:
    """Return the RMS of what sounds: 10 ms within 30 dB of the loudest."""
    energy = energies(sound)
    return float(np.sqrt(energy[energy > energy.max() * 1e-3].mean()))


def energies(sound: Samples) -> Samples:
    """Return the mean square of each 10 ms."""
    return np.asarray((sound[: len(sound) // 160 * 160].reshape(-1, 160) ** 2).mean(axis=1))


def read(folders: list[Path], languages: list[str]) -> list[Samples]:
    """Return the prompts of some languages, with the silence that they have before and after."""
    sounds = []
    for language in languages:
        for folder in folders:
            for path in sorted((folder / language).rglob("*.wav")):
                sound = read_mono(path, HEARD_HZ)
                sounds.append(sound)
    return sounds


if __name__ == "__main__":
    main()
