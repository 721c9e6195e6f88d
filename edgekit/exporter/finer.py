"""Finer: which linears of an INT8 encoder lose by one scale for all of their input, and get a finer form.

A few huge numbers, as norms and GELU make them in some channels and rows of some checkpoints, make such a scale so
coarse that little is left of all others. The finer form smooths the input, channel by channel, and gives each of its
rows a scale. The float encoder and adapter hear calibration clips, and for each linear what goes into it is rounded in
both forms: what its output then loses, as a share of what it is added to, says which linears come first. How many of
them, is found by trial: the encoder is written with more and more of them, and hears other clips.
See docs/decisions/encoder-int8.md.
"""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekit.bundle import Precision
from edgekit.errors import RecipeError
from edgekit.exporter.blocks import RANGE, ROW_STRIDE, ROWS, SUM
from edgekit.exporter.checks.quality import calibration_clips
from edgekit.exporter.dialects import Dialect
from edgekit.exporter.families.base import Opened
from edgekit.exporter.observe import observed
from edgekit.exporter.quantize import MOST_SMOOTHING, quantize_channels
from edgekit.exporter.source import Source
from edgekit.exporter.weights import Weights
from edgekit.recipe import EncoderFiner, Group, Recipe
from edgekit.runtime.engine import Array

CLIPS = 2  # heard to measure, and as many others to try: what makes huge numbers is the checkpoint, not what is said
TRIED = (1, 2, 4, 8, 16, 32)  # linears in the finer form, then all that it could help
NEEDED = 0.04  # relative error of what the backbone hears from which on it is worth saving: weights alone make as much
ENOUGH = 1.05  # times the least error that was found: so near, fewer linears are better
LARGEST_MIB = 4096  # of a float encoder that is run: the largest published ones take about 2,500
# Exponents that are tried of a channel's largest magnitude. Source: Xiao et al. 2023, SmoothQuant (arXiv:2211.10438),
# which takes 0.5 to 0.9; 0 smooths nothing.
STRENGTHS = (0.0, 0.5, 0.7, 0.9)
QUIETEST = 1 / MOST_SMOOTHING  # of the loudest channel: one below counts as this, it may be louder elsewhere
_GROUP: Group = "encoder"
_LEVELS = 255
_NOTHING = 1e-30  # in place of zero, to divide by

Float = NDArray[np.float32]
Columns = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Strain:
    """What rounding of a linear's input and weights costs, squared and as a share of what it is added to, in each form.

    ``finer``: by strength of smoothing. ``work``: multiply-adds in the clips that were heard. ``input``: the same of
    linears that share one, whose channels are as loud as ``magnitudes`` (width,) at most.
    """

    coarse: float
    finer: Mapping[float, float]
    work: float
    input: str = ""
    magnitudes: Float = field(default_factory=lambda: np.zeros(0, np.float32), repr=False)


@dataclass(frozen=True, slots=True)
class Choice:
    """Linears that get the finer form, their share of the work, and the error of what the backbone hears by how many.

    ``errors``: with none of them, and with each number that was tried, in that order.
    """

    names: tuple[str, ...]
    work: float
    errors: Mapping[int, float]


@dataclass(frozen=True, slots=True)
class Finer:
    """How an encoder is written: the recipe that names linears, their smoothing, and results for the manifest."""

    recipe: Recipe
    smoothing: Mapping[str, Float] = field(default_factory=dict)
    results: Mapping[str, Any] = field(default_factory=dict)


def resolve_finer(source: Source, recipe: Recipe, dialect: Dialect, beside: Path) -> Finer:
    """Return the recipe that names the linears with the finer form, and their smoothing.

    A float encoder's recipe stays as it is: who quantises it later measures then. ``beside``: a folder for graphs.
    Encoder and adapter are written up to ten times, and hear up to four clips.

    Raises RecipeError where the recipe names what is no linear of the encoder, or the dialect has no finer form.
    """
    requested, opened = recipe.quantize.encoder_finer, source.opened
    if not isinstance(requested, str):
        _check_named(requested, opened, dialect)
    if recipe.kind(_GROUP) != "int8" or _GROUP not in opened.groups or requested == "none" or not requested:
        return Finer(recipe)
    if dialect.finer_op is None:
        return Finer(_with(recipe, "none"))
    reason = _unmeasured(source, recipe)
    if reason and requested == "measured":
        return Finer(_with(recipe, ()), results={"encoder_finer": f"not measured, {reason}"})
    strains: Mapping[str, Strain] = {}
    if not reason:
        w = Weights(source.tensors, dict.fromkeys(opened.groups, "float32"), recipe.quantize, observes="rows")
        strains = measure(opened, w, recipe, dialect, beside)
    if requested == "measured":
        choice = choose(strains, _trial(source, recipe, dialect, beside, strains))
        summary = {
            "linears": len(choice.names), "work": choice.work,
            "error": choice.errors[len(choice.names)], "error_without": choice.errors[0],
        }  # fmt: skip
        tried = {str(count): error for count, error in choice.errors.items()}
        results = {"encoder_finer": summary, "encoder_finer_tried": tried}
        return Finer(_with(recipe, choice.names), smoothing_of(strains, choice.names), results)
    named: dict[str, Any] = {"linears": len(requested), "by": "the recipe"}
    if reason:
        named["not smoothed"] = reason
    return Finer(recipe, smoothing_of(strains, tuple(requested)), {"encoder_finer": named})


