"""Qwen3-Omni as a whole: which components, tables and ids its config makes, and which configs are refused."""

import json
import re
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import edgekit
from edgekit.bundle import Bundle, open_bundle
from edgekit.errors import CheckpointError, QualityError
from edgekit.exporter.checks.weight_check import check_weights
from edgekit.exporter.dialects import DIALECTS
from edgekit.exporter.dummy import open_dummy
from edgekit.exporter.export import ExportOptions, export
from edgekit.exporter.families import find_family
from edgekit.exporter.families.qwen3_omni.family import FAMILY, open_qwen3_omni
from edgekit.exporter.options import find_recipe
from edgekit.exporter.sources.checkpoint import open_checkpoint
from edgekit.exporter.tables import JoinedTensors, written_bundle
from tests.exporter.parts import Held
from tests.exporter.test_export import QUICK
from tests.reference import qwen3_omni as omni

HEARS = ("encoder", "adapter", "backbone")
SPEAKS = ("talker_adapter", "talker", "code_predictor", "decoder")
TABLES = "talker.code_predictor.model.codec_embedding"


def _changed(changes):
    """Return the config with the value at each dotted path replaced."""
    found = json.loads(json.dumps(omni.config()))
    for path, one in changes.items():
        *parents, last = path.split(".")
        held = found
        for parent in parents:
            held = held[parent]
        held[last] = one
    return found


def _opened(source):
    return find_family(source.config).open(source.config, source.generation)


def test_a_config_with_a_talker_speaks_and_one_without_hears_only(checkpoint, tmp_path):
    spoken = export(checkpoint("omni"), tmp_path / "spoken", ExportOptions(recipe=QUICK))
    written = export(checkpoint("omni-thinker"), tmp_path / "written", ExportOptions(recipe=QUICK))
    assert tuple(spoken.components) == (*HEARS, *SPEAKS)
    assert tuple(written.components) == HEARS
    assert written.speech is None
    assert "decoder" not in written.precision
    outputs = [
        [spec.name for spec in one.components["backbone"].outputs if spec.state == "none"] for one in (spoken, written)
    ]
    assert outputs == [["logits", "hidden"], ["logits"]]
    assert spoken.protocol.thinking is None
    assert written.protocol.thinking is not None


def test_an_audio_output_that_is_switched_off_leaves_the_talkers_weights_unused(checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint("omni"), tmp_path / "c")
    (folder / "config.json").write_text(json.dumps(_changed({"enable_audio_output": False})))
    manifest = export(folder, tmp_path / "b", ExportOptions(recipe=QUICK))
    assert tuple(manifest.components) == HEARS
    assert not [row for row in manifest.census if row.tensor.startswith(("talker.", "code2wav."))]


def test_what_speaks_has_the_precision_of_its_own_group(checkpoint, tmp_path):
    options = ExportOptions(recipe=QUICK, precision="int8", groups={"decoder": "int4", "head": "float32"})
    manifest = export(checkpoint("omni"), tmp_path / "b", options)
    kinds = {name: part.precision for name, part in manifest.components.items()}
    assert kinds == dict.fromkeys(HEARS, "int8") | dict.fromkeys(SPEAKS, "int4")
    found = {(row.group, row.dtype) for row in manifest.census if not row.tensor.endswith(".scale")}
    assert found == {
        ("encoder", "int8"), ("backbone", "uint8"), ("experts", "uint8"), ("head", "float32"),
        ("decoder", "uint8 (4 bit)"), ("float", "float32"),
    }  # fmt: skip
    floats = [row.tensor for row in manifest.census if row.group == "float" and row.op in ("Gemm", "MatMul")]
    # the decoder's convolutions of one frame stay float
    assert {name for name in floats if not name.startswith("code2wav.")} == {
        f"thinker.model.layers.{i}.mlp.gate.weight" for i in range(3)
    } | {f"talker.model.layers.{i}.mlp.{part}.weight" for i in range(2) for part in ("gate", "shared_expert_gate")}


