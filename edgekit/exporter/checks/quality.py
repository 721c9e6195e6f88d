"""The quality gate: a quantised bundle against its float twin, both on the streaming path that users will run.

Compares words, greedy tokens with the twin's forced, logits and encoder frames on the recipe's check clips, each in its
language, and where the bundle speaks its codes and its sound (speech_quality.py). Words decide; what a user loses is
told first. Beyond a limit of the recipe nothing is published, unless the loss is accepted (limits.py).
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.bundle import Bundle
from edgekit.exporter.checks.clips import language_of
from edgekit.exporter.checks.speech_quality import Pair, compare_speech, speak_both
from edgekit.exporter.checks.words import Tally, tally
from edgekit.recipe import Recipe
from edgekit.recordings import named, recordings
from edgekit.runtime.audio.files import read_mono
from edgekit.runtime.backends import twin_of
from edgekit.runtime.judge.probe import answer, hear
from edgekit.runtime.model import Model, load_opened

Float = NDArray[np.float32]
Progress = Callable[[str, int, int], None]
"""Called with the stage, work done and work in all (0 where unknown)."""
WHOLE_CLIPS = 2  # clips compared with the family's own window, which costs 30 s of encoding each
NOISE = 1e-3  # of a clip's root mean square: a text that so little changes says nothing of rounding
_DIGITS = 3


@dataclass(frozen=True, slots=True)
class Distance:
    """Sums of squares: of the differences of some numbers from their references, and of the references."""

    squared: float = 0.0
    whole: float = 0.0

    @classmethod
    def of(cls, ours: Float, theirs: Float) -> "Distance":
        """Return the sums of two arrays of one shape."""
        squared = float(np.square(ours - theirs, dtype=np.float64).sum())
        return cls(squared, float(np.square(theirs, dtype=np.float64).sum()))

    def __add__(self, other: "Distance") -> "Distance":
        return Distance(self.squared + other.squared, self.whole + other.whole)

    @property
    def relative(self) -> float:
        """Root mean square of the differences / that of the references."""
        return math.sqrt(self.squared / self.whole) if self.whole else 0.0


@dataclass(slots=True)
class _Clip:
    """What both made of one clip; no array is kept, of forty clips they fill the memory of a small machine.

    ``tallies``: words changed, by compute level, the most capable last. ``unsteady``: how many of them do not count, as
    many as a little noise changes in the twin's own text; ``writing``: words that the candidate still changes where it
    writes of what the twin heard.
    """

    language: str
    frames: Distance
    logits: Distance
    picked: tuple[int, int]  # tokens that differ with the twin's forced, and tokens
    tallies: dict[str, Tally]
    unsteady: int = 0
    writing: int = 0
    spoken: Pair | None = None

    def steady(self) -> Tally:
        """Return the words changed at the most capable level that count."""
        fullest = list(self.tallies.values())[-1]
        return Tally(fullest.words, fullest.changed - self.unsteady)


def check_clips(recipe: Recipe, rate_hz: int) -> dict[str, Float]:
    """Return the recipe's check clips by name, mono at ``rate_hz``, that of the front end."""
    return {one.name: read_mono(one.path, rate_hz) for one in named(recipe.check.clips, "check.clips")}


def calibration_clips(recipe: Recipe, rate_hz: int) -> list[Float]:
    """Return the recordings that decide how an encoder is rounded: never those that judge it."""
    return [read_mono(one.path, rate_hz) for one in named(recipe.calibrate.clips, "calibrate.clips")]


def compare(bundle: Bundle, twin: Bundle, recipe: Recipe, progress: Progress) -> dict[str, Any]:
    """Return the measured distances between a bundle and its float twin on the recipe's check clips."""
    clips = check_clips(recipe, bundle.manifest.front_end.sample_rate_hz)
    speech = bundle.manifest.speech
    candidate, reference = (
        load_opened(one, speak=speech is not None, backend=twin_of(one.manifest.dialect)) for one in (bundle, twin)
    )
    found: list[_Clip] = []
    for done, (name, samples) in enumerate(clips.items()):
        progress("judge", done, len(clips))
        found.append(_compare_clip(candidate, reference, name, samples))
    progress("judge", len(clips), len(clips))
    spoken = [one.spoken for one in found if one.spoken]
    said, details = compare_speech(spoken, speech.sample_rate_hz) if speech is not None else ({}, {})
    levels = list(found[0].tallies)
    languages = dict.fromkeys(one.language for one in found)
    words = {name: summed(one.steady() for one in found if one.language == name) for name in languages}
    differ, tokens = (sum(one.picked[part] for one in found) for part in (0, 1))
    return {
        "twin": "whole",
        "clips": len(clips),
        "measured": {
            "word_error_rate": summed(words.values()).rate,
            "token_mismatch": differ / max(1, tokens),
            "logit_error": reduce(add, (one.logits for one in found)).relative,
            "frame_error": reduce(add, (one.frames for one in found)).relative,
            **said,
        },
        "words": {name: one.words for name, one in words.items()},
        "words_changed": {name: one.changed for name, one in words.items()},
        "words_unsteady": sum(one.unsteady for one in found),
        "words_changed_writing": sum(one.writing for one in found),
        "levels": {name: summed(one.tallies[name] for one in found).rate for name in levels},
        **({"speech": details} if details else {}),
    }


