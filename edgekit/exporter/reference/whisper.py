"""The torch reference of the Whisper family: transformers' own modules, called on EdgeKit's grid.

Two things differ from a published Whisper, and both can be switched off: attention of the encoder by chunks (a mask),
and feed-forwards of the decoder split into experts (a mask between fc1 and the activation; GELU of 0 is 0).
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import WhisperConfig, WhisperForConditionalGeneration

from edgekit.exporter.reference.base import Array, Prompt, Written
from edgekit.exporter.reference.chunks import HIDDEN, visible
from edgekit.exporter.sources.checkpoint import open_checkpoint, read
from edgekit.runtime.judge.probe import Heard


class SplitLinear(nn.Module):
    """The first linear of a feed-forward, its neurons zeroed but for the ``chosen`` experts of the highest scores.

    ``gap`` is the smallest distance seen between the lowest score chosen and the highest one that was not.
    """

    def __init__(self, dense: nn.Linear, router: nn.Linear) -> None:
        super().__init__()
        self.dense = dense
        self.router = router
        self.chosen = router.out_features
        self.gap = float("inf")

    def forward(self, x: Tensor) -> Tensor:
        """Return fc1 of x with the other experts' neurons at zero."""
        scores = self.router(x)
        ranked = scores.sort(dim=-1, descending=True).values
        if self.chosen < scores.shape[-1]:
            self.gap = min(self.gap, float((ranked[..., self.chosen - 1] - ranked[..., self.chosen]).min()))
        mask = torch.zeros_like(scores).scatter(-1, scores.topk(self.chosen, dim=-1).indices, 1.0)
        return self.dense(x) * mask.repeat_interleave(self.dense.out_features // scores.shape[-1], dim=-1)


class WhisperReference:
    """A checkpoint folder held by transformers, in float32 and on the CPU; every answer is a numpy array."""

    def __init__(self, folder: Path) -> None:
        found = open_checkpoint(folder)
        config = WhisperConfig(**found.config)
        config._attn_implementation = "eager"
        self.model = WhisperForConditionalGeneration(config).eval()
        tensors = {name: torch.from_numpy(read(found, name)) for name in found.names()}
        missing, routers = self.model.load_state_dict(tensors, strict=False)
        self.model.tie_weights()
        if set(missing) - {"proj_out.weight"} or any(".router." not in name for name in routers):
            raise AssertionError(f"{folder}: missing {missing}, unexpected {routers}")
        self._split: list[SplitLinear] = []
        if routers:
            for index, layer in enumerate(self.model.model.decoder.layers):
                root = f"model.decoder.layers.{index}.router"
                experts, width = tensors[f"{root}.weight"].shape
                router = nn.Linear(width, experts)
                router.load_state_dict({part: tensors[f"{root}.{part}"] for part in ("weight", "bias")})
                layer.fc1 = SplitLinear(layer.fc1, router).eval()
                self._split.append(layer.fc1)

    @classmethod
    def open(cls, folder: Path) -> "WhisperReference":
        """Return the reference of a checkpoint's folder."""
        return cls(folder)

    def hear(self, mel: Array, chunk_positions: int = 0) -> Array:
        """Return encoder frames (ceil(frames / 2), width), which is what the decoder hears."""
        return self.encode(mel, chunk_positions)

    def heard(self, ours: Heard) -> Array:
        """Return the encoder frames of a bundle."""
        return ours.frames

    def answer(self, heard: Array, prompt: Prompt, tokens: Sequence[int], experts_per_token: int | None) -> Array:
        """Return logits (tokens + 1, vocabulary) after the prompt and after each of the tokens, all forced."""
        lead = [*prompt.before, *prompt.after]
        return self.logits(heard, [*lead, *tokens], experts_per_token)[len(lead) - 1 :]

    @torch.inference_mode()
    def encode(self, mel: Array, chunk_positions: int = 0) -> Array:
        """Return encoder frames (ceil(frames / 2), width) of normalised log-mel (mel_bins, frames).

        The convolutions run over the whole array with their own zero padding. ``chunk_positions`` 0 attends everywhere.
        """
        encoder = self.model.model.encoder
        x = nn.functional.gelu(encoder.conv1(torch.from_numpy(mel)[None]))
        x = nn.functional.gelu(encoder.conv2(x)).permute(0, 2, 1)
        x = x + encoder.embed_positions.weight[: x.shape[1]]
        hidden = ~visible(x.shape[1], chunk_positions)
        mask = torch.zeros(hidden.shape).masked_fill(hidden, HIDDEN)[None, None]
        for layer in encoder.layers:
            x = layer(x, mask, layer_head_mask=None)[0]
        return encoder.layer_norm(x)[0].numpy()

    @torch.inference_mode()
    def cross(self, frames: Array) -> Array:
        """Return the cross-KV (2 * layers, heads, positions, head_dim) of encoder frames: key, value of each layer."""
        x = torch.from_numpy(frames)
        parts = []
        for layer in self.model.model.decoder.layers:
            attention = layer.encoder_attn
            size = (len(x), attention.num_heads, attention.head_dim)
            parts += [linear(x).view(size).transpose(0, 1) for linear in (attention.k_proj, attention.v_proj)]
        return torch.stack(parts).numpy()

    @torch.inference_mode()
    def logits(self, frames: Array, tokens: list[int], experts_per_token: int | None = None) -> Array:
        """Return logits (tokens, vocabulary) after each token, all of them forced; None takes every expert."""
        self._choose(experts_per_token)
        answer = self.model.model.decoder(
            input_ids=torch.tensor([tokens]), encoder_hidden_states=torch.from_numpy(frames)[None], use_cache=False
        )
        return self.model.proj_out(answer.last_hidden_state)[0].numpy()

    @torch.inference_mode()
    def write(self, frames: Array, start: list[int], count: int, experts_per_token: int | None = None) -> Written:
        """Return ``start`` and ``count`` greedy tokens after it; nothing is suppressed and nothing stops it."""
        self._choose(experts_per_token)
        sound = torch.from_numpy(frames)[None]
        tokens, fresh, lead, cache = list(start), list(start), float("inf"), None
        for _ in range(count):
            answer = self.model.model.decoder(
                input_ids=torch.tensor([fresh]), encoder_hidden_states=sound, past_key_values=cache, use_cache=True
            )
            cache = answer.past_key_values
            best = self.model.proj_out(answer.last_hidden_state[0, -1]).topk(2)
            lead = min(lead, float(best.values[0] - best.values[1]))
            fresh = [int(best.indices[0])]
            tokens += fresh
        return Written(tokens, lead)

    def router_gap(self) -> float:
        """Return the smallest distance between a chosen router score and another one in the latest answer."""
        return min((split.gap for split in self._split), default=float("inf"))

    def _choose(self, experts_per_token: int | None) -> None:
        if experts_per_token is not None and not self._split:
            raise AssertionError("this checkpoint has no experts")
        for split in self._split:
            split.chosen = experts_per_token or split.router.out_features
            split.gap = float("inf")
