#!/usr/bin/env python3
"""Measure what a scale for each row of an encoder linear's input saves, and prove the estimate that exports choose by.

    python profiles/bench/encoder-finer.py CHECKPOINT

Encoders of a checkpoint are written as an export writes them: in float32, in INT8 with one scale for all rows, with one
more linear by rows at each step in the order of the estimate, as an export chooses, and with all by rows. Each hears
the first check clip of each of --languages, in interleaved rounds. Then each of the linears --proved by rows alone, all
others coarse: what is really saved, beside the estimate. Writes JSON and Markdown under profiles/<device>/.
"""

import argparse
import tempfile
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekit.bundle import Precision
from edgekit.exporter.blocks import ROWS
from edgekit.exporter.dialects import DIALECTS
from edgekit.exporter.finer import MOST_WORK, Strain, choose, measure
from edgekit.exporter.graph import GraphWriter
from edgekit.exporter.options import find_recipe
from edgekit.exporter.source import Source, checkpoint_source
from edgekit.exporter.weights import Weights
from edgekit.profiler.clips import read_clip
from edgekit.profiler.comparison import Findings, make_comparison, save_comparison
from edgekit.recipe import EncoderFiner, Recipe
from edgekit.recordings import named
from edgekit.runtime.backends.ort import OrtEngine, open_graph
from edgekit.runtime.hear.listener import Listener
from edgekit.spans import ENCODER
from edgekit.timing import Trace

ROOT = Path(__file__).resolve().parents[2]
DIALECT = DIALECTS.get("ort-cpu")
FLOAT, COARSE, CHOSEN, ALL = "float32", "one scale for all rows", "as an export chooses", "every linear by rows"
ERROR, TIME, SIZE = "Error of the frames of speech", "Encoder, a clip", "Weights"
Floats = NDArray[np.float32]


def main() -> None:
    """Measure, write and say where."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--languages", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=6, help="linears added one by one")
    parser.add_argument("--proved", type=int, default=12, help="linears that are left out one by one")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=ROOT / "profiles")
    args = parser.parse_args()

    source = checkpoint_source(args.checkpoint)
    recipe, opened = find_recipe(None, source.config), source.opened
    rate_hz = opened.front_end(recipe.grid).sample_rate_hz
    first = {one.language: one for one in reversed(named(recipe.check.clips, "check.clips"))}
    clips = [read_clip(one.path, rate_hz) for _, one in sorted(first.items())[: args.languages]]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        w = Weights(source.tensors, dict.fromkeys(opened.groups, "float32"), recipe.quantize, observes="rows")
        strains = measure(opened, w, recipe, DIALECT, folder)
        with GraphWriter(folder, "encoder", DIALECT) as g:
            opened.build("encoder", g, w)
            outputs = {spec.name for spec in g.close("float32").outputs}
        inside = {key: strain for key, strain in strains.items() if ROWS + key in outputs}  # not of the adapter
        order = sorted(inside, key=lambda key: inside[key].finer - inside[key].coarse)
        forms: dict[str, EncoderFiner] = {COARSE: "none"}
        forms |= {f"{count} by rows": tuple(order[:count]) for count in range(1, args.steps + 1)}
        forms |= {CHOSEN: choose(strains).names, ALL: tuple(inside)}
        engines, found, findings = {}, {}, Findings()
        for form, finer in {FLOAT: None, **forms}.items():
            engines[form], size = build(source, recipe, folder, finer, args.threads)
            findings.add(SIZE, form, "MB", size / 1e6)
        for index in range(args.rounds + 1):
            for form, engine in engines.items():
                heard = [hear(source, recipe, engine, clip.samples) for clip in clips]
                if index:
                    findings.add(TIME, form, "ms", float(np.median([ms for ms, _ in heard])))
                else:  # it warms up
                    found[form] = [frames for _, frames in heard]
            print(f"round {index} of {args.rounds}", flush=True)
        for form, frames in found.items():
            findings.add(ERROR, form, "ratio", *errors(frames, found[FLOAT]))
        coarse = float(np.median(findings.samples(ERROR, COARSE)))
        proof = []
        for key in order[: args.proved]:
            engine, _ = build(source, recipe, folder, (key,), args.threads)
            frames = [hear(source, recipe, engine, clip.samples)[1] for clip in clips]
            left = float(np.median(errors(frames, found[FLOAT])))
            saved = float(np.sign(coarse - left) * abs(coarse**2 - left**2) ** 0.5)
            proof.append({"linear": key, "estimated": estimate(inside[key]), "saved": saved})
            print(f"{key}: estimated {proof[-1]['estimated']:.4f}, saved {saved:.4f}", flush=True)
    ranks = [np.argsort(np.argsort([row[key] for row in proof])) for key in ("estimated", "saved")]
    chosen = choose(strains)
    comparison = make_comparison(
        title=f"A scale for each row in {source.name}'s encoder",
        question="Which linears need it, what does it save and cost, and does the estimate of an export find them?",
        settings={
            "Settings": f"{args.threads} threads, {args.rounds} interleaved rounds after one of warm-up, no spinning",
            "Chosen": ", ".join(chosen.names) or "none",
        },
        figures=findings.figures(),
        ratios=[
            findings.ratio(f"{TIME}: {form} / {COARSE}", TIME, form, COARSE)
            for form in (FLOAT, *forms)
            if form != COARSE
        ],
        definitions={
            ERROR: "Root mean square of the difference from float32's frames by that of these, padding left out; a "
            "sample a clip.",
            TIME: "All calls of the encoder for one clip; a round's sample is the median clip.",
            SIZE: "Bytes of the encoder's weights.",
        },
        bundles={},
        clips=[clip.facts() for clip in clips],
        packages=("onnx",),
        notes=[
            f"An export chooses {len(chosen.names)} linears, {chosen.work:.0%} of the work; {MOST_WORK:.0%} may be.",
            f"Rank correlation of estimate and truth over {len(proof)} linears: {np.corrcoef(*ranks)[0, 1]:.2f}.",
            *(f"{row['linear']}: estimated {row['estimated']:.4f}, really {row['saved']:.4f}." for row in proof[:3]),
        ],
        details={"linears": proof},
    )
    print(save_comparison(comparison, args.output, f"{source.name}-encoder-finer"))


def estimate(strain: Strain) -> float:
    """Return what an export expects a linear's finer form to save, as a share of the frames."""
    return max(strain.coarse - strain.finer, 0.0) ** 0.5


