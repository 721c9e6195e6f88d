#!/usr/bin/env python3
"""Measure how many words Whisper's no-speech rule keeps from being written where nobody speaks, and loses of speech.

    make prompt-data sound-data
    python profiles/bench/no-speech-rule.py --bundle bundles/tiny.en-float32 --peer FOLDER   # the same, for CTranslate2

Silence, noise and tones of 5 to 60 s, and held-out recordings of music, machines, animals and rooms, go through each
bundle with the gate off and with the gate `sound`. Every word is a false one. The same for faster-whisper, which has
the rule, but for its tries at other temperatures, which are drawn. Then prompts, with the gate off: every word that the
rule takes away is lost. What was heard is kept in --work: a run that was stopped goes on. Writes JSON and Markdown
under profiles/<device>/.
"""

import argparse
import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

import edgekit
from edgekit.bundle import hash_file
from edgekit.profiler.bench import bundle_facts
from edgekit.profiler.clips import Samples
from edgekit.profiler.comparison import Findings, bootstrap_ratio, make_comparison, save_comparison
from edgekit.profiler.conditions import pink_noise, read_samples
from edgekit.profiler.device import software_digest
from edgekit.profiler.words import Heard
from edgekit.runtime.events import Text, TextCut

ROOT = Path(__file__).resolve().parents[2]
RATE_HZ = 16_000
LANGUAGES = ("en", "es", "fr", "it", "ru")
SECONDS = (5, 12, 30, 60)
LEVELS_DB = (-70, -50, -30)  # of noise, below full scale
RECORDED_S = (5, 30)  # a recording is repeated or cut to it
RECORDED = ("music", "noise", "engine", "animal", "other")
GATES = ("off", "sound")
PEER = "faster-whisper"
WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")


@dataclass(frozen=True)
class Sound:
    """Samples (n,) at 16 kHz, their kind and their name."""

    kind: str
    name: str
    samples: Samples

    @property
    def digest(self) -> str:
        """Their hash."""
        return hashlib.sha256(self.samples.tobytes()).hexdigest()


@dataclass(frozen=True)
class Subject:
    """Something that hears: samples to texts, texts that the rule took away, reasons of cuts."""

    name: str
    key: tuple[str, ...]
    hear: Callable[[Samples], dict[str, list[str]]]


