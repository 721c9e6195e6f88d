#!/usr/bin/env python3
"""Measure whether a server that listens for a day or for three hours holds more at the end than at the beginning.

    python profiles/bench/serving-endurance.py --int8 bundles/edgekit-tiny-int8 --sounds data/sounds

A day of sound with an utterance in every 40 s goes through the server with a stand-in detector and stand-in engines:
what EdgeKit itself keeps would show. Then three hours of a room, with recorded noises and sentences now and then, go
through the real ones. Both as fast as they are taken. Writes JSON and Markdown under profiles/<device>/.
"""

import argparse
import dataclasses
import gc
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

import edgekit
from edgekit.bundle import Component, Manifest
from edgekit.profiler.bench import bundle_facts
from edgekit.profiler.clips import Samples, read_clip
from edgekit.profiler.comparison import Findings, make_comparison, save_comparison
from edgekit.profiler.steadiness import Holding, Trend, holding, trend
from edgekit.runtime.audio.files import read_audio
from edgekit.runtime.hear import gate
from edgekit.runtime.model import Model
from edgekit.serving.limits import Limits
from edgekit.serving.served import waited
from edgekit.serving.server import Server

ROOT = Path(__file__).resolve().parents[2]
RATE_HZ = 16_000
PIECE_S = 0.1
EVERY_S, SPOKEN_S = 40.0, 2.0
DAY, ROOM = "a day, stand-ins", "three hours, real"
FIGURES = ("Resident memory", "Open descriptors", "Threads")
UNITS = ("MiB", "", "")
LOOKS = 60  # at what the process holds
WARM_HOURS = {DAY: 12.0, ROOM: 3.0}  # before the first look that counts: allocators come to rest


class Loudness:
    """A stand-in for a detector of speech: what is loud is speech."""

    window_samples = 512

    def score(self, window: Samples) -> float:
        """Return 1.0 for a loud window."""
        return float(np.abs(window).max() > 0.1)

    def reset(self) -> None:
        """Do nothing."""


class StandIn:
    """An Engine that computes nothing: zeros of the right shapes, of a backbone six tokens and an end."""

    def __init__(self, component: Component, manifest: Manifest) -> None:
        self.component, self.grid, self.stop = component, manifest.grid, manifest.protocol.stop[0]
        self.counts: Mapping[str, int] = {}
        self.notes: tuple[str, ...] = ()

    def bind(self, sizes: Mapping[str, int]) -> "StandInCall":
        """Return a call."""
        return StandInCall(self, dict(sizes))


class StandInCall:
    """A Call of a StandIn."""

    def __init__(self, engine: StandIn, sizes: dict[str, int]) -> None:
        self._engine, self._sizes = engine, sizes

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return zeros; logits by the place in the answer."""
        sizes = dict(self._sizes)
        for spec in self._engine.component.inputs:
            if spec.name in inputs:
                sizes.update(
                    (name, size)
                    for name, size in zip(spec.shape, inputs[spec.name].shape, strict=True)
                    if isinstance(name, str)
                )
        if "mel_frames" in sizes:
            grid = self._engine.grid
            sizes["frames"] = grid.positions(sizes["mel_frames"] - grid.left_frames - grid.right_frames)
        outputs = {
            spec.name: np.zeros([sizes[one] if isinstance(one, str) else one for one in spec.shape], spec.dtype)
            for spec in self._engine.component.outputs
            if spec.state == "none"
        }
        if "logits" in outputs:
            place = int(inputs["start"][0]) + len(inputs["embeds"])
            outputs["logits"][:, self._engine.stop if place % 8 == 7 else 1000 + place % 8] = 1.0
        return outputs

    def reset(self) -> None:
        """Do nothing."""

    def save(self) -> Mapping[str, np.ndarray]:
        """Return no state."""
        return {}

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        """Do nothing."""


def main() -> None:
    """Measure, write and say where."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--int8", type=Path, required=True, help="the bundle to measure")
    parser.add_argument("--sounds", type=Path, default=ROOT / "data/sounds", help="folder of recorded noises")
    parser.add_argument("--clips", type=Path, default=ROOT / "export/clips", help="folder of speech")
    parser.add_argument("--hours", type=float, default=24.0, help="of the stand-ins")
    parser.add_argument("--room-hours", type=float, default=3.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=ROOT / "profiles")
    args = parser.parse_args()

    findings, notes, details = Findings(), [], {}
    model = edgekit.load(args.int8, threads=args.threads)
    clips = [read_clip(path, RATE_HZ) for path in sorted(args.clips.glob("*.flac"))]
    hollow = dataclasses.replace(
        model, engines={name: StandIn(engine.component, model.manifest) for name, engine in model.engines.items()}
    )
    real = gate.make_detector
    for label, subject, sound, hours in (
        (DAY, hollow, day_of_sound(), args.hours),
        (ROOM, model, room(clips, sorted(args.sounds.rglob("*.wav")), model), args.room_hours),
    ):
        gate.make_detector = (lambda _settings, _rate: Loudness()) if subject is hollow else real
        begun = time.perf_counter()
        warm_hours = min(WARM_HOURS[label], hours / 2)
        looks, utterances = listen(subject, sound, hours * 3600, warm_hours * 3600)
        took_s = time.perf_counter() - begun
        times = np.linspace(0.0, hours, len(looks))
        for place, (name, unit) in enumerate(zip(FIGURES, UNITS, strict=True)):
            values = [dataclasses.astuple(look)[place] for look in looks]
            findings.add(name, label, unit, *values)
            slope: Trend = trend(times, values)
            notes.append(
                f"{label}: {name.lower()} {values[0]:.6g} at first, {values[-1]:.6g} {hours:g} h later, "
                f"slope {slope.slope:+.4f} an hour, z {slope.z:+.2f}: {'GROWS' if slope.grows else 'no growth'}."
            )
            print(notes[-1], flush=True)
        notes.append(
            f"{label}: {hours:g} h of sound after {warm_hours:g} h, {utterances} final texts, in {took_s:.0f} s."
        )
        print(notes[-1], flush=True)
        details[label] = {"looks": [dataclasses.astuple(look) for look in looks]}
    gate.make_detector = real
    comparison = make_comparison(
        title=f"What a server holds that listens on, with {model.manifest.name}",
        question="Does a server hold more memory, descriptors or threads the longer it listens?",
        settings={
            "Settings": f"{args.threads} threads, partials on, one stream of edgekit.serving.Server",
            "Pace": "as fast as sound is taken",
            "Warm-up": ", ".join(f"{hours:g} h before {label}" for label, hours in WARM_HOURS.items()),
        },
        figures=findings.figures(),
        ratios=[],
        definitions={
            FIGURES[0]: "Resident set of the process, after a collection of garbage.",
            FIGURES[1]: "Entries of /proc/self/fd.",
            FIGURES[2]: "Threads that Python knows.",
            "GROWS": "Mann and Kendall's test for a trend, z above 1.96; the slope is Theil and Sen's.",
        },
        bundles={"measured": bundle_facts(model)},
        clips=[clip.facts() for clip in clips],
        notes=notes,
        details=details,
    )
    print(save_comparison(comparison, args.output, f"{model.manifest.name}-serving-endurance"))


