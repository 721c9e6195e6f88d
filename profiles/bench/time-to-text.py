#!/usr/bin/env python3
"""Measure whether the wait after the end of speech grows with how long the user spoke, and what else a device pays.

    python profiles/bench/time-to-text.py --int8 bundles/edgekit-tiny-int8

Joined speech of 2 s, of one whole piece of the bundle's grid and of 30 s goes through it at real time, in interleaved
rounds, gate off; then the same at full speed, silence with the gate on, and a fresh process. Writes JSON and Markdown
under profiles/<device>/.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

import edgekit
from edgekit.profiler.bench import bundle_facts, closing_silence_s
from edgekit.profiler.clips import Clip, faint_noise, join_speech, read_clip
from edgekit.profiler.comparison import Findings, make_comparison, save_comparison
from edgekit.profiler.fresh import Fresh, Job, measure_fresh, measure_import
from edgekit.profiler.pacing import Pacer
from edgekit.profiler.passes import latency_of, run_pass
from edgekit.profiler.profiles import DEFINITIONS

ROOT = Path(__file__).resolve().parents[2]
SHORT, LONG, ANY = "2 s", "30 s", "any length"
LONG_S = 30.0
WITHOUT, WITH = "First token, without the decision", "First token, with the decision"
FINAL = "Final text, without the decision"


def main() -> None:
    """Measure, write and say where."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--int8", type=Path, required=True, help="the bundle to measure")
    parser.add_argument("--clips", type=Path, default=ROOT / "export/clips", help="folder of speech")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=ROOT / "profiles")
    args = parser.parse_args()

    model = edgekit.load(args.int8, threads=args.threads)
    grid, rate_hz = model.manifest.grid, model.manifest.front_end.sample_rate_hz
    hop_s = model.manifest.front_end.hop_samples / rate_hz
    piece_s = (
        grid.max_frames * hop_s - 0.04
    )  # the last whole 20 ms block and one more: the next would begin a new piece
    piece = f"{piece_s:g} s, one piece"
    speech = [read_clip(path, rate_hz) for path in sorted(args.clips.glob("*.flac"))]
    clips = {label: join_speech(speech, seconds) for label, seconds in ((SHORT, 2.0), (piece, piece_s), (LONG, LONG_S))}
    real, fast = Pacer(time.perf_counter), Pacer(time.perf_counter, paced=False)
    findings, notes, decisions = Findings(), [], {}
    for label, clip in clips.items():
        gated = run_pass(model, clip.speech(closing_silence_s(model.manifest)), fast)
        decisions[label] = latency_of(gated, label, clip.speech_end_s).decision_ms
        if len(gated.answers) > 1:
            notes.append(f"{label}: with the gate on it is {len(gated.answers)} utterances.")

    for index in range(args.rounds):
        for label, clip in clips.items():
            print(f"round {index + 1} of {args.rounds}: {label}", flush=True)
            took = latency_of(run_pass(model, clip.samples, real, gate="off"), label, clip.speech_end_s)
            findings.add(WITHOUT, label, "ms", took.first_token_ms)
            findings.add(WITH, label, "ms", took.first_token_ms + decisions[label])
            findings.add(FINAL, label, "ms", took.final_text_ms)
            done = run_pass(model, clip.samples, fast, gate="off")
            findings.add("Real-time factor", label, "s/s", done.work_s / done.audio_s)
            findings.add(
                "Encoder frames computed / received", label, "ratio", done.frames_computed / done.frames_received
            )
        silence = run_pass(model, faint_noise(10.0, rate_hz), fast)
        findings.add("Cost of silence", ANY, "s/s", silence.work_s / silence.audio_s)
        findings.add("Import", ANY, "ms", measure_import())
        fresh = in_fresh_process(args.int8, clips[LONG], args.threads)
        findings.add("Load", ANY, "s", fresh.load_s)
        findings.add("Resident after load", ANY, "MiB", fresh.loaded_mib)
        findings.add("Peak memory", LONG, "MiB", fresh.peak_mib)

    ratios = [
        findings.ratio(f"First token after {long} / after {SHORT}", WITHOUT, long, SHORT, limit=1.3)
        for long in (piece, LONG)
    ]
    frames = done.frames_computed / done.frames_received
    notes += [
        f"{ratio.name}: {ratio.value:.2f}, {'within' if ratio.value <= 1.3 else 'beyond'} the limit of 1.3."
        for ratio in ratios
    ]
    notes.append(
        f"Of 30 s of speech, {frames:.3f} x the received frames go through the encoder: "
        f"{'within' if frames <= 1.1 else 'beyond'} the limit of 1.1."
    )
    piece_s = grid.max_frames * hop_s
    answer = "in one piece" if piece_s >= LONG_S else "in pieces: after it the answer in question is the last piece's"
    notes.append(f"A piece of this grid holds {piece_s:g} s: {LONG_S:g} s of speech are heard {answer}.")
    comparison = make_comparison(
        title=f"Time to text of {model.manifest.name} after short and long speech",
        question="Does the wait after the end of speech grow with the speech, and what does the rest cost?",
        settings={
            "Settings": f"{args.threads} threads, level {model.manifest.levels[-1].name}, {args.rounds} interleaved "
            "rounds, blocks of 20 ms",
            "Pace": "latency at real time, everything else as fast as it is taken",
            "Warm-up": "one pass of every input",
        },
        figures=findings.figures(),
        ratios=ratios,
        definitions={
            WITHOUT: "From the end of the input, which ends in speech, to the first token's text; gate off.",
            WITH: "The same plus the decision: from the last speech sample to the block in which the bundle's gate "
            "closes, in stream time, from one pass followed by silence.",
            FINAL: "From the end of the input to the final text; gate off.",
            "Real-time factor": DEFINITIONS["real_time_factor"].text,
            "Encoder frames computed / received": DEFINITIONS["encoder_frames_ratio"].text,
            "Cost of silence": DEFINITIONS["silence_cost"].text,
            "Import": DEFINITIONS["import_ms"].text,
            "Load": DEFINITIONS["load_s"].text,
            "Resident after load": "Resident set of that process before the first sample.",
            "Peak memory": "Highest resident set of a fresh process that loads the bundle and transcribes the 30 s.",
        },
        bundles={"measured": bundle_facts(model)},
        clips=[clip.facts() for clip in clips.values()],
        notes=notes,
    )
    print(save_comparison(comparison, args.output, f"{model.manifest.name}-time-to-text"))


def in_fresh_process(bundle: Path, clip: Clip, threads: int) -> Fresh:
    """Return what a fresh process takes to load the bundle and transcribe a clip with the gate off."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "samples.npy")
        np.save(path, clip.samples)
        return measure_fresh(Job(str(bundle), str(path), threads, "off", None))


if __name__ == "__main__":
    main()
