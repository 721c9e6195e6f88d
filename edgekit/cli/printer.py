"""Events for a reader: whole texts on stdout, the text so far on a terminal's stderr; or JSON lines for a program."""

import dataclasses
import json
import re
import shutil
from collections.abc import Iterable

import click

from edgekit.cli.progress import terminal
from edgekit.runtime.events import Event, Lag, Text

_CLEAR_LINE = "\r\x1b[2K"


class Printer:
    """Shows the events of one stream; ``name``, if not empty, stands before each line. Pass ``text`` as ``on_text``."""

    def __init__(self, name: str = "", *, as_json: bool = False) -> None:
        self._name, self._json = name, as_json
        self._live = terminal() and not as_json
        self._shown = False

    def text(self, text: Text) -> None:
        """Show a Text at the moment it exists."""
        if self._json:
            self._print_json(text)
        elif text.final:
            self.clear()
            if text.text:
                click.echo(f"{self._name}: {text.text}" if self._name else text.text)
        elif self._live:
            self._rewrite(text)

    def events(self, events: Iterable[Event]) -> None:
        """Show Events in order; see ``event``."""
        for event in events:
            self.event(event)

    def event(self, event: Event) -> None:
        """Show any other Event; a Text was shown already."""
        if isinstance(event, Text):
            return
        if self._json:
            self._print_json(event)
        elif isinstance(event, Lag):
            self.clear()
            click.echo(
                f"edgekit: {event.dropped_samples} samples lost at {event.at_s:.2f} s: too slow to keep up", err=True
            )

    def clear(self) -> None:
        """Take the unfinished text off the terminal."""
        if self._shown:
            click.echo(_CLEAR_LINE, nl=False, err=True)
            self._shown = False

    def _rewrite(self, text: Text) -> None:
        """Show the end of ``text`` that fits on one line; what the next draft may well revise is dim."""
        from rich.cells import chop_cells

        room = max(1, shutil.get_terminal_size().columns - 1)
        line = " ".join(text.text.split())
        lines = chop_cells(line[::-1], room)
        shown = lines[0][::-1] if lines else ""
        stable = max(0, len(" ".join(text.text[: text.stable].split())) - (len(line) - len(shown)))
        dim = click.style(shown[stable:], dim=True) if shown[stable:] else ""
        click.echo(_CLEAR_LINE + shown[:stable] + dim, nl=False, err=True)
        self._shown = True

    def _print_json(self, event: Event) -> None:
        name = re.sub(r"(?<!^)(?=[A-Z])", "_", type(event).__name__).lower()
        fields = {"event": name} | ({"file": self._name} if self._name else {}) | dataclasses.asdict(event)
        click.echo(json.dumps(fields, ensure_ascii=False))
