#!/usr/bin/env python3
"""Measure how soon after the last word a provisional text is there, how often it is withdrawn, and what it changes.

    make prompt-data
    python profiles/bench/provisional-ends.py --bundle bundles/edgekit-tiny-int8

Recordings of one phrase and of several sentences, each followed by a second of faint noise, go through the bundle's own
gate in blocks of 20 ms, with several ``provisional_ms``; and through the gate alone with other thresholds of the
EndingRule. Nothing is paced: the time of a text is that of the block in which it came, and the work in that call.
Writes JSON and Markdown under profiles/<device>/.
"""

import argparse
import dataclasses
import re
import time
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import edgekit
from edgekit.profiler.bench import bundle_facts
from edgekit.profiler.clips import Clip, Samples, faint_noise, make_clip, read_clip
from edgekit.profiler.comparison import Findings, Ratio, bootstrap_ratio, make_comparison, save_comparison
from edgekit.profiler.conditions import add_noise, pink_noise
from edgekit.profiler.pacing import Pacer
from edgekit.runtime.events import Provisional, SpeechStopped, Text, Withdrawn
from edgekit.runtime.hear.ending import EndingRule
from edgekit.runtime.hear.gate import Closed, Gate, Paused, Resumed
from edgekit.runtime.model import Model

ROOT = Path(__file__).resolve().parents[2]
PHRASES, SENTENCES = "one phrase", "several sentences"
TRIED_MS = (160, 200, 260, 320)
NONE = EndingRule(doubt=1.0, fall_db=0.0, patience=0.0)
TRIED = (
    ("no threshold", NONE),
    ("as by default", EndingRule()),
    ("doubt 0.5", dataclasses.replace(NONE, doubt=0.5)),
    ("doubt 0.1", dataclasses.replace(NONE, doubt=0.1)),
    ("fall 6 dB", dataclasses.replace(NONE, fall_db=6.0)),
    ("fall 20 dB", dataclasses.replace(NONE, fall_db=20.0)),
    ("patience 1.2", dataclasses.replace(NONE, patience=1.2)),
    ("patience 1.5", dataclasses.replace(NONE, patience=1.5)),
)
BEFORE_S, AFTER_S = 0.5, 1.0
NOISE_DB = 10.0
CLEAN, NOISY = "clean", f"pink noise {NOISE_DB:g} dB"


@dataclasses.dataclass(frozen=True)
class Heard:
    """What one recording gave: ends that were shown and withdrawn, and of its last word, when what came, in ms.

    ``provisional_ms`` is None where none was shown of the last utterance, ``decided_ms`` is that without the work;
    ``texts``: all final ones.
    """

    shown: int
    withdrawn: int
    provisional_ms: float | None
    decided_ms: float | None
    final_ms: float | None
    work_ms: float
    texts: str


