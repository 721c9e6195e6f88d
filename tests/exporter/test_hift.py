"""The exported vocoder against the torch twin's stored answers, and its transforms against numpy's.

Tolerance: samples are of the order 0.1 to 1. The source's phase is the sum of all pitches so far: a pitch of 200 Hz
that float32 rounds by 1e-5 is 5e-5 of a radian away after a second, nine times that in the ninth harmonic.
"""

import numpy as np
import pytest

from edgekit.errors import CheckpointError
from edgekit.exporter.families.step_audio.hift import HARMONICS, SAMPLES_PER_FRAME, HiFT, istft, stft
from edgekit.exporter.sources.checkpoint import check_names
from edgekit.runtime.speak.vocoder import HELD_FRAMES, Vocoder
from tests.exporter.vocoders import NONE, engine, speak, tensors, vocoder
from tests.reference import hift_case as case

TOLERANCE = 1e-4
PUBLISHED_PARAMETERS = 20_821_295  # of hift.pt, where every norm's lengths are stored beside its directions
LENGTHS = 14_738


@pytest.fixture(scope="module")
def golden():
    with np.load(case.GOLDEN) as stored:
        return dict(stored)


@pytest.fixture(scope="module", params=["ort-cpu", "ort-cuda", "standard"])
def loaded(request, tmp_path_factory):
    return vocoder(tmp_path_factory.mktemp("vocoder"), dialect=request.param)


def test_the_weights_are_those_the_golden_was_made_with(golden):
    assert case.digest(case.stored()) == golden["digest"]