@pytest.mark.parametrize("precision", ["float32", "int8", "int4"])
def test_tables_of_codes_hold_the_checkpoints_rows_one_after_another(precision, checkpoint, tmp_path):
    manifest = export(checkpoint("omni"), tmp_path / "b", ExportOptions(recipe=QUICK, precision=precision))
    rows = {row.component: row for row in manifest.census if row.op == "Lookup" and not row.tensor.endswith(".scale")}
    assert {name: row.tensor for name, row in rows.items()} == {
        "embedding": "thinker.model.embed_tokens.weight",
        "codec_table": "talker.model.codec_embedding.weight",
        "code_table": f"{TABLES}.0-2.weight",
    }
    held = load_file(checkpoint("omni") / "model.safetensors")
    wanted = np.concatenate([held[f"{TABLES}.{index}.weight"] for index in range(3)])
    assert rows["code_table"].float32_bytes == wanted.nbytes
    found = _looked_up(open_bundle(tmp_path / "b"), manifest.speech.code_table)
    # half a step of INT8; of INT4 the largest weights are cut, 9.5 steps to 7 at most
    share = {"float32": 1e-9, "int8": 0.5005 / 127, "int4": 2.5 / 9.5}[precision]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=np.abs(wanted).max() * share)
    assert np.sqrt(np.mean(np.square(found - wanted)) / np.mean(np.square(wanted))) < (
        0.12 if precision == "int4" else 0.01
    )


def _looked_up(bundle: Bundle, embedding):
    """Return a whole table as the manifest describes it."""
    from edgekit.exporter.quantize import dequantize_blocks

    arrays = [
        np.fromfile(bundle.file(ref.file), ref.dtype, int(np.prod(ref.shape)), offset=ref.offset).reshape(ref.shape)
        for ref in (embedding.weight, embedding.scales)
        if ref
    ]
    return arrays[0] if embedding.bits == 32 else dequantize_blocks(*arrays, embedding.bits, embedding.width)


@pytest.mark.parametrize("cut", [0, 1, 63, 64, 65, 127, 191, 192])
def test_a_joined_table_is_read_alike_by_any_blocks(cut, checkpoint):
    source = open_checkpoint(checkpoint("omni"))
    joined = JoinedTensors(source, _opened(source))
    name = f"{TABLES}.0-2.weight"
    assert joined.shape(name) == (192, 32)
    assert joined.names() == source.names() | {name}
    whole = np.concatenate([source.rows(f"{TABLES}.{index}.weight", 0, 64) for index in range(3)])
    np.testing.assert_array_equal(joined.rows(name, 0, 192), whole)
    np.testing.assert_array_equal(np.concatenate([joined.rows(name, 0, cut), joined.rows(name, cut, 192)]), whole)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (f"{TABLES}.0.weight", f"{TABLES}.1.weight"),
        ("talker.model.layers.1.mlp.experts.3.up_proj.weight", "talker.model.layers.1.mlp.experts.4.up_proj.weight"),
        ("thinker.model.layers.2.mlp.experts.0.up_proj.weight", "thinker.model.layers.2.mlp.experts.7.up_proj.weight"),
        ("talker.code_predictor.lm_head.0.weight", "talker.code_predictor.lm_head.2.weight"),
        ("talker.text_projection.linear_fc1.weight", "talker.hidden_projection.linear_fc1.weight"),
    ],
)
@pytest.mark.parametrize("precision", ["float32", "int8", "int4"])
def test_a_bundle_of_a_checkpoint_with_two_tensors_swapped_is_told_apart(one, other, precision, checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint("omni"), tmp_path / "c")
    tensors = load_file(folder / "model.safetensors")
    tensors[one], tensors[other] = tensors[other], tensors[one]
    save_file(tensors, folder / "model.safetensors")
    manifest = export(folder, tmp_path / "b", ExportOptions(recipe=QUICK, precision=precision))
    source = open_checkpoint(checkpoint("omni"))
    opened = _opened(source)
    weights = written_bundle(
        tmp_path / "b", opened, DIALECTS.get(manifest.dialect), manifest.components, manifest.tables()
    )
    with pytest.raises(QualityError, match="does not hold this checkpoint"):
        check_weights(opened, weights, source, lambda _done, _total: None)


