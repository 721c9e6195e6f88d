"""``edgekit profile``. The module cannot have the command's name: the standard library has a ``profile`` too."""

from pathlib import Path
from typing import Any

import click

from edgekit.cli.notices import show_notices
from edgekit.cli.options import backend_options, bundle_argument, loading, warn_fallback
from edgekit.cli.paths import FilePath
from edgekit.cli.progress import show_progress


@click.command("profile", epilog="\b\nExample: edgekit profile bundles/base-int8 -o profile.json")
@bundle_argument
@click.argument("files", metavar="[FILE...]", nargs=-1, type=FilePath(readable=False))
@click.option("-o", "--output", required=True, metavar="PROFILE", type=FilePath(), help="The JSON file to write.")
@click.option(
    "--realtime/--no-realtime", default=True, show_default=True, help="Play in real time, or as fast as it is taken."
)
@click.option("--repeat", type=click.IntRange(min=1), default=5, show_default=True, help="Measured rounds.")
@click.option("--warmup", type=click.IntRange(min=0), default=1, show_default=True, help="Rounds before them.")
@click.option("--level", metavar="NAME", help="Pin a compute level; else every one is measured.")
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Threads; else one per core.")
@backend_options
@click.option("--json", "as_json", is_flag=True, help="Print the profile as JSON too.")
def profile(
    *,
    bundle: Path,
    files: tuple[Path, ...],
    output: Path,
    realtime: bool,
    repeat: int,
    warmup: int,
    level: str | None,
    threads: int | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Measure a bundle on this device.

    FILE is a recording of speech; without one, the five sentences that ship with EdgeKit are used.
    """
    from edgekit.cli.printer import warn_dummy
    from edgekit.profiler import profile_bundle, save_profile
    from edgekit.profiler.markdown import losses, number, waivers
    from edgekit.resources import resource

    clips = files or tuple(sorted(resource("export/clips").glob("*.flac")))
    with show_notices(), show_progress() as progress:
        measured = profile_bundle(
            bundle, clips, paced=realtime, repeat=repeat, warmup=warmup, level=level, threads=threads,
            progress=lambda done, total, _: progress("measuring", done, total), **loading(options),
        )  # fmt: skip
    save_profile(measured, output)
    warn_dummy(measured.bundle)
    warn_fallback(measured.settings)
    if as_json:
        click.echo(output.read_text(encoding="utf-8"), nl=False)
        return
    named = {measured.bundle.name: measured.bundle}
    for line in (*waivers(named), *losses(named, {measured.bundle.name: measured.settings.level})):
        click.echo(line)
    for metric in measured.metrics:
        at = f"{metric.name} ({metric.level}, {metric.pace})"
        p50, p90 = number(metric.p50), number(metric.p90)
        click.echo(f"{at:<58} p50 {p50:>8}  p90 {p90:>8} {metric.unit:<5} n={metric.n}")
    click.echo(f"{output}: written; `edgekit report {output} -o report.html` makes a page of it")
