"""The ears of Qwen3-Omni: its audio encoder (AuT) and the adapter to the thinker's embeddings.

Segments of 1 s go through three convolutions by themselves, positions restart in each; attention stays within blocks of
8 s. Nothing looks beyond its block, so block by block is the published encoder at any length. Source: transformers,
qwen3_omni_moe.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from edgekit.bundle import FrontEnd, Grid
from edgekit.errors import CheckpointError, RecipeError
from edgekit.exporter.blocks import EncoderShape, LayerNames, encoder_layer, fixed_shapes, layer_norm, linear, steps
from edgekit.exporter.families.base import Heads, Part, Shapes
from edgekit.exporter.families.config import check_parts, value
from edgekit.exporter.families.qwen3_omni.keys import EARS
from edgekit.exporter.graph import GraphWriter
from edgekit.exporter.weights import Weights
from edgekit.recipe import GridSettings, Group

PREFIX = "thinker.audio_tower"
SEGMENT_FRAMES = 100  # the published length formula holds for no other
FRAMES_PER_POSITION = 8  # three convolutions of stride 2
SEGMENT_POSITIONS = -(-SEGMENT_FRAMES // FRAMES_PER_POSITION)
FRAME_MS = 10
SEGMENT_MS = SEGMENT_FRAMES * FRAME_MS
LONGEST_MS = 320_000  # of one piece: the published feature extractor takes 300 s, 320 s are whole blocks
CONVOLUTIONS = ("conv2d1", "conv2d2", "conv2d3")
LAYERS = LayerNames(
    layer=f"{PREFIX}.layers.{{}}",
    query="self_attn.q_proj",
    key="self_attn.k_proj",
    value="self_attn.v_proj",
    out="self_attn.out_proj",
    attention_norm="self_attn_layer_norm",
    up="fc1",
    down="fc2",
    mlp_norm="final_layer_norm",
    key_biased=True,
)
_STEM = f"{PREFIX}.conv_out"
_PROJECTIONS = (f"{PREFIX}.proj1", f"{PREFIX}.proj2")
_LATEST = "use the published config.json"


class Qwen3OmniEars(Part):
    """The components ``encoder`` and ``adapter`` bound to one ``audio_config``.

    One encoder graph serves both grids: called on a whole block it is the published encoder; called on fewer segments
    of a block it keeps their keys and values for the next call, and no segment sees a later one (approximate).
    """

    components: Mapping[str, Group | None] = {"encoder": "encoder", "adapter": "encoder"}

    def __init__(self, config: Mapping[str, Any]) -> None:
        config = EARS.filled(config)
        check_parts(config, "d_model", "encoder_attention_heads")
        self.block_frames = value(config, "n_window_infer", int)
        segments, rest = divmod(self.block_frames, SEGMENT_FRAMES)
        if value(config, "n_window", int) * 2 != SEGMENT_FRAMES or segments < 1 or rest:
            raise CheckpointError(
                f"config.json: audio_config has n_window {config['n_window']} and n_window_infer {self.block_frames}, "
                f"only {SEGMENT_FRAMES // 2} and a multiple of {SEGMENT_FRAMES} are supported; {_LATEST}"
            )
        if value(config, "max_source_positions", int) < SEGMENT_POSITIONS or value(config, "d_model", int) % 2:
            raise CheckpointError(
                f"config.json: audio_config needs at least {SEGMENT_POSITIONS} max_source_positions and an even "
                f"d_model; {_LATEST}"
            )
        self.size = EncoderShape(
            mel_bins=value(config, "num_mel_bins", int),
            width=value(config, "d_model", int),
            heads=value(config, "encoder_attention_heads", int),
            layers=value(config, "encoder_layers", int),
            inner=value(config, "encoder_ffn_dim", int),
            positions=segments * SEGMENT_POSITIONS,
        )
        key = "thinker_config.audio_config.d_model / encoder_attention_heads"
        self.attends = (Heads(key, self.size.head_dim, turned=False),)
        self._linears = {f"{part}.weight" for part in (_STEM, *_PROJECTIONS)} | LAYERS.linears(self.size)
        self.channels = value(config, "downsample_hidden_size", int)
        self.hidden = value(config, "output_dim", int)

    def expected(self) -> Shapes:
        """Return name and shape of every tensor."""
        width, channels = self.size.width, self.channels
        found = LAYERS.layer_shapes(self.size)
        for index, name in enumerate(CONVOLUTIONS):
            found[f"{PREFIX}.{name}.weight"] = (channels, channels if index else 1, 3, 3)
            found[f"{PREFIX}.{name}.bias"] = (channels,)
        found[f"{_STEM}.weight"] = (width, channels * -(-self.size.mel_bins // FRAMES_PER_POSITION))
        for name, rows in zip(_PROJECTIONS, (width, self.hidden), strict=True):
            found[f"{name}.weight"], found[f"{name}.bias"] = (rows, width), (rows,)
        found[f"{PREFIX}.ln_post.weight"] = found[f"{PREFIX}.ln_post.bias"] = (width,)
        return found

    def group(self, name: str) -> Group | None:
        """Return the precision group of a tensor; None keeps it float."""
        return "encoder" if name in self._linears else None

    def build(self, component: str, g: GraphWriter, w: Weights) -> None:
        """Write the graph of ``encoder`` or ``adapter``."""
        if component == "encoder":
            self._encoder(g, w)
        else:
            self._adapter(g, w)

    def front_end(self, settings: GridSettings) -> FrontEnd:  # noqa: ARG002 - the same for both modes
        """Return the log-mel front end at the sound's natural length.

        The published floor is below the loudest frame of the whole clip; a stream's is below the loudest so far.
        """
        return FrontEnd(mel_bins=self.size.mel_bins, floor="clip", edge="reflect", whole_hops=True)

    def grid(self, settings: GridSettings) -> Grid:
        """Return one call per attention block, or per few segments that also attend to the block's earlier ones."""
        if settings.tail_ms:
            raise RecipeError(
                f"grid.tail_ms {settings.tail_ms}: this family adds no silence; leave it out of the recipe"
            )
        mode = settings.mode or "exact"
        chunk = self.block_frames
        if mode == "chunked":
            chunk_ms = SEGMENT_MS if settings.chunk_ms is None else settings.chunk_ms
            chunk = chunk_ms // FRAME_MS
            if chunk < 1 or chunk_ms % SEGMENT_MS or self.block_frames % chunk:
                raise RecipeError(
                    f"grid.chunk_ms {chunk_ms}: must be a multiple of {SEGMENT_MS} that divides "
                    f"{self.block_frames * FRAME_MS}; change the recipe"
                )
        blocks = max(1, LONGEST_MS // FRAME_MS // self.block_frames)
        return Grid(
            mode=mode, chunk_frames=chunk, max_frames=blocks * self.block_frames, max_positions=self.size.positions,
            left_frames=0, right_frames=0, frames_per_position=FRAMES_PER_POSITION, segment_frames=SEGMENT_FRAMES,
        )  # fmt: skip

    def _encoder(self, g: GraphWriter, w: Weights) -> None:
        mel = g.input("mel", "float32", (self.size.mel_bins, "mel_frames"))
        start = g.input("start", "int64", (1,))
        x = self._stem(g, w, mel, start)
        at = steps(g, x, g.node("Mod", start, g.constant([self.size.positions])))
        for layer in range(self.size.layers):
            x = encoder_layer(g, w, LAYERS, self.size, layer, x, at)
        g.output(x, "frames", "float32", ("frames", self.size.width))

    def _stem(self, g: GraphWriter, w: Weights, mel: str, start: str) -> str:
        """Return (S, width) from mel (bins, F): segments, convolved one by one.

        As published, a short last segment is padded with zeros to a whole one, unless it is the utterance's only one:
        past its end a convolution sees what the one before made of zeros, not zeros. Where shapes may not depend on
        values it is padded too, and zeros are put there before the next convolution.
        """
        frames, segment = g.node("Shape", mel, start=1, end=2), g.constant([SEGMENT_FRAMES])
        alone = g.node("And", g.node("Equal", start, g.constant([0])), g.node("Less", frames, segment))
        fixed = fixed_shapes(g)
        length = segment if fixed else g.node("Where", alone, frames, segment)
        count = g.node("Div", g.node("Add", frames, g.constant([SEGMENT_FRAMES - 1])), segment)
        missing = g.node("Sub", g.node("Mul", count, length), frames)
        padded = g.node("Pad", mel, g.node("Concat", g.constant([0, 0, 0]), missing, axis=0))
        shape = g.node("Concat", g.constant([self.size.mel_bins]), count, length, axis=0)
        x = g.node("Transpose", g.node("Reshape", padded, shape), perm=[1, 0, 2])
        x = g.node("Unsqueeze", x, g.constant([1]))
        ends, size = frames, SEGMENT_FRAMES
        for name in CONVOLUTIONS:
            x = g.node(
                "Conv", x, w.plain(g, f"{PREFIX}.{name}.weight"), w.plain(g, f"{PREFIX}.{name}.bias"), strides=[2, 2],
                pads=[1, 1, 1, 1],
            )  # fmt: skip
            x = g.node("Gelu", x)
            if fixed and name != CONVOLUTIONS[-1]:
                ends, size = g.node("Div", g.node("Add", ends, g.constant([1])), g.constant([2])), -(-size // 2)
                beyond = g.node("LessOrEqual", ends, g.constant(np.arange(size, dtype=np.int64)))
                x = g.node("Where", g.node("And", alone, beyond), g.constant(0.0), x)
        columns = self.channels * -(-self.size.mel_bins // FRAMES_PER_POSITION)
        rows = g.node("Reshape", g.node("Transpose", x, perm=[0, 3, 1, 2]), g.constant([-1, columns]))
        rows = linear(g, w, rows, f"{_STEM}.weight", "encoder")
        each = g.node("Shape", x, start=3, end=4)
        zero = g.constant([0])
        places = g.node("Slice", g.tensor("segment.positions", self._positions()), zero, each, zero)
        split = g.node("Concat", count, each, g.constant([self.size.width]), axis=0)
        rows = g.node("Add", g.node("Reshape", rows, split), places)
        rows = g.node("Reshape", rows, g.constant([-1, self.size.width]))
        whole = g.node("Mul", g.node("Div", frames, segment), g.constant([SEGMENT_POSITIONS]))
        rest = g.node("Add", g.node("Mod", frames, segment), g.constant([FRAMES_PER_POSITION - 1]))
        end = g.node("Add", whole, g.node("Div", rest, g.constant([FRAMES_PER_POSITION])))
        return g.node("Slice", rows, zero, end, zero)

    def _positions(self) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        """Return the sinusoids (positions of a segment, width): sines, then cosines, of 1 to 1 / 10,000 rad a step."""
        half = self.size.width // 2
        rates = np.exp(np.arange(half) * (-np.log(10_000.0) / max(1, half - 1)))
        angles = np.outer(np.arange(SEGMENT_POSITIONS), rates)
        return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)

    def _adapter(self, g: GraphWriter, w: Weights) -> None:
        """Project frames (n, width) to embeddings (n, hidden)."""
        x = g.input("frames", "float32", ("frames", self.size.width))
        x = layer_norm(g, w, x, f"{PREFIX}.ln_post")
        first, second = _PROJECTIONS
        x = g.node("Gelu", linear(g, w, x, f"{first}.weight", "encoder", f"{first}.bias"))
        x = linear(g, w, x, f"{second}.weight", "encoder", f"{second}.bias")
        g.output(x, "embeds", "float32", ("frames", self.hidden))
