"""The torch reference of the Step-Audio 2 family, built from transformers' own modules.

No package holds this family. Its encoder is Qwen2-Audio's under other names (plus a mask over padded keys), its
backbone is Qwen2, or Qwen3-MoE under the same names; only the adapter is written out here.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import Qwen2AudioEncoderConfig, Qwen2Config, Qwen2ForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM
from transformers.models.qwen2_audio.modeling_qwen2_audio import Qwen2AudioEncoder
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeSparseMoeBlock

from edgekit.exporter.reference.base import Array, PrefixReference, Written
from edgekit.exporter.reference.chunks import HIDDEN, visible
from edgekit.exporter.sources.checkpoint import open_checkpoint, read

_ENCODER_NAMES = (
    ("blocks.", "layers."),
    (".attn.query.", ".self_attn.q_proj."),
    (".attn.key.", ".self_attn.k_proj."),
    (".attn.value.", ".self_attn.v_proj."),
    (".attn.out.", ".self_attn.out_proj."),
    (".attn_ln.", ".self_attn_layer_norm."),
    (".mlp.0.", ".fc1."),
    (".mlp.2.", ".fc2."),
    (".mlp_ln.", ".final_layer_norm."),
    ("after_norm.", "layer_norm."),
    ("positional_embedding.", "embed_positions."),
)


def token_count(frames: int) -> int:
    """Return how many embeddings ``frames`` mel frames become. Source: stepfun-ai/Step-Audio2, utils.py.

    The published code gives the encoder a length two frames short of what it hands over.
    """
    length = frames - 2
    return ((length + 1) // 2 // 2 - 1) // 2 + 1


def valid_positions(frames: int) -> int:
    """Return how many of the ceil(frames / 2) positions may be attended: all but the last.

    The published mask over mel frames, true below ``frames - 2``, is read at every second frame from (frames + 1) % 2.
    """
    return len([at for at in range((frames + 1) % 2, frames, 2) if at < frames - 2])


class Adapter(nn.Module):
    """The adapter, (1, width, frames) -> (1, ceil(frames / 2), hidden). Source: modeling_step_audio_2.py, Adaptor."""

    def __init__(self, width: int, wide: int, hidden: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(width, width, kernel_size=3, stride=2, padding=1)
        self.linear1 = nn.Linear(width, wide)
        self.linear2 = nn.Linear(wide, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """Return embeddings of pooled frames."""
        x = nn.functional.gelu(self.conv(x)).permute(0, 2, 1)
        return self.linear2(nn.functional.relu(self.linear1(x)))


class StepAudioReference(PrefixReference):
    """A checkpoint folder held by transformers' modules, in float32 and on the CPU; every answer is a numpy array."""

    def __init__(self, folder: Path) -> None:
        found = open_checkpoint(folder)
        config = found.config
        tensors = {name: torch.from_numpy(read(found, name)) for name in found.names()}
        self.encoder = _encoder(config["audio_encoder_config"], _below(tensors, "encoder."))
        self.adapter = _adapter(_below(tensors, "adapter."))
        text = {name: tensor for name, tensor in tensors.items() if not name.startswith(("encoder.", "adapter."))}
        self.backbone = _backbone(config["text_config"], text)
        self._blocks = [part for part in self.backbone.modules() if isinstance(part, Qwen3MoeSparseMoeBlock)]
        self._default = config["text_config"].get("num_experts_per_tok")
        self._gap = float("inf")
        for block in self._blocks:
            block.gate.register_forward_hook(lambda _gate, _inputs, scores, block=block: self._see(block, scores))

    @classmethod
    def open(cls, folder: Path) -> "StepAudioReference":
        """Return the reference of a checkpoint's folder."""
        return cls(folder)

    @torch.inference_mode()
    def encode(self, mel: Array, chunk_positions: int = 0) -> Array:
        """Return pooled frames (ceil(frames / 2) // 2, width), padding included, of log-mel (mel_bins, frames).

        ``chunk_positions`` 0 is the published encoder; otherwise a position sees its own and earlier chunks only.
        Either way the last position asks but is never seen.
        """
        encoder = self.encoder
        x = nn.functional.gelu(encoder.conv1(torch.from_numpy(mel)[None]))
        x = nn.functional.gelu(encoder.conv2(x)).permute(0, 2, 1)
        x = x + encoder.embed_positions.weight[: x.shape[1]]
        seen = visible(x.shape[1], chunk_positions)
        seen[:, valid_positions(mel.shape[1]) :] = False
        mask = torch.zeros(seen.shape).masked_fill(~seen, HIDDEN)[None, None]
        for layer in encoder.layers:
            x = layer(x, mask, layer_head_mask=None)[0]
        if x.shape[1] < 2:
            return np.zeros((0, x.shape[2]), np.float32)
        x = encoder.avg_pooler(x.permute(0, 2, 1)).permute(0, 2, 1)
        return encoder.layer_norm(x)[0].numpy()

    @torch.inference_mode()
    def adapt(self, frames: Array, count: int) -> Array:
        """Return the first ``count`` embeddings (count, hidden); the convolution runs over all pooled frames."""
        if not len(frames):
            return np.zeros((0, self.backbone.config.hidden_size), np.float32)
        return self.adapter(torch.from_numpy(frames.T.copy())[None])[0, :count].numpy()

    def hear(self, mel: Array, chunk_positions: int = 0) -> Array:
        """Return the embeddings (token_count(frames), hidden) of normalised log-mel (mel_bins, frames)."""
        return self.adapt(self.encode(mel, chunk_positions), token_count(mel.shape[1]))

    @torch.inference_mode()
    def embed(self, tokens: list[int]) -> Array:
        """Return rows (tokens, hidden) of the token table."""
        return self.backbone.model.embed_tokens(torch.tensor(tokens, dtype=torch.int64)).numpy()

    @torch.inference_mode()
    def logits(self, embeds: Array, experts_per_token: int | None = None) -> Array:
        """Return logits (rows, vocabulary) after each row of ``embeds``; None takes the config's experts per token."""
        self._choose(experts_per_token)
        return self.backbone(inputs_embeds=torch.from_numpy(embeds)[None], use_cache=False).logits[0].numpy()

    @torch.inference_mode()
    def write(self, embeds: Array, count: int, experts_per_token: int | None = None) -> Written:
        """Return ``count`` greedy tokens after ``embeds``; nothing is suppressed and nothing stops it."""
        self._choose(experts_per_token)
        tokens: list[int] = []
        lead, cache, fresh = float("inf"), None, embeds
        for _ in range(count):
            answer = self.backbone(
                inputs_embeds=torch.from_numpy(fresh)[None], past_key_values=cache, use_cache=True, logits_to_keep=1
            )
            cache = answer.past_key_values
            best = answer.logits[0, -1].topk(2)
            lead = min(lead, float(best.values[0] - best.values[1]))
            tokens.append(int(best.indices[0]))
            fresh = self.embed(tokens[-1:])
        return Written(tokens, lead)

    def router_gap(self) -> float:
        """Return the smallest distance between a chosen router score and another one in the latest answer."""
        return self._gap

    def _see(self, block: Qwen3MoeSparseMoeBlock, scores: Tensor) -> None:
        ranked = scores.sort(dim=-1, descending=True).values
        if block.top_k < ranked.shape[-1]:
            self._gap = min(self._gap, float((ranked[..., block.top_k - 1] - ranked[..., block.top_k]).min()))

    def _choose(self, experts_per_token: int | None) -> None:
        if experts_per_token is not None and not self._blocks:
            raise AssertionError("this checkpoint has no experts")
        self._gap = float("inf")
        for block in self._blocks:
            block.top_k = experts_per_token or self._default


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _encoder(audio: dict[str, Any], tensors: dict[str, Tensor]) -> Qwen2AudioEncoder:
    width = audio["n_audio_state"]
    config = Qwen2AudioEncoderConfig(
        num_mel_bins=audio["n_mels"],
        encoder_layers=audio["n_audio_layer"],
        encoder_attention_heads=audio["n_audio_head"],
        encoder_ffn_dim=4 * width,
        d_model=width,
        max_source_positions=audio["n_audio_ctx"],
        attn_implementation="eager",
    )
    encoder = Qwen2AudioEncoder(config).eval()
    renamed = {}
    for name, tensor in tensors.items():
        ours = name
        for published, transformers_name in _ENCODER_NAMES:
            ours = ours.replace(published, transformers_name)
        renamed[ours] = tensor
    encoder.load_state_dict(renamed)
    return encoder


def _adapter(tensors: dict[str, Tensor]) -> Adapter:
    wide, width = tensors["linear1.weight"].shape
    adapter = Adapter(width, wide, len(tensors["linear2.weight"])).eval()
    adapter.load_state_dict(tensors)
    return adapter


def _backbone(text: dict[str, Any], tensors: dict[str, Tensor]) -> Any:
    kinds = {"qwen2": (Qwen2Config, Qwen2ForCausalLM), "qwen3_moe": (Qwen3MoeConfig, Qwen3MoeForCausalLM)}
    config_kind, model_kind = kinds[text["model_type"]]
    config = config_kind(**{key: value for key, value in text.items() if key not in ("model_type", "torch_dtype")})
    config._attn_implementation = "eager"
    model = model_kind(config).eval()
    model.load_state_dict(tensors)
    return model
