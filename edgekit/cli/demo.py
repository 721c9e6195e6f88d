"""``edgekit demo``: what a stranger sees first."""

import json
import os
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgekit.cli.paths import FilePath
from edgekit.cli.progress import show_progress, terminal
from edgekit.errors import BundleFileError, BundleFormatError
from edgekit.resources import resource

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgekit.runtime.events import Event
    from edgekit.runtime.model import Model

_NAME = "edgekit-tiny-int8"
_CLIP = "librivox-0870.flac"
_CLEAR = "\r\x1b[2K"
_SENTENCES = 3  # of the report's, most important first
_MEASURED = ("librivox-0880.flac", "librivox-0890.flac", "librivox-0930.flac")  # 12 s in all


@click.command(epilog="\b\nExample: edgekit demo")
@click.option(
    "-o",
    "--output",
    "folder",
    default=Path("bundles"),
    show_default=True,
    metavar="FOLDER",
    type=FilePath(),
    help="Where bundle, profile and report go.",
)
def demo(folder: Path) -> None:
    """Show the whole way once, from a checkpoint to a report.

    Exports the small model that ships with EdgeKit to INT8, streams a human voice through it in real time,
    measures it on this machine and writes a report. Takes about two minutes, the second time one.
    """
    import edgekit

    bundle = folder / _NAME
    _head("1. Export: a trained checkpoint becomes an INT8 bundle")
    _export(bundle)
    _head("2. Run: a human voice, streamed in real time")
    _stream(edgekit.load(bundle))
    _head("3. Measure: how long does one wait for the text on this machine?")
    report = _measure(bundle, folder)
    click.echo(f"   report: {report.resolve()}")
    _head("What next")
    listen = f"listen {bundle}" + ("" if find_spec("sounddevice") else "   (first: pip install sounddevice)")
    for meaning, arguments in (
        ("a recording of your own", f"run {bundle} FILE"),
        ("your microphone", listen),
        ("another Whisper, a Step-Audio 2 or a Qwen3-Omni", "export CHECKPOINT -o bundles/mine --precision int8"),
    ):
        click.echo(f"   {meaning}:\n     {_program()} {arguments}")


def _head(text: str) -> None:
    click.echo()
    click.secho(text, bold=True if os.environ.get("TERM") != "dumb" else None)


def _program() -> str:
    """Return how to call this program again: a virtual environment may not be active."""
    return sys.argv[0] if Path(sys.argv[0]).name == "edgekit" and not shutil.which("edgekit") else "edgekit"


def _export(bundle: Path) -> None:
    from edgekit.bundle import open_bundle
    from edgekit.cli.summary import census_table, summary

    try:
        manifest = open_bundle(bundle).manifest
        click.echo(f"   {bundle} is there already, every file checked; delete it to see the export")
    except (BundleFileError, BundleFormatError):
        from edgekit.exporter.export import ExportOptions, export
        from edgekit.exporter.hub import SHIPPED

        click.echo(f"   edgekit export {SHIPPED} -o {bundle} --precision int8")
        with show_progress() as progress:
            manifest = export(SHIPPED, bundle, ExportOptions(precision="int8", overwrite=True, progress=progress))
    facts = summary(bundle, manifest)
    float32_mb = sum(row.float32_bytes for row in manifest.census) / 1e6
    click.echo(f"   {bundle}: {facts['bytes'] / 1e6:.1f} MB, in float32 {float32_mb:.1f} MB; read back from its files:")
    for line in census_table(facts):
        click.echo(f"   {line}")


def _stream(model: "Model") -> None:
    """Play the clip and print the text as it comes."""
    from edgekit.runtime.audio.pace import paced
    from edgekit.runtime.events import Text

    shown = ""

    def show(events: "Iterator[Event]") -> None:
        nonlocal shown
        for text in events:
            if not isinstance(text, Text):
                continue
            new = text.text[len(shown) :]
            if terminal() and not shown:
                click.echo(_CLEAR, nl=False, err=True)
            click.echo(new if shown else f"   {new}", nl=text.final)
            shown = "" if text.final else text.text

    clip = resource("export/clips") / _CLIP
    click.echo(f"   {clip}")
    stream, played_s = model.stream(), 0.0
    for chunk, lag_ms in paced(clip):
        show(stream.push(chunk.samples, lag_ms=lag_ms))
        played_s += len(chunk.samples) / chunk.sample_rate_hz
        if terminal() and not shown:
            click.echo(f"{_CLEAR}   listening {played_s:.1f} s", nl=False, err=True)
    show(stream.finish())
    spoken = json.loads((clip.parent / "transcripts.json").read_text(encoding="utf-8"))[_CLIP]
    click.echo(f"   what was read: {spoken}")


def _measure(bundle: Path, folder: Path) -> Path:
    """Write profile and report; return the report's path."""
    from edgekit.atomic import write_whole
    from edgekit.profiler import profile_bundle, render_html, save_profile
    from edgekit.profiler.diagnosis import diagnose

    clips = [resource("export/clips") / name for name in _MEASURED]
    with show_progress() as progress:
        profile = profile_bundle(
            bundle, clips, repeat=1, progress=lambda done, total, _: progress("measuring", done, total)
        )
    for sentence in diagnose(profile)[:_SENTENCES]:
        click.echo(click.wrap_text(sentence, 96, "   - ", "     "))
    save_profile(profile, folder / f"{_NAME}.profile.json")
    report = folder / f"{_NAME}.report.html"
    write_whole(report, render_html([profile]).encode())
    return report
