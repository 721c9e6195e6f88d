"""Transcripts of ``edgekit run``: what is written of each file once it was heard, in one of the forms people read."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.errors import UsageError

if TYPE_CHECKING:
    from edgekit.runtime.events import Event
    from edgekit.runtime.model import Transcript

FORMS = ("txt", "srt", "vtt", "json")
TIMED = ("srt", "vtt", "json")
_NAMELESS = "stdin"  # of sound that came from standard input


def _text(transcript: "Transcript") -> str:
    return "".join(f"{segment.text}\n" for segment in transcript.segments if segment.text)


_WRITTEN: Mapping[str, "Callable[[Transcript], str]"] = {
    "txt": _text,
    "srt": lambda transcript: transcript.to_srt(),
    "vtt": lambda transcript: transcript.to_vtt(),
}


class Transcripts:
    """Writes the Transcript of one file after another, to stdout or into a folder.

    ``marks``: what is said of each in JSON beside it.
    """

    def __init__(self, form: str, folder: Path | None, files: Sequence[Path], marks: Mapping[str, Any]) -> None:
        """Make the folder. Raises UsageError where two files would have one place, before any is heard."""
        self._form, self._folder, self._marks = form, folder, marks
        self._several = len(files) > 1
        if folder is None:
            if self._several and form in {"srt", "vtt"}:
                raise UsageError(
                    f"--format {form}: {len(files)} files, stdout holds one of these; add --output-dir DIR"
                )
            return
        places: dict[Path, Path] = {}
        for file in files:
            other = places.setdefault(self._place(folder, file), file)
            if other is not file:
                raise UsageError(
                    f"--output-dir: {_shown(other)} and {_shown(file)} would both be written to "
                    f"{_shown(self._place(folder, file))}; rename one, or run them one by one"
                )
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, file: Path, events: "Sequence[Event]", audio_s: float) -> None:
        """Write what was heard of a file, whole or until it broke off, by the results among its events."""
        from edgekit.runtime.model import transcript_of

        transcript = transcript_of(events, audio_s)
        if self._form == "json":
            head = {"file": _shown(file)} if self._several or self._folder else {}
            indent = 2 if self._folder else None
            text = json.dumps(head | dict(self._marks) | transcript.to_dict(), ensure_ascii=False, indent=indent) + "\n"
        else:
            text = _WRITTEN[self._form](transcript)
        if self._folder is None:
            click.echo(text, nl=False)
            return
        from edgekit.atomic import write_whole

        place = self._place(self._folder, file)
        write_whole(place, text.encode("utf-8", "backslashreplace"))
        click.echo(f"edgekit: {_shown(place)} written", err=True)

    def _place(self, folder: Path, file: Path) -> Path:
        name = _NAMELESS if str(file) == "-" else file.stem or file.name
        return folder / f"{name}.{self._form}"


def _shown(file: Path) -> str:
    from edgekit.runtime.audio.files import shown

    return shown(file)
