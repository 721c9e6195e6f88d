"""GraphWriter: what it stores once, and what it must not take for the same."""

import numpy as np
import onnx

from edgekit.exporter.dialects import DIALECTS
from edgekit.exporter.graph import GraphWriter


def test_constants_that_differ_only_at_their_end_are_two(tmp_path):
    one = np.arange(64)
    other = one.copy()
    other[-1] = 0
    with GraphWriter(tmp_path, "g", DIALECTS.get("ort-cpu")) as g:
        names = [g.constant(value) for value in (one, other, one.copy(), one[:4], other[:4])]
    assert names[0] == names[2] != names[1]
    assert names[3] == names[4]


def casts(folder, activations, build):
    with GraphWriter(folder, "g", DIALECTS.get("standard"), activations) as g:
        x = g.input("x", "float32", ("n", 2))
        g.output(build(g, x), "y", "float32", ("n", 2))
        g.close("float32")
    nodes = onnx.load(str(folder / "g.onnx")).graph.node
    return [node.op_type for node in nodes if node.op_type == "Cast"], nodes


def test_where_products_take_float32_nothing_is_cast(tmp_path):
    found, _ = casts(tmp_path, "float32", lambda g, x: g.widen(g.node("MatMul", g.narrow(x), g.narrow(x))))
    assert found == []


def test_a_value_is_narrowed_once_and_one_that_was_widened_not_at_all(tmp_path):
    def build(g, x):
        product = g.widen(g.node("MatMul", g.narrow(x), g.narrow(x)))
        return g.widen(g.node("MatMul", g.narrow(product), g.narrow(product)))

    found, nodes = casts(tmp_path, "float16", build)
    assert found == ["Cast", "Cast"]  # x at first, the second product at last
    first, second = (node for node in nodes if node.op_type == "MatMul")
    assert list(second.input) == [first.output[0]] * 2


def test_a_value_that_is_read_in_both_kinds_keeps_its_cast(tmp_path):
    def build(g, x):
        product = g.widen(g.node("MatMul", g.narrow(x), g.narrow(x)))
        return g.node("Add", product, g.widen(g.node("MatMul", g.narrow(product), g.narrow(product))))

    assert len(casts(tmp_path, "float16", build)[0]) == 3


def test_what_was_narrowed_is_the_exact_value_again_when_widened(tmp_path):
    assert casts(tmp_path, "float16", lambda g, x: g.node("Relu", g.widen(g.narrow(x))))[0] == []
