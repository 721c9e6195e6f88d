"""Step-Audio 2's flow written again in torch, from its formulas: what the graphs are compared with.

Offline form, and the published streaming form with the caches as it holds them: keys and values of a call stand in
front of those before, and a list that grew too long keeps its first and its last entries. Needs torch.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from edgekit.runtime.speak.voice import Voice

Float = NDArray[np.float32]
STEPS = 10
KEPT = 100


@dataclass
class Stream:
    """What one stream holds between two calls; attention by layer, and for the transformer by step and layer too."""

    lookahead: Tensor
    upsampling: Tensor
    attention: list[tuple[Tensor, Tensor]]
    convolved: list[list[tuple[Tensor, Tensor]]]
    seen: list[list[tuple[Tensor, Tensor]]]
    frames: int


class FlowTwin:
    """The flow over tensors by name, without the ``flow.`` in front."""

    def __init__(self, tensors: dict[str, Float], noise: Float, guidance: float = 0.7) -> None:
        self._w = {name: torch.from_numpy(np.array(array)) for name, array in tensors.items()}
        self._noise = torch.from_numpy(noise)
        self._guidance = guidance
        self.width = len(self._w["encoder.after_norm.weight"])
        self.blocks = self._count("decoder.estimator.blocks.{}.attn.to_q.weight")
        self.stages = [self._count(f"encoder.{stage}.{{}}.norm_ff.weight") for stage in ("encoders", "up_encoders")]
        self.ahead = self._w["encoder.pre_lookahead_layer.conv1.weight"].shape[2] - 1

    @torch.no_grad()
    def whole(self, voice: Voice, codes: NDArray[np.int64]) -> Float:
        """Return the mel frames of codes made in one call, as the published offline form does."""
        stream = self._fresh()
        mu = self._encode(stream, np.concatenate([voice.codes, codes]), ended=True)
        cond = torch.zeros_like(mu)
        cond[: len(voice.mel)] = torch.from_numpy(voice.mel)
        return self._solve(stream, mu, cond, voice)[len(voice.mel) :].numpy()

    @torch.no_grad()
    def begin(self, voice: Voice) -> Stream:
        """Return a stream that has read a voice prompt."""
        stream = self._fresh()
        mu = self._encode(stream, np.concatenate([voice.codes, voice.codes[: self.ahead]]), ended=False)
        self._solve(stream, mu, torch.from_numpy(voice.mel), voice)
        return stream

    @torch.no_grad()
    def say(self, stream: Stream, voice: Voice, codes: NDArray[np.int64], *, ended: bool) -> Float:
        """Return the mel frames of a chunk, its look-ahead left out unless the answer ``ended``."""
        mu = self._encode(stream, codes, ended=ended)
        mel = self._solve(stream, mu, torch.zeros_like(mu), voice)
        prompt = len(voice.mel)
        if stream.frames > prompt + KEPT:
            for step in stream.seen:
                step[:] = [(_trim(k, prompt), _trim(v, prompt)) for k, v in step]
            stream.frames = prompt + KEPT
        return mel.numpy()

    def answer(self, voice: Voice, codes: NDArray[np.int64], chunks: list[int]) -> Float:
        """Return the mel frames of codes streamed in chunks of the sizes given, the last repeated."""
        stream, made, first = self.begin(voice), [], 0
        sizes = iter(chunks)
        size = next(sizes)
        while first + size + self.ahead <= len(codes):
            made.append(self.say(stream, voice, codes[first : first + size + self.ahead], ended=False))
            first += size
            size = next(sizes, size)
        if first < len(codes):
            made.append(self.say(stream, voice, codes[first:], ended=True))
        return np.concatenate(made)

    def _count(self, pattern: str) -> int:
        return next(i for i in range(1000) if pattern.format(i) not in self._w)

    def _fresh(self) -> Stream:
        return Stream(
            lookahead=torch.zeros(self.width, 2),
            upsampling=torch.zeros(self.width, 4),
            attention=[],
            convolved=[[] for _ in range(STEPS)],
            seen=[[] for _ in range(STEPS)],
            frames=0,
        )

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return functional.linear(x, self._w[f"{name}.weight"], self._w.get(f"{name}.bias"))

    def _norm(self, x: Tensor, name: str, epsilon: float = 1e-5) -> Tensor:
        weight = self._w[f"{name}.weight"]
        return functional.layer_norm(x, weight.shape, weight, self._w[f"{name}.bias"], epsilon)

    def _convolve(self, columns: Tensor, name: str) -> Tensor:
        return functional.conv1d(
            columns[None] if columns.dim() == 2 else columns, self._w[f"{name}.weight"], self._w[f"{name}.bias"]
        )

    def _encode(self, stream: Stream, codes: NDArray[np.int64], *, ended: bool) -> Tensor:
        x = self._enter(self._w["input_embedding.weight"][torch.from_numpy(codes)], "embed")
        if ended:
            x = torch.cat([x, torch.zeros(self.ahead, self.width)])
        near = functional.leaky_relu(self._convolve(x.T, "encoder.pre_lookahead_layer.conv1")[0])
        near = torch.cat([stream.lookahead, near], dim=1)
        stream.lookahead = near[:, -2:]
        x = x[: len(x) - self.ahead] + self._convolve(near, "encoder.pre_lookahead_layer.conv2")[0].T
        earlier, stream.attention = stream.attention, []
        for i in range(self.stages[0]):
            x = self._conformer_layer(stream, x, f"encoder.encoders.{i}", earlier[i] if earlier else None)
        twice = torch.cat([stream.upsampling, x.repeat_interleave(2, dim=0).T], dim=1)
        stream.upsampling = twice[:, -4:]
        x = self._enter(self._convolve(twice, "encoder.up_layer.conv")[0].T, "up_embed")
        for i in range(self.stages[1]):
            past = earlier[self.stages[0] + i] if earlier else None
            x = self._conformer_layer(stream, x, f"encoder.up_encoders.{i}", past)
        return self._linear(self._norm(x, "encoder.after_norm"), "encoder_proj")

    def _enter(self, x: Tensor, name: str) -> Tensor:
        return self._norm(self._linear(x, f"encoder.{name}.out.0"), f"encoder.{name}.out.1") * math.sqrt(self.width)

    def _conformer_layer(self, stream: Stream, x: Tensor, name: str, past: tuple[Tensor, Tensor] | None) -> Tensor:
        u, v = (self._w[f"{name}.self_attn.pos_bias_{kind}"] for kind in "uv")
        heads, size = u.shape
        normed = self._norm(x, f"{name}.norm_mha", 1e-12)
        q, k, value = (
            self._linear(normed, f"{name}.self_attn.linear_{part}").view(-1, heads, size) for part in ("q", "k", "v")
        )
        if past is not None:
            k, value = torch.cat([past[0], k]), torch.cat([past[1], value])
        stream.attention.append((k, value))
        total, new = len(k), len(x)
        far = torch.arange(total - new, total)[:, None] - torch.arange(total)[None]  # distance of query i to key j
        rates = torch.exp(torch.arange(0, self.width, 2) * (-math.log(10_000.0) / self.width))
        angles = far[..., None] * rates
        places = torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)
        places = self._linear(places, f"{name}.self_attn.linear_pos").view(new, total, heads, size)
        scores = torch.einsum("ihd,jhd->hij", q + u, k) + torch.einsum("ihd,ijhd->hij", q + v, places)
        weights = (scores / math.sqrt(size)).softmax(-1)
        x = x + self._linear(torch.einsum("hij,jhd->ihd", weights, value).flatten(1), f"{name}.self_attn.linear_out")
        wide = functional.silu(self._linear(self._norm(x, f"{name}.norm_ff", 1e-12), f"{name}.feed_forward.w_1"))
        return x + self._linear(wide, f"{name}.feed_forward.w_2")

    def _solve(self, stream: Stream, mu: Tensor, cond: Tensor, voice: Voice) -> Tensor:
        speaker = functional.normalize(torch.from_numpy(voice.speaker), dim=0)
        speaker = self._linear(speaker, "spk_embed_affine_layer").expand(len(mu), -1)
        x = self._noise[stream.frames : stream.frames + len(mu)]
        assert len(x) == len(mu)
        times = 1 - torch.cos(torch.linspace(0, 1, STEPS + 1) * 0.5 * torch.pi)
        for step in range(STEPS):
            nothing = torch.zeros_like(mu)
            guided = torch.cat([x, mu, speaker, cond], dim=1)
            unguided = torch.cat([x, nothing, nothing, nothing], dim=1)
            both = self._velocity(stream, step, torch.stack([guided, unguided]), times[step])
            x = x + (times[step + 1] - times[step]) * ((1 + self._guidance) * both[0] - self._guidance * both[1])
        stream.frames += len(mu)
        return x

    def _velocity(self, stream: Stream, step: int, x: Tensor, time: Tensor) -> Tensor:
        root = "decoder.estimator"
        width = self._w[f"{root}.t_embedder.mlp.0.weight"].shape[1] // 2
        angles = time * 1000 * torch.exp(torch.arange(width) * (-math.log(10_000.0) / width))
        c = self._linear(torch.cat([angles.cos(), angles.sin()]), f"{root}.t_embedder.mlp.0")
        c = functional.silu(self._linear(functional.silu(c), f"{root}.t_embedder.mlp.2"))
        x = self._linear(x, f"{root}.in_proj")
        earlier, stream.seen[step] = stream.seen[step], []
        convolved, stream.convolved[step] = stream.convolved[step], []
        for i in range(self.blocks):
            name = f"{root}.blocks.{i}"
            attention, forward, convolution = self._linear(c, f"{name}.adaLN_modulation.1").chunk(3)
            shift, scale, gate = attention.chunk(3)
            attended, kept = self._attend(_modulate(x, shift, scale), name, earlier[i] if earlier else None)
            stream.seen[step].append(kept)
            x = x + gate * attended
            shift, scale, gate = convolution.chunk(3)
            out, left = self._two_convolutions(_modulate(x, shift, scale), name, convolved[i] if convolved else None)
            stream.convolved[step].append(left)
            x = x + gate * out
            shift, scale, gate = forward.chunk(3)
            wide = functional.gelu(self._linear(_modulate(x, shift, scale), f"{name}.mlp.fc1"), approximate="tanh")
            x = x + gate * self._linear(wide, f"{name}.mlp.fc2")
        shift, scale = self._linear(c, f"{root}.final_layer.adaLN_modulation.1").chunk(2)
        return self._linear(_modulate(x, shift, scale), f"{root}.final_layer.linear")

    def _attend(self, x: Tensor, name: str, past: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        size = len(self._w[f"{name}.attn.q_norm.weight"])
        q, k, v = (self._linear(x, f"{name}.attn.to_{part}").unflatten(-1, (-1, size)) for part in "qkv")
        q, k = self._norm(q, f"{name}.attn.q_norm"), self._norm(k, f"{name}.attn.k_norm")
        if past is not None:
            k, v = torch.cat([k, past[0]], dim=1), torch.cat([v, past[1]], dim=1)
        weights = (torch.einsum("bihd,bjhd->bhij", q, k) / math.sqrt(size)).softmax(-1)
        out = torch.einsum("bhij,bjhd->bihd", weights, v).flatten(2)
        return self._linear(out, f"{name}.attn.proj"), (k, v)

    def _two_convolutions(
        self, x: Tensor, name: str, left: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        kept = []
        for number, conv in enumerate(("conv.block.1", "conv.block.6")):
            columns = x.transpose(1, 2)
            before = columns.new_zeros(*columns.shape[:2], 2) if left is None else left[number]
            columns = torch.cat([before, columns], dim=2)
            kept.append(columns[..., -2:])
            x = self._convolve(columns, f"{name}.{conv}").transpose(1, 2)
            if number == 0:
                x = functional.mish(self._norm(x, f"{name}.conv.block.3"))
        return x, (kept[0], kept[1])


def _modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return functional.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift


def _trim(entries: Tensor, prompt: int) -> Tensor:
    return torch.cat([entries[:, :prompt], entries[:, -KEPT:]], dim=1)
