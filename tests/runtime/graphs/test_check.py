"""Graphs of strangers: what is refused by name before a library sees it, and what passes."""

import random
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import edgekit
from edgekit.bundle import TensorSpec
from edgekit.bundle.dialects import DIALECTS, DialectName
from edgekit.errors import BundleFormatError
from edgekit.runtime.graphs.check import MOST_BYTES, check_graph
from edgekit.runtime.graphs.folding import LEAST_FOLDED
from tests.runtime.graphs.hostile import BY_NAME, chain, external, model, node, value

DATA = 4096


def check(graph, dialect="ort-cpu"):
    content = graph if isinstance(graph, bytes) else graph.SerializeToString()
    return check_graph(content, "g.onnx", "a.data", DATA, dialect)


def is_refused(content):
    try:
        check(content)
    except BundleFormatError:
        return True
    return False


@pytest.mark.parametrize("name", BY_NAME)
def test_a_graph_that_no_dialect_writes_is_refused_by_name(name):
    graph, message = BY_NAME[name]
    with pytest.raises(BundleFormatError, match=message) as refused:
        check(graph)
    assert str(refused.value).startswith("g.onnx: not a graph that may be loaded (")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "graph",
    [
        model(),
        model([node("Neg", "x")], outputs=[value("y")]),
        model([node("Exp", "c")], {"c": np.ones(4096, np.float32)}),
        model([node("Add", "a", "b")], {"a": np.ones((64, 1)), "b": np.ones((1, 64))}),
        model([node("ConstantOfShape", "x", value=numpy_helper.from_array(np.ones(1, np.float32)))]),
        model([node("MultiHeadAttention", "x", domain="com.microsoft", num_heads=2)]),
        model([], [external("w", dims=(512,), length=2048), external("v", dims=(512,), offset=2048, length=2048)]),
        model([], [external("w", kind=TensorProto.INT4, dims=(3,), length=2)]),
        model([], [TensorProto(name="w", data_type=TensorProto.FLOAT16, dims=[2], int32_data=[1, 40_000])]),
        model([], [TensorProto(name="w", data_type=TensorProto.INT64, dims=[], int64_data=[-1])]),
        model([], [helper.make_tensor("w", TensorProto.INT4, [3], [1, 2, 3])]),
        chain(6, 1 << 16),
    ],
)
def test_a_graph_that_a_dialect_may_write_passes(graph):
    assert check(graph).nodes == len(graph.graph.node)
    assert check(graph).folded_bytes == LEAST_FOLDED


