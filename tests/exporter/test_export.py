"""Export and quantize as a user meets them: what is written, what is refused, what stays behind after a failure."""

import errno
import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from edgekit.bundle import open_bundle
from edgekit.errors import (
    BundleFormatError,
    CensusError,
    CheckpointError,
    OutputError,
    QualityError,
    RecipeError,
    UsageError,
)
from edgekit.exporter import pack
from edgekit.exporter import quantize as quantize_module
from edgekit.exporter.checks.census import ratio
from edgekit.exporter.checks.weight_check import check_weights
from edgekit.exporter.dialects import DIALECTS
from edgekit.exporter.dialects.ort_cpu import OrtDialect
from edgekit.exporter.export import ExportOptions, export, quantize
from edgekit.exporter.families import find_family
from edgekit.exporter.options import find_recipe
from edgekit.exporter.quantize import SCALE
from edgekit.exporter.sources.checkpoint import open_checkpoint
from edgekit.exporter.tables import written_bundle
from edgekit.exporter.weights import Weights
from edgekit.resources import resource
from tests.reference import checkpoints

QUICK = Path(__file__).parent / "quick.toml"
JUDGED = Path(__file__).parent / "judged.toml"
SYSTEMS = ["whisper-dense", "whisper-experts", "step-dense", "step-moe-4", "omni", "omni-thinker"]


def _bytes(folder):
    return {entry.path: (folder / entry.path).read_bytes() for entry in open_bundle(folder).manifest.files}


@pytest.mark.parametrize("precision", ["int8", "int4"])
@pytest.mark.parametrize("name", SYSTEMS)
def test_quantizing_a_float_bundle_gives_the_bytes_of_exporting_straight(name, precision, checkpoint, tmp_path):
    straight = export(checkpoint(name), tmp_path / "straight", ExportOptions(recipe=QUICK, precision=precision))
    export(checkpoint(name), tmp_path / "float", ExportOptions(recipe=QUICK, precision="float32"))
    quantised = quantize(tmp_path / "float", tmp_path / "quantised", ExportOptions(precision=precision))
    assert quantised == straight
    assert _bytes(tmp_path / "quantised") == _bytes(tmp_path / "straight")
    assert (tmp_path / "straight/manifest.json").read_bytes() == (tmp_path / "quantised/manifest.json").read_bytes()


def test_the_same_checkpoint_gives_the_same_bytes_twice(checkpoint, tmp_path):
    for name in ("one", "two"):
        export(checkpoint("whisper-experts"), tmp_path / name, ExportOptions(recipe=JUDGED))
    assert _bytes(tmp_path / "one") == _bytes(tmp_path / "two")
    assert (tmp_path / "one/manifest.json").read_bytes() == (tmp_path / "two/manifest.json").read_bytes()


def test_groups_are_set_one_by_one(checkpoint, tmp_path):
    options = ExportOptions(recipe=QUICK, precision="int8", groups={"experts": "int4", "encoder": "float32"})
    manifest = export(checkpoint("whisper-experts"), tmp_path / "b", options)
    assert manifest.precision == {"encoder": "float32", "backbone": "int8", "experts": "int4", "head": "int8"}
    kinds = {row.group: row.dtype for row in manifest.census if not row.tensor.endswith(SCALE) and row.group != "float"}
    assert kinds == {"encoder": "float32", "backbone": "uint8", "experts": "uint8 (4 bit)", "head": "uint8"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('eyes = "int8"', "precision.eyes: .* has no such weights; it has encoder, backbone, experts, head; change"),
        ('head = "int2"', "recipe.toml: precision.head is 'int2', must be one of: float32, int8, int4$"),
        ("head = 8", "recipe.toml: precision.head is 8, must be one of: float32, int8, int4$"),
    ],
)
def test_a_recipe_names_only_groups_that_are_there_and_precisions_that_exist(line, message, checkpoint, tmp_path):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(f"[precision]\n{line}\n")
    with pytest.raises(RecipeError, match=message):
        export(checkpoint("whisper-experts"), tmp_path / "b", ExportOptions(recipe=recipe))
    assert not (tmp_path / "b").exists()


