"""INT4 weights and float16 products of the standard dialect, in graphs alone and in whole bundles."""

from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator

from edgekit.bundle import open_bundle
from edgekit.errors import CheckpointError, QualityError, RecipeError
from edgekit.exporter import blocks
from edgekit.exporter.checks.quality import relative_error
from edgekit.exporter.checks.weight_check import check_weights
from edgekit.exporter.dialects import DIALECTS, ExpertBank, Routing
from edgekit.exporter.export import ExportOptions, export, quantize
from edgekit.exporter.families import find_family
from edgekit.exporter.quantize import BITS, dequantize_blocks, dividing_block, quantize_blocks, quantize_channels
from edgekit.exporter.sources.checkpoint import open_checkpoint
from edgekit.exporter.tables import written_bundle
from edgekit.recipe import load_target
from edgekit.runtime.answer.embedding import TokenTable
from tests.exporter.graphs import STANDARD
from tests.exporter.parts import SMALL_BLOCKS, Held, Rows, engine

HERE = Path(__file__).parent
JUDGED, QUICK = HERE / "judged.toml", HERE / "quick.toml"
NAMES = ("whisper-experts", "step-dense", "step-moe-2", "omni-thinker")
PIECES = (1, 2, 3, 40, 1)
# Each product rounds what goes into it to 11 bits, 5e-4 at most: measured 6e-4 (frames) to 2e-3 (logits, 2 layers).
FLOAT16_ERROR = 5e-3


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    """Return a target like STANDARD whose products take float16."""
    path = tmp_path_factory.mktemp("target") / "halves.toml"
    path.write_text(Path(STANDARD).read_text(encoding="utf-8") + 'activations = "float16"\n', encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def model(checkpoint):
    """Return a function: name of a checkpoint -> its family, opened, and its tensors in memory."""

    @cache
    def make(name):
        found = open_checkpoint(checkpoint(name))
        opened = find_family(found.config).open(found.config, found.generation)
        shapes = opened.expected()
        return opened, {one: found.rows(one, 0, shapes[one][0]) for one in shapes}

    return make


@pytest.fixture(scope="module")
def bundles(tmp_path_factory, checkpoint, halves):
    """Return a function: checkpoint, precision and whether products are float16 -> an opened bundle."""

    @cache
    def make(name, precision, half=False):
        folder = tmp_path_factory.mktemp(name) / "bundle"
        groups = {"encoder": "float32"} if precision == "int4" else {}
        options = ExportOptions(
            recipe=QUICK if precision == "int4" else JUDGED, target=halves if half else STANDARD, precision=precision,
            groups=groups, accept_loss="random weights",
        )  # fmt: skip
        export(checkpoint(name), folder, options)
        return open_bundle(folder)

    return make


def logits(made, opened, rows, pieces=PIECES):
    """Return logits of every row, fed piece by piece; attended sound is seeded noise."""
    rng = np.random.default_rng(8)
    fixed = {}
    for spec in made.component.inputs:
        if spec.name.startswith("cross."):
            fixed[spec.name] = rng.standard_normal((1, spec.shape[1], 7, spec.shape[3])).astype(spec.dtype)
        elif spec.name == "experts_per_token":
            fixed[spec.name] = np.array([2])
    call, found = Rows(made, fixed), []
    for start, count in zip(np.cumsum((0, *pieces)), pieces, strict=False):
        found.append(call.run(rows[start : start + count])["logits"])
    return np.concatenate(found)


def embeds(opened, tensors):
    width = tensors[opened.embedding].shape[1]
    return np.random.default_rng(7).standard_normal((sum(PIECES), width), np.float32)


def backbone(folder, opened, tensors, precision="float32", **how):
    return engine(folder, "backbone", lambda g, w: opened.build("backbone", g, w), tensors, precision, **how)


def rounded(matrix, precision, scale="float32"):
    """Return a matrix as it comes back from its codes."""
    if precision == "float32":
        return matrix
    if precision == "int8":
        codes, scales = quantize_channels(matrix, scale)
        return codes * scales.astype(np.float32)[:, None]
    width = matrix.shape[1]
    codes, scales = quantize_blocks(matrix, BITS["int4"], dividing_block(width, SMALL_BLOCKS.backbone_block), scale)
    return dequantize_blocks(codes, scales, BITS["int4"], width)


def stored_in(opened, tensors, precision, scale="float32"):
    return {one: rounded(array, precision, scale) if opened.group(one) else array for one, array in tensors.items()}


@pytest.mark.parametrize("precision", ["int8", "int4"])
@pytest.mark.parametrize("name", ["whisper-dense", "step-dense", "step-moe-2", "omni-thinker"])
def test_quantised_graphs_compute_with_the_numbers_that_were_stored(name, precision, model, tmp_path):
    opened, tensors = model(name)
    stored = stored_in(opened, tensors, precision)
    rows = embeds(opened, tensors)
    ours = logits(backbone(tmp_path / "q", opened, tensors, precision, dialect="standard"), opened, rows)
    theirs = logits(backbone(tmp_path / "f", opened, stored, dialect="standard"), opened, rows)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)  # float32 sums in another order
    exact = logits(backbone(tmp_path / "e", opened, tensors), opened, rows)
    assert np.abs(ours - exact).max() > 0.05  # it is quantised


