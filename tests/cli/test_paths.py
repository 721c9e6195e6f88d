"""An empty path is what the shell makes of an unset variable, and no command takes it for the current folder."""

import click
import pytest

from edgekit.cli.group import COMMANDS, edgekit
from edgekit.cli.paths import FilePath, NameOrPath


def paths():
    """Return each command with each of its arguments and options that is a path or may be one."""
    with click.Context(edgekit) as context:
        commands = [edgekit.get_command(context, name) for name in COMMANDS]
    return [(one, each) for one in commands for each in one.params if isinstance(each.type, (FilePath, NameOrPath))]


def test_the_paths_of_a_command_are_these():
    named = {(command.name, parameter.name) for command, parameter in paths()}
    assert {
        ("run", "bundle"), ("run", "files"), ("run", "trust"), ("run", "plans"), ("run", "tools"), ("sign", "key"),
        ("listen", "simulate"), ("export", "checkpoint"), ("export", "output"), ("export", "recipe"),
        ("verify", "reference"), ("build", "target"), ("quantize", "bundle"), ("keygen", "output"),
        ("profile", "output"), ("report", "profiles"),
    } <= named  # fmt: skip


@pytest.mark.parametrize(
    ("command", "parameter"), paths(), ids=[f"{command.name} {parameter.name}" for command, parameter in paths()]
)
def test_an_empty_path_is_wrong_usage(cli, command, parameter):
    words = [command.name]
    for other in command.params:  # what else it needs
        value = "" if other is parameter else "1"
        if other is parameter or other.required:
            words += [value] if isinstance(other, click.Argument) else [max(other.opts, key=len), value]
        elif isinstance(other, click.Argument) and other.nargs == 1:
            words.append(value)
    code, out, err = cli(*words)
    assert (code, out) == (2, "")
    assert "is empty, a" in err
    assert err.endswith(f"path is needed; is a variable unset?; see `edgekit {command.name} --help`\n")
    assert err.count("\n") == 1


def test_a_point_is_the_current_folder(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = cli("verify", ".")
    assert code == 1
    assert "manifest.json" in err
