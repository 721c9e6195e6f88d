"""Arguments and options that several commands share."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import click

from edgekit.cli.paths import FilePath
from edgekit.errors import UsageError
from edgekit.plainfiles import read_plain

if TYPE_CHECKING:
    from edgekit.bundle.trust import Trust
    from edgekit.exporter.checks.quality import Progress
    from edgekit.exporter.export import ExportOptions

_Command = TypeVar("_Command", bound=Callable[..., Any])
_KINDS = click.Choice(["float32", "int8", "int4"])
_LOADING = ("backend", "allow_fallback", "context_tokens", "plans")
_LONGEST_TEXT = 1 << 20  # bytes: more than any model reads
_SAMPLING = ("temperature", "top_k", "top_p", "repetition_penalty")
GROUPS = {  # those of edgekit.recipe, which is too much to load for a page of help
    "encoder": "Precision of the encoder and the adapter.",
    "backbone": "Precision of the backbone's attention and dense layers.",
    "experts": "Precision of the experts of a mixture.",
    "head": "Precision of the output layer and the token table.",
    "decoder": "Precision of the decoder from codes to sound.",
}

bundle_argument = click.argument("bundle", metavar="BUNDLE", type=FilePath())
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
bundle_output = click.option(
    "-o", "--output", required=True, metavar="BUNDLE", type=FilePath(), help="The folder to write."
)


def _precisions(context: click.Context, option: click.Parameter, values: tuple[str, ...]) -> dict[str | None, str]:
    """Return the kind of each group that is named, and that of every other one under None."""
    found: dict[str | None, str] = {}
    for value in values:
        name, named, kind = value.rpartition("=")
        group = name if named else None
        if group in found:
            raise click.BadParameter(f"{group or 'every group'} is given two precisions; leave one out")
        found[group] = _KINDS.convert(kind, option, context)
    return found


def export_options(command: _Command) -> _Command:
    """Add what ``export`` and ``quantize`` share: precisions, waiver, overwriting, JSON."""
    added = [
        click.option(
            "--precision",
            multiple=True,
            metavar="[GROUP=]KIND",
            callback=_precisions,
            help="Precision of every group of weights, or of one: float32, int8 or int4. Repeatable.",
        ),
        *(click.option(f"--{name}", type=_KINDS, help=text) for name, text in GROUPS.items()),
        click.option(
            "--accept-loss", metavar="REASON", help="Publish in spite of the quality gate; kept in the manifest."
        ),
        click.option(
            "--overwrite",
            is_flag=True,
            help="Replace a bundle that is there; a folder with other files in it is refused.",
        ),
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
    groups: dict[Any, Any] = {name: asked[name] for name in GROUPS if asked[name]}
    rest = {name: value for name, value in asked.items() if name not in GROUPS}
    by_group = rest.pop("precision")
    every = by_group.pop(None, None)
    if twice := sorted(groups.keys() & by_group.keys()):
        raise UsageError(f"--{twice[0]} {groups[twice[0]]}: --precision names {twice[0]} as well; leave one out")
    return ExportOptions(**rest, precision=every, groups=groups | by_group, progress=progress)


def trust_options(command: _Command) -> _Command:
    """Add whose signature a bundle needs; see ``trusted``."""
    added = [
        click.option(
            "--trust",
            multiple=True,
            metavar="KEY",
            type=FilePath(),
            help="Take the bundle only if this public key signed it: a file, or a folder of *.pub. Repeatable.",
        ),
        click.option(
            "--require-signature",
            is_flag=True,
            help="Without --trust: by a key in /etc/edgekit/trust or $XDG_CONFIG_HOME/edgekit/trust.",
        ),
    ]
    for option in reversed(added):
        command = option(command)
    return command


def trusted(asked: dict[str, Any]) -> "Trust | None":
    """Take the values of ``trust_options`` out of a command's options; return the keys that must have signed."""
    from edgekit.bundle.trust import read_trust

    named, required = asked.pop("trust"), asked.pop("require_signature")
    return read_trust(named or None, required)


def backend_options(command: _Command) -> _Command:
    """Add what every command shares that runs a bundle: on what, and whose bundle; see ``loading``."""
    added = [
        click.option("--backend", metavar="NAME", help="What runs it; else what its dialect is made for."),
        click.option("--allow-fallback", is_flag=True, help="Run on the CPU where that cannot; every report says so."),
        click.option("--context-tokens", type=int, metavar="N", help="Length of the KV cache; the bundle's if absent."),
        click.option(
            "--plans",
            metavar="FOLDER",
            type=FilePath(),
            help="Where `build -o` put TensorRT's plans; BUNDLE.plans beside the bundle if absent.",
        ),
        trust_options,
    ]
    for option in reversed(added):
        command = option(command)
    return command


def loading(asked: dict[str, Any]) -> dict[str, Any]:
    """Take the values of ``backend_options`` out of a command's options; return them as ``edgekit.load`` has them."""
    return {name: asked.pop(name) for name in _LOADING} | {"trust": trusted(asked)}


class _Ran(Protocol):
    """What was run on a backend."""

    @property
    def backend(self) -> str: ...

    @property
    def fallback(self) -> str: ...


def warn_fallback(ran: _Ran) -> None:
    """Say on stderr that another backend runs than was asked for, if so."""
    if ran.fallback:
        click.echo(f"edgekit: fell back to {ran.backend} ({ran.fallback})", err=True)


