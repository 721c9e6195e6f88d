"""Our log-mel against the feature extractor that ships with transformers, run live."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgekit.bundle import FrontEnd, Grid
from edgekit.runtime.hear.features import log_mel, mel_filters
from tests.runtime.hear import loudness

transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.reference

GRID = Grid(mode="exact", chunk_frames=3000, max_frames=3000, max_positions=1500, pad_to_frames=3000)
GOLDEN = Path(__file__).parents[1] / "runtime" / "hear" / "goldens" / "whisper_mel_1s.npy"


def waveform(samples: int) -> NDArray[np.float32]:
    """The waveform of tests/runtime/hear/test_features.py."""
    rng = np.random.default_rng(0)
    seconds = np.arange(samples) / 16_000
    loudness = 0.02 + 0.3 * np.abs(np.sin(2 * np.pi * 1.3 * seconds))
    tone = np.sin(2 * np.pi * (220 + 400 * seconds) * seconds)
    return (loudness * tone + 0.01 * rng.standard_normal(samples)).astype(np.float32)


@pytest.mark.parametrize("bins", [80, 128])
def test_filters_equal_transformers(bins: int) -> None:
    """Tolerance: float32 storage of float64 filters."""
    theirs = transformers.WhisperFeatureExtractor(feature_size=bins).mel_filters.T
    np.testing.assert_allclose(mel_filters(bins, 400, 16_000), theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("bins", [80, 128])
@pytest.mark.parametrize("samples", [1, 159, 201, 16_000, 160_001, 479_999, 480_000])
def test_exact_grid_equals_transformers(bins: int, samples: int) -> None:
    """Tolerance: theirs is a float32 torch STFT, itself up to 6e-5 from float64 in the quietest bins."""
    sound = waveform(samples)
    extractor = transformers.WhisperFeatureExtractor(feature_size=bins)
    theirs = extractor(sound, sampling_rate=16_000, return_tensors="np").input_features[0]
    ours = log_mel(sound, FrontEnd(mel_bins=bins, edge="reflect"), GRID)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)


def test_the_stored_features_are_what_transformers_makes() -> None:
    """Tolerance: a float32 FFT on another processor; 1.1e-5 was seen."""
    golden = np.load(GOLDEN)
    theirs = transformers.WhisperFeatureExtractor(feature_size=80)(waveform(16_000), sampling_rate=16_000)
    np.testing.assert_allclose(golden, theirs.input_features[0][:, : golden.shape[1]], rtol=0, atol=2e-5)


@pytest.mark.parametrize("order", loudness.ORDERS)
def test_with_the_clips_floor_whole_clips_equal_transformers_in_either_order(order: loudness.Order) -> None:
    """Compared with its form in numpy, which is float64 throughout; the one in torch is 1e-5 from that by itself."""
    sound = loudness.in_order(order)
    extractor = transformers.WhisperFeatureExtractor(feature_size=128)
    theirs = extractor._np_extract_fbank_features(sound[None], "cpu")[0]
    ours = log_mel(sound, loudness.OMNI, loudness.BLOCKS, "clip")
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("order", loudness.ORDERS)
def test_the_stored_features_of_either_order_are_what_transformers_makes(order: loudness.Order) -> None:
    """Tolerance: a float32 FFT on another processor."""
    from tests.reference.loudness_golden import features

    with np.load(loudness.GOLDEN) as stored:
        np.testing.assert_allclose(features(order)[:, :: loudness.STEP], stored[order], rtol=0, atol=2e-5)
