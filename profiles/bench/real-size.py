#!/usr/bin/env python3
"""Measure whole models at their published size, on dummy weights: export, load, hear ten seconds, write 16 tokens.

    python profiles/bench/real-size.py                                # every system, those already done left out
    python profiles/bench/real-size.py --only step-audio-2-mini-int8  # this one, done or not
    python profiles/bench/real-size.py --config my/config.json --precision int4

Each stage is a process of its own, whose memory is watched from outside. Memory bandwidth is measured just before and
after the model runs. Bundles are made under --work and deleted afterwards. Writes JSON and Markdown under
profiles/<device>/ after every system.
"""

import argparse
import dataclasses
import json
import os
import shutil
import sys
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edgekit.bundle import Bundle, hash_file, open_bundle
from edgekit.errors import EdgeKitError, ProfileError
from edgekit.limits import available_cores
from edgekit.profiler.bench import bundle_facts
from edgekit.profiler.clips import join_speech, read_clip
from edgekit.profiler.comparison import Comparison, Findings, Ratio, load_record, make_comparison, save_comparison
from edgekit.profiler.device import describe_device, describe_software, software_digest
from edgekit.profiler.footprint import Footprint, measure_footprint, memory_of
from edgekit.profiler.profiles import BundleFacts
from edgekit.profiler.traffic import token_bytes, weight_bytes
from edgekit.rates import DEFAULT_HZ
from edgekit.runtime.model import Model, load_opened
from edgekit.spans import ADAPTER, DECODE, ENCODER, FEATURES, PREFILL

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "profiles/data/configs"
SYSTEMS = {
    "step-audio-2-mini-int8": (CONFIGS / "step-audio-2-mini.json", "int8"),
    "step-audio-r1-int4": (CONFIGS / "step-audio-r1.json", "int4"),
    "qwen3-omni-30b-a3b-thinker-int4": (CONFIGS / "qwen3-omni-30b-a3b-thinker.json", "int4"),
}
SPEECH_S = 10.0
TOKENS = 16
EXPORT_LIMIT_BYTES = 3e9
MEMORY_LIMIT = 1.2
BUSY_CORES = 0.1  # more than this taken by others, and a figure of speed is only a lower bound
# Bits of a number with its scales, by precision, in blocks of 128, as the recipes have it; experts in blocks of 64.
BITS = {"float32": 32.0, "int8": 8.25, "int4": 4.25}
EXPERT_BITS = {"float32": 32.0, "int8": 8.5, "int4": 4.5}
MIB = 1 << 20