def main() -> None:
    """Measure, write and say where."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, required=True, help="one with a gate for speech that writes it down")
    parser.add_argument("--phrases", type=Path, default=ROOT / "data/short-prompts/en", help="a folder of WAV files")
    parser.add_argument("--sentences", type=Path, default=ROOT / "data/prompts/en", help="the same of longer ones")
    parser.add_argument("--limit", type=int, help="of recordings of each kind")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=ROOT / "profiles")
    args = parser.parse_args()

    model = edgekit.load(args.bundle, threads=args.threads)
    rate_hz = model.manifest.front_end.sample_rate_hz
    kinds = {
        PHRASES: read([*wav_in(args.phrases), *sorted((ROOT / "export/clips").glob("*.flac"))], rate_hz, args.limit),
        SENTENCES: read(wav_in(args.sentences), rate_hz, args.limit),
    }
    findings, ratios = Findings(), list[Ratio]()
    for kind, clips in kinds.items():
        plain = [listen(model, clip, None) for clip in clips]
        findings.add("last word to final text", f"{kind}, without", "ms", *known([one.final_ms for one in plain]))
        for pause_ms in TRIED_MS:
            print(f"{kind}: {pause_ms} ms", flush=True)
            heard = [listen(model, clip, pause_ms) for clip in clips]
            subject = f"{kind}, {pause_ms} ms"
            findings.add("last word to provisional text", subject, "ms", *known([one.provisional_ms for one in heard]))
            findings.add("last word to the decision", subject, "ms", *known([one.decided_ms for one in heard]))
            findings.add("last word to final text", subject, "ms", *known([one.final_ms for one in heard]))
            findings.add("work for the provisional text", subject, "ms", *[one.work_ms for one in heard if one.shown])
            ends = [(one.withdrawn, one.shown) for one in heard if one.shown]
            ratios.append(bootstrap_ratio(f"withdrawn ends: {subject}", *zip(*ends, strict=True), limit=0.05))
            words = [
                (changed(one.texts, other.texts), len(other.texts.split()))
                for one, other in zip(heard, plain, strict=True)
            ]
            words = [one for one in words if one[1]]
            ratios.append(bootstrap_ratio(f"words changed: {subject}", *zip(*words, strict=True)))
        for condition, sounds in ((CLEAN, [clip.samples for clip in clips]), (NOISY, [noisy(clip) for clip in clips])):
            for name, rule in TRIED:
                ratios += gate_alone(model, sounds, f"{kind}, {condition}, {name}", rule)
    count = {kind: len(clips) for kind, clips in kinds.items()}
    comparison = make_comparison(
        title=f"Provisional ends of speech: {model.manifest.name}",
        question="How soon after the last word is a provisional text there, and how often is it withdrawn?",
        settings={
            "Recordings": f"{count[PHRASES]} of one phrase (short prompts, and read sentences of export/clips), "
            f"{count[SENTENCES]} of several sentences (prompts); faint noise {BEFORE_S:g} s before, {AFTER_S:g} s "
            "after",
            "Gate": f"{model.manifest.gate.kind}, closes after {model.manifest.gate.min_silence_ms} ms",
            "Settings": f"{args.threads} threads, level {model.manifest.levels[-1].name}, blocks of 20 ms, not paced",
            "Rule": str(EndingRule()),
        },
        figures=findings.figures(),
        ratios=ratios,
        definitions={
            "last word to provisional text": "From the last block within 30 dB of the loudest one, which no gate "
            "decides, to the block in which the last Provisional came, and the work in its call.",
            "last word to the decision": "The same without the work.",
            "last word to final text": "The same to the final Text of that utterance.",
            "work for the provisional text": "Of the longest call in which a Provisional came.",
            "withdrawn ends": "Withdrawn by Provisional events.",
            "words changed": "Of the final texts, by the words of those with the recipe's gate alone: substitutions, "
            "deletions and insertions, lower case, without punctuation. The silence behind a pause is not heard.",
            "pauses that were none, ends with a pause": "Of the gate alone, without a text: the share of its pauses "
            "after which speech went on, and of its ends before which there was one.",
        },
        bundles={"measured": bundle_facts(model)},
    )
    print(save_comparison(comparison, args.output, f"{model.manifest.name}-provisional-ends"))


def wav_in(folder: Path) -> list[Path]:
    """Return the WAV files in a folder; end the program where there are none."""
    files = sorted(folder.rglob("*.wav"))
    if not files:
        raise SystemExit(f"{folder}: no WAV files there; python profiles/data/fetch-speech.py fetches them")
    return files


def read(paths: Sequence[Path], rate_hz: int, limit: int | None) -> list[Clip]:
    """Return the recordings that hold sound, in faint noise."""
    clips = []
    for path in paths[:limit]:
        try:
            samples = read_clip(path, rate_hz).samples
        except edgekit.AudioError:  # a prompt without a sample
            continue
        before, after = faint_noise(BEFORE_S, rate_hz), faint_noise(AFTER_S, rate_hz, seed=1)
        clips.append(make_clip(path.name, np.concatenate((before, samples, after)), rate_hz))
    return clips


def listen(model: Model, clip: Clip, pause_ms: int | None) -> Heard:
    """Return what a stream gives of a recording."""
    stream = model.stream(sample_rate_hz=clip.rate_hz, provisional_ms=pause_ms, level=model.manifest.levels[-1].name)
    shown = withdrawn = 0
    provisional_ms: float | None = None
    decided_ms: float | None = None
    final_ms: float | None = None
    work_ms, texts = 0.0, list[str]()
    for block in Pacer(time.perf_counter, paced=False).blocks(clip.samples, 0.0, clip.rate_hz):
        begun_s = time.perf_counter()
        for event in stream.push(block.samples):
            worked_ms = (time.perf_counter() - begun_s) * 1000
            late_ms = (block.end_s - clip.speech_end_s) * 1000
            match event:
                case Provisional():
                    shown, work_ms = shown + 1, max(work_ms, worked_ms)
                    provisional_ms, decided_ms = late_ms + worked_ms, late_ms
                case Withdrawn():
                    withdrawn, provisional_ms, decided_ms = withdrawn + 1, None, None
                case SpeechStopped(at_s=at_s) if at_s < clip.speech_end_s - 0.5:  # another came after it
                    provisional_ms = decided_ms = None
                case Text(final=True):
                    final_ms = late_ms + worked_ms
                    texts.append(event.text)
    texts += [event.text for event in stream.finish() if isinstance(event, Text) and event.final]
    return Heard(shown, withdrawn, provisional_ms, decided_ms, final_ms, work_ms, " ".join(texts))


def changed(text: str, reference: str) -> int:
    """Return how many words of a text are not those of the reference."""
    heard, expected = (re.sub(r"[^\w\s']", " ", one.lower()).split() for one in (text, reference))
    before = list(range(len(expected) + 1))
    for row, word in enumerate(heard, 1):
        now = [row]
        for at, other in enumerate(expected):
            now.append(min(before[at] + (word != other), before[at + 1] + 1, now[at] + 1))
        before = now
    return before[-1]


def noisy(clip: Clip) -> Samples:
    """Return a recording in pink noise, the same for each of its names."""
    rng = np.random.default_rng(zlib.crc32(clip.name.encode()))
    return add_noise(clip.samples, pink_noise(len(clip.samples), rng), NOISE_DB)


def gate_alone(model: Model, sounds: Sequence[Samples], subject: str, rule: EndingRule) -> list[Ratio]:
    """Return how many pauses of a rule were none, and how many ends have one."""
    pauses, resumed, closed, confirmed = [], [], [], []
    for samples in sounds:
        gate = Gate(model.manifest.gate, model.manifest.front_end.sample_rate_hz, rule=rule)
        made = [one for one in (*gate.push(samples), *gate.finish()) if isinstance(one, (Paused, Resumed, Closed))]
        pauses.append(sum(isinstance(one, Paused) for one in made))
        resumed.append(sum(isinstance(one, Resumed) for one in made))
        closed.append(sum(isinstance(one, Closed) for one in made))
        confirmed.append(pauses[-1] - resumed[-1])
    named = {"pauses that were none": (resumed, pauses), "ends with a pause": (confirmed, closed)}
    some = {name: [one for one in zip(*counts, strict=True) if one[1]] for name, counts in named.items()}
    return [bootstrap_ratio(f"{name}: {subject}", *zip(*pairs, strict=True)) for name, pairs in some.items() if pairs]


def known(values: Sequence[float | None]) -> list[float]:
    """Return those that are known."""
    return [value for value in values if value is not None]


if __name__ == "__main__":
    main()
