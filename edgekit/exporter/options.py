"""What an export is to make: the options that a user gives, and the recipe that fits, resolved against a checkpoint.

Knows names of groups and of recipes; knows nothing of graphs.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from edgekit.bundle import Precision
from edgekit.errors import CheckpointError, RecipeError, UsageError
from edgekit.exporter.checks.quality import Progress
from edgekit.exporter.families import Opened, find_family
from edgekit.plainfiles import is_there
from edgekit.recipe import GROUPS, Group, Recipe, flag, load_recipe
from edgekit.reprs import exact
from edgekit.resources import resource

# A checkpoint may choose among what ships, and open no file of its own choice.
_NAMED = re.compile(r"[A-Za-z0-9][\w-]*(/[A-Za-z0-9][\w-]*)?", re.ASCII)


def _silent(_stage: str, _done: int, _total: int) -> None:
    return None


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What a user may ask of an export beside the recipe. ``precision`` sets every group, ``groups`` single ones.

    INT4 of every group leaves out those that the recipe keeps finer (Int4Form), unless they stand in ``groups``.

    ``revision``, ``offline`` and ``bars``: of a checkpoint on the hub, as in ``locate``.
    ``dummy_weights``: noise in place of weights; the checkpoint is then its config alone.
    """

    recipe: str | Path | None = None
    target: str = "cpu"
    precision: Precision | None = None
    groups: Mapping[Group, Precision] = field(default_factory=dict)
    mode: str | None = None
    chunk_ms: int | None = None
    revision: str | None = None
    offline: bool = False
    bars: bool = False
    dummy_weights: bool = False
    accept_loss: str | None = None
    overwrite: bool = False
    progress: Progress = _silent


def find_recipe(named: str | Path | None, config: Mapping[str, Any]) -> Recipe:
    """Return the recipe given by path or name (a folder of ``export``, or FOLDER/FILE without ``.toml``).

    Else the one that the checkpoint's config names, else the one of its family.
    """
    if named is None:
        extra = config.get("edgekit")
        shipped = extra.get("recipe") if isinstance(extra, Mapping) else None
        if shipped and not _NAMED.fullmatch(str(shipped)):
            raise CheckpointError(
                f"config.json: edgekit.recipe is {exact(shipped)}, must name a folder of export, or FOLDER/FILE; "
                "name a recipe of your own by --recipe"
            )
        named = str(shipped or find_family(config).recipe)
    path = Path(named)
    if path.suffix == ".toml":
        return load_recipe(path)
    folder = resource("export") / str(named)
    return load_recipe(folder / "recipe.toml" if is_there(folder) else folder.with_name(folder.name + ".toml"))


def resolve(recipe: Recipe, options: ExportOptions, opened: Opened, name: str) -> Recipe:
    """Return a recipe with what the options say, and with a precision for every group.

    The groups that any recipe may name have one whether the checkpoint, called ``name``, has them or not. Raises
    UsageError or RecipeError for a group that is neither one of those nor the checkpoint's.
    """
    offered = opened.groups
    for group in options.groups:
        if group not in offered:
            known = ", ".join(f"--{group}" if group in GROUPS else flag(group, "KIND") for group in offered)
            requested = f"--{group}" if group in GROUPS else flag(group, options.groups[group])
            raise UsageError(f"{requested}: {name} has no such weights; it has {known}")
    for table, named in (("precision", recipe.precision), ("int4.keeps", recipe.int4.keeps)):
        for group in named:
            if group not in offered and group not in GROUPS:
                raise RecipeError(
                    f"{table}.{group}: {name} has no such weights; it has {', '.join(offered)}; change the recipe"
                )
    kept = recipe.int4.keeps if options.precision == "int4" else {}
    precision: dict[Group, Precision] = {
        group: options.groups.get(group) or kept.get(group) or options.precision or recipe.kind(group)
        for group in dict.fromkeys((*GROUPS, *offered))
    }
    if any(precision[group] == "int4" for group in offered):
        recipe = recipe.with_int4()
    given = {"mode": options.mode, "chunk_ms": options.chunk_ms}
    grid = msgspec.structs.replace(recipe.grid, **{key: value for key, value in given.items() if value is not None})
    if options.chunk_ms is not None and opened.grid(grid).mode == "exact":
        raise UsageError(f"--chunk-ms {options.chunk_ms}: the family's own window has no chunks; add --mode chunked")
    return msgspec.structs.replace(recipe, precision=precision, grid=grid)
