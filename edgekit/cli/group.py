"""The ``edgekit`` group: it lists its commands without loading them."""

import importlib
from dataclasses import dataclass
from typing import Any

import click

from edgekit import __version__

# In the order of use. The text is what each command's own help begins with; a test compares them.
COMMANDS = {
    "demo": ("edgekit.cli.demo", "Show the whole way once, from a checkpoint to a report."),
    "export": ("edgekit.cli.export", "Write a bundle for a checkpoint."),
    "quantize": ("edgekit.cli.quantize", "Write a quantised bundle from a float32 one."),
    "build": ("edgekit.cli.build", "Build the plans that TensorRT runs of a bundle."),
    "verify": (
        "edgekit.cli.verify",
        "Check that a bundle is the one that was judged, and still gives what it gave when it was made.",
    ),
    "keygen": ("edgekit.cli.keygen", "Make a pair of keys that bundles are signed and checked with."),
    "sign": ("edgekit.cli.sign", "Sign a bundle, so that a device can tell whose it is."),
    "run": ("edgekit.cli.run", "Print what a bundle hears in audio files."),
    "listen": ("edgekit.cli.listen", "Print what a bundle hears from the microphone."),
    "serve": ("edgekit.cli.serve", "Serve a bundle to other programs: HTTP, websockets, Wyoming."),
    "devices": ("edgekit.cli.devices", "List microphones and speakers, by the names that listen takes."),
    "profile": ("edgekit.cli.profile_command", "Measure a bundle on this device."),
    "report": ("edgekit.cli.report", "Render profiles for a reader."),
    "doctor": ("edgekit.cli.doctor", "Say what this device has, what is missing, and what to type."),
}


@dataclass
class Invocation:
    """What holds for every command."""

    debug: bool = False


class LazyGroup(click.Group):
    """A group that imports a command's module when that command is named."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of use."""
        return [*COMMANDS, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command, loading its module."""
        if cmd_name not in COMMANDS:
            return super().get_command(ctx, cmd_name)
        module, _ = COMMANDS[cmd_name]
        command: Any = getattr(importlib.import_module(module), cmd_name)
        assert isinstance(command, click.Command), cmd_name
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that ``args`` begin with; an unknown one is answered with the nearest."""
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            import difflib

            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"choose one of: {', '.join(COMMANDS)}"
            raise click.UsageError(f"no command '{args[0]}'; {hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write names and first lines from the table, so that ``edgekit --help`` loads no command."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


_FIRST = """\b
A first look:      edgekit demo
A bundle:          edgekit export CHECKPOINT -o BUNDLE --precision int8
Text from a file:  edgekit run BUNDLE talk.wav
"""


@click.group(
    cls=LazyGroup,
    epilog=_FIRST,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(__version__, message="edgekit %(version)s", help="Print the version.")
@click.pass_obj
def edgekit(invocation: Invocation, debug: bool) -> None:
    """Deploy audio LLMs on one edge device."""
    invocation.debug = debug
