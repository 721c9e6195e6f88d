"""Graphs that no dialect writes, built with the onnx package."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT


def value(name, kind=FLOAT, shape=("n",)):
    return helper.make_tensor_value_info(name, kind, shape)


def external(name, location="a.data", *, dims=(1,), offset=0, length=4, kind=FLOAT, **more):
    """Return a tensor whose numbers lie in another file."""
    tensor = TensorProto(name=name, data_type=kind, dims=dims, data_location=TensorProto.EXTERNAL)
    for key, text in {"location": location, "offset": offset, "length": length, **more}.items():
        tensor.external_data.add(key=key, value=str(text))
    return tensor


def model(nodes=(), stored=(), *, inputs=None, outputs=(), opsets=(("", 21), ("com.microsoft", 1)), ir=10, **more):
    """Return a model of one graph; ``stored``: arrays by name, or tensors."""
    held = [
        one if isinstance(one, TensorProto) else numpy_helper.from_array(np.asarray(one[1]), one[0])
        for one in (stored.items() if isinstance(stored, dict) else stored)
    ]
    graph = helper.make_graph(list(nodes), "g", inputs or [value("x")], list(outputs), held, **more)
    return helper.make_model(graph, ir_version=ir, opset_imports=[helper.make_opsetid(*one) for one in opsets])


def node(op, *inputs, out="y", domain="", **attributes):
    return helper.make_node(op, list(inputs), [out], name=f"the.{op}", domain=domain, **attributes)


def loop():
    """Return a Loop that never ends."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"])],
        "body",
        [value("i", TensorProto.INT64, []), value("go", TensorProto.BOOL, [])],
        [value("on", TensorProto.BOOL, [])],
    )
    return model([helper.make_node("Loop", ["", "true"], [], name="the.Loop", body=body)], {"true": np.array(True)})


def branch():
    inner = helper.make_graph([node("Identity", "x")], "i", [], [value("y")])
    return model([node("If", "c", then_branch=inner, else_branch=inner)], {"c": np.array(True)})


def scan():
    inner = helper.make_graph([node("Identity", "a")], "i", [value("a", shape=[])], [value("y", shape=[])])
    return model([node("Scan", "x", body=inner, num_scan_inputs=1)])


def nested(depth):
    """Return a model of graphs inside nodes inside graphs."""
    inner = helper.make_graph([node("Identity", "x")], "i", [], [value("y")])
    for _ in range(depth):
        inner = helper.make_graph([node("If", "x", then_branch=inner)], "i", [], [value("y")])
    return model([node("If", "x", then_branch=inner)])


def with_functions():
    made = model([node("Mine", "x", domain="own")], opsets=(("", 21), ("own", 1)))
    body = [helper.make_node("Neg", ["a"], ["b"])]
    made.functions.append(helper.make_function("own", "Mine", ["a"], ["b"], body, [helper.make_opsetid("", 21)]))
    return made


def with_training():
    made = model()
    made.training_info.add().algorithm.CopyFrom(helper.make_graph([], "t", [], []))
    return made


def with_metadata(key="ort_config"):
    made = model()
    made.metadata_props.add(key=key, value='{"session_options": {"enable_profiling": true}}')
    return made


def with_sparse():
    values, places = numpy_helper.from_array(np.ones(1, np.float32), "s"), numpy_helper.from_array(np.array([0]), "p")
    return model(sparse_initializer=[onnx.SparseTensorProto(values=values, indices=places, dims=[1 << 40])])


def doubling(times):
    """Return constants that are joined with themselves again and again."""
    nodes = [helper.make_node("Concat", [f"c{i}", f"c{i}"], [f"c{i + 1}"], axis=0) for i in range(times)]
    return model(nodes, {"c0": np.ones(1024, np.float32)})


def stretched():
    """Return sums of a row and a column, each of which is small."""
    stored = {"row": np.ones((1, 1 << 14), np.float32), "column": np.ones((1 << 14, 1), np.float32)}
    return model([node("Add", "row", "column")], stored)


def chain(times, size=1 << 20):
    """Return steps from a stored tensor, none of which is large."""
    nodes = [helper.make_node("Exp", ["c0"], [f"c{i + 1}"]) for i in range(times)]
    return model(nodes, {"c0": np.ones(size, np.float32)})


def gathered(times):
    """Return a value gathered by itself again and again: each step has almost twice as many dimensions."""
    nodes = [helper.make_node("Cast", ["x"], ["c0"], to=TensorProto.INT64)]
    nodes += [helper.make_node("Gather", [f"c{i}", f"c{i}"], [f"c{i + 1}"]) for i in range(times)]
    return model(nodes, inputs=[value("x", shape=("n", "m"))])


def by_a_size(op, less):
    """Return a whole number divided by the size of an input, less so many."""
    return model(
        [
            helper.make_node("Shape", ["x"], ["n"]),
            helper.make_node("Sub", ["n", "less"], ["d"]),
            helper.make_node(op, ["n", "d"], ["y"], name=f"the.{op}"),
        ],
        {"less": np.array([less])},
    )


