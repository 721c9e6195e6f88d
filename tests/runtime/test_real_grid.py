"""Streams on exported bundles with the grids that users run: when the work happens."""

from pathlib import Path

import numpy as np
import pytest

import edgekit
from edgekit.bundle import FrontEnd, Grid
from edgekit.exporter.export import ExportOptions, export
from edgekit.runtime.features import LogMel
from tests.reference import checkpoints

RECIPE = Path(__file__).parents[1] / "exporter" / "judged.toml"
RATE = 16_000


def _sound(seconds):
    return np.random.default_rng(3).normal(0, 0.1, int(seconds * RATE)).astype(np.float32)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("grid")
    export(
        checkpoints.write(folder / "c", "whisper-experts"),
        folder / "b",
        ExportOptions(recipe=RECIPE, precision="float32"),
    )
    return edgekit.load(folder / "b", threads=1)


def test_nine_tenths_of_ten_seconds_are_encoded_before_the_last_push(model):
    stream = model.stream(gate="off")
    sound = _sound(10)
    pushes = np.split(sound, range(320, len(sound), 320))
    for samples in pushes[:-1]:
        stream.push(samples)
    before = stream.frames_computed
    assert not [span for span in stream.trace.spans if span.name == "decode"]
    stream.push(pushes[-1])
    stream.finish()
    assert before >= 0.9 * stream.frames_received
    assert stream.frames_received == 1000
    assert stream.frames_computed >= 1000


@pytest.mark.parametrize("seconds", [0.0, 0.64, 10.0, 29.44, 29.45, 30.0, 30.01])
def test_no_frame_is_encoded_twice(model, seconds):
    """What is computed beyond the clip is one chunk of silence and filling to whole chunks, for each piece."""
    stream = model.stream(gate="off")
    stream.push(_sound(seconds))
    stream.finish()
    pieces = max(1, -(-seconds // 30))
    assert stream.frames_computed <= stream.frames_received + pieces * (64 + 63 + 1)


def test_a_step_audio_piece_is_the_published_twenty_five_seconds():
    grid = Grid(mode="exact", chunk_frames=2502, max_frames=2502, max_positions=1500, masks_last_position=True)
    assert LogMel(FrontEnd(mel_bins=128, right_pad_samples=479), grid).room_samples == 25 * RATE
