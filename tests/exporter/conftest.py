"""Checkpoints of random weights, each written once for all tests of a module."""

import pytest

from tests.reference import checkpoints


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Return a function: name of a checkpoint -> its folder."""
    made = {}

    def make(name):
        if name not in made:
            made[name] = checkpoints.write(tmp_path_factory.mktemp(name), name)
        return made[name]

    return make