def test_groups_that_a_recipe_leaves_out_are_int8_and_all_five_stand_in_the_manifest(checkpoint, tmp_path):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('[precision]\ndecoder = "int4"\nhead = "float32"\n[limits]\nweight_error = 0.2\n')
    manifest = export(checkpoint("whisper-dense"), tmp_path / "b", ExportOptions(recipe=recipe))
    assert manifest.precision == {"encoder": "int8", "backbone": "int8", "head": "float32"}
    assert manifest.recipe["precision"] == {
        "encoder": "int8", "backbone": "int8", "experts": "int8", "head": "float32", "decoder": "int4",
    }  # fmt: skip


@pytest.mark.parametrize("name", SYSTEMS)
def test_the_census_accounts_for_every_weight_of_the_checkpoint(name, checkpoint, tmp_path):
    manifest = export(checkpoint(name), tmp_path / "b", ExportOptions(recipe=QUICK, precision="int8"))
    held = load_file(checkpoint(name) / "model.safetensors")
    numbers = sum(array.size for key, array in held.items() if not key.startswith("thinker.visual."))
    counted = sum(row.float32_bytes for row in manifest.census) // 4
    made = ("rotary.cos", "rotary.sin", "segment.positions")  # by the exporter, from no weight
    assert counted - sum(row.float32_bytes for row in manifest.census if row.tensor.endswith(made)) // 4 == numbers
    share = ratio(manifest.census)
    assert share is not None
    # 64-wide layers: one scale of 4 bytes per 64 weights is 0.266, wider ones reach 0.258, narrower ones more
    assert share < (0.35 if name.startswith("omni") else 0.28)


@pytest.mark.parametrize(
    "left", ["model.decoder.layers.1.self_attn.q_proj.weight", "model.decoder.layers.0.fc1.weight"]
)
def test_a_linear_or_a_bank_of_experts_left_float_fails_the_command(left, checkpoint, tmp_path, monkeypatch):
    linear, experts = OrtDialect.linear, OrtDialect.experts

    def as_float(w, names):
        return replace(w, precision=dict.fromkeys(w.precision, "float32")) if left in names else w

    monkeypatch.setattr(
        OrtDialect, "linear", lambda self, g, w, x, name, **how: linear(self, g, as_float(w, [name]), x, name, **how)
    )
    monkeypatch.setattr(
        OrtDialect,
        "experts",
        lambda self, g, w, x, routing, bank: experts(self, g, as_float(w, bank.names), x, routing, bank),
    )
    with pytest.raises(CensusError, match=rf"{left}: stored as float32 for \w+, the recipe says \w+ = int8"):
        export(checkpoint("whisper-experts"), tmp_path / "b", ExportOptions(recipe=QUICK, precision="int8"))
    assert list(tmp_path.iterdir()) == []


def _judge_weights(folder, source):
    manifest = open_bundle(folder, check_hashes=False).manifest
    found = open_checkpoint(source)
    opened = find_family(found.config).open(found.config, found.generation)
    held = written_bundle(
        folder, opened, DIALECTS.get(manifest.dialect), manifest.components, {"embedding": manifest.embedding}
    )
    check_weights(opened, held, found, lambda _done, _total: None)
    return held


@pytest.mark.parametrize("precision", ["float32", "int8", "int4"])
@pytest.mark.parametrize("name", ["whisper-experts", "step-moe-4"])
def test_one_swapped_expert_is_rejected(name, precision, checkpoint, tmp_path):
    export(checkpoint(name), tmp_path / "b", ExportOptions(recipe=QUICK, precision=precision))
    held = _judge_weights(tmp_path / "b", checkpoint(name))
    bank = next(weight for weight in held.values() if len(weight.shape) == 3 and weight.op in ("QMoE", "MoE", "Gemm"))
    one, two = bank.rows(0, 1), bank.rows(1, 2)
    with bank.file.open("r+b") as stream:
        stream.seek(bank.offset)
        stream.write(two.tobytes() + one.tobytes())
    with pytest.raises(QualityError, match="the bundle does not hold this checkpoint"):
        _judge_weights(tmp_path / "b", checkpoint(name))


