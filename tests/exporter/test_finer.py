"""Linears of an INT8 encoder that cannot bear one scale for all of an input: measured, tried, written and checked."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from edgekit.bundle import open_bundle
from edgekit.errors import CensusError, QualityError, RecipeError
from edgekit.exporter.blocks import ROWS
from edgekit.exporter.checks.quality import calibration_clips, check_clips
from edgekit.exporter.checks.weight_check import check_weights
from edgekit.exporter.dialects import DIALECTS
from edgekit.exporter.dialects.ort_cpu import OrtDialect
from edgekit.exporter.export import ExportOptions, export, quantize
from edgekit.exporter.families import find_family
from edgekit.exporter.finer import NEEDED, Strain, choose, measure, round_trip, savings, smooth, smoothing_of
from edgekit.exporter.graph import GraphWriter
from edgekit.exporter.observe import observed
from edgekit.exporter.quantize import SCALE, SMOOTHING
from edgekit.exporter.sources.checkpoint import open_checkpoint
from edgekit.exporter.tables import written_bundle
from edgekit.exporter.weights import Weights
from edgekit.recipe import GROUPS, QuantizeSettings, load_recipe
from edgekit.runtime.backends.ort import open_graph
from tests.exporter.graphs import STANDARD
from tests.reference import checkpoints

HERE = Path(__file__).parent
JUDGED, QUICK = HERE / "judged.toml", HERE / "quick.toml"
ORT = DIALECTS.get("ort-cpu")
LOUD = "model.encoder.layers.1.fc2.weight"
LAYER = LOUD.removesuffix("fc2.weight")


@pytest.fixture(scope="module")
def loud(tmp_path_factory):
    """Return a checkpoint with one neuron before fc2 of layer 1 that is silent in most rows and huge in a few."""
    folder = checkpoints.write(tmp_path_factory.mktemp("loud"), "whisper-experts")
    tensors = load_file(folder / "model.safetensors")
    up, bias = tensors[f"{LAYER}fc1.weight"], tensors[f"{LAYER}fc1.bias"]
    heard = []
    opened, w = observing(folder)
    recipe = load_recipe(JUDGED)
    with observed(opened, w, recipe, ORT, folder) as hear:
        hear([*calibration_clips(recipe, 16_000), *check_clips(recipe, 16_000).values()], heard.append)
    name = f"{ROWS}{LAYER}fc1.weight"
    reached = np.concatenate([call[name] for call in heard if name in call]) @ up[0]
    loudest, quiet = reached.max(), np.quantile(reached, 0.9)
    gain = 500 / (loudest - quiet)
    up[0] *= gain
    bias[0] = -gain * quiet
    tensors[LOUD][:, 0] /= 500
    save_file(tensors, folder / "model.safetensors")
    return folder


def observing(folder):
    """Return a checkpoint's family, opened, and its weights for graphs whose rows are observed."""
    source = open_checkpoint(folder)
    opened = find_family(source.config).open(source.config, source.generation)
    return opened, Weights(source, dict.fromkeys(opened.groups, "float32"), QuantizeSettings(), observes="rows")


@pytest.fixture(scope="module")
def made(loud, tmp_path_factory):
    """Return a bundle of it, in INT8 and judged."""
    folder = tmp_path_factory.mktemp("made") / "b"
    export(loud, folder, ExportOptions(recipe=JUDGED, precision="int8"))
    return folder


def recipe_with(tmp_path, line, base=JUDGED):
    recipe = tmp_path / "recipe.toml"
    text = base.read_text().partition("[quantize]")[0]
    recipe.write_text(f"{text}\n[quantize]\n{line}\n")
    return recipe


