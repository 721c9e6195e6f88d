"""The allow-list of the standard dialect: what a graph may hold, and what is refused."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.errors import CensusError
from edgekit.exporter.dialects import DIALECTS
from edgekit.exporter.dialects.standard.ops import check_ops
from edgekit.exporter.graph import GraphWriter


@pytest.mark.parametrize(("kind", "opset", "ir"), [("int8", 20, 9), ("int4", 21, 10)])
def test_graphs_are_written_in_the_versions_of_the_list(kind, opset, ir, tmp_path):
    with GraphWriter(tmp_path, "g", DIALECTS.get("standard")) as g:
        g.weight("codes", kind, (2, 32)).write(0, np.zeros((2, 16 if kind == "int4" else 32), np.int8))
        g.close(kind)
    check_ops(tmp_path / "g.onnx")
    model = onnx.load(str(tmp_path / "g.onnx"), load_external_data=False)
    assert (model.ir_version, model.opset_import[0].version) == (ir, opset)


def int4(name, *shape):
    return helper.make_tensor(name, TensorProto.INT4, shape, np.ones(shape, np.int8))


def graph_of(folder, *parts, opset=20, ir_version=9, more=()):
    """Write a graph of ``parts`` (op, inputs, attributes) with a few constants, and ``more``; return its path."""
    made = [
        helper.make_node(op, inputs, [f"out{i}"], name=f"{op}.{i}", **attributes)
        for i, (op, inputs, attributes) in enumerate(parts)
    ]
    constants = {
        "codes": np.ones((2, 2), np.int8), "scale": np.ones(2, np.float32), "no scale": np.zeros(2, np.float32),
        "zero": np.zeros(2, np.int8), "one": np.ones(2, np.int8), "axes": np.array([0]), "many": np.array([3840]),
    }  # fmt: skip
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])
    held = [numpy_helper.from_array(array, name) for name, array in constants.items()] + list(more)
    model = helper.make_model(
        helper.make_graph(made, "g", [x], [], held),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=ir_version,
    )
    path = folder / "part.onnx"
    onnx.save(model, str(path))
    return path


@pytest.mark.parametrize(
    ("part", "rule"),
    [
        (("RMSNormalization", ["x", "scale"], {}), "is not in the allow-list"),
        (("Add", ["x", "x"], {"domain": "com.microsoft"}), "is not in the allow-list"),
        (("Squeeze", ["x", "x"], {}), "axes must be an initializer"),
        (("ReduceSum", ["x"], {}), "axes must be an initializer"),
        (("Slice", ["x", "axes", "axes", "x"], {}), "axes must be an initializer"),
        (("DequantizeLinear", ["codes", "x"], {}), "the scale must be an initializer"),
        (("DequantizeLinear", ["codes", "no scale"], {}), "scales must be positive"),
        (("DequantizeLinear", ["codes", "scale", "one"], {}), "the zero point must be 0"),
        (("Gather", ["codes", "axes"], {}), "only be gathered after DequantizeLinear"),
        (("Pad", ["x", "axes", "", "axes"], {}), "axes may not be given"),
        (("TopK", ["x", "many"], {}), "fewer than 3840"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_a_node_that_tensorrt_10_3_would_not_take_is_refused(part, rule, tmp_path):
    with pytest.raises(CensusError, match=rf"part.onnx: {part[0]} '{part[0]}.0': .*{rule}"):
        check_ops(graph_of(tmp_path, part))


def test_nodes_that_keep_the_rules_pass(tmp_path):
    parts = [
        ("DequantizeLinear", ["codes", "scale", "zero"], {"axis": 0}),
        ("Squeeze", ["x", "axes"], {}),
        ("TopK", ["x", "axes"], {}),
        ("Gather", ["x", "axes"], {}),
    ]
    check_ops(graph_of(tmp_path, *parts))


@pytest.mark.parametrize(("opset", "ir_version"), [(21, 9), (20, 10)])
def test_a_newer_opset_or_file_format_is_refused(opset, ir_version, tmp_path):
    with pytest.raises(CensusError, match="is the highest"):
        check_ops(graph_of(tmp_path, opset=opset, ir_version=ir_version))


BLOCKED = ("DequantizeLinear", ["codes4", "steps"], {"axis": 1, "block_size": 16})


def steps(*shape):
    return numpy_helper.from_array(np.ones(shape, np.float16), "steps")


def test_int4_in_blocks_of_a_row_lets_a_graph_be_newer(tmp_path):
    more = (int4("codes4", 2, 32), steps(2, 2))
    check_ops(graph_of(tmp_path, BLOCKED, opset=21, ir_version=10, more=more))
    with pytest.raises(CensusError, match=r"opset 22 of '': opset 21 is the highest"):
        check_ops(graph_of(tmp_path, BLOCKED, opset=22, ir_version=10, more=more))
    with pytest.raises(CensusError, match=r"IR version 11: 10 is the highest"):
        check_ops(graph_of(tmp_path, BLOCKED, opset=21, ir_version=11, more=more))


@pytest.mark.parametrize(
    ("codes", "scales"),
    [((2, 2, 32), (2, 2, 2)), ((2, 32), (2,)), ((2, 32), (1, 32)), ((2, 30), (2, 2)), ((2, 32), (2, 32))],
    ids=str,
)
def test_int4_in_any_other_shape_is_refused(codes, scales, tmp_path):
    path = graph_of(tmp_path, BLOCKED, opset=21, ir_version=10, more=(int4("codes4", *codes), steps(*scales)))
    with pytest.raises(CensusError, match="int4 must be of two dimensions, in whole blocks of a row"):
        check_ops(path)


def test_int4_is_not_gathered_before_it_is_dequantised(tmp_path):
    part = ("Gather", ["codes4", "axes"], {})
    with pytest.raises(CensusError, match=r"Gather 'Gather.0': a quantised constant may only"):
        check_ops(graph_of(tmp_path, part, opset=21, ir_version=10, more=(int4("codes4", 2, 32),)))
