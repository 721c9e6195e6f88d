"""Speech in the standard dialect against the ort-cpu one: the same codes, the same sound, and INT8 within the gate.

Each graph's parity with the published modules: test_parity_omni_audio.py, test_parity_flow.py, test_hift.py.
"""

from pathlib import Path

import numpy as np
import pytest

from edgekit.bundle import open_bundle
from edgekit.exporter.export import ExportOptions, export
from edgekit.exporter.families.step_audio.hift import HARMONICS, SAMPLE_RATE_HZ, SAMPLES_PER_FRAME
from edgekit.exporter.waves import phases
from edgekit.runtime.backends import CPU
from edgekit.runtime.judge.probe import answer, hear, speak
from edgekit.runtime.model import load_opened
from edgekit.runtime.speak.flow import FlowSpeaker
from edgekit.runtime.speak.voice import load_voice
from edgekit.timing import Trace
from tests.exporter import speaking, vocoders
from tests.exporter.graphs import STANDARD
from tests.exporter.test_export import JUDGED, QUICK
from tests.reference import hift_case

TOLERANCE = 1e-4  # float32 sums in another order are 3e-6 apart here; a wrong mask, place or state is 1e-2 and more
DIALECTS = {"ort-cpu": "cpu", "standard": STANDARD}
HALF_A_MINUTE = 30 * SAMPLE_RATE_HZ // SAMPLES_PER_FRAME  # frames


@pytest.fixture(scope="module")
def checkpoints(checkpoint, tmp_path_factory):
    """Return a checkpoint of each family that speaks."""
    return {"qwen3_omni": checkpoint("omni"), "step_audio": speaking.write(tmp_path_factory.mktemp("speaker"))}


@pytest.fixture(scope="module")
def models(checkpoints, tmp_path_factory):
    """Return a function: family -> its float model in both dialects."""
    made = {}

    def make(family):
        if family not in made:
            folder = tmp_path_factory.mktemp(family)
            made[family] = []
            for dialect, target in DIALECTS.items():
                options = ExportOptions(recipe=QUICK, target=target, precision="float32")
                export(checkpoints[family], folder / dialect, options)
                made[family].append(load_opened(open_bundle(folder / dialect), threads=1, speak=True, backend=CPU))
        return made[family]

    return make


