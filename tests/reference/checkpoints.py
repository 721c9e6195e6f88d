"""Write tiny random checkpoints as real folders: both configs, model.safetensors and tokenizer.json.

Needs numpy, safetensors and tokenizers, no torch. Every weight, also each bias, norm and router, is drawn from a seed:
defaults of 0 and 1 would hide swapped keys. Weights are uniform, made of integer draws and float32 arithmetic alone,
so the same bytes come out everywhere and goldens need not store them (they store ``digest`` instead).
"""

import hashlib
import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import Tokenizer

from tests.reference.vocabulary import LANGUAGES, step_audio_tokenizer, whisper_tokenizer

Array = NDArray[np.float32]


@dataclass(frozen=True)
class WhisperShape:
    """Sizes of a Whisper-shaped checkpoint; ``experts`` > 0 splits the decoder's feed-forwards and adds routers.

    ``chunk_positions``: encoder positions of one chunk of the chunk-causal encoder, 0 for full attention.
    """

    mel_bins: int = 80
    width: int = 64
    heads: int = 4
    layers: int = 2
    feed_forward: int = 128
    vocabulary: int = 600
    source_positions: int = 1500
    target_positions: int = 448
    multilingual: bool = False
    experts: int = 0
    experts_per_token: int = 8
    chunk_positions: int = 0
    seed: int = 1


@dataclass(frozen=True)
class StepAudioShape:
    """Sizes of a Step-Audio-2-shaped checkpoint; ``experts`` > 0 makes the language model a Qwen3 mixture of experts.

    ``adapter_width`` is 2048 in every published checkpoint and stands in no config. ``codes``: tokens of speech, the
    last of the vocabulary.
    """

    mel_bins: int = 128
    width: int = 64
    heads: int = 4
    layers: int = 2
    positions: int = 64
    adapter_width: int = 2048
    text_hidden: int = 64
    text_layers: int = 2
    text_heads: int = 4
    text_kv_heads: int = 2
    text_head_dim: int = 16
    text_feed_forward: int = 128
    text_positions: int = 512
    vocabulary: int = 512
    experts: int = 0
    experts_per_token: int = 4
    expert_feed_forward: int = 64
    normalise_top_k: bool = True
    codes: int = 8
    seed: int = 2


Shape = WhisperShape | StepAudioShape

SHAPES: dict[str, Shape] = {
    "whisper-dense": WhisperShape(seed=71),
    "whisper-dense-128": WhisperShape(mel_bins=128, source_positions=96, multilingual=True, seed=12),
    "whisper-experts": WhisperShape(experts=8, feed_forward=256, chunk_positions=32, seed=53),
    "whisper-experts-128": WhisperShape(
        mel_bins=128,
        experts=8,
        experts_per_token=4,
        chunk_positions=16,
        source_positions=96,
        multilingual=True,
        seed=14,
    ),
    "step-dense": StepAudioShape(seed=21),
    "step-moe-4": StepAudioShape(experts=8, experts_per_token=4, seed=42),
    "step-moe-2": StepAudioShape(
        mel_bins=80, experts=8, experts_per_token=2, text_head_dim=32, normalise_top_k=False, seed=33
    ),
    "step-moe-8": StepAudioShape(mel_bins=80, experts=8, experts_per_token=8, seed=24),
}


def write(folder: Path, name: str) -> Path:
    """Write the checkpoint called ``name`` into ``folder`` (made if absent) and return the folder.

    name: one in SHAPES, ``omni`` or ``omni-thinker``, which writes only.
    """
    if name.startswith("omni"):
        from tests.reference import qwen3_omni

        return qwen3_omni.write(folder, speaks=name == "omni")
    shape = SHAPES[name]
    return write_whisper(folder, shape) if isinstance(shape, WhisperShape) else write_step_audio(folder, shape)


