#!/usr/bin/env python3
"""Measure how far the speech of a quantised bundle is from its float twin's: codes, log-mel, and how it is rated.

    edgekit export CHECKPOINT -o bundles/float32 --precision float32
    edgekit export CHECKPOINT -o bundles/int8 --precision int8
    python profiles/bench/speech-quality.py --quantised bundles/int8 --float bundles/float32

Every recording of --speech is answered by the twin, which speaks the answer. The bundle speaks it twice: with the
twin's codes forced, to be compared, and with its own. DNSMOS rates all three, and the recordings and white noise as
yardsticks: a voice must come out near 3 and noise near 1, or the ratings are worth nothing. Writes JSON and Markdown
under profiles/<device>/.
"""

import argparse
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnxruntime
import soxr
from numpy.typing import NDArray

import edgekit
from edgekit.exporter.checks.speech_quality import (
    Pair,
    code_mismatches,
    mel_distance_db,
    root_mean_square,
    sound_distance_db,
)
from edgekit.limits import available_cores
from edgekit.profiler.bench import bundle_facts
from edgekit.profiler.clips import read_clip
from edgekit.profiler.comparison import Findings, Ratio, bootstrap_ratio, make_comparison, save_comparison
from edgekit.profiler.profiles import BundleFacts
from edgekit.runtime.audio.speech_file import SpeechFile
from edgekit.runtime.events import Audio
from edgekit.runtime.judge.probe import FRAMES, answer, hear, speak
from edgekit.runtime.model import Model
from edgekit.runtime.speak import Spoken

ROOT = Path(__file__).resolve().parents[2]
RATE_HZ = 16_000
WINDOW = 144_160  # samples that DNSMOS looks at, 9.01 s
# Raw outputs to ratings. Source: microsoft/DNS-Challenge, DNSMOS/dnsmos_local.py (P.835, not personalised).
RATINGS = {
    "speech": (-0.08397278, 1.22083953, 0.0052439),
    "background": (-0.13166888, 1.60915514, -0.39604546),
    "overall": (-0.06766283, 1.11546468, 0.04602535),
}
TWIN, FORCED, OWN = "float twin", "quantised, the twin's codes", "quantised, its own codes"
VOICE, NOISE = "recorded voice", "white noise"
NOISE_AT_MOST = 2.0  # overall: what is rated so is noise to DNSMOS

Samples = NDArray[np.float32]


