"""Finer: which linears of an INT8 encoder cannot bear one scale for all rows of their input, and get one for each.

A few huge numbers, as GELU makes them in some layers of some checkpoints, make such a scale so coarse that little is
left of every other row. The float encoder and adapter hear calibration clips once, and for each linear what goes into
it is rounded both ways: what its output then loses, as a share of what it is added to, says how much it would harm.
See docs/decisions/encoder-int8.md.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekit.errors import RecipeError
from edgekit.exporter.blocks import RANGE, ROW_STRIDE, ROWS, SUM
from edgekit.exporter.checks.quality import calibration_clips
from edgekit.exporter.dialects import Dialect
from edgekit.exporter.families.base import Opened
from edgekit.exporter.observe import observed
from edgekit.exporter.source import Source
from edgekit.exporter.weights import Weights
from edgekit.recipe import EncoderFiner, Group, Recipe
from edgekit.runtime.engine import Array

CLIPS = 2  # heard, the first that calibrate: what makes huge numbers is the checkpoint, not what is said
BEARABLE = 0.03  # relative error of an encoder's frames that is not worth saving: what the weights' own rounding makes
MOST_WORK = 1 / 3  # of the multiply-adds: at most 1.45 times as long (docs/decisions/encoder-int8.md) is 15 % of all
LARGEST_MIB = 4096  # of a float encoder that is run: the largest published ones take about 2,500
_GROUP: Group = "encoder"
_LEVELS = 255
_NOTHING = 1e-30  # in place of zero, to divide by

Float = NDArray[np.float32]
Columns = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Strain:
    """What rounding of a linear's input costs, squared and as a share of what it is added to: by both forms.

    ``work``: its multiply-adds in the clips that were heard.
    """

    coarse: float
    finer: float
    work: float


@dataclass(frozen=True, slots=True)
class Choice:
    """Linears that get the finer form, their share of the work, and what it could save of the frames' error in all.

    ``left``: of that, what it does not save, since it is too little or would take too much work.
    """

    names: tuple[str, ...]
    work: float
    saves: float
    left: float


def resolve_finer(source: Source, recipe: Recipe, dialect: Dialect, beside: Path) -> tuple[Recipe, dict[str, Any]]:
    """Return a recipe that names the linears with the finer form, and what the manifest says of how they were found.

    A float encoder's recipe stays as it is: who quantises it later measures then. ``beside``: a folder for graphs.

    Raises RecipeError where the recipe names what is no linear of the encoder, or the dialect has no finer form.
    """
    requested, opened = recipe.quantize.encoder_finer, source.opened
    linears = [name for name in opened.expected() if opened.group(name) == _GROUP]
    if not isinstance(requested, str):
        for name in requested:
            if name not in linears:
                raise RecipeError(
                    f"quantize.encoder_finer: '{name}' is no linear of the encoder, {linears[0]} is one; "
                    "change the recipe"
                )
        if requested and dialect.finer_op is None:
            raise RecipeError(
                f"quantize.encoder_finer: dialect '{dialect.name}' has no finer form of a linear; leave it out of the "
                "recipe"
            )
    if recipe.kind(_GROUP) != "int8" or _GROUP not in opened.groups or requested == "none" or not requested:
        return recipe, {}
    if requested != "measured":
        return recipe, {"encoder_finer": {"linears": len(requested), "by": "the recipe"}}
    if dialect.finer_op is None:
        return _with(recipe, "none"), {}
    if reason := _unmeasured(source, recipe):
        return _with(recipe, ()), {"encoder_finer": f"not measured, {reason}"}
    w = Weights(source.tensors, dict.fromkeys(opened.groups, "float32"), recipe.quantize, observes="rows")
    choice = choose(measure(opened, w, recipe, dialect, beside))
    found = {"linears": len(choice.names), "work": choice.work, "saves": choice.saves, "left": choice.left}
    return _with(recipe, choice.names), {"encoder_finer": found}


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
    weight = w.read(name).T
    columns = np.zeros(
        (3, weight.shape[1])
    )  # squares of what is lost by both forms and of the output, summed over rows
    sums: Columns | None = None
    rows = 0
    for call in calls:
        x = call[ROWS + name]
        largest = np.maximum(np.abs(x).max(axis=1, keepdims=True), np.float32(_NOTHING))
        scaled = x / largest
        coarse = round_trip(x, *call[RANGE + name]) - x
        by_rows = (round_trip(scaled, scaled.min(), scaled.max()) - scaled) * largest
        columns += [np.square(part @ weight, dtype=np.float64).sum(axis=0) for part in (coarse, by_rows, x)]
        if SUM + name in call:
            sums = (0 if sums is None else sums) + len(x) * call[SUM + name].astype(np.float64)
        rows += len(x)
    coarse_share, finer_share = (_share(lost, columns[2], sums) for lost in columns[:2])
    return Strain(coarse_share, finer_share, float(rows * ROW_STRIDE * weight.size))


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


def choose(strains: Mapping[str, Strain], bearable: float = BEARABLE, most_work: float = MOST_WORK) -> Choice:
    """Return the linears whose finer form saves most for its work, until what is left to save is bearable.

    Only those of which it takes away half the loss or more count. Losses of linears are taken as independent, so that
    their squares add. Never is more of the work chosen than ``most_work``.
    """
    helped = {name: strain for name, strain in strains.items() if strain.finer <= strain.coarse / 4}  # squares
    work = sum(strain.work for strain in strains.values()) or 1.0
    before = left = sum(strain.coarse - strain.finer for strain in helped.values())
    used = 0.0
    names = []
    for name in sorted(helped, key=lambda name: ((helped[name].finer - helped[name].coarse) / helped[name].work, name)):
        if left <= bearable**2:
            break
        if used + helped[name].work <= most_work * work:
            names.append(name)
            used += helped[name].work
            left -= helped[name].coarse - helped[name].finer
    return Choice(tuple(sorted(names)), used / work, before**0.5, max(left, 0.0) ** 0.5)
