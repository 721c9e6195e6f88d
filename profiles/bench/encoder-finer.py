#!/usr/bin/env python3
"""Measure what the finer form of encoder linears saves and costs, by how many have it.

    python profiles/bench/encoder-finer.py CHECKPOINT

Encoders of a checkpoint are written as an export writes them: in float32, in INT8 with one scale for all of an input,
with more linears in the finer form at each step, in the order in which an export tries them, as it chooses, and with
all. Each hears the first check clip of each of --languages, in interleaved rounds. Writes JSON and Markdown under
profiles/<device>/.
"""

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekit.bundle import Precision
from edgekit.exporter.blocks import ROWS
from edgekit.exporter.dialects import DIALECTS
from edgekit.exporter.finer import measure, resolve_finer, savings, smoothing_of
from edgekit.exporter.graph import GraphWriter
from edgekit.exporter.options import find_recipe
from edgekit.exporter.source import Source, checkpoint_source
from edgekit.exporter.weights import Weights
from edgekit.profiler.clips import read_clip
from edgekit.profiler.comparison import Findings, make_comparison, save_comparison
from edgekit.recipe import EncoderFiner, QuantizeSettings, Recipe
from edgekit.recordings import named
from edgekit.runtime.backends.ort import OrtEngine, open_graph
from edgekit.runtime.hear.listener import Listener
from edgekit.spans import ENCODER
from edgekit.timing import Trace

ROOT = Path(__file__).resolve().parents[2]
DIALECT = DIALECTS.get("ort-cpu")
FLOAT, COARSE, CHOSEN, ALL = "float32", "one scale for all of an input", "as an export chooses", "every linear finer"
ERROR, TIME, SIZE = "Error of the frames of speech", "Encoder, a clip", "Weights"
Floats = NDArray[np.float32]


def main() -> None:
    """Measure, write and say where."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--languages", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 2, 4, 8, 16], help="linears in the finer form")
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
        saves = savings(strains)
        order = sorted(inside, key=lambda key: -saves[key] / inside[key].work)
        forms: dict[str, EncoderFiner] = {COARSE: "none"}
        forms |= {f"{count} finer": tuple(order[:count]) for count in args.steps}
        finer = resolve_finer(source, recipe, DIALECT, folder)
        if not isinstance(result := finer.results.get("encoder_finer"), dict):
            raise SystemExit(f"{args.checkpoint}: encoder_finer: {result or 'the recipe asks for none'}")
        chosen = tuple(finer.recipe.quantize.encoder_finer)
        forms |= {CHOSEN: chosen, ALL: tuple(inside)}
        engines, found, findings = {}, {}, Findings()
        smoothing = smoothing_of(strains, tuple(strains))
        for form, names in {FLOAT: None, **forms}.items():
            how = None if names is None else msgspec.structs.replace(recipe.quantize, encoder_finer=names)
            engines[form], size = build(source, folder, how, smoothing, args.threads)
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
    comparison = make_comparison(
        title=f"The finer form of linears in {source.name}'s encoder",
        question="What does it save, what does it cost, and what does an export choose?",
        settings={
            "Settings": f"{args.threads} threads, {args.rounds} interleaved rounds after one of warm-up, no spinning",
            "Chosen": ", ".join(chosen) or "none",
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
            (
                f"An export chooses {result['linears']} linears, {result['work']:.0%} of the work: what the backbone "
                f"hears is {result['error']:.3f} from float's, and {result['error_without']:.3f} without, on two "
                "calibration clips."
            )
        ],
    )
    print(save_comparison(comparison, args.output, f"{source.name}-encoder-finer"))


def build(
    source: Source, folder: Path, how: QuantizeSettings | None, smoothing: Mapping[str, Floats], threads: int
) -> tuple[OrtEngine, int]:
    """Return the encoder in INT8 as these settings have it, or in float32, loaded, and the bytes of its weights."""
    own = Path(tempfile.mkdtemp(dir=folder))  # a session maps its weights: none may be written over
    kind: Precision = "float32" if how is None else "int8"
    precision = dict.fromkeys(source.opened.groups, kind)
    w = Weights(source.tensors, precision, how or QuantizeSettings(), smoothing=smoothing)
    with GraphWriter(own, "encoder", DIALECT) as g:
        source.opened.build("encoder", g, w)
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
