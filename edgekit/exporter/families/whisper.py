"""Whisper, every size: published (30 s window, dense) or chunk-causal with feed-forwards split into experts.

Tensor names are Hugging Face's. Experts of layer i: rows of ``fc1`` and columns of ``fc2`` grouped by expert, chosen by
``model.decoder.layers.{i}.router`` with weight 1 each, so that all of them together are the dense layer.
"""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from edgekit.bundle import FrontEnd, Grid
from edgekit.errors import CheckpointError, RecipeError
from edgekit.exporter.blocks import (
    EncoderNames,
    EncoderShape,
    audio_encoder,
    cached_attention,
    choose_experts,
    cross_attention,
    experts,
    layer_norm,
    linear,
    rows_at,
    scatter_mix,
    steps,
)
from edgekit.exporter.dialects import ExpertBank, Routing, Steps
from edgekit.exporter.families.base import Family, Heads, Opened, Part, Shapes
from edgekit.exporter.families.config import check_parts, section, value
from edgekit.exporter.families.keys import Config
from edgekit.exporter.families.levels import expert_levels
from edgekit.exporter.families.whisper_keys import WHISPER, WHISPER_GENERATION
from edgekit.exporter.families.whisper_tokens import (
    NO_TIMESTAMPS,
    alignment_heads,
    published_generation,
    whisper_protocol,
    written,
)
from edgekit.exporter.graph import GraphWriter
from edgekit.exporter.sources.checkpoint import Tensors
from edgekit.exporter.weights import Weights, stored_expert
from edgekit.recipe import GridSettings, Group

FRAMES_PER_POSITION = 2
FRAME_MS = 10
ENCODER = EncoderNames(
    conv1="model.encoder.conv1",
    conv2="model.encoder.conv2",
    positions="model.encoder.embed_positions.weight",
    layer="model.encoder.layers.{}",
    query="self_attn.q_proj",
    key="self_attn.k_proj",
    value="self_attn.v_proj",
    out="self_attn.out_proj",
    attention_norm="self_attn_layer_norm",
    up="fc1",
    down="fc2",
    mlp_norm="final_layer_norm",
    final_norm="model.encoder.layer_norm",
)
TOKENS = "model.decoder.embed_tokens.weight"
POSITIONS = "model.decoder.embed_positions.weight"
_CROSS = (".encoder_attn.k_proj.weight", ".encoder_attn.v_proj.weight")
SIZES = (  # source: the collection "Whisper Release" of openai on the hub
    "tiny", "tiny.en", "base", "base.en", "small", "small.en", "medium", "medium.en", "large", "large-v2", "large-v3",
    "large-v3-turbo",
)  # fmt: skip


