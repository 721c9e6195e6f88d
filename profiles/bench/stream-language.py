#!/usr/bin/env python3
"""Measure in which language the utterances of a stream are written, beside each by itself and faster-whisper.

    make prompt-data
    python profiles/bench/stream-language.py --bundle bundles/base-float32 --peer FOLDER   # the same, for CTranslate2

Streams are made of telephone prompts as the speech gate cuts them, in seeded orders: six short sentences of one
language; a minute of one and then a minute of another; the same of short sentences; a minute of one with a word of
another after every second utterance; all prompts of one language. What each utterance alone says of its language is
computed once and kept in --work, so that a rule is tried in seconds: --tune prints a table of constants on one half of
the prompts. The report is of the other half, and of some streams that are played to the bundle. Writes JSON and
Markdown under profiles/<device>/.
"""

import argparse
import hashlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np

import edgekit
from edgekit.bundle import hash_file
from edgekit.profiler.bench import bundle_facts
from edgekit.profiler.clips import Samples
from edgekit.profiler.comparison import Findings, Ratio, bootstrap_ratio, make_comparison, save_comparison
from edgekit.profiler.conditions import read_samples
from edgekit.profiler.device import software_digest
from edgekit.profiler.words import Heard
from edgekit.runtime.answer.cross.languages import CHANGES, ENOUGH_S, LanguageBelief
from edgekit.runtime.engine import Recorded
from edgekit.runtime.events import Text

ROOT = Path(__file__).resolve().parents[2]
RATE_HZ = 16_000
LANGUAGES = ("en", "es", "fr", "it", "ru")
PEER = "faster-whisper"
ALONE, STREAM = "EdgeKit, each utterance by itself", "EdgeKit, the stream"
PEER_ALONE, PEER_FIRST = f"{PEER}, each utterance by itself", f"{PEER}, the first 30 s"
BEFORE_S, AFTER_S, PAUSE_S, MINUTE_S, FIRST_S = 0.5, 1.0, 0.8, 60.0, 30.0
WORD_S, SHORT_S = 1.5, 3.0  # of an utterance as the gate gives it: 0.3 s of it come before the speech
SENTENCES = 6
SIX, MINUTE = "six short sentences", "a minute, then another"
TRIED_CHANGES = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
TRIED_ENOUGH_S = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0)

Rule = Callable[[Sequence["Utterance"]], list[str]]


@dataclass(frozen=True)
class Utterance:
    """What the gate made one: its language, its seconds, what it sounds like (languages,), where it comes from."""

    language: str
    heard_s: float
    logits: np.ndarray
    recording: str
    start_s: float
    peer: str = ""  # the language that the peer takes it for


@dataclass(frozen=True)
class Stream:
    """Utterances one after the other; of ``only`` one language are those that count."""

    kind: str
    utterances: tuple[Utterance, ...]
    only: str | None = None
    changes_at: int | None = None


