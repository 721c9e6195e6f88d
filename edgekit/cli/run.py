"""``edgekit run``."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli.options import bundle_argument, loading, partials_option, stream_options, stream_settings
from edgekit.cli.paths import FilePath
from edgekit.cli.stopping import Stopping
from edgekit.ending import SIGNALLED
from edgekit.errors import UsageError

if TYPE_CHECKING:
    from edgekit.cli.printer import Printer
    from edgekit.cli.transcripts import Transcripts
    from edgekit.runtime.answer.early.partials import PartialsKind
    from edgekit.runtime.audio.files import Block
    from edgekit.runtime.audio.speech_file import SpeechFile
    from edgekit.runtime.events import Event
    from edgekit.runtime.model import Model
    from edgekit.runtime.stream import Stream

_BLOCK_S = 1.0


@click.command(epilog="\b\nExample: edgekit run bundles/base-int8 talk.wav")
@bundle_argument
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=FilePath(readable=False))
@click.option("--realtime", is_flag=True, help="Play the files in real time, like a microphone.")
@partials_option("agreed with --realtime, where the bundle can")
@click.option(
    "--floor",
    type=click.Choice(["running", "clip"]),
    help="Of features: below the maximum so far, or of a whole utterance; else as the checkpoint was trained, or "
    "running with --realtime and --partials.",
)
@click.option("--speak", metavar="FILE", type=FilePath(), help="Write the spoken answers as WAV, for you alone.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["txt", "srt", "vtt", "json"]),
    help="What to write of each FILE once it is heard: text, subtitles, or all in JSON; else text as it comes.",
)
@click.option(
    "--output-dir",
    metavar="DIR",
    type=FilePath(file_okay=False),
    help="Write a file for each FILE there, of the same name and for you alone, in place of stdout; text unless "
    "--format says other.",
)
@click.option("--overwrite", is_flag=True, help="Replace files that are in --output-dir already.")
@stream_options
def run(
    *,
    bundle: Path,
    files: tuple[Path, ...],
    realtime: bool,
    partials: "bool | PartialsKind | None",
    speak: Path | None,
    threads: int | None,
    as_json: bool,
    form: str | None,
    output_dir: Path | None,
    overwrite: bool,
    **options: Any,
) -> None:
    """Print what a bundle hears in audio files.

    One line of text for each utterance, when it ends; a terminal shows it word by word before. FILE is WAV, FLAC, OGG
    or MP3 of any rate and length, a pipe, or - for standard input; with the extra `media` also M4A, AMR, WMA and the
    sound of videos. A file that cannot be read to its end is reported, the others are still run, and the exit code is
    1. Subtitles follow the words where the bundle knows when they were said, else utterances. --speak takes one FILE to
    hear; what cannot be finished is not written. ^C, SIGTERM or SIGHUP ends it after the text of what was heard until
    then.
    """
    import edgekit
    from edgekit.cli.notices import show_notices
    from edgekit.cli.printer import marks, warn
    from edgekit.cli.speech import speech_file
    from edgekit.cli.stopping import stopped_by_signals
    from edgekit.cli.transcripts import TIMED, Transcripts
    from edgekit.runtime.assemble import writes_partials
    from edgekit.runtime.audio.files import shown
    from edgekit.runtime.options import stream_options as make_options

    form = form or ("txt" if output_dir else None)
    _check(files, speak, form, options["times"], as_json=as_json)
    if overwrite and output_dir is None:
        raise UsageError("--overwrite: nothing is written without --output-dir; leave it out")
    transcripts = Transcripts(form, output_dir, files, overwrite=overwrite) if form else None
    model = edgekit.load(bundle, threads=threads, speak=speak is not None, **loading(options))
    settings = stream_settings(options)
    if form in TIMED and model.manifest.protocol.alignment:
        settings.setdefault("times", "words")
    settings["speak"] = speak is not None
    asked = make_options(settings)
    settings["partials"] = realtime and writes_partials(model.manifest, asked) if partials is None else partials
    live = realtime or settings["partials"]
    settings.setdefault("floor", "running" if live else model.manifest.front_end.floor)
    if transcripts:
        transcripts.marks = marks(model)
    warn(model)
    failed, stopping = 0, Stopping()
    with stopped_by_signals(stopping) as signal, show_notices(), speech_file(speak, model.manifest) as speech:
        running = _Run(model, settings, speech, transcripts, stopping, several=len(files) > 1, as_json=as_json)
        for number, file in enumerate(files, 1):
            failed += not running.hear(file, _chunks(file, realtime))
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


def _check(files: tuple[Path, ...], speak: Path | None, form: str | None, times: str | None, *, as_json: bool) -> None:
    """Raise UsageError for options that do not go together."""
    if speak and len(files) > 1:
        raise UsageError(f"--speak: {speak} for {len(files)} files, it holds the answers to one; run them one by one")
    if speak and speak.exists() and files and files[0].exists() and speak.samefile(files[0]):
        raise UsageError(f"--speak: {speak} is the recording itself; write the answers to another file")
    if as_json and form:
        raise UsageError(f"--json: prints events as they come, --format {form} writes files once heard; leave one out")
    if times and not as_json and form in {None, "txt"}:
        raise UsageError(f"--times {times}: text alone shows no times; add --json, or --format srt, vtt or json")


@dataclass
class _Run:
    """What hears one file after another."""

    model: "Model"
    settings: dict[str, Any]
    speech: "SpeechFile | None"
    transcripts: "Transcripts | None"
    stopping: Stopping
    several: bool
    as_json: bool

    def hear(self, file: Path, chunks: "Iterator[tuple[Block, float | None]]") -> bool:
        """Show what the model hears in one file; return False, having said why, if it cannot be read to its end."""
        from edgekit.cli.printer import Printer, marks
        from edgekit.errors import AudioError
        from edgekit.runtime.audio.files import shown

        results: list[Event] | None = [] if self.transcripts else None
        name = shown(file)
        printer = Printer(name if self.several else "", as_json=self.as_json, marks=marks(self.model), results=results)
        stream, heard_s, whole = None, 0.0, True
        try:
            for chunk, lag_ms in self.stopping.until(chunks):
                stream = stream or self._opened(chunk, name)
                heard_s += len(chunk.samples) / chunk.sample_rate_hz
                self._show(stream.push(chunk.samples, lag_ms=lag_ms), printer)
            if stream is not None:
                self._show(stream.finish(), printer)
            assert stream is not None or self.stopping.stopped, "a file without samples is an AudioError"
        except AudioError as error:
            if stream is not None:  # what was said before the file ended is heard to its end
                self._show(stream.finish(), printer)
            printer.clear()
            click.echo(f"edgekit: {error}", err=True)
            whole = False
        except KeyboardInterrupt:
            printer.clear()
            lost = "what was heard since its last text is lost"
            click.echo(f"edgekit: {name}: ended within {heard_s:.1f} s, {lost}", err=True)
            self._write(file, results, heard_s, whole=False)
            raise
        except Exception:
            printer.clear()
            self._write(file, results, heard_s, whole=False)
            raise
        printer.clear()
        if self.stopping.stopped:
            click.echo(f"edgekit: {name}: stopped after {heard_s:.1f} s, its text is of these", err=True)
        written = stream is None or self._write(file, results, heard_s, whole=whole and not self.stopping.stopped)
        return whole and written

    def _write(self, file: Path, results: "list[Event] | None", heard_s: float, *, whole: bool) -> bool:
        """Write the transcript of a file, if one is asked for and, of one that broke off, if anything was heard."""
        if self.transcripts is None or results is None or not (results or whole):
            return True
        return self.transcripts.write(file, results, heard_s, whole=whole)

    def _opened(self, chunk: "Block", name: str) -> "Stream":
        from edgekit.runtime.options import StreamOptions
        from edgekit.runtime.stream import Stream

        rate, channels = chunk.sample_rate_hz, chunk.samples.shape[1]
        return Stream(self.model, StreamOptions(sample_rate_hz=rate, channels=channels, **self.settings), source=name)

    def _show(self, events: "Iterator[Event]", printer: "Printer") -> None:
        from edgekit.runtime.events import Audio

        for event in events:
            if self.speech and isinstance(event, Audio):
                self.speech.audio(event)
            printer.event(event)


def _chunks(file: Path, realtime: bool) -> "Iterator[tuple[Block, float | None]]":
    from edgekit.runtime.audio.files import standard_input
    from edgekit.runtime.audio.pace import chunks, paced

    source = standard_input() if str(file) == "-" else file
    if realtime:
        yield from paced(source)
    else:
        for chunk in chunks(source, _BLOCK_S):
            yield chunk, None
