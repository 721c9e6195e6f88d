"""Goldens: which results of a bundle are stored for comparison, and how much of each.

Exporter and `edgekit verify` both take them from here, so that they are of the same numbers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import gcd
from typing import Any

import numpy as np

from edgekit.bundle import Manifest
from edgekit.runtime.engine import Array
from edgekit.runtime.judge.probe import Answer, Heard, answer, speak
from edgekit.runtime.model import Model
from edgekit.runtime.policy import SKIP
from edgekit.runtime.speak import Spoken

COMPARED = "compared"
"""Among the results of an export: what the arrays are of (``with``), and how far the bundle itself was from them.

Of NOTHING where there are none, and then ``why``.
"""
LANGUAGE = "language"  # of a clip's entry: which its answers were asked in, where tokens name languages
TWIN, ITSELF, NOTHING = "float twin", "itself", "nothing"
WHY = "why"  # beside NOTHING: one of NOT_RUN's keys
TOO_LARGE, NO_CLIPS = "too large", "no clips"
NOT_RUN = {
    TOO_LARGE: "it is too large to have been run when it was made",
    NO_CLIPS: "its recipe named no check clip in a language of the checkpoint",
}
"""Why a bundle was made without goldens, to the words for it."""
CHEAPEST = "cheapest"  # of a clip's entry: what was answered at the cheapest level, where there are several
SPOKEN_FRAMES = 8  # frames of speech codes stored
SAMPLED = 8192  # numbers stored of an array: the norm of so many is that of all of them to a percent or two
_CALLS = 2  # encoder calls whose input and output are stored
_GOLDEN_RATIO = (5**0.5 - 1) / 2


def stored_part(file: str, array: Array) -> Array:
    """Return what is stored of an array as float32: at most about SAMPLED numbers, all or some from everywhere in it.

    Of the logits of the cheapest level (steps, columns), so that steps can be told apart; of all others (n,).
    """
    if file == logits_name(CHEAPEST):
        columns = _spread(array.shape[1], max(1, SAMPLED // max(1, len(array))))
        return np.ascontiguousarray(array[:, columns], np.float32)
    numbers = array.reshape(-1)
    return np.ascontiguousarray(numbers[_spread(len(numbers), SAMPLED)], np.float32)


def distance(file: str, array: Array, golden: Array) -> float:
    """Return how far an array is from its golden, both as stored: relative error; infinity for another shape.

    At the cheapest level the largest of three steps in four: where two experts' scores nearly tie, rounding alone
    decides which of them speaks, on any processor, and that step's logits are others.
    """
    if array.shape != golden.shape:
        return float("inf")
    if file == logits_name(CHEAPEST) and array.ndim == 2 and len(array):
        return float(np.percentile([relative(*step) for step in zip(array, golden, strict=True)], 75))
    return relative(array, golden)


def relative(array: Array, golden: Array) -> float:
    """Return the root mean square of the difference / that of the golden; infinity for another shape."""
    if array.shape != golden.shape:
        return float("inf")
    ours, theirs = array.astype(np.float64), golden.astype(np.float64)  # squares of float16 overflow
    return float(np.linalg.norm(ours - theirs) / max(float(np.linalg.norm(theirs)), 1e-12))


def _spread(size: int, count: int) -> Array:
    """Return ``count`` different numbers below ``size``, from everywhere; all of them in order if there are no more.

    Multiples of the golden ratio fall evenly over any stretch, and on every row and column of what is laid out in
    them: Weyl (1916), Ueber die Gleichverteilung von Zahlen mod. Eins.
    """
    if size <= count:
        return np.arange(size)
    step = int(size * _GOLDEN_RATIO)
    while gcd(step, size) != 1:
        step += 1
    return np.arange(count, dtype=np.int64) * step % size


@dataclass(frozen=True, slots=True)
class Results:
    """What a bundle makes of a clip: whole arrays by the names of their files, answers by role, and what it says."""

    arrays: dict[str, Array]
    answers: dict[str, Answer]
    spoken: Spoken | None


def results(model: Model, heard: Heard, entry: Mapping[str, Any], said: Spoken | None = None) -> Results:
    """Return what a model makes of what it heard, with the tokens of a clip's entry forced, and the codes of ``said``.

    said: None where nothing is spoken.
    """
    arrays = {f"mel.{call}": mel for call, mel in enumerate(heard.mel[:_CALLS])}
    arrays["frames"] = heard.frames
    arrays |= {f"heard.{call}": part for call, part in enumerate(heard.parts[:_CALLS])}
    levels = compared_levels(model.manifest)
    answers = {
        role: answer(model, heard, level=levels[role], forced=stored["tokens"], language=entry.get(LANGUAGE))
        for role, stored in stored_answers(entry).items()
    }
    arrays |= {logits_name(role): told.logits for role, told in answers.items()}
    spoken = None
    if said is not None:
        spoken = speak(model, heard, entry["tokens"], frames=SPOKEN_FRAMES, forced=said)
        # a flow is judged by its mel frames: the vocoder adds up the phase of tones, and rounding with it
        arrays["spoken.sound"] = spoken.mel if len(spoken.mel) else spoken.samples
    return Results(arrays, answers, spoken)


def logits_name(role: str) -> str:
    """Return the name of the file of a level's logits; role: CHEAPEST, or empty for the fullest."""
    return f"logits.{role}" if role else "logits"


def compared_levels(manifest: Manifest) -> dict[str, str]:
    """Return role to the name of a level: the fullest, whose role is empty, and CHEAPEST where that is another."""
    names = [level.name for level in manifest.levels if level.name != SKIP]
    return {"": names[-1]} | ({CHEAPEST: names[0]} if len(names) > 1 else {})


def told(answer: Answer) -> dict[str, Any]:
    """Return what is stored of an answer: its text, its tokens, and which token would have come after them.

    ``then`` is null where a limit ended it.
    """
    tokens = list(answer.tokens)
    return {"text": answer.text, "tokens": tokens, "then": next(iter(answer.picked[len(tokens) :]), None)}


def stored_answers(entry: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return role to what a clip's entry holds of an answer; nothing where the backbone never ran."""
    found: dict[str, Mapping[str, Any]] = {"": entry} if "tokens" in entry else {}
    return found | ({CHEAPEST: entry[CHEAPEST]} if CHEAPEST in entry else {})