@pytest.mark.parametrize("precision", ["float32", "int8", "int4"])
@pytest.mark.parametrize("name", ["whisper-dense", "step-dense", "step-moe-2", "omni-thinker"])
def test_products_in_float16_stay_near_those_in_float32_of_the_same_numbers(name, precision, model, tmp_path):
    opened, tensors = model(name)
    rows = embeds(opened, tensors)
    how = {"dialect": "standard", "activations": "float16"}
    half = logits(backbone(tmp_path / "h", opened, tensors, precision, **how), opened, rows)
    stored = stored_in(opened, tensors, precision, "float16")
    whole = logits(backbone(tmp_path / "w", opened, stored, dialect="standard"), opened, rows)
    assert half.dtype == np.float32
    # A row may be sent to another expert: the median row says how far products are off.
    errors = np.linalg.norm(half - whole, axis=1) / np.linalg.norm(whole, axis=1)
    assert 1e-5 < np.median(errors) < FLOAT16_ERROR
    assert (errors < FLOAT16_ERROR).mean() > 0.8


def evaluated(path, inputs, name):
    """Return an output of a graph by ONNX's own reference, in which each float16 result is rounded.

    onnxruntime's CPU has no float16 products: it computes them in float32 of rounded numbers.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        return ReferenceEvaluator(onnx.load(str(path))).run([name], inputs)[0]


def first_call(made, rows):
    """Return inputs of a backbone's first call with all of ``rows``."""
    rng = np.random.default_rng(8)
    given = {"embeds": rows, "start": np.array([0]), "logit_rows": np.arange(len(rows))}
    for spec in made.component.inputs:
        if spec.state != "none":
            given[spec.name] = np.zeros([16 if isinstance(size, str) else size for size in spec.shape], spec.dtype)
        elif spec.name.startswith("cross."):
            given[spec.name] = rng.standard_normal((1, spec.shape[1], 7, spec.shape[3])).astype(spec.dtype)
        elif spec.name == "experts_per_token":
            given[spec.name] = np.array([2])
    return {spec.name: given[spec.name] for spec in made.component.inputs}


# The last: a Qwen's sums reach thousands in some channels; sums, norms and gates are float32, and what is normed fits.
@pytest.mark.parametrize(("name", "largest"), [(name, 1.0) for name in NAMES] + [("step-dense", 3e5)])
def test_with_every_float16_result_rounded_too_logits_stay_near(name, largest, model, tmp_path):
    opened, tensors = model(name)
    rows = embeds(opened, tensors)[:6] * np.float32(largest)
    found = []
    for activations in ("float16", "float32"):
        made = backbone(tmp_path / activations, opened, tensors, dialect="standard", activations=activations)
        inputs = first_call(made, rows)
        found.append(evaluated(tmp_path / activations / "backbone.onnx", inputs, "logits"))
    assert np.isfinite(found[0]).all()
    assert 1e-5 < relative_error([(found[0], found[1])]) < FLOAT16_ERROR


