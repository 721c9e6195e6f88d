"""The ort-cuda dialect on its twin, the CPU: parity with ort-cpu, what is written and what is refused. No GPU ran it.

Tolerance: what multiplies is rounded to float16, by 2^-11 of itself at most, once for each product in a row of some 20;
what is seen at the end is about 1/1000 of the largest value. A wrong mask, position or weight is off by 1/10 and more.
"""

from math import erf
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.bundle import open_bundle
from edgekit.errors import CensusError, CheckpointError, RecipeError
from edgekit.exporter import blocks
from edgekit.exporter.dialects import DIALECTS, ExpertBank, Routing
from edgekit.exporter.dialects.ort_cuda.ops import check_cuda_ops, cuda_allow_list
from edgekit.exporter.export import ExportOptions, export
from edgekit.exporter.graph import GraphWriter
from edgekit.exporter.quantize import dequantize_blocks, quantize_blocks
from edgekit.exporter.weights import Weights
from edgekit.recipe import GROUPS, QuantizeSettings, load_target
from edgekit.runtime.backends.ort import OrtEngine, load_component, open_graph
from edgekit.runtime.backends.ort_cpu import CPU
from edgekit.runtime.judge.goldens import relative
from edgekit.runtime.judge.verify import verify
from tests.exporter import speaking
from tests.exporter.graphs import ORT_CUDA, Writer, exported
from tests.exporter.parts import Held
from tests.reference import checkpoints, goldens

HERE = Path(__file__).parent
JUDGED, QUICK = HERE / "judged.toml", HERE / "quick.toml"
FRAMES, LOGITS = 0.002, 0.008  # of the largest value
PASSAGES = [
    pytest.param(name, passage, id=f"{name}-{passage.key}")
    for name in ("whisper-dense", "whisper-experts", "step-dense", "step-moe-4")
    for passage in goldens.passages(name)
]


