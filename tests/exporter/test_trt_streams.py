"""Whole streams on plans: exported bundles give the same events as on onnxruntime, which is exact there.

The device and TensorRT are the stand-ins of ``tests/runtime/backends/host_device.py``; no GPU takes part.
"""

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import edgekit
from edgekit.bundle import open_bundle
from edgekit.exporter.export import ExportOptions, export
from edgekit.runtime.backends import CPU
from edgekit.runtime.backends.trt import load_components
from edgekit.runtime.model import COMPONENTS
from tests.exporter.graphs import STANDARD
from tests.reference import checkpoints
from tests.runtime.backends.host_device import HostDevice, publish, tensorrt

NAMES = ["whisper-dense", "whisper-experts"]
RATE = 16_000


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Return a function: name of a checkpoint -> its bundle on onnxruntime, and on a device in the host's memory."""
    folder = tmp_path_factory.mktemp("plans")
    recipe = folder / "recipe.toml"
    recipe.write_text('max_tokens_per_s = 4.0\n[gate]\nkind = "off"\n', encoding="utf-8")  # noise says no end
    made = {}

    def load(name):
        if name not in made:
            options = ExportOptions(recipe=recipe, target=STANDARD, precision="float32")
            export(checkpoints.write(folder / name, name), folder / f"{name}-bundle", options)
            device = HostDevice()
            library = tensorrt(device)
            bundle = open_bundle(folder / f"{name}-bundle")
            publish(bundle, library)
            made[name] = edgekit.load(bundle.folder, threads=1, backend=CPU), library, device
        twin, library, device = made[name]
        engines = load_components(
            twin.bundle, COMPONENTS, "tensorrt", twin.context_tokens, library=library, device=device
        )
        return twin, dataclasses.replace(twin, engines=engines, backend="tensorrt")

    return load


def sound(seed, seconds):
    rng = np.random.default_rng(seed)
    return (0.1 * rng.standard_normal(int(seconds * RATE))).astype(np.float32)


def hear(stream, samples, step=4000):
    events = [event for at in range(0, len(samples), step) for event in stream.push(samples[at : at + step])]
    return events + stream.finish()


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
