#!/usr/bin/env python3
"""Measure bundles of dialect `ort-cuda` on a GPU: numerics against the CPU, tokens a second against the bandwidth.

    python profiles/bench/gpu-decode.py                       # every shape, INT8 and INT4, on the first CUDA device
    python profiles/bench/gpu-decode.py --only dense-0.5b --precision int8
    python profiles/bench/gpu-decode.py --tiny --device cpu   # the same steps on toys and the CPU, to test this script

Weights are noise of the published shapes. Every form of a step runs in each round: recorded as a CUDA graph, bound to
the device without a graph, and as onnxruntime does by default, with state that comes and goes; torch beside them if it
sees the device. Writes JSON and Markdown under profiles/<GPU>/ after every system. It was not run on a GPU yet.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

import edgekit
from edgekit.bundle import Bundle, open_bundle
from edgekit.errors import EdgeKitError, ProfileError
from edgekit.exporter.export import ExportOptions, export
from edgekit.limits import available_cores
from edgekit.profiler.clips import join_speech, read_clip
from edgekit.profiler.comparison import Comparison, Findings, Ratio, make_comparison, save_comparison
from edgekit.profiler.device import describe_device
from edgekit.profiler.traffic import token_bytes
from edgekit.rates import DEFAULT_HZ
from edgekit.runtime.backends.ort import HOST, OrtEngine, load_component
from edgekit.runtime.backends.ort_cuda import PROVIDER
from edgekit.runtime.backends.probing import ask
from edgekit.runtime.engine import Call, allocate
from edgekit.spans import DECODE

ROOT = Path(__file__).resolve().parents[2]
WHOLE = ROOT / "profiles/data/configs/step-audio-2-mini.json"  # 8.3 billion numbers, 7.6 of them read for a token
SMALL = {
    "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
    "num_key_value_heads": 2, "vocab_size": 151936,
}  # fmt: skip
MIXED = {
    "model_type": "qwen3_moe", "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16,
    "num_key_value_heads": 4, "head_dim": 128, "attention_bias": False, "num_experts": 32, "num_experts_per_tok": 4,
    "moe_intermediate_size": 768, "norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": [],
}  # fmt: skip
SYSTEMS: dict[str, dict[str, Any]] = {"dense-0.5b": SMALL, "moe-small": MIXED, "dense-7b": {}}
TOY = {
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 64,
    "intermediate_size": 128, "vocab_size": 512, "max_position_embeddings": 512,
}  # fmt: skip
TOY_EARS = {"n_audio_state": 64, "n_audio_head": 4, "n_audio_layer": 2}
GRAPH, BOUND, DEFAULTS, TORCH = "CUDA graph", "bound", "onnxruntime's defaults", "torch, float16, compiled"
PROMPT = 64
CHECKED = 8  # tokens one by one, compared with the CPU's
FROM_LARGEST = 0.02  # of the largest logit: two libraries' float16; a wrong kernel is off by 1/10 and more
SHARE = 0.6
COPIED = {True: 1 << 20, False: 1 << 29}  # bytes of the tensor that is copied
SPEECH_S = 10.0
PROVIDERS = {"cpu": HOST, "cuda": PROVIDER}
Floats = NDArray[Any]


def main() -> None:
    """Measure what is asked for, write after each system, and say where."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--only", action="append", choices=sorted(SYSTEMS))
    parser.add_argument("--precision", action="append", choices=("int8", "int4"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=64, help="tokens of a round")
    parser.add_argument("--context", type=int, default=1024, help="length of the KV cache")
    parser.add_argument("--tiny", action="store_true", help="toys in place of the systems")
    parser.add_argument("--work", type=Path, default=ROOT / "build/bench/gpu-decode", help="where bundles are made")
    parser.add_argument("--keep", action="store_true", help="leave bundles there, and use those that are there")
    parser.add_argument("--output", type=Path, default=ROOT / "profiles")
    parser.add_argument("--name", default="gpu-decode", help="of the files that are written")
    args = parser.parse_args()
    rows: dict[str, dict[str, Any]] = {}
    try:
        for name in args.only or SYSTEMS:
            for precision in args.precision or ("int8", "int4"):
                rows[f"{name}-{precision}"] = measure(name, precision, args)
                print(save_comparison(compare(rows, args), args.output, args.name), flush=True)
    except EdgeKitError as error:
        sys.exit(str(error))


def measure(name: str, precision: str, args: argparse.Namespace) -> dict[str, Any]:
    """Return everything that was found of one system, as plain data."""
    args.work.mkdir(parents=True, exist_ok=True)
    folder, config = args.work / f"{name}-{precision}", args.work / f"{name}.json"
    config.write_text(json.dumps(config_of(name, tiny=args.tiny)), encoding="utf-8")
    if not (args.keep and folder.exists()):
        export(config, folder, ExportOptions(
            target="desktop-cuda", precision=precision, dummy_weights=True, overwrite=True,
            recipe="step-audio-2-mini",
        ))  # fmt: skip
    bundle = open_bundle(folder)
    backbone = load_component(bundle, "backbone", available_cores(), PROVIDERS[args.device])
    row: dict[str, Any] = {"state": [device_state(args.device)], "nodes": dict(backbone.counts)}
    row |= compare_numbers(bundle, backbone, args) | decode(bundle, backbone, args)
    row["torch"] = decode_with_torch(config_of(name, tiny=args.tiny)["text_config"], args)
    del backbone
    row["encoder_s"] = encode(bundle, args)
    row["first_token_s"] = first_tokens(folder, args)
    row["state"].append(device_state(args.device))
    if not args.keep:
        shutil.rmtree(folder)
    return row


def config_of(name: str, *, tiny: bool) -> dict[str, Any]:
    """Return the config of a system: Step-Audio's ears before a language model of its shape."""
    config: dict[str, Any] = json.loads(WHOLE.read_text(encoding="utf-8"))
    text = config["text_config"] | SYSTEMS[name] | (TOY if tiny else {})
    if tiny and "num_experts" in text:
        text |= {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64, "head_dim": 16}
    ears = config["audio_encoder_config"] | {"llm_dim": text["hidden_size"]} | (TOY_EARS if tiny else {})
    stops = {"eos_token_id": [300, 301, 302]} if tiny else {}
    return config | {"text_config": text, "audio_encoder_config": ears} | stops


def step(engine: OrtEngine, at: int, tokens: int = 1) -> dict[str, Floats]:
    """Return the inputs of a backbone's call on noise, the same for the same place."""
    rng = np.random.default_rng(at)
    width = next(spec.shape[1] for spec in engine.component.inputs if spec.name == "embeds")
    assert isinstance(width, int)
    given: dict[str, Floats] = {
        "embeds": 0.1 * rng.standard_normal((tokens, width), np.float32), "start": np.array([at]),
        "logit_rows": np.array([tokens - 1]),
    }  # fmt: skip
    return given


def experts(bundle: Bundle) -> dict[str, Floats]:
    """Return the input that only a mixture of experts has, at its highest level."""
    chosen = bundle.manifest.levels[-1].experts_per_token
    asks = any(spec.name == "experts_per_token" for spec in bundle.manifest.components["backbone"].inputs)
    return {"experts_per_token": np.array([chosen])} if asks else {}


def compare_numbers(bundle: Bundle, backbone: OrtEngine, args: argparse.Namespace) -> dict[str, Any]:
    """Return how far logits are from the CPU's, as a share of the largest, and how often the likeliest is the same."""
    twin = load_component(bundle, "backbone", available_cores())
    calls = [engine.bind({"context": args.context}) for engine in (backbone, twin)]
    distances, same, fixed = [], [], experts(bundle)
    for at, tokens in [(0, PROMPT), *((PROMPT + index, 1) for index in range(CHECKED))]:
        found, wanted = (call.run(step(backbone, at, tokens) | fixed)["logits"][0] for call in calls)
        distances.append(float(np.abs(found - wanted).max() / np.abs(wanted).max()))
        same.append(bool(found.argmax() == wanted.argmax()))
    return {"distances": distances, "same_token": same}


def decode(bundle: Bundle, backbone: OrtEngine, args: argparse.Namespace) -> dict[str, Any]:
    """Return seconds of each step by form, in rounds of all forms, and bytes a second of copies between them."""
    engines = {
        form: OrtEngine(backbone.component, backbone.session, args.device, records=form == GRAPH)
        for form in (GRAPH, BOUND)
        if form == BOUND or backbone.records or args.device == "cpu"
    }  # fmt: skip
    calls: dict[str, Callable[[], Call]] = {
        form: lambda engine=engine: engine.bind({"context": args.context}) for form, engine in engines.items()
    }
    calls[DEFAULTS] = lambda: Unbound(backbone, args.context)
    fixed, seconds = experts(bundle), {form: list[list[float]]() for form in calls}
    copies = [copy_speed(args)]
    for _ in range(1 + args.rounds):
        for form, bind in calls.items():
            call = bind()
            call.run(step(backbone, 0, PROMPT) | fixed)
            taken = []
            for at in range(PROMPT, PROMPT + args.steps):
                given = step(backbone, at) | fixed
                begun_s = time.perf_counter()
                call.run(given)
                taken.append(time.perf_counter() - begun_s)
            seconds[form].append(taken[min(2, args.steps - 1) :])  # the second records the graph
        copies.append(copy_speed(args))
    read = token_bytes(bundle.manifest, PROMPT + args.steps // 2)
    return {"decode_s": {form: rounds[1:] for form, rounds in seconds.items()}, "copies": copies, "token_bytes": read}


class Unbound:
    """A Call as onnxruntime's users make it first: every tensor, state too, comes from the host and goes back."""

    def __init__(self, engine: OrtEngine, context: int) -> None:
        self._session = engine.session
        self._options = run_options()
        self._outputs = [spec.name for spec in engine.component.outputs]
        self._state = allocate(engine.component, {"context": context})

    def run(self, inputs: Mapping[str, Floats]) -> dict[str, Floats]:
        """Run once; state is kept for the next call."""
        given = dict(inputs) | {f"past.{name}": array for name, array in self._state.items()}
        found = dict(zip(self._outputs, self._session.run(None, given, self._options), strict=True))
        self._state = {name: found[f"present.{name}"] for name in self._state}
        return found

    def reset(self) -> None:
        """Forget nothing: only the first positions of a cache are read."""


def run_options() -> Any:  # noqa: ANN401 - onnxruntime is untyped
    """Return options of a run that neither records nor replays a graph."""
    import onnxruntime

    options = onnxruntime.RunOptions()
    options.add_run_config_entry("gpu_graph_id", "-1")
    return options


def copy_speed(args: argparse.Namespace) -> float:
    """Return bytes a second, read and written, of a kernel that copies a tensor on the device."""
    import onnxruntime
    from onnx import TensorProto, helper

    count = COPIED[args.tiny] // 4
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [count]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "copy", [x], [y])
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21)])
    name = "CUDAExecutionProvider" if args.device == "cuda" else "CPUExecutionProvider"
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=[name])
    make = onnxruntime.OrtValue.ortvalue_from_numpy
    binding = session.io_binding()
    binding.bind_ortvalue_input("x", make(np.ones(count, np.float32), args.device, 0))
    binding.bind_ortvalue_output("y", make(np.zeros(count, np.float32), args.device, 0))
    taken = []
    for _ in range(10):
        begun_s = time.perf_counter()
        session.run_with_iobinding(binding)
        taken.append(time.perf_counter() - begun_s)
    return 2 * 4 * count / float(np.median(taken[1:]))