LEAST = np.array([-(2**63)])
MANY_AXES = np.arange(1_000_000)
BIG = np.array([1 << 15, 1 << 15])
BY_NAME = {
    "a loop that never ends": (loop(), "Loop|a graph inside it"),
    "a branch": (branch(), "a graph inside it"),
    "a scan": (scan(), "a graph inside it"),
    "graphs in graphs": (nested(20), "a graph inside it"),
    "a sequence map": (
        model([node("SequenceMap", "x")]),
        r"SequenceMap 'the\.SequenceMap', an op that dialect 'ort-cpu'",
    ),
    "an op of another dialect": (
        model([node("Erf", "x")]),
        r"Erf 'the\.Erf', an op that dialect 'ort-cpu' does not have",
    ),
    "a random op": (model([node("RandomUniform", shape=[1 << 20])]), "RandomUniform"),
    "a stored constant node": (model([node("Constant", value_strings=[b"a"])]), "strings"),
    "functions": (with_functions(), "functions of its own"),
    "training": (with_training(), "training information"),
    "settings of a session": (with_metadata(), "metadata"),
    "sparse tensors": (with_sparse(), "sparse initializers"),
    "a domain of its own": (
        model([node("Mine", "x", domain="own")], opsets=(("", 21), ("own", 1))),
        "ops of domain 'own'",
    ),
    "an op of a domain that is not imported": (model([node("Mine", "x", domain="own")]), r"own\.Mine 'the\.Mine'"),
    "onnx by its other name": (model([node("Neg", "x", domain="ai.onnx")]), r"ai\.onnx\.Neg"),
    "an older opset": (model(opsets=(("", 9),)), "opset 9 of ''"),
    "a newer opset": (model(opsets=(("", 22),)), "opset 22 of ''"),
    "an older file": (model(ir=3), "IR version 3"),
    "a newer file": (model(ir=11), "IR version 11"),
    "strings": (model([], {"s": np.array(["a", "b"])}), "a tensor with strings"),
    "strings of no number": (model([], [TensorProto(name="s", data_type=8, dims=[0])]), "a tensor of strings"),
    "an input of strings": (model(inputs=[value("x", TensorProto.STRING)]), "a tensor of strings"),
    "complex numbers": (model([], {"s": np.ones(2, np.complex64)}), "a tensor of type 14"),
    "a value of many dimensions": (model(inputs=[value("x", shape=[1] * 9)]), "9 dimensions"),
    "a value of negative size": (model(inputs=[value("x", shape=[-4])]), r"sizes \[-4\]"),
    "a value larger than all memory": (model(inputs=[value("x", shape=[1 << 40, 1 << 40])]), "which nothing can have"),
    "an output of strings": (model(outputs=[value("x", TensorProto.STRING)]), "a tensor of strings"),
    "a sequence": (model(inputs=[helper.make_tensor_sequence_value_info("x", FLOAT, None)]), "a type with a sequence"),
    "a filled constant": (model([node("ConstantOfShape", "s")], {"s": BIG}), "ConstantOfShape .* of constants alone"),
    "an expanded constant": (
        model([node("Expand", "o", "s")], {"o": np.ones(1), "s": BIG}),
        "Expand .* of constants alone",
    ),
    "a padded constant": (model([node("Pad", "o", "s")], {"o": np.ones(1), "s": BIG}), "Pad .* of constants alone"),
    "a range": (
        model([node("Range", "a", "b", "c")], {"a": np.array(0), "b": np.array(1 << 32), "c": np.array(1)}),
        "Range .* of constants alone",
    ),
    "a gathered constant": (
        model([node("Gather", "o", "i")], {"o": np.ones((1, 4096)), "i": np.zeros(4096, np.int64)}),
        "Gather .* of constants alone",
    ),
    "a product of constants": (
        model([node("MatMul", "a", "b")], {"a": np.ones((4096, 1)), "b": np.ones((1, 4096))}),
        "MatMul .* of constants alone",
    ),
    "the size of a constant": (model([node("Shape", "a")], {"a": np.ones(9)}), "Shape .* of constants alone"),
    "a constant joined with itself": (doubling(20), "Concat .* of constants alone"),
    "a rank that doubles": (gathered(24), "Gather .* more than 8 dimensions"),
    "a rank of a million": (
        model([node("Unsqueeze", "x", "a")], {"a": MANY_AXES}),
        "Unsqueeze .* more than 8 dimensions",
    ),
    "a rank of a million of a constant": (
        model([node("Unsqueeze", "c", "a")], {"a": MANY_AXES, "c": np.array(1.0)}),
        "Unsqueeze .* more than 8 dimensions",
    ),
    "a shape of a million": (
        model([node("Reshape", "x", "a")], {"a": np.ones(1_000_000, np.int64)}),
        "Reshape .* more than 8 dimensions",
    ),
    "a shape of a million to expand to": (
        model([node("Expand", "x", "a")], {"a": np.ones(9, np.int64)}),
        "Expand .* more than 8 dimensions",
    ),
    "a shape that was filled from a size": (
        model(
            [
                helper.make_node("Shape", ["x"], ["n"]),
                helper.make_node("ConstantOfShape", ["n"], ["s"]),
                helper.make_node("Reshape", ["x", "s"], ["y"], name="the.Reshape"),
            ]
        ),
        "Reshape .* more than 8 dimensions",
    ),
    "a whole constant divided by -1": (
        model([node("Div", "a", "b")], {"a": LEAST, "b": np.array([-1])}),
        "Div .* by whole",
    ),
    "a whole number divided by -1": (
        model([node("Div", "x", "b")], {"b": np.array([2, -1])}),
        "Div .* by whole numbers",
    ),
    "a rest of 0": (model([node("Mod", "x", "b")], {"b": np.array([0], np.int32)}), "Mod .* not above 0"),
    "a whole number divided by what lies elsewhere": (
        model([node("Div", "x", "b")], [external("b", length=8, kind=TensorProto.INT64)]),
        "Div .* by whole numbers that are not told",
    ),
    "a size divided by a size less 2": (by_a_size("Div", 2), "Div .* by what follows from constants or sizes"),
    "a rest of a size by a size less 2": (by_a_size("Mod", 2), "Mod .* by what follows from constants or sizes"),
    "a convolution of no groups": (
        model([node("Conv", "x", "w", group=0)], {"w": np.ones((1, 1, 1))}),
        r"group is \[0\]",
    ),
    "a convolution of endless steps": (
        model([node("ConvTranspose", "x", "w", strides=[1 << 62])], {"w": np.ones((1, 1, 1))}),
        r"strides is \[4611686018427387904\]",
    ),
    "two tensors in one place": (
        model([], [external("v", length=4), external("w", length=4)]),
        "shared with no other tensor",
    ),
    "a row stretched by a column": (stretched(), "268435456 numbers that would be computed"),
    "many steps from one constant": (chain(8), "computed from constants at loading"),
    "a large constant inside a node": (
        model([node("ConstantOfShape", "x", value=numpy_helper.from_array(np.ones(65, np.float32)))]),
        "an attribute that holds 65 numbers",
    ),
    "external data inside a node": (
        model([node("ConstantOfShape", "x", value=external("v"))]),
        "an attribute that holds",
    ),
    "a name that is read before it is written": (
        model([node("Neg", "z")]),
        "reads 'z', which nothing before it writes",
    ),
    "a name that is written twice": (model([node("Neg", "x"), node("Abs", "x")]), "writes 'y', which is there already"),
    "a stored tensor that is written": (model([node("Neg", "x", out="w")], {"w": np.ones(1)}), "writes 'w'"),
    "two stored tensors of one name": (model([], [("w", np.ones(1)), ("w", np.ones(2))]), "two stored tensors"),
    "an input that is stored, too": (model([], {"x": np.ones(1)}), "an input that has the name"),
    "more numbers than a tensor has": (
        model([], [TensorProto(name="w", data_type=FLOAT, dims=[3], raw_data=bytes(16))]),
        "holds 16 bytes or numbers, its sizes say 12",
    ),
    "fewer numbers than a tensor has": (
        model([], [TensorProto(name="w", data_type=TensorProto.INT64, dims=[3], int64_data=[1, 1 << 40])]),
        "holds 2 bytes or numbers, its sizes say 3",
    ),
    "a tensor of negative size": (
        model([], [TensorProto(name="w", data_type=FLOAT, dims=[-1, -1])]),
        r"sizes \[-1, -1\]",
    ),
    "numbers here and elsewhere": (
        model(
            [],
            [
                TensorProto(
                    name="w", data_type=FLOAT, dims=[1], raw_data=bytes(4), external_data=external("w").external_data
                )
            ],
        ),
        "in one place",
    ),
    "data that leaves the bundle": (model([], [external("w", "../a.data")]), "leaves the bundle"),
    "data by its whole path": (model([], [external("w", "/etc/passwd")]), "leaves the bundle"),
    "data by a path of Windows": (model([], [external("w", "C:\\x")]), "leaves the bundle"),
    "data in another file": (model([], [external("w", "b.data")]), "external data 'b.data', manifest says 'a.data'"),
    "data spelt otherwise": (model([], [external("w", "./a.data")]), r"external data '\./a.data'"),
    "data without a name": (model([], [external("w", "")]), "external data ''"),
    "data behind the end": (model([], [external("w", offset=4093)]), "bytes 4093 to 4097 of 'a.data', which has 4096"),
    "data at a negative place": (model([], [external("w", offset=-4)]), "no whole offset and length"),
    "data of another length": (
        model([], [external("w", dims=(1 << 30,))]),
        "4 bytes of external data, its sizes say 4294967296",
    ),
    "data with a hash": (model([], [external("w", checksum="00")]), "told by location, offset and length"),
    "one piece of data under many names": (
        model([], [external(f"w{i}", dims=(1024,), length=4096) for i in range(2)]),
        "shared with no other tensor",
    ),
    "data of no bytes": (model([], [external("w", dims=(0,), length=0)]), "shared with no other"),
}
