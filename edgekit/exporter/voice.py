"""Voices: a recording of somebody becomes what Step-Audio 2's flow wants of a voice, once, away from the device.

Runs the two published graphs that lie beside the flow's weights: one hears speech codes, the other who speaks. Sources:
stepfun-ai/Step-Audio2, token2wav.py; xingchensong/S3Tokenizer; FunAudioLLM/CosyVoice, frontend.py.
"""

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import AudioError, CheckpointError, MissingPackageError
from edgekit.runtime.audio.files import read_audio
from edgekit.runtime.graphs.library import load_onnxruntime
from edgekit.runtime.hear.downmix import Downmix
from edgekit.runtime.hear.features import mel_filters
from edgekit.runtime.speak.voice import FRAMES_PER_CODE, LEAST_CODES, Voice

SPEECH_TOKENIZER = "speech_tokenizer_v2_25hz.onnx"
SPEAKER_MODEL = "campplus.onnx"
CODES = 6561  # 3 ** 8
CODES_PER_S = 25
LOWEST_RATE_HZ = 16_000  # below it half of what the flow imitates is missing
SHORTEST_S, LONGEST_S = 1.0, 30.0  # the speech tokenizer was made for up to 30 s
HEARING_RATE_HZ = 16_000
HEARING_BINS, HEARING_FFT, HEARING_HOP, HEARING_RANGE = 128, 400, 160, 8.0
SPEAKER_BINS = 80
RATE_HZ = 24_000
BINS, FFT, HOP, TOP_HZ = 80, 1920, 480, 8000.0
SMALLEST_MAGNITUDE = 1e-5

Float = NDArray[np.float32]


def prepare_voice(folder: Path, recording: Path) -> Voice:
    """Return the Voice of a recording, with the published graphs in ``folder`` (a checkpoint's token2wav).

    The recording may have any channels, which are averaged, and any rate from 16 kHz, which is resampled. Raises
    AudioError if it cannot be read, is of a lower rate, or not between 1 and 30 s long; CheckpointError if a graph is
    missing or answers as the published ones would not; MissingPackageError without onnxruntime or kaldi-native-fbank.
    """
    audio = read_audio(recording)
    length_s = len(audio.samples) / audio.sample_rate_hz
    if audio.sample_rate_hz < LOWEST_RATE_HZ:
        raise AudioError(
            f"{recording}: {audio.sample_rate_hz} Hz, a voice needs at least {LOWEST_RATE_HZ}; record it at {RATE_HZ}"
        )
    if not SHORTEST_S <= length_s <= LONGEST_S:
        raise AudioError(
            f"{recording}: {length_s:.2f} s, a voice needs {SHORTEST_S:.0f} to {LONGEST_S:.0f}; cut or record it anew"
        )
    mono = Downmix(audio.samples.shape[1], str(recording)).mix(audio.samples)
    heard = _resampled(mono, audio.sample_rate_hz, HEARING_RATE_HZ)
    codes = speech_codes(folder / SPEECH_TOKENIZER, heard)
    mel = log_mel(_resampled(mono, audio.sample_rate_hz, RATE_HZ))
    frames = FRAMES_PER_CODE * len(codes)
    if len(codes) < LEAST_CODES or abs(frames - len(mel)) > 2 * FRAMES_PER_CODE:
        raise CheckpointError(
            f"{folder / SPEECH_TOKENIZER}: {len(codes)} codes for {length_s:.2f} s, {CODES_PER_S} a second are "
            "expected; fetch the published file"
        )
    fitted = np.pad(mel, ((0, max(0, frames - len(mel))), (0, 0)), mode="edge")[:frames]
    return Voice(codes, fitted, speaker(folder / SPEAKER_MODEL, heard), RATE_HZ)


def speech_codes(graph: Path, samples: Float) -> NDArray[np.int64]:
    """Return the speech codes (n,) that a published speech tokenizer hears in samples (m,) at 16 kHz."""
    features = hearing_mel(samples)[None]
    answer = _run(graph, features, np.array([features.shape[2]], np.int32))
    codes = answer.reshape(-1).astype(np.int64)
    if answer.dtype.kind not in "iu" or (codes.size and not 0 <= codes.min() <= codes.max() < CODES):
        raise CheckpointError(f"{graph}: answers something else than codes below {CODES}; fetch the published file")
    return codes


