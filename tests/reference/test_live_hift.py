"""The exported vocoder and its parts against the torch twin, which computes in float64.

Tolerance: see tests/exporter/test_hift.py. Given the same source the samples are within 1e-6; pitches of up to 300 Hz
are within 1e-4 Hz, float32's rounding of sums of such numbers.
"""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edgekit.exporter.families.step_audio.hift import HARMONICS, SAMPLES_PER_FRAME, HiFT, _source, istft, stft  # noqa: E402
from edgekit.runtime.speak.vocoder import Vocoder  # noqa: E402
from tests.exporter.vocoders import engine, speak, vocoder  # noqa: E402
from tests.reference import hift_case as case  # noqa: E402
from tests.reference.hift_golden import make, streamed  # noqa: E402
from tests.reference.hift_twin import HiFTTwin  # noqa: E402

pytestmark = pytest.mark.reference
TOLERANCE = 1e-4
FRAMES = [1, 2, 7, 24, 58]


@pytest.fixture(scope="module")
def twin():
    torch.set_num_threads(1)
    return HiFTTwin(case.stored())


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return vocoder(tmp_path_factory.mktemp("vocoder"))


def test_the_stored_golden_is_what_the_twin_answers():
    with np.load(case.GOLDEN) as stored:
        fresh = make()
        assert stored.files == list(fresh)
        assert stored["digest"] == fresh["digest"]
        for key in stored.files[1:]:
            np.testing.assert_allclose(stored[key], fresh[key], rtol=0, atol=1e-5, err_msg=key)


def test_the_sounds_of_the_tests_are_voiced_and_unvoiced_and_in_range(twin):
    mel = torch.tensor(case.mel(58)).double().T[None]
    pitch = twin.f0(mel).numpy()
    assert 0.02 < (pitch < 10).mean() < 0.5
    assert np.abs(pitch - 10).min() > 0.01  # rounding decides no voicing
    assert 150 < pitch.max() < 400
    samples, source = twin.speak(case.mel(58), case.noise(58 * SAMPLES_PER_FRAME))
    assert 0.1 < np.abs(samples).max() < 0.99
    assert 0.1 < np.abs(source).max() < 0.99


@pytest.mark.parametrize("frames", FRAMES)
def test_samples_and_source_equal_the_twin(frames, twin, loaded):
    mel, noise = case.mel(frames), case.noise(frames * SAMPLES_PER_FRAME)
    for found, expected in zip(speak(loaded, mel, noise), twin.speak(mel, noise), strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("frames", FRAMES)
def test_samples_of_a_given_source_equal_the_twin(frames, twin, loaded):
    mel, noise = case.mel(frames), case.noise(frames * SAMPLES_PER_FRAME)
    expected, source = twin.speak(mel, noise)
    found, _ = speak(loaded, mel, np.zeros((0, HARMONICS), np.float32), source)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("frames", FRAMES)
def test_pitches_equal_the_twin(frames, twin, tmp_path):
    def build(g, w):
        mel = g.input("mel", "float32", (1, 80, "frames"))
        g.output(HiFT.of(w.source)._f0(g, w, mel), "f0", "float32", ("frames", 1))

    mel = np.ascontiguousarray(case.mel(frames).T[None])
    found = engine(tmp_path, build).bind({}).run({"mel": mel})["f0"][:, 0]
    np.testing.assert_allclose(found, twin.f0(torch.tensor(mel).double())[0], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("kept", [0, 1, 480, 3840])
def test_the_source_of_given_pitches_equals_the_twin_for_four_seconds(kept, twin, tmp_path):
    draws = np.random.default_rng(9)
    pitch = draws.uniform(60, 400, 200).astype(np.float32)
    pitch[draws.uniform(size=200) < 0.2] = 3.0
    noise = draws.standard_normal((200 * SAMPLES_PER_FRAME, HARMONICS), np.float32)

    def build(g, w):
        shapes = {"f0": ("frames", 1), "kept": ("kept",), "noise": ("new", HARMONICS)}
        values = [g.input(name, "float32", shape) for name, shape in shapes.items()]
        g.output(_source(g, w, *values), "source", "float32", ("new",))

    inputs = {"f0": pitch[:, None], "kept": np.zeros(kept, np.float32), "noise": noise[kept:]}
    found = engine(tmp_path, build).bind({}).run(inputs)["source"]
    expected = twin.source(torch.tensor(pitch).double()[None], torch.tensor(noise))[0, kept:]
    np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("pieces", [(8, 1), (9, 10, 1, 28, 2), (58,)], ids=str)
def test_sound_pushed_piece_by_piece_equals_the_published_stream(pieces, twin, loaded):
    expected = streamed(twin, pieces, seed=4)
    stream = Vocoder(loaded, SAMPLES_PER_FRAME, seed=4)
    parts = np.split(case.mel(sum(pieces)), np.cumsum(pieces)[:-1])
    for index, (part, whole) in enumerate(zip(parts, expected, strict=True)):
        np.testing.assert_allclose(
            stream.push(part, last=index == len(pieces) - 1), whole, rtol=0, atol=TOLERANCE, err_msg=str(index)
        )


@pytest.mark.parametrize("samples", [480, 27_840])
def test_both_transforms_equal_the_twin(samples, twin, tmp_path):
    draws = np.random.default_rng(6)
    sound = draws.uniform(-1, 1, samples).astype(np.float32)
    columns = samples // 4 + 1
    magnitude = draws.uniform(0, 120, (1, 9, columns)).astype(np.float32)
    phase = draws.uniform(-1, 1, (1, 9, columns)).astype(np.float32)

    def build(g, _):
        x = g.input("x", "float32", ("n",))
        polar = [g.input(name, "float32", (1, 9, "columns")) for name in ("magnitude", "phase")]
        g.output(stft(g, x), "spectrum", "float32", (1, 18, "columns"))
        g.output(istft(g, *polar), "sound", "float32", ("n",))

    out = engine(tmp_path, build).bind({}).run({"x": sound, "magnitude": magnitude, "phase": phase})
    spectrum = twin.stft(torch.tensor(sound).double()[None])
    back = twin.istft(torch.tensor(magnitude).double(), torch.tensor(phase).double())
    np.testing.assert_allclose(out["spectrum"], spectrum, rtol=0, atol=1e-5)
    np.testing.assert_allclose(out["sound"], back[0], rtol=0, atol=TOLERANCE)


def test_the_twin_reads_both_forms_of_weight_norm():
    mel, noise = case.mel(2), case.noise(2 * SAMPLES_PER_FRAME)
    one, other = (HiFTTwin(case.stored(form=form)).speak(mel, noise)[0] for form in case.FORMS)
    np.testing.assert_array_equal(one, other)