@pytest.mark.parametrize("frames", [case.SHORTEST, case.WHOLE])
def test_samples_and_source_equal_the_reference(frames, golden, loaded):
    samples, source = speak(loaded, case.mel(frames), case.noise(frames * SAMPLES_PER_FRAME))
    np.testing.assert_allclose(source, golden[f"{frames}.source"], rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(samples, golden[f"{frames}.samples"], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("form", case.FORMS)
def test_both_forms_of_weight_norm_speak_alike(form, tmp_path, golden):
    samples, _ = speak(vocoder(tmp_path, form), case.mel(1), case.noise(SAMPLES_PER_FRAME))
    np.testing.assert_allclose(samples, golden["1.samples"], rtol=0, atol=TOLERANCE)


def test_sound_pushed_piece_by_piece_equals_the_published_stream(golden, loaded):
    stream = Vocoder(loaded, SAMPLES_PER_FRAME, case.NOISE_SEED)
    for _ in range(2):  # a second reply is spoken like the first
        out = pushed(stream, case.PIECES)
        held = np.cumsum(case.PIECES) - HELD_FRAMES
        assert np.cumsum([part.size for part in out[:-1]]).tolist() == [
            max(0, frames) * SAMPLES_PER_FRAME for frames in held[:-1]
        ]
        np.testing.assert_allclose(np.concatenate(out), golden["streamed"], rtol=0, atol=TOLERANCE)


def test_the_kept_source_is_the_beginning_of_the_next(loaded):
    kept = np.linspace(-0.5, 0.5, 700, dtype=np.float32)  # not a whole number of frames
    noise = case.noise(3 * SAMPLES_PER_FRAME)
    free, given = (speak(loaded, case.mel(3), noise[one.size :], one) for one in (NONE, kept))
    np.testing.assert_array_equal(given[1][:700], kept)
    np.testing.assert_array_equal(given[1][700:], free[1][700:])
    assert np.abs(given[0] - free[0]).max() > 100 * TOLERANCE


@pytest.mark.parametrize("samples", [12, 16, 480, 964])
def test_the_spectrum_is_that_of_numpy(samples, tmp_path):
    sound = np.random.default_rng(1).uniform(-1, 1, samples).astype(np.float32)

    def build(g, _):
        x = g.input("x", "float32", ("n",))
        g.output(stft(g, x), "spectrum", "float32", (1, 18, "columns"))

    found = engine(tmp_path, build).bind({}).run({"x": sound})["spectrum"][0]
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(sound.astype(np.float64), 8, mode="reflect"), 16)[::4]
    expected = np.fft.rfft(frames * np.hanning(17)[:16]).T
    np.testing.assert_allclose(found, np.concatenate([expected.real, expected.imag]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("samples", [12, 16, 480, 964])
def test_the_inverse_of_a_spectrum_is_its_sound_to_the_edges(samples, tmp_path):
    sound = np.random.default_rng(2).uniform(-1, 1, samples).astype(np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(sound.astype(np.float64), 8, mode="reflect"), 16)[::4]
    spectrum = np.fft.rfft(frames * np.hanning(17)[:16]).T[None]
    found = inverse(tmp_path, np.abs(spectrum), np.angle(spectrum))
    np.testing.assert_allclose(found, sound, rtol=0, atol=1e-5)


def test_the_edge_bins_count_once_and_their_imaginary_parts_not_at_all(tmp_path):
    magnitude, phase = np.zeros((1, 9, 4)), np.full((1, 9, 4), 0.7)
    magnitude[:, [0, 8]] = 1.0
    spectrum = (magnitude * np.exp(1j * phase))[0]
    window = np.hanning(17)[:16]
    added, weight = np.zeros(28), np.zeros(28)
    for index in range(4):
        added[4 * index : 4 * index + 16] += np.fft.irfft(spectrum[:, index].real) * window
        weight[4 * index : 4 * index + 16] += window**2
    found = inverse(tmp_path, magnitude, phase)
    np.testing.assert_allclose(found, (added / np.where(weight, weight, 1))[8:-8], rtol=0, atol=1e-6)


def test_a_magnitude_stops_at_a_hundred(tmp_path):
    magnitude, phase = np.full((1, 9, 4), 99.0), np.random.default_rng(3).uniform(-1, 1, (1, 9, 4))
    loud = inverse(tmp_path, magnitude, phase)
    louder = inverse(tmp_path, magnitude * 1e6, phase)
    assert np.abs(loud).max() > 10
    np.testing.assert_allclose(louder, loud * 100 / 99, rtol=0, atol=1e-4)


def test_the_published_size_has_the_published_parameters():
    expected = HiFT().expected()
    assert sum(int(np.prod(shape)) for shape in expected.values()) == PUBLISHED_PARAMETERS - LENGTHS
    assert expected["hift.ups.0.weight"] == (512, 256, 16)
    assert expected["hift.source_downs.0.weight"] == (256, 18, 30)
    assert all(HiFT().group(name) is None for name in expected)


def test_the_size_is_read_from_the_tensors():
    assert HiFT.of(tensors()) == case.SMALL
    check_names(tensors(), case.SMALL.expected())


@pytest.mark.parametrize("width", [0, 12])
def test_a_width_that_cannot_be_halved_three_times_is_refused(width):
    stored = {"hift.conv_pre.weight": np.zeros((width, 80, 7), np.float32)}
    stored["hift.f0_predictor.condnet.0.weight"] = np.zeros((24, 80, 3), np.float32)
    with pytest.raises(CheckpointError, match=r"conv_pre.weight: shape \[\d+, 80, 7\], .* multiple of 8 channels"):
        HiFT.of(case.Arrays(stored))


def test_no_op_of_the_graph_draws_numbers_or_computes_with_complex_ones(tmp_path):
    import onnx

    vocoder(tmp_path)
    ops = {node.op_type for node in onnx.load(tmp_path / "vocoder.onnx", load_external_data=False).graph.node}
    assert not ops & {"STFT", "DFT", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
    assert HARMONICS == 9


def pushed(stream, pieces):
    parts = np.split(case.mel(sum(pieces)), np.cumsum(pieces)[:-1])
    return [stream.push(part, last=index == len(pieces) - 1) for index, part in enumerate(parts)]


def inverse(folder, magnitude, phase):
    def build(g, _):
        values = [g.input(name, "float32", (1, 9, "columns")) for name in ("magnitude", "phase")]
        g.output(istft(g, *values), "x", "float32", ("n",))

    inputs = {"magnitude": magnitude.astype(np.float32, "C"), "phase": phase.astype(np.float32, "C")}
    return engine(folder, build).bind({}).run(inputs)["x"]