def main() -> None:
    """Measure what is asked for, write after each system, and say where."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", choices=sorted(SYSTEMS), help="this system, even if it is done")
    parser.add_argument("--config", type=Path, help="a config of your own in place of the systems above")
    parser.add_argument("--precision", choices=("int8", "int4"), default="int8", help="of --config")
    parser.add_argument("--rounds", type=int, default=3, help="answers after the first")
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--work", type=Path, default=ROOT / "build/bench/real-size", help="where bundles are made")
    parser.add_argument("--keep", action="store_true", help="leave bundles there, and use those that are there")
    parser.add_argument("--output", type=Path, default=ROOT / "profiles")
    parser.add_argument("--name", default="real-size", help="of the files that are written")
    parser.add_argument("--answer", type=Path, help=argparse.SUPPRESS)  # a bundle: this is the process that is measured
    args = parser.parse_args()
    if args.answer:
        sys.stdout.write(json.dumps(load_and_answer(args.answer, args.threads, args.rounds)) + "\n")
        return

    systems = {name: SYSTEMS[name] for name in args.only} if args.only else SYSTEMS
    if args.config:
        systems = {f"{args.config.stem}-{args.precision}": (args.config, args.precision)}
    written = args.output / describe_device().slug / f"{args.name}.json"
    done = found_rows(written)
    for name, (config, precision) in systems.items():
        if name in done and not (args.only or args.config) and done[name]["software"] == software_digest():
            print(f"{name}: is in {written}; --only {name} measures it again", flush=True)
            continue
        try:
            done[name] = measure(name, config, precision, args)
        except EdgeKitError as error:
            sys.exit(str(error))
        print(save_comparison(compare(done), args.output, args.name), flush=True)


def found_rows(path: Path) -> dict[str, dict[str, Any]]:
    """Return what earlier runs found, by system."""
    if not path.exists():
        return {}
    record = load_record(path)
    assert isinstance(record, Comparison), path
    return dict(record.details)


def measure(name: str, config: Path, precision: str, args: argparse.Namespace) -> dict[str, Any]:
    """Return everything that was found of one system, as plain data. Raises ProfileError if there is no room for it."""
    sizes = estimate(config)
    wanted, memory_mib = sizes[precision], describe_device().memory_mib
    row: dict[str, Any] = {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "software": software_digest(),
        "versions": msgspec.to_builtins(describe_software()),
        "config": config.name,
        "config_sha256": hash_file(config),
        "precision": precision,
        "threads": args.threads,
        "estimated_bytes": sizes,
        "memory_mib": memory_mib,
    }
    args.work.mkdir(parents=True, exist_ok=True)
    bundle, exported = args.work / name, args.work / f"{name}.export.json"
    free = shutil.disk_usage(args.work).free
    print(f"{name}: {wanted / 1e9:.1f} GB to write, {free / 1e9:.1f} GB free; memory {memory_mib:,} MiB", flush=True)
    if wanted > memory_mib * MIB:
        return row | {"failure": f"{wanted / 1e9:.1f} GB of weights, this machine has {memory_mib * MIB / 1e9:.1f} GB"}
    try:
        if not (args.keep and exported.exists() and (bundle / "manifest.json").exists()):
            if wanted * 1.02 > free:
                raise ProfileError(
                    f"{args.work}: {free / 1e9:.1f} GB free, {name} takes {wanted * 1.02 / 1e9:.1f} GB; "
                    "free some, or name another folder with --work"
                )
            exported.write_bytes(msgspec.json.encode(make_bundle(config, precision, bundle)))
        row["export"] = json.loads(exported.read_bytes())
        return row | run_bundle(bundle, args)
    finally:
        if not args.keep:
            shutil.rmtree(bundle, ignore_errors=True)
            exported.unlink(missing_ok=True)


def estimate(config: Path) -> dict[str, float]:
    """Return the bytes of a config's weights by precision, and the number of ``parameters``."""
    from edgekit.exporter.families import find_family
    from edgekit.exporter.sources.stored import read_object

    read = read_object(config)
    family = find_family(read)
    opened = family.bind(read, family.generation(read))
    sizes = {"parameters": 0.0, "int8": 0.0, "int4": 0.0}
    for tensor, shape in opened.expected().items():
        count, group = float(np.prod(shape, dtype=np.int64)), opened.group(tensor)
        sizes["parameters"] += count
        for precision in ("int8", "int4"):
            bits = (EXPERT_BITS if group == "experts" else BITS)[precision if group else "float32"]
            sizes[precision] += count * bits / 8
    return sizes


def make_bundle(config: Path, precision: str, bundle: Path) -> Footprint:
    """Export in a process of its own and return what that took."""
    print(f"{bundle.name}: export", flush=True)
    command = [sys.executable, "-m", "edgekit", "export", str(config), "-o", str(bundle)]
    return measure_footprint([*command, "--dummy-weights", "--precision", precision, "--overwrite"])[1]