def test_an_expert_that_overflows_on_rows_of_others_spoils_none(tmp_path):
    width = 16
    experts = np.full((2, 2 * width, width), 0.125, np.float32)
    experts[1, :, 0] = 3.0  # of 30,000 it makes more than float16 holds
    back = np.random.default_rng(3).standard_normal((2, width, width)).astype(np.float32)
    bank = ExpertBank(
        names=("first", "second"), experts=2, chosen=1, inner=width, hidden=width, gated=True,
        load=lambda name, expert: (experts if name == "first" else back)[expert],
    )  # fmt: skip

    def build(g, w):
        x, mix = g.input("x", "float32", ("n", width)), g.input("mix", "float32", ("n", 2))
        y = blocks.experts(g, w, x, Routing("", g.input("places", "int64", ("n", 1)), mix), bank)
        g.output(y, "y", "float32", ("n", width))

    rows = np.ones((2, width), np.float32)
    rows[0, 0] = 30_000.0
    rows[0, 1] = -29_952.0  # of which the first expert makes little
    inputs = {"x": rows, "mix": np.eye(2, dtype=np.float32), "places": np.array([[0], [1]])}
    found = []
    for kind in ("float16", "float32"):
        engine(tmp_path / kind, "part", build, {}, dialect="standard", activations=kind)
        found.append(evaluated(tmp_path / kind / "part.onnx", inputs, "y"))
    assert relative_error([(found[0], found[1])]) < FLOAT16_ERROR


@pytest.mark.parametrize("name", NAMES)
def test_all_that_multiplies_weights_and_caches_is_float16_and_no_cast_is_wasted(name, model, tmp_path):
    opened, tensors = model(name)
    grouped = {opened.stored(one) for one in opened.expected() if opened.group(one)}
    for component in ("encoder", "adapter", "backbone"):
        made = engine(
            tmp_path, component, lambda g, w, part=component: opened.build(part, g, w), tensors,
            dialect="standard", activations="float16",
        )  # fmt: skip
        assert {spec.dtype for spec in made.component.inputs if spec.state != "none" and ".tail" not in spec.name} <= {
            "float16"
        }
        graph = onnx.load(str(tmp_path / f"{component}.onnx"), load_external_data=False).graph
        types = {one.name: one.data_type for one in graph.initializer}
        kept = [name for name in types if name in grouped]
        assert all(types[name] == TensorProto.FLOAT16 for name in kept), kept
        between = {node.output[0] for node in graph.node if node.op_type == "Cast" and node.attribute[0].i in (1, 10)}
        read = {name for node in graph.node for name in node.input}
        assert between <= read | {one.name for one in graph.output}
        assert not [node for node in graph.node if node.op_type == "Cast" and node.input[0] in between]


def test_a_float16_bundle_of_float_weights_is_judged_by_a_float32_twin(bundles):
    bundle = bundles("whisper-dense", "float32", half=True)
    measured = bundle.manifest.verification["measured"]
    assert 1e-5 < measured["frame_error"] < FLOAT16_ERROR
    assert 1e-5 < measured["logit_error"] < FLOAT16_ERROR
    assert bundle.manifest.recipe["quantize"]["activations"] == "float16"
    (cross,) = (spec for spec in bundle.manifest.components["adapter"].outputs if spec.name == "cross")
    assert cross.dtype == "float16"


def test_a_float16_bundle_of_quantised_weights_is_as_near_its_twin_as_a_float32_one(bundles):
    half, whole = (bundles("whisper-experts", "int8", half=kind).manifest.verification for kind in (True, False))
    for key in ("frame_error", "logit_error", "weight_error"):
        assert half["measured"][key] < 1.2 * whole["measured"][key] + 1e-3
    scales = [row for row in bundles("whisper-experts", "int8", half=True).manifest.census
              if row.tensor.endswith(".weight.scale")]  # fmt: skip
    assert {row.dtype for row in scales} == {"float16"}


@pytest.mark.parametrize(("precision", "half"), [("int4", False), ("int4", True), ("float32", True), ("int8", True)])
def test_a_token_of_a_tied_table_is_the_row_of_the_head(precision, half, bundles):
    table, whole = (
        TokenTable(bundles("whisper-dense", precision, half)),
        TokenTable(bundles("whisper-dense", "float32")),
    )
    tokens = [0, 1, 77, table.vocabulary - 1]
    rows = whole.rows(tokens)
    # half a step of 1/127 of the largest weight, or of a float16; of INT4 that weight is cut, 9.5 steps to 7 at most
    step = {"int4": 2.5 / 9.5, "int8": 1 / 253, "float32": 2**-11}[precision]
    np.testing.assert_allclose(table.rows(tokens), rows, rtol=0, atol=np.abs(rows).max() * step)
    np.testing.assert_array_equal(table.row(tokens[2]), table.rows(tokens)[2])
    assert table.rows(tokens).dtype == np.float32