def main() -> None:
    """Measure, write and say where; or print the table of constants."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, required=True, help="of a multilingual Whisper")
    parser.add_argument("--peer", type=Path, help="a folder of the same weights that faster-whisper reads")
    parser.add_argument("--speech", type=Path, default=ROOT / "data/prompts", help="a folder of WAV for each language")
    parser.add_argument("--short", type=Path, default=ROOT / "data/short-prompts", help="the same of short ones")
    parser.add_argument("--streams", type=int, default=10, help="of each kind for each pair of languages")
    parser.add_argument("--played", type=int, default=2, help="streams with a change that are played to the bundle")
    parser.add_argument("--tune", action="store_true", help="print what other constants do on the half for choosing")
    parser.add_argument("--work", type=Path, default=ROOT / "data/heard/stream-language.jsonl")
    parser.add_argument("--name", help="of the files written; by default the bundle's")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=ROOT / "profiles")
    args = parser.parse_args()

    recordings = read_recordings(args.speech, args.short)
    recordings = {name: path for name, path in recordings.items() if half(path) == (not args.tune)}
    model = edgekit.load(args.bundle, threads=args.threads)
    if missing := set(LANGUAGES) - set(model.manifest.protocol.languages):
        raise SystemExit(f"{args.bundle}: does not hear {', '.join(sorted(missing))}; give a multilingual bundle")
    heard = Heard(args.work)
    peer = None if args.tune or args.peer is None else Peer(args.peer, args.threads)
    utterances = listen(model, recordings, heard, peer)
    streams = make_streams(utterances, args.streams)
    names = list(model.manifest.protocol.languages)
    if args.tune:
        tune(streams, names)
        return

    rules: dict[str, Rule] = {ALONE: alone(names), STREAM: followed(names)}
    if peer is not None:
        rules[PEER_ALONE] = lambda told: [one.peer for one in told]
    written = {name: [(one, rule(one.utterances)) for one in streams] for name, rule in rules.items()}
    if peer is not None:
        one_each = {(one.kind, one.utterances[0].language, one.utterances[-1].language): one for one in streams}
        firsts = [(one, peer.first(one.utterances, recordings, heard)) for one in one_each.values()]
        written[PEER_FIRST] = [(one, [language] * len(one.utterances)) for one, language in firsts]
    changing_streams = [one for one in streams if one.kind == MINUTE]
    played = play(model, changing_streams[:: max(1, args.streams)], recordings, names, args.played)
    findings = Findings()
    for name, pairs in written.items():
        for one, told in pairs:
            if one.changes_at is not None:
                title = f"{one.kind}: utterances until the change is followed"
                findings.add(title, name, "utterances", lateness(one, told))
    comparison = make_comparison(
        title=f"The language of streams: {model.manifest.name}",
        question="In which language are the utterances of a stream written, and how soon does a change of it show?",
        settings={
            "Streams": f"{len(streams)} of {len({one.recording for one in utterances})} prompts, {len(utterances)} "
            f"utterances, in {', '.join(LANGUAGES)}; the half of the prompts that no constant was chosen by",
            "Constants": f"changes of language {CHANGES:g}, speech that tells one by itself {ENOUGH_S:g} s",
            PEER: f"float32, detect_language of each utterance and of the first {FIRST_S:g} s; {version(PEER)}"
            if peer
            else "not run",
        },
        figures=findings.figures(),
        ratios=[ratio for name, pairs in written.items() for ratio in rates(name, pairs)],
        definitions={
            "in the right language": "Share of the utterances of a stream that are written in their language; "
            "words of another language between them are not counted.",
            "words followed": "Share of the words of another language that are not written in the stream's own.",
            "until the change is followed": "Utterances after the change that come before the first in the right one.",
            "by the second utterance": "Share of changes that the second utterance at the latest follows.",
        },
        bundles={STREAM: bundle_facts(model)},
        packages=("faster-whisper", "ctranslate2") if peer else (),
        notes=[*played, *examples(written)],
        details={"streams": {kind: sum(one.kind == kind for one in streams) for kind in kinds(streams)}},
    )
    print(save_comparison(comparison, args.output, f"{args.name or model.manifest.name}-stream-language"))


def read_recordings(*folders: Path) -> dict[str, Path]:
    """Return language and name of every prompt."""
    found = {}
    for folder in folders:
        for language in LANGUAGES:
            paths = sorted((folder / language).rglob("*.wav"))
            if not paths:
                raise SystemExit(f"{folder / language}: no WAV files there; `make prompt-data` fetches them")
            found |= {f"{language}/{path.relative_to(folder / language)}": path for path in paths}
    return found


def half(path: Path) -> bool:
    """Return whether a prompt is of the half that is reported; one name is on one side in all languages."""
    return bool(hashlib.sha256(path.name.encode()).digest()[-1] % 2)


def listen(model: edgekit.Model, recordings: Mapping[str, Path], heard: Heard, peer: "Peer | None") -> list[Utterance]:
    """Return the utterances of every recording, each heard by itself."""
    key = ("EdgeKit", software_digest(runtime=ROOT / "edgekit/runtime/hear"), bundle_facts(model).manifest_sha256)
    utterances = []
    for index, (name, path) in enumerate(recordings.items()):
        if index % 24 == 0:
            print(f"{index} of {len(recordings)}", flush=True)
        found = heard.get((*key, hash_file(path)), lambda p=path: {"utterances": sounds_like(model, read_samples(p))})
        for one in found["utterances"]:
            utterance = Utterance(
                name[:2], one["end_s"] - one["start_s"], np.array(one["logits"], np.float32), name, one["start_s"]
            )
            if peer is not None:
                utterance = replace(utterance, peer=peer.language(samples_of(utterance, recordings), heard))
            utterances.append(utterance)
    return utterances


def sounds_like(model: edgekit.Model, samples: Samples) -> list[dict[str, object]]:
    """Return start, end and the languages' logits of what the speech gate makes of a recording."""
    recorded = Recorded(model.engines["backbone"])
    watched = replace(model, engines={**model.engines, "backbone": recorded})
    stream = watched.stream(gate="speech", language="auto", max_tokens=1)
    padded = np.concatenate([np.zeros(round(BEFORE_S * RATE_HZ)), samples, np.zeros(round(AFTER_S * RATE_HZ))])
    events = [*stream.push(padded.astype(np.float32)), *stream.finish()]
    texts = [event for event in events if isinstance(event, Text) and event.final]
    begun = [outputs["logits"][-1] for inputs, outputs in recorded.calls if int(inputs["start"][0]) == 0]
    tokens = list(model.manifest.protocol.languages.values())
    return [
        {
            "start_s": text.start_s - BEFORE_S,
            "end_s": text.end_s - BEFORE_S,
            "logits": [round(float(one), 4) for one in logits[tokens]],
        }
        for text, logits in zip(texts, begun, strict=True)
    ]