def listen(model: Model, sound: Iterator[Samples], seconds: float, warm_s: float) -> tuple[list[Holding], int]:
    """Return what this process holds, time after time, while a server takes so much sound, and its final texts.

    ``warm_s``: so much more comes before.
    """
    looks: list[Holding] = []
    read, texts = threading.Event(), 0
    room_again = threading.Event()
    with Server(model, Limits(idle_s=1e5, audio_s=7 * 24 * 3600.0)) as server:

        def wake() -> None:
            read.set()
            room_again.set()

        served = server.open({"partials": True}, name="endurance", live=False, wake=wake)

        def consume() -> None:
            nonlocal texts
            for event in waited(served, lambda: (read.wait(), read.clear())):
                texts += event.kind == "text" and event.final

        reader = threading.Thread(target=consume)
        reader.start()
        warm, pieces = round(warm_s / PIECE_S), round(seconds / PIECE_S)
        every = max(1, round(pieces / LOOKS))
        for index in range(-warm, pieces):
            while not served.room:
                room_again.wait(1.0)
                room_again.clear()
            served.push(next(sound))
            if index >= 0 and index % every == 0:
                gc.collect()
                looks.append(holding())
        served.finish()
        reader.join()
    assert served.ended is not None
    assert served.ended.reason == "finished", served.ended
    return looks, texts


def day_of_sound() -> Iterator[Samples]:
    """Yield pieces without end: faint noise, and loud noise for some seconds in every forty."""
    rng = np.random.default_rng(0)
    size = round(PIECE_S * RATE_HZ)
    faint = [(0.003 * rng.standard_normal(size)).astype(np.float32) for _ in range(50)]
    loud = [(0.3 * rng.standard_normal(size)).astype(np.float32) for _ in range(50)]
    period, spoken = round(EVERY_S / PIECE_S), round(SPOKEN_S / PIECE_S)
    index = 0
    while True:
        yield (loud if index % period < spoken else faint)[int(rng.integers(50))]
        index += 1


def room(clips: list, noises: list[Path], model: Model) -> Iterator[Samples]:
    """Yield pieces without end: a room's own noise, a recorded noise every so often, a sentence every few minutes."""
    assert model.manifest.front_end.sample_rate_hz == RATE_HZ
    rng = np.random.default_rng(1)
    size = round(PIECE_S * RATE_HZ)
    while True:
        length = round(float(rng.uniform(20, 60)) * RATE_HZ)
        sound = (0.002 * rng.standard_normal(length)).astype(np.float32)
        if noises and rng.random() < 0.7:
            event = read_audio(noises[int(rng.integers(len(noises)))]).samples.reshape(-1)[: 10 * RATE_HZ]
            at = int(rng.integers(max(1, length - len(event))))
            sound[at : at + len(event)] += 0.3 * event[: length - at]
        if rng.random() < 0.2:
            said = clips[int(rng.integers(len(clips)))].samples
            at = int(rng.integers(max(1, length - len(said))))
            sound[at : at + len(said)] += said[: length - at]
        np.clip(sound, -1, 1, out=sound)
        for start in range(0, length - size + 1, size):
            yield sound[start : start + size]


if __name__ == "__main__":
    main()
