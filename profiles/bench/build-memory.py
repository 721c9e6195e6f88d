#!/usr/bin/env python3
"""Measure how much memory `edgekit build` takes, over sizes and precisions, and fit what it is predicted by.

    python profiles/bench/build-memory.py

Bundles of noise are made under --work, built in interleaved rounds, each in a process of its own whose memory is
watched from outside, and deleted afterwards. Needs TensorRT for RTX and no GPU. Writes JSON and Markdown under
profiles/<device>/ and, with --fit FILE, the fit by which a build is refused.
"""

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.bundle import open_bundle
from edgekit.profiler.comparison import Findings, make_comparison, save_comparison
from edgekit.profiler.fits import write_fit
from edgekit.profiler.footprint import measure_footprint
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
SHAPES = {
    "small": (384, 4, 4, 8),
    "deep": (512, 6, 24, 0),
    "middle": (1280, 6, 12, 0),
    "experts": (2560, 1, 3, 8),
    "encoder": (2560, 8, 1, 0),
    "wide": (4096, 1, 6, 4),
}
# A published config; in float32 its backbone takes more memory than most machines that build have.
SYSTEM, SYSTEM_PRECISIONS = "step-audio-2-mini", ("int4", "int8")
CONFIGS = ROOT / "profiles/data/configs"
PRECISIONS = ("int4", "int8", "float32")
MIB = 1 << 20
ALLOCATED, RESIDENT = "Peak: allocated", "Peak: resident"
WEIGHTS, GRAPH = "Largest component: weights", "Largest component: graph"