def _check_named(names: Sequence[str], opened: Opened, dialect: Dialect) -> None:
    """Raise RecipeError for a name that is no linear of the encoder, and where the dialect has no finer form."""
    linears = [name for name in opened.expected() if opened.group(name) == _GROUP]
    for name in names:
        if name not in linears:
            raise RecipeError(
                f"quantize.encoder_finer: '{name}' is no linear of the encoder, {linears[0]} is one; change the recipe"
            )
    if names and dialect.finer_op is None:
        raise RecipeError(
            f"quantize.encoder_finer: dialect '{dialect.name}' has no finer form of a linear; leave them out"
        )


def _with(recipe: Recipe, finer: EncoderFiner) -> Recipe:
    return msgspec.structs.replace(recipe, quantize=msgspec.structs.replace(recipe.quantize, encoder_finer=finer))


def _unmeasured(source: Source, recipe: Recipe) -> str:
    """Return why nothing can be measured; empty if it can."""
    opened = source.opened
    if source.dummy_seed is not None:
        return "weights are noise"
    if not recipe.calibrate.clips:
        return "the recipe names no calibration clips"
    ears = {opened.owner(name) for name in opened.expected() if opened.group(name) == _GROUP}
    size = sum(4 * math.prod(shape) for name, shape in opened.expected().items() if opened.owner(name) in ears)
    if size > LARGEST_MIB << 20:
        return f"the encoder takes {size >> 20} MiB in float32, it is run up to {LARGEST_MIB}"
    return ""


def measure(opened: Opened, w: Weights, recipe: Recipe, dialect: Dialect, beside: Path) -> dict[str, Strain]:
    """Return the Strain of every linear of a family's encoder and adapter, by its weight's name.

    w: float32 and observing rows; ``beside``: a folder for its graphs.
    """
    clips = calibration_clips(recipe, opened.front_end(recipe.grid).sample_rate_hz)[:CLIPS]
    calls: list[Mapping[str, Array]] = []
    with observed(opened, w, recipe, dialect, beside) as hear:
        hear(clips, calls.append)
    names = dict.fromkeys(name.removeprefix(ROWS) for call in calls for name in call if name.startswith(ROWS))
    return {name: _strain(name, w, [call for call in calls if ROWS + name in call]) for name in names}


def _strain(name: str, w: Weights, calls: Sequence[Mapping[str, Array]]) -> Strain:
    weight = w.read(name)
    xs = [call[ROWS + name] for call in calls]
    magnitudes = np.max([np.abs(x).max(axis=0) for x in xs], axis=0)
    stored = _stored(weight)
    smoothed = {strength: smooth(magnitudes, strength) for strength in STRENGTHS}
    stored_smoothed = {strength: _stored(weight / by) for strength, by in smoothed.items()}
    own = np.zeros(len(weight))  # squares of each column of the output, summed over rows; and of what is lost of it
    coarse, finer = np.zeros(len(weight)), {strength: np.zeros(len(weight)) for strength in STRENGTHS}
    sums: Columns | None = None
    for call, x in zip(calls, xs, strict=True):
        out = x @ weight.T
        own += _squares(out)
        coarse += _squares(round_trip(x, *call[RANGE + name]) @ stored.T - out)
        for strength, by in smoothed.items():
            finer[strength] += _squares(_by_rows(x * by) @ stored_smoothed[strength].T - out)
        if SUM + name in call:
            sums = (0 if sums is None else sums) + len(x) * call[SUM + name].astype(np.float64)
    rows = sum(map(len, xs))
    return Strain(
        coarse=_share(coarse, own, sums),
        finer={strength: _share(lost, own, sums) for strength, lost in finer.items()},
        work=float(rows * ROW_STRIDE * weight.size),
        input=hashlib.sha256(b"".join(x.tobytes() for x in xs)).hexdigest(),
        magnitudes=magnitudes,
    )


def _stored(weight: Float) -> Float:
    """Return a matrix as INT8 holds it."""
    codes, scales = quantize_channels(weight)
    stored: Float = codes.astype(np.float32) * scales.astype(np.float32)[:, None]
    return stored


def _by_rows(x: Float) -> Float:
    """Return x after each row, scaled to a largest magnitude of 1, became whole numbers."""
    largest: Float = np.maximum(np.abs(x).max(axis=1, keepdims=True), np.float32(_NOTHING))
    scaled = x / largest
    rounded: Float = round_trip(scaled, scaled.min(), scaled.max()) * largest
    return rounded


def _squares(lost: Float) -> Columns:
    """Return the sum of squares of each column."""
    squares: Columns = np.square(lost, dtype=np.float64).sum(axis=0)
    return squares


