"""What the goldens hold: the cases of every tiny checkpoint, and the files they are stored in. Needs numpy alone.

One ``tests/goldens/CHECKPOINT.npz`` for each name in ``checkpoints.SHAPES``, with these keys: ``digest`` of the
weights; for each sound its key, a dot and ``mel`` (int8, 32 steps to 1), ``frames`` (encoder output), ``heard`` (what
the adapter makes of it: every HEARD_COLUMNS-th position of the cross-KV, or all embeddings); for each passage its key,
a dot and ``before``, ``after`` (token ids around the sound), ``tokens`` (greedy ones behind them), ``rows`` and
``logits`` (of those rows, every token forced).

``omni-text.npz`` is of the text parts of ``tests/reference/qwen3_omni.py``: ``digest``; for 1 and 2 experts a token
``k1.`` and ``k2.`` with ``logits`` (of ``rows``) and ``hidden`` of rows "text" and greedy ``tokens`` behind them;
``talker.logits`` and ``talker.hidden`` of rows "talked"; ``predictor.logits`` of every step; ``adapter.embeds`` of rows
"text", every third of which is sound; ``codes.N``, greedy frames behind nine rows with N rows of text after them.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.reference.checkpoints import SHAPES, WhisperShape, mel_features

FOLDER = Path(__file__).parents[1] / "goldens"
MEL_STEPS = 32
HEARD_COLUMNS = 8
GREEDY_TOKENS = 64

Golden = dict[str, NDArray[np.generic]]


@dataclass(frozen=True)
class Sound:
    """Mel frames of one utterance and the chunk the encoder is called with, in positions (0: the whole window)."""

    frames: int
    chunk_positions: int = 0

    @property
    def key(self) -> str:
        """Name of the case in the golden file."""
        return f"{'chunked' if self.chunk_positions else 'exact'}-{self.frames}"


@dataclass(frozen=True)
class Passage:
    """Tokens written after one of the checkpoint's sounds; None takes the reference's own experts per token."""

    sound: Sound
    experts_per_token: int | None = None

    @property
    def key(self) -> str:
        """Name of the case in the golden file."""
        return f"{self.sound.key}.k{self.experts_per_token or 'own'}"


def sounds(checkpoint: str) -> tuple[Sound, ...]:
    """Return the sounds of a checkpoint: one frame, one frame short and one over, whole and short last chunks."""
    return _SOUNDS[checkpoint]


def passages(checkpoint: str) -> tuple[Passage, ...]:
    """Return the passages of a checkpoint: every number of experts on one sound, and the reference's own on others."""
    return _PASSAGES[checkpoint]


def mel(checkpoint: str, sound: Sound) -> NDArray[np.float32]:
    """Return the features (mel_bins, frames) of a sound, made from a seed."""
    return mel_features(100 + sound.frames, SHAPES[checkpoint].mel_bins, sound.frames)


def rows(tokens: int) -> NDArray[np.int64]:
    """Return the rows whose logits are stored, of ``tokens`` forced ones: both ends and three between."""
    return np.unique(np.linspace(0, tokens - 1, 5).astype(np.int64))


def load(checkpoint: str) -> Golden:
    """Return the stored golden of a checkpoint, features as float32 again."""
    with np.load(FOLDER / f"{checkpoint}.npz") as stored:
        golden = {key: stored[key] for key in stored.files}
    return {key: _widen(value) if key.endswith(".mel") else value for key, value in golden.items()}


def save(checkpoint: str, golden: Golden, folder: Path = FOLDER) -> Path:
    """Store a golden and return its path."""
    path = folder / f"{checkpoint}.npz"
    packed = {key: _narrow(value) if key.endswith(".mel") else value for key, value in golden.items()}
    np.savez_compressed(path, **packed)  # type: ignore[arg-type]
    return path


def _widen(steps: NDArray[np.generic]) -> NDArray[np.generic]:
    return steps.astype(np.float32) / np.float32(MEL_STEPS)


def _narrow(features: NDArray[np.generic]) -> NDArray[np.generic]:
    steps = (features * np.float32(MEL_STEPS)).astype(np.int8)
    if not np.array_equal(_widen(steps), features):
        raise AssertionError("features are not made of 32 steps to 1")
    return steps


def _plain(*frames: int, chunk: int = 0) -> tuple[Sound, ...]:
    return tuple(Sound(count, chunk) for count in frames)


# Step-Audio's count of embeddings depends on the frames modulo 8, and is 0 below 5 frames.
_STEP_EXACT = _plain(1, 2, *range(3, 13), 63, 64, 65, 66, 127, 128)
_STEP_CHUNKED = _plain(7, 31, 32, 33, 34, 36, 37, 63, 64, 65, 95, 96, 97, 128, chunk=16)
_SOUNDS: dict[str, tuple[Sound, ...]] = {
    "whisper-dense": _plain(1, 2, 63, 64, 65),
    "whisper-dense-128": _plain(191, 192),
    "whisper-experts": _plain(2, 63, 64, 65, 128, 129, 190, 192, chunk=32),
    "whisper-experts-128": _plain(32, 100, 192, chunk=16),
    "step-dense": _STEP_EXACT + _STEP_CHUNKED,
    "step-moe-4": _plain(66, 127) + _plain(97, chunk=16),
    "step-moe-2": _plain(65, 128) + _plain(96, chunk=16),
    "step-moe-8": _plain(64),
}


def _every(sound: Sound, *counts: int | None) -> tuple[Passage, ...]:
    return tuple(Passage(sound, count) for count in counts)


_PASSAGES: dict[str, tuple[Passage, ...]] = {
    "whisper-dense": _every(Sound(1), None) + _every(Sound(65), None),
    "whisper-dense-128": _every(Sound(192), None),
    "whisper-experts": _every(Sound(192, 32), 2, 3, 4, 8) + _every(Sound(65, 32), 4),
    "whisper-experts-128": _every(Sound(100, 16), 2, 4, 8),
    "step-dense": _every(Sound(127), None) + _every(Sound(97, 16), None) + _every(Sound(5), None),
    "step-moe-4": _every(Sound(127), None, 1, 2, 3) + _every(Sound(97, 16), 2),
    "step-moe-2": _every(Sound(128), None, 1) + _every(Sound(96, 16), 2),
    "step-moe-8": _every(Sound(64), None, 2, 3, 4),
}
WHISPER = tuple(name for name, shape in SHAPES.items() if isinstance(shape, WhisperShape))
STEP_AUDIO = tuple(name for name in SHAPES if name not in WHISPER)