@pytest.mark.parametrize(("name", "half"), [("step-dense", True), ("step-moe-2", False), ("omni-thinker", True)])
def test_int8_ears_of_every_family_hear_through_calibrated_activations(name, half, bundles):
    bundle = bundles(name, "int8", half)
    encoder = onnx.load(str(bundle.folder / "encoder.onnx"), load_external_data=False).graph
    rounded_inputs = {node.output[0] for node in encoder.node if node.op_type == "DequantizeLinear"}
    linears = [node for node in encoder.node if node.op_type == "Gemm"]
    kept = bundle.manifest.verification["float_inputs"]
    assert sum(node.input[0] in rounded_inputs for node in linears) == len(linears) - len(
        [one for one in kept if not one.startswith(("adapter", "thinker.audio_tower.proj"))]
    )
    # rounding what goes into each linear to 1/127 of its range, and weights: measured 0.02 to 0.03
    assert 0.005 < bundle.manifest.verification["measured"]["frame_error"] < 0.05


@pytest.mark.parametrize("name", NAMES)
def test_int4_is_stored_in_four_bits_and_makes_only_its_own_graphs_newer(name, bundles):
    manifest = bundles(name, "int4").manifest
    rows = [row for row in manifest.census if row.group != "float" and not row.tensor.endswith(".scale")]
    four = [row for row in rows if row.component == "backbone"]
    assert four
    assert {(row.dtype, row.op, row.float32_bytes // row.bytes) for row in four} == {("int4", "DequantizeLinear", 8)}
    assert manifest.requires.opset == 21
    assert manifest.requires.tensorrt == "10.3"
    opsets = {}
    for part, component in manifest.components.items():
        loaded = onnx.load(str(bundles(name, "int4").folder / component.graph), load_external_data=False)
        opsets[part] = (loaded.opset_import[0].version, loaded.ir_version)
    assert opsets == {"encoder": (20, 9), "adapter": (20, 9), "backbone": (21, 10)}


@pytest.mark.parametrize("name", ["whisper-dense", "step-moe-2"])
def test_quantising_a_float_bundle_to_int4_gives_the_same_bytes(name, bundles, tmp_path):
    options = ExportOptions(precision="int4", groups={"encoder": "float32"}, accept_loss="random weights")
    quantize(bundles(name, "float32").folder, tmp_path / "again", options)
    again, straight = open_bundle(tmp_path / "again").manifest, bundles(name, "int4").manifest
    hashes = [{file.path: file.sha256 for file in one.files if "goldens" not in file.path} for one in (again, straight)]
    assert hashes[0] == hashes[1]


def test_float16_weights_are_no_source_to_quantise_from(bundles, tmp_path):
    with pytest.raises(CheckpointError, match=r"is float16, only weights in float32 can be quantised; use `edgekit ex"):
        quantize(bundles("whisper-dense", "float32", half=True).folder, tmp_path / "b")


@pytest.mark.parametrize(("precision", "half"), [("int4", False), ("int4", True), ("float32", True)])
def test_a_weight_that_is_not_the_checkpoints_is_told_apart(precision, half, model, bundles):
    opened, tensors = model("step-moe-2")
    bundle = bundles("step-moe-2", precision, half)
    written = written_bundle(
        bundle.folder, opened, DIALECTS.get("standard"), bundle.manifest.components, bundle.manifest.tables()
    )
    told = dict(tensors)
    one, other = (f"model.layers.1.mlp.experts.{i}.up_proj.weight" for i in (2, 5))
    told[one], told[other] = told[other], told[one]
    with pytest.raises(QualityError, match="gate_up_proj.weight: a stored weight is"):
        check_weights(opened, written, Held(told), lambda _done, _total: None)


def test_a_width_that_has_no_whole_blocks_is_one_line(tmp_path):
    tensors = {"narrow": np.ones((4, 24), np.float32)}

    def build(g, w):
        x = g.input("x", "float32", ("n", 24))
        g.output(blocks.linear(g, w, x, "narrow", "backbone"), "y", "float32", ("n", 4))

    with pytest.raises(
        CheckpointError, match=r"^narrow: 24 wide, INT4 needs a multiple of 16; export with --backbone int8"
    ):
        engine(tmp_path, "part", build, tensors, "int4", dialect="standard")


def test_a_processors_own_dialect_has_no_float16(tmp_path):
    path = tmp_path / "odd.toml"
    text = Path(STANDARD).read_text(encoding="utf-8").replace('"standard"\nback', '"ort-cpu"\nback')
    path.write_text(text + 'activations = "float16"\n', encoding="utf-8")
    with pytest.raises(RecipeError, match=r"activations 'float16': dialect 'ort-cpu' has float32 only"):
        load_target(str(path))
