"""A toy that writes down long speech: its words are in a list, and what it makes of a piece is a test's to say.

Its encoder is the tiny bundle's, its pieces 10 s. The adapter makes keys that name their places; the backbone knows the
words and where the piece began, and asks sound for their places as a real one does: by queries like the keys there.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import numpy as np

from edgekit.bundle import ComputeLevel, Grid, Timestamps
from edgekit.runtime.engine import Array
from edgekit.runtime.events import Event, Text, TextCut
from edgekit.runtime.model import Model
from edgekit.runtime.stream import Stream
from tests.runtime.conftest import BYTES, HEAD_DIM, HEADS, VOCABULARY, special
from tests.runtime.streams import RATE, run, sound_of

LONGEST_S, POSITION_S, WORD_S = 10.0, 0.02, 0.4
TIMES = Timestamps(first=150, count=51, step_s=0.2, latest_start=50)
STOP, PLAIN, CUT_WORD = special("<stop>"), special("<plain>"), "?"
Written = list[tuple[str, float]]
"""Words and times (a text ``<``), each with the second of the piece where it looks."""


@dataclass(frozen=True)
class Said:
    """A word, and when it was said."""

    text: str
    start_s: float
    end_s: float


def speech(seconds: float, word_s: float = WORD_S) -> list[Said]:
    """Return words that follow each other without a pause, each another."""
    count = int(seconds / word_s + 1e-9)
    names = [f"{chr(97 + at // 26)}{chr(97 + at % 26)}" for at in range(count)]
    return [Said(name, at * word_s, (at + 1) * word_s) for at, name in enumerate(names)]


@dataclass
class Piece:
    """What the backbone hears at once, times in seconds of the piece. ``timed``: it is to write times."""

    number: int
    start_s: float
    end_s: float
    timed: bool
    words: list[Said]
    """Those that lie in it; one that it holds a part of is not known, and its text is CUT_WORD."""


def heard(said: Sequence[Said], number: int, start_s: float, length_s: float, *, timed: bool) -> Piece:
    """Return what is heard of words between two times."""
    words = []
    for word in said:
        start, end = word.start_s - start_s, word.end_s - start_s
        if end > 0.05 and start < length_s - 0.05:
            whole = start > -0.05 and end < length_s + 0.05
            words.append(Said(word.text if whole else CUT_WORD, max(0.0, start), min(end, length_s)))
    return Piece(number, start_s, length_s, timed, words)


def look(word: Said) -> tuple[str, float]:
    """Return a word, and the middle of it."""
    return word.text, (word.start_s + word.end_s) / 2


def in_segments(piece: Piece, words: int = 6, *, closes_last: bool = True) -> Written:
    """Write whole segments of so many words, with times where there are to be some."""
    written: Written = []
    for at in range(0, len(piece.words), words):
        part = piece.words[at : at + words]
        ends = closes_last or at + words < len(piece.words)
        written += [("<", part[0].start_s)] if piece.timed else []
        written += [look(word) for word in part]
        written += [("<", part[-1].end_s)] if piece.timed and ends else []
    return written


class Adapter:
    """An Engine whose keys are turned by angles that grow with their places."""

    def __init__(self, model: Model) -> None:
        engine = model.engines["adapter"]
        self.component, self.counts, self.notes = engine.component, engine.counts, engine.notes

    def bind(self, sizes: Mapping[str, int]) -> "_Places":
        """Return a Call."""
        return _Places()


class _Places:
    def __init__(self) -> None:
        self._at = 0

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        count = len(inputs["frames"])
        angles = np.arange(self._at, self._at + count)[:, None] * (2 * np.pi / np.array([1024, 1365, 2048, 4096]))
        self._at += count
        keys = np.concatenate((np.cos(angles), np.sin(angles)), axis=1)
        cross = np.zeros((2, HEADS, count, HEAD_DIM), np.float32)
        cross[0] = keys
        return {"cross": cross}

    def reset(self) -> None:
        self._at = 0

    def save(self) -> dict[str, Array]:
        return {"at": np.array(self._at)}

    def load(self, state: Mapping[str, Array]) -> None:
        self._at = int(state["at"])


@dataclass
class Backbone:
    """An Engine that writes what ``writes`` makes of a piece. ``pieces``: those that it heard, as far as it did."""

    model: Model
    said: Sequence[Said]
    writes: Callable[[Piece], Written]
    start_s: Callable[[], float] = lambda: 0.0
    pieces: list[Piece] = field(default_factory=list)

    def __post_init__(self) -> None:
        engine = self.model.engines["backbone"]
        self.component, self.counts, self.notes = engine.component, engine.counts, engine.notes

    def bind(self, sizes: Mapping[str, int]) -> "_Call":
        """Return a Call."""
        return _Call(self, sizes["context"])


class _Call:
    def __init__(self, backbone: Backbone, context: int) -> None:
        self._of, self._context = backbone, context
        self._tokens: list[int] = []
        self._looks: list[float] = []
        self._prompt = 0

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        start, count = int(inputs["start"][0]), len(inputs["embeds"])
        assert start + count <= self._context
        rows = inputs["logit_rows"]
        if start == 0 and len(rows):
            timed = count < 2 or not np.array_equal(inputs["embeds"][1:2], self._of.model.table.rows([PLAIN]))
            self._begin(inputs["cross.0"].shape[2], timed=timed)
        logits = np.zeros((len(rows), VOCABULARY), np.float32)
        for row, at in zip(logits, rows, strict=True):
            place = start + int(at) - self._prompt + 1
            row[self._tokens[place] if place < len(self._tokens) else STOP] = 90.0
        return {"logits": logits, "queries": self._queries(inputs["cross.0"][0], count)}

    def _begin(self, positions: int, *, timed: bool) -> None:
        of, start_s = self._of, self._of.start_s()
        if of.pieces and of.pieces[-1].start_s == start_s:  # it was a draft
            del of.pieces[-1]
        piece = heard(of.said, len(of.pieces), start_s, positions * POSITION_S, timed=timed)
        of.pieces.append(piece)
        self._prompt, self._tokens, self._looks = 2 - timed, [], []
        for text, at_s in of.writes(piece):
            if text == "<":
                self._tokens.append(TIMES.first + round(at_s / TIMES.step_s))
                continue
            tokens = of.model.tokenizer.encode(f" {text}")
            self._tokens += tokens
            self._looks += [at_s] * len(tokens)
        self._looks.append(self._looks[-1] + WORD_S if self._looks else 0.0)

    def _queries(self, keys: Array, count: int) -> Array:
        """Return keys like those where words are: from the last token before them on, each looks for the next one."""
        looks = [0.0, *self._looks, *[self._looks[-1]] * count]
        last = keys.shape[1] - 1
        places = [min(last, round(look / POSITION_S)) for look in looks[:count]]
        return keys[:, places].transpose(1, 0, 2).reshape(len(places), -1) * np.float32(400)

    def reset(self) -> None:
        pass

    def save(self) -> dict[str, Array]:
        return {}

    def load(self, state: Mapping[str, Array]) -> None:
        pass


def dictating(load: Callable[..., Model], *, resumes: bool, aligns: bool, **protocol: Any) -> Model:
    """Return the model of a tiny bundle with 10 s pieces; fields of its protocol by name."""
    grid = Grid(
        mode="chunked", chunk_frames=100, max_frames=1000, max_positions=512, tail_frames=4, pad_to_frames=2,
    )  # fmt: skip
    level = ComputeLevel(name="full", experts_per_token=2)
    model = load(context_tokens=400, writes_queries=True, positions=512, grid=grid, levels=(level,))
    own = {
        "max_tokens": 300, "suppress": (), "vocabulary_limit": None, "max_repeats": 8,
        "timestamps": TIMES if resumes else None,
        "alignment": tuple((0, head) for head in range(HEADS)) if aligns else (),
    }  # fmt: skip
    manifest = msgspec.structs.replace(
        model.manifest, protocol=msgspec.structs.replace(model.manifest.protocol, **(own | protocol))
    )
    return replace(model, bundle=replace(model.bundle, manifest=manifest))


@dataclass
class Dictation:
    """A stream of long speech: its events, and what its backbone heard."""

    stream: Stream
    backbone: Backbone

    @property
    def pieces(self) -> list[Piece]:
        """What the backbone heard."""
        return self.backbone.pieces


def dictate(
    model: Model, said: Sequence[Said], writes: Callable[[Piece], Written] = in_segments, **options: Any
) -> Dictation:
    """Return a stream that hears words as ``writes`` makes of them."""
    backbone = Backbone(model, said, writes)
    stream = replace(model, engines={**model.engines, "adapter": Adapter(model), "backbone": backbone}).stream(
        **options
    )
    work = stream._work
    backbone.start_s = lambda: work._sound.start / RATE
    return Dictation(stream, backbone)


def sound(said: Sequence[Said], silence_s: float = 0.0) -> Array:
    """Return sound as long as the words, every stretch of it different."""
    return sound_of(round((said[-1].end_s + silence_s) * RATE))


def take_down(
    model: Model, said: Sequence[Said], writes: Callable[[Piece], Written] = in_segments,
    parts: Sequence[Array] | Iterator[Array] | None = None, **options: Any,
) -> tuple[Dictation, list[Event]]:  # fmt: skip
    """Return a stream that heard words, and its events."""
    dictation = dictate(model, said, writes, **options)
    return dictation, run(dictation.stream, [sound(said)] if parts is None else list(parts))


def texts(events: Sequence[Event]) -> list[Text]:
    """Return the final texts, after a look at what every one of them must be."""
    finals = [event for event in events if isinstance(event, Text) and event.final]
    for text in finals:
        assert text.start_s <= text.end_s
        for segment in text.segments:
            assert text.start_s <= segment.start_s <= segment.end_s <= text.end_s
            bounds = [segment.start_s, *(at for word in segment.words for at in (word.start_s, word.end_s))]
            assert bounds == sorted(bounds)
            assert bounds[-1] <= segment.end_s
    bounds = [at for text in finals for segment in text.segments for at in (segment.start_s, segment.end_s)]
    assert bounds == sorted(bounds)
    for before, text in itertools.pairwise(finals):
        assert text.start_s == before.end_s
    return finals


def cuts(events: Sequence[Event]) -> list[str]:
    """Return why words may be missing, answer by answer."""
    return [event.reason for event in events if isinstance(event, TextCut)]


def written(events: Sequence[Event]) -> list[str]:
    """Return the words of all final texts."""
    return [word for text in texts(events) for word in text.text.split()]


def names(said: Sequence[Said]) -> list[str]:
    """Return the words' texts."""
    return [word.text for word in said]


assert TIMES.first + TIMES.count <= BYTES