def _compare_clip(candidate: Model, reference: Model, name: str, samples: Float) -> _Clip:
    """Hear a clip once with both; answer it once with the twin, and with the candidate as often as it must be."""
    language = language_of(name, candidate.manifest.protocol)
    ours, theirs = hear(candidate, samples), hear(reference, samples)
    expected = answer(reference, theirs, language=language)
    forced = answer(candidate, ours, forced=expected.tokens, language=language)
    levels = [level.name for level in candidate.manifest.levels if level.name != "skip"]
    texts = {level: answer(candidate, ours, level=level, language=language).text for level in levels[:-1]}
    same = forced.picked == expected.picked  # then it would say the same by itself
    texts[levels[-1]] = expected.text if same else answer(candidate, ours, language=language).text
    tallies = {level: tally(expected.text, text) for level, text in texts.items()}
    picked = [a != b for a, b in zip(forced.picked, expected.picked, strict=True)]
    result = _Clip(
        language=recordings()[name].language,
        frames=Distance.of(ours.frames, theirs.frames),
        logits=Distance.of(forced.logits, expected.logits),
        picked=(sum(picked), len(picked)),
        tallies=tallies,
    )
    if candidate.manifest.speech is not None:
        result.spoken = speak_both(candidate, reference, (ours, theirs), expected)
    if (changed := tallies[levels[-1]]).changed:
        again = answer(reference, hear(reference, _noisy(samples)), language=language)
        result.unsteady = min(changed.changed, tally(expected.text, again.text).changed)
        if [part.dtype for part in ours.parts] == [part.dtype for part in theirs.parts]:
            result.writing = tally(expected.text, answer(candidate, theirs, language=language).text).changed
    return result


def _noisy(samples: Float) -> Float:
    loudness = float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))
    return samples + np.random.default_rng(0).normal(0, NOISE * loudness, len(samples)).astype(np.float32)


def summed(tallies: Iterable[Tally]) -> Tally:
    """Return the words of all, and how many of them changed."""
    return reduce(add, tallies, Tally(0, 0))


def relative_error(pairs: Sequence[tuple[Float, Float]]) -> float:
    """Return the root mean square of the differences / that of the second of each pair, over all pairs."""
    return reduce(add, (Distance.of(ours, theirs) for ours, theirs in pairs), Distance()).relative


def rounded(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return results with their floats cut to three significant digits: further ones depend on the machine."""
    cut: dict[str, Any] = {}
    for key, value in found.items():
        if isinstance(value, Mapping):
            cut[key] = rounded(value)
        else:
            cut[key] = float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value
    return cut


def whole_clip_distance(twin: Bundle, exact: Bundle, recipe: Recipe) -> dict[str, float]:
    """Return how far the float bundle on its chunked grid is from the same weights on the family's own window.

    ``frame_error`` over the positions both have; ``word_error_rate`` of the texts, taking the window's as reference.
    """
    chunked, whole = (load_opened(one, backend=twin_of(one.manifest.dialect)) for one in (twin, exact))
    frames, changed = [], []
    for name, samples in list(check_clips(recipe, twin.manifest.front_end.sample_rate_hz).items())[:WHOLE_CLIPS]:
        language = language_of(name, twin.manifest.protocol)
        ours, theirs = hear(chunked, samples), hear(whole, samples)
        count = min(len(ours.frames), len(theirs.frames))
        frames.append((ours.frames[:count], theirs.frames[:count]))
        texts = (answer(model, heard, language=language).text for model, heard in ((whole, theirs), (chunked, ours)))
        changed.append(tally(*texts))
    return {"frame_error": relative_error(frames), "word_error_rate": summed(changed).rate}
