"""A recording becomes a voice, with small graphs of the published signatures in the place of the published ones."""

import numpy as np
import onnx
import pytest
import soundfile
from onnx import TensorProto, helper, numpy_helper

from edgekit.errors import AudioError, CheckpointError
from edgekit.exporter.voice import (
    SPEAKER_MODEL,
    SPEECH_TOKENIZER,
    filter_bank,
    hearing_mel,
    log_mel,
    prepare_voice,
    speaker,
    speech_codes,
)
from edgekit.runtime.speak.voice import load_voice

PROJECTION = np.random.default_rng(1).uniform(-1, 1, (80, 192)).astype(np.float32)


def graph(path, nodes, inputs, output, *constants):
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants]
    made = helper.make_graph(nodes, "stand-in", inputs, [output], tensors)
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def tokenizer(path, kind=TensorProto.INT32, scale=100.0, step=4):
    """Write a tokenizer: the loudness of every fourth frame is its code, as many codes as the published one gives."""
    value = helper.make_tensor_value_info
    graph(
        path,
        [
            helper.make_node("Slice", ["feats", "zero", "end", "axis", "step"], ["some"]),
            helper.make_node("ReduceMean", ["some"], ["mean"], axes=[1], keepdims=0),
            helper.make_node("Abs", ["mean"], ["loud"]),
            helper.make_node("Mul", ["loud", "scale"], ["more"]),
            helper.make_node("Cast", ["more"], ["codes"], to=kind),
        ],
        [value("feats", TensorProto.FLOAT, [1, 128, "T"]), value("length", TensorProto.INT32, [1])],
        value("codes", kind, [1, "n"]),
        ("zero", np.array([0])), ("end", np.array([1 << 40])), ("axis", np.array([2])), ("step", np.array([step])),
        ("scale", np.float32(scale)),
    )  # fmt: skip


