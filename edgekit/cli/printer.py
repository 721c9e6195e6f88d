"""Events for a reader: whole texts on stdout, the text so far on a terminal's stderr; or JSON lines for a program.

Thoughts are for a terminal's reader and for programs; they are no part of the text on stdout.
"""

import dataclasses
import json
import re
import shutil
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli.options import warn_fallback
from edgekit.cli.progress import terminal
from edgekit.runtime.events import Audio, AudioCut, Event, Forgot, Lag, Text, Thought

if TYPE_CHECKING:
    from edgekit.bundle import Manifest
    from edgekit.profiler.profiles import BundleFacts
    from edgekit.runtime.model import Model

_CLEAR_LINE = "\r\x1b[2K"


def warn(model: "Model") -> None:
    """Say on stderr what a reader of a model's text must know: dummy weights, a fallback."""
    warn_dummy(model.manifest)
    warn_fallback(model)


def marks(model: "Model") -> dict[str, Any]:
    """Return the same for each line of JSON."""
    dummy = {"dummy": True} if model.manifest.dummy_seed is not None else {}
    return dummy | ({"fallback": model.fallback} if model.fallback else {})


def warn_dummy(bundle: "Manifest | BundleFacts") -> None:
    """Say on stderr that a bundle holds dummy weights, if it does."""
    if bundle.dummy_seed is not None:
        click.echo(f"edgekit: {bundle.name} holds dummy weights: its text means nothing", err=True)


class Printer:
    """Shows the events of one stream; ``name``, if not empty, stands before each line. Pass ``text`` as ``on_text`` and
    ``audio`` as ``on_audio``.

    ``marks``: what each line of JSON says beside the event.
    """

    def __init__(self, name: str = "", *, as_json: bool = False, marks: Mapping[str, Any] | None = None) -> None:
        self._name, self._json, self._marks = name, as_json, marks or {}
        self._live = terminal() and not as_json
        self._shown = False

    def text(self, text: Text | Thought) -> None:
        """Show a Text or a Thought at the moment it exists; a Thought dim, on a terminal only."""
        if self._json:
            self._print_json(text)
        elif isinstance(text, Thought):
            self._think(text)
        elif text.final:
            self.clear()
            if text.text:
                click.echo(f"{self._name}: {text.text}" if self._name else text.text)
        elif self._live:
            self._rewrite(text.text, text.stable)

    def audio(self, audio: Audio) -> None:
        """Tell a program of a piece of speech; its samples are not printed."""
        if self._json:
            self._print_json(audio)

    def events(self, events: Iterable[Event]) -> None:
        """Show Events in order; see ``event``."""
        for event in events:
            self.event(event)

    def event(self, event: Event) -> None:
        """Show any other Event; a Text, a Thought and an Audio were shown already."""
        if isinstance(event, (Text, Thought, Audio)):
            return
        if self._json:
            self._print_json(event)
        elif isinstance(event, Lag):
            self.clear()
            click.echo(
                f"edgekit: {event.dropped_samples} samples lost at {event.at_s:.2f} s: too slow to keep up", err=True
            )
        elif isinstance(event, AudioCut):
            self.clear()
            limit = "the longest there can be" if event.reason == "frames" else "its context is full"
            click.echo(f"edgekit: speech cut short at {event.at_s:.2f} s: {limit}", err=True)
        elif isinstance(event, Forgot):
            self.clear()
            click.echo(
                f"edgekit: the oldest {event.turns} turns forgotten at {event.at_s:.2f} s: the context is full",
                err=True,
            )

    def clear(self) -> None:
        """Take the unfinished text off the terminal."""
        if self._shown:
            click.echo(_CLEAR_LINE, nl=False, err=True)
            self._shown = False

    def _think(self, thought: Thought) -> None:
        if not self._live:
            return
        if not thought.final:
            self._rewrite(thought.text, 0)
        else:
            self.clear()
            if thought.text:
                click.secho(thought.text, dim=True, err=True)

    def _rewrite(self, text: str, stable: int) -> None:
        """Show the end of ``text`` that fits on one line, dim but for its first ``stable`` characters."""
        from rich.cells import chop_cells

        room = max(1, shutil.get_terminal_size().columns - 1)
        line = " ".join(text.split())
        lines = chop_cells(line[::-1], room)
        shown = lines[0][::-1] if lines else ""
        stable = max(0, len(" ".join(text[:stable].split())) - (len(line) - len(shown)))
        dim = click.style(shown[stable:], dim=True) if shown[stable:] else ""
        click.echo(_CLEAR_LINE + shown[:stable] + dim, nl=False, err=True)
        self._shown = True

    def _print_json(self, event: Event) -> None:
        name = re.sub(r"(?<!^)(?=[A-Z])", "_", type(event).__name__).lower()
        fields: dict[str, Any] = {"event": name} | dict(self._marks)
        fields |= {"file": self._name} if self._name else {}
        if isinstance(event, Audio):
            count, rate = len(event.samples), event.sample_rate_hz
            fields |= {"samples": count, "seconds": round(count / rate, 6), "sample_rate_hz": rate}
        else:
            fields |= dataclasses.asdict(event)
        click.echo(json.dumps(fields, ensure_ascii=False))
