"""The layer census is a lower bound: what a plan's bytes allow to have been widened counts as widened."""

import pytest

from edgekit.bundle import CensusRow
from edgekit.runtime.backends.layers import take_layer_census


def row(numbers, dtype="int8"):
    return CensusRow(
        component="encoder", tensor=f"t{numbers}", dtype=dtype, shape=(numbers,), op="DequantizeLinear", bytes=numbers,
        float32_bytes=4 * numbers, group="encoder",
    )  # fmt: skip


ROWS = [row(100), row(300), row(200), row(50, "float32")]
DATA = 1000


@pytest.mark.parametrize(
    ("weights", "int8"),
    [(0, 3), (1000, 3), (1099, 3), (1100, 2), (1299, 2), (1300, 1), (1599, 1), (1600, 0), (9999, 0)],
)
def test_bytes_beyond_the_bundles_own_widen_the_smallest_layers_first(weights, int8):
    found = take_layer_census(ROWS, DATA, ["Building", f"Total Weights Memory: {weights} bytes"], 123456)
    assert (found.int8, found.asked, found.weight_bytes) == (int8, 3, weights)


def test_the_last_statement_of_the_log_counts_and_without_one_the_plans_size():
    log = ["Total Weights Memory: 5 bytes", "Total Weights Memory: 1100 bytes"]
    assert take_layer_census(ROWS, DATA, log, 0).int8 == 2
    assert take_layer_census(ROWS, DATA, [], 1300).int8 == 1


def test_a_float_component_asks_for_none():
    found = take_layer_census([row(50, "float32")], DATA, [], 5000)
    assert (found.int8, found.asked) == (0, 0)
