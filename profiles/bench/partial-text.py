#!/usr/bin/env python3
"""Measure what partial text is worth: how soon words stand, how many of them are taken back, what it costs.

    make speech-data
    python profiles/bench/partial-text.py --bundle bundles/edgekit-tiny-int8 --speech data/asterisk-en

Recordings, in a seeded order, are played to one stream each without partials, with `agreed` and with `committed` ones,
level pinned, in blocks of 20 ms. The clock is the sound's: work takes as long as it took, and a block that comes while
it is done waits, so lateness is as on a live microphone but no time is spent waiting. Words are compared without case
and punctuation. Writes JSON and Markdown under profiles/<device>/.
"""

import argparse
import difflib
import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit.profiler.comparison import Findings, Ratio
    from edgekit.runtime.events import Event, Text
    from edgekit.runtime.model import Model

ROOT = Path(__file__).resolve().parents[2]
BLOCK_S, BEFORE_S, AFTER_S = 0.02, 0.5, 1.5
KINDS = ("agreed", "committed")
AGE, COST, FIRST = "age of a word when it stands", "CPU share of partials", "first partial after the words began"
TAKEN_BACK, LOST, CHANGED, STOOD = "stable words taken back", "stable words lost", "words changed", "words that stood"
DEFINITIONS = {
    AGE: "From the end of a word, by the times of the final text's words, until a text in which it stands reached the "
    "caller. Words that stood before the end of speech was decided, and stayed.",
    TAKEN_BACK: "Of all words that ever stood before the end of speech was decided, those that the final text does not "
    "have in the same places from its beginning: all behind the first that differs.",
    LOST: "The same by alignment: those that the final text does not have, or has otherwise.",
    CHANGED: "Words of the final texts that differ from those without partials, over the latter's words.",
    STOOD: "Share of the final text's words that stood, rightly, when the end of speech was decided.",
    COST: "Time that drafts took, over the seconds of sound: share of the core or cores that work.",
    FIRST: "From the end of the first word until a caller has text of it.",
}


@dataclass
class Utterance:
    """One answer: its text and words' ends, and what stood when: (moment, words)."""

    words: list[str] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)
    stood: list[tuple[float, list[str]]] = field(default_factory=list)
    first_s: float | None = None


@dataclass
class Played:
    """What one recording gave."""

    utterances: list[Utterance]
    seconds: float
    drafts_s: float
    drafts: int


def main() -> None:
    """Measure, write and say where."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--speech", type=Path, nargs="+", default=[ROOT / "data/asterisk-en"], help="folders of WAV")
    parser.add_argument("-n", "--utterances", type=int, default=200, help="recordings at most")
    parser.add_argument("--skip", type=int, default=0, help="leave out so many first ones of the seeded order")
    parser.add_argument("--least-s", type=float, default=0.0, help="leave out recordings that are shorter")
    parser.add_argument("--prompt", help="of a bundle that converses: the question that makes it write down speech")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--name", help="of the files written; by default the bundle's")
    parser.add_argument("--output", type=Path, default=ROOT / "profiles")
    args = parser.parse_args()

    import edgekit
    from edgekit.profiler.bench import bundle_facts
    from edgekit.profiler.comparison import Findings, make_comparison, save_comparison
    from edgekit.profiler.conditions import read_samples

    paths = [path for folder in args.speech for path in sorted(folder.rglob("*.wav"))]
    if not paths:
        raise SystemExit(f"{args.speech[0]}: no recordings; `make speech-data` fetches them")
    paths.sort(key=lambda path: hashlib.sha256(path.name.encode()).digest())
    model = edgekit.load(args.bundle, threads=args.threads)
    level = model.manifest.levels[-1].name
    options = {"level": level} | ({"prompt": args.prompt} if args.prompt else {})
    options |= {"times": "words"} if model.manifest.protocol.alignment else {}
    played: dict[str, list[Played]] = {name: [] for name in ("without", *KINDS)}
    names: list[str] = []
    for path in paths[args.skip :]:
        samples = read_samples(path)
        if len(samples) < args.least_s * model.manifest.front_end.sample_rate_hz:
            continue
        for name, told in played.items():
            told.append(play(model, samples, {**options, "partials": name != "without" and name}))
        names.append(path.name)
        if len(names) == args.utterances:
            break
    findings, ratios, notes = Findings(), list["Ratio"](), list[str]()
    for name in KINDS:
        ratios += measure(name, played["without"], played[name], findings)
        ages = findings.samples(AGE, name)
        notes.append(f"{name}: {AGE}, p50 {np.median(ages):.2f} s, p90 {np.percentile(ages, 90):.2f} s (n {len(ages)})")
    comparison = make_comparison(
        title=f"Partial text: {model.manifest.name}",
        question="How soon do words of partial text stand, how many are taken back, and what does it cost?",
        settings={
            "Recordings": f"{len(names)}, {sum(one.seconds for one in played['without']):.0f} s with "
            f"{BEFORE_S + AFTER_S:g} s of silence around each",
            "Chunks": f"{model.manifest.grid.chunk_frames / 100:g} s",
            "Level": level,
            "Threads": str(args.threads),
        },
        figures=findings.figures(),
        ratios=ratios,
        definitions=DEFINITIONS,
        bundles={"EdgeKit": bundle_facts(model)},
        notes=notes,
    )
    print(save_comparison(comparison, args.output, f"{args.name or model.manifest.name}-partials"))


def play(model: "Model", samples: "NDArray[np.float32]", options: dict[str, object]) -> Played:
    """Play a recording to a stream of its own, by the sound's clock."""
    from edgekit.runtime.events import SpeechStopped, Text
    from edgekit.spans import DRAFT

    rate_hz = model.manifest.front_end.sample_rate_hz
    silences = (np.zeros(round(seconds * rate_hz), np.float32) for seconds in (BEFORE_S, AFTER_S))
    before, after = silences
    sound = np.concatenate((before, samples, after))
    stream = model.stream(sample_rate_hz=rate_hz, **options)  # type: ignore[arg-type]
    utterances: list[Utterance] = []
    now_s, one, over = 0.0, Utterance(), False
    size = round(BLOCK_S * rate_hz)

    def read(events: "Iterator[Event]", now_s: float) -> float:
        """Take events, each at the moment it comes; return the moment when there are no more."""
        nonlocal one, over
        begun_s = time.perf_counter()
        for event in events:
            at_s = now_s + time.perf_counter() - begun_s
            if isinstance(event, SpeechStopped):
                over = True
            elif isinstance(event, Text) and event.final:
                one.words, one.ends = timed_words(event)
                utterances.append(one)
                one, over = Utterance(), False
            elif isinstance(event, Text) and not over:
                if event.text and one.first_s is None:
                    one.first_s = at_s
                one.stood.append((at_s, spoken(event.stable_text)))
        return now_s + time.perf_counter() - begun_s

    for at in range(0, len(sound), size):
        due_s = min(at + size, len(sound)) / rate_hz
        lag_ms = max(0.0, now_s - due_s) * 1000
        now_s = read(stream.push(sound[at : at + size], lag_ms=lag_ms), max(now_s, due_s))
    read(stream.finish(), now_s)
    drafts = [span.seconds for span in stream.trace.spans if span.name == DRAFT]
    return Played(utterances, len(sound) / rate_hz, sum(drafts), len(drafts))