def speaker(graph: Path, samples: Float) -> Float:
    """Return what a published speaker model says (width,) of samples (m,) at 16 kHz."""
    rows = filter_bank(samples)
    answer = _run(graph, (rows - rows.mean(axis=0, keepdims=True))[None])
    if answer.dtype != np.float32 or not np.isfinite(answer).all() or not answer.any():
        raise CheckpointError(f"{graph}: answers no finite numbers; fetch the published file")
    return answer.reshape(-1)


def hearing_mel(samples: Float) -> Float:
    """Return the whole log-mel (128, m // 160) of samples (m,) at 16 kHz, Whisper's: the floor is the clip's own."""
    power = _magnitudes(samples, HEARING_FFT, HEARING_HOP, HEARING_FFT // 2)[: samples.size // HEARING_HOP] ** 2
    mel = mel_filters(HEARING_BINS, HEARING_FFT, HEARING_RATE_HZ).astype(np.float64) @ power.T
    mel = np.log10(np.maximum(mel, 1e-10))
    return np.asarray((np.maximum(mel, mel.max() - HEARING_RANGE) + 4.0) / 4.0, np.float32)


def log_mel(samples: Float) -> Float:
    """Return the log-mel (m // 480, 80) of samples (m,) at 24 kHz that the flow was trained to continue."""
    magnitude = np.sqrt(_magnitudes(samples, FFT, HOP, (FFT - HOP) // 2) ** 2 + 1e-9)
    mel = magnitude @ mel_filters(BINS, FFT, RATE_HZ, TOP_HZ).astype(np.float64).T
    return np.log(np.maximum(mel, SMALLEST_MAGNITUDE)).astype(np.float32)


def filter_bank(samples: Float) -> Float:
    """Return Kaldi's log filter bank (1 + (m - 400) // 160, 80) of samples (m,) at 16 kHz, without dither."""
    try:
        import kaldi_native_fbank as kaldi
    except ImportError as error:
        raise MissingPackageError(
            f"kaldi-native-fbank: {error}, a voice needs it; pip install 'edgekit-audio[export]'"
        ) from error
    options = kaldi.FbankOptions()
    options.frame_opts.dither = 0.0
    options.frame_opts.samp_freq = HEARING_RATE_HZ
    options.mel_opts.num_bins = SPEAKER_BINS
    bank = kaldi.OnlineFbank(options)
    bank.accept_waveform(HEARING_RATE_HZ, samples.tolist())
    bank.input_finished()
    return np.stack([np.asarray(bank.get_frame(index), np.float32) for index in range(bank.num_frames_ready)])


def _magnitudes(samples: Float, n_fft: int, hop: int, pad: int) -> NDArray[np.float64]:
    """Return magnitudes (frames, n_fft / 2 + 1) under a periodic Hann window, ``pad`` samples reflected at each end."""
    padded = np.pad(samples.astype(np.float64), pad, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, n_fft)[::hop]
    window = 0.5 - 0.5 * np.cos(np.arange(n_fft) * (2 * np.pi / n_fft))
    return np.abs(np.fft.rfft(frames * window))


def _resampled(samples: Float, rate: int, wanted: int) -> Float:
    if rate == wanted:
        return samples
    resampled: Float = import_module("soxr").resample(samples, rate, wanted)
    return resampled


def _run(graph: Path, *inputs: NDArray[Any]) -> NDArray[Any]:
    """Return the first output of a published graph, whose inputs are known by their order."""
    try:
        onnxruntime = load_onnxruntime()
    except ImportError as error:
        raise MissingPackageError(
            f"onnxruntime: {error}, a voice needs it; pip install 'edgekit-audio[cpu]'"
        ) from error
    if not graph.is_file():
        raise CheckpointError(f"{graph}: not there, a voice is prepared with it; fetch the whole token2wav folder")
    try:
        session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
        names = [node.name for node in session.get_inputs()]
        answer: NDArray[Any] = session.run(None, dict(zip(names, inputs, strict=True)))[0]
    except Exception as error:  # onnxruntime has no common base class for its own errors
        raise CheckpointError(
            f"{graph}: onnxruntime {onnxruntime.__version__} refuses it ({' '.join(str(error).split())}); "
            "fetch the published file"
        ) from error
    return answer
