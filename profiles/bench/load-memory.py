#!/usr/bin/env python3
"""Measure how much memory loading and one answer take on the CPU, over sizes and precisions, and fit the least of it.

    python profiles/bench/load-memory.py

Bundles of noise are made under --work, each is loaded and hears five seconds of noise in a process of its own, in
interleaved rounds, and deleted afterwards. Writes JSON and Markdown under profiles/<device>/ and, with --fit FILE, the
slopes by which a run is refused.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import msgspec
import numpy as np

from edgekit.bundle import open_bundle
from edgekit.profiler.comparison import Findings, make_comparison, save_comparison
from edgekit.profiler.fits import write_fit
from edgekit.profiler.footprint import measure_footprint
from edgekit.profiler.fresh import Job
from edgekit.runtime.memory import FILE, weight_bytes

ROOT = Path(__file__).resolve().parents[2]
RECIPE = """name = "noise"
[grid]
mode = "chunked"
chunk_ms = 640
[limits]
weight_error = 0.2
[check]
clips = ["librivox-0930.flac"]
twin_limit_mib = 1
"""
# Width, encoder layers, decoder layers, experts.
SHAPES = {"small": (384, 4, 4, 8), "middle": (1280, 6, 12, 0), "experts": (2560, 1, 3, 8), "encoder": (2560, 8, 1, 0)}
PRECISIONS = ("float32", "int8", "int4")
SPEECH_S, RATE_HZ = 5, 16_000
MIB = 1 << 20
ALLOCATED, RESIDENT, WEIGHTS = "Peak: allocated", "Peak: resident", "Weights"


def main() -> None:
    """Measure, write and say where."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--work", type=Path, help="where bundles go; a temporary folder if absent")
    parser.add_argument("--output", type=Path, default=ROOT / "profiles")
    parser.add_argument("--fit", type=Path, help=f"write the slopes here too; {FILE} is what a run is refused by")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.work) as folder:
        measure(Path(folder), args)


def measure(folder: Path, args: argparse.Namespace) -> None:
    """Make the bundles, load each of them in every round, and write what was found."""
    samples = folder / "samples.npy"
    noise = np.random.default_rng(0).standard_normal(SPEECH_S * RATE_HZ) * 0.05
    np.save(samples, noise.astype(np.float32))
    findings, bundles = Findings(), {}
    for shape in args.shapes:
        for precision in PRECISIONS:
            subject = f"{shape} {precision}"
            print(f"{subject}: export", flush=True)
            bundles[subject] = make_bundle(folder, shape, precision)
            sizes = weight_bytes(open_bundle(bundles[subject], check_hashes=False).manifest)
            findings.add(WEIGHTS, subject, "MiB", sum(sizes.values()) / MIB)
    for index in range(args.rounds):
        print(f"round {index + 1} of {args.rounds}", flush=True)
        for subject, bundle in bundles.items():
            job = Job(str(bundle), str(samples), 1, "off", None)
            command = [sys.executable, "-m", "edgekit.profiler.fresh", msgspec.json.encode(job).decode()]
            _, took = measure_footprint(command)
            findings.add(ALLOCATED, subject, "MiB", took.peak_anonymous_mib)
            findings.add(RESIDENT, subject, "MiB", took.peak_mib)
    fits = {precision: fit(findings, [one for one in bundles if one.endswith(precision)]) for precision in PRECISIONS}
    comparison = make_comparison(
        title="Memory that loading and an answer take on the CPU",
        question="What does a process allocate to load a bundle and answer, and what is the least of it?",
        settings={"Settings": f"{args.rounds} interleaved rounds, 1 thread, {SPEECH_S} s of noise, weights of noise"},
        figures=findings.figures(),
        ratios=[],
        definitions={
            WEIGHTS: "Files of weights of all components.",
            ALLOCATED: "Anonymous memory of the process, the highest of a sample every 50 ms.",
            RESIDENT: "High-water mark of its resident memory, pages of mapped files included.",
            "Fit": "Slope by least squares over the lowest peak of each shape; the base is then lowered until no peak "
            "is below its prediction: what fits is never refused.",
        },
        notes=[
            f"{precision}: allocated at the peak >= {one['weights']:.2f} x weights + {one['base_mib']:.0f} MiB; "
            f"predictions are {one['least']:.2f} to {one['most']:.2f} times the peak."
            for precision, one in fits.items()
        ],
        details={"fit": fits, "shapes": {shape: SHAPES[shape] for shape in args.shapes}},
    )
    report = save_comparison(comparison, args.output, "load-memory")
    print(report)
    if args.fit:
        slopes = {precision: one["weights"] for precision, one in fits.items()}
        write_fit(args.fit, "loading", comparison, report, slopes)


def make_bundle(folder: Path, shape: str, precision: str) -> Path:
    """Return a bundle of noise of this shape."""
    width, encoder, decoder, experts = SHAPES[shape]
    config = {
        "model_type": "whisper", "num_mel_bins": 80, "d_model": width, "max_source_positions": 1500,
        "max_target_positions": 448, "encoder_attention_heads": width // 64, "decoder_attention_heads": width // 64,
        "encoder_layers": encoder, "decoder_layers": decoder, "encoder_ffn_dim": 2 * width, "decoder_ffn_dim": width,
        "vocab_size": 1536, "eos_token_id": 1, "decoder_start_token_id": 2,
        "edgekit": {"encoder_attention": "chunk-causal", "chunk_frames": 32}
        | ({"num_experts": experts, "num_experts_per_tok": experts} if experts else {}),
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "recipe.toml").write_text(RECIPE, encoding="utf-8")
    bundle = folder / f"{shape}-{precision}"
    command = [sys.executable, "-m", "edgekit", "export", str(folder / "config.json"), "-o", str(bundle)]
    command += ["--recipe", str(folder / "recipe.toml"), "--dummy-weights", "--precision", precision]
    measure_footprint(command)
    return bundle


def fit(findings: Findings, subjects: list[str]) -> dict[str, float]:
    """Return the share of the weights that is allocated, the base, and how far predictions are from the peaks."""
    weights = np.array([findings.samples(WEIGHTS, one)[0] for one in subjects])
    peaks = np.array([min(findings.samples(ALLOCATED, one)) for one in subjects])
    slope = round(float(np.polyfit(weights, peaks, 1)[0]), 3) if len(subjects) > 1 else 1.0
    base = float(np.floor((peaks - slope * weights).min()))
    share = (slope * weights + base) / peaks
    return {
        "weights": slope,
        "base_mib": base,
        "least": round(float(share.min()), 3),
        "most": round(float(share.max()), 3),
    }


if __name__ == "__main__":
    main()
