"""The fixture itself: a target that shows nothing fails, and a fault is printed with the command that runs it alone."""

import re

import pytest

from edgekit.errors import UsageError
from tests.fuzz.cases import MILD, Case, read_case


@pytest.fixture
def target(request, monkeypatch):
    """Return the fixture by its name, so that these tests are no targets and take no share of the time."""
    for name in ("FUZZ_CASE", "FUZZ_SECONDS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FUZZ_CASES", "20")
    for name in ("ROWS", "ALONE"):
        monkeypatch.setattr(f"tests.fuzz.conftest.{name}", [])
    return request.getfixturevalue("fuzz")


def refuse(case):
    raise UsageError("refused whatever it is")


def test_a_target_that_refuses_what_is_whole_fails(target):
    with pytest.raises(
        pytest.fail.Exception, match=r"what is whole is refused\nFUZZ_CASE='\(0, \(\)\)' .*\nrefused wh"
    ):
        target("refuses", refuse)


def test_each_whole_thing_must_be_accepted(target):
    def attempt(case):
        if case.which == 2 or case.edits:
            refuse(case)

    target("two of three", attempt, whole=2)
    with pytest.raises(pytest.fail.Exception, match=r"FUZZ_CASE='\(2, \(\)\)'"):
        target("three of three", attempt, whole=3)


def test_a_target_without_a_case_fails(target, monkeypatch):
    monkeypatch.setenv("FUZZ_SECONDS", "0")
    with pytest.raises(pytest.fail.Exception, match="no case was run"):
        target("no time", lambda case: None)


def test_the_command_of_a_fault_runs_its_case_alone(target, monkeypatch):
    def attempt(case):
        if case.edits and case.edits[0][1] % 2:
            raise ZeroDivisionError

    with pytest.raises(pytest.fail.Exception) as failed:
        target("odd places", attempt)
    command = re.search(
        r"^FUZZ_CASE='(.*)' python -m pytest -m fuzz .*test_fixture.py::test_the", str(failed.value), re.MULTILINE
    )
    assert read_case(command[1]).edits[0][1] % 2
    monkeypatch.setenv("FUZZ_CASE", command[1])
    with pytest.raises(ZeroDivisionError):
        target("odd places", attempt)
    monkeypatch.setenv("FUZZ_CASE", "(0, ((1, 2, 3),))")
    target("even places", attempt)


def test_about_half_of_the_cases_are_one_mild_edit(target):
    def attempt(case):
        if not case.mild:
            refuse(case)
        assert len(case.edits) <= 1

    target("mild", attempt)


def test_a_mild_edit_changes_one_value_and_no_type():
    whole = b'{"a": 3, "b": [1, 2], "c": "word", "d": true, "e": 2.5}'
    for place in range(6):
        for how in range(4):
            tree = Case(0, ((MILD, place, how),)).tree(whole)
            before = Case(0, ()).tree(whole)
            assert tree != before
            assert all(type(tree[name]) is type(before[name]) for name in tree)
