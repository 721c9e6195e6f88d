"""Exporting a Step-Audio 2 that speaks: what is written, what a config alone says, what is refused."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import edgekit
from edgekit.bundle import Sampling, open_bundle
from edgekit.cli import main
from edgekit.errors import AudioError, BundleFormatError, CheckpointError
from edgekit.exporter.export import ExportOptions, export, quantize
from edgekit.exporter.families.step_audio import FAMILY
from edgekit.exporter.families.step_audio.flow import RELEASED
from edgekit.exporter.families.step_audio.hift import HiFT
from edgekit.exporter.families.step_audio.token2wav import Token2Wav
from edgekit.exporter.sources.checkpoint import SideBySide, open_checkpoint, read
from edgekit.exporter.voice import SPEAKER_MODEL, SPEECH_TOKENIZER, prepare_voice
from edgekit.runtime.speak.voice import load_voice
from tests.exporter import pickles, speaking
from tests.exporter.test_export import QUICK
from tests.exporter.test_voice import speaker_model
from tests.reference import flow_weights, hift_case
from tests.reference.checkpoints import write_step_audio

SPEAKS = ("flow_encoder", "flow_step", "vocoder")
R1_TEMPLATE = "{% for m in messages %}{{ m }}{% endfor %}{% if add_generation_prompt %}{{ '<|BOT|>assistant\\n<think>\\n' }}{% endif %}"  # noqa: E501
NO_THOUGHT = (
    "{{ '</think>' }}{% if add_generation_prompt %}{{ '<|BOT|>assistant\\n<think>\\n\\n</think>\\n\\n' }}{% endif %}"
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return speaking.write(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def folder(whole, tmp_path):
    """Return a checkpoint that a test may change."""
    return shutil.copytree(whole, tmp_path / "checkpoint")


@pytest.fixture(scope="module")
def bundles(whole, tmp_path_factory):
    """Return the folder of a float and of an INT8 bundle of the checkpoint."""
    root = tmp_path_factory.mktemp("bundles")
    for precision in ("float32", "int8"):
        export(whole, root / precision, _options(precision))
    return root


def _options(precision="int8", **others):
    return ExportOptions(recipe=QUICK, precision=precision, **others)


def _change(path, **fields):
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def _config(folder, **token2wav):
    """Write a checkpoint's config alone, with a section of token2wav, and return its path."""
    alone = folder.with_name("alone")
    alone.mkdir()
    for name in ("config.json", "generation_config.json"):
        shutil.copy(folder / name, alone / name)
    _change(alone / "config.json", edgekit={"token2wav": token2wav})
    return alone / "config.json"


def test_a_checkpoint_with_token2wav_makes_a_bundle_that_speaks(bundles, whole):
    manifest = open_bundle(bundles / "int8").manifest
    tokens = json.loads((whole / "tokenizer.json").read_text())["added_tokens"]
    ids = {token["content"]: token["id"] for token in tokens}
    speech = manifest.speech
    assert set(manifest.components) == {"encoder", "adapter", "backbone", *SPEAKS}
    assert manifest.protocol.speak == "<tts_start>"
    assert manifest.protocol.vocabulary_limit == ids["<audio_start>"]
    assert (speech.first_code, speech.start, speech.end) == (ids["<audio_0>"], ids["<tts_start>"], ids["<tts_end>"])
    assert (speech.codes, speech.chunk_codes, speech.lookahead_codes, speech.steps) == (speaking.CODES, 25, 3, 10)
    assert (speech.sample_rate_hz, speech.samples_per_code) == (24_000, 960)
    assert speech.guidance == speaking.GUIDANCE
    assert speech.sampling == Sampling(temperature=0.7, top_p=0.9, repetition_penalty=1.05)


def test_the_census_shows_flow_in_int8_and_vocoder_in_float(bundles):
    manifest = open_bundle(bundles / "int8").manifest
    rows = {row.tensor: row for row in manifest.census if row.component in SPEAKS}
    opened = FAMILY.open(json.loads((bundles / "int8/config.json").read_text()), {})
    expected = [name for part in opened.parts[2:] for name in part.expected()]
    assert {name for name in rows if not name.endswith(".scale")} == set(expected)
    linears = {name for name in expected if opened.group(name) == "decoder"}
    assert {name for name, row in rows.items() if row.dtype == "uint8"} == linears
    assert len(linears) == 3 * 7 + 2 * 7  # a conformer layer has 7, a block of the transformer 7
    assert all(row.op == "MatMulNBits" and row.group == "decoder" for name in linears for row in [rows[name]])
    assert {rows[name].component for name in linears} == {"flow_encoder", "flow_step"}
    assert {row.dtype for row in rows.values() if row.component == "vocoder"} == {"float32"}
    assert [manifest.components[name].precision for name in SPEAKS] == ["int8", "int8", "float32"]


