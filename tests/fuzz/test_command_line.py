"""Wild values of the command line's options end with an exit code and one line, never with a bug."""

import os

import click
import soundfile

from edgekit.cli import BUG, _report
from edgekit.cli.group import Invocation, edgekit
from edgekit.errors import EdgeKitError, UsageError
from tests.fuzz.cases import WILD
from tests.fuzz.test_profiles import SIMULATED
from tests.runtime.streams import RATE, sound_of

# What a shell can hand over: no NUL, and bytes that are no UTF-8 as Python reads them.
PLAIN = tuple(str(one) for one in WILD if isinstance(one, (str, int, float)))
WORDS = tuple(word for word in PLAIN if not {"\0", "\ud800"} & set(word))
WORDS += (
    "\udcff", "--", "-", "-o", "--json", "int8", "encoder=int4", "=", "a=b=c", "NaN", "1e999", "0x10", "\u0663",
    "@file", "%s", "{}", "*",
)  # fmt: skip
USUAL = {
    "run": (
        ("--threads", "1"), ("--level", "light"), ("--max-tokens", "3"), ("--temperature", "0.5", "--seed", "7"),
        ("--format", "json"), ("--output-dir", "out"), ("--gate", "off"), ("--backend", "ort-cpu"), ("--help",),
    ),
    "report": (("-o", "report.md"), ("-f", "markdown"), ("--help",)),
    "verify": (("--backend", "ort-cpu"), ("--context-tokens", "40"), ("--help",)),
}  # fmt: skip
OPTIONS = {
    "run": (
        "--threads", "--level", "--language", "--task", "--times", "--context-tokens", "--max-tokens", "--temperature",
        "--top-k", "--top-p", "--seed", "--turns", "--format", "--output-dir", "--gate", "--backend", "--plans",
    ),
    "report": ("-o", "-f"),
    "verify": ("--backend", "--plans", "--context-tokens"),
}  # fmt: skip


def _options(case, name):
    """Return options of a command and their words: usual ones, or wild ones."""
    if case.mild:
        return [word for _, _, how in case.edits for word in USUAL[name][how % len(USUAL[name])]]
    words = []
    for kind, place, how in case.edits:
        word = WORDS[how % len(WORDS)]
        words += [OPTIONS[name][place % len(OPTIONS[name])], word] if kind % 4 else [word]
    return words


def test_wild_words_of_a_command_end_it_in_one_line(fuzz, tiny_bundle, tmp_path):
    folder = tiny_bundle().folder
    commands = sorted(OPTIONS)  # verify is the last: the bundle has nothing to be verified by

    (tmp_path / "here").mkdir()
    profile = tmp_path / "a.json"
    profile.write_bytes(SIMULATED.read_bytes())
    sound = tmp_path / "a.wav"
    soundfile.write(sound, sound_of(1600), RATE)

    def attempt(case):
        os.chdir(tmp_path / "here")  # what is written lands there
        name = case.chosen(commands)
        words = [name, str(profile if name == "report" else folder)]
        words += _options(case, name)
        if name == "run":
            words.append(str(sound if case.mild else tmp_path / "no.wav"))
        if any(word in {"-", "/dev/stdin"} for word in words):
            return
        try:
            edgekit.main(words, prog_name="edgekit", obj=Invocation(), standalone_mode=False)
        except EdgeKitError:
            raise
        except (click.ClickException, click.exceptions.Exit, SystemExit) as error:
            if 0 in {getattr(error, "code", 1), getattr(error, "exit_code", 1)}:
                return
            raise UsageError("refused by click") from error
        except (Exception, KeyboardInterrupt) as error:
            if _report(error) == BUG:
                raise
            raise UsageError("told in one line") from error

    fuzz("command line", attempt, whole=2, slow=True, memory=2 << 30)