@pytest.mark.parametrize(
    ("op", "precision"),
    [
        ("QMoE", "int8"), ("QMoE", "int4"), ("MatMulNBits", "int8"), ("MatMulNBits", "int4"),
        ("DynamicQuantizeMatMul", "int8"),
    ],
)  # fmt: skip
def test_one_scale_off_by_five_percent_is_rejected(op, precision, checkpoint, tmp_path):
    export(checkpoint("whisper-experts"), tmp_path / "b", ExportOptions(recipe=QUICK, precision=precision))
    held = _judge_weights(tmp_path / "b", checkpoint("whisper-experts"))
    scale = next(weight for name, weight in held.items() if name.endswith(SCALE) and weight.op == op)
    right = scale.read().tobytes()
    wrong = np.float32(scale.read().flat[0] * 1.05).tobytes() + right[4:]
    content = scale.file.read_bytes()
    assert content.count(right) == 1
    scale.file.write_bytes(content.replace(right, wrong))
    with pytest.raises(QualityError, match="half a step"):
        _judge_weights(tmp_path / "b", checkpoint("whisper-experts"))


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_a_transposed_matrix_is_rejected(precision, checkpoint, tmp_path, monkeypatch):
    blocks = Weights.blocks
    name = "model.decoder.layers.0.self_attn.q_proj.weight"

    def transposed(self, asked):
        if asked != name:
            return blocks(self, asked)
        return iter([(0, np.ascontiguousarray(self.source.rows(asked, 0, self.source.shape(asked)[0]).T))])

    monkeypatch.setattr(Weights, "blocks", transposed)
    with pytest.raises(QualityError, match=rf"{name}: a stored weight is .* does not hold this checkpoint"):
        export(checkpoint("whisper-experts"), tmp_path / "b", ExportOptions(recipe=QUICK, precision=precision))


@pytest.mark.parametrize("wrong", [0.25, 0.8, 1.25])
def test_int4_codes_of_a_wrong_scale_are_rejected_though_each_is_the_nearest(wrong, checkpoint, tmp_path, monkeypatch):
    """A scale that is too small cuts more than any that is tried; one that is too large loses more than is allowed."""
    least_loss = quantize_module._least_loss

    def scaled(values, stored, *, turned):
        _, scales = least_loss(values, stored, turned=turned)
        scales = (scales * np.float32(wrong)).astype(stored)
        steps = np.clip(np.rint(values / np.where(scales == 0, 1, scales)[:, None]), -8, 7)
        return (steps + 8).astype(np.uint8), scales

    recipe = tmp_path / "r.toml"
    recipe.write_text('name = "r"\n[limits]\nint4_weight_error = 0.08\n')
    export(checkpoint("whisper-dense"), tmp_path / "right", ExportOptions(recipe=recipe, precision="int4"))
    monkeypatch.setattr(quantize_module, "_least_loss", scaled)
    with pytest.raises(QualityError, match="does not hold this checkpoint|int4_weight_error"):
        export(checkpoint("whisper-dense"), tmp_path / "b", ExportOptions(recipe=recipe, precision="int4"))


def _int4_recipe(folder):
    recipe = folder / "keeps.toml"
    recipe.write_text(
        'name = "keeps"\n[int4]\nbecause = "ears are small"\nkeeps = { encoder = "int8", head = "float32" }\n'
        "quantize = { backbone_block = 32 }\nlimits = { logit_error = 0.25 }\n"
    )
    return recipe