def test_each_recording_becomes_a_voice_of_its_name(bundles, whole):
    opened = open_bundle(bundles / "int8")
    listed = {entry.path for entry in opened.manifest.files}
    assert list(opened.manifest.speech.voices) == ["default_female", "default_male"]
    for name, path in opened.manifest.speech.voices.items():
        assert path in listed
        found = load_voice(opened.file(path), 24_000)
        made = prepare_voice(whole / "token2wav", whole / "assets" / f"{name}.wav")
        np.testing.assert_array_equal(found.codes, made.codes)
        np.testing.assert_array_equal(found.mel, made.mel)
        np.testing.assert_array_equal(found.speaker, made.speaker)


def test_quantizing_a_float_bundle_gives_the_bytes_of_exporting_straight(bundles, tmp_path):
    quantised = quantize(bundles / "float32", tmp_path / "q", ExportOptions(precision="int8"))
    assert (tmp_path / "q/manifest.json").read_bytes() == (bundles / "int8/manifest.json").read_bytes()
    for entry in quantised.files:
        assert (tmp_path / "q" / entry.path).read_bytes() == (bundles / "int8" / entry.path).read_bytes(), entry.path


def test_tensors_have_their_names_in_the_pickles_behind_the_name_of_their_part(whole):
    found = FAMILY.beside(open_checkpoint(whole), Path)
    assert found.tensors.names() == set(FAMILY.open(found.config, {}).expected())
    stored = flow_weights.draw(speaking.FLOW, 3).arrays["flow.encoder_proj.weight"]
    np.testing.assert_array_equal(read(found.tensors, "flow.encoder_proj.weight"), stored)
    bias = hift_case.stored()["generator.conv_pre.bias"]
    np.testing.assert_array_equal(read(found.tensors, "hift.conv_pre.bias"), bias)


def test_two_sources_may_not_hold_the_same_tensor():
    one = flow_weights.Arrays({"a": np.zeros(1, np.float32)})
    with pytest.raises(CheckpointError, match="^a: is in two files"):
        SideBySide(one, one)


def test_a_checkpoint_without_token2wav_writes_only(folder, tmp_path, capsys):
    shutil.rmtree(folder / "token2wav")
    manifest = export(folder, tmp_path / "b", _options())
    assert manifest.speech is None
    assert tuple(manifest.components) == ("encoder", "adapter", "backbone")
    assert manifest.protocol.speak == ""
    assert "edgekit" not in json.loads((tmp_path / "b/config.json").read_text())
    assert capsys.readouterr().err == ""


def test_a_checkpoint_without_any_recording_writes_only_and_says_so(folder, tmp_path, caplog, capsys):
    for path in (folder / "assets").iterdir():
        path.unlink()
    message = f"{folder}: no assets/*.wav to take a voice from; the bundle will write and not speak"
    assert export(folder, tmp_path / "b", _options()).speech is None
    assert [record.message for record in caplog.records] == [message]
    assert capsys.readouterr() == ("", "")
    with pytest.raises(SystemExit) as end:
        main(["export", str(folder), "-o", str(tmp_path / "c"), "--precision", "int8", "--recipe", str(QUICK)])
    assert end.value.code == 0
    assert capsys.readouterr().err.splitlines()[0] == f"edgekit: {message}"


def _remove(name):
    return lambda folder: (folder / name).unlink()


def _no_mark(folder):
    text = (folder / "tokenizer.json").read_text().replace("<tts_start>", "<tts_begin>")
    (folder / "tokenizer.json").write_text(text)


def _slow(folder):
    speaking.record(folder / "assets/default_male.wav", 110, rate=8_000)


def _extra(folder):
    arrays = {name.removeprefix("flow."): one for name, one in flow_weights.draw(speaking.FLOW, 3).arrays.items()}
    pickles.save(folder / "token2wav/flow.pt", arrays | {"decoder.more": np.ones(2, np.float32)})


def _lacking(folder):
    arrays = hift_case.stored()
    del arrays["generator.conv_post.bias"]
    pickles.save(folder / "token2wav/hift.pt", arrays)


