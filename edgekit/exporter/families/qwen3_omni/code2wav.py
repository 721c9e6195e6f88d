"""Code2Wav of Qwen3-Omni: codes to sound at 24 kHz, as an exact streamer.

A table of codes, a transformer with sliding attention, and convolutions that end in samples. Any split of the same
codes gives the published model's samples for all of them at once. Source: transformers, qwen3_omni_moe.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from edgekit.errors import CheckpointError
from edgekit.exporter.blocks import fixed_shapes, linear, rms_norm
from edgekit.exporter.dialects import SlidingWindow
from edgekit.exporter.families.base import Part, Shapes
from edgekit.exporter.families.config import check_parts, check_range, counts, rotary_base, value
from edgekit.exporter.families.qwen3_omni.keys import CODE2WAV
from edgekit.exporter.graph import GraphWriter
from edgekit.exporter.waves import (
    Beginning,
    causal_conv,
    conv_next,
    held_spread,
    sliding_attention,
    sliding_window,
    snake_beta,
    spread,
)
from edgekit.exporter.weights import Weights
from edgekit.recipe import Group

PREFIX = "code2wav"
KERNEL = 7
MOST_RATE, MOST_SAMPLES = 64, 1 << 17  # of one step, and of one frame: seconds
DILATIONS = (1, 3, 9)
_LINEAR = re.compile(rf"{PREFIX}\.pre_transformer\.layers\.\d+\.(self_attn|mlp)\.\w+_proj\.weight")


class Code2Wav(Part):
    """The graph ``decoder`` bound to one ``code2wav_config``.

    Inputs ``codes`` int64 (frames, codebooks), at least one frame, and ``start`` int64 (1,), frames decoded before.
    Output ``samples`` float32 (n,): ``samples_per_frame`` for each frame, in the first call ``held_samples`` fewer,
    which need a frame more. Where no shape may depend on a value the first call begins with that many samples that are
    none, and the output ``lead`` int64 (1,) says how many of a call are. Everything else is carried state.
    """

    components: Mapping[str, Group | None] = {"decoder": "decoder"}

    def __init__(self, config: Mapping[str, Any]) -> None:
        config = CODE2WAV.filled(config)
        check_parts(config, "hidden_size", "num_attention_heads")
        self.codebooks = value(config, "num_quantizers", int)
        self.codebook_size = value(config, "codebook_size", int)
        self.width = value(config, "hidden_size", int)
        self.inner = value(config, "intermediate_size", int)
        self.layers = value(config, "num_hidden_layers", int)
        self.heads = value(config, "num_attention_heads", int)
        self.head_dim = self.width // self.heads if config.get("head_dim") is None else value(config, "head_dim", int)
        self.window = value(config, "sliding_window", int)
        self.theta = rotary_base(config)
        self.epsilon = value(config, "rms_norm_eps", float)
        self.ratios = counts(config, "upsampling_ratios", "code2wav_config", most=MOST_RATE)
        self.rates = counts(config, "upsample_rates", "code2wav_config", most=MOST_RATE)
        self.channels = value(config, "decoder_dim", int)
        check_range("samples_per_frame", self.samples_per_frame, (1, MOST_SAMPLES))
        if self.window < 2 or self.channels % 2 ** len(self.rates):
            raise CheckpointError(
                f"config.json: code2wav_config has sliding_window {self.window} and decoder_dim {self.channels}, at "
                f"least 2 and a multiple of {2 ** len(self.rates)} are needed; use the published config.json"
            )
        if (kv_heads := value(config, "num_key_value_heads", int)) != self.heads:
            raise CheckpointError(
                f"config.json: code2wav_config.num_key_value_heads is {kv_heads}, only the published {self.heads} is "
                "supported; use the published config.json"
            )

    @property
    def samples_per_frame(self) -> int:
        """Samples that one frame of codes becomes."""
        return math.prod(self.ratios + self.rates)

    @property
    def held_samples(self) -> int:
        """Samples at the end of what was decoded that still wait for the next frame; the last ones never come."""
        held = 0
        for rate in self.rates:
            held = (held + 1) * rate
        return held

    def expected(self) -> Shapes:
        """Return name and shape of every tensor."""
        width, channels = self.width, self.channels
        found: dict[str, tuple[int, ...]] = {
            "code_embedding.weight": (self.codebooks * self.codebook_size, width),
            "pre_transformer.norm.weight": (width,),
        }
        for layer in range(self.layers):
            found |= self._layer_shapes(f"pre_transformer.layers.{layer}")
        for index, ratio in enumerate(self.ratios):
            block = f"upsample.{index}.1"
            found |= _conv_shapes(f"upsample.{index}.0.conv", (width, width, ratio), width)
            found |= _conv_shapes(f"{block}.dwconv.conv", (width, 1, KERNEL), width)
            found |= _conv_shapes(f"{block}.norm", (width,), width)
            found |= _conv_shapes(f"{block}.pwconv1", (4 * width, width), 4 * width)
            found |= _conv_shapes(f"{block}.pwconv2", (width, 4 * width), width)
            found[f"{block}.gamma"] = (width,)
        found |= _conv_shapes("decoder.0.conv", (channels, width, KERNEL), channels)
        for index, rate in enumerate(self.rates):
            block, half = f"decoder.{index + 1}.block", channels // 2
            found |= _snake_shapes(f"{block}.0", channels)
            found |= _conv_shapes(f"{block}.1.conv", (channels, half, 2 * rate), half)
            for unit in range(2, 2 + len(DILATIONS)):
                for number, kernel in ((1, KERNEL), (2, 1)):
                    found |= _snake_shapes(f"{block}.{unit}.act{number}", half)
                    found |= _conv_shapes(f"{block}.{unit}.conv{number}.conv", (half, half, kernel), half)
            channels = half
        last = len(self.rates) + 1
        found |= _snake_shapes(f"decoder.{last}", channels)
        found |= _conv_shapes(f"decoder.{last + 1}.conv", (1, channels, KERNEL), 1)
        return {f"{PREFIX}.{name}": shape for name, shape in found.items()}

    def group(self, name: str) -> Group | None:
        """Return the precision group of a tensor: the transformer's linears are ``decoder``, all else stays float."""
        return "decoder" if _LINEAR.fullmatch(name) else None

    def build(self, component: str, g: GraphWriter, w: Weights) -> None:
        """Write the graph."""
        del component
        codes = g.input("codes", "int64", ("frames", self.codebooks))
        start = g.input("start", "int64", (1,))
        offsets = np.arange(self.codebooks, dtype=np.int64) * self.codebook_size
        rows = g.node(
            "Gather", w.plain(g, f"{PREFIX}.code_embedding.weight"), g.node("Add", codes, g.constant(offsets))
        )
        x = g.node("ReduceMean", rows, g.constant([1]), keepdims=0)
        at = sliding_window(g, x, start, size=self.window, head_dim=self.head_dim, theta=self.theta)
        for layer in range(self.layers):
            x = self._layer(g, w, layer, x, at)
        x = rms_norm(g, w, x, f"{PREFIX}.pre_transformer.norm", self.epsilon)
        x = g.node("Unsqueeze", g.node("Transpose", x, perm=[1, 0]), g.constant([0]))
        for index in range(len(self.ratios)):
            x = spread(g, w, x, f"{PREFIX}.upsample.{index}.0.conv")
            x = conv_next(g, w, x, f"{PREFIX}.upsample.{index}.1")
        samples = self._wave(g, w, x, g.node("Cast", g.node("Equal", start, g.constant([0])), to=7))
        g.output(samples, "samples", "float32", ("samples",))

    def _layer_shapes(self, root: str) -> dict[str, tuple[int, ...]]:
        width, inner, wide = self.width, self.inner, self.heads * self.head_dim
        found: dict[str, tuple[int, ...]] = {f"{root}.self_attn.{part}_proj.weight": (wide, width) for part in "qkv"}
        found[f"{root}.self_attn.o_proj.weight"] = (width, wide)
        found |= {f"{root}.mlp.{part}_proj.weight": (inner, width) for part in ("gate", "up")}
        found[f"{root}.mlp.down_proj.weight"] = (width, inner)
        for part in ("input_layernorm", "post_attention_layernorm"):
            found[f"{root}.{part}.weight"] = (width,)
        return found | {f"{root}.{part}_layer_scale.scale": (width,) for part in ("self_attn", "mlp")}

    def _layer(self, g: GraphWriter, w: Weights, layer: int, x: str, at: SlidingWindow) -> str:
        root = f"{PREFIX}.pre_transformer.layers.{layer}"

        def project(rows: str, part: str) -> str:
            return linear(g, w, rows, f"{root}.{part}_proj.weight", "decoder")

        def added(part: str, rows: str) -> str:
            return g.node("Add", x, g.node("Mul", rows, w.plain(g, f"{root}.{part}_layer_scale.scale")))

        normed = rms_norm(g, w, x, f"{root}.input_layernorm", self.epsilon)
        q, k, v = (project(normed, f"self_attn.{part}") for part in "qkv")
        attended = sliding_attention(g, q, k, v, layer, at, heads=self.heads, head_dim=self.head_dim)
        x = added("self_attn", project(attended, "self_attn.o"))
        normed = rms_norm(g, w, x, f"{root}.post_attention_layernorm", self.epsilon)
        gate = project(normed, "mlp.gate")
        inner = g.node("Mul", g.node("Mul", gate, g.node("Sigmoid", gate)), project(normed, "mlp.up"))
        return added("mlp", project(inner, "mlp.down"))

    def _wave(self, g: GraphWriter, w: Weights, x: str, fresh: str) -> str:
        """Return samples (n,) of x (1, width, columns)."""
        root, at = f"{PREFIX}.decoder", Beginning(fresh)

        def conv(value: str, name: str, dilation: int = 1) -> str:
            return causal_conv(g, w, value, f"{root}.{name}.conv", dilation=dilation, beginning=at)

        def bent(value: str, name: str) -> str:
            return snake_beta(g, w, value, f"{root}.{name}")

        x = conv(x, "0")
        for index in range(len(self.rates)):
            block = f"{index + 1}.block"
            x, at = held_spread(g, w, bent(x, f"{block}.0"), f"{root}.{block}.1.conv", at)
            for unit, dilation in enumerate(DILATIONS, 2):
                inner = conv(bent(x, f"{block}.{unit}.act1"), f"{block}.{unit}.conv1", dilation)
                x = g.node("Add", x, conv(bent(inner, f"{block}.{unit}.act2"), f"{block}.{unit}.conv2"))
        assert at.columns == self.held_samples, (at, self.held_samples)
        last = len(self.rates) + 1
        x = conv(bent(x, str(last)), str(last + 1))
        if fixed_shapes(g):
            g.output(g.node("Mul", fresh, g.constant([at.columns])), "lead", "int64", (1,))
        return g.node("Squeeze", g.node("Clip", x, g.constant(-1.0), g.constant(1.0)), g.constant([0, 1]))


def _conv_shapes(name: str, weight: tuple[int, ...], outputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": weight, f"{name}.bias": (outputs,)}


def _snake_shapes(name: str, channels: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.alpha": (channels,), f"{name}.beta": (channels,)}
