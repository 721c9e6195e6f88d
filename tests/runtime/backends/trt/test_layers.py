"""The layer census is a lower bound: what a plan's bytes allow to have been widened counts as widened."""

import json

import pytest

from edgekit.bundle import CensusRow
from edgekit.runtime.backends.trt.layers import count_layers, take_layer_census


def row(numbers, dtype="int8"):
    return CensusRow(
        component="encoder", tensor=f"t{numbers}", dtype=dtype, shape=(numbers,), op="DequantizeLinear", bytes=numbers,
        float32_bytes=4 * numbers, group="encoder",
    )  # fmt: skip


ROWS = [row(100), row(300), row(200), row(50, "float32")]
DATA = 2000


@pytest.mark.parametrize(
    ("weights", "int8"),
    [(0, 3), (2000, 3), (2099, 3), (2100, 2), (2299, 2), (2300, 1), (2599, 1), (2600, 0), (9999, 0)],
)
def test_bytes_beyond_the_bundles_own_widen_the_smallest_layers_first(weights, int8):
    found = take_layer_census(ROWS, DATA, ["Building", f"Total Weights Memory: {weights} bytes"], 123456)
    assert (found.quantised, found.asked, found.weight_bytes) == (int8, 3, weights)


def test_the_last_statement_of_the_log_counts_and_without_one_the_plans_size():
    log = ["Total Weights Memory: 5 bytes", "Total Weights Memory: 2100 bytes"]
    assert take_layer_census(ROWS, DATA, log, 0).quantised == 2
    assert take_layer_census(ROWS, DATA, [], 2300).quantised == 1


def test_a_float_component_asks_for_none():
    found = take_layer_census([row(50, "float32")], DATA, [], 5000)
    assert (found.quantised, found.asked) == (0, 0)


def test_int4_counts_as_int8_does():
    found = take_layer_census([row(100, "int4"), row(300), row(50, "float16")], DATA, [], 2100)
    assert (found.quantised, found.asked) == (1, 2)


def test_room_between_tensors_widens_none():
    rows = [row(100), row(300), row(257, "float32")]  # 256, 512 and 512 bytes
    assert take_layer_census(rows, 700, [], 1280 + 99).quantised == 2
    assert take_layer_census(rows, 700, [], 1280 + 100).quantised == 1


def layer(*inputs, weights=None):
    described = {"Name": "l", "Inputs": [{"Name": "x", "Format/Datatype": one} for one in inputs]}
    return described | ({"Weights": {"Type": weights, "Count": 4}} if weights else {})


@pytest.mark.parametrize(
    ("told", "kind"),
    [
        (layer("Thirty-two wide channel vectorized row major Int8 format."), "int8"),
        (layer("Int8", "Half"), "int8"),
        (layer("Row major linear FP16 format", weights="Int8"), "int8"),
        (layer("Half", weights="Int4"), "int4"),
        (layer("Row major linear FP16 format"), "float16"),
        (layer("BFloat16"), "float16"),
        (layer("Row major linear FP32"), "float32"),
        (layer("Float", weights="Half"), "float16"),
        (layer("Int64"), "untold"),
        (layer(), "untold"),
        ("the name alone", "untold"),
    ],
)
def test_a_layer_works_in_the_lowest_type_that_it_reads(told, kind):
    assert count_layers(json.dumps({"Layers": [told, told], "Bindings": []})) == {kind: 2}


def test_kinds_of_layers_are_counted_apart_and_none_is_none():
    told = [layer("Half"), layer("Int8"), layer("Half"), "name"]
    assert count_layers(json.dumps({"Layers": told})) == {"int8": 1, "float16": 2, "untold": 1}
    assert count_layers('{"Layers": []}') == {}
