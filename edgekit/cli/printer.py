"""Events for a reader: whole texts on stdout, the text so far on a terminal's stderr; or JSON lines for a program.

Thoughts are for a terminal's reader and for programs; they are no part of the text on stdout.
"""

import json
import shutil
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli.options import warn_fallback
from edgekit.cli.progress import terminal
from edgekit.runtime.events import (
    AudioCut,
    Event,
    Forgot,
    Interrupted,
    Lag,
    Provisional,
    Text,
    TextCut,
    Thought,
    Withdrawn,
    is_result,
    to_json,
)

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


_CUT = {
    "max_tokens": "text cut at {:.2f} s: an answer has no more tokens; raise --max-tokens if it was given",
    "max_length": "text cut at {:.2f} s: the model's conversations have no more tokens; begin another",
    "context": "text cut at {:.2f} s: the context is full; raise --context-tokens if it was given",
    "rate": "text cut at {:.2f} s: nobody says so much in that time",
    "repeats": "text cut at {:.2f} s: it began to repeat itself",
    "empty": "no text for some of the sound up to {:.2f} s, and it goes on there",
    "sound": "answered in parts, at {:.2f} s: the context holds no more of the sound; raise --context-tokens",
}


def _warning(event: Event) -> str | None:
    """Return what a reader must know of an event that takes words or sound away, None of any other."""
    match event:
        case Lag():
            return f"{event.dropped_samples} samples lost at {event.at_s:.2f} s: too slow to keep up"
        case TextCut():
            return _CUT[event.reason].format(event.at_s)
        case AudioCut():
            limit = "the longest there can be" if event.reason == "frames" else "its context is full"
            return f"speech cut short at {event.at_s:.2f} s: {limit}"
        case Forgot():
            return f"the oldest {event.turns} turns forgotten at {event.at_s:.2f} s: the context is full"
        case _:
            return None


class Printer:
    """Shows the events of one stream; ``name``, if not empty, stands before each line.

    ``marks``: what each line of JSON says beside the event. ``results``: takes final texts in place of stdout.
    """

    def __init__(
        self,
        name: str = "",
        *,
        as_json: bool = False,
        marks: Mapping[str, Any] | None = None,
        results: list[Event] | None = None,
    ) -> None:
        self._name, self._json, self._marks, self._results = name, as_json, marks or {}, results
        self._live = terminal() and not as_json
        self._shown = False
        self._written = 0  # the latest answer whose text is whole
        self._provisional = ""  # the text of the latest, which may still be withdrawn

    def event(self, event: Event) -> None:
        """Show an Event; a Thought dim, on a terminal only."""
        if self._json:
            self._print_json(event)
            return
        if self._results is not None and is_result(event):
            self._results.append(event)
        if (warning := _warning(event)) is not None:
            self.clear()
            click.echo(f"edgekit: {self._name}: {warning}" if self._name else f"edgekit: {warning}", err=True)
            return
        match event:
            case Thought():
                self._think(event)
            case Text():
                self._write(event)
            case Provisional() if self._live:  # whole, and not on stdout before it is final
                self._provisional = event.text
                self._rewrite(event.text, len(event.text))
            case Withdrawn() if self._live:
                self._rewrite(self._provisional, 0)
            case Interrupted():
                self.clear()
                if event.text and event.answer != self._written:
                    click.echo(f"{self._name}: {event.text} ..." if self._name else f"{event.text} ...")
            case _:
                pass

    def clear(self) -> None:
        """Take the unfinished text off the terminal."""
        if self._shown:
            click.echo(_CLEAR_LINE, nl=False, err=True)
            self._shown = False

    def _write(self, text: Text) -> None:
        if text.final:
            self.clear()
            self._written = text.answer
            if text.text and self._results is None:
                click.echo(f"{self._name}: {text.text}" if self._name else text.text)
        elif self._live:
            self._rewrite(text.text, text.stable)

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
        fields = to_json(event)
        first = {"event": fields.pop("event")} | dict(self._marks) | ({"file": self._name} if self._name else {})
        click.echo(json.dumps(first | fields, ensure_ascii=False))
