"""What is typed becomes the fields of StreamOptions: those that were given, and no other."""

import os

import click
import pytest

from edgekit import recipe
from edgekit.cli.options import GROUPS, loading, stream_options, stream_settings
from edgekit.errors import UsageError


@pytest.fixture
def settings():
    """Return a function that reads arguments as ``run`` and ``listen`` do and returns the settings."""

    @click.command
    @stream_options
    def command(threads, as_json, **options):
        loading(options)
        return stream_settings(options)

    return lambda *arguments: command.main(map(str, arguments), standalone_mode=False)


def test_nothing_typed_is_nothing_set(settings):
    assert settings() == {}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--voice", "ethan"), {"voice": "ethan"}),
        (("--seed", 0), {"seed": 0}),
        (("--max-tokens", 7), {"max_tokens": 7}),
        (("--prompt", "is glass breaking?"), {"prompt": "is glass breaking?"}),
        (("--system", ""), {"system": ""}),
        (("--turns", 0), {"turns": 0}),
        (("--turns", 3), {"turns": 3}),
        (("--turns", "all"), {"turns": "all"}),
        (("--think", "off"), {"think": False}),
        (("--think", 64), {"think": 64}),
        (("--temperature", 0), {"sampling": {"temperature": 0}}),
        (
            ("--temperature", 0.7, "--top-k", 50, "--top-p", 0.9, "--repetition-penalty", 1.05),
            {"sampling": {"temperature": 0.7, "top_k": 50, "top_p": 0.9, "repetition_penalty": 1.05}},
        ),
        (("--temperature", 1, "--top-p", 1), {"sampling": {"temperature": 1, "top_p": 1}}),
    ],
)
def test_what_is_typed_is_set_and_nothing_beside_it(settings, arguments, expected):
    assert settings(*arguments) == expected


def test_on_is_no_number(settings):
    assert settings("--think", "on")["think"] is True
    assert settings("--think", 1)["think"] is not True


def test_tools_are_the_text_of_their_file(settings, tmp_path):
    (tmp_path / "tools.json").write_text('[{"name": "lamp"}]\n')
    assert settings("--tools", tmp_path / "tools.json") == {"tools": '[{"name": "lamp"}]\n'}
    (tmp_path / "tools.json").write_bytes(b"ab\xff")
    with pytest.raises(UsageError, match="tools.json: no UTF-8 text at byte 2"):
        settings("--tools", tmp_path / "tools.json")
    with (tmp_path / "tools.json").open("wb") as file:
        file.truncate((1 << 20) + 1)
    with pytest.raises(UsageError, match="tools.json: Has 1,048,577 bytes, at most 1,048,576 are read; give a text"):
        settings("--tools", tmp_path / "tools.json")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="pipe: Is a FIFO, must be a regular file; give a text file"):
        settings("--tools", tmp_path / "pipe")
    with pytest.raises(UsageError, match="none.json: No such file or directory; give a text file"):
        settings("--tools", tmp_path / "none.json")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--think", "maybe"), ("--think", "0"), ("--think", "-1"), ("--turns", "-1"), ("--turns", "some"),
        ("--seed", "-1"), ("--max-tokens", "0"), ("--temperature", "-0.1"), ("--top-k", "0"), ("--top-p", "0"),
        ("--top-p", "1.01"), ("--repetition-penalty", "0"),
    ],
)  # fmt: skip
def test_a_value_out_of_range_is_refused(settings, option, value):
    with pytest.raises(click.BadParameter):
        settings(option, value)


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_temperature_that_is_no_number_is_refused(settings, value):
    with pytest.raises(UsageError, match=f"--temperature: {value}, a finite number is needed"):
        settings("--temperature", value)


def test_every_group_that_any_recipe_may_name_has_a_flag():
    assert tuple(GROUPS) == recipe.GROUPS