def encode(bundle: Bundle, args: argparse.Namespace) -> dict[str, list[float]]:
    """Return seconds of each whole chunk of the encoder, by form."""
    made, grid = load_component(bundle, "encoder", available_cores(), PROVIDERS[args.device]), bundle.manifest.grid
    frames = grid.left_frames + grid.chunk_frames + grid.right_frames
    positions = grid.positions(grid.chunk_frames)
    mel = np.random.default_rng(1).standard_normal((bundle.manifest.front_end.mel_bins, frames), np.float32)
    found: dict[str, list[float]] = {}
    for form in (GRAPH, BOUND):
        if form == GRAPH and not (made.records or args.device == "cpu"):
            continue
        engine = OrtEngine(made.component, made.session, args.device, records=form == GRAPH)
        call = engine.bind({})
        taken = []
        for index in range(3 + args.rounds):
            at = index * positions % max(1, grid.max_positions - positions)
            given: dict[str, Floats] = {"mel": mel, "start": np.array([at])}
            if grid.masks_last_position:
                given["valid"] = np.array([at + positions])
            begun_s = time.perf_counter()
            call.run(given)
            taken.append(time.perf_counter() - begun_s)
        found[form] = taken[3:]
    return found


def first_tokens(folder: Path, args: argparse.Namespace) -> list[float]:
    """Return seconds from the end of ten seconds of speech to the first token, heard as it came."""
    backend = "onnxruntime-cuda" if args.device == "cuda" else "onnxruntime-cpu"
    model = edgekit.load(folder, backend=backend, verify_hashes=False)
    paths = sorted((ROOT / "export/clips").glob("*.flac"))
    clip = join_speech([read_clip(path, DEFAULT_HZ) for path in paths], SPEECH_S)
    found = []
    for _ in range(1 + args.rounds):
        stream = model.stream(gate="off")
        list(stream.push(clip.samples))
        ended_s = stream.trace.clock()
        list(stream.finish())
        decoded = [span.start_s for span in stream.trace.spans if span.name == DECODE and span.start_s > ended_s]
        if decoded:  # the first token comes out of the prefill before it
            found.append(decoded[0] - ended_s)
        del stream
    return found[1:]


