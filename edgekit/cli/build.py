"""``edgekit build``."""

import json
from pathlib import Path
from typing import Any

import click

from edgekit.cli.options import bundle_argument, json_option, trust_options, trusted
from edgekit.cli.paths import FilePath, NameOrPath
from edgekit.cli.progress import show_progress


@click.command(epilog="\b\nExample: edgekit build bundles/tiny-rtx --target desktop-rtx")
@bundle_argument
@click.option("--target", required=True, metavar="NAME", type=NameOrPath(), help="The device class to build for.")
@click.option(
    "-o",
    "--output",
    type=FilePath(),
    help="Folder for the plans; BUNDLE.plans beside the bundle if absent.",
)
@click.option("--context-tokens", type=int, help="Length of the KV cache; the bundle's own if absent.")
@trust_options
@json_option
def build(
    bundle: Path, target: str, output: Path | None, context_tokens: int | None, as_json: bool, **options: Any
) -> None:
    """Build the plans that TensorRT runs of a bundle.

    One plan serves every length that the bundle admits. What was built before from the same graph, by the same version
    for the same device, is kept; a damaged plan is built anew. Fails if a plan holds fewer INT8 layers than the bundle
    asks for, and, before it starts, if there is not the memory to build one.
    """
    from edgekit.bundle import open_bundle
    from edgekit.recipe import load_target
    from edgekit.runtime.backends import build_plans

    opened = open_bundle(bundle, trust=trusted(options))
    with show_progress() as progress:
        built = build_plans(
            opened, load_target(target), folder=output, context_tokens=context_tokens, progress=progress
        )
    if as_json:
        found = [{"component": one.component, "path": str(one.path), "kept": one.kept, **one.facts} for one in built]
        click.echo(json.dumps({"bundle": str(bundle), "target": target, "plans": found}, indent=1))
        return
    for one in built:
        how = "kept" if one.kept else f"built in {one.build_s:.1f} s"
        click.echo(f"{one.component}: {one.size_bytes / 1e6:.1f} MB, {one.summary}, {how}: {one.path}")
