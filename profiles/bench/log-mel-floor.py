#!/usr/bin/env python3
"""Measure what a running log-mel floor changes against the whole clip's: features, words and tokens, and what it costs.

    python profiles/data/fetch-speech.py
    edgekit export WHISPER-BASE -o bundles/whisper-base-float32 --precision float32
    python profiles/bench/log-mel-floor.py --whisper bundles/whisper-base-float32 --speech en=data/asterisk-en

Recordings are joined to clips of 20 to 29 s, once the loudest first and once the loudest last, as they were recorded
and with the quieter half 20 dB lower. Features are those of Qwen3-Omni's front end in calls of 8 s, without any
weights. Words: no published Qwen3-Omni is at hand, so a published Whisper, whose front end it has, is given both
floors; its own, one window of 30 s, has only the clip's. Tokens: a small Qwen3-Omni of noise, whole clips through
``transcribe``. Writes JSON and Markdown under profiles/<device>/.
"""

import argparse
import dataclasses
import json
import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jiwer
import msgspec
import numpy as np
from numpy.typing import NDArray

import edgekit
from edgekit.bundle import Floor, FrontEnd, Grid
from edgekit.exporter.export import export
from edgekit.exporter.options import ExportOptions
from edgekit.profiler.bench import bundle_facts
from edgekit.profiler.comparison import Findings, bootstrap_ratio, make_comparison, save_comparison
from edgekit.runtime.audio.files import read_mono
from edgekit.runtime.engine import Call, Engine
from edgekit.runtime.hear.features import log_mel

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "profiles/data/configs/qwen3-omni-30b-a3b-thinker.json"
RATE, DIFFERENT, LOWER_DB = 16_000, 1e-3, 20.0
LONGEST_S, SHORTEST_S = 29.0, 20.0
FLOORS: tuple[Floor, ...] = ("clip", "running")
ORDERS, GAINS = ("loudest first", "loudest last"), ("as recorded", "quieter half 20 dB lower")
FRONT_END = FrontEnd(mel_bins=128, edge="reflect", whole_hops=True)
CALLS = Grid(
    mode="exact", chunk_frames=800, max_frames=3_200, max_positions=104, left_frames=0, right_frames=0,
    frames_per_position=8, segment_frames=100,
)  # fmt: skip
WINDOW = Grid(
    mode="exact", chunk_frames=800, max_frames=3_000, max_positions=1_500, left_frames=0, right_frames=0,
    pad_to_frames=3_000,
)  # fmt: skip
Samples = NDArray[np.float32]


class Given:
    """An encoder that hears ``mel`` in place of what the stream made."""

    def __init__(self, engine: Engine) -> None:
        self.component, self.counts, self.notes = engine.component, engine.counts, engine.notes
        self._engine, self.mel = engine, np.zeros((0, 0), np.float32)

    def bind(self, sizes: Mapping[str, int]) -> "GivenCall":
        """Return a call of it."""
        return GivenCall(self._engine.bind(sizes), self.mel)