def samples_of(one: Utterance, recordings: Mapping[str, Path]) -> Samples:
    """Return the samples of an utterance."""
    first = max(0, round(one.start_s * RATE_HZ))
    return read_samples(recordings[one.recording])[first : first + round(one.heard_s * RATE_HZ)]


class Peer:
    """faster-whisper with the same weights; loaded only where a language is not known yet."""

    def __init__(self, folder: Path, threads: int) -> None:
        self._folder, self._threads = folder, threads
        self._key = (PEER, hash_file(folder / "model.bin"), version(PEER), version("ctranslate2"), "language")
        self._loaded: list = []

    def language(self, samples: Samples, heard: Heard) -> str:
        """Return what it takes samples for: as published, by the first 30 s."""
        samples = samples[: round(FIRST_S * RATE_HZ)]

        def hear() -> dict[str, str]:
            from faster_whisper import WhisperModel

            if not self._loaded:
                self._loaded.append(
                    WhisperModel(str(self._folder), device="cpu", compute_type="float32", cpu_threads=self._threads)
                )
            return {"language": self._loaded[0].detect_language(samples)[0]}

        return heard.get((*self._key, hashlib.sha256(samples.tobytes()).hexdigest()), hear)["language"]

    def first(self, told: Sequence[Utterance], recordings: Mapping[str, Path], heard: Heard) -> str:
        """Return what it takes a stream for."""
        return self.language(joined(told, recordings, FIRST_S), heard)


def joined(told: Sequence[Utterance], recordings: Mapping[str, Path], at_most_s: float = float("inf")) -> Samples:
    """Return utterances as one recording, with pauses."""
    parts, length_s = [], 0.0
    for one in told:
        if length_s >= at_most_s:
            break
        parts += [samples_of(one, recordings), np.zeros(round(PAUSE_S * RATE_HZ), np.float32)]
        length_s += one.heard_s + PAUSE_S
    return np.concatenate(parts)