def test_int4_of_everything_leaves_out_what_the_recipe_keeps_but_not_what_is_named(checkpoint, tmp_path):
    recipe = _int4_recipe(tmp_path)
    made = export(checkpoint("whisper-experts"), tmp_path / "a", ExportOptions(recipe=recipe, precision="int4"))
    assert made.precision == {"encoder": "int8", "backbone": "int4", "experts": "int4", "head": "float32"}
    assert (made.recipe["quantize"]["backbone_block"], made.recipe["limits"]["logit_error"]) == (32, 0.25)
    named = ExportOptions(recipe=recipe, precision="int4", groups={"encoder": "int4", "backbone": "int8"})
    made = export(checkpoint("whisper-experts"), tmp_path / "b", named)
    assert made.precision == {"encoder": "int4", "backbone": "int8", "experts": "int4", "head": "float32"}
    one = ExportOptions(recipe=recipe, groups={"experts": "int4"})
    made = export(checkpoint("whisper-experts"), tmp_path / "c", one)
    assert made.precision == {"encoder": "int8", "backbone": "int8", "experts": "int4", "head": "int8"}
    assert made.recipe["limits"]["logit_error"] == 0.25
    made = export(checkpoint("whisper-experts"), tmp_path / "d", ExportOptions(recipe=recipe, precision="int8"))
    assert made.recipe["limits"]["logit_error"] != 0.25
    assert made.recipe["quantize"]["backbone_block"] == 128


def test_a_float_bundle_knows_what_int4_of_it_keeps(checkpoint, tmp_path):
    recipe = _int4_recipe(tmp_path)
    straight = export(checkpoint("whisper-experts"), tmp_path / "a", ExportOptions(recipe=recipe, precision="int4"))
    export(checkpoint("whisper-experts"), tmp_path / "f", ExportOptions(recipe=recipe, precision="float32"))
    assert quantize(tmp_path / "f", tmp_path / "b", ExportOptions(precision="int4")) == straight
    assert _bytes(tmp_path / "a") == _bytes(tmp_path / "b")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            'keeps = { eyes = "int8" }',
            r"int4\.keeps\.eyes: .* has no such weights; it has encoder, .*; change the recipe",
        ),
        ('keeps = { head = "int2" }', r"int4\.keeps\.head is 'int2', must be one of: float32, int8, int4$"),
        (
            "quantize = { block = 32 }",
            r"int4\.quantize\.block is no field; choose one of: backbone_block, experts_block",
        ),
        ("limits = { words = 0.1 }", r"int4\.limits\.words is no field; choose one of: .*word_error_rate"),
    ],
)
def test_what_int4_keeps_is_checked_as_the_recipe_is(line, message, checkpoint, tmp_path):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(f"[int4]\n{line}\n")
    with pytest.raises(RecipeError, match=message):
        export(checkpoint("whisper-experts"), tmp_path / "b", ExportOptions(recipe=recipe))


@pytest.mark.parametrize("name", sorted(path.parent.name for path in (resource("export")).glob("*/recipe.toml")))
def test_int4_of_every_recipe_that_ships_is_of_the_backbone_and_keeps_ears_and_head(name):
    form = find_recipe(name, {}).int4
    assert form.because
    assert {"encoder", "head"} <= form.keeps.keys()
    assert set(form.keeps.values()) == {"int8"}
    assert "backbone" not in form.keeps
    assert "experts" not in form.keeps


def test_a_loss_beyond_the_limit_publishes_nothing_unless_accepted(checkpoint, tmp_path):
    recipe = tmp_path / "strict.toml"
    recipe.write_text(JUDGED.read_text().replace("logit_error = 0.2", "logit_error = 1e-9"))
    options = ExportOptions(recipe=recipe, precision="int8")
    with pytest.raises(
        QualityError, match=r"logit_error [\d.e-]+, the recipe allows 1e-09; try .* or pass --accept-loss"
    ):
        export(checkpoint("whisper-experts"), tmp_path / "b", options)
    assert not (tmp_path / "b").exists()
    accepted = ExportOptions(recipe=recipe, precision="int8", accept_loss="measuring")
    waiver = export(checkpoint("whisper-experts"), tmp_path / "b", accepted).verification["waiver"]
    assert waiver["reason"] == "measuring"
    assert waiver["for"].startswith("logit_error")


