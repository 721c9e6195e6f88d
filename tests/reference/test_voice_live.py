"""What a voice is made of, against torch's STFT and transformers' filter banks."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from transformers import WhisperFeatureExtractor  # noqa: E402
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function  # noqa: E402

from edgekit.exporter.voice import filter_bank, hearing_mel, log_mel  # noqa: E402

pytestmark = pytest.mark.reference


def sound(samples, seed=2):
    draws = np.random.default_rng(seed)
    loudness = np.repeat(10.0 ** draws.uniform(-3, 0, -(-samples // 800)), 800)[:samples]
    return (draws.uniform(-1, 1, samples) * loudness).astype(np.float32)


@pytest.mark.parametrize("samples", [721, 24_000, 24_479, 24_480])
def test_the_mel_that_the_flow_continues_is_that_of_torch(samples):
    x = sound(samples)
    padded = torch.nn.functional.pad(torch.tensor(x)[None], (720, 720), mode="reflect")
    window = torch.hann_window(1920)
    spectrum = torch.stft(padded, 1920, 480, 1920, window, center=False, return_complex=True)[0]
    filters = mel_filter_bank(961, 80, 0.0, 8000.0, 24_000, norm="slaney", mel_scale="slaney")
    magnitude = torch.sqrt(spectrum.real**2 + spectrum.imag**2 + 1e-9)
    expected = torch.log(torch.clamp(torch.tensor(filters.T).float() @ magnitude, min=1e-5)).T
    np.testing.assert_allclose(log_mel(x), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("samples", [16_000, 16_159, 16_160, 48_001])
def test_the_mel_that_the_tokenizer_hears_is_that_of_torch(samples):
    x = sound(samples)
    filters = WhisperFeatureExtractor(feature_size=128).mel_filters
    spectrum = torch.stft(torch.tensor(x), 400, 160, window=torch.hann_window(400), return_complex=True)[:, :-1]
    mel = (torch.tensor(filters.T).float() @ (spectrum.abs() ** 2)).clamp(min=1e-10).log10()
    expected = (torch.maximum(mel, mel.max() - 8.0) + 4.0) / 4.0
    found = hearing_mel(x)
    assert found.shape == (128, samples // 160)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("samples", [400, 559, 560, 16_000])
def test_the_filter_bank_is_that_of_kaldi_as_transformers_writes_it(samples):
    x = sound(samples)
    filters = mel_filter_bank(
        257, 80, 20.0, 8000.0, 16_000, norm=None, mel_scale="kaldi", triangularize_in_mel_space=True
    )
    expected = spectrogram(
        x.astype(np.float64), window_function(400, "povey", periodic=False), frame_length=400, hop_length=160,
        fft_length=512, power=2.0, center=False, preemphasis=0.97, mel_filters=filters, log_mel="log",
        mel_floor=float(np.finfo(np.float32).eps), remove_dc_offset=True,
    ).T  # fmt: skip
    found = filter_bank(x)
    assert found.shape == (1 + (samples - 400) // 160, 80)
    # float32 powers of quiet bands beside loud ones, and their logarithm
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-3)