def spoken(text: str) -> list[str]:
    """Return the words of a text without case and punctuation."""
    bare = ("".join(one for one in word.casefold() if one.isalnum() or one == "'") for word in text.split())
    return [word for word in bare if word]


def timed_words(text: "Text") -> tuple[list[str], list[float]]:
    """Return the words of a final text and when each ended, by share of the sound where that is not known."""
    timed = [(bare, word.end_s) for one in text.segments for word in one.words for bare in spoken(word.text)]
    words = spoken(text.text)
    if [word for word, _ in timed] == words:
        return words, [end_s for _, end_s in timed]
    length_s = text.end_s - text.start_s
    return words, [text.start_s + length_s * (at + 1) / len(words) for at in range(len(words))]


def same(one: Sequence[str], other: Sequence[str]) -> int:
    """Return how many first words two texts share."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def measure(name: str, without: Sequence[Played], played: Sequence[Played], findings: "Findings") -> "list[Ratio]":
    """Add what one kind of partials gave to the findings, and return its ratios."""
    from edgekit.profiler.comparison import bootstrap_ratio

    taken_back, lost, stood, right, changed, said, written = ([] for _ in range(7))
    for plain, one in zip(without, played, strict=True):
        findings.add(COST, name, "%", 100 * one.drafts_s / one.seconds)
        ever = [longest(utterance) for utterance in one.utterances]
        shared = [same(words, utterance.words) for words, utterance in zip(ever, one.utterances, strict=True)]
        taken_back.append(sum(len(words) - count for words, count in zip(ever, shared, strict=True)))
        kept = (alike(words, utterance.words) for words, utterance in zip(ever, one.utterances, strict=True))
        lost.append(sum(map(len, ever)) - sum(kept))
        stood.append(sum(map(len, ever)))
        right.append(sum(shared))
        written.append(sum(len(utterance.words) for utterance in one.utterances))
        texts = [[word for utterance in told.utterances for word in utterance.words] for told in (plain, one)]
        changed.append(edits(*texts))
        said.append(len(texts[0]))
        for utterance, count in zip(one.utterances, shared, strict=True):
            findings.add(AGE, name, "s", *ages(utterance, count))
            if utterance.first_s is not None and utterance.ends:
                findings.add(FIRST, name, "s", utterance.first_s - utterance.ends[0])
    return [
        bootstrap_ratio(f"{TAKEN_BACK}: {name}", taken_back, stood),
        bootstrap_ratio(f"{LOST}: {name}", lost, stood, limit=0.01),
        bootstrap_ratio(f"{CHANGED}: {name}", changed, said, limit=0.005),
        bootstrap_ratio(f"{STOOD}: {name}", right, written),
        bootstrap_ratio(f"{COST}: {name}", [one.drafts_s for one in played], [one.seconds for one in played]),
    ]


def longest(utterance: Utterance) -> list[str]:
    """Return the words that stood last: what stands grows, but where it is revised."""
    return max((words for _, words in utterance.stood), key=len, default=[])


def ages(utterance: Utterance, count: int) -> Iterator[float]:
    """Yield how old each of the first ``count`` words was when it stood."""
    for place in range(count):
        at_s = next(at_s for at_s, words in utterance.stood if len(words) > place)
        yield at_s - utterance.ends[place]


def alike(words: Sequence[str], final: Sequence[str]) -> int:
    """Return how many of the words that stood the final text has, in order."""
    blocks = difflib.SequenceMatcher(None, words, final, autojunk=False).get_matching_blocks()
    return sum(block.size for block in blocks)


def edits(one: Sequence[str], other: Sequence[str]) -> int:
    """Return the fewest words to substitute, delete and insert that make one text the other."""
    before = list(range(len(other) + 1))
    for at, word in enumerate(one, 1):
        row = [at]
        for place, its in enumerate(other, 1):
            row.append(min(before[place - 1] + (word != its), before[place] + 1, row[-1] + 1))
        before = row
    return before[-1]


if __name__ == "__main__":
    main()