def test_the_manifest_says_which_judgement_was_made(checkpoint, tmp_path):
    judged = export(checkpoint("whisper-experts"), tmp_path / "a", ExportOptions(recipe=JUDGED)).verification
    assert judged["twin"] == "whole"
    assert set(judged["measured"]) == {
        "weight_error",
        "frame_error",
        "logit_error",
        "token_mismatch",
        "word_error_rate",
    }
    assert set(judged["levels"]) == {"experts-2", "experts-3", "experts-4", "full"}
    assert set(judged["whole_clip"]) == {"frame_error", "word_error_rate"}
    small = tmp_path / "small.toml"
    small.write_text(JUDGED.read_text().replace("[check]", "[check]\ntwin_limit_mib = 0"))
    assert (
        export(checkpoint("whisper-experts"), tmp_path / "b", ExportOptions(recipe=small)).verification["twin"]
        == "weights"
    )


def test_a_full_disk_leaves_nothing_behind(checkpoint, tmp_path, monkeypatch):
    def full(*_arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pack, "hash_file", full)
    with pytest.raises(OutputError, match="No space left on device; nothing was left behind"):
        export(checkpoint("whisper-dense"), tmp_path / "out" / "b", ExportOptions(recipe=QUICK))
    assert list((tmp_path / "out").iterdir()) == []


def test_a_really_full_disk_is_one_clear_line(checkpoint, tmp_path):
    """A limit on file size is the full disk that a test may make: the kernel refuses the write in the middle."""
    script = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))\n"
        "from edgekit.exporter.export import ExportOptions, export\n"
        "export(sys.argv[1], sys.argv[2], ExportOptions(recipe=sys.argv[3]))\n"
    )
    arguments = [str(checkpoint("whisper-dense")), str(tmp_path / "out" / "b"), str(QUICK)]
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "OutputError" in done.stderr.splitlines()[-1]
    assert list((tmp_path / "out").iterdir()) == []


def test_an_output_that_exists_is_kept_unless_told(checkpoint, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("draft")
    with pytest.raises(OutputError, match="exists already; pass --overwrite"):
        export(checkpoint("whisper-dense"), tmp_path / "mine", ExportOptions(recipe=QUICK))
    with pytest.raises(OutputError, match="is not a bundle, so it is not replaced"):
        export(checkpoint("whisper-dense"), tmp_path / "mine", ExportOptions(recipe=QUICK, overwrite=True))
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "draft"
    for _ in range(2):
        export(checkpoint("whisper-dense"), tmp_path / "b", ExportOptions(recipe=QUICK, overwrite=True))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "mine"]


def _edited(source, folder, edit):
    shutil.copytree(source, folder)
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t.pop("model.encoder.conv1.bias"), r"model\.encoder\.conv1\.bias: missing"),
        (lambda t: t.update(extra=np.zeros(3, np.float32)), r"extra: shape \[3\], not expected"),
        (lambda t: t.update({"model.encoder.conv1.bias": np.zeros(3, np.float32)}), r"conv1\.bias.*\[3\].*\[64\]"),
        (
            lambda t: t["model.decoder.layers.0.fc1.weight"].__setitem__((1, 2), np.nan),
            r"fc1\.weight: nan at index \[1, 2\]",
        ),
    ],
)
def test_a_checkpoint_with_a_bad_tensor_is_refused_by_name(edit, message, checkpoint, tmp_path):
    bad = _edited(checkpoint("whisper-dense"), tmp_path / "bad", edit)
    with pytest.raises(CheckpointError, match=message):
        export(bad, tmp_path / "out" / "b", ExportOptions(recipe=QUICK))
    assert not (tmp_path / "out" / "b").exists()


