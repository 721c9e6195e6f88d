"""The quality gate: a quantised bundle against its float twin, both on the streaming path that users will run.

Compares encoder frames, logits with the twin's tokens forced, greedy tokens and text on the recipe's check clips, and
where the bundle speaks its codes and its sound (speech_quality.py).
Beyond a limit of the recipe nothing is published, unless the loss is accepted with a reason that the manifest keeps.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.bundle import Bundle
from edgekit.errors import QualityError
from edgekit.exporter.checks.speech_quality import Pair, compare_speech, speak_both
from edgekit.recipe import Limits, Recipe
from edgekit.resources import resource
from edgekit.runtime.audio.files import read_mono
from edgekit.runtime.backends import twin_of
from edgekit.runtime.judge.probe import Answer, Heard, answer, hear
from edgekit.runtime.model import load_opened

Float = NDArray[np.float32]
Progress = Callable[[str, int, int], None]
"""Called with the stage, work done and work in all (0 where unknown)."""
WHOLE_CLIPS = 2  # clips compared with the family's own window, which costs 30 s of encoding each
_DIGITS = 3
_KNOBS = {
    "weight_error": "--precision int8 or a smaller quantize.backbone_block",
    "int4_weight_error": "--precision int8 or a smaller quantize.backbone_block",
    "frame_error": "--encoder float32",
    "logit_error": "--head float32 or a smaller quantize.backbone_block",
    "token_mismatch": "--backbone float32 or a smaller quantize.backbone_block",
    "word_error_rate": "--backbone float32 or a smaller quantize.backbone_block",
    "code_mismatch": "--decoder float32",
    "mel_error_db": "--decoder float32",
}


def check_clips(recipe: Recipe, rate_hz: int) -> dict[str, Float]:
    """Return the recipe's check clips by name, mono at ``rate_hz``, that of the front end."""
    found = {}
    for name in recipe.check.clips:
        found[name] = read_mono(resource("export") / "clips" / name, rate_hz)
    return found


def compare(bundle: Bundle, twin: Bundle, recipe: Recipe, progress: Progress) -> dict[str, Any]:
    """Return the measured distances between a bundle and its float twin on the recipe's check clips."""
    clips = check_clips(recipe, bundle.manifest.front_end.sample_rate_hz)
    speech = bundle.manifest.speech
    candidate, reference = (
        load_opened(one, speak=speech is not None, backend=twin_of(one.manifest.dialect)) for one in (bundle, twin)
    )
    levels = [level.name for level in bundle.manifest.levels if level.name != "skip"]
    heard: list[tuple[Heard, Heard]] = []
    told: list[tuple[Answer, Answer]] = []
    spoken: list[Pair] = []
    texts: dict[str, list[str]] = {name: [] for name in levels}
    for done, samples in enumerate(clips.values()):
        progress("judge", done, len(clips))
        heard.append((hear(candidate, samples), hear(reference, samples)))
        ours, theirs = heard[-1]
        expected = answer(reference, theirs)
        told.append((answer(candidate, ours, forced=expected.tokens), expected))
        for name in levels:
            texts[name].append(answer(candidate, ours, level=name).text)
        if speech is not None:
            spoken.append(speak_both(candidate, reference, heard[-1], expected))
    progress("judge", len(clips), len(clips))
    expected_texts = [expected.text for _, expected in told]
    said, details = compare_speech(spoken, speech.sample_rate_hz) if speech is not None else ({}, {})
    return {
        "twin": "whole",
        "clips": len(clips),
        "measured": {
            "frame_error": relative_error([(ours.frames, theirs.frames) for ours, theirs in heard]),
            "logit_error": relative_error([(ours.logits, theirs.logits) for ours, theirs in told]),
            "token_mismatch": _mismatch(told),
            "word_error_rate": word_error_rate(expected_texts, texts[levels[-1]]),
            **said,
        },
        "levels": {name: word_error_rate(expected_texts, texts[name]) for name in levels},
        **({"speech": details} if details else {}),
    }


def pass_or_waive(
    name: str, measured: Mapping[str, float], limits: Limits, accept_loss: str | None
) -> dict[str, dict[str, str]]:
    """Return nothing if every measured value is within its limit, or the waiver that ``accept_loss`` gives.

    Raises QualityError naming the measured value, the limit and the knob.
    """
    for key, value in measured.items():
        allowed = getattr(limits, key)
        if not value <= allowed:  # NaN fails too
            failed = f"{key} {value:.3g}, the recipe allows {allowed:.3g}; try {_KNOBS[key]}"
            if accept_loss is None:
                raise QualityError(f"{name}: {failed}, or pass --accept-loss REASON")
            return {"waiver": {"reason": accept_loss, "for": failed}}
    return {}


def _mismatch(told: Sequence[tuple[Answer, Answer]]) -> float:
    """Return the share of steps where the greedy token differs though the same tokens were fed before it."""
    picked = [(a, b) for ours, theirs in told for a, b in zip(ours.picked, theirs.picked, strict=True)]
    return sum(a != b for a, b in picked) / max(1, len(picked))


def word_error_rate(references: Sequence[str], texts: Sequence[str]) -> float:
    """Return words inserted, deleted or replaced / words of the references, compared as written."""
    from jiwer import process_words

    spoken = [(reference, text) for reference, text in zip(references, texts, strict=True) if reference.strip()]
    surplus = sum(len(text.split()) for reference, text in zip(references, texts, strict=True) if not reference.strip())
    words = sum(len(reference.split()) for reference, _ in spoken)
    if not spoken:
        return float(surplus > 0)
    found = process_words([reference for reference, _ in spoken], [text for _, text in spoken])
    return (found.insertions + found.deletions + found.substitutions + surplus) / words


def relative_error(pairs: Sequence[tuple[Float, Float]]) -> float:
    """Return the root mean square of the differences / that of the second of each pair, over all pairs."""
    squared = sum(float(np.square(a - b, dtype=np.float64).sum()) for a, b in pairs)
    whole = sum(float(np.square(b, dtype=np.float64).sum()) for _, b in pairs)
    return float(np.sqrt(squared / whole)) if whole else 0.0


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
    frames, texts = [], []
    for samples in list(check_clips(recipe, twin.manifest.front_end.sample_rate_hz).values())[:WHOLE_CLIPS]:
        ours, theirs = hear(chunked, samples), hear(whole, samples)
        count = min(len(ours.frames), len(theirs.frames))
        frames.append((ours.frames[:count], theirs.frames[:count]))
        texts.append((answer(whole, theirs).text, answer(chunked, ours).text))
    return {
        "frame_error": relative_error(frames),
        "word_error_rate": word_error_rate([theirs for theirs, _ in texts], [ours for _, ours in texts]),
    }
