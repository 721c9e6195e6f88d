"""docs/cli.md, generated from the commands' own help: ``python -m edgekit.cli.docs > docs/cli.md``."""

from collections.abc import Iterator

import click

from edgekit.cli.group import COMMANDS, edgekit

_WIDTH = 100
_HEAD = """\
# The command line

Made by `python -m edgekit.cli.docs > docs/cli.md`; a test compares it with the program.

Results go to stdout, progress and errors to stderr, an error as one line. The events that `run` and `listen` print with
`--json` are those of [events.md](events.md).

| exit code | meaning |
| --- | --- |
| 0 | done; for `listen` also: stopped by SIGINT, SIGTERM or SIGHUP |
| 1 | an error that the line on stderr explains; without a line: whoever read stdout has gone, as `head` does |
| 2 | wrong usage |
| 70 | a bug: please report the traceback of `edgekit --debug ...` |
| 75 | for `listen`: the sound system answers no more in this process; a service starts it afresh |
| 128 + N | stopped by signal N: 130 by SIGINT (^C), 143 by SIGTERM, 129 by SIGHUP; nothing half-written is left |

Letters that the terminal's encoding lacks are escaped as in JSON (`\\u0442`), so `--json` is JSON in any. stdout that
is closed or full is an error, for `listen` after the account; what cannot be said on stderr is left out.
"""


def cli_markdown() -> str:
    """Return the page, ending in a newline."""
    return "\n".join([_HEAD, *_sections()])


def _sections() -> Iterator[str]:
    with click.Context(edgekit, info_name="edgekit", terminal_width=_WIDTH, **edgekit.context_settings) as root:
        yield _section("edgekit", edgekit.get_help(root))
        for name in COMMANDS:
            command = edgekit.get_command(root, name)
            assert command is not None, name
            with click.Context(command, info_name=name, parent=root) as context:
                yield _section(f"edgekit {name}", command.get_help(context))


def _section(title: str, text: str) -> str:
    return f"## {title}\n\n```text\n{text}\n```\n"


if __name__ == "__main__":
    click.echo(cli_markdown(), nl=False)
