"""The audio parts of a tiny Qwen3-Omni: configs, seeded weights, sounds and codes. Needs numpy alone.

``tests/goldens/omni-audio.npz`` holds what transformers answers (``omni_audio_golden`` makes it): ``digest`` of the
weights; ``exact-L`` and ``chunked-L``, embeddings of L mel frames; ``samples`` of CODE_FRAMES frames of codes.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekit.exporter.families.qwen3_omni.code2wav import Code2Wav
from edgekit.exporter.families.qwen3_omni.ears import Qwen3OmniEars
from tests.reference.checkpoints import Array, Draw, mel_features

GOLDEN = Path(__file__).parents[1] / "goldens" / "omni-audio.npz"
EARS = {
    "num_mel_bins": 128,
    "encoder_layers": 2,
    "d_model": 64,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "downsample_hidden_size": 8,
    "output_dim": 48,
    "n_window": 50,
    "n_window_infer": 400,
    "max_source_positions": 64,
    "activation_function": "gelu",
}
# The published rates; the window is shorter than the codes that are decoded.
VOICE = {
    "codebook_size": 64,
    "num_quantizers": 4,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "sliding_window": 5,
    "decoder_dim": 32,
}
EXACT = (1, 99, 100, 101, 230, 400, 401)
CHUNKED = (100, 230, 401)
CODE_FRAMES = 9
SEED = 17


def ears_weights(seed: int = SEED) -> dict[str, Array]:
    """Return seeded tensors of the audio tower by full name; no bias and no norm is left at its default."""
    draw = Draw(seed)
    for name, shape in Qwen3OmniEars(EARS).expected().items():
        if len(shape) > 1:
            draw.matrix(name.removesuffix(".weight"), shape, 1.5, bias=False)
        elif name.endswith("norm.weight") or "ln_post.weight" in name:
            draw.table(name, shape, 0.3, 1.0)
        else:
            draw.table(name, shape, 0.2)
    return draw.tensors


def voice_weights(seed: int = SEED) -> dict[str, Array]:
    """Return seeded tensors of code2wav by full name."""
    draw = Draw(seed)
    for name, shape in Code2Wav(VOICE).expected().items():
        draw_voice(draw, name, shape)
    return draw.tensors


def draw_voice(draw: Draw, name: str, shape: tuple[int, ...]) -> None:
    """Draw a tensor of code2wav so that every block counts and few samples are clipped."""
    if name.endswith((".gamma", ".scale")):
        draw.table(name, shape, 0.1, 0.5)
    elif name.endswith((".alpha", ".beta")):
        draw.table(name, shape, 0.4)
    elif len(shape) == 1:
        draw.table(name, shape, *((0.3, 1.0) if "norm" in name and name.endswith("weight") else (0.1, 0.0)))
    elif "embedding" in name:
        draw.table(name, shape, 1.0)
    elif ".block.1." in name:  # a transposed convolution: two columns of its kernel meet in a sample
        draw.table(name, shape, 0.5 / float(2 * shape[0]) ** 0.5)
    else:
        # Snake adds up to 1 / beta in each of its 29 places: nothing is left of the rest unless convolutions damp
        damped = ".decoder." in name and shape[0] > 1
        draw.matrix(name.removesuffix(".weight"), shape, 0.4 if damped else 1.5, bias=False)


def mel(frames: int) -> Array:
    """Return the features (128, frames) of a sound."""
    return mel_features(300 + frames, EARS["num_mel_bins"], frames)


def codes(frames: int, seed: int = SEED) -> NDArray[np.int64]:
    """Return random codes (frames, codebooks)."""
    return np.random.default_rng(seed).integers(0, VOICE["codebook_size"], (frames, VOICE["num_quantizers"]))


def digest(*weights: Mapping[str, Array]) -> str:
    """Return the SHA-256 of every tensor, which the golden carries to name the weights it was made with."""
    found = hashlib.sha256()
    for tensors in weights:
        for name in sorted(tensors):
            found.update(name.encode() + tensors[name].tobytes())
    return found.hexdigest()