@pytest.fixture(scope="module")
def dialects(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dialects")
    return exported(folder / "cpu"), exported(folder / "cuda", ORT_CUDA)


def answer(graphs, name, passage):
    """Return frames, what is heard, and logits of five rows at once and of the others one by one."""
    golden, sound = goldens.load(name), passage.sound
    frames = graphs.encode(golden[f"{sound.key}.mel"])
    heard = graphs.adapt(frames)
    after, tokens = golden[f"{passage.key}.after"], golden[f"{passage.key}.tokens"]
    experts = passage.experts_per_token or checkpoints.SHAPES[name].experts_per_token
    if name.startswith("whisper"):
        writer, before = Writer(graphs, experts, heard), np.zeros((0, graphs.table.width), np.float32)
    else:
        writer = Writer(graphs, experts)
        before = np.concatenate([graphs.table.rows(golden[f"{passage.key}.before"]), heard])
    rows = np.concatenate([before, graphs.table.rows(np.concatenate([after, tokens]))])
    logits = [writer.logits(rows[:5], range(5)), *(writer.logits(rows[i : i + 1], [0]) for i in range(5, len(rows)))]
    return np.concatenate(frames), heard.astype(np.float32), np.concatenate(logits)


@pytest.mark.parametrize(("name", "passage"), PASSAGES)
def test_graphs_in_float16_answer_as_those_in_float32(name, passage, dialects):
    wanted, found = (answer(made(name, passage.sound), name, passage) for made in dialects)
    for whole, half in zip(wanted[:2], found[:2], strict=True):
        np.testing.assert_allclose(half, whole, rtol=0, atol=FRAMES * np.abs(whole).max())
    logits, halves = wanted[2], found[2]
    far = np.abs(halves - logits).max(axis=1) / np.abs(logits).max()
    if checkpoints.SHAPES[name].experts:
        # Two experts of one row may be so nearly tied that what is rounded takes the other; later rows attend to it.
        assert (far > 10 * LOGITS).sum() <= 1
        assert np.median(far) <= LOGITS
    else:
        assert far.max() <= LOGITS


@pytest.fixture(scope="module")
def bundles(tmp_path_factory, checkpoint):
    """Return a function: checkpoint and precision -> an opened bundle of the dialect."""
    made = {}

    def make(name, precision, recipe=QUICK):
        if (name, precision, recipe) not in made:
            folder = tmp_path_factory.mktemp(name) / "bundle"
            export(checkpoint(name), folder, ExportOptions(recipe=recipe, target=ORT_CUDA, precision=precision))
            made[name, precision, recipe] = open_bundle(folder)
        return made[name, precision, recipe]

    return make


def graph(bundle, component):
    return onnx.load(str(bundle.folder / bundle.manifest.components[component].graph), load_external_data=False).graph


@pytest.mark.parametrize("precision", ["int8", "int4"])
@pytest.mark.parametrize("name", ["whisper-dense", "step-dense", "step-moe-4"])
def test_every_linear_and_expert_is_stored_in_the_precision_asked_for(name, precision, bundles):
    manifest = bundles(name, precision).manifest
    assert (manifest.dialect, manifest.requires.tensorrt) == ("ort-cuda", None)
    assert manifest.recipe["quantize"]["encoder_activations"] == "float"
    weights = [row for row in manifest.census if row.op in ("MatMulNBits", "QMoE")]
    codes = [row for row in weights if row.dtype.startswith("uint8")]
    assert {row.dtype for row in codes} == {"uint8 (4 bit)" if precision == "int4" else "uint8"}
    assert {row.op for row in codes} == {"MatMulNBits", "QMoE"} - (set() if "moe" in name else {"QMoE"})
    scales = [row for row in weights if row.tensor.endswith(".scale")]
    assert len(scales) == len(codes)
    assert {row.dtype for row in scales} == {"float16"}


@pytest.mark.parametrize("precision", ["int8", "float32"])
def test_a_bundle_passes_the_gate_against_its_float32_twin(precision, bundles):
    measured = bundles("whisper-dense", precision, JUDGED).manifest.verification["measured"]
    assert measured["weight_error"] <= {"int8": 0.01, "float32": 0.0005}[precision]
    assert measured["logit_error"] > 0


@pytest.mark.parametrize("precision", ["int8", "float32"])
def test_goldens_are_met_on_the_cpu_and_leave_room_for_another_rounding(precision, bundles):
    found = verify(bundles("whisper-dense", precision, JUDGED).folder, threads=1, backend=CPU)
    assert all(check.passed for check in found.checks)
    assert found.compared == "compared with its float twin"
    assert all(check.tolerance > check.error for check in found.checks if "logits" in check.name)


def test_large_numbers_in_float16_are_compared_as_they_are():
    assert relative(np.full(100, 1000, np.float16), np.full(100, 500, np.float16)) == 1.0


@pytest.mark.parametrize("name", ["whisper-dense", "step-dense", "step-moe-4"])
def test_where_a_call_stands_is_computed_on_the_gpu(name, bundles):
    for component in ("encoder", "backbone"):
        nodes = graph(bundles(name, "int8"), component).node
        shapes = {node.output[0] for node in nodes if node.op_type == "Shape"}
        readers = {node.op_type for node in nodes if shapes & set(node.input)}
        # what an op reads on the host by its definition, and the length of the cache, which is another such input
        told = {"Cast", "ConstantOfShape", "Expand", "Concat"}
        assert readers <= told | ({"Div"} if component == "encoder" else set())  # pairs of rows, for a slice's end
        casts = {node.output[0] for node in nodes if node.op_type == "Cast" and shapes & set(node.input)}
        assert all(casts & set(node.input) == set() or node.op_type == "GroupQueryAttention" for node in nodes)


def test_recorded_steps_of_a_backbone_give_what_plain_ones_give(bundles):
    plain = load_component(bundles("step-moe-4", "int8"), "backbone", 1)
    recorded = OrtEngine(plain.component, plain.session, records=True)
    calls = [engine.bind({"context": 32}) for engine in (plain, recorded)]
    rng = np.random.default_rng(4)
    width = plain.component.inputs[0].shape[1]
    at = 0
    for tokens in (5, 1, 1, 1, 1, 3, 1):
        inputs = {
            "embeds": rng.standard_normal((tokens, width), np.float32), "start": np.array([at]),
            "logit_rows": np.array([tokens - 1]), "experts_per_token": np.array([2]),
        }  # fmt: skip
        wanted, found = (call.run(inputs)["logits"] for call in calls)
        np.testing.assert_array_equal(found, wanted)
        at += tokens
    assert len(calls[1]._graphs) == 1


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("gated", [True, False])
def test_experts_are_weighted_by_their_shares(gated, bits, tmp_path):
    rng = np.random.default_rng(bits)
    experts, width, inner, chosen = 6, 64, 128, 3
    matrices = {
        "in": rng.standard_normal((experts, inner * (1 + gated), width), np.float32) / 8,
        "out": rng.standard_normal((experts, width, inner), np.float32) / 8,
    }
    bias = rng.standard_normal((experts, inner), np.float32)
    bank = ExpertBank(
        names=("in", "out"), experts=experts, chosen=chosen, inner=inner, hidden=width, gated=gated,
        load=lambda name, expert: matrices[name][expert], bias=None if gated else "bias",
    )  # fmt: skip
    w = Weights(Held({"bias": bias}), dict.fromkeys(GROUPS, f"int{bits}"), QuantizeSettings())
    with GraphWriter(tmp_path, "bank", DIALECTS.get("ort-cuda"), "float16") as g:
        x, mix = (g.input(name, "float32", ("rows", size)) for name, size in (("x", width), ("mix", experts)))
        g.output(blocks.experts(g, w, x, Routing("", "", mix), bank), "y", "float32", ("rows", width))
        engine = open_graph(tmp_path, g.close("int8"), 1)
    check_cuda_ops(tmp_path / "bank.onnx")
    rows, shares = rng.standard_normal((5, width), np.float32), np.zeros((5, experts), np.float32)
    for row, count in enumerate((1, 2, 3, 3, 3)):
        shares[row, rng.choice(experts, count, replace=False)] = rng.uniform(0.05, 1.5, count)
    first, second = (
        np.stack([dequantize_blocks(*quantize_blocks(one, bits, 32, "float16"), bits, one.shape[1]) for one in bank])
        for bank in matrices.values()
    )
    wanted = np.zeros_like(rows)
    for expert in range(experts):
        hidden = rows @ first[expert].T
        if gated:
            gate, up = hidden[:, 0::2], hidden[:, 1::2]
            hidden = gate / (1 + np.exp(-gate)) * up
        else:
            hidden += bias[expert]
            hidden *= 0.5 * (1 + np.vectorize(erf)(hidden / np.sqrt(2)))
        wanted += shares[:, expert : expert + 1] * (hidden @ second[expert].T)
    # the CPU's kernel for 8 bits rounds what it multiplies to 8 bits as well; a GPU's does not
    bound = {8: 0.02, 4: 0.002}[bits] * np.abs(wanted).max()
    np.testing.assert_allclose(engine.bind({}).run({"x": rows, "mix": shares})["y"], wanted, rtol=0, atol=bound)


@pytest.mark.parametrize(
    ("name", "groups", "group"), [("whisper-experts", {}, "experts"), ("omni", {"experts": "float32"}, "decoder")]
)
def test_experts_that_the_kernels_do_not_take_are_refused(name, groups, group, checkpoint, tmp_path):
    with pytest.raises(CheckpointError, match=rf"experts of \d+ x \d+: .* of 64; export with --{group} float32$"):
        export(
            checkpoint(name), tmp_path / "b",
            ExportOptions(recipe=QUICK, target=ORT_CUDA, precision="int8", groups=groups),
        )  # fmt: skip
    assert not list(tmp_path.iterdir())


def test_graphs_that_speak_pass_the_list_too(bundles, tmp_path):
    assert {"talker", "code_predictor", "decoder"} < set(bundles("omni", "float32").manifest.components)
    source = speaking.write(tmp_path / "checkpoint")
    made = export(source, tmp_path / "b", ExportOptions(recipe=QUICK, target=ORT_CUDA, precision="int8"))
    assert {"flow_encoder", "flow_step", "vocoder"} < set(made.components)


def test_a_target_of_the_dialect_multiplies_in_float16(tmp_path):
    assert load_target("desktop-cuda").activations == "float16"
    target = tmp_path / "t.toml"
    target.write_text(Path(ORT_CUDA).read_text().replace("float16", "float32"))
    with pytest.raises(RecipeError, match="dialect 'ort-cuda' has float16 only"):
        load_target(str(target))


def test_graphs_are_written_in_the_versions_of_the_list(tmp_path):
    with GraphWriter(tmp_path, "g", DIALECTS.get("ort-cuda")) as g:
        g.close("float32")
    check_cuda_ops(tmp_path / "g.onnx")
    model = onnx.load(str(tmp_path / "g.onnx"))
    assert model.ir_version == cuda_allow_list().ir_version == 10
    assert {one.domain: one.version for one in model.opset_import} == {"": cuda_allow_list().opset, "com.microsoft": 1}


def graph_of(folder, op, inputs, opset=21, **given):
    domain = "com.microsoft" if op in cuda_allow_list().contrib else ""
    codes = np.zeros((2, 2, given.pop("width", 64)), np.uint8)
    constants = {"codes": codes, "scale": np.ones((2, 2), np.float16)}
    values = [
        helper.make_tensor_value_info(name, kind, ["n", 64])
        for name, kind in (("x", TensorProto.FLOAT), ("half", TensorProto.FLOAT16))
    ]
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node(op, inputs, ["y"], name=f"{op}.0", domain=domain, **given)], "g", values, [],
            [numpy_helper.from_array(array, name) for name, array in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)],
        ir_version=10,
    )  # fmt: skip
    path = folder / "part.onnx"
    onnx.save(model, str(path))
    return path