def decode_with_torch(text: Mapping[str, Any], args: argparse.Namespace) -> list[float] | str:
    """Return seconds of each step of the same shape in torch, or why it was not run."""
    try:
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM, StaticCache
    except ImportError as error:
        return f"not run: {error}"
    if args.device == "cuda" and not torch.cuda.is_available():
        return "not run: this torch sees no CUDA device"
    if args.device == "cpu":
        return "not run: only a GPU's float16 is of interest"
    config = AutoConfig.for_model(**text)
    with torch.device("cuda"), torch.inference_mode():
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float16).eval()
        cache = StaticCache(config=config, max_cache_len=args.context)
        compiled = torch.compile(model.forward, mode="reduce-overhead", fullgraph=True)
        taken = []
        for at in range(PROMPT, PROMPT + args.steps + 8):  # the first few compile and record
            place = torch.tensor([at])
            token = torch.full((1, 1), at)
            torch.cuda.synchronize()
            begun_s = time.perf_counter()
            compiled(input_ids=token, past_key_values=cache, cache_position=place).logits[0, -1].argmax().item()
            taken.append(time.perf_counter() - begun_s)
    return taken[8:]


def device_state(device: str) -> dict[str, str]:
    """Return what the GPU says of itself now: clocks, power, temperature, why it is throttled."""
    program = shutil.which("nvidia-smi")
    if device == "cpu" or program is None:
        return {}
    fields = (
        "name,driver_version,compute_cap,memory.total,clocks.sm,clocks.mem,temperature.gpu,power.draw,power.limit,"
        "clocks_event_reasons.active"
    )
    done = subprocess.run(
        [program, f"--query-gpu={fields}", "--format=csv,noheader"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ProfileError(f"nvidia-smi: {done.stdout.strip()} {done.stderr.strip()}; run `edgekit doctor`")
    return dict(zip(fields.split(","), (part.strip() for part in done.stdout.splitlines()[0].split(",")), strict=True))


def compare(rows: Mapping[str, Mapping[str, Any]], args: argparse.Namespace) -> Comparison:
    """Return what is known of every system, side by side."""
    import onnxruntime

    findings, ratios, notes = Findings(), list[Ratio](), list[str]()
    for name, row in rows.items():
        read, speed = sum(row["token_bytes"].values()), float(np.median(row["copies"]))
        findings.add("Bytes read a token", name, "GB", read / 1e9)
        findings.add("Copy bandwidth", name, "GB/s", *(one / 1e9 for one in row["copies"]))
        findings.add("Distance from the CPU", name, "of the largest logit", *row["distances"])
        forms = dict(row["decode_s"]) | ({} if isinstance(row["torch"], str) else {TORCH: [row["torch"]]})
        for form, rounds in forms.items():
            rates = [len(taken) / sum(taken) for taken in rounds]
            findings.add(f"Decode: {form}", name, "tokens/s", *rates)
            shares = [rate * read / speed for rate in rates]
            if form == GRAPH:
                limit = SHARE if name == "dense-7b-int8" else None
                ratios.append(Ratio(
                    f"{name}: share of the bandwidth", float(np.median(shares)), min(shares), max(shares),
                    "lowest and highest round", len(shares), limit,
                ))  # fmt: skip
        for form, taken in row["encoder_s"].items():
            findings.add(f"Encoder chunk: {form}", name, "ms", *(1000 * one for one in taken))
        if row["first_token_s"]:
            findings.add("First token", name, "ms", *(1000 * one for one in row["first_token_s"]))
        far, same = max(row["distances"]), sum(row["same_token"])
        verdict = "agrees with" if far <= FROM_LARGEST else "IS TOO FAR FROM"
        notes.append(
            f"{name} {verdict} the CPU: {far:.4f} of the largest logit, "
            f"{same} of {len(row['same_token'])} tokens alike."
        )
        notes.append(f"{name}: nodes of the backbone by provider: {row['nodes'] or 'CPU alone'}.")
        if isinstance(row["torch"], str):
            notes.append(f"{name}: torch {row['torch']}.")
    gpu = next(iter(rows.values()))["state"][0].get("name", "")
    told = {key: value for key, value in sorted(os.environ.items()) if key.startswith("ORT_")}
    made = make_comparison(
        title=f"Decoding on {gpu or 'the CPU, as a test of this script'}",
        question="How near do INT8 and INT4 come to what the memory can deliver, and what do CUDA graphs bring? "
        "Weights are noise: bytes and times are those of the real shapes, words mean nothing.",
        settings={
            "Input": f"{PROMPT} tokens, then {args.steps} one by one; cache of {args.context}; {args.rounds} rounds",
            "onnxruntime": onnxruntime.get_build_info(),
            "ORT_ variables": json.dumps(told),
            "CUDA devices": json.dumps(ask("edgekit.runtime.backends.device:probe").said.get("devices", [])),
        },
        figures=findings.figures(), ratios=ratios, definitions=DEFINITIONS, notes=notes, details=rows,
    )  # fmt: skip
    slug = re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-") or describe_device().slug
    return msgspec.structs.replace(made, device=msgspec.structs.replace(made.device, slug=slug))


DEFINITIONS = {
    f"Decode: {GRAPH}": "State on the device, a step's kernels recorded once and launched as one.",
    f"Decode: {BOUND}": "State on the device, every kernel launched by itself.",
    f"Decode: {DEFAULTS}": "`session.run`: the KV cache comes from the host and goes back at every step.",
    f"Decode: {TORCH}": "A transformers model of the same shape, static cache, mode reduce-overhead.",
    "Copy bandwidth": "Bytes read and written by one kernel that negates a tensor of 512 MiB, before and after rounds.",
    "Bytes read a token": "Codes and scales of every linear, the chosen experts of each bank, keys and values before.",
    "First token": "From the last sample of ten seconds of speech to the first token; hearing went on before.",
    "Distance from the CPU": "Largest difference of logits, of a prompt and 8 steps, from the same bundle on the CPU.",
}

if __name__ == "__main__":
    main()