class WhisperEars(Part):
    """The components ``encoder`` and ``adapter``, which makes the cross-KV of every layer that writes."""

    components: Mapping[str, Group | None] = {"encoder": "encoder", "adapter": "encoder"}

    def __init__(self, config: Config) -> None:
        self._extra = section(config, "edgekit") if "edgekit" in config else {}
        for side in ("encoder", "decoder"):
            check_parts(config, "d_model", f"{side}_attention_heads")
        self.size = EncoderShape(
            mel_bins=value(config, "num_mel_bins", int),
            width=value(config, "d_model", int),
            heads=value(config, "encoder_attention_heads", int),
            layers=value(config, "encoder_layers", int),
            inner=value(config, "encoder_ffn_dim", int),
            positions=value(config, "max_source_positions", int),
        )
        self._linears = ENCODER.linears(self.size)
        self.attends = (Heads("d_model / encoder_attention_heads", self.size.head_dim, turned=False),)
        self.heard_by = value(config, "decoder_layers", int)
        self.heads = value(config, "decoder_attention_heads", int)

    def expected(self) -> Shapes:
        """Return name and shape of every tensor."""
        width = self.size.width
        found = ENCODER.shapes(self.size)
        for layer in range(self.heard_by):
            root = f"model.decoder.layers.{layer}.encoder_attn"
            found |= {f"{root}.{part}.weight": (width, width) for part in ("k_proj", "v_proj")}
            found[f"{root}.v_proj.bias"] = (width,)
        return found

    def group(self, name: str) -> Group | None:
        """Return the precision group of a tensor; None keeps it float."""
        return "encoder" if name in self._linears or name.endswith(_CROSS) else None

    def build(self, component: str, g: GraphWriter, w: Weights) -> None:
        """Write one component's graph."""
        if component == "encoder":
            audio_encoder(g, w, ENCODER, self.size, pooled=False)
        else:
            self._adapter(g, w)

    def front_end(self, settings: GridSettings) -> FrontEnd:
        """Return the log-mel front end: the published one reflects at its window's end and has one floor for it.

        A checkpoint made for chunks was trained on a stream's: it goes on, with a floor below what was heard so far.
        """
        if self._mode(settings) == "exact":
            return FrontEnd(mel_bins=self.size.mel_bins, floor="clip", edge="reflect")
        return FrontEnd(mel_bins=self.size.mel_bins)

    def grid(self, settings: GridSettings) -> Grid:
        """Return the published window, or the chunk-causal grid that the checkpoint's config names."""
        window = self.size.positions * FRAMES_PER_POSITION
        if self._mode(settings) == "exact":
            return Grid(
                mode="exact", chunk_frames=window, max_frames=window, max_positions=self.size.positions,
                pad_to_frames=window,
            )  # fmt: skip
        chunk = value(self._extra, "chunk_frames", int) * FRAMES_PER_POSITION
        if settings.chunk_ms is not None:
            chunk = settings.chunk_ms // FRAME_MS
        tail = value(self._extra, "tail_frames", int, chunk // FRAMES_PER_POSITION) * FRAMES_PER_POSITION
        if settings.tail_ms is not None:
            tail = settings.tail_ms // FRAME_MS
        fill = min(chunk, value(self._extra, "fill_frames", int, chunk // FRAMES_PER_POSITION) * FRAMES_PER_POSITION)
        for name, given, frames in (("chunk_ms", settings.chunk_ms, chunk), ("tail_ms", settings.tail_ms, tail)):
            if (
                frames < (name == "chunk_ms")
                or frames > window
                or frames % FRAMES_PER_POSITION
                or (given or 0) % FRAME_MS
            ):
                raise RecipeError(
                    f"grid.{name} {given if given is not None else frames * FRAME_MS}: must be a multiple of 20 from "
                    f"{20 if name == 'chunk_ms' else 0} to {window * FRAME_MS}; change the recipe"
                )
        return Grid(
            mode="chunked",
            chunk_frames=chunk,
            max_frames=window,
            max_positions=self.size.positions,
            tail_frames=tail,
            pad_to_frames=fill,
        )

    def _mode(self, settings: GridSettings) -> str:
        streams = self._extra.get("encoder_attention") == "chunk-causal"
        if settings.mode == "chunked" and not streams:
            raise RecipeError(
                "grid.mode 'chunked': this Whisper was trained on its full 30 s window and reads nonsense in chunks; "
                "use --mode exact, or a chunk-causal checkpoint such as edgekit-tiny"
            )
        return settings.mode or ("chunked" if streams else "exact")

    def _adapter(self, g: GraphWriter, w: Weights) -> None:
        """Project encoder frames to the cross-KV of every decoder layer."""
        frames = g.input("frames", "float32", ("frames", self.size.width))
        head_dim = self.size.width // self.heads
        split = g.constant([-1, self.heads, head_dim])
        parts = []
        for layer in range(self.heard_by):
            root = f"model.decoder.layers.{layer}.encoder_attn"
            key = linear(g, w, frames, f"{root}.k_proj.weight", "encoder")
            val = linear(g, w, frames, f"{root}.v_proj.weight", "encoder", f"{root}.v_proj.bias")
            for part in (key, val):
                heads = g.node("Transpose", g.node("Reshape", g.narrow(part), split), perm=[1, 0, 2])
                parts.append(g.node("Unsqueeze", heads, g.constant([0])))
        size = (2 * self.heard_by, self.heads, "frames", head_dim)
        g.output(g.node("Concat", *parts, axis=0), "cross", g.activations, size)


class WhisperBackbone(Part):
    """The component ``backbone``: writes, and attends to what the ears made of the sound.

    ``aligned``: layer and head of the cross-attentions that follow the words: all queries of such layers are written.
    """

    components: Mapping[str, Group | None] = {"backbone": "backbone"}

    def __init__(self, config: Config, ears: WhisperEars, aligned: Sequence[tuple[int, int]] = ()) -> None:
        extra = section(config, "edgekit") if "edgekit" in config else {}
        self.width, self.heads, self.layers = ears.size.width, ears.heads, ears.heard_by
        self.attends = (Heads("d_model / decoder_attention_heads", self.width // self.heads, turned=False),)
        self.inner = value(config, "decoder_ffn_dim", int)
        self.vocabulary = value(config, "vocab_size", int)
        self.max_context = value(config, "max_target_positions", int)
        self.aligned = tuple(aligned)
        self.experts = value(extra, "num_experts", int, 0)
        self.chosen = value(extra, "num_experts_per_tok", int, self.experts)
        if self.experts and self.inner % self.experts:
            raise CheckpointError(
                f"config.json: decoder_ffn_dim {self.inner} does not divide into {self.experts} experts; "
                "fix edgekit.num_experts"
            )

    def expected(self) -> Shapes:
        """Return name and shape of every tensor."""
        width = self.width
        found: dict[str, tuple[int, ...]] = {TOKENS: (self.vocabulary, width), POSITIONS: (self.max_context, width)}
        norms = ["model.decoder.layer_norm"]
        for layer in range(self.layers):
            root = f"model.decoder.layers.{layer}"
            for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
                found[f"{root}.self_attn.{part}.weight"] = (width, width)
                if part != "k_proj":
                    found[f"{root}.self_attn.{part}.bias"] = (width,)
            for part in ("q_proj", "out_proj"):
                found[f"{root}.encoder_attn.{part}.weight"] = (width, width)
                found[f"{root}.encoder_attn.{part}.bias"] = (width,)
            norms += [
                f"{root}.{norm}" for norm in ("self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm")
            ]
            found[f"{root}.fc1.weight"], found[f"{root}.fc1.bias"] = (self.inner, width), (self.inner,)
            found[f"{root}.fc2.weight"], found[f"{root}.fc2.bias"] = (width, self.inner), (width,)
            if self.experts:
                found[f"{root}.router.weight"], found[f"{root}.router.bias"] = (self.experts, width), (self.experts,)
        for norm in norms:
            found[f"{norm}.weight"] = found[f"{norm}.bias"] = (width,)
        return found

    def copied(self, name: str) -> str | None:
        """Return the tensor that another one must repeat: the output projection is the token table again."""
        return TOKENS if name == "proj_out.weight" else None

    def group(self, name: str) -> Group | None:
        """Return the precision group of a tensor; None keeps it float."""
        if name == TOKENS:
            return "head"
        if not name.startswith("model.decoder.layers.") or not name.endswith(".weight") or "norm" in name:
            return None
        if ".router." in name:
            return None
        return "experts" if self.experts and (".fc1." in name or ".fc2." in name) else "backbone"

    def banked(self, name: str) -> bool:
        """Return whether a tensor is stored in a bank of experts: under its own name."""
        return self.group(name) == "experts"

    def expert_rows(self, source: Tensors, stored: str, expert: int) -> NDArray[np.float32]:
        """Return one expert's matrix of a stored bank: rows of fc1, or columns of fc2."""
        if (banked := stored_expert(source, stored, expert)) is not None:
            return banked
        inner = self.inner // self.experts
        columns = slice(expert * inner, (expert + 1) * inner)
        if ".fc1." in stored:
            return source.rows(stored, columns.start, columns.stop)
        return np.ascontiguousarray(source.rows(stored, 0, self.width)[:, columns])

    def build(self, component: str, g: GraphWriter, w: Weights) -> None:
        """Write the graph."""
        del component
        x = g.input("embeds", "float32", ("tokens", self.width))
        at = steps(g, x, g.input("start", "int64", (1,)))
        rows = g.input("logit_rows", "int64", ("rows",))
        count = g.input("experts_per_token", "int64", (1,)) if self.experts else ""
        x = g.node("Add", x, rows_at(g, w.plain(g, POSITIONS), at))
        queries: list[str] = []
        for layer in range(self.layers):
            x = self._decoder_layer(g, w, layer, x, at, count, queries)
        if queries:
            shape = ("tokens", len(queries) * self.width)
            g.output(g.node("Concat", *queries, axis=1), "queries", g.activations, shape)
        x = layer_norm(g, w, g.node("Gather", x, rows), "model.decoder.layer_norm")
        g.output(linear(g, w, x, TOKENS, "head"), "logits", "float32", ("rows", self.vocabulary))

    def _decoder_layer(
        self, g: GraphWriter, w: Weights, layer: int, x: str, at: Steps, count: str, queries: list[str]
    ) -> str:
        root = f"model.decoder.layers.{layer}"
        head_dim = self.width // self.heads

        def project(value: str, part: str, biased: bool = True) -> str:
            name = f"{root}.{part}"
            return linear(g, w, value, f"{name}.weight", "backbone", f"{name}.bias" if biased else None)

        normed = layer_norm(g, w, x, f"{root}.self_attn_layer_norm")
        attended = cached_attention(
            g, project(normed, "self_attn.q_proj"), project(normed, "self_attn.k_proj", biased=False),
            project(normed, "self_attn.v_proj"), layer, at, heads=self.heads, kv_heads=self.heads, head_dim=head_dim,
            capacity="context", causal=True,
        )  # fmt: skip
        x = g.node("Add", x, project(attended, "self_attn.out_proj"))
        normed = layer_norm(g, w, x, f"{root}.encoder_attn_layer_norm")
        query = project(normed, "encoder_attn.q_proj")
        if any(aligned == layer for aligned, _ in self.aligned):  # all heads: TensorRT would copy weights for some
            queries.append(g.narrow(query))
        heard = cross_attention(g, query, layer, heads=self.heads, head_dim=head_dim)
        x = g.node("Add", x, project(heard, "encoder_attn.out_proj"))
        normed = layer_norm(g, w, x, f"{root}.final_layer_norm")
        if self.experts:
            return g.node("Add", x, self._experts(g, w, root, normed, count))
        return g.node("Add", x, project(g.node("Gelu", project(normed, "fc1")), "fc2"))

    def _experts(self, g: GraphWriter, w: Weights, root: str, x: str, count: str) -> str:
        logits = g.node("Gemm", x, w.plain(g, f"{root}.router.weight"), w.plain(g, f"{root}.router.bias"), transB=1)
        _, places = choose_experts(g, logits, count)
        ones = g.node("Expand", g.constant(1.0), g.node("Shape", places))
        bank = ExpertBank(
            names=(f"{root}.fc1.weight", f"{root}.fc2.weight"),
            experts=self.experts,
            chosen=self.experts,
            inner=self.inner // self.experts,
            hidden=self.width,
            gated=False,
            load=partial(self.expert_rows, w.source),
            bias=f"{root}.fc1.bias",
        )
        mixed = experts(g, w, x, Routing(logits, places, scatter_mix(g, logits, places, ones)), bank)
        return g.node("Add", mixed, w.plain(g, f"{root}.fc2.bias"))


def open_whisper(config: Config, generation: Config) -> Opened:
    """Return Whisper bound to one config."""
    whole = written(config, generation)
    ears = WhisperEars(whole.config)
    backbone = WhisperBackbone(whole.config, ears, alignment_heads(whole))
    return Opened(
        parts=(ears, backbone),
        embedding=TOKENS,
        max_context=backbone.max_context,
        marks=() if generation.get("no_timestamps_token_id") is not None else (NO_TIMESTAMPS,),
        protocol=partial(whisper_protocol, whole),
        front_end=ears.front_end,
        grid=ears.grid,
        levels=expert_levels(backbone.chosen),
    )


FAMILY = Family(
    name="whisper",
    model_types=("whisper",),
    open=open_whisper,
    recipe="whisper",
    keys=WHISPER,
    generation_keys=WHISPER_GENERATION,
    published=tuple(f"openai/whisper-{size}" for size in SIZES),
    generation=published_generation,
    reference="edgekit.exporter.reference.whisper:WhisperReference",
)