def test_a_talker_says_the_same_codes_and_samples(models):
    sound = np.random.default_rng(1).normal(0, 0.1, 16_000).astype(np.float32)
    said = []
    for model in models("qwen3_omni"):
        heard = hear(model, sound)
        said.append(speak(model, heard, answer(model, heard).tokens))
    ours, theirs = said
    assert len(ours.codes) > 2 + 4 + 8  # pieces of several sizes, the last one cut short
    np.testing.assert_array_equal(ours.codes, theirs.codes)
    np.testing.assert_allclose(ours.samples, theirs.samples, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("count", [1, 2, 28, 29, 57])  # a chunk is 25, and 3 more are looked at
def test_a_flow_says_the_same_samples(count, models):
    said = []
    for model in models("step_audio"):
        speech = model.manifest.speech
        voice = load_voice(model.bundle.file(speech.voices["default_female"]), speech.sample_rate_hz)
        mouth = FlowSpeaker(speech, model.engines, voice, Trace())
        codes = np.random.default_rng(count).integers(0, speech.codes, count)
        for _ in range(2):  # a second answer begins behind the prompt again
            pieces = [
                piece.copy()
                for code in codes
                for piece in mouth.say(int(code) + speech.first_code)
                if piece is not None
            ]
            said.append(np.concatenate([*pieces, *(piece.copy() for piece in mouth.finish() if piece is not None)]))
    assert len(said[0]) == count * speech.samples_per_code
    for other in said[1:]:
        np.testing.assert_allclose(other, said[0], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("family", ["qwen3_omni", "step_audio"])
def test_int8_speech_passes_the_gate_with_one_scale_a_channel(family, checkpoints, tmp_path):
    options = ExportOptions(recipe=JUDGED, target=STANDARD, precision="float32", groups={"decoder": "int8"})
    manifest = export(checkpoints[family], tmp_path / "b", options)
    assert 0 < manifest.verification["measured"]["mel_error_db"] <= manifest.recipe["limits"]["mel_error_db"]
    rows = [row for row in manifest.census if row.group == "decoder" and row.op != "Lookup"]
    assert {row.dtype for row in rows if not row.tensor.endswith(".scale")} == {"int8"}
    assert {row.op for row in rows} <= {"DequantizeLinear"}


@pytest.mark.parametrize("family", ["qwen3_omni", "step_audio"])
def test_products_in_float16_say_what_those_in_float32_say(family, checkpoints, tmp_path):
    halves = tmp_path / "halves.toml"
    halves.write_text(Path(STANDARD).read_text(encoding="utf-8") + 'activations = "float16"\n', encoding="utf-8")
    options = ExportOptions(recipe=JUDGED, target=str(halves), precision="float32")
    manifest = export(checkpoints[family], tmp_path / "b", options)
    assert 0 < manifest.verification["measured"]["mel_error_db"] < 0.01  # INT8 weights cost 0.04 and more
    caches = {
        spec.dtype
        for name in ("talker", "code_predictor", "flow_encoder", "flow_step")
        for spec in (manifest.components[name].inputs if name in manifest.components else ())
        if spec.state != "none"
    }
    assert caches == {"float16"}


def test_no_graph_of_speech_writes_into_its_input(models):
    for family in ("qwen3_omni", "step_audio"):
        for component in models(family)[1].manifest.components.values():
            assert {spec.state for spec in (*component.inputs, *component.outputs)} <= {"none", "carried"}


def test_phases_counted_in_integers_are_those_of_float64_after_half_a_minute(tmp_path):
    rng = np.random.default_rng(7)
    pitch = np.abs(180 + np.cumsum(rng.normal(0, 3, (HALF_A_MINUTE, 1)), axis=0)).astype(np.float32)
    pitch[::9] = rng.uniform(0, 10, pitch[::9].shape)  # not voiced

    def build(g, _):
        x = g.input("pitch", "float32", ("frames", 1))
        made, step = phases(g, x, SAMPLE_RATE_HZ, SAMPLES_PER_FRAME, HARMONICS)
        g.output(made, "made", "float32", ("frames", 1, HARMONICS))
        g.output(step, "step", "float32", ("frames", HARMONICS))

    found = [vocoders.engine(tmp_path, build, dialect=one).bind({}).run({"pitch": pitch}) for one in DIALECTS]
    exact, ours = found
    # two roundings of numbers below 1 to float32, 2**-24 at most each, here and one there
    assert apart(exact["made"], ours["made"]) < 3 * 2**-24
    np.testing.assert_allclose(ours["step"], exact["step"], rtol=4 * 2**-24, atol=1e-12)  # pitches below 1/32 Hz
    rounded = np.cumsum(pitch * np.arange(1, HARMONICS + 1, dtype=np.float32) / np.float32(50), axis=0)
    assert apart(exact["made"][:, 0], rounded % 1) > 1e-3  # what float32 alone would give


def test_half_a_minute_of_sound_is_that_of_float64(tmp_path):
    mel, noise = hift_case.mel(HALF_A_MINUTE), hift_case.noise(HALF_A_MINUTE * SAMPLES_PER_FRAME)
    theirs, ours = (vocoders.speak(vocoders.vocoder(tmp_path, dialect=one), mel, noise) for one in DIALECTS)
    for mine, other in zip(ours, theirs, strict=True):  # samples, then source
        np.testing.assert_allclose(mine, other, rtol=0, atol=TOLERANCE)


def apart(one, other):
    """Return the largest distance of two phases in turns."""
    return np.abs((one.astype(np.float64) - other + 0.5) % 1 - 0.5).max()