def main() -> None:
    """Measure, write and say where."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quantised", type=Path, required=True)
    parser.add_argument("--float", type=Path, required=True)
    parser.add_argument("--speech", type=Path, default=ROOT / "export/clips", help="folder of recordings to answer")
    parser.add_argument("--frames", type=int, default=FRAMES, help="of codes in an answer, at most")
    parser.add_argument("--limit", type=int, help="take the first recordings only, to try it out")
    parser.add_argument("--save", type=Path, help="folder for what was said, as WAV")
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--output", type=Path, default=ROOT / "profiles")
    args = parser.parse_args()

    paths = sorted(path for path in args.speech.rglob("*") if path.suffix in {".wav", ".flac"})[: args.limit]
    if not paths:
        raise SystemExit(f"{args.speech}: no WAV or FLAC files there; name another folder by --speech")
    models = {
        TWIN: edgekit.load(args.float, threads=args.threads, speak=True),
        FORCED: edgekit.load(args.quantised, threads=args.threads, speak=True),
    }
    facts = {subject: bundle_facts(model) for subject, model in models.items()}
    check_twins(facts)
    dnsmos, findings, pairs, clips = Dnsmos(args.threads), Findings(), [], []
    for index, path in enumerate(paths):
        print(f"{path.name}: {index + 1} of {len(paths)}", flush=True)
        clip = read_clip(path, models[TWIN].manifest.front_end.sample_rate_hz)
        clips.append(clip.facts())
        said = say(models, clip.samples, args.frames)
        pairs.append(Pair(said[FORCED], said[TWIN]))
        for subject, spoken in said.items():
            rate = rate_hz(models[TWIN])
            for name, rating in dnsmos.rate(spoken.samples, rate).items():
                findings.add(f"DNSMOS, {name}", subject, "rating, 1 to 5", rating)
            if args.save:
                save(
                    args.save / f"{path.stem}.{subject.replace(', ', '-').replace(' ', '-')}.wav", spoken.samples, rate
                )
        noise = np.random.default_rng(index).uniform(-0.1, 0.1, len(clip.samples)).astype(np.float32)
        for subject, yardstick in ((VOICE, clip.samples), (NOISE, noise)):
            for name, rating in dnsmos.rate(yardstick, clip.rate_hz).items():
                findings.add(f"DNSMOS, {name}", subject, "rating, 1 to 5", rating)
    add_distances(findings, pairs, rate_hz(models[TWIN]))
    ratios = code_agreement(pairs)
    name = models[FORCED].manifest.name
    comparison = make_comparison(
        title=f"Speech of {name}, quantised, against its float twin",
        question="How many codes would the quantised bundle take otherwise, how far is its sound, and how is it rated?",
        settings={
            "Recordings": f"{len(paths)}, each answered in at most {args.frames} frames of codes, the likeliest ones",
            "Precision": ", ".join(f"{group} {kind}" for group, kind in facts[FORCED].precision.items()),
            "Threads": str(args.threads),
        },
        figures=findings.figures(),
        ratios=ratios,
        definitions={
            "codes that differ": "Share of the likeliest codes that are others than the twin's, which are fed to both; "
            "where a talker writes them, its end of speech counts as a code of codebook 0. Where codes stand among an "
            "answer's tokens and it holds none, seeded ones are spoken and none is counted.",
            "log-mel distance, sound": "Root mean square of the difference in decibels of 80 mel bands, windows of "
            "40 ms every 10 ms, with the twin's codes forced; 80 dB below the twin's loudest band is the floor.",
            "log-mel distance, frames": "The same of the mel frames that the vocoder is given, without a floor.",
            "DNSMOS": "Reddy et al. 2022, DNSMOS P.835: what a model expects listeners to say of speech, background "
            "and the whole, at 16 kHz; means of windows of 9.01 s, a shorter sound is doubled until it fills one.",
        },
        bundles=facts,
        clips=clips,
        packages=("speechmos", "soxr"),
        notes=notes(facts, findings),
    )
    print(save_comparison(comparison, args.output, f"{name}-speech-quality"))


def check_twins(facts: Mapping[str, BundleFacts]) -> None:
    """End with one line where these are no twins."""
    twin, bundle = facts[TWIN], facts[FORCED]
    if odd := sorted(group for group, kind in twin.precision.items() if kind != "float32"):
        raise SystemExit(f"--float: its {odd[0]} is {twin.precision[odd[0]]}; export it with --precision float32")
    for what in ("name", "family", "dummy_seed"):
        if getattr(twin, what) != getattr(bundle, what):
            raise SystemExit(
                f"--float: {what} {getattr(twin, what)}, the quantised bundle has {getattr(bundle, what)}; "
                "export both from one checkpoint"
            )


def rate_hz(model: Model) -> int:
    """Return the sample rate at which it speaks."""
    assert model.manifest.speech is not None, "loaded to speak"
    return model.manifest.speech.sample_rate_hz


def say(models: Mapping[str, Model], samples: Samples, frames: int) -> dict[str, Spoken]:
    """Return what the twin says to a recording, and the quantised bundle with the twin's codes and its own."""
    twin, bundle = models[TWIN], models[FORCED]
    heard, ours = hear(twin, samples), hear(bundle, samples)
    tokens = answer(twin, heard).tokens
    said = speak(twin, heard, tokens, frames=frames)
    return {
        TWIN: said,
        FORCED: speak(bundle, ours, tokens, frames=frames, forced=said),
        OWN: speak(bundle, ours, tokens, frames=frames),
    }


