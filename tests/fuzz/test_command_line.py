"""Wild values of the command line's options end with an exit code and one line, never with a bug."""

import os

import click

from edgekit.cli import BUG, _report
from edgekit.cli.group import Invocation, edgekit
from edgekit.errors import EdgeKitError, UsageError
from tests.fuzz.cases import WILD

# What a shell can hand over: no NUL, and bytes that are no UTF-8 as Python reads them.
PLAIN = tuple(str(one) for one in WILD if isinstance(one, (str, int, float)))
WORDS = tuple(word for word in PLAIN if not {"\0", "\ud800"} & set(word))
WORDS += (
    "\udcff", "--", "-", "-o", "--json", "int8", "encoder=int4", "=", "a=b=c", "NaN", "1e999", "0x10", "\u0663",
    "@file", "%s", "{}", "*",
)  # fmt: skip
OPTIONS = {
    "run": (
        "--threads", "--level", "--language", "--task", "--times", "--context-tokens", "--max-tokens", "--temperature",
        "--top-k", "--top-p", "--seed", "--turns", "--format", "--output-dir", "--gate", "--backend", "--plans",
    ),
    "report": ("-o", "-f"),
    "verify": ("--backend", "--plans", "--context-tokens"),
}  # fmt: skip


def test_wild_words_of_a_command_end_it_in_one_line(fuzz, tiny_bundle, tmp_path):
    folder = tiny_bundle().folder
    commands = sorted(OPTIONS)

    (tmp_path / "here").mkdir()

    def attempt(case):
        os.chdir(tmp_path / "here")  # what is written lands there
        name = case.chosen(commands)
        words = [name, str(folder)] if name != "report" else [name]
        for kind, place, how in case.edits:
            word = WORDS[how % len(WORDS)]
            words += [OPTIONS[name][place % len(OPTIONS[name])], word] if kind % 4 else [word]
        if name == "run":
            words.append(str(tmp_path / "no.wav"))
        if any(word in {"-", "/dev/stdin"} for word in words):
            return
        try:
            edgekit.main(words, prog_name="edgekit", obj=Invocation(), standalone_mode=False)
        except EdgeKitError:
            raise
        except (click.ClickException, click.exceptions.Exit, SystemExit) as error:
            raise UsageError("refused by click") from error
        except (Exception, KeyboardInterrupt) as error:
            if _report(error) == BUG:
                raise
            raise UsageError("told in one line") from error

    fuzz("command line", attempt, slow=True, memory=2 << 30)
