#!/usr/bin/env python3
"""Measure how many words a quantised bundle changes against its float twin, in five languages, beside faster-whisper.

    make prompt-data
    python profiles/bench/words-by-language.py --float bundles/base-float32 --bundle bundles/base-int8 \
        --bundle bundles/base-int4 --peer FOLDER     # the same weights, for CTranslate2

A multilingual bundle hears each prompt with its language given, every third once more without; another bundle hears
English.
A prompt whose float text changes when noise of 1/1000 of its loudness is added stands on the edge: what becomes of it
says little about rounding, so it is counted apart. What is left once numbers in digits are read out is counted beside,
since "7" and "seven" are one word said. faster-whisper's own INT8 is set against its float32. Texts are kept in --work:
a run that was stopped goes on. Writes JSON and Markdown under profiles/<device>/.
"""

import argparse
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import numpy as np

import edgekit
from edgekit.bundle import hash_file
from edgekit.errors import EdgeKitError
from edgekit.exporter.checks.words import Tally, tally, words_of
from edgekit.profiler.bench import bundle_facts
from edgekit.profiler.clips import Samples
from edgekit.profiler.comparison import Ratio, bootstrap_ratio, make_comparison, save_comparison
from edgekit.profiler.conditions import read_samples
from edgekit.profiler.device import software_digest
from edgekit.profiler.words import Heard, read_references
from edgekit.runtime.answer.lookup import loop_start

ROOT = Path(__file__).resolve().parents[2]
LANGUAGES = ("en", "es", "fr", "it", "ru")
FLOAT, PEER, PEER_INT8 = "float32", "faster-whisper", "faster-whisper int8"
NOISE = 1e-3  # of the root mean square of a prompt's samples
REPEATS = 3  # of a phrase at the end of a text: it loops
EVERY = 3  # prompts of which one is heard without its language
SHOWN = 20  # prompts of which a report lists both texts

Hear = Callable[[Samples, str | None], Mapping[str, str]]


@dataclass(frozen=True)
class Clip:
    """A prompt: its language, its file, and its samples at 16 kHz."""

    language: str
    name: str
    digest: str
    samples: Samples


@dataclass(frozen=True)
class Subject:
    """Something that hears: what could change its answer beside the samples, how it is asked, and its reference."""

    name: str
    key: tuple[str, ...]
    hear: Hear
    against: str = FLOAT


@dataclass
class Found:
    """Texts of one subject by (language, prompt): with the language given, and what it took the language for."""

    texts: dict[tuple[str, str], str] = field(default_factory=dict)
    languages: dict[tuple[str, str], str] = field(default_factory=dict)


def main() -> None:
    """Measure, write and say where."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--float", type=Path, required=True, help="the float bundle")
    parser.add_argument("--bundle", type=Path, action="append", default=[], help="a quantised one; again for another")
    parser.add_argument("--peer", type=Path, help="a folder of the same weights that faster-whisper reads")
    parser.add_argument("--speech", type=Path, default=ROOT / "data/prompts", help="a folder of WAV for each language")
    parser.add_argument("--languages", nargs="+", default=LANGUAGES, choices=LANGUAGES)
    parser.add_argument("--clips", type=Path, default=ROOT / "export/clips", help="sentences with transcripts.json")
    parser.add_argument(
        "--words", type=Path, help="words of English prompts, as `make speech-data WORDS=FILE` writes them: words.tsv"
    )
    parser.add_argument("--limit", type=int, help="take the first prompts of each language only, to try it out")
    parser.add_argument("--allowed", type=float, help="share of words that may change, for the report")
    parser.add_argument("--work", type=Path, default=ROOT / "data/heard/languages.jsonl")
    parser.add_argument("--name", help="of the files written; by default the float bundle's")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=ROOT / "profiles")
    args = parser.parse_args()

    models = {FLOAT: edgekit.load(args.float, threads=args.threads)}
    models |= {kind_of(path): edgekit.load(path, threads=args.threads) for path in args.bundle}
    claimed = tuple(models[FLOAT].manifest.protocol.languages)
    languages = [one for one in args.languages if one in (claimed or ("en",))]
    clips = [clip for language in languages for clip in read_clips(args.speech, language, args.limit)]
    subjects = [subject(name, model) for name, model in models.items()]
    if args.peer:
        subjects += [peer(args.peer, args.threads, "float32"), peer(args.peer, args.threads, "int8")]
    heard = Heard(args.work)
    found = {one.name: listen(one, clips, heard, detects=bool(claimed)) for one in subjects}
    edge = on_the_edge(subjects[0], clips, heard, found[FLOAT])
    sentences = read_sentences(args.clips)
    said = {("en", clip.name): words for clip, words in sentences}
    spoken = {one.name: listen(one, [clip for clip, _ in sentences], heard, detects=bool(claimed)) for one in subjects}
    if args.words:
        listed = read_references(args.words)
        said |= {at: listed[at[1]].words for at in found[FLOAT].texts if at[0] == "en" and at[1] in listed}
    errors = {one: word_errors(said, {**spoken[one].texts, **found[one].texts}) for one in found}
    name = args.name or models[FLOAT].manifest.name
    comparison = make_comparison(
        title=f"Words of {name} by language",
        question="How many words change when the weights are stored in fewer bits, or when another program runs them?",
        settings={
            "Recordings": f"{len(clips)} telephone prompts in {', '.join(languages)}, gate off, "
            + ("language given" if claimed else "English only, as the checkpoint is"),
            "Scoring": "runs of letters and digits, case folded; the float bundle's text is the reference, so this is "
            "agreement, not correctness",
            "Word errors": f"against what was said, of {len(sentences)} read English sentences"
            + (" and of English prompts, of which a list of words was given" if args.words else ""),
            "On the edge": f"prompts whose float text changes at noise of {NOISE:g} of their loudness, counted apart",
            PEER: f"float32 and int8, greedy, beam 1, no timestamps, no fallback; {PEER} {version(PEER)}"
            if args.peer
            else "not run",
        },
        figures=(),
        ratios=[
            *(
                row
                for one in subjects[1:]
                for row in rates(one, found, clips, edge, languages=languages, allowed=args.allowed)
            ),
            *(bootstrap_ratio(f"en, {one}: word errors", *errors[one]) for one in found),
        ],
        definitions={
            "words changed": "Substitutions, deletions and insertions by the words of the float bundle's text; of "
            f"{PEER_INT8} by those of {PEER}.",
            "numbers read out": "The same after numbers in digits became words of the language (num2words).",
            "word errors": "Substitutions, deletions and insertions by the words that a person said.",
            "language taken for another": "Every third prompt, heard without a given language: the share of which the "
            "language was taken for another than the float bundle took it for.",
        },
        bundles={key: bundle_facts(model) for key, model in models.items()},
        packages=("faster-whisper", "ctranslate2", "jiwer", "num2words") if args.peer else ("jiwer", "num2words"),
        notes=[line for one in subjects for line in notes(one, found, clips, edge)],
        details={
            "differing": {
                one.name: differing(found[one.name], found[one.against], clips, edge) for one in subjects[1:]
            },
            "counts": {one.name: counts(one, found, clips, edge, languages) for one in subjects},
            "word_errors": {one: {"wrong": sum(errors[one][0]), "said": sum(errors[one][1])} for one in found},
        },
    )
    print(save_comparison(comparison, args.output, f"{name}-words-by-language"))


def read_clips(speech: Path, language: str, limit: int | None) -> list[Clip]:
    """Return the prompts of a language."""
    paths = sorted((speech / language).rglob("*.wav"))[:limit]
    if not paths:
        raise SystemExit(f"{speech / language}: no WAV files there; `make prompt-data` fetches them")
    return [Clip(language, path.stem, hash_file(path), read_samples(path)) for path in paths]


def read_sentences(folder: Path) -> list[tuple[Clip, str]]:
    """Return the sentences that ship with EdgeKit, with their words."""
    said = json.loads((folder / "transcripts.json").read_text(encoding="utf-8"))
    return [
        (Clip("en", name, hash_file(folder / name), read_samples(folder / name)), words) for name, words in said.items()
    ]


def word_errors(
    said: Mapping[tuple[str, str], str], texts: Mapping[tuple[str, str], str]
) -> tuple[list[float], list[float]]:
    """Return wrong words and words of every recording of which the words are known."""
    counted = [tally(words, texts[at]) for at, words in said.items() if words_of(words)]
    return [one.changed for one in counted], [one.words for one in counted]


def kind_of(path: Path) -> str:
    """Return a bundle's name in the tables: its folder's."""
    return path.resolve().name


def subject(name: str, model: edgekit.Model) -> Subject:
    """Return a bundle as something that hears."""

    def hear(samples: Samples, language: str | None) -> dict[str, str]:
        transcript = model.transcribe(samples, gate="off", language=language)
        return {"text": transcript.text, "language": transcript.language or ""}

    return Subject(name, ("EdgeKit", software_digest(), bundle_facts(model).manifest_sha256), hear)


def peer(folder: Path, threads: int, kind: str) -> Subject:
    """Return faster-whisper with the same weights, in ``kind``; loaded only where a text is not known yet."""
    loaded: list = []

    def hear(samples: Samples, language: str | None) -> dict[str, str]:
        from faster_whisper import WhisperModel

        if not loaded:
            loaded.append(WhisperModel(str(folder), device="cpu", compute_type=kind, cpu_threads=threads))
        segments, info = loaded[0].transcribe(
            samples, language=language, beam_size=1, temperature=0.0, vad_filter=False, without_timestamps=True,
            condition_on_previous_text=False, no_speech_threshold=None, log_prob_threshold=None,
        )  # fmt: skip
        return {"text": "".join(segment.text for segment in segments), "language": info.language}

    versions = f"{version(PEER)}/{version('ctranslate2')}"
    name, against = (PEER, FLOAT) if kind == "float32" else (PEER_INT8, PEER)
    return Subject(name, (name, hash_file(folder / "model.bin"), versions), hear, against)


def listen(one: Subject, clips: Sequence[Clip], heard: Heard, *, detects: bool) -> Found:
    """Return what a subject heard in every prompt."""
    found = Found()
    for index, clip in enumerate(clips):
        if index % 24 == 0:
            print(f"{one.name}: {index} of {len(clips)}", flush=True)
        given = clip.language if detects else None
        at = clip.language, clip.name
        found.texts[at] = ask(one, heard, clip.digest, clip.samples, given)["text"]
        if detects and PEER not in one.name and index % EVERY == 0:
            found.languages[at] = ask(one, heard, clip.digest, clip.samples, None)["language"]
    return found


def ask(one: Subject, heard: Heard, digest: str, samples: Samples, language: str | None) -> Mapping[str, str]:
    """Return what a subject hears, which is computed once."""
    return heard.get((*one.key, digest, language or ""), lambda: one.hear(samples, language))


def on_the_edge(one: Subject, clips: Iterable[Clip], heard: Heard, found: Found) -> set[tuple[str, str]]:
    """Return the prompts whose text changes when the faintest noise is added."""
    edge = set()
    for clip in clips:
        noise = np.random.default_rng(int(clip.digest[:8], 16)).standard_normal(len(clip.samples))
        loudness = float(np.sqrt(np.mean(np.square(clip.samples, dtype=np.float64))))
        noisy = (clip.samples + NOISE * loudness * noise).astype(np.float32)
        given = clip.language if found.languages else None
        text = ask(one, heard, f"{clip.digest} noise {NOISE:g}", noisy, given)["text"]
        if tally(found.texts[clip.language, clip.name], text).changed:
            edge.add((clip.language, clip.name))
    return edge


def tallies(one: Subject, found: Mapping[str, Found], clips: Iterable[Clip], *, read: bool = False) -> list[Tally]:
    """Return words and changed words of each prompt; ``read``: with numbers read out."""

    def text(name: str, clip: Clip) -> str:
        written = found[name].texts[clip.language, clip.name]
        return read_out(written, clip.language) if read else written

    return [tally(text(one.against, clip), text(one.name, clip)) for clip in clips]


def read_out(text: str, language: str) -> str:
    """Return a text in which numbers in digits are words of its language."""
    from num2words import num2words

    return re.sub(r"\d+", lambda number: str(num2words(int(number[0]), lang=language)), text)


def rates(
    one: Subject,
    found: Mapping[str, Found],
    clips: Sequence[Clip],
    edge: set[tuple[str, str]],
    *,
    languages: Sequence[str],
    allowed: float | None,
) -> list[Ratio]:
    """Return the share of words changed in each language, and of languages taken for others."""
    rows, name = [], one.name
    for language in languages:
        own = [clip for clip in clips if clip.language == language]
        firm = [clip for clip in own if (language, clip.name) not in edge]
        title = f"{language}, {name}: words changed"
        rows.append((title, tallies(one, found, firm), allowed))
        rows.append((f"{title}, numbers read out", tallies(one, found, firm, read=True), None))
        if edge_clips := [clip for clip in own if clip not in firm]:
            rows.append((f"{title}, on the edge", tallies(one, found, edge_clips), None))
    firm = [clip for clip in clips if (clip.language, clip.name) not in edge]
    title = f"all languages, {name}: words changed"
    rows.append((title, tallies(one, found, firm), allowed))
    rows.append((f"{title}, numbers read out", tallies(one, found, firm, read=True), None))
    ratios = [
        bootstrap_ratio(title, [one.changed for one in counted], [one.words for one in counted], limit=limit)
        for title, counted, limit in rows
        if sum(one.words for one in counted)
    ]
    if found[name].languages:
        flips = [float(found[name].languages[at] != found[FLOAT].languages[at]) for at in found[name].languages]
        ratios.append(bootstrap_ratio(f"{name}: language taken for another", flips, [1.0] * len(flips)))
    return ratios


def counts(
    one: Subject,
    found: Mapping[str, Found],
    clips: Sequence[Clip],
    edge: set[tuple[str, str]],
    languages: Sequence[str],
) -> dict[str, dict[str, int]]:
    """Return for each language: prompts, words, changed words, prompts on the edge, and empty answers."""
    name = one.name
    rows = {}
    for language in languages:
        own = [clip for clip in clips if clip.language == language]
        firm = [clip for clip in own if (language, clip.name) not in edge]
        counted = sum(tallies(one, found, firm), Tally(0, 0))
        read = sum(tallies(one, found, firm, read=True), Tally(0, 0))
        rows[language] = {
            "clips": len(own),
            "edge": len(own) - len(firm),
            "words": counted.words,
            "changed": counted.changed,
            "changed_read_out": read.changed,
            "empty": sum(not found[name].texts[language, clip.name].strip() for clip in own),
            "looping": sum(loops(found[name].texts[language, clip.name]) for clip in own),
        }
    return rows


def loops(text: str) -> bool:
    """Return whether a text ends in a phrase said again and again."""
    numbers: dict[str, int] = {}
    return loop_start([numbers.setdefault(word, len(numbers)) for word in words_of(text)], REPEATS) is not None


def notes(one: Subject, found: Mapping[str, Found], clips: Sequence[Clip], edge: set[tuple[str, str]]) -> Iterable[str]:
    """Yield what a reader must know of a subject."""
    name, texts = one.name, found[one.name].texts
    for what, is_so in (("empty", lambda text: not text.strip()), ("looping", loops)):
        chosen = [f"{language}/{prompt}" for (language, prompt), text in texts.items() if is_so(text)]
        yield f"{name}: {len(chosen)} {what} answers" + (f": {', '.join(chosen)}." if chosen else ".")
    if name == FLOAT:
        yield f"{len(edge)} of {len(clips)} prompts stand on the edge."
        return
    rows = differing(found[name], found[one.against], clips, edge)
    yield f"{name}: {len(rows)} of {len(clips)} prompts have a changed word; the JSON lists them all."
    for row in rows[:SHOWN]:
        edge_clip = " (on the edge)" if row["edge"] else ""
        yield f"{name}, {row['clip']}{edge_clip}: `{row['reference']}` became `{row['text']}`."


def differing(
    ours: Found, reference: Found, clips: Iterable[Clip], edge: set[tuple[str, str]]
) -> list[dict[str, object]]:
    """Return both texts of every prompt that has a changed word."""
    rows: list[dict[str, object]] = []
    for clip in clips:
        at = clip.language, clip.name
        if tally(reference.texts[at], ours.texts[at]).changed:
            texts = {"reference": reference.texts[at].strip(), "text": ours.texts[at].strip()}
            rows.append({"clip": "/".join(at), "edge": at in edge, **texts})
    return rows


if __name__ == "__main__":
    try:
        main()
    except EdgeKitError as error:
        raise SystemExit(str(error)) from error