def save(path: Path, samples: Samples, rate: int) -> None:
    """Write a WAV file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with SpeechFile(path, rate) as file:
        file.audio(Audio(samples, rate))


def add_distances(findings: Findings, pairs: Sequence[Pair], rate: int) -> None:
    """Add the distances of sound, and of mel frames where there are some, a sample for each recording."""
    for pair in pairs:
        found = {
            "sound": sound_distance_db(pair.ours.samples, pair.theirs.samples, rate),
            "frames": mel_distance_db(pair.ours.mel, pair.theirs.mel),
        }
        for name, difference in found.items():
            if (distance := root_mean_square([difference])) is not None:
                findings.add(f"log-mel distance, {name}", FORCED, "dB", distance)


def code_agreement(pairs: Sequence[Pair]) -> list[Ratio]:
    """Return the share of codes that differ, together and of each codebook, with bootstrap intervals."""
    books = [[book.astype(float) for book in code_mismatches([pair])] for pair in pairs]
    chosen = [one for one in books if any(book.size for book in one)]
    if not chosen:
        return []
    ratios = [_shares("codes that differ, all", [np.concatenate(one) for one in chosen])]
    for index in range(len(chosen[0]) if len(chosen[0]) > 1 else 0):
        if any(one[index].size for one in chosen):
            parts = [one[index] for one in chosen if one[index].size]
            ratios.append(_shares(f"codes that differ, codebook {index}", parts))
    return ratios


def _shares(name: str, parts: Sequence[NDArray[np.float64]]) -> Ratio:
    return bootstrap_ratio(name, [part.sum() for part in parts], [part.size for part in parts])


def notes(facts: Mapping[str, BundleFacts], findings: Findings) -> list[str]:
    """Return what the figures tell, and what they do not."""
    overall = {figure.subject: figure.p50 for figure in findings.figures() if figure.name == "DNSMOS, overall"}
    said = []
    if overall[VOICE] < overall[NOISE] + 1:
        said.append("DNSMOS does not tell these recordings from white noise: its ratings mean nothing here.")
    if facts[TWIN].dummy_seed is not None:
        said.append(
            "These are bundles of dummy weights, which speak noise: DNSMOS means nothing here, and neither does "
            "the share of codes that differ, as noise prefers none."
        )
    elif TWIN not in overall:
        said.append("The float twin made no sound: nothing was rated.")
    elif overall[TWIN] <= NOISE_AT_MOST:
        said.append(
            f"The float twin itself is rated {overall[TWIN]:.2f}, as noise is: DNSMOS means nothing here, and "
            "no rating of the quantised bundle can tell what quantising did."
        )
    else:
        said += [
            f"DNSMOS, overall, {subject}: {overall[subject] - overall[TWIN]:+.2f} from the float twin's."
            for subject in (FORCED, OWN)
            if subject in overall
        ]
    return said


class Dnsmos:
    """DNSMOS P.835 by the graph of the package ``speechmos``, whose own code would need librosa."""

    def __init__(self, threads: int) -> None:
        found = find_spec("speechmos")
        if found is None or not found.submodule_search_locations:
            raise SystemExit("speechmos: not installed; pip install -r requirements/bench.txt")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        graph = Path(found.submodule_search_locations[0], "dnsmos_models", "sig_bak_ovr.onnx")
        self._session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])

    def rate(self, samples: Samples, rate: int) -> dict[str, float]:
        """Return the ratings by name, none of a sound without samples. samples: (n,) in [-1, 1]."""
        sound = samples if rate == RATE_HZ else soxr.resample(samples, rate, RATE_HZ)
        if not len(sound):
            return {}
        while len(sound) < WINDOW:
            sound = np.concatenate((sound, sound))
        sound = np.clip(sound, -1, 1).astype(np.float32)
        windows = int(len(sound) // RATE_HZ - WINDOW / RATE_HZ) + 1  # as published: of whole seconds
        starts = range(0, RATE_HZ * windows, RATE_HZ)
        raw = np.array([self._session.run(None, {"input_1": sound[None, at : at + WINDOW]})[0][0] for at in starts])
        names = enumerate(RATINGS.items())
        return {name: float(np.polyval(curve, raw[:, column]).mean()) for column, (name, curve) in names}


if __name__ == "__main__":
    main()