def _bands(folder):
    pickles.save(folder / "token2wav/hift.pt", hift_case.stored(HiFT(mel_bins=64, width=32, f0_width=24)))


def _more_codes(folder):
    conformer = dataclasses.replace(speaking.FLOW.conformer, codes=speaking.CODES + 4)
    arrays = flow_weights.draw(dataclasses.replace(speaking.FLOW, conformer=conformer), 3).arrays
    pickles.save(folder / "token2wav/flow.pt", {name.removeprefix("flow."): one for name, one in arrays.items()})
    (folder / "token2wav/flow.yaml").unlink()


@pytest.mark.parametrize(
    ("spoil", "error", "said"),
    [
        (_remove("token2wav/hift.pt"), CheckpointError, r"hift\.pt: missing, flow\.pt is there; fetch the whole"),
        (_remove("token2wav/flow.pt"), CheckpointError, r"flow\.pt: missing, hift\.pt is there; fetch the whole"),
        (_remove(f"token2wav/{SPEECH_TOKENIZER}"), CheckpointError, f"{SPEECH_TOKENIZER}: not there"),
        (_remove(f"token2wav/{SPEAKER_MODEL}"), CheckpointError, f"{SPEAKER_MODEL}: not there"),
        (_slow, AudioError, r"default_male\.wav: 8000 Hz, a voice needs at least 16000"),
        (_no_mark, CheckpointError, "no special token <tts_start>, this family needs it"),
        (_extra, CheckpointError, r"flow\.decoder\.more: shape \[2\], not expected by this family"),
        (_lacking, CheckpointError, r"hift\.conv_post\.bias: missing, expected with shape \[18\]"),
        (_bands, CheckpointError, "the flow makes 80 mel bins, the vocoder reads 64"),
        (_more_codes, CheckpointError, "<audio_0> is 412, 101 codes from there end at 513, the vocabulary at 512"),
    ],
)
def test_what_does_not_fit_is_one_line_and_leaves_nothing(spoil, error, said, folder, tmp_path):
    spoil(folder)
    with pytest.raises(error, match=said) as refusal:
        export(folder, tmp_path / "out" / "b", _options())
    assert "\n" not in str(refusal.value)
    assert not list(tmp_path.glob("out/*"))


def test_a_voice_of_other_sizes_than_the_flows_is_refused(folder, tmp_path):
    from onnx import load, numpy_helper, save

    model = load(folder / "token2wav" / SPEAKER_MODEL)
    weight = model.graph.initializer[0]
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight)[:, :190], weight.name))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 190
    save(model, folder / "token2wav" / SPEAKER_MODEL)
    with pytest.raises(BundleFormatError, match="speaker numbers 190, this bundle wants 192"):
        export(folder, tmp_path / "b", _options())
    assert not (tmp_path / "b").exists()


def test_a_voice_of_the_wrong_rate_is_refused_when_it_is_to_speak(bundles, tmp_path):
    made = shutil.copytree(bundles / "int8", tmp_path / "b")
    path = made / "voices/default_male.npz"
    voice = load_voice(path, 24_000)
    type(voice)(voice.codes, voice.mel, voice.speaker, 16_000).save(path)
    with pytest.raises(BundleFormatError, match="does not match its SHA-256"):
        open_bundle(made)
    model = edgekit.load(made, threads=1, verify_hashes=False, speak=True)
    with pytest.raises(BundleFormatError, match="a voice at 16000 Hz, this bundle speaks at 24000"):
        model.stream(speak=True, voice="default_male")
    model.stream(speak=True)


def test_a_voice_that_is_named_must_be_listed(bundles, tmp_path):
    made = shutil.copytree(bundles / "int8", tmp_path / "b")
    manifest = json.loads((made / "manifest.json").read_text())
    del manifest["checksum"]
    manifest["speech"]["voices"]["ghost"] = "voices/ghost.npz"
    (made / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleFormatError, match=r"'voices/ghost\.npz' is used by a component but not listed"):
        open_bundle(made)


