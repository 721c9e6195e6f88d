"""Greedy decoding of a batch in float32 by the network of training, under a rule that chooses experts.

Knows recordings with words, the streaming grid and a key-value cache. Knows nothing of bundles or EdgeKit's runtime.
"""

import json
from pathlib import Path

import torch
from features import RATE_HZ, WINDOW, streaming
from network import Network, Rule, build, chunk_mask
from reference import Reference
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from edgekit.profiler.words import read_references
from edgekit.runtime.answer.lookup import loop_start

MAX_TOKENS, MAX_REPEATS = 200, 3  # of an answer; of a phrase in it, as in export/edgekit-tiny/recipe.toml


def load_network(folder: Path) -> Network:
    """Return a checkpoint's network in float32."""
    return build(
        json.loads((folder / "config.json").read_text(encoding="utf-8")), load_file(folder / "model.safetensors")
    ).eval()


def recordings(speech: Path, words: Path, every: int, longest_s: float = 28.0) -> tuple[list[Path], list[str]]:
    """Return every n-th of the WAV files that have words and fit into one window, by length, and what was said."""
    known = {name: one.words for name, one in read_references(words).items() if one.words and not one.left_out}
    names = {path: path.relative_to(speech).with_suffix("").as_posix() for path in speech.rglob("*.wav")}
    size = {path: path.stat().st_size for path in names}
    chosen = [path for path, name in names.items() if name in known and size[path] <= longest_s * 2 * RATE_HZ]
    chosen = sorted(chosen, key=lambda path: (size[path], path))[::every]
    return chosen, [known[names[path]] for path in chosen]


def batch(sounds: list[Tensor], chunk: int, tail: int, fill: int) -> tuple[Tensor, Tensor]:
    """Return the streaming features of sounds (n,), (batch, 80, frames) padded by zeros, and positions (batch,)."""
    mels = [streaming(sound, chunk, 2 * tail, fill)[:, :WINDOW] for sound in sounds]
    lengths = torch.tensor([mel.shape[1] // 2 for mel in mels])
    padded = torch.zeros(len(mels), 80, 2 * int(lengths.max()))
    for row, mel in enumerate(mels):
        padded[row, :, : mel.shape[1]] = mel
    return padded, lengths


def encode(network: Network, mel: Tensor, lengths: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
    """Return frames (batch, positions, width) and which of them are of a clip, (batch, 1, 1, positions) bool."""
    positions = torch.arange(mel.shape[2] // 2)
    sound = network.encoder(mel, chunk_mask(positions, lengths, torch.full_like(lengths, chunk)))
    return sound, (positions[None] < lengths[:, None])[:, None, None]


class Speaker:
    """Greedy decoding of a batch, one token at a time, with a key-value cache."""

    def __init__(self, network: Network, sound: Tensor, heard: Tensor, rule: Rule) -> None:
        self.network, self.heard, self.rule, self.position = network, heard, rule, 0
        layers = network.decoder.layers
        self.sound = [
            (self._split(a.k_proj(sound)), self._split(a.v_proj(sound))) for a in (m.encoder_attn for m in layers)
        ]
        self.past: list[tuple[Tensor, Tensor] | None] = [None] * len(layers)

    def _split(self, x: Tensor) -> Tensor:
        heads = self.network.decoder.layers[0].self_attn.heads
        return x.unflatten(-1, (heads, -1)).transpose(1, 2)

    def step(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (batch, vocabulary) after tokens (batch,), and the share of experts at work (batch,)."""
        decoder = self.network.decoder
        x = (decoder.embed_tokens(tokens) + decoder.embed_positions.weight[self.position])[:, None]
        self.position += 1
        shares = []
        for index, layer in enumerate(decoder.layers):
            normed = layer.self_attn_layer_norm(x)
            q, k, v = (self._split(part) for part in layer.self_attn.projected(normed, normed))
            former = self.past[index]
            if former is not None:
                k, v = torch.cat((former[0], k), 2), torch.cat((former[1], v), 2)
            self.past[index] = k, v
            x = x + layer.self_attn.out_proj(
                functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
            )
            q = self._split(layer.encoder_attn.q_proj(layer.encoder_attn_layer_norm(x)))
            mixed = functional.scaled_dot_product_attention(q, *self.sound[index], attn_mask=self.heard)
            x = x + layer.encoder_attn.out_proj(mixed.transpose(1, 2).flatten(2))
            x, routing = layer.feed_forward(x, self.rule)
            shares.append(routing.working[:, -1].float().mean(-1))
        return self.network.head(decoder.layer_norm(x))[:, -1], torch.stack(shares).mean(0)


def decode(reference: Reference, speaker: Speaker, count: int) -> tuple[list[list[int]], list[float]]:
    """Return the greedy tokens of each of ``count`` clips, loops cut, and a share of experts at work for each token."""
    for token in reference.start[:-1]:
        speaker.step(torch.full((count,), token))
    chosen = torch.full((count,), reference.start[-1])
    speaking = torch.ones(count, dtype=torch.bool)
    tokens: list[list[int]] = [[] for _ in range(count)]
    shares: list[float] = []
    for step in range(MAX_TOKENS):
        logits, share = speaker.step(chosen)
        logits[:, list(reference.suppress)] = -torch.inf
        if step == 0:
            logits[:, list(reference.begin_suppress)] = -torch.inf
        shares += share[speaking].tolist()
        chosen = logits.argmax(-1)
        speaking &= chosen != reference.stop
        if not speaking.any():
            break
        for row in speaking.nonzero()[:, 0].tolist():
            tokens[row].append(int(chosen[row]))
            if (kept := loop_start(tokens[row], MAX_REPEATS)) is not None:
                del tokens[row][kept:]
                speaking[row] = False
    return tokens, shares
