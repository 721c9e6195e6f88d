"""The printer: a revised text replaces the one before on a terminal, and stays out of a pipe."""

import json
import re
import sys

import numpy as np
import pytest

from edgekit.cli.printer import Printer
from edgekit.runtime.events import Audio, Forgot, Provisional, Text, Thought, Withdrawn

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
        printer.event(a_draft(text, stable))
    printer.event(Text("Hello, world.", True, 0.0, 1.0, (1,), 13))
    out, err = capsys.readouterr()
    assert err == (f"{CLEAR}{DIM}hello word{RESET}{CLEAR}hello wor{DIM}ld{RESET}{CLEAR}hello world.{CLEAR}")
    assert out == "Hello, world.\n"


def test_of_a_long_draft_a_terminal_shows_the_end_and_the_same_part_of_it_is_dim(terminal, capsys):
    printer = terminal()
    printer.event(a_draft("0123456789  abcdefghij klm", 24))
    printer.event(a_draft("0123456789  abcdefghij klm", 3))
    _, err = capsys.readouterr()
    first, second = err.split(CLEAR)[1:]
    assert first == f"6789 abcdefghij k{DIM}lm{RESET}"
    assert second == f"{DIM}6789 abcdefghij klm{RESET}"


def test_a_revision_to_nothing_leaves_an_empty_line(terminal, capsys):
    printer = terminal()
    printer.event(a_draft("hello"))
    printer.event(a_draft(""))
    assert capsys.readouterr().err.endswith(CLEAR)


def test_a_pipe_gets_final_texts_only_and_json_lines_every_one(capsys):
    for as_json in (False, True):
        printer = Printer(as_json=as_json)
        printer.event(a_draft("hello", 2))
        printer.event(Text("Hello.", True, 0.0, 1.0, (1,), 6))
        out, err = capsys.readouterr()
        assert err == ""
        if as_json:
            assert [(line["text"], line["stable"]) for line in map(json.loads, out.splitlines())] == [
                ("hello", 2), ("Hello.", 6),
            ]  # fmt: skip
        else:
            assert re.fullmatch("Hello.\n", out)


def test_a_terminal_shows_a_provisional_text_as_what_stays_and_dims_it_where_it_is_withdrawn(terminal, capsys):
    printer = terminal()
    printer.event(a_draft("I am do", 4))
    printer.event(Provisional("I am done.", 1, 1.0, 1.2, 0.0))
    printer.event(Withdrawn(1, 1.3))
    printer.event(Provisional("I am done now.", 1, 2.0, 2.2, 0.0))
    printer.event(Text("I am done now.", True, 0.0, 2.0, (1,), 14))
    out, err = capsys.readouterr()
    shown = err.split(CLEAR)[1:]
    assert shown == [f"I am{DIM} do{RESET}", "I am done.", f"{DIM}I am done.{RESET}", "I am done now.", ""]
    assert out == "I am done now.\n"


def test_a_pipe_gets_no_provisional_text_and_json_lines_get_it_with_its_withdrawal(capsys):
    events = Provisional("Done.", 1, 1.0, 1.2, 0.0, (7,), "en", 0.5), Withdrawn(1, 1.3)
    for as_json in (False, True):
        printer = Printer(as_json=as_json)
        for event in events:
            printer.event(event)
        out, err = capsys.readouterr()
        assert err == ""
        assert list(map(json.loads, out.splitlines())) == as_json * [
            {
                "event": "provisional", "text": "Done.", "answer": 1, "at_s": 1.0, "decided_at_s": 1.2, "start_s": 0.0,
                "tokens": [7], "language": "en", "language_probability": 0.5,
            },
            {"event": "withdrawn", "answer": 1, "at_s": 1.3},
        ]  # fmt: skip


def test_a_terminal_shows_a_thought_dim_and_apart_from_the_text(terminal, capsys):
    printer = terminal()
    printer.event(Thought("a bell", False, 0.0, 1.0))
    printer.event(Thought("a bell, or a glass", True, 0.0, 1.0))
    printer.event(Text("Glass.", True, 0.0, 1.0, (1,), 6))
    out, err = capsys.readouterr()
    assert err == f"{CLEAR}{DIM}a bell{RESET}{CLEAR}{DIM}a bell, or a glass{RESET}\n"
    assert out == "Glass.\n"


def test_a_pipe_gets_no_thought(capsys):
    printer = Printer()
    for final in (False, True):
        printer.event(Thought("a bell", final, 0.0, 1.0))
    assert capsys.readouterr() == ("", "")


def test_a_program_gets_thoughts_and_how_much_was_spoken_but_no_samples(capsys):
    printer = Printer("a.wav", as_json=True, marks={"dummy": True})
    printer.event(Thought("a bell", True, 0.0, 1.0))
    for samples in (0, 1920):
        printer.event(Audio(np.zeros(samples, np.float32), 24_000))
    about = {"dummy": True, "file": "a.wav"}
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [
        {"event": "thought"} | about | {"text": "a bell", "final": True, "start_s": 0.0, "end_s": 1.0, "answer": 0},
        {"event": "audio"} | about | {"samples": 0, "seconds": 0.0, "sample_rate_hz": 24_000, "answer": 0},
        {"event": "audio"} | about | {"samples": 1920, "seconds": 0.08, "sample_rate_hz": 24_000, "answer": 0},
    ]


def test_a_reader_is_told_what_was_forgotten_and_not_of_speech(capsys):
    printer = Printer()
    printer.event(Forgot(2, 61.25))
    printer.event(Audio(np.zeros(10, np.float32), 24_000))
    assert capsys.readouterr() == ("", "edgekit: the oldest 2 turns forgotten at 61.25 s: the context is full\n")
