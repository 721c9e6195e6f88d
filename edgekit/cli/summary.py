"""What a bundle holds, in a few lines: components, the census by stored dtype, results of its checks, size."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from edgekit.bundle import Manifest

_MB = 1e6
_FOR_VERIFY = ("goldens", "compared", "judged")  # of an export's results: not for people to read


def print_summary(folder: Path, manifest: Manifest, *, as_json: bool) -> None:
    """Print to stdout what was written into ``folder``."""
    facts = summary(folder, manifest)
    if as_json:
        click.echo(json.dumps(facts, indent=1, ensure_ascii=False))
        return
    click.echo(f"{folder}: {facts['name']} ({facts['family']}, {facts['dialect']}), {facts['bytes'] / _MB:.1f} MB")
    if facts["dummy_seed"] is not None:
        click.echo(f"  dummy weights: noise of seed {facts['dummy_seed']}, to measure with; its text means nothing")
    click.echo(f"  precision: {_pairs(facts['precision'])}")
    if kept := _kept_of_int4(manifest):
        click.echo(f"  {kept}")
    for line in census_table(facts):
        click.echo(f"  {line}")
    for name, value in facts["verification"].items():
        click.echo(f"  {name.replace('_', ' ')}: {_pairs(value) if isinstance(value, Mapping) else _text(value)}")


def census_table(facts: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of a summary's table: a row per component, a column per stored dtype, in MB."""
    components: Mapping[str, Mapping[str, int]] = facts["components"]
    dtypes = sorted(facts["census"], key=lambda dtype: -facts["census"][dtype]["bytes"])
    rows = [["weights in MB", *dtypes]]
    rows += [[name, *(_cell(held.get(dtype, 0)) for dtype in dtypes)] for name, held in components.items()]
    rows.append(["together", *(_cell(facts["census"][dtype]["bytes"]) for dtype in dtypes)])
    rows.append(["tensors", *(str(facts["census"][dtype]["tensors"]) for dtype in dtypes)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(dtypes) + 1)]
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        yield "  ".join([row[0].ljust(widths[0]), *cells])
    if facts["ratio"] is not None:
        yield f"quantised weights take {facts['ratio']:.3f} of their float32 bytes, scales included"


def summary(folder: Path, manifest: Manifest) -> dict[str, Any]:
    """Return the same facts as plain data."""
    from edgekit.exporter.checks.census import ratio

    components: dict[str, dict[str, int]] = {}
    census: dict[str, dict[str, int]] = {}
    for row in manifest.census:
        held = components.setdefault(row.component, {})
        held[row.dtype] = held.get(row.dtype, 0) + row.bytes
        total = census.setdefault(row.dtype, {"tensors": 0, "bytes": 0, "float32_bytes": 0})
        total["tensors"] += 1
        total["bytes"] += row.bytes
        total["float32_bytes"] += row.float32_bytes
    return {
        "bundle": str(folder),
        "name": manifest.name,
        "family": manifest.family,
        "dialect": manifest.dialect,
        "dummy_seed": manifest.dummy_seed,
        "precision": dict(manifest.precision),
        "components": components,
        "census": census,
        "ratio": ratio(manifest.census),
        "verification": {name: value for name, value in manifest.verification.items() if name not in _FOR_VERIFY},
        "bytes": sum(entry.bytes for entry in manifest.files),
    }


def _kept_of_int4(manifest: Manifest) -> str:
    """Return which groups INT4 left out, why, and how it is asked for there; nothing where it left out none."""
    from edgekit.recipe import flag, stored_recipe

    form = stored_recipe({"int4": manifest.recipe.get("int4", {})}, manifest.name).int4
    small = [group for group, kind in manifest.precision.items() if kind == "int4"]
    kept = {group: kind for group, kind in form.keeps.items() if manifest.precision.get(group) == kind != "int4"}
    if not small or not kept:
        return ""
    of = ", ".join(f"{group} {kind}" for group, kind in kept.items())
    because = f", because {form.because}" if form.because else ""
    return f"int4: {', '.join(small)}; the recipe keeps {of}{because} (`{flag(next(iter(kept)), 'int4')}` overrules)"


def _cell(count: int) -> str:
    return f"{count / _MB:.2f}" if count else "-"


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {_text(value)}" for name, value in values.items())


def _text(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