def digest(folder: Path) -> str:
    """Return the SHA-256 of the weights file, which goldens carry to name the weights they were made with."""
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def write_whisper(folder: Path, shape: WhisperShape) -> Path:
    """Write a Whisper checkpoint of any shape into ``folder`` and return the folder."""
    draw = Draw(shape.seed)
    width, wide = shape.width, shape.feed_forward
    draw.matrix("model.encoder.conv1", (width, shape.mel_bins, 3), 2.0)
    draw.matrix("model.encoder.conv2", (width, width, 3), 2.0)
    draw.table("model.encoder.embed_positions.weight", (shape.source_positions, width), 0.5)
    draw.table("model.decoder.embed_tokens.weight", (shape.vocabulary, width), 0.3)
    draw.table("model.decoder.embed_positions.weight", (shape.target_positions, width), 1.0)
    for side in ("encoder", "decoder"):
        draw.norm(f"model.{side}.layer_norm", width)
        for index in range(shape.layers):
            layer = f"model.{side}.layers.{index}"
            for attention in ("self_attn", "encoder_attn")[: 1 if side == "encoder" else 2]:
                draw.norm(f"{layer}.{attention}_layer_norm", width)
                for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
                    gain = 2.0 if part in {"q_proj", "k_proj"} else 1.5
                    draw.matrix(f"{layer}.{attention}.{part}", (width, width), gain, bias=part != "k_proj")
            draw.norm(f"{layer}.final_layer_norm", width)
            draw.matrix(f"{layer}.fc1", (wide, width), 1.5)
            draw.matrix(f"{layer}.fc2", (width, wide), 2.0)
            if side == "decoder" and shape.experts:
                draw.matrix(f"{layer}.router", (shape.experts, width), 2.0)
    tokenizer, special = whisper_tokenizer(shape.vocabulary)
    config, generation = _whisper_config(shape, special)
    return publish(folder, (config, generation), draw.tensors, tokenizer)


def write_step_audio(folder: Path, shape: StepAudioShape) -> Path:
    """Write a Step-Audio-2 checkpoint of any shape into ``folder`` and return the folder.

    The special tokens stand at small ids behind the text tokens; a loader has to read them from the tokenizer.
    """
    draw = Draw(shape.seed)
    width, hidden = shape.width, shape.text_hidden
    draw.matrix("encoder.conv1", (width, shape.mel_bins, 3), 2.0)
    draw.matrix("encoder.conv2", (width, width, 3), 2.0)
    draw.table("encoder.positional_embedding.weight", (shape.positions, width), 0.5)
    draw.norm("encoder.after_norm", width)
    for index in range(shape.layers):
        block = f"encoder.blocks.{index}"
        draw.norm(f"{block}.attn_ln", width)
        for part in ("query", "key", "value", "out"):
            gain = 2.0 if part in {"query", "key"} else 1.5
            draw.matrix(f"{block}.attn.{part}", (width, width), gain, bias=part != "key")
        draw.norm(f"{block}.mlp_ln", width)
        draw.matrix(f"{block}.mlp.0", (4 * width, width), 1.5)
        draw.matrix(f"{block}.mlp.2", (width, 4 * width), 2.0)
    draw.matrix("adapter.conv", (width, width, 3), 1.5)
    draw.matrix("adapter.linear1", (shape.adapter_width, width), 1.5)
    draw.matrix("adapter.linear2", (hidden, shape.adapter_width), 1.5)
    draw.table("model.embed_tokens.weight", (shape.vocabulary, hidden), 1.0)
    draw.norm("model.norm", hidden, bias=False)
    draw.matrix("lm_head", (shape.vocabulary, hidden), 2.0, bias=False)
    for index in range(shape.text_layers):
        _text_layer(draw, f"model.layers.{index}", shape)
    tokenizer = step_audio_tokenizer(shape.vocabulary, shape.codes)
    config, generation = _step_config(shape, tokenizer)
    return publish(folder, (config, generation), draw.tensors, tokenizer)


