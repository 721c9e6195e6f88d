#!/usr/bin/env python3
"""Count the words that a quantised bundle changes against its float twin, in each language that it claims.

    make languages-data
    python profiles/bench/words-by-language.py --bundle bundles/whisper-base-int8 --float bundles/whisper-base-float32

Of each language, recorded prompts in an order drawn by their names, until the float bundle has written --words words;
the recordings that the export judges by are left out. The language is given. Counted apart: clips whose float text
changes when noise of 1e-3 of full scale is added, which say nothing of rounding; and clips in which the bundle, not
told the language, recognises another than the float bundle does. Every text is kept in --work, so a run that was
stopped goes on; another bundle or EdgeKit starts afresh. Writes JSON and Markdown under profiles/<device>/.
"""

import argparse
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

import edgekit
from edgekit.errors import EdgeKitError
from edgekit.profiler.bench import bundle_facts
from edgekit.profiler.clips import Samples
from edgekit.profiler.comparison import Ratio, bootstrap_ratio, make_comparison, save_comparison
from edgekit.profiler.conditions import RATE_HZ, read_samples
from edgekit.profiler.device import software_digest
from edgekit.profiler.words import Heard, changed_words
from edgekit.recordings import recordings
from edgekit.runtime.engine import Recorded
from edgekit.runtime.judge.probe import answer, hear

ROOT = Path(__file__).resolve().parents[2]
LANGUAGES = ("en", "es", "fr", "it", "ru")
NOISE = 1e-3  # deviation, of full scale
SHORTEST_S, LONGEST_S = 1.2, 28.0  # single digits and letters say little of words; one window holds the longest
MADE = "make languages-data fetches them"


@dataclass(frozen=True)
class Clip:
    """One recording: its language, and what both bundles make of it, words changed / words of the float text.

    ``by_noise``: words of the float text that noise changes; ``taken``: the language that each recognises.
    """

    name: str
    language: str
    words: int
    changed: int
    by_noise: int
    texts: dict[str, str]
    taken: dict[str, str]

    @property
    def steady(self) -> bool:
        """Whether noise leaves the float text as it is."""
        return not self.by_noise


class Subject:
    """A bundle, with what it heard kept under all that could change it."""

    def __init__(self, path: Path, kept: Heard, threads: int) -> None:
        self.model = edgekit.load(path, threads=threads)
        self.facts = bundle_facts(self.model)
        self._kept, self._software = kept, software_digest()

    def hear(self, samples: Samples, language: str, *, free: bool) -> dict[str, str]:
        """Return the ``text`` of a clip in a language, and if ``free`` the language that is ``taken`` untold."""
        digest = hashlib.sha256(samples.tobytes()).hexdigest()
        key = (self._software, self.facts.manifest_sha256, language, str(free), digest)
        return {
            name: str(told) for name, told in self._kept.get(key, lambda: self._hear(samples, language, free)).items()
        }

    def _hear(self, samples: Samples, language: str, free: bool) -> dict[str, str]:
        heard = hear(self.model, samples)
        known = self.model.manifest.protocol.languages
        told = {"text": answer(self.model, heard, language=language if known else None).text}
        if free and known:
            backbone = Recorded(self.model.engines["backbone"])
            answer(replace(self.model, engines=self.model.engines | {"backbone": backbone}), heard)
            _, first = backbone.calls[0]  # the call that a language is chosen by
            told["taken"] = max(known, key=lambda name: first["logits"][-1, known[name]])
        return told


def main() -> None:
    """Measure, write and say where."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, required=True, help="the quantised one")
    parser.add_argument("--float", type=Path, required=True, help="its float twin")
    parser.add_argument("--speech", type=Path, default=ROOT / "data", help="holds asterisk-LANGUAGE, folders of WAV")
    parser.add_argument("--languages", nargs="+", default=LANGUAGES, help="of these, those that the bundle has")
    parser.add_argument("--words", type=int, default=500, help="words of each language, at least")
    parser.add_argument("--work", type=Path, default=ROOT / "data/heard/words-by-language.jsonl")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=ROOT / "profiles")
    parser.add_argument(
        "--name", help="of the files written; by default the bundle's name, its precision and -languages"
    )
    args = parser.parse_args()

    for language in args.languages:
        if not any((args.speech / f"asterisk-{language}").rglob("*.wav")):
            raise SystemExit(f"{args.speech / f'asterisk-{language}'}: no WAV files there; {MADE}")
    kept = Heard(args.work)
    subjects = {"float32": Subject(args.float, kept, args.threads), "bundle": Subject(args.bundle, kept, args.threads)}
    manifest = subjects["bundle"].model.manifest
    offered = manifest.protocol.languages or manifest.recipe["check"]["languages"]
    spoken = [language for language in args.languages if language in offered]
    if not spoken:
        raise SystemExit(f"{args.bundle}: has none of {', '.join(args.languages)}; name others with --languages")
    found: list[Clip] = []
    for language in spoken:
        for clip in compared(subjects, args.speech / f"asterisk-{language}", language):
            found.append(clip)
            words = sum(one.words for one in found if one.language == language)
            print(f"{language}: {words} of {args.words} words, {clip.changed} changed in {clip.name}", flush=True)
            if words >= args.words:
                break
    kinds = sorted({kind for kind in manifest.precision.values() if kind != "float32"})
    comparison = make_comparison(
        title=f"Words of {manifest.name} in {' and '.join(kinds).upper() or 'float32'} against float32",
        question="How many words does quantising change, in each language, where the language is given?",
        settings={
            "Precision": ", ".join(f"{group} {kind}" for group, kind in sorted(manifest.precision.items())),
            "Recordings": f"{len(found)} telephone prompts, one speaker a language; gate off, greedy, language given",
            "Scoring": "Whisper's normalisers on both sides (its English one for en, its basic one for others); the "
            "float text is the reference, so this is agreement, not correctness",
            "Noise": f"deviation {NOISE:g} of full scale, drawn by the clip's name",
        },
        figures=(),
        ratios=[ratio for language in (*spoken, "all") for ratio in ratios_of(language, found)],
        definitions={
            "words changed": "Substitutions, deletions and insertions by the words of the float text, in the clips "
            "whose float text noise leaves as it is.",
            "words changed, unsteady clips": "The same in the clips whose float text noise changes.",
            "words that noise changes": "In the float text, by the words of all clips.",
            "clips taken for another language": "By the bundle than by its float twin, untold, by clips.",
        },
        bundles={name: subject.facts for name, subject in subjects.items()},
        packages=("jiwer", "whisper-normalizer"),
        notes=list(notes_of(spoken, found)),
        details={
            "changed": [
                {"clip": f"{one.language}/{one.name}", "steady": one.steady, "words": one.words, "changed": one.changed}
                | one.texts
                for one in found
                if one.changed
            ],
            "taken": [{"clip": f"{one.language}/{one.name}"} | one.taken for one in found if flipped(one)],
            "clips": [f"{one.language}/{one.name}" for one in found],
        },
    )
    name = args.name or "-".join([manifest.name, *kinds, "languages"])
    print(save_comparison(comparison, args.output, name))


def compared(subjects: dict[str, Subject], folder: Path, language: str) -> Iterator[Clip]:
    """Yield what both make of the recordings of one language, in an order drawn by their names."""
    judges = {one.path.stem for one in recordings().values()}
    paths = {path.relative_to(folder).with_suffix("").as_posix(): path for path in folder.rglob("*.wav")}
    for name in sorted(paths, key=lambda name: hashlib.sha256(name.encode()).hexdigest()):
        samples = read_samples(paths[name])
        if f"{language}-{name}" in judges or not SHORTEST_S <= len(samples) / RATE_HZ <= LONGEST_S:
            continue
        told = {kind: subject.hear(samples, language, free=True) for kind, subject in subjects.items()}
        expected = told["float32"]["text"]
        changed, words = changed_words(expected, told["bundle"]["text"], language)
        if not words:
            continue
        seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
        noise = np.random.default_rng(seed).normal(0, NOISE, len(samples)).astype(np.float32)
        noisy = subjects["float32"].hear(samples + noise, language, free=False)["text"]
        yield Clip(
            name=name,
            language=language,
            words=words,
            changed=changed,
            by_noise=changed_words(expected, noisy, language)[0],
            texts={kind: heard["text"] for kind, heard in told.items()},
            taken={kind: heard["taken"] for kind, heard in told.items() if "taken" in heard},
        )


def flipped(clip: Clip) -> bool:
    """Return whether the bundle takes a clip for another language than its float twin does."""
    return len(set(clip.taken.values())) > 1


def ratios_of(language: str, found: Sequence[Clip]) -> Iterator[Ratio]:
    """Yield the shares of one language, or of ``all``, each with its interval over clips."""
    of = [clip for clip in found if language in (clip.language, "all")]
    steady, others = ([clip for clip in of if clip.steady is kind] for kind in (True, False))
    for name, clips in (("words changed", steady), ("words changed, unsteady clips", others)):
        if clips:
            yield bootstrap_ratio(
                f"{language}: {name}", [clip.changed for clip in clips], [clip.words for clip in clips]
            )
    yield bootstrap_ratio(
        f"{language}: words that noise changes", [clip.by_noise for clip in of], [clip.words for clip in of]
    )
    if all(clip.taken for clip in of):
        yield bootstrap_ratio(
            f"{language}: clips taken for another language", [flipped(clip) for clip in of], [1.0] * len(of)
        )


def notes_of(languages: Sequence[str], found: Sequence[Clip]) -> Iterator[str]:
    """Yield a line for each language: clips, words, changed ones, and the clips that are counted apart."""
    for language in languages:
        of = [clip for clip in found if clip.language == language]
        steady, others = ([clip for clip in of if clip.steady is kind] for kind in (True, False))
        yield (
            f"{language}: {sum(clip.changed for clip in steady)} of {sum(clip.words for clip in steady)} words changed "
            f"in {len(steady)} steady clips; {len(others)} clips with {sum(clip.words for clip in others)} words are "
            f"unsteady; {sum(map(flipped, of))} are taken for another language."
        )


if __name__ == "__main__":
    try:
        main()
    except EdgeKitError as error:
        raise SystemExit(str(error)) from error