def _think(_context: click.Context, _option: click.Parameter, value: str | None) -> bool | int | None:
    if value is None or value in {"on", "off"}:
        return None if value is None else value == "on"
    if value.isdecimal() and int(value) > 0:
        return int(value)
    raise click.BadParameter(f"'{value}' is neither on nor off nor a number of tokens from 1")


def _turns(_context: click.Context, _option: click.Parameter, value: str | None) -> int | str | None:
    if value is None or value == "all":
        return value
    if value.isdecimal():
        return int(value)
    raise click.BadParameter(f"'{value}' is neither a number of turns nor all")


def _partials(context: click.Context, _option: click.Parameter, value: str | None) -> str | bool | None:
    kept: str | bool | None = context.params.get("partials")
    return kept if value is None else False if value == "off" else value


def _no_partials(context: click.Context, _option: click.Parameter, value: bool) -> None:
    if value:
        context.params["partials"] = False


def partials_option(default: str) -> Callable[[_Command], _Command]:
    """Return the option of partial text, by name and as a flag; ``default``: where it is written if nobody says."""

    def add(command: _Command) -> _Command:
        command = click.option(
            "--no-partials", is_flag=True, expose_value=False, callback=_no_partials, help="As --partials off."
        )(command)
        return click.option(
            "--partials",
            is_flag=False,
            flag_value="agreed",
            type=click.Choice(["agreed", "committed", "off"]),
            metavar="KIND",
            callback=_partials,
            help="Write partial text while it is spoken, revised as more is heard, but for words that stand: agreed "
            "(as without KIND), the final text very probably has them; committed, it is bound to; off, none. By "
            f"default {default}.",
        )(command)

    return add


def stream_options(command: _Command) -> _Command:
    """Add what ``run`` and ``listen`` share: how a stream listens and answers; see ``stream_settings``."""
    shown = click.option(
        "--json", "as_json", is_flag=True, help="Print each event as a line of JSON, text as it comes."
    )
    return answering_options(shown(command))


def answering_options(command: _Command) -> _Command:
    """Add how streams listen and answer, and on what."""
    added = [
        click.option(
            "--gate",
            type=click.Choice(["speech", "sound", "off"]),
            help="What counts; if absent: the bundle's, or sound with a --prompt of your own.",
        ),
        click.option(
            "--level", metavar="NAME", help="Pin a compute level of the bundle; else chosen by how late it is."
        ),
        click.option(
            "--language", metavar="CODE", help="Spoken language, or auto. Default: the checkpoint's, else auto."
        ),
        click.option(
            "--times",
            type=click.Choice(["segments", "words"]),
            help="When segments or words were said, in --json or a --format that has times.",
        ),
        click.option("--task", metavar="NAME", help="What to do with speech, such as transcribe or translate."),
        click.option("--system", metavar="TEXT", help="System text, for models that take one."),
        click.option("--prompt", metavar="TEXT", help="What to ask about the sound, or a question's name."),
        click.option(
            "--turns",
            metavar="N|all",
            callback=_turns,
            help="Earlier turns that an answer remembers at most; none if absent.",
        ),
        click.option(
            "--think",
            metavar="on|off|N",
            callback=_think,
            help="Think before answering; a number: at most so many tokens.",
        ),
        click.option("--max-tokens", type=click.IntRange(min=1), metavar="N", help="Longest answer."),
        click.option(
            "--tools",
            metavar="FILE",
            type=FilePath(),
            help="Schemas of the tools that it may call, as its text has them.",
        ),
        click.option("--voice", metavar="NAME", help="Who speaks, of the bundle's voices; with --speak."),
        click.option(
            "--temperature", type=click.FloatRange(min=0), metavar="X", help="Draw tokens; 0 takes the likeliest."
        ),
        click.option("--top-k", type=click.IntRange(min=1), metavar="N", help="Draw from the N likeliest only."),
        click.option(
            "--top-p", type=click.FloatRange(0, 1, min_open=True), metavar="X", help="Draw from this share only."
        ),
        click.option(
            "--repetition-penalty",
            type=click.FloatRange(min=0, min_open=True),
            metavar="X",
            help="Above 1: what was said comes less often again.",
        ),
        click.option("--seed", type=click.IntRange(min=0), metavar="N", help="Of the draws: the same again."),
        click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Threads; else one per core."),
        backend_options,
    ]
    for option in reversed(added):
        command = option(command)
    return command


def stream_settings(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of StreamOptions for the values of ``stream_options``, only those that were given.

    What else a command adds is handed on by its name. Raises UsageError for options that would do nothing.
    """
    settings = {name: value for name, value in asked.items() if name not in _SAMPLING and value is not None}
    if "tools" in settings:
        settings["tools"] = _read_text(settings["tools"])
    if (sampling := _sampling(asked)) is not None:
        settings["sampling"] = sampling
    return settings


def _sampling(asked: Mapping[str, Any]) -> dict[str, Any] | None:
    given = {name: asked[name] for name in _SAMPLING if asked.get(name) is not None}
    if not given:
        return None
    for name, value in given.items():
        if not math.isfinite(value):
            raise UsageError(f"--{name.replace('_', '-')}: {value}, a finite number is needed; choose one")
    return given


def _read_text(path: Path) -> str:
    try:
        return read_plain(path, _LONGEST_TEXT).decode("utf-8")
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; give a text file") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: no UTF-8 text at byte {error.start}; save it as UTF-8") from error