def files(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.onnx*")}


def test_the_linear_that_cannot_bear_it_gets_the_finer_form_and_what_is_named_has_it(made):
    manifest = open_bundle(made).manifest
    named = manifest.recipe["quantize"]["encoder_finer"]
    assert LOUD in named
    assert len(named) < 8
    ops = {row.tensor: row.op for row in manifest.census if row.group == "encoder" and not row.tensor.endswith(SCALE)}
    assert {name for name, op in ops.items() if op == "MatMulIntegerToFloat"} == set(named)
    assert set(ops.values()) == {"MatMulIntegerToFloat", "DynamicQuantizeMatMul"}
    found = manifest.verification["encoder_finer"]
    assert found["linears"] == len(named)
    assert 0 < found["work"] < 0.5
    assert found["error"] < 0.7 * found["error_without"]
    assert found["error_without"] > NEEDED
    tried = manifest.verification["encoder_finer_tried"]
    assert (tried["0"], tried[str(len(named))]) == (found["error_without"], found["error"])
    assert tried["1"] < 0.7 * tried["0"]  # the first of them is LOUD


def test_the_frames_come_closer_to_float_and_the_bundle_takes_no_more_room(made, loud, tmp_path):
    recipe = recipe_with(tmp_path, 'encoder_finer = "none"')
    coarse = export(loud, tmp_path / "b", ExportOptions(recipe=recipe, precision="int8"))
    finer = open_bundle(made).manifest
    error = [manifest.verification["measured"]["frame_error"] for manifest in (finer, coarse)]
    assert error[0] < 0.7 * error[1]  # what is left is the rounding of the weights
    assert "encoder_finer" not in coarse.verification
    assert coarse.recipe["quantize"]["encoder_finer"] == "none"
    weights = [sum(row.bytes for row in manifest.census) for manifest in (finer, coarse)]
    smoothing = {row.tensor: row.bytes for row in finer.census if row.tensor.endswith(SMOOTHING)}
    assert weights[0] == weights[1] + sum(smoothing.values())
    assert LOUD + SMOOTHING in smoothing


def test_quantising_a_float_bundle_measures_the_same_and_makes_the_same_bytes(made, loud, tmp_path):
    export(loud, tmp_path / "float", ExportOptions(recipe=JUDGED, precision="float32"))
    assert open_bundle(tmp_path / "float").manifest.recipe["quantize"]["encoder_finer"] == "measured"
    quantize(tmp_path / "float", tmp_path / "b")
    assert files(tmp_path / "b") == files(made)


def test_a_resolved_recipe_names_them_and_makes_the_same_bytes_without_a_trial(made, loud, tmp_path):
    named = list(open_bundle(made).manifest.recipe["quantize"]["encoder_finer"])
    recipe = recipe_with(tmp_path, f"encoder_finer = {named}")
    manifest = export(loud, tmp_path / "b", ExportOptions(recipe=recipe, precision="int8"))
    assert files(tmp_path / "b") == files(made)
    assert manifest.verification["encoder_finer"] == {"linears": len(named), "by": "the recipe"}


def test_where_nothing_can_be_heard_a_named_linear_is_not_smoothed_and_the_manifest_says_so(loud, tmp_path):
    recipe = recipe_with(tmp_path, f'encoder_finer = ["{LOUD}"]\n[calibrate]\nclips = []', QUICK)
    manifest = export(loud, tmp_path / "b", ExportOptions(recipe=recipe, precision="int8"))
    found = manifest.verification["encoder_finer"]
    assert found == {"linears": 1, "by": "the recipe", "not smoothed": "the recipe names no calibration clips"}
    assert not [row for row in manifest.census if row.tensor.endswith(SMOOTHING)]
    assert {row.tensor for row in manifest.census if row.op == "MatMulIntegerToFloat"} == {LOUD, LOUD + SCALE}


def test_an_encoder_that_needs_none_gets_none(checkpoint, tmp_path):
    manifest = export(checkpoint("whisper-experts"), tmp_path / "a", ExportOptions(recipe=JUDGED, precision="int8"))
    assert list(manifest.recipe["quantize"]["encoder_finer"]) == []
    assert manifest.verification["encoder_finer"]["linears"] == 0
    recipe = recipe_with(tmp_path, 'encoder_finer = "none"')
    export(checkpoint("whisper-experts"), tmp_path / "b", ExportOptions(recipe=recipe, precision="int8"))
    assert files(tmp_path / "a") == files(tmp_path / "b")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({}, "not measured, the recipe names no calibration clips"),
        ({"dummy_weights": True}, "not measured, weights are noise"),
    ],
)
def test_where_nothing_can_be_heard_the_manifest_says_that_nothing_was_measured(options, why, checkpoint, tmp_path):
    recipe = recipe_with(tmp_path, 'encoder_finer = "measured"\n[calibrate]\nclips = []', QUICK)
    options |= {"recipe": recipe, "precision": "int8"}
    manifest = export(checkpoint("whisper-dense"), tmp_path / "b", ExportOptions(**options))
    assert manifest.verification["encoder_finer"] == why
    assert list(manifest.recipe["quantize"]["encoder_finer"]) == []


