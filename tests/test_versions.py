"""Versions are compared by their numbers, wherever one comes from."""

import numpy as np
import pytest

from edgekit.versions import begins, installed, numbers, older


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.3.0rc1", (10, 3, 0)),
        ("1.32.0.dev2026", (1, 32, 0)),
        ("1.7.1.116", (1, 7, 1, 116)),
        ("13", (13,)),
        ("1.31.", (1, 31)),
        ("", ()),
        ("v1", ()),
    ],
)
def test_a_version_is_its_leading_numbers(text, expected):
    assert numbers(text) == expected


@pytest.mark.parametrize(
    ("here", "there"), [("1.9", "1.10"), ("1.30.2", "1.31"), ("9", "10.0.1"), ("", "0.1"), ("570.86.15", "580")]
)
def test_an_older_version_is_older_and_not_the_other_way_round(here, there):
    assert older(here, there)
    assert not older(there, here)


@pytest.mark.parametrize(("here", "there"), [("1.31", "1.31.0"), ("10.3.0", "10.3"), ("580.65", "580.65.0"), ("", "")])
def test_versions_that_differ_in_zeros_alone_are_equal(here, there):
    assert not older(here, there)
    assert not older(there, here)


def test_a_release_begins_with_whole_numbers():
    assert [begins("36.4.3", text) for text in ("36.4", "36", "36.4.3", "36.40", "36.4.3.1", "4", "")] == [
        True, True, True, False, False, False, False,
    ]  # fmt: skip
    assert not begins("36.40.1", "36.4")


def test_a_package_is_there_with_its_version_or_not_at_all():
    assert installed("numpy") == np.__version__
    assert installed("no-such-distribution-anywhere") is None