class GivenCall:
    """One stream's call of a Given encoder."""

    def __init__(self, call: Call, mel: Samples) -> None:
        self._call, self._mel = call, mel
        self.reset, self.save, self.load = call.reset, call.save, call.load

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Run with the mel that was given."""
        assert inputs["mel"].shape == self._mel.shape, "a clip is one window"
        return self._call.run({**inputs, "mel": self._mel})


def main() -> None:
    """Measure, write and say where."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--whisper", type=Path, required=True, help="a float32 bundle of a published Whisper")
    parser.add_argument("--speech", action="append", metavar="LANGUAGE=FOLDER", help="WAV files; repeatable")
    parser.add_argument("--clips", type=int, default=4, help="of each folder")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=ROOT / "profiles")
    args = parser.parse_args()

    folders = dict(one.split("=", 1) for one in args.speech or [f"en={ROOT / 'data/asterisk-en'}"])
    groups = [("en", group) for group in joined(sorted((ROOT / "export/clips").glob("*.flac")), 1)]
    for language, folder in folders.items():
        files = sorted(Path(folder).rglob("*.wav"))
        if not files:
            raise SystemExit(f"{folder}: no WAV files there; python profiles/data/fetch-speech.py fetches them")
        groups += [(language, group) for group in joined(files, args.clips)]
    whisper = edgekit.load(args.whisper, threads=args.threads)
    with tempfile.TemporaryDirectory() as folder:
        omni = edgekit.load(noise_omni(Path(folder)), threads=args.threads)
        found, ratios, changed = compare(groups, whisper, omni)
        cost(found, groups, omni)
        facts = {"whisper": bundle_facts(whisper), "noise": bundle_facts(omni)}
    comparison = make_comparison(
        title="The floor of log-mel: below the clip's maximum, or the running one",
        question="How far are a stream's features from those of a published extractor, which knows the whole clip?",
        settings={
            "Clips": f"{len(groups)} of {SHORTEST_S:.0f} to {LONGEST_S:.0f} s: the check clips, and of each of "
            f"{', '.join(folders)} up to {args.clips}, joined of recordings in the order of their names",
            "Order": "by root mean square; with the quieter half 20 dB lower after that",
            "Scoring": "jiwer on lower-case words without punctuation; what is written with the clip's floor is the "
            "reference, so this is agreement, not correctness; language given",
        },
        figures=found.figures(),
        ratios=ratios,
        definitions={
            "bins that differ": f"Share of a clip's values that are more than {DIFFERENT:g} apart.",
            "mean difference": "Of all values of a clip; features span some 2.",
            "largest difference": "Of any value of a clip.",
            "features of a minute, transcribing a minute": "Seconds of work, floors interleaved; the encoder and "
            "thinker are small, so that the share of features is larger than in any published model.",
            "words changed": "Substitutions, deletions and insertions by the words of the reference.",
            "answers changed": "Clips whose tokens from a network of noise are not all the same.",
        },
        bundles=facts,
        packages=("jiwer",),
        details={"changed": changed},
    )
    print(save_comparison(comparison, args.output, "log-mel-floor"))


def joined(files: list[Path], most: int) -> Iterator[list[Samples]]:
    """Yield up to ``most`` lists of recordings that are a clip together."""
    group: list[Samples] = []
    for file in files:
        try:
            sound = read_mono(file, RATE)
        except edgekit.AudioError as error:  # a prompt without a sample
            print(f"left out: {error}", flush=True)
            continue
        if sum(map(len, group)) + len(sound) <= LONGEST_S * RATE:
            group.append(sound)
        elif sum(map(len, group)) >= SHORTEST_S * RATE and len(group) > 1 and most > 0:
            yield group
            group, most = [sound], most - 1
    if most > 0 and len(group) > 1 and sum(map(len, group)) >= SHORTEST_S * RATE:
        yield group


def arranged(group: list[Samples], gain: str, order: str) -> Samples:
    """Return the recordings as one clip."""
    sounds = sorted(group, key=lambda sound: float(np.square(sound).mean()), reverse=True)
    if gain != GAINS[0]:
        half = len(sounds) // 2
        sounds[half:] = [sound * np.float32(10 ** (-LOWER_DB / 20)) for sound in sounds[half:]]
    return np.concatenate(sounds if order == ORDERS[0] else sounds[::-1])