def build(
    source: Source, recipe: Recipe, folder: Path, finer: EncoderFiner | None, threads: int
) -> tuple[OrtEngine, int]:
    """Return the encoder in INT8 with these linears by rows, or in float32, loaded, and the bytes of its weights."""
    own = Path(tempfile.mkdtemp(dir=folder))  # a session maps its weights: none may be written over
    how = msgspec.structs.replace(recipe.quantize, encoder_finer="none" if finer is None else finer)
    kind: Precision = "float32" if finer is None else "int8"
    with GraphWriter(own, "encoder", DIALECT) as g:
        source.opened.build("encoder", g, Weights(source.tensors, dict.fromkeys(source.opened.groups, kind), how))
        component = g.close(kind)
    return open_graph(own, component, threads), (own / str(component.data)).stat().st_size


def hear(source: Source, recipe: Recipe, engine: OrtEngine, samples: Floats) -> tuple[float, Floats]:
    """Return the milliseconds of the encoder's calls for one clip, and its frames, those of the padding left out."""
    trace, opened = Trace(), source.opened
    front_end, grid = opened.front_end(recipe.grid), opened.grid(recipe.grid)
    listener = Listener(front_end, grid, engine, None, trace)
    samples = samples[: listener.room_samples]
    frames = np.concatenate([part.copy() for parts in (listener.push(samples), listener.finish()) for part in parts])
    spoken = len(samples) // (front_end.hop_samples * grid.frames_per_position)
    return sum(span.seconds for span in trace.spans if span.name == ENCODER) * 1000, frames[:spoken]


def errors(found: list[Floats], exact: list[Floats]) -> list[float]:
    """Return the relative error of the frames of each clip."""
    pairs = zip(found, exact, strict=True)
    return [float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)) for ours, theirs in pairs]


if __name__ == "__main__":
    main()