NBITS = {"bits": 8, "block_size": 32}
QMOE = {"expert_weight_bits": 8, "block_size": 32, "weights_prepacked": 0}
BANKS = ["half", "half", "codes", "scale", "", "codes", "scale"]


@pytest.mark.parametrize(
    ("op", "inputs", "given", "rule"),
    [
        ("DynamicQuantizeLinear", ["x"], {}, "is not in the allow-list"),
        ("GroupQueryAttention", ["x"], {}, "takes float32, allowed is float16"),
        ("QMoE", ["x", *BANKS[1:]], QMOE, "takes float32, allowed is float16"),
        ("MatMulNBits", ["half", "codes", "scale"], NBITS | {"block_size": 64}, "4 or 8 bits and blocks of 32"),
        ("MatMulNBits", ["half", "codes", "scale"], NBITS | {"bits": 2}, "4 or 8 bits and blocks of 32"),
        ("MatMulNBits", ["half", "codes", "scale", "codes"], NBITS, "no zero points"),
        ("QMoE", BANKS, {"expert_weight_bits": 8, "block_size": 32}, "weights_prepacked must be 0"),
        ("QMoE", [*BANKS, "", "", "", "", "codes"], QMOE, "no zero points"),
        ("QMoE", [*BANKS, *[""] * 7, "half"], QMOE, "mixing weights are not read"),
        ("QMoE", BANKS, QMOE | {"width": 96}, "multiples of 64"),
    ],
)
def test_a_node_that_the_provider_would_not_run_well_is_refused(op, inputs, given, rule, tmp_path):
    with pytest.raises(CensusError, match=rf"part.onnx: {op} '{op}.0': .*{rule}"):
        check_cuda_ops(graph_of(tmp_path, op, inputs, **given))


@pytest.mark.parametrize(
    ("op", "inputs", "given"),
    [("MatMulNBits", ["half", "codes", "scale"], NBITS), ("QMoE", BANKS, QMOE), ("Gelu", ["x"], {})],
)
def test_nodes_that_keep_the_rules_pass(op, inputs, given, tmp_path):
    check_cuda_ops(graph_of(tmp_path, op, inputs, **given))


def test_another_opset_is_refused(tmp_path):
    with pytest.raises(CensusError, match="opset 21 is written"):
        check_cuda_ops(graph_of(tmp_path, "Gelu", ["x"], opset=22))