def compare(
    groups: list[tuple[str, list[Samples]]], whisper: edgekit.Model, omni: edgekit.Model
) -> tuple[Findings, list[Any], list[dict[str, str]]]:
    """Return what differs between the two floors, clip by clip."""
    found, ratios, changed = Findings(), [], []
    grid, engine = whisper.manifest.grid, Given(whisper.engines["encoder"])
    model = dataclasses.replace(whisper, engines={**whisper.engines, "encoder": engine})
    for gain in GAINS:
        for order in ORDERS:
            subject = f"{gain}, {order}"
            wrong, said, other = [], [], []
            for index, (language, group) in enumerate(groups):
                sound = arranged(group, gain, order)
                clip, running = (log_mel(sound, FRONT_END, CALLS, floor) for floor in FLOORS)
                apart = np.abs(clip - running)
                found.add("bins that differ", subject, "1", float((apart > DIFFERENT).mean()))
                found.add("mean difference", subject, "1", float(apart.mean()))
                found.add("largest difference", subject, "1", float(apart.max()))
                mels = [log_mel(sound, whisper.manifest.front_end, WINDOW, floor) for floor in FLOORS]
                texts = []
                for mel in mels if np.any(mels[0] != mels[1]) else mels[:1]:
                    engine.mel = np.pad(mel, ((0, 0), (grid.left_frames, grid.right_frames)))
                    texts.append(model.transcribe(sound, gate="off", language=language).text)
                meant, heard = (" ".join(re.findall(r"\w+", text.lower())) for text in (texts[0], texts[-1]))
                errors = jiwer.process_words(meant, heard) if meant else None
                wrong.append(errors.substitutions + errors.deletions + errors.insertions if errors else 0)
                said.append(len(meant.split()))
                answers = [
                    [one.tokens for one in omni.transcribe(sound, gate="off", floor=floor, max_tokens=16).segments]
                    for floor in (FLOORS if apart.any() else FLOORS[:1])
                ]
                other.append(float(answers[0] != answers[-1]))
                if meant != heard:
                    changed.append({"condition": subject, "clip": f"{language} {index}", "of": meant, "to": heard})
                print(f"{subject}: {index + 1} of {len(groups)}, {sum(wrong)} of {sum(said)} words", flush=True)
            ratios.append(bootstrap_ratio(f"Words changed, Whisper: {subject}", wrong, said))
            ratios.append(bootstrap_ratio(f"Answers changed, noise: {subject}", other, [1.0] * len(other)))
    return found, ratios, changed


def cost(found: Findings, groups: list[tuple[str, list[Samples]]], omni: edgekit.Model) -> None:
    """Time features alone, and whole files, with either floor."""
    sound = arranged(groups[0][1], GAINS[0], ORDERS[0])
    minute = np.concatenate([sound, sound, sound])[: 60 * RATE]
    for _ in range(5):
        for floor in FLOORS:
            begun = time.perf_counter()
            log_mel(minute, FRONT_END, msgspec.structs.replace(CALLS, max_frames=8_000), floor)
            found.add("features of a minute", f"floor {floor}", "s", time.perf_counter() - begun)
            begun = time.perf_counter()
            omni.transcribe(minute, gate="off", floor=floor, max_tokens=16)
            found.add("transcribing a minute", f"floor {floor}", "s", time.perf_counter() - begun)


def noise_omni(folder: Path) -> Path:
    """Return a bundle of noise: Qwen3-Omni's ears and thinker, narrow and of few layers, at the published rates."""
    config = json.loads(CONFIG.read_text(encoding="utf-8"))
    thinker = config["thinker_config"]
    thinker["audio_config"] |= {
        "d_model": 256, "encoder_layers": 4, "encoder_attention_heads": 4, "encoder_ffn_dim": 1024,
        "downsample_hidden_size": 64, "output_dim": 256,
    }  # fmt: skip
    thinker["text_config"] |= {
        "hidden_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
        "moe_intermediate_size": 256, "num_experts": 8, "num_experts_per_tok": 2,
    }  # fmt: skip
    path = folder / "qwen3-omni-small" / "config.json"
    path.parent.mkdir()
    path.write_text(json.dumps(config), encoding="utf-8")
    export(path, folder / "bundle", ExportOptions(precision="float32", dummy_weights=True))
    return folder / "bundle"


if __name__ == "__main__":
    main()
