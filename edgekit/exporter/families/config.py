"""Read one value of a checkpoint's config, with a message that names the key where it is absent or cannot be.

A config has a few bytes and decides how much is built: each number that is read lies in a range, far beyond every model
that is known and low enough that a list of so many can be made. What sizes come to together is compared with the
weights (``check_names``), and ``check_count`` says how many tensors may be named before that.
"""

import math
from collections.abc import Mapping
from typing import Any, TypeVar

from edgekit.errors import CheckpointError
from edgekit.reprs import exact

_T = TypeVar("_T", int, float, bool, str)

MOST_LAYERS, MOST_HEADS, MOST_EXPERTS, MOST_CODEBOOKS = 1024, 512, 4096, 64
LARGEST_WIDTH = 1 << 17
LARGEST_VOCABULARY = 1 << 19  # twice the largest of a published language model
MOST_POSITIONS = 1 << 24
MOST_TENSORS = 200_000  # of one checkpoint; one of 30 B with 128 experts a layer has 28,000
LARGEST_NUMBER = 1e12
Range = tuple[float, float]


def _each(range_: Range, *keys: str) -> dict[str, Range]:
    return dict.fromkeys(keys, range_)


RANGES: Mapping[str, Range] = {
    **_each((1, MOST_LAYERS), "decoder_layers", "encoder_layers", "n_audio_layer", "num_hidden_layers"),
    **_each(
        (1, MOST_HEADS),
        "decoder_attention_heads",
        "encoder_attention_heads",
        "n_audio_head",
        "num_attention_heads",
        "num_key_value_heads",
    ),
    **_each(
        (1, LARGEST_WIDTH),
        "codebook_size",
        "d_model",
        "decoder_dim",
        "decoder_ffn_dim",
        "downsample_hidden_size",
        "encoder_ffn_dim",
        "head_dim",
        "hidden_size",
        "intermediate_size",
        "llm_dim",
        "moe_intermediate_size",
        "n_audio_state",
        "output_dim",
        "thinker_hidden_size",
    ),
    "shared_expert_intermediate_size": (0, LARGEST_WIDTH),
    "vocab_size": (1, LARGEST_VOCABULARY),
    **_each((1, MOST_POSITIONS), "max_length", "max_new_tokens", "max_position_embeddings", "sliding_window"),
    # Weights of a row each, and frames of sound: an hour and more.
    **_each((1, 1 << 20), "max_source_positions", "n_audio_ctx", "n_window", "n_window_infer"),
    "max_target_positions": (8, 1 << 20),  # four tokens of a prompt and an answer, which has half of it
    **_each((1, 1024), "n_mels", "num_mel_bins"),
    **_each((1, MOST_CODEBOOKS), "num_code_groups", "num_quantizers"),
    **_each((1, 64), "adapter_stride", "kernel_size"),
    **_each((0, MOST_EXPERTS), "num_experts", "num_experts_per_tok", "num_local_experts"),
    **_each((0, 1 << 20), "chunk_frames", "fill_frames", "tail_frames"),
    "accept_hidden_layer": (0, MOST_LAYERS),
    **_each((0, MOST_POSITIONS), "no_repeat_ngram_size", "top_k"),
    "rms_norm_eps": (0, 1),
    **_each((0.001, 1e6), "repetition_penalty", "temperature", "top_p"),
    "rope_theta": (1, LARGEST_NUMBER),
}
"""The least and the most of each key. Another number is of a token, or of a family that is not ours."""
TOKEN: Range = (0, LARGEST_VOCABULARY - 1)
ANY: Range = (-LARGEST_NUMBER, LARGEST_NUMBER)
"""Of a number whose range its caller knows."""


def value(
    config: Mapping[str, Any], key: str, kind: type[_T], default: _T | None = None, *, within: Range | None = None
) -> _T:
    """Return ``config[key]`` as ``kind`` (an int may stand for a float). Raises CheckpointError naming the key.

    A number lies in the range of its key, or in ``within``.
    """
    found = config.get(key, default)
    if kind is float and type(found) is int and abs(found) <= LARGEST_NUMBER:
        found = float(found)
    if found is None or not isinstance(found, kind) or (kind is int and isinstance(found, bool)):
        raise CheckpointError(
            f"config.json: '{key}' is {exact(found)}, must be {kind.__name__}; use the published config.json"
        )
    if kind in (int, float):
        check_range(key, found, within or RANGES.get(key, TOKEN if kind is int else ANY))  # type: ignore[arg-type]
    return found


def check_range(label: str, number: float, range_: Range) -> None:
    """Return if a number lies in a range, both ends included; raises CheckpointError with the label."""
    least, most = range_
    if not least <= number <= most:
        raise CheckpointError(
            f"config.json: '{label}' is {exact(number)}, must be from {least:,} to {most:,}; use the published "
            "config.json"
        )


def check_count(sizes: Mapping[str, int]) -> None:
    """Return if sizes that multiply name no more tensors than a checkpoint has; raises CheckpointError with keys."""
    if math.prod(sizes.values()) > MOST_TENSORS:
        told = ", ".join(f"'{key}' {count:,}" for key, count in sizes.items())
        raise CheckpointError(
            f"config.json: {told}: more than {MOST_TENSORS:,} tensors, no checkpoint has so many; use the published "
            "config.json"
        )


def counts(config: Mapping[str, Any], key: str, where: str, *, most: int, longest: int = 16) -> tuple[int, ...]:
    """Return a list of at most so many whole numbers, each from 1 to ``most``; raises CheckpointError with the key."""
    found = config.get(key)
    numbers: tuple[Any, ...] = tuple(found) if isinstance(found, list | tuple) else ("",)
    if len(numbers) > longest or not all(type(one) is int and 1 <= one <= most for one in numbers):
        raise CheckpointError(
            f"config.json: {where}.{key} is {exact(found)}, must be a list of at most {longest} whole numbers, each "
            f"from 1 to {most}; use the published config.json"
        )
    return numbers


def check_parts(config: Mapping[str, Any], whole: str, parts: str) -> None:
    """Return if ``config[whole]`` divides evenly into ``config[parts]`` parts; raises CheckpointError naming both."""
    check_share(whole, value(config, whole, int), parts, value(config, parts, int))


def check_share(whole: str, size: int, parts: str, count: int) -> None:
    """Return if a size divides evenly into so many parts; raises CheckpointError with the keys of both."""
    if count < 1 or size % count:
        raise CheckpointError(
            f"config.json: '{whole}' is {size}, must divide evenly by '{parts}', {count}; use the published config.json"
        )


def rotary_base(config: Mapping[str, Any]) -> float:
    """Return the base of rotary positions: ``rope_theta``, which transformers 5 writes into ``rope_parameters``."""
    inner = config.get("rope_parameters")
    given = isinstance(inner, Mapping) and inner.get("rope_theta") is not None
    return value(inner if given else config, "rope_theta", float)  # type: ignore[arg-type]


def section(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return a nested object of a config."""
    found = config.get(key)
    if not isinstance(found, Mapping):
        raise CheckpointError(
            f"config.json: '{key}' is {type(found).__name__}, must be an object; use the published config.json"
        )
    return found
