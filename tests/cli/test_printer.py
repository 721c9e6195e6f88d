"""The printer: a revised text replaces the one before on a terminal, and stays out of a pipe."""

import json
import re
import sys

import pytest

from edgekit.cli.printer import Printer
from edgekit.runtime.events import Text

DIM, RESET, CLEAR = "\x1b[2m", "\x1b[0m", "\r\x1b[2K"


def a_draft(text, stable=0):
    return Text(text, False, 0.0, 1.0, stable=stable)


@pytest.fixture
def terminal(monkeypatch):
    """Return a function that makes stderr look like a terminal of 20 columns and returns a Printer for it."""

    def make():
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", "20")
        return Printer()

    return make


def test_a_terminal_shows_each_draft_in_the_place_of_the_last_and_dims_what_may_change(terminal, capsys):
    printer = terminal()
    for text, stable in (("hello word", 0), ("hello world", 9), ("hello world.", 12)):
        printer.text(a_draft(text, stable))
    printer.text(Text("Hello, world.", True, 0.0, 1.0, (1,), 13))
    out, err = capsys.readouterr()
    assert err == (f"{CLEAR}{DIM}hello word{RESET}{CLEAR}hello wor{DIM}ld{RESET}{CLEAR}hello world.{CLEAR}")
    assert out == "Hello, world.\n"


def test_of_a_long_draft_a_terminal_shows_the_end_and_the_same_part_of_it_is_dim(terminal, capsys):
    printer = terminal()
    printer.text(a_draft("0123456789  abcdefghij klm", 24))
    printer.text(a_draft("0123456789  abcdefghij klm", 3))
    _, err = capsys.readouterr()
    first, second = err.split(CLEAR)[1:]
    assert first == f"6789 abcdefghij k{DIM}lm{RESET}"
    assert second == f"{DIM}6789 abcdefghij klm{RESET}"


def test_a_revision_to_nothing_leaves_an_empty_line(terminal, capsys):
    printer = terminal()
    printer.text(a_draft("hello"))
    printer.text(a_draft(""))
    assert capsys.readouterr().err.endswith(CLEAR)


def test_a_pipe_gets_final_texts_only_and_json_lines_every_one(capsys):
    for as_json in (False, True):
        printer = Printer(as_json=as_json)
        printer.text(a_draft("hello", 2))
        printer.text(Text("Hello.", True, 0.0, 1.0, (1,), 6))
        out, err = capsys.readouterr()
        assert err == ""
        if as_json:
            assert [(line["text"], line["stable"]) for line in map(json.loads, out.splitlines())] == [
                ("hello", 2), ("Hello.", 6),
            ]  # fmt: skip
        else:
            assert re.fullmatch("Hello.\n", out)
