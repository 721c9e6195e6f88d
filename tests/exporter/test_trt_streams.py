"""Whole streams on plans: exported bundles give the same events as on onnxruntime, which is exact there.

The device and TensorRT are the stand-ins of ``tests/runtime/backends/host_device.py``; no GPU takes part.
"""

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from edgekit.bundle import open_bundle
from edgekit.exporter.export import ExportOptions, export
from edgekit.runtime.backends import CPU
from edgekit.runtime.backends.trt.engine import load_components
from edgekit.runtime.judge.probe import answer, speak
from edgekit.runtime.judge.probe import hear as hear_sound
from edgekit.runtime.model import load_opened
from edgekit.runtime.speak.flow import FlowSpeaker
from edgekit.runtime.speak.voice import load_voice
from edgekit.timing import Trace
from tests.exporter import speaking
from tests.exporter.graphs import STANDARD
from tests.reference import checkpoints
from tests.runtime.backends.host_device import HostDevice, publish, tensorrt

NAMES = ["whisper-dense", "whisper-experts"]
RATE = 16_000
HALVES = 'activations = "float16"\n'


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Return a function: name of a checkpoint -> its bundle on onnxruntime, and on a device in the host's memory.

    Bundles that speak have products and caches in float16.
    """
    folder = tmp_path_factory.mktemp("plans")
    recipe, halves = folder / "recipe.toml", folder / "halves.toml"
    recipe.write_text('max_tokens_per_s = 4.0\n[gate]\nkind = "off"\n', encoding="utf-8")  # noise says no end
    halves.write_text(Path(STANDARD).read_text(encoding="utf-8") + HALVES, encoding="utf-8")
    made = {}

    def load(name):
        speaks = name in ("omni", "speaking")
        if name not in made:
            options = ExportOptions(recipe=recipe, target=str(halves) if speaks else STANDARD, precision="float32")
            (folder / name).mkdir()
            write = speaking.write if name == "speaking" else partial(checkpoints.write, name=name)
            export(write(folder / name), folder / f"{name}-bundle", options)
            bundle = open_bundle(folder / f"{name}-bundle")
            device = HostDevice()
            library = tensorrt(device)
            publish(bundle, library)
            made[name] = load_opened(bundle, threads=1, speak=speaks, backend=CPU), library, device
        twin, library, device = made[name]
        engines = load_components(
            twin.bundle, twin.engines, "tensorrt", twin.context_tokens, library=library, device=device
        )
        return twin, dataclasses.replace(twin, engines=engines, backend="tensorrt")

    return load


def sound(seed, seconds):
    rng = np.random.default_rng(seed)
    return (0.1 * rng.standard_normal(int(seconds * RATE))).astype(np.float32)


def hear(stream, samples, step=4000):
    events = [event for at in range(0, len(samples), step) for event in stream.push(samples[at : at + step])]
    return events + list(stream.finish())


@pytest.mark.parametrize("name", NAMES)
def test_a_stream_gives_the_events_that_onnxruntime_gives_and_replays_its_steps(name, models):
    twin, model = models(name)
    expected, found = (hear(one.stream(), sound(1, 4.0)) for one in (twin, model))
    assert found == expected
    assert sum(len(event.tokens) for event in found if getattr(event, "final", False)) > 10
    counts = model.engines["backbone"].counts
    assert counts["replayed"] > 2 * counts["eager"], counts
    assert all(engine.notes == [] for engine in model.engines.values())


@pytest.mark.parametrize("name", NAMES)
def test_every_utterance_of_a_stream_begins_anew(name, models):
    twin, model = models(name)
    longest_s = twin.manifest.grid.max_frames / 100
    samples = sound(2, longest_s + 1)
    expected, found = (hear(one.stream(), samples, step=RATE) for one in (twin, model))
    assert sum(getattr(event, "final", False) for event in found) == 2
    assert found == expected


def tokens(events):
    return [event.tokens for event in events if getattr(event, "final", False)]


@pytest.mark.parametrize("step", [1600, 4000])
def test_streams_in_threads_of_their_own_do_not_disturb_each_other(step, models):
    twin, model = models("whisper-experts")
    expected = [tokens(hear(twin.stream(), sound(seed, 2.0))) for seed in range(4)]
    streams = [model.stream() for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda seed: tokens(hear(streams[seed], sound(seed, 2.0), step)), range(4)))
    assert found == expected


def test_a_talker_says_the_same_codes_and_samples(models):
    said = []
    for model in models("omni"):
        heard = hear_sound(model, sound(1, 1.0))
        said.append(speak(model, heard, answer(model, heard).tokens))
    twin, found = said
    assert len(found.codes) > 10
    np.testing.assert_array_equal(found.codes, twin.codes)
    np.testing.assert_array_equal(found.samples, twin.samples)
    assert model.engines["code_predictor"].counts["replayed"] > len(found.codes)
    assert model.engines["talker"].counts["captured"] == 2


def test_a_flow_says_the_same_samples_answer_after_answer(models):
    said = []
    for model in models("speaking"):
        speech = model.manifest.speech
        voice = load_voice(model.bundle.file(speech.voices["default_female"]), speech.sample_rate_hz)
        mouth = FlowSpeaker(speech, model.engines, voice, Trace())
        codes = np.random.default_rng(3).integers(0, speech.codes, 85)  # a chunk is 25: the third of them is replayed
        for _ in range(2):
            pieces = [
                piece.copy()
                for code in codes
                for piece in mouth.say(int(code) + speech.first_code)
                if piece is not None
            ]
            said.append(np.concatenate([*pieces, *(piece.copy() for piece in mouth.finish() if piece is not None)]))
    assert len(said[0]) == len(codes) * speech.samples_per_code
    for other in said[1:]:
        np.testing.assert_array_equal(other, said[0])
    assert model.engines["flow_step"].counts["replayed"] > 0
