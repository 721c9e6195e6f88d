"""``edgekit quantize``."""

from pathlib import Path
from typing import Any

import click

from edgekit.cli.options import bundle_argument, bundle_output, export_options, make_options
from edgekit.cli.progress import show_progress
from edgekit.cli.summary import print_summary


@click.command(epilog="\b\nExample: edgekit quantize bundles/base -o bundles/base-int4 --precision int4")
@bundle_argument
@bundle_output
@export_options
def quantize(
    bundle: Path,
    output: Path,
    as_json: bool,
    **asked: Any,
) -> None:
    """Write a quantised bundle from a float32 one.

    The result has the same bytes as exporting the checkpoint straight to that precision. Without a precision, int8. A
    bundle whose target multiplies in float16 holds rounded weights: export its checkpoint instead.
    """
    from edgekit.exporter.export import quantize as quantize_bundle

    with show_progress() as progress:
        manifest = quantize_bundle(bundle, output, make_options(asked, progress))
    print_summary(output, manifest, as_json=as_json)