def make_streams(utterances: Sequence[Utterance], count: int) -> list[Stream]:
    """Return the streams, the same ones for the same prompts."""
    said = Said(utterances)
    streams = []
    for language in LANGUAGES:
        streams += [Stream(SIX, said.some(said.short[language], SENTENCES)) for _ in range(4 * count)]
        streams += [Stream("all of one language", said.some(said.long[language])) for _ in range(count)]
    for language, other in itertools.permutations(LANGUAGES, 2):
        for _ in range(count):
            minute = said.minute(language)
            streams.append(changing(MINUTE, minute, said.minute(other)))
            first, then = (said.some(said.short[one], 2 * SENTENCES) for one in (language, other))
            streams.append(changing("short, then another", first, then))
            words = said.some(said.words[other])
            told = [
                one
                for place, each in enumerate(minute)
                for one in (each, words[place // 2 % len(words)])[: 1 + place % 2]
            ]
            streams.append(Stream("words of another between", tuple(told), language))
    return streams


class Said:
    """Utterances by language, drawn in a seeded order: words, short sentences, and all that is longer."""

    def __init__(self, utterances: Sequence[Utterance]) -> None:
        parts = Counter(one.recording for one in utterances)
        self.words, self.short, self.long = {}, {}, {}
        for language in LANGUAGES:
            own = [one for one in utterances if one.language == language]
            single = [one for one in own if parts[one.recording] == 1]
            self.words[language] = [one for one in single if one.heard_s < WORD_S]
            self.short[language] = [one for one in single if WORD_S <= one.heard_s < SHORT_S]
            self.long[language] = [one for one in own if parts[one.recording] > 1 or one.heard_s >= SHORT_S]
        self._rng = np.random.default_rng(0)

    def some(self, of: Sequence[Utterance], number: int | None = None) -> tuple[Utterance, ...]:
        """Return so many of these utterances, each once; by default all."""
        return tuple(of[place] for place in self._rng.permutation(len(of))[:number])

    def minute(self, language: str) -> tuple[Utterance, ...]:
        """Return utterances of a minute, pauses included."""
        told = self.some(self.long[language])
        ends = np.cumsum([one.heard_s + PAUSE_S for one in told])
        return told[: 1 + int(np.searchsorted(ends, MINUTE_S))]


def changing(kind: str, first: tuple[Utterance, ...], then: tuple[Utterance, ...]) -> Stream:
    """Return a stream in one language and then in another."""
    return Stream(kind, first + then, changes_at=len(first))


def kinds(streams: Sequence[Stream]) -> list[str]:
    """Return the kinds of streams, in their order."""
    return list(dict.fromkeys(one.kind for one in streams))


def alone(names: Sequence[str]) -> Rule:
    """Return the rule that takes each utterance for the likeliest language."""
    return lambda told: [names[int(np.argmax(one.logits))] for one in told]


def followed(names: Sequence[str], changes: float = CHANGES, enough_s: float = ENOUGH_S) -> Rule:
    """Return EdgeKit's rule, with other constants if they are given."""

    def rule(told: Sequence[Utterance]) -> list[str]:
        belief, found = LanguageBelief(len(names), changes, enough_s), []
        for one in told:
            belief.note(belief.weighed(one.logits, one.heard_s))
            found.append(names[int(np.argmax(belief.mark()))])
        return found

    return rule


def lateness(one: Stream, told: Sequence[str]) -> int:
    """Return how many utterances after the change come before the first in the right language."""
    pairs = zip(one.utterances[one.changes_at :], told[one.changes_at :], strict=True)
    followed_by = [said.language == found for said, found in pairs]
    return followed_by.index(True) if True in followed_by else len(followed_by)


def right(one: Stream, told: Sequence[str]) -> tuple[int, int]:
    """Return how many utterances that count are in the right language, and how many count."""
    pairs = [
        said.language == found
        for said, found in zip(one.utterances, told, strict=True)
        if one.only in {None, said.language}
    ]
    return sum(pairs), len(pairs)


def rates(name: str, pairs: Sequence[tuple[Stream, Sequence[str]]]) -> Iterator[Ratio]:
    """Yield what became of each kind of streams under one rule."""
    for kind in dict.fromkeys(one.kind for one, _ in pairs):
        own = [(one, told) for one, told in pairs if one.kind == kind]
        counted = [right(one, told) for one, told in own]
        title = f"{kind}, {name}"
        yield bootstrap_ratio(f"{title}: in the right language", *map(list, zip(*counted, strict=True)))
        if own[0][0].changes_at is not None:
            in_time = [lateness(one, told) <= 1 for one, told in own]
            yield bootstrap_ratio(f"{title}: by the second utterance", in_time, [1] * len(own))
        if own[0][0].only is not None:
            words = [[found != one.only for found in between(one, told)] for one, told in own]
            yield bootstrap_ratio(
                f"{title}: words followed", [sum(each) for each in words], [len(each) for each in words]
            )


def between(one: Stream, told: Sequence[str]) -> list[str]:
    """Return what the words of another language, between a stream's own sentences, are written in."""
    return [found for said, found in zip(one.utterances, told, strict=True) if said.language != one.only]


def tune(streams: Sequence[Stream], names: Sequence[str]) -> None:
    """Print what other constants do."""
    for constants in [None, *itertools.product(TRIED_CHANGES, TRIED_ENOUGH_S)]:
        rule = alone(names) if constants is None else followed(names, *constants)
        found = {ratio.name: ratio.value for ratio in rates("", [(one, rule(one.utterances)) for one in streams])}
        if constants is None:
            print("\n".join(f"{place}: {name.replace(', :', ':')}" for place, name in enumerate(found)))
            print(f"{'changes':>8} {'enough_s':>8}  " + "  ".join(f"{place:>6}" for place in range(len(found))))
        first, second = constants or ("alone", "")
        print(f"{first:>8} {second:>8}  " + "  ".join(f"{value:.4f}" for value in found.values()), flush=True)


def play(
    model: edgekit.Model, streams: Sequence[Stream], recordings: Mapping[str, Path], names: Sequence[str], count: int
) -> list[str]:
    """Return, of streams played to the bundle, how many texts are in the language that is expected of them."""
    lines = []
    for one in streams[:count]:
        stream = model.stream(gate="speech", language="auto")
        events = []
        samples = joined(one.utterances, recordings)
        for first in range(0, len(samples), RATE_HZ):
            events += stream.push(samples[first : first + RATE_HZ])
        events += stream.finish()
        found = [event.language for event in events if isinstance(event, Text) and event.final]
        expected = followed(names)(one.utterances)
        lines.append(
            f"Played to the bundle, {one.kind}: {' '.join(map(str, found))}; expected from its utterances one by one: "
            f"{' '.join(expected)}."
        )
    return lines


def examples(written: Mapping[str, Sequence[tuple[Stream, Sequence[str]]]]) -> Iterator[str]:
    """Yield the first six short sentences that a rule gets wrong."""
    for name, pairs in written.items():
        wrong = [(one, told) for one, told in pairs if one.kind == SIX and right(one, told)[0] < SENTENCES]
        for one, told in wrong[:1]:
            yield f"{SIX}, {name}: {one.utterances[0].language} was heard as {', '.join(told)}."


if __name__ == "__main__":
    main()
