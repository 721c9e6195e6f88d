"""Measure whether the encoder's frames tell sounds apart: speech, music, alarm, bell, impact, engine, animal.

    python profiles/data/fetch-sounds.py && python profiles/data/fetch-speech.py
    python models/edgekit-tiny/train/sounds.py data/train/run/checkpoint

Knows packaged recordings, synthetic speech to learn from and people's speech to be tested with. A head is multinomial
logistic regression on principal components of a chunk's frames, pooled, after one of the encoder's layers. Layer,
pooling and penalty are chosen on the half to train on, packages apart; the rule that decides stands here as numbers.
Prints Markdown; writes nothing, and no runtime reads it.
"""

import argparse
import itertools
import json
import sys
import warnings
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from features import HOP, RATE_HZ, streaming
from greedy import load_network
from network import Encoder, chunk_mask
from reference import read
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from edgekit.profiler.words import read_references

CLASSES = ("speech", "music", "alarm", "bell", "impact", "engine", "animal")
UNNAMED = ("noise", "other")  # no class of the head: only counted as false reports
SPEECH = CLASSES.index("speech")
GRID = 64  # positions of 20 ms that the encoder hears at once
CHUNK = 32  # and that get a class
CHUNK_SAMPLES = 2 * CHUNK * HOP  # 0.64 s
LONGEST = 16 * CHUNK_SAMPLES  # the start of a sound says what it is: 10 s
SILENT = 10 ** (-50 / 20)  # root mean square of a chunk, of full scale
LEAD, LEAD_LEVEL = 8 * CHUNK_SAMPLES, 10 ** (-70 / 20)  # a sound starts anywhere in a stream, after a quiet room
LEARNT_CHUNKS = 8  # of a clip, spread over it: long pieces of music teach no more than this
TRAIN, HELD_OUT, PEOPLE = "train", "held-out", "people"
LAYERS = 5  # 0: the log-mel features without the encoder, for comparison; 1 to 4
AXES = 128  # principal components of the pooled frames
POOLINGS = {"mean, max": 2, "mean, max, deviation": 3}
PENALTIES = (0.003, 0.03)  # scikit-learn's C
FOLDS, DRAWS = 5, 2000
WANTED_BALANCED, WANTED_EACH = 0.75, 0.6  # decided before anything was measured
KEPT_RECALL, STRETCH_S = 0.8, 600.0


@dataclass(frozen=True)
class Clip:
    """A sound: its class, the package (or synthetic voice) it is from, its half, and its chunks that are not silent.

    layers: for each of LAYERS (chunks, 3, width): mean, maximum and deviation.
    """

    kind: str
    package: str
    half: str
    seconds: float
    layers: tuple[np.ndarray, ...]

    def __len__(self) -> int:
        """Return the chunks that are not silent."""
        return len(self.layers[0])

    @property
    def label(self) -> int:
        """Return the place of the class in CLASSES."""
        return CLASSES.index(self.kind)


@dataclass(frozen=True)
class Form:
    """What a head looks at, and its penalty."""

    layer: int
    pooling: str
    penalty: float

    def rows(self, clip: Clip) -> np.ndarray:
        """Return a clip's chunks, (chunks, features) float32."""
        parts = clip.layers[self.layer][:, : POOLINGS[self.pooling]]
        return parts.reshape(len(parts), -1).astype(np.float32)


@dataclass(frozen=True)
class Heard:
    """A clip and the head's shares of CLASSES for each of its chunks, (chunks, 7)."""

    clip: Clip
    shares: np.ndarray

    @property
    def named(self) -> int:
        """Return the class that most chunks vote for; the mean share settles a draw."""
        votes = np.bincount(self.shares.argmax(1), minlength=len(CLASSES))
        return int((votes + 0.99 * self.shares.mean(0)).argmax())

    @property
    def first(self) -> int:
        """Return the class of the first chunk alone."""
        return int(self.shares[0].argmax())


def pooled(frames: Tensor, each: int) -> np.ndarray:
    """Return (chunks, 3, width) of frames (n, width), ``each`` frames a chunk: mean, maximum, deviation."""
    chunks = frames.unflatten(0, (-1, each))
    statistics = torch.stack([chunks.mean(1), chunks.amax(1), chunks.std(1, correction=0)], dim=1)
    return statistics.numpy().astype(np.float16)