@pytest.mark.parametrize(
    ("file", "content", "usual"),
    [
        (None, None, False),
        ("tokenizer_config.json", {"chat_template": R1_TEMPLATE}, True),
        ("tokenizer_config.json", {"chat_template": [{"name": "default", "template": R1_TEMPLATE}]}, True),
        ("tokenizer_config.json", {"chat_template": NO_THOUGHT}, False),
        ("tokenizer_config.json", {}, False),
        ("chat_template.jinja", R1_TEMPLATE.replace("\\n", "\n"), True),
        ("chat_template.jinja", "{{ messages }}", False),
    ],
)
def test_whether_a_thought_is_usual_is_read_from_the_chat_template(file, content, usual, tmp_path):
    folder = write_step_audio(tmp_path / "c", speaking.SHAPE)
    if file:
        (folder / file).write_text(content if isinstance(content, str) else json.dumps(content))
    export(folder, tmp_path / "f", _options("float32"))
    for manifest in (open_bundle(tmp_path / "f").manifest, quantize(tmp_path / "f", tmp_path / "q")):
        thinking = manifest.protocol.thinking
        assert thinking.usual == usual
        # R1's reply begins with the tag, -Think's with an empty line.
        assert thinking.open == ("<think>\n" if usual else "\n<think>\n")
        assert manifest.protocol.max_tokens == (2048 if usual else 512)


def test_a_config_that_says_nothing_of_token2wav_is_of_a_model_that_writes(folder):
    opened = FAMILY.open(json.loads((folder / "config.json").read_text()), {})
    assert tuple(opened.components) == ("encoder", "adapter", "backbone")


def test_what_a_config_does_not_say_of_token2wav_is_as_released():
    made = Token2Wav.told({})
    assert (made.flow.shape, made.flow.guidance, made.vocoder) == (RELEASED, 0.7, HiFT())
    other = Token2Wav.told({"conformer": {"layers": [2, 1]}, "guidance": 1})
    assert other.flow.shape.conformer.layers == (2, 1)
    assert other.flow.shape.dit == RELEASED.dit
    assert Token2Wav.told(other.section()).section() == other.section()


@pytest.mark.parametrize(
    ("section", "said"),
    [
        (True, "edgekit.token2wav: must be an object"),
        ({"flow": {}}, "edgekit.token2wav.flow: is not known"),
        ({"guidance": "0.7"}, "token2wav.guidance: must be a number above 0"),
        ({"guidance": 0}, "token2wav.guidance: must be a number above 0"),
        ({"dit": 3}, "token2wav.dit: must be an object"),
        ({"dit": {"depth": 3}}, "token2wav.dit: has no 'depth'"),
        ({"dit": {"layers": "3"}}, "token2wav.dit: Expected `int`, got `str`"),
        ({"conformer": {"heads": 5}}, "width 512 is not divided by heads 5"),
        ({"vocoder": {"mel_bins": 64}}, "the flow makes 80 mel bins, the vocoder reads 64"),
    ],
)
def test_a_section_that_cannot_be_is_one_line(section, said, folder):
    config = json.loads((folder / "config.json").read_text()) | {"edgekit": {"token2wav": section}}
    with pytest.raises(CheckpointError, match=said) as refusal:
        FAMILY.open(config, {})
    assert "\n" not in str(refusal.value)


def test_a_dummy_of_a_config_that_speaks_has_the_census_of_the_real_bundle_and_speaks(bundles, folder, tmp_path):
    section = json.loads((bundles / "int8/config.json").read_text())["edgekit"]["token2wav"]
    made = export(_config(folder, **section), tmp_path / "d", _options(dummy_weights=True))
    real = open_bundle(bundles / "int8").manifest
    assert made.census == real.census
    assert made.components == real.components
    assert list(made.speech.voices) == ["dummy"]
    model = edgekit.load(tmp_path / "d", threads=1, speak=True)
    events = model.stream(speak=True).ask("hello there")
    sounds = [event.samples for event in events if hasattr(event, "samples")]
    assert sum(len(sound) for sound in sounds) > 24_000
    assert all(np.isfinite(sound).all() for sound in sounds)
    export(folder.with_name("alone"), tmp_path / "f", _options("float32", dummy_weights=True))
    assert quantize(tmp_path / "f", tmp_path / "q", ExportOptions(precision="int8")) == made


def test_a_dummy_without_room_for_its_codes_is_refused(folder, tmp_path):
    with pytest.raises(CheckpointError, match="vocab_size 512, more than 6567 are needed"):
        export(_config(folder), tmp_path / "d", _options(dummy_weights=True))


def test_a_speaker_model_is_only_asked_where_it_is_to_speak(folder, tmp_path):
    shutil.rmtree(folder / "token2wav")
    (folder / "token2wav").mkdir()
    speaker_model(folder / "token2wav" / SPEAKER_MODEL)
    assert export(folder, tmp_path / "b", _options()).speech is None
