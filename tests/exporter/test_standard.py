"""The standard dialect: what is written, judged and refused. Its parity with transformers: test_parity_*.py."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from edgekit.bundle import open_bundle
from edgekit.errors import CensusError, RecipeError
from edgekit.exporter.calibrate import best_range, calibrate
from edgekit.exporter.checks.quality import check_clips
from edgekit.exporter.dialects import DIALECTS
from edgekit.exporter.dialects.ort_cpu import OrtDialect
from edgekit.exporter.dialects.standard.dialect import StandardDialect
from edgekit.exporter.dialects.standard.ops import allow_list, check_ops
from edgekit.exporter.export import ExportOptions, export, quantize
from edgekit.exporter.families import find_family
from edgekit.exporter.graph import GraphWriter
from edgekit.exporter.sources.checkpoint import open_checkpoint
from edgekit.exporter.weights import Weights
from edgekit.recipe import GROUPS, QuantizeSettings, load_recipe
from edgekit.runtime.answer.embedding import TokenTable
from edgekit.runtime.backends.ort import load_component, open_graph
from edgekit.runtime.backends.ort_cpu import CPU
from edgekit.runtime.judge.probe import answer, hear
from edgekit.runtime.model import load_opened
from tests.exporter.graphs import STANDARD

HERE = Path(__file__).parent
JUDGED, QUICK = HERE / "judged.toml", HERE / "quick.toml"


@pytest.fixture(scope="module")
def bundles(tmp_path_factory, checkpoint):
    """Return a function: precision -> an opened bundle of whisper-experts in the standard dialect, judged."""
    made = {}

    def make(precision):
        if precision not in made:
            folder = tmp_path_factory.mktemp(precision) / "bundle"
            export(
                checkpoint("whisper-experts"), folder,
                ExportOptions(recipe=JUDGED, target=STANDARD, precision=precision),
            )  # fmt: skip
            made[precision] = open_bundle(folder)
        return made[precision]

    return make


def nodes(bundle, component):
    return onnx.load(str(bundle.folder / bundle.manifest.components[component].graph), load_external_data=False).graph


def test_an_int8_bundle_passes_the_gate_and_says_what_it_needs(bundles):
    manifest = bundles("int8").manifest
    assert manifest.dialect == "standard"
    assert manifest.requires.tensorrt == "10.3"
    assert manifest.requires.opset == allow_list().opset
    assert manifest.recipe["quantize"]["encoder_activations"] == "static"
    assert manifest.verification["twin"] == "whole"
    # 2 layers of 6 linears, 2 decoder layers of 2: all weights INT8, and the gate measured what that costs
    assert 0 < manifest.verification["measured"]["frame_error"] < 0.1
    assert 0 < manifest.verification["measured"]["logit_error"] < 0.1


def test_every_weight_that_multiplies_is_signed_int8_and_dequantised_by_channel(bundles):
    rows = [
        row for row in bundles("int8").manifest.census if row.group != "float" and not row.tensor.endswith(".scale")
    ]
    assert {row.component for row in rows} == {"encoder", "adapter", "backbone"}
    assert {(row.dtype, row.op) for row in rows} == {("int8", "DequantizeLinear")}


def test_encoder_linears_get_int8_activations_and_those_of_the_backbone_do_not(bundles):
    bundle = bundles("int8")
    encoder, backbone = nodes(bundle, "encoder"), nodes(bundle, "backbone")
    rounded = {node.output[0] for node in encoder.node if node.op_type == "DequantizeLinear"}
    linears = [node for node in encoder.node if node.op_type == "Gemm"]
    kept = len([name for name in bundle.manifest.verification["float_inputs"] if name.startswith("model.encoder.")])
    assert sum(node.input[0] in rounded for node in linears) == len(linears) - kept
    assert not [node for node in backbone.node if node.op_type == "QuantizeLinear"]


def test_state_is_handed_back_and_no_input_is_written_to(bundles):
    for component in bundles("float32").manifest.components.values():
        assert {spec.state for spec in (*component.inputs, *component.outputs)} <= {"none", "carried"}


def test_a_token_of_the_tied_table_is_the_row_of_the_head(bundles):
    bundle = bundles("int8")
    table, whole = TokenTable(bundle), TokenTable(bundles("float32"))
    assert table.vocabulary == whole.vocabulary
    tokens = [0, 1, table.vocabulary - 1]
    # a step of 1/127 of the row's largest weight, rounded to nearest
    np.testing.assert_allclose(
        table.rows(tokens), whole.rows(tokens), rtol=0, atol=np.abs(whole.rows(tokens)).max() / 253
    )
    np.testing.assert_array_equal(table.row(tokens[-1]), table.rows(tokens)[-1])


def test_quantising_a_float_bundle_keeps_the_dialect_and_gives_the_same_bytes(bundles, tmp_path):
    quantize(bundles("float32").folder, tmp_path / "again", ExportOptions(precision="int8"))
    again, straight = open_bundle(tmp_path / "again").manifest, bundles("int8").manifest
    assert again.dialect == "standard"
    assert {file.path: file.sha256 for file in again.files} == {file.path: file.sha256 for file in straight.files}


def test_few_experts_of_few_tokens_are_all_that_is_expanded(bundles):
    graph = nodes(bundles("int8"), "backbone")
    sources = {name: node for node in graph.node for name in node.output}
    gathered = [node.input[0] for node in graph.node if node.op_type == "Gather" and node.input[0] in sources]
    reshaped = [sources[name].input[0] for name in gathered if sources[name].op_type == "Reshape"]
    banks = [name for name in reshaped if sources[name].op_type == "DequantizeLinear"]
    assert len(banks) == 2 * 2  # two projections in each of two layers


@pytest.mark.parametrize("tokens", [1, 2, 3, 40])
def test_any_number_of_tokens_and_experts_gives_what_one_by_one_gives(tokens, bundles):
    bundle = bundles("float32")
    engine = load_component(bundle, "backbone", 1)
    rng = np.random.default_rng(5)
    width = TokenTable(bundle).width
    embeds = rng.standard_normal((tokens, width), np.float32)
    cross = {
        spec.name: rng.standard_normal((1, spec.shape[1], 7, spec.shape[3]), np.float32)
        for spec in engine.component.inputs
        if spec.name.startswith("cross.")
    }
    for experts in (1, 2, 8):
        fixed = cross | {"experts_per_token": np.array([experts])}
        together = engine.bind({"context": 64}).run(
            fixed | {"embeds": embeds, "start": np.array([0]), "logit_rows": np.arange(tokens)}
        )["logits"]
        call = engine.bind({"context": 64})
        single = [
            call.run(
                fixed | {"embeds": embeds[i : i + 1], "start": np.array([i]), "logit_rows": np.array([0])}
            )["logits"]
            for i in range(tokens)
        ]  # fmt: skip
        # float32 sums in another order
        np.testing.assert_allclose(together, np.concatenate(single), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["whisper-experts", "step-dense", "step-moe-4", "omni-thinker"])
def test_a_clip_is_answered_as_by_onnxruntimes_own_ops(name, checkpoint, tmp_path):
    """Of every length modulo the frames of an embedding, so that what is pooled ends in padding or does not."""
    (samples,) = check_clips(load_recipe(JUDGED), 16_000).values()
    found = []
    for target in ("cpu", STANDARD):
        options = ExportOptions(recipe=QUICK, target=target, precision="float32", mode="chunked")
        export(checkpoint(name), tmp_path / Path(target).stem, options)
        model = load_opened(open_bundle(tmp_path / Path(target).stem), backend=CPU)
        found.append([])
        for length in range(18_000, 18_000 + 1280, 160):
            heard = hear(model, samples[:length])
            found[-1].append((np.concatenate(heard.parts, axis=-2), answer(model, heard, forced=range(7, 19))))
    for (ours, said), (theirs, told) in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)  # float32 sums in another order
        assert said.picked == told.picked
        np.testing.assert_allclose(said.logits, told.logits, rtol=0, atol=1e-4)


def test_int8_activations_without_clips_are_refused(checkpoint, tmp_path):
    recipe = tmp_path / "deaf.toml"
    recipe.write_text(QUICK.read_text() + "[calibrate]\nclips = []\n")
    with pytest.raises(RecipeError, match=r"calibrate.clips: the recipe names none.*--encoder float32"):
        export(checkpoint("whisper-dense"), tmp_path / "b", ExportOptions(recipe=recipe, target=STANDARD))
    export(
        checkpoint("whisper-dense"), tmp_path / "b",
        ExportOptions(recipe=recipe, target=STANDARD, groups={"encoder": "float32"}),
    )  # fmt: skip


def test_what_an_encoder_is_calibrated_on_is_not_what_it_is_judged_by(checkpoint, tmp_path):
    """The recipe names no check clips: its range comes from the calibration clips alone."""
    options = ExportOptions(recipe=QUICK, target=STANDARD)
    assert "clips" not in export(checkpoint("whisper-dense"), tmp_path / "b", options).verification


def test_rms_norm_from_its_parts_is_rms_norm(tmp_path):
    weight = np.array([0.5, -1.0, 2.0], np.float32)
    with GraphWriter(tmp_path, "norm", DIALECTS.get("standard")) as g:
        x = g.input("x", "float32", ("n", 3))
        g.output(StandardDialect().rms_norm(g, x, g.tensor("w", weight), 1e-6), "y", "float32", ("n", 3))
        engine = open_graph(tmp_path, g.close("float32"), 1)
    check_ops(tmp_path / "norm.onnx")
    rows = np.random.default_rng(3).standard_normal((5, 3), np.float32)
    expected = rows / np.sqrt(np.square(rows).mean(axis=1, keepdims=True) + 1e-6) * weight
    np.testing.assert_allclose(engine.bind({}).run({"x": rows})["y"], expected, rtol=1e-5)


def test_the_range_of_even_values_is_nearly_all_of_them_and_a_lone_outlier_is_cut():
    even = np.ones(1000)
    cut, loss = best_range(even, 2.0)
    assert 1.9 < cut <= 2.0
    assert loss < 0.01  # a step of 1/127 rounds by 1/440 on average
    outlier = np.zeros(1000)
    outlier[:100], outlier[-1] = 1e6, 1.0
    cut, _ = best_range(outlier, 2.0)
    assert cut < 0.5


def test_the_range_of_nothing_loses_nothing():
    assert best_range(np.zeros(10), 1.0)[1] == 0.0


def test_a_block_with_an_op_of_onnxruntime_fails_the_export(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(StandardDialect, "attention", OrtDialect.attention)
    with pytest.raises(CensusError, match=r"backbone.onnx: MultiHeadAttention '.*is not in the allow-list"):
        export(
            checkpoint("whisper-dense"), tmp_path / "b",
            ExportOptions(recipe=QUICK, target=STANDARD, precision="float32"),
        )  # fmt: skip
    assert not list(tmp_path.iterdir())


def test_where_rounding_would_lose_too_much_the_input_stays_float_and_is_named(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("edgekit.exporter.calibrate.LARGEST_LOSS", 0.0)
    export(checkpoint("whisper-dense"), tmp_path / "b", ExportOptions(recipe=JUDGED, target=STANDARD, precision="int8"))
    bundle = open_bundle(tmp_path / "b")
    assert len(bundle.manifest.verification["float_inputs"]) == 2 * 6 + 2 * 2
    assert not [node for node in nodes(bundle, "encoder").node if node.op_type == "QuantizeLinear"]


def test_of_edgekit_tiny_only_the_linear_with_outliers_keeps_its_input_float(tmp_path):
    checkpoint = open_checkpoint(HERE.parent.parent / "models" / "edgekit-tiny" / "edgekit_tiny" / "checkpoint")
    opened = find_family(checkpoint.config).open(checkpoint.config, checkpoint.generation)
    w = Weights(checkpoint, dict.fromkeys(GROUPS, "float32"), QuantizeSettings(), observes="inputs")
    found = calibrate(opened, w, load_recipe(JUDGED), DIALECTS.get("standard"), tmp_path)
    assert found.kept_float == ("model.encoder.layers.3.fc2.weight",)
    assert len(found.ranges) == 4 * 6 + 4 * 2 - 1
    assert not list(tmp_path.iterdir())