@torch.inference_mode()
def listen(encoder: Encoder, samples: np.ndarray, seed: str) -> tuple[np.ndarray, ...]:
    """Return the layers of a Clip for samples (n,) float32, after a lead of quiet noise whose length the seed draws."""
    draw = np.random.default_rng(zlib.crc32(seed.encode()))
    lead = draw.standard_normal(draw.integers(LEAD)) * LEAD_LEVEL
    heard = np.concatenate([lead, samples]).astype(np.float32)
    mel = streaming(torch.from_numpy(heard), GRID, closing=0)
    count = mel.shape[1] // 2
    outputs: list[Tensor] = []
    hooks = [
        layer.register_forward_hook(lambda _layer, _inputs, output: outputs.append(output[0]))
        for layer in encoder.layers
    ]
    last = encoder(mel[None], chunk_mask(torch.arange(count), torch.tensor([count]), torch.tensor([GRID])))[0]
    for hook in hooks:
        hook.remove()
    sound = np.zeros(count // CHUNK * CHUNK_SAMPLES, dtype=np.float32)
    sound[: len(heard)] = heard
    loud = np.sqrt((sound.reshape(-1, CHUNK_SAMPLES) ** 2).mean(1)) >= SILENT
    return pooled(mel.T, 2 * CHUNK)[loud], *(pooled(frames, CHUNK)[loud] for frames in (*outputs[:-1], last))


def read_sounds(encoder: Encoder, folder: Path) -> Iterable[Clip]:
    """Yield the recordings of both halves, class by class."""
    for half, kind in itertools.product((TRAIN, HELD_OUT), (*CLASSES, *UNNAMED)):
        for path in sorted((folder / half / kind).glob("*.wav")):
            samples = read(path)[:LONGEST]
            layers = listen(encoder, samples, path.name)
            yield Clip(kind, path.name.split("__")[0], half, len(samples) / RATE_HZ, layers)


def read_synthetic(encoder: Encoder, shard: Path) -> Iterable[Clip]:
    """Yield the clips of a shard of speech.py; a voice counts as a package."""
    with np.load(shard) as spoken:
        audio, ends, about = spoken["audio"], spoken["ends"], json.loads(str(spoken["about"]))
    for number, whole in enumerate(np.split(audio, ends[:-1])):
        samples = whole[:LONGEST]
        layers = listen(encoder, samples.astype(np.float32) / 32768, f"{shard.name}{number}")
        yield Clip("speech", about[number]["voice"], TRAIN, len(samples) / RATE_HZ, layers)


def read_people(encoder: Encoder, prompts: Path, words: Path, sentences: Path) -> Iterable[Clip]:
    """Yield the speech of people: the prompts that have words, and the read sentences. None is ever learnt from."""
    paths = [prompts / f"{name}.wav" for name, one in read_references(words).items() if not one.left_out]
    for path in [*paths, *sorted(sentences.glob("*.flac"))]:
        samples = read(path)[:LONGEST]
        yield Clip("speech", PEOPLE, PEOPLE, len(samples) / RATE_HZ, listen(encoder, samples, path.name))


def fit(form: Form, clips: Sequence[Clip]) -> Pipeline:
    """Return a head that has learnt the clips, each class with the same weight."""
    chosen = [np.unique(np.linspace(0, len(clip) - 1, LEARNT_CHUNKS).round().astype(int)) for clip in clips]
    rows = np.concatenate([form.rows(clip)[places] for clip, places in zip(clips, chosen, strict=True)])
    labels = np.concatenate([np.full(len(places), clip.label) for clip, places in zip(clips, chosen, strict=True)])
    head = make_pipeline(
        StandardScaler(), PCA(AXES, random_state=0), LogisticRegression(C=form.penalty, class_weight="balanced")
    )
    return head.fit(rows, labels)


def hear(form: Form, head: Pipeline, clips: Iterable[Clip]) -> list[Heard]:
    """Return what the head makes of the clips."""
    if tuple(head.classes_) != tuple(range(len(CLASSES))):
        raise ValueError(f"head: knows classes {head.classes_}, needs all {len(CLASSES)}; give it clips of each")
    return [Heard(clip, head.predict_proba(form.rows(clip))) for clip in clips]


def recalls(truth: np.ndarray, named: np.ndarray) -> np.ndarray:
    """Return each class's share found, (7,); NaN where there is none to find."""
    with np.errstate(invalid="ignore"):
        return np.array([(named[truth == k] == k).sum() / np.float64((truth == k).sum()) for k in range(len(CLASSES))])


def balanced(heard: Sequence[Heard]) -> float:
    """Return the mean recall of the classes."""
    return float(recalls(np.array([h.clip.label for h in heard]), np.array([h.named for h in heard])).mean())


def cross_validated(form: Form, clips: Sequence[Clip]) -> float:
    """Return the balanced accuracy by clip where no package is both learnt and tested."""
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0)
    splits = folds.split(clips, [clip.label for clip in clips], [clip.package for clip in clips])
    heard: list[Heard] = []
    for learnt, tested in splits:
        head = fit(form, [clips[i] for i in learnt])
        heard += hear(form, head, [clips[i] for i in tested])
    score = balanced(heard)
    print(f"layer {form.layer}, {form.pooling}, C {form.penalty}: {score:.3f}", file=sys.stderr)
    return score


