#!/usr/bin/env python3
"""Measure four forms of a float bundle's encoder: float32, dynamic INT8, static INT8 (Q/DQ) and weight-only INT8.

    python profiles/bench/encoder-forms.py --float bundles/edgekit-tiny-float32

Each form is made from the float encoder's own weights and runs real speech, chunk by chunk and as one piece of the
grid's full length, in interleaved rounds. The fastest form that stays close to float is what recipes name under
`encoder_activations`. Needs the onnx package. Writes JSON and Markdown under profiles/<device>/.
"""

import argparse
import collections
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import edgekit
from edgekit.bundle import FrontEnd, Grid, Manifest, TensorSpec
from edgekit.exporter.quantize import quantize_blocks, quantize_channels
from edgekit.profiler.bench import bundle_facts
from edgekit.profiler.clips import join_speech, read_clip
from edgekit.profiler.comparison import Findings, make_comparison, save_comparison
from edgekit.runtime.backends.ort import OrtEngine
from edgekit.runtime.engine import Engine, Recorded
from edgekit.runtime.hear.listener import Listener
from edgekit.spans import ENCODER
from edgekit.timing import Trace

ROOT = Path(__file__).resolve().parents[2]
FLOAT, DYNAMIC, STATIC, WEIGHT_ONLY = "float32", "dynamic INT8", "static INT8 (Q/DQ)", "weight-only INT8 (MatMulNBits)"
MICROSOFT = "com.microsoft"
BLOCK = 128
TIE = 1.15
Floats = NDArray[Any]
Ranges = dict[str, tuple[float, float]]
Form = tuple[list[onnx.NodeProto], dict[str, Floats]]


