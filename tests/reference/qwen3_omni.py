"""A tiny Qwen3-Omni: its config and seeded weights, every special feature kept. Needs numpy and tokenizers, no torch.

Names and shapes of the weights are those that the family expects; that they are transformers' own is tested where torch
is (tests/reference/test_live_qwen3_omni.py).
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.exporter.families.qwen3_omni.family import open_qwen3_omni
from tests.reference.checkpoints import Array, Draw, publish
from tests.reference.omni_audio import draw_voice
from tests.reference.vocabulary import omni_tokenizer

VOCABULARY = 544
CODEBOOK = 64
CODEBOOKS = 4
SEED = 61
GOLDEN = "omni-text"
FRAMES = 32
TEXT_ROWS, TALKER_ROWS = 21, 14  # given to thinker and talker


def tokens() -> dict[str, int]:
    """Return id of every special token and role of the tokenizer."""
    tokenizer = omni_tokenizer(VOCABULARY)
    names = ("<|im_start|>", "<|im_end|>", "<|audio_start|>", "<|audio_end|>", "<|audio_pad|>", "<|vision_start|>")
    names += ("<|vision_end|>", "<|image_pad|>", "<|video_pad|>", "<tts_pad>", "<tts_text_bos>", "<tts_text_eod>")
    return {name: tokenizer.token_to_id(name) for name in (*names, "system", "user", "assistant")}


def config(*, speaks: bool = True) -> dict[str, Any]:
    """Return the config; without ``speaks`` that of a Thinking checkpoint."""
    ids = tokens()
    shared = {
        "audio_start_token_id": ids["<|audio_start|>"],
        "audio_end_token_id": ids["<|audio_end|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
        "audio_token_id": ids["<|audio_pad|>"],
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "position_id_per_seconds": 13,
    }
    found: dict[str, Any] = {
        "model_type": "qwen3_omni_moe",
        "architectures": ["Qwen3OmniMoeForConditionalGeneration"],
        "enable_audio_output": speaks,
        "im_start_token_id": ids["<|im_start|>"],
        "im_end_token_id": ids["<|im_end|>"],
        "tts_pad_token_id": ids["<tts_pad>"],
        "tts_bos_token_id": ids["<tts_text_bos>"],
        "tts_eos_token_id": ids["<tts_text_eod>"],
        "system_token_id": ids["system"],
        "user_token_id": ids["user"],
        "assistant_token_id": ids["assistant"],
        "thinker_config": shared | {"audio_config": _AUDIO, "vision_config": _VISION, "text_config": _TEXT},
    }
    if speaks:
        codec = {"pad": 64, "bos": 65, "nothink": 67, "think_bos": 68, "think_eos": 69}
        found["talker_config"] = shared | {
            "text_config": _TALKER,
            "code_predictor_config": _PREDICTOR,
            "thinker_hidden_size": 64,
            "accept_hidden_layer": 2,
            "num_code_groups": CODEBOOKS,
            "codec_eos_token_id": 66,
            "speaker_id": {"ethan": 70, "chelsie": 71},
            "spatial_merge_size": 2,
            **{f"codec_{name}_id": number for name, number in codec.items()},
        }
        found["code2wav_config"] = _DECODER
    return found


def draw(expected: Mapping[str, tuple[int, ...]], seed: int = SEED) -> dict[str, Array]:
    """Return seeded weights: norms, biases, scales and Snake's parameters are all away from their defaults."""
    made = Draw(seed)
    for name, shape in expected.items():
        stem = name.removesuffix(".weight")
        if name.startswith("code2wav."):
            draw_voice(made, name, shape)
        elif name.endswith(".bias"):
            made.table(name, shape, 0.2)
        elif len(shape) == 1:
            made.norm(stem, shape[0], bias=False)
        elif "embed" in name:
            made.table(name, shape, 1.0)
        elif name.endswith("mlp.gate.weight"):
            made.matrix(stem, shape, 1.0, bias=False)
        elif name.startswith("code2wav."):
            made.matrix(stem, shape, 0.6, bias=False)  # more, and all sound is cut at 1
        else:
            made.matrix(stem, shape, 2.0 if "head" in name or "down_proj" in name else 1.5, bias=False)
    return made.tensors


def write(folder: Path, *, speaks: bool = True) -> Path:
    """Write the checkpoint into ``folder`` (made if absent), an eye that nobody reads included; return the folder."""
    content = config(speaks=speaks)
    tensors = draw(open_qwen3_omni(content, {}).expected())
    tensors["thinker.visual.patch_embed.proj.bias"] = np.zeros(32, np.float32)
    generation = {"eos_token_id": tokens()["<|im_end|>"]}
    return publish(folder, (content, generation), tensors, omni_tokenizer(VOCABULARY))


def rows(name: str, count: int, width: int) -> Array:
    """Return seeded rows (count, width) that a graph is given, of deviation 1."""
    made = Draw(SEED)
    made.table(name, (count, width), 1.0)
    return made.tensors[name]


def digest(tensors: Mapping[str, Array]) -> str:
    """Return the SHA-256 of every tensor, which the golden carries to name the weights it was made with."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        found.update(name.encode() + tensors[name].tobytes())
    return found.hexdigest()


_ROPE = {"rope_type": "default", "type": "default", "mrope_section": [4, 2, 2], "interleaved": True}
_AUDIO = {
    "model_type": "qwen3_omni_moe_audio_encoder",
    "num_mel_bins": 128,
    "encoder_layers": 2,
    "d_model": 64,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "downsample_hidden_size": 8,
    "output_dim": 64,
    "n_window": 50,
    "n_window_infer": 200,
    "max_source_positions": 64,
    "conv_chunksize": 500,
    "activation_function": "gelu",
}
_VISION = {
    "model_type": "qwen3_omni_moe_vision_encoder",
    "depth": 1,
    "hidden_size": 32,
    "num_heads": 4,
    "intermediate_size": 64,
    "out_hidden_size": 64,
    "deepstack_visual_indexes": [0],
    "num_position_embeddings": 16,
}
_ATTENTION = {
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "attention_bias": False,
    "hidden_act": "silu",
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "tie_word_embeddings": False,
}
_MIXTURE = {
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "norm_topk_prob": True,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
}
_TEXT = (
    _ATTENTION
    | _MIXTURE
    | {
        "model_type": "qwen3_omni_moe_text",
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 3,
        "moe_intermediate_size": 32,
        "rope_scaling": _ROPE,
    }
)
_TALKER = (
    _ATTENTION
    | _MIXTURE
    | {
        "model_type": "qwen3_omni_moe_talker_text",
        "vocab_size": CODEBOOK + 1024,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 32,
        "rope_scaling": _ROPE,
    }
)
_PREDICTOR = _ATTENTION | {
    "model_type": "qwen3_omni_moe_talker_code_predictor",
    "vocab_size": CODEBOOK,
    "hidden_size": 32,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_code_groups": CODEBOOKS,
    "layer_types": ["full_attention", "full_attention"],
}
_DECODER = {
    "codebook_size": CODEBOOK,
    "num_quantizers": CODEBOOKS,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "num_hidden_layers": 2,
    "intermediate_size": 64,
    "decoder_dim": 32,
    "sliding_window": 8,
    "max_position_embeddings": 512,
    "rope_theta": 10_000,
    "rms_norm_eps": 1e-5,
    "attention_bias": False,
    "hidden_act": "silu",
    "upsample_rates": [8, 5, 4, 3],
    "upsampling_ratios": [2, 2],
}
