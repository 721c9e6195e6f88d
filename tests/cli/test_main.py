"""The command line as a whole: light, one line per error, the promised exit codes, help that matches the docs."""

import importlib
import signal
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest

import edgekit
from edgekit.cli import group, main
from edgekit.cli.docs import cli_markdown
from edgekit.errors import EdgeKitError, UsageError

ROOT = Path(__file__).resolve().parents[2]
REPORT = "run again as `edgekit --debug ...` and report it\n"


def test_help_loads_no_command_and_nothing_heavy():
    program = (
        "import sys; from edgekit.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(done.stderr.split())
    assert "Commands:" in done.stdout
    assert not loaded & {"numpy", "msgspec", "rich", "onnxruntime", "soundfile", "onnx", "torch"}
    ours = {name for name in loaded if name.startswith("edgekit.cli.")}
    assert ours == {"edgekit.cli.group", "edgekit.cli.output"}


@pytest.mark.parametrize("name", group.COMMANDS)
def test_the_table_of_commands_says_what_each_command_says(name):
    module, text = group.COMMANDS[name]
    command = getattr(importlib.import_module(module), name)
    assert command.name == name
    assert command.help.split("\n")[0] == text


@pytest.mark.parametrize("name", group.COMMANDS)
def test_every_command_shows_an_example_of_itself(name):
    module, _ = group.COMMANDS[name]
    command = getattr(importlib.import_module(module), name)
    assert f"edgekit {name}" in command.epilog


def test_the_page_about_the_command_line_is_up_to_date():
    page = (ROOT / "docs/cli.md").read_text(encoding="utf-8")
    assert page == cli_markdown(), "run `python -m edgekit.cli.docs > docs/cli.md`"


def test_version_is_the_package_s(cli):
    assert cli("--version") == (0, f"edgekit {edgekit.__version__}\n", "")


def test_an_unknown_command_is_answered_with_the_nearest(cli):
    assert cli("exprot") == (2, "", "edgekit: no command 'exprot'; did you mean 'export'?; see `edgekit --help`\n")
    code, _, err = cli("zzz")
    assert code == 2
    assert "choose one of: demo, export," in err


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("run",), "edgekit run: Missing argument 'BUNDLE'; see `edgekit run --help`\n"),
        (("run", "b", "f", "--threads", "0"), "edgekit run: Invalid value for '--threads': 0 is not in the range x>=1"),
        (("export", "c", "-o", "b", "--encoder", "int2"), "edgekit export: Invalid value for '--encoder': 'int2'"),
        (("export", "c", "-o", "b", "--precision", "int2"), "edgekit export: Invalid value for '--precision': 'int2'"),
        (
            ("export", "c", "-o", "b", "--precision", "head=int2"),
            "edgekit export: Invalid value for '--precision': 'int2' is not one of",
        ),
        (
            ("export", "c", "-o", "b", "--precision", "head=int8", "--precision", "head=int4"),
            "edgekit export: Invalid value for '--precision': head is given two precisions; leave one out",
        ),
    ],
)
def test_wrong_usage_is_one_line_and_exits_2(cli, arguments, line):
    code, out, err = cli(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith(line)
    assert err.count("\n") == 1


def test_an_unknown_option_is_named_in_one_line(cli):
    code, out, err = cli("verify", "b", "--jsn")
    assert (code, out) == (2, "")
    assert err.startswith("edgekit verify: No such option")  # click 8.2 has a colon behind it, 8.3 quotes the name
    assert "--jsn" in err
    assert err.count("\n") == 1


def test_no_command_at_all_shows_the_help(cli):
    code, _, err = cli()
    assert code == 2
    assert "Commands:" in err


@pytest.fixture
def failing(monkeypatch):
    """Put a command called `fail` beside the others that raises what it is given."""

    def make(error):
        @click.command("fail")
        def fail():
            raise error

        monkeypatch.setitem(group.edgekit.commands, "fail", fail)
        monkeypatch.setitem(group.COMMANDS, "fail", ("tests.none", ""))
        monkeypatch.setattr(group.LazyGroup, "get_command", lambda *_: fail)

    return make


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (EdgeKitError("a: b;\n  c"), 1, "edgekit: a: b; c\n"),
        (UsageError("a: b; c"), 2, "edgekit: a: b; c\n"),
        (ZeroDivisionError("x"), 70, f"edgekit: bug: ZeroDivisionError: x; {REPORT}"),
        (EOFError("x"), 70, f"edgekit: bug: EOFError: x; {REPORT}"),
        (MemoryError(), 1, "edgekit: out of memory; use a smaller bundle, or close what else runs here\n"),
        (KeyboardInterrupt(), 130, ""),
        (
            PermissionError(13, "Permission denied", "b/manifest.json"),
            1,
            "edgekit: b/manifest.json: Permission denied; check the path, its permissions and the disk\n",
        ),
        (OSError(5, "Input/output error"), 70, f"edgekit: bug: OSError: [Errno 5] Input/output error; {REPORT}"),
        (
            ModuleNotFoundError("No module named 'onnx.helper'", name="onnx.helper"),
            1,
            "edgekit: onnx is not installed, exporting needs it; pip install 'edgekit-audio[export]'\n",
        ),
        (
            ModuleNotFoundError("No module named 'nothing'", name="nothing"),
            70,
            f"edgekit: bug: ModuleNotFoundError: No module named 'nothing'; {REPORT}",
        ),
    ],
)  # fmt: skip
def test_an_error_is_one_line_with_its_exit_code(cli, failing, error, code, line):
    failing(error)
    found, out, err = cli("fail")
    assert (found, out) == (code, "")
    assert err.removeprefix("\n") == line  # click ends the line of a terminal's ^C


@pytest.mark.parametrize("error", [EdgeKitError("a: b; c"), ZeroDivisionError("x")])
def test_debug_lets_the_traceback_through(failing, error):
    failing(error)
    with pytest.raises(type(error)):
        main(["--debug", "fail"])


def test_a_reader_that_goes_away_is_not_an_error_worth_a_word(program, bundle, wav):
    files = [wav(f"{index}.wav") for index in range(3)]
    process = program("run", bundle, *files, "--json")
    process.stdout.close()
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (1, "")


def test_an_interrupt_in_the_middle_exits_130_without_a_traceback(program, bundle, wav):
    path = wav("long.wav", np.zeros(16_000 * 60))
    process = program("run", bundle, path, "--realtime", "--json")
    assert process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