def main() -> None:
    """Measure, write and say where."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--float", type=Path, required=True)
    parser.add_argument("--clips", type=Path, default=ROOT / "export/clips")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=ROOT / "profiles")
    args = parser.parse_args()

    bundle = edgekit.load(args.float, threads=args.threads)
    manifest = bundle.manifest
    component, grid = manifest.components["encoder"], manifest.grid
    rate_hz = manifest.front_end.sample_rate_hz
    paths, hop_s = sorted(args.clips.glob("*.flac")), manifest.front_end.hop_samples / rate_hz
    clip = join_speech([read_clip(path, rate_hz) for path in paths], grid.max_frames * hop_s - 1.0)
    whole_grid = msgspec.structs.replace(grid, chunk_frames=grid.max_frames, pad_to_frames=grid.max_frames)

    engines, found, ops = {}, {}, {}
    with tempfile.TemporaryDirectory() as folder:
        graph = bundle.bundle.file(component.graph)
        ranges = activation_ranges(graph, manifest, clip.samples, args.threads)
        for form in (FLOAT, DYNAMIC, STATIC, WEIGHT_ONLY):
            model = onnx.load(graph)
            rewrite(model, form, ranges)
            path = Path(folder, f"{len(engines)}.onnx")
            onnx.save(model, path)
            session = open_session(path, args.threads, Path(folder, f"{len(engines)}-optimised.onnx"))
            engines[form] = OrtEngine(component, session)
            ops[form] = matrix_ops(Path(folder, f"{len(engines) - 1}-optimised.onnx"))

        findings = Findings()
        per_chunk, per_piece = f"Chunk of {grid.chunk_frames * hop_s:g} s", f"Piece of {grid.max_frames * hop_s:g} s"
        for index in range(args.rounds + 1):
            for form, engine in engines.items():
                chunk_ms, frames = hear(engine, manifest.front_end, grid, clip.samples)
                piece_ms, _ = hear(engine, manifest.front_end, whole_grid, clip.samples)
                found.setdefault(form, frames)
                if index:  # the first round warms up
                    findings.add(per_chunk, form, "ms", float(np.median(chunk_ms)))
                    findings.add(per_piece, form, "ms", piece_ms[0])
            print(f"round {index} of {args.rounds}", flush=True)
    for form, frames in found.items():
        difference = np.sqrt(np.mean((frames - found[FLOAT]) ** 2) / np.mean(found[FLOAT] ** 2))
        findings.add("Distance from float32", form, "ratio", float(difference))
    others = [form for form in engines if form != DYNAMIC]
    fastest = min(engines, key=lambda form: np.median(findings.samples(per_chunk, form)))
    limit = TIE * np.median(findings.samples(per_chunk, fastest))
    tied = [form for form in engines if np.median(findings.samples(per_chunk, form)) <= limit and form != FLOAT]
    nearest = min(tied, key=lambda form: findings.samples("Distance from float32", form)[0], default=FLOAT)
    comparison = make_comparison(
        title=f"Forms of {manifest.name}'s encoder",
        question="Which INT8 form of the encoder's linears is fastest here, and how far is it from float32?",
        settings={
            "Settings": f"{args.threads} threads, {args.rounds} interleaved rounds after one of warm-up, no spinning",
            "Forms": "dynamic: DynamicQuantizeMatMul, weights per output channel, activations per call; static: Q/DQ, "
            "the same weights, activations per tensor over the range seen on this very speech, which flatters its "
            f"distance; weight-only: MatMulNBits, blocks of {BLOCK}, accuracy level 4",
            **{f"Ops of {form}": text for form, text in ops.items()},
        },
        figures=findings.figures(),
        ratios=[
            findings.ratio(f"{length}: {form} / {DYNAMIC}", length, form, DYNAMIC)
            for length in (per_chunk, per_piece)
            for form in others
        ],
        definitions={
            per_chunk: "One run of the encoder on one chunk of the grid; a round's sample is its median chunk.",
            per_piece: "One run of the encoder on the longest piece, as in an exact grid.",
            "Distance from float32": "Root mean square of the difference of the encoder's frames by that of float32's.",
        },
        bundles={FLOAT: bundle_facts(bundle)},
        clips=[clip.facts()],
        packages=("onnx",),
        notes=[
            f"Fastest on a chunk is {fastest}; INT8 forms within 15 %, a tie: {', '.join(tied) or 'none'}.",
            f"Of these the nearest to float32 is {nearest}.",
        ],
    )
    print(save_comparison(comparison, args.output, f"{manifest.name}-encoder-forms"))


def hear(engine: Engine, front_end: FrontEnd, grid: Grid, samples: Floats) -> tuple[list[float], Floats]:
    """Return the milliseconds of every encoder call for one utterance, as a stream makes them, and all frames."""
    trace = Trace()
    listener = Listener(front_end, grid, engine, None, trace)
    samples = samples[: listener.room_samples]
    frames = [part.copy() for parts in (listener.push(samples), listener.finish()) for part in parts]
    return [span.seconds * 1000 for span in trace.spans if span.name == ENCODER], np.concatenate(frames)


def open_session(path: Path, threads: int, optimised: Path | None = None) -> onnxruntime.InferenceSession:
    """Return a session set up as the runtime sets up its own."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def linears(model: onnx.ModelProto) -> list[tuple[onnx.NodeProto, Floats, Floats]]:
    """Return every Gemm with its weight (out, in) and bias (out,)."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    found = []
    for node in model.graph.node:
        if node.op_type == "Gemm":
            weight = numpy_helper.to_array(weights[node.input[1]])
            bias = (
                numpy_helper.to_array(weights[node.input[2]])
                if len(node.input) > 2
                else np.zeros(len(weight), np.float32)
            )
            found.append((node, weight, bias))
    return found


def activation_ranges(path: Path, manifest: Manifest, samples: Floats, threads: int) -> Ranges:
    """Return the lowest and highest value of every linear's input on real speech."""
    model, component = onnx.load(path), manifest.components["encoder"]
    names = sorted({node.input[0] for node, _, _ in linears(model)})
    model.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    seen = tuple(TensorSpec(name=name, dtype="float32", shape=("rows", "width")) for name in names)
    with tempfile.TemporaryDirectory() as folder:
        watched = Path(folder, "watched.onnx")
        onnx.save(model, watched)
        watching = msgspec.structs.replace(component, outputs=(*component.outputs, *seen))
        recorded = Recorded(OrtEngine(watching, open_session(watched, threads)))
        hear(recorded, manifest.front_end, manifest.grid, samples)
    outputs = [call for _, call in recorded.calls]
    return {
        name: (
            min(0.0, *(float(call[name].min()) for call in outputs)),
            max(0.0, *(float(call[name].max()) for call in outputs)),
        )
        for name in names
    }


