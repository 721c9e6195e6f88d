"""``edgekit export``."""

from pathlib import Path
from typing import Any

import click

from edgekit.cli.notices import show_notices
from edgekit.cli.options import bundle_output, export_options, make_options
from edgekit.cli.paths import NameOrPath
from edgekit.cli.progress import show_progress, terminal
from edgekit.cli.summary import print_summary


@click.command(epilog="\b\nExample: edgekit export whisper-base -o bundles/base-int8 --precision int8")
@click.argument("checkpoint", metavar="CHECKPOINT", type=NameOrPath())
@bundle_output
@export_options
@click.option(
    "--recipe", metavar="NAME|FILE", type=NameOrPath(), help="A recipe that ships with EdgeKit, or a TOML file."
)
@click.option(
    "--target",
    default="cpu",
    show_default=True,
    metavar="NAME",
    type=NameOrPath(),
    help="The device class to export for.",
)
@click.option(
    "--mode",
    type=click.Choice(["exact", "chunked"]),
    help="The family's own window, or the low-latency grid; the recipe's if absent.",
)
@click.option(
    "--chunk-ms", type=int, help="What the low-latency grid hears at a time; the recipe's or checkpoint's if absent."
)
@click.option("--revision", metavar="NAME", help="Branch, tag or commit of an id of the hub.")
@click.option("--offline", is_flag=True, help="Ask no hub; an id must be in its cache.")
@click.option(
    "--dummy-weights",
    is_flag=True,
    help="Seeded noise in place of weights, from a config alone: to measure a shape before its weights are fetched.",
)
def export(
    checkpoint: str,
    output: Path,
    as_json: bool,
    **asked: Any,
) -> None:
    """Write a bundle for a checkpoint.

    CHECKPOINT is a folder with config.json and its weights, or the id of one on the Hugging Face hub, which is
    fetched to the hub's cache, or for a published one the short name alone: whisper-base. With --dummy-weights a
    config.json is enough. Every weight is counted and compared with the checkpoint, and a quantised bundle is judged
    against its float32 twin; nothing is published that fails. Without a precision, the recipe's.
    """
    from edgekit.exporter.export import export as export_checkpoint

    with show_notices(), show_progress() as progress:
        manifest = export_checkpoint(checkpoint, output, make_options(asked | {"bars": terminal()}, progress))
    print_summary(output, manifest, as_json=as_json)
