#!/usr/bin/env python3
"""Measure how long after the last word its text is there, provisional and confirmed, and how good each text is.

    make speech-data WORDS=core-sounds-en.txt
    python profiles/bench/serving-latency.py --int8 bundles/edgekit-tiny-int8 --speech data/asterisk-en

Recorded prompts, each followed by silence, are pushed into the server's own core block by block as a microphone would,
at real time, through the same kind of stream that `edgekit listen` and the websocket use. Two detectors say where
speech ended; neither is the bundle's gate. Writes JSON and Markdown under profiles/<device>/.
"""

import argparse
import hashlib
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import edgekit
from edgekit.profiler.bench import bundle_facts
from edgekit.profiler.clips import Clip, read_clip
from edgekit.profiler.comparison import Findings, bootstrap_ratio, make_comparison, save_comparison
from edgekit.profiler.pacing import Pacer
from edgekit.profiler.words import count_errors, read_references
from edgekit.runtime.events import Provisional, SpeechStopped, Text, Withdrawn
from edgekit.runtime.hear.detectors.vad import Silero
from edgekit.runtime.model import Model
from edgekit.serving.served import waited
from edgekit.serving.server import Server

ROOT = Path(__file__).resolve().parents[2]
RATE_HZ = 16_000
CONFIDENCE = 0.7  # pipecat's: of Silero, in the last window that is speech
SHORTEST_S, LONGEST_S = 1.0, 12.0
AFTER_S = 1.5  # of silence, longer than any decision
PROVISIONAL, CONFIRMED = "provisional", "confirmed"
ENERGY, SILERO = "Last word to text (energy)", "Last word to text (Silero)"


@dataclass
class Delivery:
    """What came of one prompt: moments in stream time, in seconds; texts as they stood."""

    texts: dict[str, list[str]] = field(default_factory=lambda: {PROVISIONAL: [], CONFIRMED: []})
    at_s: dict[str, float] = field(default_factory=dict)  # of the last text of each kind
    decided_s: float = 0.0
    provisional: int = 0
    withdrawn: int = 0