def smooth(magnitudes: Float, strength: float) -> Float:
    """Return what each channel of an input is multiplied by: its largest magnitude to the power of -strength.

    The loudest gets 1. Powers of two, so that weights divided by them are the same numbers. magnitudes: (width,), those
    below QUIETEST of the loudest count as that.
    """
    loudest = max(float(magnitudes.max(initial=0.0)), _NOTHING)
    shares = np.maximum(magnitudes / np.float32(loudest), np.float32(QUIETEST))
    factors: Float = np.exp2(np.rint(-strength * np.log2(shares))).astype(np.float32)
    return factors


def _share(lost: Columns, own: Columns, sums: Columns | None) -> float:
    """Return what is lost of a linear's output as a share of what it is added to, all as squares of each column.

    Columns count alike: a few that are huge in every row would hide what all others lose.
    """
    if sums is None or len(sums) > 1:
        share = float(lost.sum() / max(float(own.sum()), _NOTHING))
        return share if sums is None else share * _mean_ratio(sums[1], sums[0])
    return _mean_ratio(lost, sums[0])


def _mean_ratio(part: Columns, whole: Columns) -> float:
    least = max(float(np.median(whole)) / 100, _NOTHING)  # in a column that is always near zero anything is much
    return float(np.mean(part / np.maximum(whole, least)))


def round_trip(x: Float, low: float, high: float) -> Float:
    """Return x after it was a whole number from 0 to 255 on a scale for ``low`` to ``high``, 0 among them.

    Source: ONNX, DynamicQuantizeLinear.
    """
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    step = np.float32((high - low) / _LEVELS) or np.float32(1)
    zero = np.rint(-low / step)
    result: Float = ((np.clip(np.rint(x / step) + zero, 0, _LEVELS) - zero) * step).astype(np.float32)
    return result


def choose(strains: Mapping[str, Strain], error: Callable[[Sequence[str]], float]) -> Choice:
    """Return the fewest linears, those first that save most for their work, that come near the least error there is.

    None where the error without them is one that the weights alone make. ``error``: of what the backbone hears where
    these linears have the finer form.
    """
    saves = {name: saved for name, saved in savings(strains).items() if saved > 0}
    order = sorted(saves, key=lambda name: (-saves[name] / strains[name].work, name))
    errors = {0: error(())}
    if order and errors[0] > NEEDED:
        errors |= {count: error(order[:count]) for count in (*(n for n in TRIED if n < len(order)), len(order))}
    count = next(count for count, one in errors.items() if one <= ENOUGH * min(errors.values()))
    work = sum(strain.work for strain in strains.values()) or 1.0
    names = order[:count]
    return Choice(tuple(sorted(names)), sum(strains[name].work for name in names) / work, errors)


def _trial(
    source: Source, recipe: Recipe, dialect: Dialect, beside: Path, strains: Mapping[str, Strain]
) -> Callable[[Sequence[str]], float]:
    """Return what tries linears: the error of what a backbone hears, of other clips than those measured if possible."""
    opened = source.opened
    clips = calibration_clips(recipe, opened.front_end(recipe.grid).sample_rate_hz)
    clips = clips[CLIPS : 2 * CLIPS] or clips[:CLIPS]

    def heard(kind: Precision, names: Sequence[str]) -> list[Float]:
        how = _with(recipe, tuple(names)).quantize
        precision: dict[Group, Precision] = dict.fromkeys(opened.groups, kind)
        w = Weights(source.tensors, precision, how, smoothing=smoothing_of(strains, names))
        with observed(opened, w, recipe, dialect, beside) as hear:
            return hear(clips, lambda _call: None)

    exact = heard("float32", ())

    def error(names: Sequence[str]) -> float:
        pairs = list(zip(heard("int8", names), exact, strict=True))
        lost = sum(float(np.square(ours - right, dtype=np.float64).sum()) for ours, right in pairs)
        return float((lost / max(sum(float(np.square(right).sum()) for right in exact), _NOTHING)) ** 0.5)

    return error


def savings(strains: Mapping[str, Strain]) -> dict[str, float]:
    """Return what each linear's finer form saves, squared and as a share of what it is added to; below 0: it costs."""
    strength = _strengths(strains)
    return {name: strain.coarse - strain.finer[strength[strain.input]] for name, strain in strains.items()}


def smoothing_of(strains: Mapping[str, Strain], names: Sequence[str]) -> dict[str, Float]:
    """Return what the input of each linear is multiplied by, of those that were measured and are named."""
    strength = _strengths(strains)
    measured = {name: strains[name] for name in names if name in strains}
    return {name: smooth(strain.magnitudes, strength[strain.input]) for name, strain in measured.items()}


def _strengths(strains: Mapping[str, Strain]) -> dict[str, float]:
    """Return the strength of smoothing that loses least, for each input: linears that share one smooth it once."""
    lost: dict[str, dict[float, float]] = {}
    for strain in strains.values():
        sums = lost.setdefault(strain.input, dict.fromkeys(strain.finer, 0.0))
        for strength, loss in strain.finer.items():
            sums[strength] += loss
    return {name: min(sums, key=sums.__getitem__) for name, sums in lost.items()}