def main() -> None:
    """Measure, write and say where."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shapes", nargs="+", choices=[*SHAPES, SYSTEM], default=[*SHAPES, SYSTEM])
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--name", default="build-memory", help="of the files to write")
    parser.add_argument("--target", default="desktop-rtx")
    parser.add_argument("--work", type=Path, help="where bundles and plans go; a temporary folder if absent")
    parser.add_argument("--output", type=Path, default=ROOT / "profiles")
    parser.add_argument("--fit", type=Path, help=f"write the fit here too; {FILE} is what a build is refused by")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.work) as folder:
        measure(Path(folder), args)


def measure(folder: Path, args: argparse.Namespace) -> None:
    """Make the bundles, build each of them in every round, and write what was found."""
    bundles = {}
    for shape in args.shapes:
        for precision in args.precisions:
            if shape == SYSTEM and precision not in SYSTEM_PRECISIONS:
                continue
            subject = f"{shape} {precision}"
            print(f"{subject}: export", flush=True)
            bundles[subject] = make_bundle(folder, shape, precision, args.target)
    findings, others = Findings(), []
    for subject, bundle in bundles.items():
        manifest = open_bundle(bundle, check_hashes=False).manifest
        sizes = weight_bytes(manifest)
        largest = max(sizes, key=lambda name, sizes=sizes: sizes[name])
        findings.add("Weights", subject, "MiB", sum(sizes.values()) / MIB)
        findings.add(WEIGHTS, subject, "MiB", sizes[largest] / MIB)
        graph = bundle / manifest.components[largest].graph
        findings.add(GRAPH, subject, "MiB", graph.stat().st_size / MIB)
    for index in range(args.rounds):
        print(f"round {index + 1} of {args.rounds}", flush=True)
        for subject, bundle in bundles.items():
            command = [sys.executable, "-m", "edgekit", "build", str(bundle), "--target", args.target]
            _, took = measure_footprint([*command, "-o", str(folder / "plans")])
            shutil.rmtree(folder / "plans")
            findings.add(ALLOCATED, subject, "MiB", took.peak_anonymous_mib)
            findings.add(RESIDENT, subject, "MiB", took.peak_mib)
            findings.add("Time", subject, "s", took.wall_s)
            others.append(took.others_cores)
    fits = {
        precision: fit(findings, [one for one in bundles if one.endswith(precision)]) for precision in args.precisions
    }
    comparison = make_comparison(
        title="Memory that building plans takes",
        question="What does `edgekit build` take at its peak, and how well is it predicted from the bundle?",
        settings={
            "Settings": f"{args.rounds} interleaved rounds, target {args.target}, weights of noise, no GPU",
            "Other work": f"{np.median(others):.1f} cores busy with it on average",
        },
        figures=findings.figures(),
        ratios=[],
        definitions={
            WEIGHTS: "Its file of weights. Components are built one after the other in one process.",
            GRAPH: "Its file without weights, which grows with the number of nodes.",
            ALLOCATED: "Anonymous memory of the process, the highest of a sample every 50 ms: what would be swapped.",
            RESIDENT: "High-water mark of its resident memory: the weights' file is mapped too, whose pages the system "
            "may drop and read again.",
            "Time": "Of the whole command. No figure of speed: it is for a look at how long the samples had.",
            "Fit": "Least squares over the highest peak of each shape, no slope below 0; the base is then raised "
            "until no peak is above its prediction.",
        },
        packages=("tensorrt-rtx", "tensorrt-rtx-cu13-libs"),
        notes=[
            f"{precision}: allocated at the peak = {one['weights']:.2f} x weights + {one['graph']:.0f} x graph + "
            f"{one['base_mib']:.0f} MiB; predictions are {one['least']:.2f} to {one['most']:.2f} times the peak."
            for precision, one in fits.items()
        ],
        details={"fit": fits, "shapes": {shape: SHAPES[shape] for shape in args.shapes if shape in SHAPES}},
    )
    report = save_comparison(comparison, args.output, args.name)
    print(report)
    if args.fit:
        parts = ("weights", "graph", "base_mib")
        peaks = {precision: {part: one[part] for part in parts} for precision, one in fits.items()}
        write_fit(args.fit, "building", comparison, report, peaks)


def make_bundle(folder: Path, shape: str, precision: str, target: str) -> Path:
    """Return a bundle of noise of this shape."""
    bundle = folder / f"{shape}-{precision}"
    command = [sys.executable, "-m", "edgekit", "export", "-o", str(bundle), "--target", target, "--dummy-weights"]
    command += ["--precision", precision]
    if shape == SYSTEM:
        measure_footprint([*command, str(CONFIGS / f"{SYSTEM}.json")])
        return bundle
    width, encoder, decoder, experts = SHAPES[shape]
    config: dict[str, Any] = {
        "model_type": "whisper", "num_mel_bins": 80, "d_model": width, "max_source_positions": 1500,
        "max_target_positions": 448, "encoder_attention_heads": width // 64, "decoder_attention_heads": width // 64,
        "encoder_layers": encoder, "decoder_layers": decoder, "encoder_ffn_dim": 2 * width, "decoder_ffn_dim": width,
        "vocab_size": 1536, "eos_token_id": 1, "decoder_start_token_id": 2,
        "edgekit": {"encoder_attention": "chunk-causal", "chunk_frames": 32}
        | ({"num_experts": experts, "num_experts_per_tok": experts} if experts else {}),
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "recipe.toml").write_text(RECIPE, encoding="utf-8")
    measure_footprint([*command, str(folder / "config.json"), "--recipe", str(folder / "recipe.toml")])
    return bundle


def fit(findings: Findings, subjects: list[str]) -> dict[str, float]:
    """Return what a MiB of weights and one of graph add to the peak, the base, and how far predictions are from it."""
    peaks = np.array([max(findings.samples(ALLOCATED, one)) for one in subjects])
    known = np.array([[findings.samples(name, one)[0] for name in (WEIGHTS, GRAPH)] for one in subjects])
    columns = np.hstack([known, np.ones((len(subjects), 1))])
    slopes = np.maximum(np.linalg.lstsq(columns, peaks, rcond=None)[0][:2], 0.0).round(2)
    base = np.ceil((peaks - known @ slopes).max())
    share = (known @ slopes + base) / peaks
    return {
        "weights": float(slopes[0]),
        "graph": float(slopes[1]),
        "base_mib": float(base),
        "least": round(float(share.min()), 3),
        "most": round(float(share.max()), 3),
    }


if __name__ == "__main__":
    main()