def speaker_model(path, scale=1.0):
    """Write a speaker model: the largest of each band, projected."""
    value = helper.make_tensor_value_info
    graph(
        path,
        [
            helper.make_node("ReduceMax", ["input"], ["most"], axes=[1], keepdims=0),
            helper.make_node("MatMul", ["most", "weight"], ["output"]),
        ],
        [value("input", TensorProto.FLOAT, [1, "T", 80])],
        value("output", TensorProto.FLOAT, [1, 192]),
        ("weight", PROJECTION * np.float32(scale)),
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    tokenizer(tmp_path / SPEECH_TOKENIZER)
    speaker_model(tmp_path / SPEAKER_MODEL)
    return tmp_path


def sound(seconds, rate):
    times = np.arange(round(seconds * rate)) / rate
    return (0.3 * np.sin(2 * np.pi * 220 * times) * np.sin(2 * np.pi * 1.3 * times) ** 2).astype(np.float32)


def record(path, samples, rate=24_000):
    soundfile.write(path, samples, rate, subtype="FLOAT")
    return path


@pytest.mark.parametrize("seconds", [1.0, 1.01, 1.019, 1.03, 1.234, 2.0])
def test_a_voice_has_two_mel_frames_for_a_code_whatever_its_length(seconds, folder):
    samples = sound(seconds, 24_000)
    voice = prepare_voice(folder, record(folder / "a.wav", samples))
    assert len(voice.codes) == -(-(round(seconds * 16_000) // 160) // 4)
    assert voice.codes.any()
    assert voice.mel.shape == (2 * len(voice.codes), 80)
    heard = log_mel(samples)
    short = min(len(heard), len(voice.mel))
    np.testing.assert_array_equal(voice.mel[:short], heard[:short])
    np.testing.assert_array_equal(voice.mel[short:], np.repeat(heard[-1:], len(voice.mel) - short, axis=0))
    assert voice.speaker.shape == (192,)
    assert voice.sample_rate_hz == 24_000
    voice.save(folder / "a.npz")
    np.testing.assert_array_equal(load_voice(folder / "a.npz", 24_000).mel, voice.mel)


@pytest.mark.parametrize(("rate", "channels"), [(16_000, 1), (44_100, 2), (48_000, 1)])
def test_another_rate_or_more_channels_sound_alike(rate, channels, folder):
    there = prepare_voice(folder, record(folder / "a.wav", sound(2.0, 24_000)))
    mono = sound(2.0, rate)
    apart = np.stack([mono * 1.5, mono * 0.5], axis=1) if channels == 2 else mono
    here = prepare_voice(folder, record(folder / "b.wav", apart, rate))
    assert np.abs(here.codes - there.codes).max() <= 1
    loud = there.mel > -5  # below lies what the resamplers leave
    assert loud.sum() > 400
    np.testing.assert_allclose(here.mel[loud], there.mel[loud], rtol=0, atol=0.1)


def test_the_speaker_is_told_bands_without_their_means(folder):
    samples = sound(1.5, 16_000)
    rows = filter_bank(samples)
    assert rows.shape == (148, 80)
    expected = (rows - rows.mean(axis=0)).max(axis=0) @ PROJECTION
    np.testing.assert_allclose(speaker(folder / SPEAKER_MODEL, samples), expected, rtol=1e-4)


@pytest.mark.parametrize("kind", [TensorProto.INT32, TensorProto.INT64])
def test_codes_may_be_of_either_width(kind, tmp_path):
    tokenizer(tmp_path / "a.onnx", kind)
    samples = sound(1.0, 16_000)
    codes = speech_codes(tmp_path / "a.onnx", samples)
    assert codes.dtype == np.int64
    np.testing.assert_array_equal(codes, (np.abs(hearing_mel(samples)[:, ::4].mean(axis=0)) * 100).astype(int))


@pytest.mark.parametrize(("rate", "seconds", "said"), [
    (15_999, 2.0, r"15999 Hz, a voice needs at least 16000; record it at 24000"),
    (8_000, 2.0, r"8000 Hz, a voice needs at least 16000"),
    (24_000, 0.99, r"0\.99 s, a voice needs 1 to 30; cut or record it anew"),
    (24_000, 30.01, r"30\.01 s, a voice needs 1 to 30"),
])  # fmt: skip
def test_a_recording_of_the_wrong_rate_or_length_is_refused(rate, seconds, said, folder):
    with pytest.raises(AudioError, match=said):
        prepare_voice(folder, record(folder / "a.wav", sound(seconds, rate), rate))


def test_a_recording_that_is_not_there_is_refused(folder):
    with pytest.raises(AudioError, match="none.wav: no such file"):
        prepare_voice(folder, folder / "none.wav")


@pytest.mark.parametrize("missing", [SPEECH_TOKENIZER, SPEAKER_MODEL])
def test_a_missing_or_damaged_graph_is_named(missing, folder):
    recording = record(folder / "a.wav", sound(1.0, 24_000))
    (folder / missing).write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(CheckpointError, match=f"{missing}: onnxruntime .* refuses it") as refusal:
        prepare_voice(folder, recording)
    assert "\n" not in str(refusal.value)
    (folder / missing).unlink()
    with pytest.raises(CheckpointError, match=f"{missing}: not there, a voice is prepared with it"):
        prepare_voice(folder, recording)


@pytest.mark.parametrize(("change", "said"), [
    ({"scale": 1e5}, "answers something else than codes below 6561"),
    ({"scale": -100.0}, "answers something else than codes below 6561"),
    ({"kind": TensorProto.FLOAT}, "answers something else than codes below 6561"),
    ({"step": 8}, r"13 codes for 1\.00 s, 25 a second are expected"),
    ({"step": 2}, r"50 codes for 1\.00 s, 25 a second are expected"),
])  # fmt: skip
def test_a_tokenizer_that_answers_otherwise_is_refused(change, said, folder):
    tokenizer(folder / SPEECH_TOKENIZER, **change)
    with pytest.raises(CheckpointError, match=f"{SPEECH_TOKENIZER}: {said}"):
        prepare_voice(folder, record(folder / "a.wav", sound(1.0, 24_000)))


@pytest.mark.parametrize("scale", [0.0, np.nan])
def test_a_speaker_model_that_says_nothing_is_refused(scale, folder):
    speaker_model(folder / SPEAKER_MODEL, scale)
    with pytest.raises(CheckpointError, match=f"{SPEAKER_MODEL}: answers no finite numbers"):
        prepare_voice(folder, record(folder / "a.wav", sound(1.0, 24_000)))


def test_a_graph_with_other_inputs_is_refused(folder):
    speaker_model(folder / SPEECH_TOKENIZER)
    with pytest.raises(CheckpointError, match=f"{SPEECH_TOKENIZER}: onnxruntime .* refuses it"):
        prepare_voice(folder, record(folder / "a.wav", sound(1.0, 24_000)))


@pytest.mark.parametrize("samples", [480, 959, 960, 24_000])
def test_silence_has_the_smallest_magnitude_and_a_frame_for_480_samples(samples):
    found = log_mel(np.zeros(max(samples, 721), np.float32))
    assert len(found) == max(samples, 721) // 480
    assert np.allclose(found, np.log(1e-5), atol=1.0)
