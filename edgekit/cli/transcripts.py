"""Transcripts of ``edgekit run``: what is written of each file once it was heard, in one of the forms people read."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.atomic import write_whole
from edgekit.errors import OutputError, UsageError

if TYPE_CHECKING:
    from edgekit.runtime.events import Event
    from edgekit.runtime.model import Transcript

FORMS = ("txt", "srt", "vtt", "json")
TIMED = ("srt", "vtt", "json")
_NAMELESS = "stdin"  # of sound that came from standard input


class Transcripts:
    """Writes the Transcript of one file after another, to stdout or into a folder, there for its owner alone.

    ``marks``: what is said of each in JSON beside it; to be set.
    """

    def __init__(self, form: str, folder: Path | None, files: Sequence[Path], *, overwrite: bool) -> None:
        """Make the folder. Raises UsageError where two files would have one place, OutputError where one is taken."""
        self.marks: Mapping[str, Any] = {}
        self._form, self._folder = form, folder
        self._several = len(files) > 1
        if folder is None:
            if self._several and form in {"srt", "vtt"}:
                raise UsageError(
                    f"--format {form}: {len(files)} files, stdout holds one of these; add --output-dir DIR"
                )
            return
        places: dict[Path, Path] = {}
        for file in files:
            place = self._place(folder, file)
            other = places.setdefault(place, file)
            if other is not file:
                both = f"{_shown(other)} and {_shown(file)} would both be written to {_shown(place)}"
                raise UsageError(f"--output-dir: {both}; rename one, or run them one by one")
            if place.exists() and not (overwrite and place.is_file()):
                step = "add --overwrite, or name another --output-dir" if place.is_file() else "move that away"
                raise OutputError(f"{_shown(place)}: is there already; {step}")
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, file: Path, events: "Sequence[Event]", audio_s: float, *, whole: bool) -> bool:
        """Write what was heard of a file by the results among its events; return False, having said why, if it cannot.

        whole: it was heard to its end.
        """
        from edgekit.runtime.model import transcript_of

        text = self._text(file, transcript_of(events, audio_s, whole=whole))
        if self._folder is None:
            click.echo(text, nl=False)
            return True
        place = self._place(self._folder, file)
        try:
            write_whole(place, text.encode("utf-8", "backslashreplace"), private=True)
        except (OSError, OutputError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            click.echo(f"edgekit: {_shown(place)}: not written, {reason}; free the place and run it again", err=True)
            return False
        click.echo(f"edgekit: {_shown(place)} written", err=True)
        return True

    def _text(self, file: Path, transcript: "Transcript") -> str:
        if self._form == "json":
            head = {"file": _shown(file)} if self._several or self._folder else {}
            indent = 2 if self._folder else None
            return json.dumps(head | dict(self.marks) | transcript.to_dict(), ensure_ascii=False, indent=indent) + "\n"
        if self._form == "txt":
            name = f"{_shown(file)}: " if self._several and self._folder is None else ""
            return "".join(f"{name}{segment.text}\n" for segment in transcript.segments if segment.text)
        return transcript.to_srt() if self._form == "srt" else transcript.to_vtt()

    def _place(self, folder: Path, file: Path) -> Path:
        name = _NAMELESS if str(file) == "-" else file.stem or file.name
        return folder / f"{name}.{self._form}"


def _shown(file: Path) -> str:
    from edgekit.runtime.audio.files import shown

    return shown(file)