def main() -> None:
    """Measure, write and say where."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--int8", type=Path, required=True, help="the bundle to measure")
    parser.add_argument(
        "--speech", type=Path, default=ROOT / "data/asterisk-en", help="folder of prompts and words.tsv"
    )
    parser.add_argument("--prompts", type=int, default=120, help="how many, drawn by hash")
    parser.add_argument("--provisional-ms", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=ROOT / "profiles")
    args = parser.parse_args()

    references = read_references(args.speech / "words.tsv")
    clips, words = [], []
    for name in sorted(references, key=lambda one: hashlib.sha256(one.encode()).digest()):
        if references[name].left_out or not references[name].words:
            continue
        clip = read_clip(args.speech / f"{name}.wav", RATE_HZ)
        if SHORTEST_S <= clip.speech_end_s <= LONGEST_S and len(clips) < args.prompts:
            clips.append(clip)
            words.append(references[name].words)
    model = edgekit.load(args.int8, threads=args.threads)
    findings, deliveries = Findings(), []
    for index, clip in enumerate(clips):
        sound = clip.speech(AFTER_S)
        delivery = deliver(model, sound, args.provisional_ms)
        deliveries.append(delivery)
        ends = {ENERGY: clip.speech_end_s, SILERO: silero_end_s(sound)}
        for kind, at_s in delivery.at_s.items():
            for name, end_s in ends.items():
                findings.add(name, kind, "ms", (at_s - end_s) * 1000)
        print(f"{index + 1} of {len(clips)}: {clip.name}: {delivery}", flush=True)
    save(args, model, clips, words, deliveries=deliveries, findings=findings)


def deliver(model: Model, sound: np.ndarray, provisional_ms: int) -> Delivery:
    """Return what a live stream of a server delivers while sound comes at real time."""
    result, woken = Delivery(), threading.Event()
    origin_s = 0.0
    with Server(model) as server:
        served = server.open(
            {"partials": True, "provisional_ms": provisional_ms}, name="latency", live=True, wake=woken.set
        )

        def read() -> None:
            for event in waited(served, lambda: (woken.wait(), woken.clear())):
                at_s = time.perf_counter() - origin_s
                if isinstance(event, Provisional):
                    result.provisional += 1
                    result.texts[PROVISIONAL].append(event.text)
                    result.at_s[PROVISIONAL] = at_s
                elif isinstance(event, Withdrawn):
                    result.withdrawn += 1
                    result.texts[PROVISIONAL].pop()
                elif isinstance(event, SpeechStopped):
                    result.decided_s = event.decided_at_s
                elif isinstance(event, Text) and event.final:
                    result.texts[CONFIRMED].append(event.text)
                    result.at_s[CONFIRMED] = at_s

        reader = threading.Thread(target=read)
        reader.start()
        origin_s = time.perf_counter()
        for block in Pacer(time.perf_counter).blocks(sound, origin_s, RATE_HZ):
            served.push(block.samples)
        served.finish()
        reader.join()
    return result


def silero_end_s(sound: np.ndarray) -> float:
    """Return the end of the last window that Silero calls speech, in seconds; 0 where it hears none."""
    detector, end = Silero(), 0
    for start in range(0, len(sound) - detector.window_samples + 1, detector.window_samples):
        if detector.score(sound[start : start + detector.window_samples]) >= CONFIDENCE:
            end = start + detector.window_samples
    return end / RATE_HZ


def save(
    args: argparse.Namespace,
    model: Model,
    clips: list[Clip],
    words: list[str],
    *,
    deliveries: list[Delivery],
    findings: Findings,
) -> None:
    """Write the comparison and say where."""
    notes = []
    for name in (SILERO, ENERGY):
        for kind in (PROVISIONAL, CONFIRMED):
            p50, p95, p99 = np.percentile(findings.samples(name, kind), (50, 95, 99))
            notes.append(f"{name}, {kind}: p50 {p50:.0f}, p95 {p95:.0f}, p99 {p99:.0f} ms.")
    ratios, said = [], []
    for kind in (PROVISIONAL, CONFIRMED):
        errors = count_errors(words, [" ".join(one.texts[kind]) for one in deliveries])
        said = errors.said
        ratios.append(bootstrap_ratio(f"Words wrong, {kind}", errors.wrong, said))
    ends, gone = [one.provisional for one in deliveries], [one.withdrawn for one in deliveries]
    ratios.append(bootstrap_ratio("Provisional ends withdrawn", gone, ends, limit=0.05))
    none = sum(not one.provisional for one in deliveries)
    notes.append(
        f"{none} of {len(deliveries)} prompts had no provisional end: {sum(gone)} of {sum(ends)} were withdrawn."
    )
    comparison = make_comparison(
        title=f"From the last word to its text, {model.manifest.name}",
        question="How long after the last word is its text there, and what does it cost in words to have it early?",
        settings={
            "Settings": f"{args.threads} threads, partials on, provisional end after {args.provisional_ms} ms",
            "Pace": "real time, blocks of 20 ms; one stream",
            "Speech": f"{len(clips)} prompts of {SHORTEST_S:g} to {LONGEST_S:g} s, drawn by hash of their names",
        },
        figures=findings.figures(),
        ratios=ratios,
        definitions={
            SILERO: "Pipecat's rule (pipecat-ai/stt-benchmark): from the end of the last window of 32 ms in which "
            f"Silero's detector is at least {CONFIDENCE:g} sure of speech, to the text in the reader's hands.",
            ENERGY: "The same from the end of the last block of 20 ms within 30 dB of the loudest one.",
            PROVISIONAL: "The last text delivered at a provisional end that was not withdrawn.",
            CONFIRMED: "The last final text.",
            "Words wrong": "Substitutions, deletions and insertions over words said, Whisper's English normaliser.",
            "Provisional ends withdrawn": "Ends after which speech went on, of all provisional ends.",
        },
        bundles={"measured": bundle_facts(model)},
        clips=[],
        notes=notes,
    )  # fmt: skip
    print("\n".join(notes))
    print(save_comparison(comparison, args.output, f"{model.manifest.name}-serving-latency"))


if __name__ == "__main__":
    main()
