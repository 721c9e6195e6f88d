"""Streams on exported bundles with the grids that users run: when the work happens."""

from pathlib import Path

import numpy as np
import pytest

import edgekit
from edgekit.bundle import FrontEnd, Grid
from edgekit.exporter.export import ExportOptions, export
from edgekit.recipe import GridSettings
from edgekit.runtime.hear.features import LogMel
from edgekit.runtime.hear.listener import Listener
from edgekit.timing import Trace
from tests.exporter.omni_audio import EARS, hearing
from tests.reference import checkpoints
from tests.runtime.streams import Logged, sound_of, splits

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
        list(stream.push(samples))
    before = stream.frames_computed
    assert not [span for span in stream.trace.spans if span.name == "decode"]
    list(stream.push(pushes[-1]))
    list(stream.finish())
    assert before >= 0.9 * stream.frames_received
    assert stream.frames_received == 1000
    assert stream.frames_computed >= 1000


@pytest.mark.parametrize("seconds", [0.0, 0.64, 10.0, 29.44, 29.45, 30.0, 30.01])
def test_no_frame_is_encoded_twice(model, seconds):
    """What is computed beyond the clip is one chunk of silence and filling to whole chunks, for each piece.

    Frames of a full piece's last seconds are heard again, and counted.
    """
    stream = model.stream(gate="off")
    list(stream.push(_sound(seconds)))
    list(stream.finish())
    pieces, again = max(1, -(-seconds // 30)), -(-stream.samples_heard_again // 160)
    assert bool(again) == (seconds > 30)
    assert again <= 3000 + 128
    assert stream.frames_computed <= stream.frames_received + again + (pieces + (seconds > 30)) * (64 + 63 + 1)


def test_a_step_audio_piece_is_the_published_twenty_five_seconds():
    grid = Grid(mode="exact", chunk_frames=2502, max_frames=2502, max_positions=1500, masks_last_position=True)
    assert LogMel(FrontEnd(mel_bins=128, right_pad_samples=479), grid).room_samples == 25 * RATE


@pytest.fixture(scope="module")
def omni(tmp_path_factory):
    """Return a function from a grid's mode to an Listener of Qwen3-Omni and its encoder, whose calls are kept."""
    ears = hearing(tmp_path_factory.mktemp("omni"))

    def make(mode):
        settings = GridSettings(mode=mode)
        encoder = Logged(ears.encoder)
        return Listener(EARS.front_end(settings), EARS.grid(settings), encoder, ears.adapter, Trace()), encoder

    return make


@pytest.mark.parametrize("kind", ["chunks", "near-chunks", "halves", "odd"])
@pytest.mark.parametrize("samples", [159, 160, 16_000 + 159, 4 * 16_000, 4 * 16_000 + 160, 10 * 16_000 + 81])
@pytest.mark.parametrize("mode", ["exact", "chunked"])
def test_any_split_gives_the_same_calls_to_the_ears_of_qwen3_omni(mode, samples, kind, omni):
    sound, found = sound_of(samples), []
    ear, encoder = omni(mode)
    for parts in ([sound], splits(sound, kind), [sound]):  # each a piece that starts where the first did
        encoder.calls.clear()
        heard = [row for part in parts for row in ear.push(part)] + list(ear.finish())
        calls = [(int(call["start"][0]), call["mel"].tobytes()) for call in encoder.calls]
        found.append((calls, b"".join(row.tobytes() for row in heard)))
    assert found[1] == found[0]
    assert found[2] == found[0]
    frames = samples // 160
    assert sum(call["mel"].shape[1] for call in encoder.calls) == frames
    assert len(found[0][1]) == 4 * EARS.hidden * (frames // 100 * 13 + -(-(frames % 100) // 8))


def test_a_second_of_low_latency_is_heard_before_the_block_ends(omni):
    for mode, early, late in (("exact", [], [0]), ("chunked", [0, 13, 26], [0, 13, 26, 39])):
        ear, encoder = omni(mode)
        sound = sound_of(4 * RATE + 240)
        for part, calls in ((sound[: 4 * RATE - 1], early), (sound[4 * RATE - 1 :], late)):
            list(ear.push(part))
            assert [int(call["start"][0]) for call in encoder.calls] == calls
