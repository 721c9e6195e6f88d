"""Whisper in plain torch with what the small model adds: attention in chunks and feed-forwards in experts.

Knows tensors under their Hugging Face names. Knows nothing of sound, words or training. With ``chunk`` None and all
experts on it is the published network (tests compare it with transformers).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

EXPERTS = 8


class Attention(nn.Module):
    """Multi-head attention; keys have no bias."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        self.v_proj, self.out_proj = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor, source: Tensor, mask: Tensor | None) -> Tensor:
        """Return (batch, n, width); mask: bool, True where a row of x may look at a row of source."""
        split = [t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in self.projected(x, source)]
        mixed = functional.scaled_dot_product_attention(*split, attn_mask=mask)
        out: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return out

    def projected(self, x: Tensor, source: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return query, key and value before they are split into heads."""
        return self.q_proj(x), self.k_proj(source), self.v_proj(source)

    def weights(self, x: Tensor, source: Tensor) -> Tensor:
        """Return the attention (batch, heads, n, m) without a mask; only alignment needs it."""
        q, k, _ = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2).float() for t in self.projected(x, source))
        return (q @ k.transpose(2, 3) / math.sqrt(q.shape[-1])).softmax(-1)


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each after its norm."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.self_attn, self.self_attn_layer_norm = Attention(width, heads), nn.LayerNorm(width)
        self.fc1, self.fc2, self.final_layer_norm = (
            nn.Linear(width, hidden),
            nn.Linear(hidden, width),
            nn.LayerNorm(width),
        )

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Return x (batch, n, width) after this layer."""
        normed = self.self_attn_layer_norm(x)
        x = x + self.self_attn(normed, normed, mask)
        return x + self.fc2(functional.gelu(self.fc1(self.final_layer_norm(x))))


class Encoder(nn.Module):
    """Log-mel to sound positions of 20 ms."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        width, heads = config["d_model"], config["encoder_attention_heads"]
        self.conv1 = nn.Conv1d(config["num_mel_bins"], width, 3, padding=1)
        self.conv2 = nn.Conv1d(width, width, 3, stride=2, padding=1)
        self.embed_positions = nn.Embedding(config["max_source_positions"], width)
        layers = [EncoderLayer(width, heads, config["encoder_ffn_dim"]) for _ in range(config["encoder_layers"])]
        self.layers, self.layer_norm = nn.ModuleList(layers), nn.LayerNorm(width)

    def forward(self, mel: Tensor, mask: Tensor | None) -> Tensor:
        """Return (batch, frames / 2, width) of mel (batch, bins, frames); mask: (batch, 1, n, n) or (n, n) bool."""
        x = functional.gelu(self.conv2(functional.gelu(self.conv1(mel)))).transpose(1, 2)
        x = x + self.embed_positions.weight[: x.shape[1]]
        for layer in self.layers:
            x = layer(x, mask)
        out: Tensor = self.layer_norm(x)
        return out


Rule = Callable[[Tensor], Tensor]  # a layer's router scores (..., experts) -> which experts work (..., experts) bool


@dataclass
class Routing:
    """One decoder layer, each (batch, tokens, experts): router scores, the mass an expert really had, who worked."""

    scores: Tensor
    mass: Tensor
    working: Tensor


def best(experts: Tensor) -> Rule:
    """Return the rule that lets the highest scores work, ``experts`` (...) int64 of them."""
    return lambda scores: scores.argsort(-1, descending=True).argsort(-1) < experts[..., None]


class DecoderLayer(nn.Module):
    """Self-attention, attention to sound, and a feed-forward whose hidden neurons form equal experts of weight 1."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.self_attn, self.self_attn_layer_norm = Attention(width, heads), nn.LayerNorm(width)
        self.encoder_attn, self.encoder_attn_layer_norm = Attention(width, heads), nn.LayerNorm(width)
        self.fc1, self.fc2, self.final_layer_norm = (
            nn.Linear(width, hidden),
            nn.Linear(hidden, width),
            nn.LayerNorm(width),
        )
        self.router = nn.Linear(width, EXPERTS)

    def forward(
        self, x: Tensor, sound: Tensor, causal: Tensor, heard: Tensor | None, rule: Rule | None
    ) -> tuple[Tensor, Routing | None]:
        """Return x (batch, n, width) and the Routing; without a rule all experts work and no router is asked."""
        normed = self.self_attn_layer_norm(x)
        x = x + self.self_attn(normed, normed, causal)
        x = x + self.encoder_attn(self.encoder_attn_layer_norm(x), sound, heard)
        return self.feed_forward(x, rule)

    def feed_forward(self, x: Tensor, rule: Rule | None) -> tuple[Tensor, Routing | None]:
        """Return x after the experts, and the Routing."""
        normed = self.final_layer_norm(x)
        hidden = functional.gelu(self.fc1(normed))
        routing = None
        if rule is not None:
            scores = self.router(normed.detach()).float()  # learns from what experts do, not from the words
            grouped = hidden.unflatten(-1, (EXPERTS, -1))
            routing = Routing(scores, grouped.detach().float().abs().mean(-1), rule(scores))
            hidden = (grouped * routing.working[..., None].to(hidden.dtype)).flatten(-2)
        return x + self.fc2(hidden), routing


class Decoder(nn.Module):
    """Tokens and sound to the next token."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        width, heads = config["d_model"], config["decoder_attention_heads"]
        self.embed_tokens = nn.Embedding(config["vocab_size"], width)
        self.embed_positions = nn.Embedding(config["max_target_positions"], width)
        layers = [DecoderLayer(width, heads, config["decoder_ffn_dim"]) for _ in range(config["decoder_layers"])]
        self.layers, self.layer_norm = nn.ModuleList(layers), nn.LayerNorm(width)

    def forward(
        self, tokens: Tensor, sound: Tensor, heard: Tensor | None = None, rule: Rule | None = None
    ) -> tuple[Tensor, list[Routing]]:
        """Return hidden rows (batch, n, width) before the head, and each layer's Routing if there is a rule."""
        x = self.embed_tokens(tokens) + self.embed_positions.weight[: tokens.shape[1]]
        causal = torch.ones(tokens.shape[1], tokens.shape[1], dtype=torch.bool, device=x.device).tril()
        routings = []
        for layer in self.layers:
            x, routing = layer(x, sound, causal, heard, rule)
            routings += [] if routing is None else [routing]
        return self.layer_norm(x), routings


class Network(nn.Module):
    """Encoder and decoder; the head is the token table."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.encoder, self.decoder = Encoder(config), Decoder(config)

    def head(self, hidden: Tensor) -> Tensor:
        """Return logits (..., vocabulary) of hidden rows."""
        return functional.linear(hidden, self.decoder.embed_tokens.weight)

    def tensors(self) -> dict[str, Tensor]:
        """Return every weight under the name that checkpoints use."""
        return {f"model.{name}": value.detach() for name, value in self.state_dict().items()}


def build(config: dict[str, Any], tensors: dict[str, Tensor]) -> Network:
    """Return the network with the tensors of a checkpoint; routers may be absent, nothing else."""
    network = Network(config)
    missing, unknown = network.load_state_dict(
        {name.removeprefix("model."): t.float() for name, t in tensors.items()}, strict=False
    )
    if unknown or any(".router." not in name for name in missing):
        raise ValueError(f"checkpoint: missing {missing}, unknown {unknown}; it is no Whisper of this shape")
    return network


def chunk_mask(positions: Tensor, lengths: Tensor, chunk: Tensor) -> Tensor:
    """Return (batch, 1, n, n) bool: a position sees its own chunk and earlier ones, as far as the clip goes.

    positions: (n,); lengths, chunk: (batch,) in positions. Rows beyond a clip see its first position.
    """
    group = positions[None] // chunk[:, None]
    seen = group[:, None, :] <= group[:, :, None]
    inside = positions[None] < lengths[:, None]
    mask = seen & inside[:, None, :]
    mask[:, :, 0] |= True
    return mask[:, None]


def split_into_experts(tensors: dict[str, Tensor], layers: int, seed: int = 0) -> dict[str, Tensor]:
    """Return the tensors with each decoder feed-forward's neurons grouped into equal experts, and routers.

    Balanced k-means of the normalised rows of fc1; with all experts on nothing changes. A router starts with the
    clusters' centres, in the direction in which their neurons fire.
    """
    result = dict(tensors)
    for index in range(layers):
        name = f"model.decoder.layers.{index}."
        rows = functional.normalize(tensors[name + "fc1.weight"].float(), dim=1)
        generator = torch.Generator().manual_seed(seed + index)
        centres = rows[torch.randperm(len(rows), generator=generator)[:EXPERTS]]
        for _ in range(30):
            assigned = balanced(rows @ centres.T)
            centres = functional.normalize(torch.stack([rows[assigned == k].mean(0) for k in range(EXPERTS)]), dim=1)
        order = assigned.argsort(stable=True)
        for suffix, axis in (("fc1.weight", 0), ("fc1.bias", 0), ("fc2.weight", 1)):
            result[name + suffix] = tensors[name + suffix].index_select(axis, order)
        result[name + "router.weight"], result[name + "router.bias"] = centres, torch.zeros(EXPERTS)
    return result


def balanced(similarity: Tensor) -> Tensor:
    """Return a cluster for each row of similarity (n, clusters), n / clusters rows each, the surest rows first."""
    capacity = [len(similarity) // similarity.shape[1]] * similarity.shape[1]
    assigned = torch.zeros(len(similarity), dtype=torch.int64)
    top = similarity.topk(2, dim=1).values
    for row in (top[:, 0] - top[:, 1]).argsort(descending=True).tolist():
        for cluster in similarity[row].argsort(descending=True).tolist():
            if capacity[cluster]:
                assigned[row], capacity[cluster] = cluster, capacity[cluster] - 1
                break
    return assigned