def test_speech_takes_text_ids_from_the_tokenizer_and_codec_ids_from_the_config(checkpoint, tmp_path):
    speech = export(checkpoint("omni"), tmp_path / "b", ExportOptions(recipe=QUICK)).speech
    ids = omni.tokens()
    assert speech.turn_start == ids["<|im_start|>"]
    assert speech.roles == {role: ids[role] for role in ("system", "user", "assistant")}
    assert (speech.tts_pad, speech.tts_bos, speech.tts_eos) == tuple(
        ids[mark] for mark in ("<tts_pad>", "<tts_text_bos>", "<tts_text_eod>")
    )
    assert (speech.codec_pad, speech.codec_bos, speech.codec_eos) == (64, 65, 66)
    assert (speech.codec_nothink, speech.codec_think_bos, speech.codec_think_eos) == (67, 68, 69)
    assert speech.speakers == {"ethan": 70, "chelsie": 71}
    assert speech.speaker == "ethan"  # transformers' generate(speaker="Ethan")
    assert set(speech.codec_suppress) == set(range(64, 1088)) - {66}
    assert (speech.codebooks, speech.codebook_size, speech.samples_per_frame) == (4, 64, 1920)
    assert (speech.context_frames, speech.max_frames) == (512, 256)


def test_the_turns_are_chatml_and_end_at_its_mark(checkpoint, tmp_path):
    manifest = export(checkpoint("omni"), tmp_path / "b", ExportOptions(recipe=QUICK))
    protocol = manifest.protocol
    assert protocol.stop == (omni.tokens()["<|im_end|>"],)
    whole = protocol.opening + protocol.before + protocol.after + protocol.reply
    assert whole == (
        "<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n<|audio_start|><|audio_end|>{prompt}<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    encoded = edgekit.load(tmp_path / "b", threads=1).tokenizer.encode(protocol.reply)
    assert encoded[:2] == [omni.tokens()["<|im_start|>"], omni.tokens()["assistant"]]


def test_a_bundle_that_speaks_still_writes(checkpoint, tmp_path):
    export(checkpoint("omni"), tmp_path / "b", ExportOptions(recipe=QUICK, precision="int4"))
    sound = np.random.default_rng(4).uniform(-0.3, 0.3, 20_000).astype(np.float32)
    told = edgekit.load(tmp_path / "b", threads=1).transcribe(sound, gate="off", max_tokens=5)
    assert len(told.segments) == 1
    assert 1 <= len(told.segments[0].tokens) <= 5


def test_the_recipe_is_found_by_the_architecture():
    assert find_recipe(None, omni.config()).kind("decoder") == "int8"
    assert find_recipe("qwen3-omni-30b", {}).int4.keeps == {"encoder": "int8", "head": "int8", "decoder": "int8"}


def test_experts_per_token_make_the_levels_of_a_published_size():
    opened = open_qwen3_omni(_changed({"thinker_config.text_config.num_experts_per_tok": 8}), {})
    assert [level.experts_per_token for level in opened.levels] == [None, 2, 3, 4, 8]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"thinker_config": 3}, "'thinker_config' is int, must be an object"),
        ({"thinker_config.text_config.rope_theta": None}, "'rope_theta' is None, must be float"),
        (
            {"thinker_config.text_config.rope_scaling.rope_type": "yarn"},
            "text_config.rope_scaling is .*, only plain rotary",
        ),
        ({"thinker_config.text_config.model_type": "qwen9"}, "thinker_config.text_config.model_type 'qwen9'"),
        (
            {"thinker_config.text_config.mlp_only_layers": [0]},
            r"mlp_only_layers is \[0\], every layer must have experts; take",
        ),
        ({"thinker_config.text_config.num_experts_per_tok": 9}, "'num_experts_per_tok' is 9, must be from 1 to"),
        ({"thinker_config.audio_config.output_dim": 32}, "output_dim 32 differs from text_config.hidden_size 64"),
        ({"talker_config.text_config.norm_topk_prob": None}, "'norm_topk_prob' is None, must be bool"),
        ({"talker_config.text_config.vocab_size": 1024}, "vocab_size is 1024, its last 1024 are no codes"),
        ({"talker_config.thinker_hidden_size": 32}, "thinker_hidden_size is 32, the other parts have 64"),
        ({"talker_config.code_predictor_config.hidden_size": 64}, "hidden_size is 64, the other parts have 32"),
        ({"talker_config.code_predictor_config.num_code_groups": 3}, "num_code_groups is 3, the other parts have 4"),
        ({"talker_config.code_predictor_config.layer_types": ["sliding_attention"]}, "only full attention"),
        (
            {"talker_config.codec_eos_token_id": 1088},
            "talker_config.codec_eos_token_id is 1088, its vocabulary has 1088",
        ),
        ({"talker_config.speaker_id": {}}, "speaker_id names no voice"),
        ({"talker_config.speaker_id": {"x": -1}}, "speaker_id.x is -1"),
        ({"tts_pad_token_id": 544}, "tts_pad_token_id is 544, its vocabulary has 544"),
        ({"tts_bos_token_id": None}, "'tts_bos_token_id' is None"),
        ({"talker_config.accept_hidden_layer": 4}, "accept_hidden_layer 4; 2 or more and 0 to 3 are possible"),
        ({"code2wav_config.num_quantizers": 5}, "makes 4 codes of 64, the first of 64, code2wav_config reads 5 of 64"),
        ({"code2wav_config.codebook_size": 32}, "code2wav_config reads 4 of 32"),
    ],
)
def test_a_config_whose_parts_do_not_fit_is_one_line(changes, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        FAMILY.bind(_changed(changes), {})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("mark", ["<|audio_end|>", "<|im_start|>"])
def test_a_tokenizer_without_a_mark_is_refused_before_any_weight_is_read(mark, checkpoint, tmp_path, monkeypatch):
    folder = shutil.copytree(checkpoint("omni"), tmp_path / "c")
    text = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(text.replace(mark, "<|other|>"))
    monkeypatch.setattr("edgekit.exporter.build.Weights", None)
    with pytest.raises(CheckpointError, match=f"no special token {re.escape(mark)}, this family needs it"):
        export(folder, tmp_path / "b", ExportOptions(recipe=QUICK))


def test_what_speaks_is_missing_by_name_where_the_config_promises_it(checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint("omni-thinker"), tmp_path / "c")
    (folder / "config.json").write_text(json.dumps(omni.config()))
    with pytest.raises(CheckpointError, match=r"code2wav\..*: missing \(and \d+ more\)"):
        export(folder, tmp_path / "b", ExportOptions(recipe=QUICK))


@pytest.mark.parametrize("name", ["talker.model.layers.9.mlp.gate.weight", "code2wav.other.weight", "thinker.x.weight"])
def test_a_tensor_that_no_part_knows_is_refused_and_those_of_images_are_not(name, checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint("omni"), tmp_path / "c")
    tensors = load_file(folder / "model.safetensors")
    assert any(one.startswith("thinker.visual.") for one in tensors)
    save_file(tensors | {name: np.zeros(3, np.float32)}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=f"{re.escape(name)}: shape .* not expected"):
        export(folder, tmp_path / "b", ExportOptions(recipe=QUICK))


def test_a_dummy_of_the_config_speaks_the_same_ids(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(omni.config()))
    made = open_dummy(tmp_path / "config.json")
    manifest = export(tmp_path / "config.json", tmp_path / "b", ExportOptions(recipe=QUICK, dummy_weights=True))
    assert manifest.speech.speakers == {"ethan": 70, "chelsie": 71}
    assert manifest.dummy_seed is not None
    joined = JoinedTensors(made.tensors, made.opened)
    np.testing.assert_array_equal(
        joined.rows(f"{TABLES}.0-2.weight", 64, 128), made.tensors.rows(f"{TABLES}.1.weight", 0, 64)
    )


def test_sources_without_the_parts_of_a_table_are_passed_on():
    held = Held({"a": np.ones((2, 3), np.float32)})
    joined = JoinedTensors(held, open_qwen3_omni(omni.config(), {}))
    assert joined.names() == {"a"}
    assert joined.shape("a") == (2, 3)