def test_an_unknown_architecture_names_the_known_and_the_nearest(checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint("whisper-dense"), tmp_path / "c")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "wisper"}))
    with pytest.raises(
        CheckpointError, match=r"'wisper' is not .* \(qwen3_omni_moe, step_audio_2, whisper\); the nearest is 'whisper'"
    ):
        export(folder, tmp_path / "b")


def test_a_published_whisper_is_not_cut_into_chunks(checkpoint, tmp_path):
    with pytest.raises(RecipeError, match="trained on its full 30 s window.*--mode exact"):
        export(checkpoint("whisper-dense"), tmp_path / "b", ExportOptions(recipe=QUICK, mode="chunked"))


def test_an_unknown_target_and_a_quantised_source_are_refused(checkpoint, tmp_path):
    with pytest.raises(RecipeError, match="target 'toaster' is not known; choose one of: .*cpu"):
        export(checkpoint("whisper-dense"), tmp_path / "b", ExportOptions(recipe=QUICK, target="toaster"))
    export(checkpoint("whisper-dense"), tmp_path / "b", ExportOptions(recipe=QUICK, precision="int8"))
    with pytest.raises(CheckpointError, match="is quantised already .*quantize a float32 bundle"):
        quantize(tmp_path / "b", tmp_path / "c")


def test_peak_memory_does_not_follow_the_size_of_the_checkpoint(tmp_path):
    """200 MB of feed-forward in float32 are written in row blocks: the process may grow by some blocks, not by all."""
    shape = checkpoints.StepAudioShape(
        text_hidden=2048, text_layers=1, text_heads=16, text_head_dim=128, text_feed_forward=8192, seed=5
    )
    checkpoints.write_step_audio(tmp_path / "c", shape)
    script = (
        "import resource, sys\n"
        "from edgekit.exporter.export import ExportOptions, export\n"
        "from edgekit.exporter.checks import quality, goldens\n"
        "import jiwer, onnx, onnxruntime\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "export(sys.argv[1], sys.argv[2], ExportOptions(recipe=sys.argv[3]))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    recipe = tmp_path / "r.toml"
    recipe.write_text(JUDGED.read_text().replace("[check]", "[check]\ntwin_limit_mib = 0"))
    arguments = [str(tmp_path / "c"), str(tmp_path / "b"), str(recipe)]
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 120_000  # KiB; blocks of 16 MiB and what quantising makes of one


def test_without_check_clips_the_manifest_says_that_only_weights_were_judged(checkpoint, tmp_path):
    found = export(checkpoint("whisper-experts"), tmp_path / "b", ExportOptions(recipe=QUICK)).verification
    assert found["twin"] == "weights"
    assert set(found["measured"]) == {"weight_error"}
    assert set(found["weights"]["error"]) == {"encoder", "backbone", "experts", "head"}
    assert 0 < found["measured"]["weight_error"] < 0.01


def test_weights_beyond_the_limit_are_refused_where_no_twin_is_run(checkpoint, tmp_path):
    recipe = tmp_path / "strict.toml"
    recipe.write_text('name = "strict"\n[limits]\nint4_weight_error = 0.02\n')
    export(checkpoint("step-dense"), tmp_path / "int8", ExportOptions(recipe=recipe, precision="int8"))
    message = r"int4_weight_error 0\.\d+, the recipe allows 0.02; try --encoder int8 --backbone int8"
    with pytest.raises(QualityError, match=message):
        export(checkpoint("step-dense"), tmp_path / "int4", ExportOptions(recipe=recipe, precision="int4"))
    assert not (tmp_path / "int4").exists()


def test_a_float_bundle_that_names_data_outside_itself_is_not_read(checkpoint, tmp_path):
    export(checkpoint("whisper-dense"), tmp_path / "b", ExportOptions(recipe=QUICK, precision="float32"))
    manifest = json.loads((tmp_path / "b/manifest.json").read_text())
    del manifest["checksum"]
    graph = (tmp_path / "b/encoder.onnx").read_bytes()
    outside = graph.replace(b"encoder.onnx.data", b"../ecret.onnx.dat")
    (tmp_path / "b/encoder.onnx").write_bytes(outside)
    for entry in manifest["files"]:
        if entry["path"] == "encoder.onnx":
            entry["sha256"] = hashlib.sha256(outside).hexdigest()
    (tmp_path / "b/manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleFormatError, match="leaves the bundle"):
        quantize(tmp_path / "b", tmp_path / "q")


def _configured(source, folder, **changes):
    shutil.copytree(source, folder)
    config = json.loads((folder / "config.json").read_text())
    for key, value in changes.items():
        config[key] = config[key] | value if isinstance(config.get(key), dict) else value
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("whisper-dense", {"tie_word_embeddings": False}, "output projection of its own"),
        ("whisper-dense", {"activation_function": "relu"}, "activation_function is 'relu', only gelu"),
        ("step-dense", {"text_config": {"rope_scaling": {"type": "yarn"}}}, "rope_scaling is .* only plain rotary"),
        ("step-dense", {"text_config": {"rope_parameters": {"rope_type": "yarn"}}}, "rope_parameters is .* only plain"),
        (
            "step-dense",
            {"text_config": {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}},
            "use_sliding_window",
        ),
        (
            "step-dense",
            {"text_config": {"model_type": "llama"}},
            r"'llama' is not a backbone .*qwen2, qwen3, qwen3_moe",
        ),
        ("step-dense", {"audio_encoder_config": {"adapter_stride": 4}}, "kernel 3, stride 2"),
    ],
)
def test_a_config_that_would_be_run_wrong_is_refused(name, changes, message, checkpoint, tmp_path):
    with pytest.raises(CheckpointError, match=message):
        export(_configured(checkpoint(name), tmp_path / "c", **changes), tmp_path / "b", ExportOptions(recipe=QUICK))


