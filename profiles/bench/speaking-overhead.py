#!/usr/bin/env python3
"""Measure what the host adds to the engines that speak, per frame of codes, at the real size and at a tiny one.

    python profiles/bench/speaking-overhead.py

Bundles of noise are made from a config: what speaks at its published size behind a thinker of few layers, and the same
parts tiny. A sentence is heard, answered with noise and spoken for a fixed number of frames, in interleaved rounds.
Other work on the machine slows both sides of the ratio. Writes JSON and Markdown under profiles/<device>/.
"""

import argparse
import copy
import json
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekit.bundle import Bundle, open_bundle
from edgekit.exporter.export import ExportOptions, export
from edgekit.limits import available_cores
from edgekit.profiler.bench import bundle_facts
from edgekit.profiler.clips import read_clip
from edgekit.profiler.comparison import Findings, make_comparison, save_comparison
from edgekit.rates import DEFAULT_HZ
from edgekit.runtime.model import Model, load_opened
from edgekit.runtime.speak.frames import CODE_PREDICTOR, DECODER, TALKER
from edgekit.runtime.speak.talker import TALKER_ADAPTER
from edgekit.spans import SPEAK

ROOT = Path(__file__).resolve().parents[2]
REAL, TINY = "Qwen3-Omni's own size", "tiny"
ENGINES = (TALKER_ADAPTER, TALKER, CODE_PREDICTOR, DECODER)
OVERHEAD, HOST, ENGINE = "Host overhead", "Host per frame", "Engines per frame"


def main() -> None:
    """Make the bundles, measure, write and say where."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, default=ROOT / "profiles/data/configs/qwen3-omni-30b-a3b.json")
    parser.add_argument("--clip", type=Path, default=ROOT / "export/clips/librivox-0880.flac")
    parser.add_argument("--frames", type=int, default=30, help="of codes, in every answer")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--output", type=Path, default=ROOT / "profiles")
    args = parser.parse_args()

    published = json.loads(args.config.read_bytes())
    findings, models = Findings(), {}
    clip = read_clip(args.clip, DEFAULT_HZ)
    with tempfile.TemporaryDirectory() as folder:
        for name, config in ((TINY, tiny(published)), (REAL, behind_few_layers(published))):
            path = Path(folder, "config.json")
            path.write_text(json.dumps(config), encoding="utf-8")
            print(f"make {name}", flush=True)
            export(path, Path(folder, name), ExportOptions(dummy_weights=True, precision="int8"))
            models[name] = speaking(open_bundle(Path(folder, name)), args.frames, args.threads)
        for index in range(args.rounds + 1):
            for name, model in models.items():
                host_ms, engine_ms = speak(model, clip.samples, args.frames)
                if index:  # the first round warms up
                    findings.add(OVERHEAD, name, "ratio", host_ms / engine_ms)
                    findings.add(HOST, name, "ms", host_ms)
                    findings.add(ENGINE, name, "ms", engine_ms)
            print(f"round {index} of {args.rounds}", flush=True)
        comparison = make_comparison(
            title="What the host adds when a bundle speaks",
            question="How long does the host take beside the engines for a frame of codes of a talker?",
            settings={
                "Settings": f"{args.threads} threads, {args.rounds} interleaved rounds after one of warm-up, "
                f"{args.frames} frames of codes an answer, drawn as published",
                "Weights": "INT8 noise of seed 1; a thinker of two layers stands before what speaks",
            },
            figures=findings.figures(),
            ratios=[],
            definitions={
                OVERHEAD: f"Time inside the span `{SPEAK}` beside its engines ({', '.join(ENGINES)}) / theirs.",
                HOST: "That time / frames of codes: choosing codes, looking up rows, handing arrays over.",
                ENGINE: "The engines' time / frames of codes.",
            },
            bundles={name: bundle_facts(model) for name, model in models.items()},
            clips=[clip.facts()],
            notes=[],
        )
    print(save_comparison(comparison, args.output, "speaking-overhead"))


def behind_few_layers(published: dict[str, Any]) -> dict[str, Any]:
    """Return the config with a thinker and ears of two layers, which the talker still fits."""
    config = copy.deepcopy(published)
    thinker = config["thinker_config"]
    thinker["text_config"].update(num_hidden_layers=2, num_experts=8, vocab_size=152_064)
    thinker["audio_config"].update(encoder_layers=2)
    config["talker_config"]["accept_hidden_layer"] = 1
    return config


def tiny(published: dict[str, Any]) -> dict[str, Any]:
    """Return the config with every width and depth small, number and kind of the parts as published."""
    config = behind_few_layers(published)
    attention = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
    rope = {"mrope_section": [4, 2, 2]}
    thinker, talker = config["thinker_config"], config["talker_config"]
    thinker["text_config"].update(hidden_size=64, moe_intermediate_size=32, num_experts_per_tok=2, **attention)
    thinker["text_config"]["rope_scaling"].update(rope)
    thinker["audio_config"].update(
        d_model=64, encoder_attention_heads=4, encoder_ffn_dim=128, downsample_hidden_size=8, output_dim=64
    )
    talker["thinker_hidden_size"] = 64
    talker["text_config"].update(
        hidden_size=32, num_hidden_layers=2, num_experts=8, num_experts_per_tok=2, moe_intermediate_size=16,
        shared_expert_intermediate_size=32, intermediate_size=64, **attention,
    )  # fmt: skip
    talker["text_config"]["rope_scaling"].update(rope)
    talker["code_predictor_config"].update(
        hidden_size=32, num_hidden_layers=2, intermediate_size=64, layer_types=["full_attention"] * 2, **attention
    )
    config["code2wav_config"].update(
        hidden_size=32, num_attention_heads=4, num_key_value_heads=4, num_hidden_layers=2, intermediate_size=64,
        decoder_dim=32, sliding_window=8,
    )  # fmt: skip
    return config


def speaking(bundle: Bundle, frames: int, threads: int) -> Model:
    """Return the Model of a bundle whose answers are spoken for so many frames; noise ends none by itself."""
    speech = msgspec.structs.replace(bundle.manifest.speech, max_frames=frames)
    manifest = msgspec.structs.replace(bundle.manifest, speech=speech)
    return load_opened(Bundle(bundle.folder, manifest), threads=threads, speak=True)


def speak(model: Model, samples: NDArray[np.float32], frames: int) -> tuple[float, float]:
    """Return milliseconds per frame of host and engines for one spoken answer."""
    stream = model.stream(gate="off", speak=True)
    stream.measure(limit=1_000_000)
    list(stream.push(samples))
    list(stream.finish())
    spoken = [(span.start_s, span.start_s + span.seconds) for span in stream.trace.spans if span.name == SPEAK]
    engines = sum(
        span.seconds
        for span in stream.trace.spans
        if span.name in ENGINES and any(start <= span.start_s < end for start, end in spoken)
    )
    whole = sum(end - start for start, end in spoken)
    return (whole - engines) * 1000 / frames, engines * 1000 / frames


if __name__ == "__main__":
    main()