def test_what_may_be_computed_at_loading_is_as_large_as_the_weights_that_it_is_made_of():
    weights = 8 * LEAST_FOLDED
    graph = model([node("Transpose", "w")], [external("w", dims=(weights // 4,), length=weights)])
    assert check_graph(graph.SerializeToString(), "g", "a.data", weights, "ort-cpu").folded_bytes == 2 * weights


def test_a_graph_of_onnxruntimes_own_format_is_refused_by_its_content():
    with pytest.raises(BundleFormatError, match="onnxruntime's own format"):
        check(b"\x1c\x00\x00\x00ORTM" + bytes(64))


def test_a_graph_file_that_is_too_large_is_not_parsed():
    with pytest.raises(BundleFormatError, match=f"at most {MOST_BYTES} are read"):
        check(bytes(MOST_BYTES + 1))


def test_millions_of_empty_fields_are_refused_in_time():
    """A file of two bytes a field: each would become an input of one node."""
    names = b"\x0a\x00" * 5_000_000
    inner = b"\x0a" + _varint(len(names)) + names
    started = time.monotonic()
    with pytest.raises(BundleFormatError, match="more than 4000000 fields"):
        check(b"\x08\x0a\x3a" + _varint(len(inner)) + inner)
    assert time.monotonic() - started < 60  # 4 s on the machine that this was written on; never minutes


def _varint(number):
    parts = []
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes([*parts, number])


def test_a_message_that_comes_twice_and_would_be_joined_is_refused():
    """Two graphs of one model are joined by protobuf: the second may hold what the first was checked for."""
    first, second = model([node("Neg", "x")]), onnx.ModelProto(graph=BY_NAME["a branch"][0].graph)
    with pytest.raises(BundleFormatError, match="a model that has field 7 twice"):
        check(first.SerializeToString() + second.SerializeToString())


def test_a_type_that_is_cut_to_32_bits_elsewhere_is_not_taken():
    content = b"\x08\x01\x10" + _varint((1 << 32) + TensorProto.STRING) + b"\x42\x01w"
    graph = b"\x2a" + _varint(len(content)) + content
    with pytest.raises(BundleFormatError, match="a tensor of type 4294967304"):
        check(b"\x08\x0a\x3a" + _varint(len(graph)) + graph)


def test_a_graph_cut_anywhere_is_refused_or_a_shorter_one():
    whole = model([node("Neg", "x")], [external("w")], outputs=[value("y")]).SerializeToString()
    refused = 0
    for size in range(len(whole)):
        refused += is_refused(whole[:size])
    assert refused > len(whole) // 2  # a cut between two fields leaves a readable, shorter file


def test_a_graph_of_random_bytes_flipped_ends_in_one_error_or_none():
    rng = random.Random(15)
    whole = model(
        [node("Add", "x", "c"), node("Exp", "y", out="z")], {"c": np.ones(4, np.float32)}, outputs=[value("z")]
    ).SerializeToString()
    refused = 0
    for _ in range(3000):
        changed = bytearray(whole)
        for _ in range(rng.randint(1, 3)):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        refused += is_refused(bytes(changed))
    assert refused > 1500


def test_a_large_graph_is_checked_within_a_second_per_ten_thousand_nodes():
    nodes = [
        helper.make_node("MatMulNBits", [f"v{i}", "w", "s"], [f"v{i + 1}"], name=f"MatMulNBits.{i}",
                         domain="com.microsoft", K=2048, N=2048, bits=4, block_size=32, accuracy_level=4)
        for i in range(10_000)
    ]  # fmt: skip
    graph = model(nodes, {"w": np.ones(8, np.uint8), "s": np.ones(8, np.float32)}, inputs=[value("v0")])
    content = graph.SerializeToString()
    started = time.process_time()
    assert check(content).nodes == 10_000
    assert time.process_time() - started < 5  # 0.2 s on the machine that this was written on


def test_a_stranger_names_the_ops_of_a_dialect_and_no_others_pass():
    named = DialectName("toy", ("float32",), frozenset({("own", "Mine")}), {"own": (1, 2)}, (10, 10))
    graph = model([node("Mine", "x", domain="own")], opsets=(("own", 2),))
    with DIALECTS.registered(named), DIALECTS.registered(DialectName("wax", ("float32",))):
        assert check(graph, "toy").nodes == 1
        with pytest.raises(BundleFormatError, match="Neg 'the.Neg', an op that dialect 'toy' does not have"):
            check(model([node("Neg", "x")], opsets=(("own", 2),)), "toy")
        with pytest.raises(BundleFormatError, match="ops of domain 'own', which dialect 'wax' does not have"):
            check(graph, "wax")


@pytest.mark.parametrize("dialect", ["ort-cpu", "ort-cuda", "standard"])
def test_a_bundle_with_an_endless_loop_is_refused_when_it_is_loaded_whatever_its_dialect(tiny_bundle, dialect):
    bundle = tiny_bundle(dialect=dialect)
    path = bundle.folder / "adapter.onnx"
    made = onnx.load(str(path), load_external_data=False)
    (never,) = BY_NAME["a loop that never ends"][0].graph.node
    made.graph.node.append(never)
    made.graph.initializer.append(numpy_helper.from_array(np.array(True), "true"))
    path.write_bytes(made.SerializeToString())
    bundle.change()
    with pytest.raises(BundleFormatError, match=r"adapter\.onnx: not a graph that may be loaded \(.*a graph inside it"):
        edgekit.load(bundle.folder, threads=1, backend="onnxruntime-cpu")


PEAK = """
import sys
from edgekit.bundle import open_bundle
from edgekit.runtime.backends.ort import load_component
load_component(open_bundle(sys.argv[1]), "adapter", 1)
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM:")))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc here to read the peak of memory from")
def test_sizes_that_are_fixed_do_not_let_onnxruntime_fill_the_memory_when_it_loads(tiny_bundle):
    """A value of known sizes is scaled by a constant and filled: onnxruntime by itself would take half a gigabyte."""
    bundle = tiny_bundle()
    path = bundle.folder / "adapter.onnx"
    made = onnx.load(str(path), load_external_data=False)
    stored = {"one": np.ones((), np.float32), "back": np.array([1, 1]), "big": np.array([1 << 14, 1 << 13])}
    made.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in stored.items())
    made.graph.node.extend(
        [
            helper.make_node("Reshape", ["frames", "back"], ["fixed"]),
            helper.make_node("Shape", ["fixed"], ["sizes"]),
            helper.make_node("Mul", ["sizes", "big"], ["grown"]),
            helper.make_node("Expand", ["one", "grown"], ["filled"]),
            helper.make_node("ReduceMax", ["filled"], ["out"], keepdims=0),
        ]
    )
    made.graph.output.append(value("out", shape=[]))
    path.write_bytes(made.SerializeToString())
    component = bundle.manifest.components["adapter"]
    outputs = (*component.outputs, TensorSpec(name="out", dtype="float32", shape=()))
    changed = msgspec.structs.replace(component, outputs=outputs)
    bundle.change(components={**bundle.manifest.components, "adapter": changed})
    done = subprocess.run([sys.executable, "-c", PEAK, bundle.folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 400 * 1024
