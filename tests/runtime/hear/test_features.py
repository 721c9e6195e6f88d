"""Streaming log-mel: any split gives the same bits, and the values are Whisper's."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgekit.bundle import Floor, FrontEnd, Grid
from edgekit.errors import BundleFormatError, UsageError
from edgekit.runtime.hear.features import LogMel, MelChunk, log_mel, mel_filters
from tests.runtime.hear import loudness

GOLDEN = Path(__file__).parent / "goldens" / "whisper_mel_1s.npy"
# float32 STFT against float64: quiet bins 80 dB below the peak carry the rounding of the loud ones
CLOSE = 5e-5

WHISPER = (
    FrontEnd(mel_bins=80, edge="reflect"),
    Grid(mode="exact", chunk_frames=3000, max_frames=3000, max_positions=1500, pad_to_frames=3000),
)
STEP = (
    FrontEnd(mel_bins=128, right_pad_samples=479, edge="reflect"),
    Grid(mode="exact", chunk_frames=2502, max_frames=2502, max_positions=1500),
)
CHUNKED = (
    FrontEnd(mel_bins=80),
    Grid(mode="chunked", chunk_frames=64, max_frames=3000, max_positions=1500, tail_frames=32, pad_to_frames=64),
)
TIGHT = (
    FrontEnd(mel_bins=4, right_pad_samples=479, edge="reflect"),
    Grid(mode="chunked", chunk_frames=3, max_frames=200, max_positions=100, left_frames=5, right_frames=4),
)
BARE = (
    FrontEnd(mel_bins=4),
    Grid(mode="chunked", chunk_frames=1, max_frames=300, max_positions=150, left_frames=0, right_frames=0),
)
OMNI = (
    FrontEnd(mel_bins=128, edge="reflect", whole_hops=True),
    Grid(
        mode="chunked", chunk_frames=20, max_frames=4000, max_positions=12, left_frames=0, right_frames=0,
        frames_per_position=8, segment_frames=10,
    ),
)  # fmt: skip
SHORT_WINDOW = Grid(mode="exact", chunk_frames=30, max_frames=30, max_positions=15, pad_to_frames=30)
SETTINGS = {"whisper": WHISPER, "step": STEP, "chunked": CHUNKED, "tight": TIGHT, "bare": BARE, "omni": OMNI}
SIZES = (1, 2, 159, 160, 161, 200, 201, 400, 4_999, 10_240, 10_439, 10_440, 10_441, 20_000)


def waveform(samples: int, seed: int = 0) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    seconds = np.arange(samples) / 16_000
    loudness = 0.02 + 0.3 * np.abs(np.sin(2 * np.pi * 1.3 * seconds))
    tone = np.sin(2 * np.pi * (220 + 400 * seconds) * seconds)
    return (loudness * tone + 0.01 * rng.standard_normal(samples)).astype(np.float32)


def rising(samples: int) -> NDArray[np.float32]:
    """The waveform, its first half 60 dB quieter: what is loudest comes last, where a running floor lags behind."""
    sound = waveform(samples)
    sound[: samples // 2] *= np.float32(0.001)
    return sound


def frame_count(samples: int, front_end: FrontEnd, grid: Grid) -> int:
    pad = front_end.right_pad_samples
    base = (samples + pad) // 160 if pad or front_end.whole_hops else int(np.ceil(samples / 160))
    return min(int(np.ceil((base + grid.tail_frames) / grid.pad_to_frames)) * grid.pad_to_frames, grid.max_frames)


def plain_chunks(
    samples: NDArray[np.float32], front_end: FrontEnd, grid: Grid, floor: Floor = "running"
) -> list[NDArray[np.float64]]:
    """The same chunks from the whole utterance at once, in float64 and without batches."""
    total = frame_count(samples.size, front_end, grid)
    if not total:
        return []
    piece = np.pad(samples.astype(np.float64), (0, max(front_end.right_pad_samples, total * 160 - samples.size)))
    if front_end.edge == "reflect":
        piece = np.pad(piece, 200, mode="reflect")
    else:
        piece = np.pad(np.pad(piece, (0, 400)), (200, 0), mode="reflect")
    window = np.hanning(401)[:-1]
    power = np.stack([np.abs(np.fft.rfft(piece[160 * t : 160 * t + 400] * window)) ** 2 for t in range(total)])
    mel = np.log10(np.maximum(mel_filters(front_end.mel_bins, 400, 16_000) @ power.T, 1e-10))
    peak, start = mel.max() if floor == "clip" else -np.inf, 0
    for end in range(
        grid.chunk_frames + grid.right_frames, total + grid.chunk_frames + grid.right_frames, grid.chunk_frames
    ):
        if start < total:
            group = mel[:, start:end]
            peak = max(peak, group.max())
            mel[:, start:end] = (np.maximum(group, peak - front_end.dynamic_range) + 4) / 4
        start = end
    padded = np.pad(mel, ((0, 0), (grid.left_frames, grid.right_frames)))
    starts = range(0, total, grid.chunk_frames)
    context = grid.left_frames + grid.right_frames
    return [padded[:, s : min(s + grid.chunk_frames, total) + context] for s in starts]


def run(
    samples: NDArray[np.float32],
    setting: tuple[FrontEnd, Grid],
    cuts: list[int] | None = None,
    floor: Floor = "running",
) -> list[MelChunk]:
    stream = LogMel(*setting, floor)
    chunks: list[MelChunk] = []
    for part in np.split(samples, sorted(cuts or [])):
        chunks += stream.push(part)
    return chunks + stream.finish()


@pytest.mark.parametrize("samples", SIZES)
@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("floor", ["running", "clip"])
def test_chunks_equal_the_plain_formula(floor: Floor, name: str, samples: int) -> None:
    front_end, grid = SETTINGS[name]
    sound = rising(samples)
    expected = plain_chunks(sound, front_end, grid, floor)
    chunks = run(sound, (front_end, grid), floor=floor)
    assert [chunk.mel.shape for chunk in chunks] == [mel.shape for mel in expected]
    for chunk, mel in zip(chunks, expected, strict=True):
        np.testing.assert_allclose(chunk.mel, mel, rtol=0, atol=CLOSE)
    assert [chunk.last for chunk in chunks] == [False] * (len(chunks) - 1) + [True] * bool(chunks)
    assert sum(chunk.frames for chunk in chunks) == frame_count(samples, front_end, grid)
    assert all(chunk.mel.flags.c_contiguous and chunk.mel.dtype == np.float32 for chunk in chunks)


@settings(max_examples=90, deadline=None, derandomize=True)
@given(
    floor=st.sampled_from(["running", "clip"]),
    name=st.sampled_from(["step", "chunked", "tight", "bare", "omni"]),
    samples=st.sampled_from(SIZES),
    cuts=st.lists(st.integers(0, 20_000), max_size=12),
)
def test_any_split_gives_the_same_bits(floor: Floor, name: str, samples: int, cuts: list[int]) -> None:
    sound = rising(samples)
    whole = run(sound, SETTINGS[name], floor=floor)
    split = run(sound, SETTINGS[name], [min(cut, samples) for cut in cuts], floor)
    assert [(chunk.frames, chunk.last) for chunk in split] == [(chunk.frames, chunk.last) for chunk in whole]
    for ours, theirs in zip(split, whole, strict=True):
        assert ours.mel.tobytes() == theirs.mel.tobytes()


@pytest.mark.parametrize("name", ["step", "chunked", "tight", "bare", "omni"])
def test_the_clips_floor_is_known_at_its_end_and_no_chunk_comes_before(name: str) -> None:
    front_end, grid = SETTINGS[name]
    stream, sound = LogMel(front_end, grid, "clip"), rising(20_000)
    assert stream.push(sound) == []
    whole = np.concatenate([chunk.mel for chunk in stream.finish()], axis=1)
    lag = np.concatenate([chunk.mel for chunk in run(sound, (front_end, grid))], axis=1)
    inside = np.any(lag != 0, axis=0)
    assert whole[:, inside].min() >= whole.max() - front_end.dynamic_range / 4 - 1e-6
    # a window of one chunk has one floor; else the quiet beginning was given another than the clip's
    assert (lag.min() < whole[:, inside].min() - 0.01) == (grid.chunk_frames < 125)


@pytest.mark.parametrize("after", ["more", "the end", "another clip"])
def test_a_mark_keeps_what_waits_for_the_clips_floor(after: str) -> None:
    sound = rising(9_000)
    stream = LogMel(*OMNI, "clip")
    stream.push(sound[:6_000])
    mark = stream.mark()
    stream.push(waveform(3_000, seed=3) * np.float32(3))
    if after != "more":
        stream.finish()
    if after == "another clip":
        stream.push(waveform(5_000, seed=4))
    stream.back(mark)
    chunks = [*stream.push(sound[6_000:]), *stream.finish()]
    expected = run(sound, OMNI, floor="clip")
    assert [chunk.mel.tobytes() for chunk in chunks] == [chunk.mel.tobytes() for chunk in expected]


@pytest.mark.parametrize("order", loudness.ORDERS)
def test_with_the_clips_floor_whole_clips_equal_the_stored_features_in_either_order(order: loudness.Order) -> None:
    """Tolerance: the stored ones are of a float32 FFT, up to 1.2e-5 away; a running floor is off by more than 0.1."""
    with np.load(loudness.GOLDEN) as stored:
        expected = stored[order]
    sound = loudness.in_order(order)
    ours = log_mel(sound, loudness.OMNI, loudness.BLOCKS, "clip")[:, :: loudness.STEP]
    np.testing.assert_allclose(ours, expected, rtol=0, atol=2e-5)
    running = np.abs(log_mel(sound, loudness.OMNI, loudness.BLOCKS)[:, :: loudness.STEP] - expected)
    assert (running.max() > 0.1) == (order == "loudest-last")


@pytest.mark.parametrize(("samples", "frames"), [(159, 0), (160, 1), (319, 1), (320, 2), (3_239, 20), (3_361, 21)])
def test_samples_beyond_the_last_whole_hop_are_heard_but_make_no_frame(samples: int, frames: int) -> None:
    assert log_mel(waveform(samples), *OMNI).shape[1] == frames
    if samples % 160 and frames:
        cut = log_mel(waveform(samples)[: frames * 160], *OMNI)
        assert np.abs(log_mel(waveform(samples), *OMNI)[:, -1] - cut[:, -1]).max() > CLOSE


@pytest.mark.parametrize(
    ("frames", "segment", "positions"), [(0, 10, 0), (1, 10, 1), (10, 10, 2), (11, 10, 3), (20, None, 3), (0, None, 0)]
)
def test_every_segment_rounds_up_to_positions_by_itself(frames: int, segment: int | None, positions: int) -> None:
    grid = Grid(
        mode="exact", chunk_frames=20, max_frames=20, max_positions=4, frames_per_position=8, segment_frames=segment
    )
    assert grid.positions(frames) == positions


@pytest.mark.parametrize("samples", [4_700, 4_790, 4_799, 4_800])
def test_sound_up_to_the_very_end_of_the_window_is_reflected(samples: int) -> None:
    setting = (FrontEnd(mel_bins=80, edge="reflect"), SHORT_WINDOW)
    (chunk,) = run(waveform(samples), setting)
    (expected,) = plain_chunks(waveform(samples), *setting)
    np.testing.assert_allclose(chunk.mel, expected, rtol=0, atol=CLOSE)


def test_single_samples_and_empty_pushes_give_the_same_bits() -> None:
    sound = waveform(10_441)
    stream = LogMel(*CHUNKED)
    chunks: list[MelChunk] = []
    for index in range(sound.size):
        chunks += stream.push(sound[index : index + 1])
        chunks += stream.push(sound[:0])
    chunks += stream.finish()
    assert b"".join(chunk.mel.tobytes() for chunk in chunks) == b"".join(c.mel.tobytes() for c in run(sound, CHUNKED))


@pytest.mark.parametrize("name", SETTINGS)
def test_no_samples_give_no_chunks(name: str) -> None:
    stream = LogMel(*SETTINGS[name])
    assert stream.push(np.zeros(0, np.float32)) == []
    assert stream.finish() == []
    assert log_mel(np.zeros(0, np.float32), *SETTINGS[name]).shape == (SETTINGS[name][0].mel_bins, 0)


def test_the_second_utterance_owes_nothing_to_the_first() -> None:
    stream = LogMel(*CHUNKED)
    stream.push(waveform(30_000) * np.float32(3))
    stream.finish()
    second = [*stream.push(waveform(12_345, seed=1)), *stream.finish()]
    fresh = run(waveform(12_345, seed=1), CHUNKED)
    assert [chunk.mel.tobytes() for chunk in second] == [chunk.mel.tobytes() for chunk in fresh]


def test_a_chunk_comes_as_soon_as_its_right_context_is_there() -> None:
    stream = LogMel(*CHUNKED)
    needed = 64 * 160 + 200  # the last frame of group 0 is frame 64; it sees 200 samples beyond its centre
    assert stream.push(waveform(needed - 1)) == []
    assert len(stream.push(waveform(1))) == 1


def test_whisper_grid_equals_the_stored_features() -> None:
    """Tolerance: the stored features were computed in float32 by another FFT."""
    golden = np.load(GOLDEN)
    mel = log_mel(waveform(16_000), *WHISPER)
    assert mel.shape == (80, 3000)
    np.testing.assert_allclose(mel[:, : golden.shape[1]], golden, rtol=0, atol=1e-4)
    assert np.ptp(mel[:, golden.shape[1] :]) == 0.0  # silence: the floor


def test_silence_sits_at_whispers_smallest_value() -> None:
    np.testing.assert_allclose(log_mel(np.zeros(16_000, np.float32), *CHUNKED), -1.5, atol=1e-6)


def test_sound_after_long_silence_is_not_taken_for_silence() -> None:
    sound = np.concatenate([np.zeros(40_000, np.float32), waveform(5_000)])
    expected = plain_chunks(sound, *CHUNKED)
    for chunk, mel in zip(run(sound, CHUNKED), expected, strict=True):
        np.testing.assert_allclose(chunk.mel, mel, rtol=0, atol=CLOSE)


def test_memory_does_not_grow_with_the_utterance() -> None:
    grid = Grid(mode="chunked", chunk_frames=64, max_frames=60_000, max_positions=30_000)
    stream = LogMel(FrontEnd(mel_bins=80), grid)

    def held() -> int:
        return sum(value.nbytes for value in vars(stream).values() if isinstance(value, np.ndarray))

    before = held()
    for second in range(60):
        stream.push(waveform(16_000, seed=second))
        assert held() == before


def test_more_samples_than_the_grid_holds_are_refused() -> None:
    stream = LogMel(*TIGHT)
    chunks = stream.push(waveform(200 * 160))
    with pytest.raises(UsageError, match="at most 32000 fit"):
        stream.push(waveform(1))
    chunks += stream.finish()
    assert sum(chunk.frames for chunk in chunks) == 200


def test_room_leaves_place_for_the_right_padding() -> None:
    stream = LogMel(*STEP)
    assert stream.room_samples == 25 * 16_000
    stream.push(waveform(1_000))
    assert stream.room_samples == 25 * 16_000 - 1_000
    assert LogMel(*CHUNKED).room_samples == 3000 * 160


def test_stereo_is_refused() -> None:
    with pytest.raises(UsageError, match=r"shape \(2, 2\)"):
        LogMel(*CHUNKED).push(np.zeros((2, 2), np.float32))


@pytest.mark.parametrize(
    "front_end",
    [
        FrontEnd(mel_bins=80, n_fft=401),
        FrontEnd(mel_bins=80, hop_samples=200),
        FrontEnd(mel_bins=80, hop_samples=100),
        FrontEnd(mel_bins=80, right_pad_samples=1),
    ],
)
def test_sizes_that_do_not_fit_together_are_refused(front_end: FrontEnd) -> None:
    with pytest.raises(BundleFormatError, match="front_end"):
        LogMel(front_end, CHUNKED[1])


@pytest.mark.parametrize("bins", [80, 128])
def test_filters_are_triangles_of_unit_area(bins: int) -> None:
    fine = mel_filters(bins, 400 * 64, 16_000).astype(np.float64)
    np.testing.assert_allclose(fine.sum(axis=1) * (16_000 / (400 * 64)), 1.0, atol=2e-3)  # Riemann sum
    peaks = fine.argmax(axis=1)
    assert (np.diff(peaks) > 0).all()