def choose(clips: Sequence[Clip]) -> tuple[Form, dict[int, float]]:
    """Return the best form and what each layer reached: layer and penalty first, then pooling."""
    scores = {
        Form(layer, "mean, max", penalty): cross_validated(Form(layer, "mean, max", penalty), clips)
        for layer, penalty in itertools.product(range(LAYERS), PENALTIES)
    }
    by_layer = {layer: max(s for form, s in scores.items() if form.layer == layer) for layer in range(LAYERS)}
    form = max((form for form in scores if form.layer), key=scores.__getitem__)
    wider = Form(form.layer, "mean, max, deviation", form.penalty)
    return (wider if cross_validated(wider, clips) > scores[form] else form), by_layer


def packages_apart(form: Form, clips: Sequence[Clip]) -> list[Heard]:
    """Return what is heard of each package by a head that learnt all others; people's speech is in none of them."""
    heard: list[Heard] = []
    for package in sorted({clip.package for clip in clips if clip.kind != "speech"}):
        learnt = [clip for clip in clips if clip.package != package and clip.kind in CLASSES and clip.half != PEOPLE]
        print(f"without {package}: {len(learnt)} clips", file=sys.stderr)
        heard += hear(form, fit(form, learnt), [clip for clip in clips if clip.package == package])
    learnt = [clip for clip in clips if clip.kind in CLASSES and clip.half != PEOPLE]
    return heard + hear(form, fit(form, learnt), [clip for clip in clips if clip.half == PEOPLE])


def interval(values: np.ndarray) -> str:
    """Return the 95 % of bootstrap values (draws,) as text."""
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return f"{low:.2f} to {high:.2f}"


def report(title: str, heard: Sequence[Heard]) -> bool:
    """Print accuracies, each class and the confusions of a test; return whether the rule is met."""
    heard = [h for h in heard if h.clip.kind in CLASSES]
    truth, named = np.array([h.clip.label for h in heard]), np.array([h.named for h in heard])
    first = np.array([h.first for h in heard])
    precisions = recalls(named, truth)  # of those named so, the share that is so
    drawn = np.random.default_rng(0).integers(len(heard), size=(DRAWS, len(heard)))
    found = np.array([recalls(truth[row], named[row]) for row in drawn])
    right = np.array([recalls(named[row], truth[row]) for row in drawn])
    each = recalls(truth, named)
    print(f"\n**{title}**: {len(heard)} clips\n")
    print("| | accuracy | balanced accuracy | 95 % |\n| --- | --- | --- | --- |")
    first_drawn = np.array([recalls(truth[row], first[row]).mean() for row in drawn])
    for name, answers, spread in (
        ("most chunks of a clip", named, found.mean(1)),
        ("its first chunk alone", first, first_drawn),
    ):
        share = recalls(truth, answers).mean()
        print(f"| {name} | {(truth == answers).mean():.3f} | {share:.3f} | {interval(spread)} |")
    print(f"\n| class | clips | packages | recall | 95 % | precision | 95 % | {' | '.join(CLASSES)} |")
    print("| --- " * (7 + len(CLASSES)) + "|")
    for k, name in enumerate(CLASSES):
        packages = len({h.clip.package for h in heard if h.clip.label == k})
        counts = " | ".join(str(int((named[truth == k] == other).sum())) for other in range(len(CLASSES)))
        print(
            f"| {name} | {(truth == k).sum()} | {packages} | {each[k]:.2f} | {interval(found[:, k])} "
            f"| {precisions[k]:.2f} | {interval(right[:, k])} | {counts} |"
        )
    return bool(each.mean() >= WANTED_BALANCED and min(each.min(), precisions.min()) >= WANTED_EACH)


