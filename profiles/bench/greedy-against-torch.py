#!/usr/bin/env python3
r"""Compare greedy tokens of the float bundle with transformers', 64 steps, on every clip of a set of recorded speech.

    python profiles/bench/greedy-against-torch.py --checkpoint models/edgekit-tiny/edgekit_tiny/checkpoint \
        --float bundles/edgekit-tiny-float32 data/asterisk-en export/clips

Needs torch: run it in the environment of `make test-reference`. Nothing is suppressed and nothing ends an answer before
64 tokens; both sides get the same features. A token that differs counts unless the reference's best two logits are less
than 1e-3 apart there. Clips that are done are kept in --work, so a run that was stopped goes on where it was; another
bundle, EdgeKit or version of what runs it starts afresh.
"""

import argparse
import dataclasses
import json
from pathlib import Path

import msgspec
import numpy as np

import edgekit
from edgekit.bundle import Bundle, hash_file
from edgekit.exporter.reference.whisper import WhisperReference
from edgekit.profiler.bench import bundle_facts
from edgekit.profiler.comparison import bootstrap_ratio, make_comparison, save_comparison
from edgekit.profiler.device import describe_software, software_digest
from edgekit.runtime.audio.files import read_mono
from edgekit.runtime.judge.probe import answer, hear

ROOT = Path(__file__).resolve().parents[2]
STEPS = 64
SURE_LEAD = 1e-3
PACKAGES = ("torch", "transformers")


def main() -> None:
    """Compare, write JSON and say where."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("speech", type=Path, nargs="+", help="folders of WAV and FLAC files")
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--float", type=Path, required=True)
    parser.add_argument("--every", type=int, default=1, help="take every n-th clip")
    parser.add_argument("--work", type=Path, default=ROOT / "build/bench/greedy-against-torch.jsonl")
    parser.add_argument("--output", type=Path, default=ROOT / "profiles")
    args = parser.parse_args()
    clips = sorted(path for folder in args.speech for kind in ("*.wav", "*.flac") for path in folder.rglob(kind))
    model = endless(edgekit.load(args.float))
    reference = WhisperReference(args.checkpoint)
    facts = bundle_facts(model)
    args.work.parent.mkdir(parents=True, exist_ok=True)
    lines = args.work.read_text(encoding="utf-8").splitlines() if args.work.exists() else []
    done = {(row["software"], row["manifest"], row["clip"]): row for row in map(json.loads, lines)}
    software = software_digest(describe_software(PACKAGES))
    rows = []
    for clip in clips[:: args.every]:
        key = (software, facts.manifest_sha256, hash_file(clip))
        if key not in done:
            named = dict(zip(("software", "manifest", "clip"), key, strict=True))
            row = {**named, "name": clip.name, **compare(model, reference, clip)}
            with args.work.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(row) + "\n")
            done[key] = row
        rows.append(done[key])
    differing = [row for row in rows if row["first_difference"] is not None]
    sure = [row for row in differing if row["lead"] >= SURE_LEAD]
    comparison = make_comparison(
        title=f"Greedy tokens of {model.manifest.name} in float32 against transformers",
        question="Does the exported graph write the same tokens as the published modules on the same grid?",
        settings={
            "Recordings": f"{len(rows)} clips",
            "Decoding": f"greedy, {STEPS} steps, nothing suppressed, nothing stops; the same features on both sides",
        },
        figures=(),
        ratios=[
            bootstrap_ratio(
                "Clips with equal tokens", [float(row not in differing) for row in rows], [1.0] * len(rows)
            ),
            bootstrap_ratio("Clips that differ beyond a tie", [float(row in sure) for row in rows], [1.0] * len(rows)),
        ],
        definitions={
            "beyond a tie": "The reference's best two logits are at least 1e-3 apart where the tokens first differ.",
            "largest frame difference": "Largest absolute difference of an encoder frame's value, in details.",
        },
        bundles={"float32": facts},
        packages=PACKAGES,
        details={"differ": differing, "largest frame difference": max(row["frames"] for row in rows)},
    )
    print(save_comparison(comparison, args.output, f"{model.manifest.name}-greedy-against-torch"))


def endless(model: edgekit.Model) -> edgekit.Model:
    """Return the model with nothing suppressed, and nothing that ends an answer: neither a token nor a loop."""
    protocol = msgspec.structs.replace(
        model.manifest.protocol,
        suppress=(),
        begin_suppress=(),
        stop=(-1,),
        max_tokens=STEPS,
        max_tokens_per_s=None,
        max_repeats=None,
    )
    manifest = msgspec.structs.replace(model.manifest, protocol=protocol)
    return dataclasses.replace(model, bundle=Bundle(model.bundle.folder, manifest))


def compare(model: edgekit.Model, reference: WhisperReference, clip: Path) -> dict[str, object]:
    """Return where the tokens first differ (None: nowhere), the reference's lead there, and the frames' distance."""
    heard = hear(model, read_mono(clip, model.manifest.front_end.sample_rate_hz))
    grid = model.manifest.grid
    mel = np.concatenate([part[:, grid.left_frames : part.shape[1] - grid.right_frames] for part in heard.mel], axis=1)
    chunk = grid.chunk_frames // grid.frames_per_position if grid.mode == "chunked" else 0
    frames = reference.encode(mel, chunk)
    prompt = [*model.manifest.protocol.start, *model.manifest.protocol.start_tail]
    ours = list(answer(model, heard).tokens)
    logits = reference.logits(frames, [*prompt, *ours[:-1]])[len(prompt) - 1 :]  # as long as ours agree, greedy
    theirs = logits.argmax(axis=1).tolist()
    at = next((step for step, (one, other) in enumerate(zip(ours, theirs, strict=True)) if one != other), None)
    best = np.sort(logits[at])[-2:] if at is not None else (0.0, 0.0)
    return {
        "first_difference": at,
        "lead": float(best[1] - best[0]),
        "frames": float(np.abs(frames - heard.frames).max()),
    }


if __name__ == "__main__":
    main()