def main() -> None:
    """Measure, write and say where."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, action="append", required=True, help="of a Whisper; again for another")
    parser.add_argument("--peer", type=Path, help="a folder of the same weights that faster-whisper reads")
    parser.add_argument("--sounds", type=Path, default=ROOT / "data/sounds/held-out", help="folder of classes of WAV")
    parser.add_argument("--speech", type=Path, default=ROOT / "data/prompts", help="a folder of WAV for each language")
    parser.add_argument("--each", type=int, default=8, help="recordings of each class of sounds")
    parser.add_argument("--prompts", type=int, default=48, help="of each language")
    parser.add_argument("--work", type=Path, default=ROOT / "data/heard/no-speech.jsonl")
    parser.add_argument("--name", help="of the files written; by default the first bundle's")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=ROOT / "profiles")
    args = parser.parse_args()

    sounds = [*made(), *recorded(args.sounds, args.each)]
    models = {path.resolve().name: edgekit.load(path, threads=args.threads) for path in args.bundle}
    subjects = [bundle(name, model, gate) for name, model in models.items() for gate in GATES]
    if args.peer:
        subjects.append(peer(args.peer, args.threads))
    heard, findings, notes, ratios = Heard(args.work), Findings(), [], []
    for one in subjects:
        found = listen(one, sounds, heard)
        for kind in dict.fromkeys(sound.kind for sound in sounds):
            own = [told for sound, told in zip(sounds, found, strict=True) if sound.kind == kind]
            title = f"False words: {kind}, {len(own)} sounds"
            findings.add(title, one.name, "words", sum(count(told["texts"]) for told in own))
            if PEER not in one.name:
                without = sum(count(told["texts"]) + count(told["dropped"]) for told in own)
                findings.add(title, f"{one.name}, without the rule", "words", without)
        said = [text for told in found for text in told["texts"] if count([text])]
        cuts = sum("empty" in told["cuts"] for told in found)
        notes.append(
            f"{one.name}: {count(said)} words in {len(said)} texts, such as "
            f"{'; '.join(repr(text[:40]) for text in said[:: max(1, len(said) // 6)][:6])}; told as empty: {cuts}."
        )
    for name, model in models.items():
        one = bundle(name, model, "off")
        for language in [code for code in LANGUAGES if code in (tuple(model.manifest.protocol.languages) or ("en",))]:
            found = listen(one, prompts(args.speech, language, args.prompts), heard)
            lost = [count(told["dropped"]) for told in found]
            words = [count(told["texts"]) + own for told, own in zip(found, lost, strict=True)]
            ratios.append(bootstrap_ratio(f"{language}, {name}: words of speech that the rule takes away", lost, words))
    comparison = make_comparison(
        title=f"Whisper's no-speech rule: {', '.join(models)}",
        question="How many words does the rule keep from being written where nobody speaks, and how many does it lose?",
        settings={
            "Sounds": f"{len(sounds)}: silence; white and pink noise at {', '.join(map(str, LEVELS_DB))} dB; tone, hum "
            f"and beeps of {', '.join(map(str, SECONDS))} s; recordings, repeated or cut to "
            f"{' and '.join(map(str, RECORDED_S))} s",
            "Speech": f"{args.prompts} telephone prompts in each language, gate off",
            PEER: f"float32, its defaults but for trying again, {version(PEER)}" if args.peer else "not run",
        },
        figures=findings.figures(),
        ratios=ratios,
        definitions={
            "False words": "Words of the final texts. No sound holds speech as far as its name tells.",
            "without the rule": "Words as they were written before the rule took a text away; what a full piece leaves "
            "to the next is as with the rule.",
            "taken away": "Words of texts that the rule took away by the words of all texts.",
        },
        bundles={name: bundle_facts(model) for name, model in models.items()},
        packages=("faster-whisper", "ctranslate2") if args.peer else (),
        notes=notes,
    )
    print(save_comparison(comparison, args.output, f"{args.name or next(iter(models))}-no-speech-rule"))


def made() -> Iterator[Sound]:
    """Yield sounds that are computed, the same ones each time."""
    for seconds in SECONDS:
        length = seconds * RATE_HZ
        rng, times = np.random.default_rng(seconds), np.arange(length) / RATE_HZ
        yield Sound("silence", f"silence of {seconds} s", np.zeros(length, np.float32))
        for kind, noise in (("white", rng.standard_normal(length)), ("pink", pink_noise(length, rng))):
            for level in LEVELS_DB:
                scaled = noise / np.sqrt(np.mean(np.square(noise))) * 10 ** (level / 20)
                yield Sound(f"{kind} noise", f"{kind} of {level} dB, {seconds} s", scaled.astype(np.float32))
        hum = sum(np.sin(2 * np.pi * 50 * times * harmonic) / harmonic for harmonic in (1, 2, 3))
        tone = np.sin(2 * np.pi * 440 * times)
        beeps = np.sin(2 * np.pi * 1000 * times) * (times % 2 < 0.3)
        for name, scaled in (("tone", 0.1 * tone), ("hum", 0.02 * hum), ("beeps", 0.1 * beeps)):
            yield Sound("tones", f"{name} of {seconds} s", scaled.astype(np.float32))


def recorded(folder: Path, each: int) -> Iterator[Sound]:
    """Yield recordings of every class, evenly from its list."""
    for kind in RECORDED:
        paths = sorted((folder / kind).glob("*.wav"))
        if not paths:
            raise SystemExit(f"{folder / kind}: no sounds there; `make sound-data` fetches them")
        for path in paths[:: max(1, len(paths) // each)][:each]:
            samples = read_samples(path)
            for seconds in RECORDED_S:
                yield Sound(kind, f"{path.stem}, {seconds} s", np.resize(samples, seconds * RATE_HZ))


def prompts(speech: Path, language: str, number: int) -> list[Sound]:
    """Return the prompts of a language."""
    paths = sorted((speech / language).rglob("*.wav"))[:number]
    if not paths:
        raise SystemExit(f"{speech / language}: no WAV files there; `make prompt-data` fetches them")
    return [Sound(language, path.stem, read_samples(path)) for path in paths]


def bundle(name: str, model: edgekit.Model, gate: str) -> Subject:
    """Return a bundle behind a gate."""

    def hear(samples: Samples) -> dict[str, list[str]]:
        stream = model.stream(gate=gate, floor=model.manifest.front_end.floor)
        events = [*stream.push(samples), *stream.finish()]
        texts, dropped, written = [], [], ""
        for event in events:
            if isinstance(event, Text) and not event.final:
                written = event.text
            elif isinstance(event, Text):
                texts.append(event.text)
                if not event.text:
                    dropped.append(written)
                written = ""
        return {
            "texts": texts,
            "dropped": dropped,
            "cuts": [event.reason for event in events if isinstance(event, TextCut)],
        }

    key = ("EdgeKit", software_digest(), bundle_facts(model).manifest_sha256, gate)
    return Subject(f"{name}, gate {gate}", key, hear)


def peer(folder: Path, threads: int) -> Subject:
    """Return faster-whisper with the same weights; loaded only where a text is not known yet."""
    loaded: list = []

    def hear(samples: Samples) -> dict[str, list[str]]:
        from faster_whisper import WhisperModel

        if not loaded:
            loaded.append(WhisperModel(str(folder), device="cpu", compute_type="float32", cpu_threads=threads))
        segments, _ = loaded[0].transcribe(samples, temperature=0.0)
        return {"texts": [segment.text.strip() for segment in segments], "dropped": [], "cuts": []}

    return Subject(PEER, (PEER, hash_file(folder / "model.bin"), version(PEER), version("ctranslate2"), "once"), hear)


def listen(one: Subject, sounds: Sequence[Sound], heard: Heard) -> list[dict[str, list[str]]]:
    """Return what a subject heard in every sound."""
    found = []
    for index, sound in enumerate(sounds):
        if index % 24 == 0:
            print(f"{one.name}: {index} of {len(sounds)}", flush=True)
        found.append(heard.get((*one.key, sound.digest), lambda s=sound: one.hear(s.samples)))
    return found


def count(texts: Sequence[str]) -> int:
    """Return how many words texts have."""
    return sum(len(WORD.findall(text)) for text in texts)


if __name__ == "__main__":
    main()
