"""What a gate measured against the recipe's limits: passed, waived, or refused with every limit that is exceeded."""

from collections.abc import Mapping
from typing import Any

from edgekit.bundle import Precision
from edgekit.errors import QualityError
from edgekit.exporter.checks.words import Tally
from edgekit.recipe import Group, Limits, flag

_ORDER = (  # what a user loses first
    "transcript_error_rate", "word_error_rate", "token_mismatch", "code_mismatch", "mel_error_db",
    "logit_error", "frame_error", "weight_error", "int4_weight_error",
)  # fmt: skip
_OF_WEIGHTS: Mapping[str, Precision] = {"weight_error": "int8", "int4_weight_error": "int4"}
# The groups of weights that a value points at, the likeliest first.
_GROUPS: Mapping[str, tuple[Group, ...]] = {
    "word_error_rate": ("backbone", "experts", "head"),
    "token_mismatch": ("backbone", "experts", "head"),
    "code_mismatch": ("decoder",),
    "mel_error_db": ("decoder",),
    "logit_error": ("head", "backbone", "experts"),
    "frame_error": ("encoder",),
}
_FINER: Mapping[Precision, Precision] = {"int4": "int8", "int8": "float32"}
_CHECKPOINT = "its tokenizer.json, generation_config.json and preprocessor_config.json, one of which may not be its own"


def pass_or_waive(
    name: str, found: Mapping[str, Any], limits: Limits, precision: Mapping[Group, Precision], accept_loss: str | None
) -> dict[str, dict[str, str]]:
    """Return nothing if every measured value is within its limit, or the waiver that ``accept_loss`` gives.

    found: what the gate found, ``measured`` by the name of its limit. Raises QualityError naming every measured value
    that is not, its limit, and what to type next.
    """
    failed = exceeded(found, limits)
    if not failed:
        return {}
    message = "; ".join(failed.values())
    if accept_loss is None:
        raise QualityError(f"{name}: {message}; {_advice(failed, found, precision)}, or pass --accept-loss REASON")
    return {"waiver": {"reason": accept_loss, "for": message}}


def exceeded(found: Mapping[str, Any], limits: Limits) -> dict[str, str]:
    """Return a sentence for each limit that is exceeded, by its name, words first."""
    measured: Mapping[str, float] = found["measured"]
    result = {}
    for key in sorted(measured, key=_ORDER.index):
        value, allowed = measured[key], getattr(limits, key)
        message = "" if value <= allowed else f"{value:.3g}"  # NaN fails too
        if key == "word_error_rate":
            message = _words(found, allowed)
        if message:
            result[key] = f"{key} {message}, the recipe allows {allowed:.3g}"
    return result


def _words(found: Mapping[str, Any], allowed: float) -> str:
    """Return the words that changed, if they are too many, of each language that lost too many."""
    words, changed = found["words"], found["words_changed"]
    tallies = {name: Tally(words[name], changed[name]) for name in words}
    whole = Tally(sum(words.values()), sum(changed.values()))
    worst = sorted(
        (name for name, one in tallies.items() if one.exceeds(allowed, len(tallies))),
        key=lambda name: -tallies[name].rate,
    )
    if not worst and not whole.exceeds(allowed):
        return ""
    of = [f"{name} {tallies[name].changed} of {tallies[name].words}" for name in worst]
    return f"{whole.rate:.3g} ({'; '.join([f'{whole.changed} of {whole.words} words', *of])})"


def _advice(failed: Mapping[str, str], found: Mapping[str, Any], precision: Mapping[Group, Precision]) -> str:
    """Return what to type next: a finer form of the groups that the values point at."""
    flags: list[str] = []
    for key in failed:
        groups = _GROUPS.get(key) or tuple(one for one in precision if precision[one] == _OF_WEIGHTS.get(key))
        if key == "word_error_rate" and _by_hearing(found):
            groups = ("encoder", *groups)
        rounded = [group for group in groups if precision.get(group, "float32") in _FINER]
        coarse = [group for group in rounded if precision[group] == "int4"] or rounded[:1]
        flags += [flag(group, _FINER[precision[group]]) for group in coarse]
    if flags:
        return f"try {' '.join(dict.fromkeys(flags))}"
    return f"look at {_CHECKPOINT}" if "transcript_error_rate" in failed else "no finer form of it is left"


def _by_hearing(found: Mapping[str, Any]) -> bool:
    """Return whether most of the words that changed come back where the bundle writes of what the twin heard."""
    changed = sum(found["words_changed"].values()) + found["words_unsteady"]
    return bool(2 * found["words_changed_writing"] < changed)