def run_bundle(bundle: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Return what loading and answering take, with the bandwidth before and after; or why it came to no end."""
    manifest = open_bundle(bundle, check_hashes=False).manifest
    row: dict[str, Any] = {"weight_bytes": weight_bytes(manifest)}
    command = [sys.executable, str(Path(__file__)), "--answer", str(bundle)]
    command += ["--threads", str(args.threads), "--rounds", str(args.rounds)]
    before = bandwidth(args.threads)
    print(f"{bundle.name}: load and answer {1 + args.rounds} times", flush=True)
    try:
        text, footprint = measure_footprint(command)
    except ProfileError as error:
        return row | {"failure": str(error)}
    found = json.loads(text)
    middle = found["prompt_tokens"] + TOKENS // 2
    return row | {
        "run": msgspec.to_builtins(footprint),
        "answer": found,
        "bandwidth": [*before, *bandwidth(args.threads)],
        "token_bytes": dict(token_bytes(manifest, middle)),
    }


def bandwidth(threads: int) -> list[float]:
    """Return bytes a second read from memory, measured in a process of its own."""
    text, _ = measure_footprint([sys.executable, "-m", "edgekit.profiler.traffic", str(threads)])
    return list(json.loads(text))


def load_and_answer(folder: Path, threads: int, rounds: int) -> dict[str, Any]:
    """Load a bundle, let it answer the same ten seconds of speech again and again, and return when what was done."""
    forget_files(folder)
    begun_s = time.perf_counter()
    bundle = open_bundle(folder)
    checked_s = time.perf_counter()
    model = load_opened(bundle, threads=threads)
    loaded_s = time.perf_counter()
    found: dict[str, Any] = {
        "facts": msgspec.to_builtins(bundle_facts(model)),
        "check_s": checked_s - begun_s,
        "load_s": loaded_s - checked_s,
        "loaded": msgspec.to_builtins(memory_of()),
        "passes": [],
    }
    paths = sorted((ROOT / "export/clips").glob("*.flac"))
    clip = join_speech([read_clip(path, DEFAULT_HZ) for path in paths], SPEECH_S)
    model = endless(model)
    for _ in range(1 + rounds):
        stream = model.stream(gate="off")
        list(stream.push(clip.samples))
        list(stream.finish())
        spans = stream.trace.spans
        prefill = [span for span in spans if span.name == PREFILL]
        found["prompt_tokens"] = sum(span.count for span in prefill)
        found["passes"].append(
            {
                "hear_s": sum(span.seconds for span in spans if span.name in (FEATURES, ENCODER, ADAPTER)),
                "prefill_s": sum(span.seconds for span in prefill),
                "decode_s": [span.seconds for span in spans if span.name == DECODE],
            }
        )
        del stream  # its KV cache goes before the next one comes
    return found | {"answered": msgspec.to_builtins(memory_of())}


def forget_files(folder: Path) -> None:
    """Drop a bundle's pages from the system's file cache, so that loading reads the disk as after a start."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def endless(model: Model) -> Model:
    """Return the model with answers of exactly the tokens wanted: the first comes out of the prefill."""
    protocol = msgspec.structs.replace(
        model.manifest.protocol, stop=(-1,), max_tokens=TOKENS + 1, max_tokens_per_s=None, max_repeats=None
    )
    manifest = msgspec.structs.replace(model.manifest, protocol=protocol)
    return dataclasses.replace(model, bundle=Bundle(model.bundle.folder, manifest))


def compare(rows: Mapping[str, Mapping[str, Any]]) -> Comparison:
    """Return what is known of every system, side by side."""
    findings, ratios, notes = Findings(), [], []
    for name, row in rows.items():
        add_figures(findings, name, row)
        notes += remarks(name, row)
        if "answer" in row:
            ratios += add_limits(findings, name, row)
    return make_comparison(
        title="Whole models at their real size, on dummy weights",
        question="Does a model of the published shape fit this machine, and how near does it come to what its memory "
        "can deliver? Weights are noise: bytes and times are those of the real model, words mean nothing.",
        settings={
            "Input": f"{SPEECH_S:g} s of speech at once, gate off, {TOKENS} tokens decoded one by one",
            **{
                name: f"{row['precision']}, {row['threads']} threads, {row['date']}, "
                f"onnxruntime {row['versions']['onnxruntime']}, {row['config']} {row['config_sha256'][:16]}"
                for name, row in rows.items()
            },
        },
        figures=findings.figures(),
        ratios=ratios,
        definitions=DEFINITIONS,
        bundles={
            name: msgspec.convert(row["answer"]["facts"], BundleFacts) for name, row in rows.items() if "answer" in row
        },
        notes=notes,
        details=rows,
    )


PEAK, DECODED, LIMIT = "Peak resident", "Decode", "Limit of the bandwidth"
DEFINITIONS = {
    "Export": "`edgekit export CONFIG --dummy-weights`, every weight drawn, quantised, written, read back, compared.",
    "Check": "SHA-256 of every file of the bundle, read from the disk: its pages were dropped from the cache before.",
    "Load": "From the checked bundle to engines that are ready; what the cache still holds of the files is not read "
    "from the disk again.",
    PEAK: "High-water mark of resident memory from start to end of a process that loads and answers. Allocated: the "
    "anonymous part of it, the highest of a sample every 50 ms; the rest are mapped files, which the system may "
    "drop and read again. Weights: all weights of the bundle as stored, scales included.",
    "First answer": "All work on the ten seconds in the first pass after loading.",
    "Hear": "Features, encoder and adapter on the ten seconds, all at once; passes after the first, as below.",
    "Prefill": "Text around the sound and the sound's embeddings through the backbone, up to the first token.",
    DECODED: f"{TOKENS} tokens / the time of their backbone runs, choice included.",
    "Bytes read a token": "Codes and scales of every linear of the backbone and the head, the chosen experts of each "
    "bank, and keys and values of the tokens before, at the middle of the answer.",
    "Read bandwidth": "A buffer of 1 GiB read by as many threads as the engine has, numpy's maximum, in a process of "
    "its own: nine passes just before the model runs and nine just after.",
    LIMIT: "Read bandwidth / bytes read a token.",
}


def add_figures(findings: Findings, name: str, row: Mapping[str, Any]) -> None:
    """Add the figures of one system's export, load and answers, as far as it came."""
    findings.add("Parameters", name, "10^9", row["estimated_bytes"]["parameters"] / 1e9)
    if "export" in row:
        findings.add("Weights", name, "GB", row["weight_bytes"] / 1e9)
        findings.add("Export", name, "s", row["export"]["wall_s"])
        findings.add("Export: peak resident", name, "MiB", row["export"]["peak_mib"])
    if "answer" not in row:
        return
    found, passes = row["answer"], row["answer"]["passes"]
    warm = passes[1:] or passes
    findings.add("Check", name, "s", found["check_s"])
    findings.add("Load", name, "s", found["load_s"])
    findings.add("Loaded: resident", name, "MiB", found["loaded"]["now_mib"])
    findings.add("Loaded: allocated", name, "MiB", found["loaded"]["anonymous_mib"])
    findings.add(PEAK, name, "MiB", max(row["run"]["peak_mib"], found["answered"]["peak_mib"]))
    findings.add(f"{PEAK}: allocated", name, "MiB", row["run"]["peak_anonymous_mib"])
    first = passes[0]
    findings.add("First answer", name, "s", first["hear_s"] + first["prefill_s"] + sum(first["decode_s"]))
    findings.add("Hear", name, "s", *(one["hear_s"] for one in warm))
    findings.add("Prefill", name, "s", *(one["prefill_s"] for one in warm))
    findings.add("Prefill: tokens", name, "1", found["prompt_tokens"])
    findings.add(DECODED, name, "tokens/s", *(len(one["decode_s"]) / sum(one["decode_s"]) for one in warm))
    read = sum(row["token_bytes"].values())
    findings.add("Bytes read a token", name, "GB", read / 1e9)
    for part, size in row["token_bytes"].items():
        findings.add(f"Bytes read a token: {part}", name, "GB", size / 1e9)
    findings.add("Read bandwidth", name, "GB/s", *(speed / 1e9 for speed in row["bandwidth"]))
    findings.add(LIMIT, name, "tokens/s", *(speed / read for speed in row["bandwidth"]))


def add_limits(findings: Findings, name: str, row: Mapping[str, Any]) -> list[Ratio]:
    """Return a system's memory against its weights, and its speed against the limit."""
    (peak_mib,) = findings.samples(PEAK, name)
    of_weights = peak_mib * MIB / row["weight_bytes"]
    speeds, limits = findings.samples(DECODED, name), findings.samples(LIMIT, name)
    share = float(np.median(speeds) / np.median(limits))
    lowest, highest = min(speeds) / max(limits), max(speeds) / min(limits)
    return [
        Ratio(f"{name}: peak resident / weights", of_weights, of_weights, of_weights, "one run", 1, MEMORY_LIMIT),
        Ratio(f"{name}: decode / limit", share, lowest, highest, "slowest over highest, and reverse", len(speeds)),
    ]


def remarks(name: str, row: Mapping[str, Any]) -> list[str]:
    """Return what a reader must know of one system: limits met or missed, and others at work beside it."""
    if "failure" in row:
        return [f"{name} does not fit: {row['failure']}. {what_fits(row)}"]
    peak = row["export"]["peak_mib"] * MIB
    within = "within" if peak < EXPORT_LIMIT_BYTES else "beyond"
    told = [f"{name}: the export takes at most {peak / 1e9:.2f} GB of memory, {within} the limit of 3 GB."]
    busy = {stage: row[stage]["others_cores"] for stage in ("export", "run")}
    if max(busy.values()) > BUSY_CORES:
        told.append(
            f"{name}: the machine was busy: other work held {busy['export']:.1f} cores during the export and "
            f"{busy['run']:.1f} while it answered. Memory is what it is, times are upper bounds."
        )
    return told


def what_fits(row: Mapping[str, Any]) -> str:
    """Return which precision would fit a machine's memory, at the most that a run may take of its weights."""
    fitting = [
        f"{precision} ({size / 1e9:.1f} GB)"
        for precision, size in row["estimated_bytes"].items()
        if precision in BITS and size * MEMORY_LIMIT < row["memory_mib"] * MIB
    ]
    return f"Would fit: {', '.join(fitting)}." if fitting else "No recipe would fit."


if __name__ == "__main__":
    main()