def rewrite(model: onnx.ModelProto, form: str, ranges: Ranges) -> None:
    """Replace every linear of a float graph by its form, in place."""
    if form == FLOAT:
        return
    replaced = {node.name: (node, weight, bias) for node, weight, bias in linears(model)}
    old = {node.input[1] for node, _, _ in replaced.values()}
    nodes, tensors = [], [tensor for tensor in model.graph.initializer if tensor.name not in old]
    for node in model.graph.node:
        if node.name not in replaced:
            nodes.append(node)
            continue
        _, weight, bias = replaced[node.name]
        made, values = FORMS[form](node, weight, bias, ranges)
        nodes += made
        tensors += [numpy_helper.from_array(value, name) for name, value in values.items()]
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend({tensor.name: tensor for tensor in tensors}.values())


def dynamic(node: onnx.NodeProto, weight: Floats, bias: Floats, _ranges: Ranges) -> Form:
    """Return DynamicQuantizeMatMul: activations quantised at every call."""
    codes, scales = quantize_channels(weight)
    name = node.name
    values = {f"{name}.w": np.ascontiguousarray(codes.T), f"{name}.s": scales, f"{name}.b": bias}
    made = helper.make_node(
        "DynamicQuantizeMatMul",
        [node.input[0], f"{name}.w", f"{name}.s", "", f"{name}.b"],
        node.output,
        name,
        domain=MICROSOFT,
    )
    return [made], values


def static(node: onnx.NodeProto, weight: Floats, bias: Floats, ranges: Ranges) -> Form:
    """Return Q/DQ around a Gemm, which onnxruntime fuses into QGemm: activations on a fixed scale."""
    codes, scales = quantize_channels(weight)
    low, high = ranges[node.input[0]]
    scale = np.float32((high - low) / 255)
    zero = np.uint8(round(-low / scale))
    name, source = node.name, node.input[0]
    values = {
        f"{name}.w": codes,
        f"{name}.s": scales,
        f"{name}.z": np.zeros(len(scales), np.int8),
        f"{name}.b": np.rint(bias / (scale * scales)).astype(np.int32),
        f"{name}.bs": scale * scales,
        f"{name}.as": scale,
        f"{name}.az": zero,
    }
    made = [
        helper.make_node("QuantizeLinear", [source, f"{name}.as", f"{name}.az"], [f"{name}.q"], f"{name}.q"),
        helper.make_node("DequantizeLinear", [f"{name}.q", f"{name}.as", f"{name}.az"], [f"{name}.d"], f"{name}.d"),
        helper.make_node(
            "DequantizeLinear", [f"{name}.w", f"{name}.s", f"{name}.z"], [f"{name}.f"], f"{name}.f", axis=0
        ),
        helper.make_node("DequantizeLinear", [f"{name}.b", f"{name}.bs"], [f"{name}.g"], f"{name}.g", axis=0),
        helper.make_node("Gemm", [f"{name}.d", f"{name}.f", f"{name}.g"], node.output, name, transB=1),
    ]
    return made, values


def weight_only(node: onnx.NodeProto, weight: Floats, bias: Floats, _ranges: Ranges) -> Form:
    """Return MatMulNBits with 8 bits and accuracy level 4."""
    codes, scales = quantize_blocks(weight, 8, BLOCK)
    name = node.name
    values = {f"{name}.w": codes, f"{name}.s": scales, f"{name}.b": bias}
    made = helper.make_node(
        "MatMulNBits",
        [node.input[0], f"{name}.w", f"{name}.s", "", "", f"{name}.b"],
        node.output,
        name,
        domain=MICROSOFT,
        K=weight.shape[1],
        N=weight.shape[0],
        bits=8,
        block_size=BLOCK,
        accuracy_level=4,
    )
    return [made], values


FORMS = {DYNAMIC: dynamic, STATIC: static, WEIGHT_ONLY: weight_only}


def matrix_ops(path: Path) -> str:
    """Return the matrix products that onnxruntime's own optimiser left in a graph: what really runs."""
    counts = collections.Counter(node.op_type for node in onnx.load(path, load_external_data=False).graph.node)
    return ", ".join(f"{count} {op}" for op, count in sorted(counts.items()) if "MatMul" in op or "Gemm" in op)


if __name__ == "__main__":
    main()