def test_a_group_that_the_model_lacks_is_not_ignored(checkpoint, tmp_path):
    with pytest.raises(UsageError, match="--experts: .* has no such weights; it has --encoder, --backbone, --head"):
        export(checkpoint("whisper-dense"), tmp_path / "b", ExportOptions(recipe=QUICK, groups={"experts": "int4"}))


def test_a_folder_with_another_kind_of_manifest_is_kept(checkpoint, tmp_path):
    (tmp_path / "app").mkdir()
    (tmp_path / "app/manifest.json").write_text('{"name": "a web page"}')
    with pytest.raises(OutputError, match="is not a bundle"):
        export(checkpoint("whisper-dense"), tmp_path / "app", ExportOptions(recipe=QUICK, overwrite=True))
    assert (tmp_path / "app/manifest.json").exists()


def test_a_user_s_chunk_causal_model_gets_neither_name_nor_licence_of_ours(checkpoint, tmp_path):
    recipe = find_recipe(None, json.loads((checkpoint("whisper-experts") / "config.json").read_text()))
    assert (recipe.name, recipe.license, recipe.grid.mode) == ("", "", None)
    assert find_recipe(None, {"model_type": "whisper", "edgekit": {"recipe": "edgekit-tiny"}}).name == "edgekit-tiny"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"decoder_start_token_id": -1}, r"decoder_start_token_id|`\$\.protocol\.start\[0\]`, which is -1"),
        ({"decoder_start_token_id": 10**6}, "decoder_start_token_id is 1000000|token 1000000 of the protocol"),
    ],
)
def test_nothing_is_published_that_load_would_refuse(change, said, checkpoint, tmp_path):
    source = shutil.copytree(checkpoint("whisper-dense"), tmp_path / "c")
    for name in ("config.json", "generation_config.json"):
        published = json.loads((source / name).read_text())
        (source / name).write_text(json.dumps(published | change))
    with pytest.raises(CheckpointError, match=said) as error:
        export(source, tmp_path / "b", ExportOptions(recipe=QUICK, precision="float32"))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "b").exists()