def stretches(reported: np.ndarray, seconds: np.ndarray) -> float:
    """Return the share of stretches of ten minutes, drawn clip by clip, with a report in at least one clip."""
    draw = np.random.default_rng(0)
    hits = 0
    for _ in range(DRAWS):
        order = draw.integers(len(seconds), size=int(2 * STRETCH_S / seconds.mean()))
        hits += bool(reported[order[: np.searchsorted(seconds[order].cumsum(), STRETCH_S) + 1]].any())
    return hits / DRAWS


def false_reports(heard: Sequence[Heard]) -> None:
    """Print what a threshold that finds 80 % of a class's clips also reports in speech, noise and other sounds.

    A clip is reported where the class's share of any one chunk reaches the threshold.
    """
    speech = [h for h in heard if h.clip.half == PEOPLE]
    unnamed = [h for h in heard if h.clip.kind in UNNAMED]
    seconds = np.array([h.clip.seconds for h in speech])
    print(
        f"\n**False reports** in {seconds.sum() / 60:.1f} minutes of people's speech and {len(unnamed)} other clips\n"
    )
    print("| class | threshold | an hour of speech | ten minutes with any | of noise and other clips |")
    print("| --- | --- | --- | --- | --- |")
    for k in range(len(CLASSES)):
        if k == SPEECH:
            continue
        own = sorted((h.shares[:, k].max() for h in heard if h.clip.kind == CLASSES[k]), reverse=True)
        least = own[int(np.ceil(KEPT_RECALL * len(own))) - 1]
        reported = np.array([h.shares[:, k].max() >= least for h in speech])
        others = np.mean([h.shares[:, k].max() >= least for h in unnamed])
        print(
            f"| {CLASSES[k]} | {least:.3f} | {reported.sum() * 3600 / seconds.sum():.0f} "
            f"| {100 * stretches(reported, seconds):.0f} % | {100 * others:.0f} % |"
        )


def measure(clips: Sequence[Clip]) -> None:
    """Choose a form, test it on held-out sounds and on held-out packages, and print what the rule says."""
    named = [clip for clip in clips if clip.kind in CLASSES]
    form, by_layer = choose([clip for clip in named if clip.half == TRAIN])
    print("| layer | " + " | ".join("log-mel" if layer == 0 else str(layer) for layer in by_layer) + " |")
    print("| --- " * (1 + len(by_layer)) + "|")
    print("| balanced accuracy | " + " | ".join(f"{score:.3f}" for score in by_layer.values()) + " |")
    print(f"\nChosen: layer {form.layer}, {form.pooling}, C {form.penalty}")
    head = fit(form, [clip for clip in named if clip.half == TRAIN])
    report("Other sounds of the same packages", hear(form, head, [clip for clip in named if clip.half != TRAIN]))
    apart = packages_apart(form, clips)
    met = report("Packages never seen", apart)
    report("Packages never seen, held-out half only", [h for h in apart if h.clip.half != TRAIN])
    false_reports(apart)
    rule = f"balanced accuracy {WANTED_BALANCED}, each recall and precision {WANTED_EACH}"
    print(f"\nRule ({rule}): {'met' if met else 'not met'}")


def read_all(arguments: argparse.Namespace) -> list[Clip]:
    """Return every clip that has a chunk which is not silent; print how many have none."""
    encoder = load_network(arguments.checkpoint).encoder
    clips: list[Clip] = []
    for source in (
        partial(read_sounds, encoder, arguments.sounds),
        partial(read_synthetic, encoder, arguments.synthetic),
        partial(read_people, encoder, arguments.prompts, arguments.words, arguments.sentences),
    ):
        clips += source()
        print(f"{len(clips)} clips", file=sys.stderr)
    heard = [clip for clip in clips if len(clip)]
    print(f"{len(heard)} clips; {len(clips) - len(heard)} more are silent (below -50 dB in every chunk) and left out\n")
    return heard


def main() -> None:
    """Read, measure, print."""
    root = Path(__file__).resolve().parents[3]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--sounds", type=Path, default=root / "data/sounds")
    parser.add_argument("--synthetic", type=Path, default=root / "data/train/speech/shard-0000.npz")
    parser.add_argument("--prompts", type=Path, default=root / "data/asterisk-en")
    parser.add_argument("--words", type=Path, default=root / "data/asterisk-en/words.tsv")
    parser.add_argument("--sentences", type=Path, default=root / "export/clips")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", ConvergenceWarning)
    measure(read_all(arguments))


if __name__ == "__main__":
    main()
