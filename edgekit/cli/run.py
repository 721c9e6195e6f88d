"""``edgekit run``."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli.options import bundle_argument, loading, stream_options, stream_settings
from edgekit.cli.stopping import SIGNALLED, Stopping
from edgekit.errors import UsageError

if TYPE_CHECKING:
    from edgekit.cli.printer import Printer
    from edgekit.runtime.audio.files import Block
    from edgekit.runtime.audio.speech_file import SpeechFile
    from edgekit.runtime.events import Event
    from edgekit.runtime.model import Model

_BLOCK_S = 1.0


@click.command(epilog="\b\nExample: edgekit run bundles/base-int8 talk.wav")
@bundle_argument
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path, readable=False))
@click.option("--realtime", is_flag=True, help="Play the files in real time, like a microphone.")
@click.option(
    "--partials/--no-partials",
    default=None,
    help="Write partial text while it is spoken, revised as more is heard; by default with --realtime, "
    "where the bundle can.",
)
@click.option(
    "--floor",
    type=click.Choice(["running", "clip"]),
    help="Of features: below the maximum so far, or of a whole utterance; else as the checkpoint was trained, or "
    "running with --realtime and --partials.",
)
@click.option("--speak", metavar="FILE", type=click.Path(path_type=Path), help="Write the spoken answers as WAV.")
@stream_options
def run(
    *,
    bundle: Path,
    files: tuple[Path, ...],
    realtime: bool,
    partials: bool | None,
    speak: Path | None,
    threads: int | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Print what a bundle hears in audio files.

    One line of text for each utterance, when it ends; a terminal shows it word by word before. FILE is WAV, FLAC, OGG
    or MP3 of any rate and length, a pipe, or - for standard input; with the extra `media` also M4A, AMR, WMA and the
    sound of videos. A file that cannot be read to its end is reported, the others are still run, and the exit code is
    1. --speak takes one FILE to hear; what cannot be finished is not written. ^C, SIGTERM or SIGHUP ends it after the
    text of what was heard until then.
    """
    import edgekit
    from edgekit.cli.notices import show_notices
    from edgekit.cli.printer import Printer, marks, warn
    from edgekit.cli.speech import speech_file
    from edgekit.runtime.assemble import writes_partials
    from edgekit.runtime.audio.files import shown
    from edgekit.runtime.daemon import stopped_by_signals

    if speak and len(files) > 1:
        raise UsageError(f"--speak: {speak} for {len(files)} files, it holds the answers to one; run them one by one")
    if speak and speak.exists() and files and files[0].exists() and speak.samefile(files[0]):
        raise UsageError(f"--speak: {speak} is the recording itself; write the answers to another file")
    model = edgekit.load(bundle, threads=threads, speak=speak is not None, **loading(options))
    settings = stream_settings(options)
    partials = realtime and writes_partials(model.manifest) if partials is None else partials
    settings |= {"partials": partials, "speak": speak is not None}
    live = realtime or settings["partials"]
    settings.setdefault("floor", "running" if live else model.manifest.front_end.floor)
    warn(model)
    failed, stopping = 0, Stopping()
    with stopped_by_signals(stopping) as signal, show_notices(), speech_file(speak, model.manifest) as speech:
        for number, file in enumerate(files, 1):
            printer = Printer(shown(file) if len(files) > 1 else "", as_json=as_json, marks=marks(model))
            failed += not _run_file(model, file, _chunks(file, realtime), printer, speech, settings, stopping)
            if stopping.stopped:
                if rest := files[number:]:
                    click.echo(
                        f"edgekit: not run: {len(rest)} of {len(files)} files, from {shown(rest[0])} on", err=True
                    )
                if speech:
                    click.echo(f"edgekit: {speak}: not written, its answers are not whole", err=True)
                raise click.exceptions.Exit(SIGNALLED + signal.number)
        if speech and not speech.samples and not failed:
            click.echo(f"edgekit: nothing was spoken; {speak} holds no sound", err=True)
        if failed:
            raise click.exceptions.Exit(1)


def _run_file(
    model: "Model",
    file: Path,
    chunks: "Iterator[tuple[Block, float | None]]",
    printer: "Printer",
    speech: "SpeechFile | None",
    settings: dict[str, Any],
    stopping: Stopping,
) -> bool:
    """Show what the model hears in one file; return False, having said why, if it cannot be read to its end."""
    from edgekit.errors import AudioError
    from edgekit.runtime.audio.files import shown
    from edgekit.runtime.events import Audio
    from edgekit.runtime.options import StreamOptions
    from edgekit.runtime.stream import Stream

    def show(events: "Iterator[Event]") -> None:
        for event in events:
            if speech and isinstance(event, Audio):
                speech.audio(event)
            printer.event(event)

    def opened(chunk: "Block") -> Stream:
        rate, channels = chunk.sample_rate_hz, chunk.samples.shape[1]
        options = StreamOptions(sample_rate_hz=rate, channels=channels, **settings)
        return Stream(model, options, source=shown(file))

    stream, heard_s = None, 0.0
    try:
        for chunk, lag_ms in stopping.until(chunks):
            stream = stream or opened(chunk)
            heard_s += len(chunk.samples) / chunk.sample_rate_hz
            show(stream.push(chunk.samples, lag_ms=lag_ms))
        if stream is not None:
            show(stream.finish())
        assert stream is not None or stopping.stopped, "a file without samples is an AudioError"
    except AudioError as error:
        if stream is not None:  # what was said before the file ended is heard to its end
            show(stream.finish())
        printer.clear()
        click.echo(f"edgekit: {error}", err=True)
        return False
    except KeyboardInterrupt:
        printer.clear()
        lost = "what was heard since its last text is lost"
        click.echo(f"edgekit: {shown(file)}: ended within {heard_s:.1f} s, {lost}", err=True)
        raise
    finally:
        printer.clear()
    if stopping.stopped:
        click.echo(f"edgekit: {shown(file)}: stopped after {heard_s:.1f} s, its text is of these", err=True)
    return True


def _chunks(file: Path, realtime: bool) -> "Iterator[tuple[Block, float | None]]":
    from edgekit.runtime.audio.files import standard_input
    from edgekit.runtime.audio.pace import chunks, paced

    source = standard_input() if str(file) == "-" else file
    if realtime:
        yield from paced(source)
    else:
        for chunk in chunks(source, _BLOCK_S):
            yield chunk, None