def test_an_encoder_too_large_to_run_is_not_measured_and_says_so(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("edgekit.exporter.finer.LARGEST_MIB", 0)
    manifest = export(checkpoint("whisper-dense"), tmp_path / "b", ExportOptions(recipe=JUDGED, precision="int8"))
    why = "not measured, the encoder takes 0 MiB in float32, it is run up to 0"
    assert manifest.verification["encoder_finer"] == why


def test_a_dialect_without_a_finer_form_claims_none_and_refuses_to_be_told_of_one(checkpoint, tmp_path):
    int8 = {"encoder": "int8"}
    options = ExportOptions(recipe=JUDGED, target=STANDARD, precision="int4", groups=int8, accept_loss="small")
    manifest = export(checkpoint("whisper-dense"), tmp_path / "a", options)
    assert manifest.recipe["quantize"]["encoder_finer"] == "none"
    assert "encoder_finer" not in manifest.verification
    recipe = recipe_with(tmp_path, f'encoder_finer = ["{LOUD}"]', QUICK)
    with pytest.raises(RecipeError, match="encoder_finer: dialect 'standard' has no finer form"):
        export(checkpoint("whisper-dense"), tmp_path / "b", ExportOptions(recipe=recipe, target=STANDARD))


@pytest.mark.parametrize("name", ["model.encoder.conv1.weight", "model.decoder.embed_tokens.weight", "fc2"])
def test_a_name_that_is_no_linear_of_the_encoder_is_refused(name, checkpoint, tmp_path):
    recipe = recipe_with(tmp_path, f'encoder_finer = ["{name}"]', QUICK)
    with pytest.raises(RecipeError, match=rf"encoder_finer: '{name}' is no linear of the encoder, model\..* is one"):
        export(checkpoint("whisper-dense"), tmp_path / "b", ExportOptions(recipe=recipe))


def test_a_dialect_that_writes_another_form_than_the_recipe_says_fails_the_census(loud, tmp_path, monkeypatch):
    monkeypatch.setattr(QuantizeSettings, "finer", lambda _self, name: name == LOUD)
    linear = OrtDialect.linear

    def coarse(self, g, w, x, name, **how):
        with monkeypatch.context() as patch:
            patch.setattr(QuantizeSettings, "finer", lambda _self, _name: False)
            return linear(self, g, w, x, name, **how)

    monkeypatch.setattr(OrtDialect, "linear", coarse)
    with pytest.raises(CensusError, match=f"{LOUD}: stored for DynamicQuantizeMatMul, of which quantize.encoder_finer"):
        export(loud, tmp_path / "b", ExportOptions(recipe=QUICK, precision="int8"))


@pytest.mark.parametrize(
    ("name", "by", "why"),
    [
        (SCALE, 1.05, "a stored weight is .* half a step"),
        (SMOOTHING, 1.05, "other numbers than powers of two"),
        (SMOOTHING, 2.0**-20, "other numbers than powers of two from 1 to 32"),
        (SMOOTHING, 2.0**20, "other numbers than powers of two from 1 to 32"),
        (SMOOTHING, np.inf, "other numbers than powers of two from 1 to 32"),
    ],
)
def test_a_factor_that_is_another_is_rejected(name, by, why, loud, tmp_path):
    recipe = recipe_with(tmp_path, f'encoder_finer = ["{LOUD}"]')
    manifest = export(loud, tmp_path / "b", ExportOptions(recipe=recipe, precision="int8"))
    source = open_checkpoint(loud)
    opened = find_family(source.config).open(source.config, source.generation)

    def held():
        tables = {"embedding": manifest.embedding}
        return written_bundle(tmp_path / "b", opened, ORT, manifest.components, tables)

    check_weights(opened, held(), source, lambda _done, _total: None)
    changed = held()[LOUD + name]
    content, right = changed.file.read_bytes(), changed.read().tobytes()
    assert content.count(right) == 1
    changed.file.write_bytes(content.replace(right, np.float32(changed.read()[0] * by).tobytes() + right[4:]))
    with pytest.raises(QualityError, match=f"{LOUD}: .*{why}"):
        check_weights(opened, held(), source, lambda _done, _total: None)


@pytest.mark.parametrize("name", ["whisper-dense", "whisper-experts", "step-dense", "omni"])
def test_every_linear_of_every_familys_ears_is_measured(name, checkpoint, tmp_path):
    opened, w = observing(checkpoint(name))
    found = measure(opened, w, load_recipe(JUDGED), ORT, tmp_path)
    assert set(found) == {name for name in opened.expected() if opened.group(name) == "encoder"}
    assert {name: one for name, one in found.items() if not 0 < min(one.finer.values()) < 0.01 or one.work <= 0} == {}
    assert {name: one for name, one in found.items() if not 0 < one.coarse < 0.01} == {}
    widths = {name: opened.expected()[name][1] for name in found}
    assert {name: one.shape[0] for name, one in smoothing_of(found, tuple(found)).items()} == widths
    assert not list(tmp_path.iterdir())


def test_a_number_is_rounded_as_onnx_says():
    x = np.array([[-1.0, 0.0, 0.5, 3.0]], np.float32)
    step = 4 / 255
    np.testing.assert_allclose(round_trip(x, -1.0, 3.0), np.rint(x / step) * step, rtol=1e-6)
    assert (round_trip(np.zeros((2, 2), np.float32), 0.0, 0.0) == 0).all()


def strain(coarse, finer, work, of="x"):
    return Strain(coarse, finer, work, of, np.ones(4, np.float32))


STRAINS = {
    "dear": strain(0.02, {0.0: 0.0}, 50.0, "a"),
    "cheap": strain(0.01, {0.0: 0.0}, 10.0, "b"),
    "worse": strain(0.01, {0.0: 0.02}, 10.0, "c"),
    "rest": strain(0.001, {0.0: 0.0}, 30.0, "d"),
}


def chosen(errors):
    """Return what is chosen where so many linears in the finer form make such an error, and what was tried."""
    tried = []

    def error(names):
        tried.append(tuple(names))
        return errors[len(names)]

    return choose(STRAINS, error), tried


def test_what_saves_most_for_its_work_is_tried_first_and_what_costs_not_at_all():
    found, tried = chosen([0.1, 0.1, 0.1, 0.05])
    assert tried == [(), ("cheap",), ("cheap", "dear"), ("cheap", "dear", "rest")]
    assert found.names == ("cheap", "dear", "rest")
    assert found.work == pytest.approx(0.9)
    assert found.errors == {0: 0.1, 1: 0.1, 2: 0.1, 3: 0.05}


def test_the_fewest_that_come_near_the_least_error_are_chosen():
    assert chosen([0.1, 0.052, 0.06, 0.05])[0].names == ("cheap",)
    assert chosen([0.1, 0.053, 0.05, 0.05])[0].names == ("cheap", "dear")
    assert chosen([0.05, 0.06, 0.055, 0.049])[0].names == ()


def test_an_error_that_weights_alone_make_is_not_worth_a_trial():
    assert chosen([NEEDED, 0.0, 0.0, 0.0])[1] == [()]


def test_linears_that_share_an_input_are_smoothed_alike_by_the_strength_that_helps_both():
    strains = {
        "q": strain(1.0, {0.0: 0.5, 0.5: 0.1, 0.9: 0.4}, 1.0),
        "k": strain(1.0, {0.0: 0.5, 0.5: 0.4, 0.9: 0.2}, 1.0),
        "up": strain(1.0, {0.0: 0.1, 0.5: 0.2, 0.9: 0.3}, 1.0, "y"),
    }
    assert savings(strains) == pytest.approx({"q": 0.9, "k": 0.6, "up": 0.9})
    found = smoothing_of(strains, ("k", "up", "not measured"))
    assert set(found) == {"k", "up"}
    assert (found["up"] == 1).all()


def test_smoothing_makes_channels_alike_by_powers_of_two_and_leaves_the_loudest_as_it_is():
    found = smooth(np.array([64.0, 16.0, 4.0, 0.0], np.float32), 0.5)
    np.testing.assert_array_equal(found[:3], [1.0, 2.0, 4.0])
    assert found[3] == 2 ** round(0.5 * 5)  # no more than for a channel of 1/32
    assert (smooth(np.array([64.0, 1.0], np.float32), 0.0) == 1).all()
    assert (smooth(np.zeros(3, np.float32), 0.9) > 0).all()


def test_one_huge_number_makes_only_its_own_row_coarse(tmp_path):
    rng = np.random.default_rng(3)
    weight, bias = rng.normal(size=(16, 32)).astype(np.float32), rng.normal(size=16).astype(np.float32)
    x = rng.normal(size=(12, 32)).astype(np.float32)
    x[5, 3], x[7] = 5000.0, 0.0

    class Held:
        def shape(self, name):
            return self.rows(name, 0, 16).shape

        def rows(self, name, start, stop):
            return {"w": weight, "b": bias}[name][start:stop]

        def names(self):
            return frozenset("wb")

    settings = QuantizeSettings(encoder_finer=("w",))
    with GraphWriter(tmp_path, "g", ORT) as g:
        w = Weights(Held(), dict.fromkeys(GROUPS, "int8"), settings)
        rows = g.input("x", "float32", ("rows", 32))
        g.output(ORT.linear(g, w, rows, "w", group="encoder", bias=w.plain(g, "b")), "y", "float32", ("rows", 16))
        component = g.close("int8")
    y = open_graph(tmp_path, component, 1).bind({}).run({"x": x})["y"]
    expected = x @ weight.T + bias
    others = np.arange(12) != 5
    assert np.linalg.norm((y - expected)[others]) < 0.02 * np.linalg.norm(expected[others])
    np.testing.assert_allclose(y[7], bias, rtol=1e-6)
