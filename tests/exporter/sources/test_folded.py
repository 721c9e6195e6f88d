"""Weight norm folded into the weights that it stands for."""

import numpy as np
import pytest

from edgekit.errors import CheckpointError
from edgekit.exporter.sources.folded import FORMS, FoldedTensors
from tests.reference.hift_case import Arrays

DRAWS = np.random.default_rng(4)
LENGTH = DRAWS.uniform(-1, 2, (3, 1, 1)).astype(np.float32)
DIRECTION = DRAWS.uniform(-1, 1, (3, 2, 5)).astype(np.float32)


def folded(arrays):
    return FoldedTensors(Arrays(arrays), "generator.", "hift.")


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form[0])
def test_a_row_has_its_direction_and_its_length(form):
    found = folded({f"generator.a{form[0]}": LENGTH, f"generator.a{form[1]}": DIRECTION})
    assert found.names() == {"hift.a.weight"}
    assert found.shape("hift.a.weight") == (3, 2, 5)
    rows = found.rows("hift.a.weight", 1, 3)
    for row, direction, length in zip(rows, DIRECTION[1:], LENGTH[1:, 0, 0], strict=True):
        np.testing.assert_allclose(np.linalg.norm(row), abs(length), rtol=1e-6)
        np.testing.assert_allclose(row * np.linalg.norm(direction), direction * length, rtol=1e-5)


def test_any_block_of_rows_gives_the_same_numbers():
    found = folded({"a.weight_g": LENGTH, "a.weight_v": DIRECTION})
    parts = [found.rows("hift.a.weight", start, start + 1) for start in range(3)]
    np.testing.assert_array_equal(np.concatenate(parts), found.rows("hift.a.weight", 0, 3))


def test_other_tensors_are_handed_through_under_their_new_name():
    found = folded({"generator.a.bias": LENGTH, "b.generator.weight": DIRECTION})
    assert found.names() == {"hift.a.bias", "hift.b.generator.weight"}
    np.testing.assert_array_equal(found.rows("hift.a.bias", 0, 2), LENGTH[:2])


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form[0])
@pytest.mark.parametrize("half", [0, 1])
def test_half_a_weight_is_refused(form, half):
    with pytest.raises(CheckpointError, match=r"a\..*: a\..* is missing, a weight is both; "):
        folded({f"a{form[half]}": DIRECTION})


def test_a_length_for_another_number_of_rows_is_refused():
    with pytest.raises(CheckpointError, match=r"a\.weight_g: shape \[2, 1, 1\] for directions \[3, 2, 5\]"):
        folded({"a.weight_g": LENGTH[:2], "a.weight_v": DIRECTION})


def test_two_tensors_of_one_name_are_refused():
    with pytest.raises(CheckpointError, match=r"hift\.a\.weight is stored twice"):
        folded({"a.weight_g": LENGTH, "a.weight_v": DIRECTION, "generator.a.weight": DIRECTION})


def test_a_row_without_direction_is_refused():
    with pytest.raises(CheckpointError, match=r"a\.weight_v: a row is zero, it has no direction"):
        folded({"a.weight_g": LENGTH, "a.weight_v": DIRECTION * 0}).rows("hift.a.weight", 0, 3)


def test_an_unknown_name_is_refused():
    with pytest.raises(CheckpointError, match=r"hift\.b: no such tensor"):
        folded({"a": LENGTH}).shape("hift.b")
