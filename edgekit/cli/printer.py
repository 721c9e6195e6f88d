"""Events for a reader: whole texts on stdout, the text so far on a terminal's stderr; or JSON lines for a program."""

import dataclasses
import json
import re
import shutil
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli.progress import terminal
from edgekit.runtime.events import Event, Lag, Text

if TYPE_CHECKING:
    from edgekit.bundle import Manifest
    from edgekit.profiler.profiles import BundleFacts

_CLEAR_LINE = "\r\x1b[2K"


def warn_dummy(bundle: "Manifest | BundleFacts") -> None:
    """Say on stderr that a bundle holds dummy weights, if it does."""
    if bundle.dummy_seed is not None:
        click.echo(f"edgekit: {bundle.name} holds dummy weights: its text means nothing", err=True)


class Printer:
    """Shows the events of one stream; ``name``, if not empty, stands before each line. Pass ``text`` as ``on_text``.

    ``dummy``: each line of JSON says so.
    """

    def __init__(self, name: str = "", *, as_json: bool = False, dummy: bool = False) -> None:
        self._name, self._json, self._dummy = name, as_json, dummy
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
        fields: dict[str, Any] = {"event": name} | ({"dummy": True} if self._dummy else {})
        fields |= ({"file": self._name} if self._name else {}) | dataclasses.asdict(event)
        click.echo(json.dumps(fields, ensure_ascii=False))
