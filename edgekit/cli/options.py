"""Arguments and options that several commands share."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edgekit.errors import UsageError

if TYPE_CHECKING:
    from edgekit.exporter.export import ExportOptions
    from edgekit.exporter.quality import Progress

_Command = TypeVar("_Command", bound=Callable[..., Any])
_PRECISION = click.Choice(["float32", "int8", "int4"])
_GROUPS = {
    "encoder": "Of the encoder and the adapter.",
    "backbone": "Of the backbone's attention and dense layers.",
    "experts": "Of the experts of a mixture.",
    "head": "Of the output layer and the token table.",
    "decoder": "Of the decoder from codes to sound.",
}

bundle_argument = click.argument("bundle", metavar="BUNDLE", type=click.Path(path_type=Path))
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
bundle_output = click.option(
    "-o", "--output", required=True, metavar="BUNDLE", type=click.Path(path_type=Path), help="The folder to write."
)


def export_options(command: _Command) -> _Command:
    """Add what ``export`` and ``quantize`` share: precisions, waiver, overwriting, JSON."""
    added = [
        click.option("--precision", type=_PRECISION, help="Of every group of weights; the recipe's if absent."),
        *(click.option(f"--{name}", type=_PRECISION, help=text) for name, text in _GROUPS.items()),
        click.option(
            "--accept-loss", metavar="REASON", help="Publish in spite of the quality gate; kept in the manifest."
        ),
        click.option("--overwrite", is_flag=True, help="Replace a bundle that is there."),
        json_option,
    ]
    for option in reversed(added):
        command = option(command)
    return command


def make_options(asked: Mapping[str, Any], progress: "Progress") -> "ExportOptions":
    """Return the ExportOptions for the values of ``export_options`` and of what a command adds to them."""
    from edgekit.exporter.export import ExportOptions

    if asked["accept_loss"] is not None and not asked["accept_loss"].strip():
        raise UsageError(
            "--accept-loss: empty, the manifest keeps the reason; say why, such as --accept-loss 'demo only'"
        )
    groups: dict[Any, Any] = {name: asked[name] for name in _GROUPS if asked[name]}
    rest = {name: value for name, value in asked.items() if name not in _GROUPS}
    return ExportOptions(**rest, groups=groups, progress=progress)


def stream_options(command: _Command) -> _Command:
    """Add what ``run`` and ``listen`` share: how a stream listens and answers."""
    added = [
        click.option(
            "--gate", type=click.Choice(["speech", "sound", "off"]), help="What counts; the bundle's if absent."
        ),
        click.option(
            "--level", metavar="NAME", help="Pin a compute level of the bundle; else chosen by how late it is."
        ),
        click.option("--language", metavar="CODE", help="Spoken language, for multilingual models; else detected."),
        click.option("--task", metavar="NAME", help="What to do with speech, such as transcribe or translate."),
        click.option("--system", metavar="TEXT", help="System text, for models that take one."),
        click.option("--prompt", metavar="TEXT", help="What to ask about the sound, for models that take it."),
        click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Threads; else one per core."),
        click.option("--json", "as_json", is_flag=True, help="Print each event as a line of JSON, text as it comes."),
    ]
    for option in reversed(added):
        command = option(command)
    return command