def mel_features(seed: int, mel_bins: int, frames: int) -> Array:
    """Return random normalised log-mel features (mel_bins, frames) in [-1, 1.5), in steps of 1/32 so that they pack."""
    steps = np.random.default_rng(seed).integers(-32, 48, size=(mel_bins, frames))
    return (steps / 32).astype(np.float32)


class Draw:
    """Seeded tensors by name: adding one never changes another. ``tensors`` collects them."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self.tensors: dict[str, Array] = {}

    def table(self, name: str, shape: tuple[int, ...], deviation: float, mean: float = 0.0) -> None:
        """Draw uniform numbers around ``mean`` with a standard deviation."""
        generator = np.random.default_rng([self._seed, zlib.crc32(name.encode())])
        steps = generator.integers(-(1 << 15), 1 << 15, size=shape, dtype=np.int32)
        scaled = steps.astype(np.float32) * np.float32(deviation * 3**0.5 / (1 << 15))
        self.tensors[name] = scaled + np.float32(mean)

    def matrix(self, name: str, shape: tuple[int, ...], gain: float, *, bias: bool = True) -> None:
        """Draw a weight (out, in, ...) that scales the deviation of its input by ``gain``, and perhaps a bias."""
        self.table(f"{name}.weight", shape, gain / float(np.prod(shape[1:])) ** 0.5)
        if bias:
            self.table(f"{name}.bias", shape[:1], 0.2)

    def norm(self, name: str, size: int, *, bias: bool = True) -> None:
        """Draw the scale of a norm around 1, and perhaps a bias."""
        self.table(f"{name}.weight", (size,), 0.3, mean=1.0)
        if bias:
            self.table(f"{name}.bias", (size,), 0.2)


def _text_layer(draw: Draw, layer: str, shape: StepAudioShape) -> None:
    hidden, head, dense = shape.text_hidden, shape.text_head_dim, not shape.experts
    draw.norm(f"{layer}.input_layernorm", hidden, bias=False)
    draw.norm(f"{layer}.post_attention_layernorm", hidden, bias=False)
    for part, heads in (("q", shape.text_heads), ("k", shape.text_kv_heads), ("v", shape.text_kv_heads)):
        gain = 2.0 if dense and part != "v" else 1.5
        draw.matrix(f"{layer}.self_attn.{part}_proj", (heads * head, hidden), gain, bias=dense)
    draw.matrix(f"{layer}.self_attn.o_proj", (hidden, shape.text_heads * head), 1.5, bias=False)
    if dense:
        _gated(draw, f"{layer}.mlp", hidden, shape.text_feed_forward)
        return
    for part in ("q_norm", "k_norm"):
        draw.norm(f"{layer}.self_attn.{part}", head, bias=False)
    draw.matrix(f"{layer}.mlp.gate", (shape.experts, hidden), 1.0, bias=False)
    for expert in range(shape.experts):
        _gated(draw, f"{layer}.mlp.experts.{expert}", hidden, shape.expert_feed_forward)


def _gated(draw: Draw, name: str, hidden: int, wide: int) -> None:
    draw.matrix(f"{name}.gate_proj", (wide, hidden), 1.5, bias=False)
    draw.matrix(f"{name}.up_proj", (wide, hidden), 1.5, bias=False)
    draw.matrix(f"{name}.down_proj", (hidden, wide), 2.0, bias=False)


def _whisper_config(shape: WhisperShape, special: dict[str, int]) -> tuple[dict[str, Any], dict[str, Any]]:
    end, start = special["endoftext"], special["startoftranscript"]
    config: dict[str, Any] = {
        "model_type": "whisper",
        "architectures": ["WhisperForConditionalGeneration"],
        "activation_function": "gelu",
        "d_model": shape.width,
        "num_mel_bins": shape.mel_bins,
        "max_source_positions": shape.source_positions,
        "max_target_positions": shape.target_positions,
        "vocab_size": shape.vocabulary,
        "scale_embedding": False,
        "is_encoder_decoder": True,
        "tie_word_embeddings": True,
        "decoder_start_token_id": start,
        "bos_token_id": end,
        "eos_token_id": end,
        "pad_token_id": end,
        "torch_dtype": "float32",
    }
    for side in ("encoder", "decoder"):
        config[f"{side}_layers"] = shape.layers
        config[f"{side}_attention_heads"] = shape.heads
        config[f"{side}_ffn_dim"] = shape.feed_forward
    extension: dict[str, Any] = {}
    if shape.chunk_positions:
        extension |= {"encoder_attention": "chunk-causal", "chunk_frames": shape.chunk_positions}
    if shape.experts:
        extension |= {"num_experts": shape.experts, "num_experts_per_tok": shape.experts_per_token}
    if extension:
        config["edgekit"] = extension
    generation: dict[str, Any] = {
        "decoder_start_token_id": start,
        "bos_token_id": end,
        "eos_token_id": end,
        "pad_token_id": end,
        "max_length": shape.target_positions,
        "is_multilingual": shape.multilingual,
        "no_timestamps_token_id": special["notimestamps"],
        "prev_sot_token_id": special["startofprev"],
        "return_timestamps": False,
        "suppress_tokens": [1, 2, 7, start, special["startoflm"], special["startofprev"], special["nospeech"]],
        "begin_suppress_tokens": [220, end],
    }
    if shape.multilingual:
        generation["lang_to_id"] = {f"<|{code}|>": special[code] for code in LANGUAGES}
        generation["task_to_id"] = {task: special[task] for task in ("transcribe", "translate")}
    else:
        generation["forced_decoder_ids"] = [[1, special["notimestamps"]]]
    return config, generation


def _step_config(shape: StepAudioShape, tokenizer: Tokenizer) -> tuple[dict[str, Any], dict[str, Any]]:
    text: dict[str, Any] = {
        "model_type": "qwen3_moe" if shape.experts else "qwen2",
        "architectures": ["Qwen3MoeForCausalLM" if shape.experts else "Qwen2ForCausalLM"],
        "hidden_size": shape.text_hidden,
        "num_hidden_layers": shape.text_layers,
        "num_attention_heads": shape.text_heads,
        "num_key_value_heads": shape.text_kv_heads,
        "intermediate_size": shape.text_feed_forward,
        "vocab_size": shape.vocabulary,
        "max_position_embeddings": shape.text_positions,
        "rope_theta": 1e6,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
    }
    if shape.experts:
        text |= {
            "head_dim": shape.text_head_dim,
            "attention_bias": False,
            "num_experts": shape.experts,
            "num_experts_per_tok": shape.experts_per_token,
            "moe_intermediate_size": shape.expert_feed_forward,
            "norm_topk_prob": shape.normalise_top_k,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
        }
    stops = [tokenizer.token_to_id(mark) for mark in ("<|endoftext|>", "<|im_end|>", "<|EOT|>")]
    config = {
        "model_type": "step_audio_2",
        "architectures": ["StepAudio2ForCausalLM"],
        "torch_dtype": "float32",
        "eos_token_id": stops,
        "text_config": text,
        "audio_encoder_config": {
            "n_mels": shape.mel_bins,
            "n_audio_ctx": shape.positions,
            "n_audio_state": shape.width,
            "n_audio_head": shape.heads,
            "n_audio_layer": shape.layers,
            "llm_dim": shape.text_hidden,
            "kernel_size": 3,
            "adapter_stride": 2,
            "n_codebook_size": 4096,
        },
    }
    return config, {"eos_token_id": stops, "pad_token_id": stops[0]}


def publish(
    folder: Path, configs: tuple[dict[str, Any], dict[str, Any]], tensors: dict[str, Array], tokenizer: Tokenizer
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in zip(("config.json", "generation_config.json"), configs, strict=True):
        (folder / name).write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    save_file(dict(sorted(tensors.items())), folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder
