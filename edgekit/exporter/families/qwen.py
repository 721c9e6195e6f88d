"""Decoder-only text models of the Qwen line, as other families embed them: Qwen2, Qwen3, Qwen3-MoE and Qwen3-Omni's.

Knows tensor names below a prefix such as ``model.``, rotary attention and its cache; nothing of audio. Feed-forwards
are ``qwen_experts``'. Multimodal rotary positions (M-RoPE) are equal on all three axes for text and audio, which makes
them ordinary ones; images and video would differ and are not read.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgekit.bundle import ComputeLevel
from edgekit.errors import CheckpointError
from edgekit.exporter.blocks import cached_attention, linear, rms_norm, rotary_tables, steps
from edgekit.exporter.dialects import Steps
from edgekit.exporter.families.base import Heads, Part, Shapes
from edgekit.exporter.families.config import check_count, check_parts, check_share, rotary_base, value
from edgekit.exporter.families.levels import expert_levels
from edgekit.exporter.families.qwen_experts import Experts, gated, gated_shapes, stored_bank
from edgekit.exporter.families.qwen_keys import TEXTS
from edgekit.exporter.graph import GraphWriter
from edgekit.exporter.sources.checkpoint import Tensors
from edgekit.exporter.weights import Weights
from edgekit.recipe import Group

_MAX_POSITIONS = 32_768  # rotary tables are stored: 16 MiB at head size 128


@dataclass(frozen=True, slots=True)
class _Kind:
    """What a ``model_type`` fixes; what it leaves to the config is in ``qwen_keys``."""

    head_norms: bool
    experts: bool
    shared: bool = False


_KINDS = {
    "step_audio_2_text": _Kind(head_norms=False, experts=False),
    "qwen2": _Kind(head_norms=False, experts=False),
    "qwen3": _Kind(head_norms=True, experts=False),
    "qwen3_moe": _Kind(head_norms=True, experts=True),
    "qwen3_omni_moe_text": _Kind(head_norms=True, experts=True),
    "qwen3_omni_moe_talker_text": _Kind(head_norms=True, experts=True, shared=True),
    "qwen3_omni_moe_talker_code_predictor": _Kind(head_norms=True, experts=False),
}


@dataclass(frozen=True, slots=True)
class QwenNames:
    """Where a text model stands in its checkpoint; ``embedding`` and ``head`` are empty where it has none of its own.

    ``group`` ``decoder``: all that it multiplies belongs to that group, experts included.
    """

    model: str = "model"
    embedding: str = "model.embed_tokens.weight"
    head: str = "lm_head.weight"
    group: Literal["backbone", "decoder"] = "backbone"


class Qwen(Part):
    """A text model bound to its config, such as a checkpoint's ``text_config``; ``where`` names that in errors.

    As a part of a family it is the component ``backbone``, from embeddings to logits of the requested rows. ``hidden``:
    it also writes an output of that name, of every new row: what enters layer ``hidden``, or after the last layer's
    norm for ``layers``. It is transformers' ``hidden_states[hidden]``.
    """

    components: Mapping[str, Group | None] = {"backbone": "backbone"}
    hidden: int | None = None

    def __init__(
        self, config: Mapping[str, Any], names: QwenNames | None = None, where: str = "text_config", kind: str = "qwen2"
    ) -> None:
        self.names = names or QwenNames()
        self.embedding = self.names.embedding
        model_type = str(config.get("model_type", kind))
        if model_type not in _KINDS:
            raise CheckpointError(
                f"config.json: {where}.model_type '{model_type}' is not a backbone EdgeKit knows ({', '.join(_KINDS)})"
            )
        made = _KINDS[model_type]
        config = TEXTS[model_type].filled(config)
        self.head_norms = made.head_norms
        self.width = value(config, "hidden_size", int)
        self.layers = value(config, "num_hidden_layers", int)
        self.heads = value(config, "num_attention_heads", int)
        kv_heads = config["num_key_value_heads"]
        self.kv_heads = self.heads if kv_heads is None else value(config, "num_key_value_heads", int)
        check_share("num_attention_heads", self.heads, "num_key_value_heads", self.kv_heads)
        key = "head_dim"
        if config.get(key) is None:
            check_parts(config, "hidden_size", "num_attention_heads")
            key, self.head_dim = "hidden_size / num_attention_heads", self.width // self.heads
        else:
            self.head_dim = value(config, key, int)
        self.attends = (Heads(f"{where}.{key}", self.head_dim, turned=True),)
        self.vocabulary = value(config, "vocab_size", int)
        self.positions = min(value(config, "max_position_embeddings", int), _MAX_POSITIONS)
        self.theta = rotary_base(config)
        self.epsilon = value(config, "rms_norm_eps", float)
        self.tied = self.names.group == "backbone" and value(config, "tie_word_embeddings", bool)
        self.inner = value(config, "intermediate_size", int)
        self.experts = Experts(config, self.width, shared=made.shared) if made.experts else None
        if self.experts:
            check_count({"num_hidden_layers": self.layers, "num_experts": self.experts.count, "matrices of each": 3})
        biased = made.head_norms and value(config, "attention_bias", bool)
        self.biased = biased or not made.head_norms
        self.out_biased = biased

    def expected(self) -> Shapes:
        """Return name and shape of every tensor."""
        width, model = self.width, self.names.model
        found: dict[str, tuple[int, ...]] = {f"{model}.norm.weight": (width,)}
        ends = (self.embedding, "" if self.tied else self.names.head)
        found |= {name: (self.vocabulary, width) for name in ends if name}
        rows = {"q_proj": self.heads * self.head_dim}
        rows |= dict.fromkeys(("k_proj", "v_proj"), self.kv_heads * self.head_dim)
        for layer in range(self.layers):
            root = f"{model}.layers.{layer}"
            for part, count in rows.items():
                found[f"{root}.self_attn.{part}.weight"] = (count, width)
                if self.biased:
                    found[f"{root}.self_attn.{part}.bias"] = (count,)
            found[f"{root}.self_attn.o_proj.weight"] = (width, rows["q_proj"])
            if self.out_biased:
                found[f"{root}.self_attn.o_proj.bias"] = (width,)
            found[f"{root}.input_layernorm.weight"] = found[f"{root}.post_attention_layernorm.weight"] = (width,)
            if self.head_norms:
                for part in ("q_norm", "k_norm"):
                    found[f"{root}.self_attn.{part}.weight"] = (self.head_dim,)
            found |= (
                self.experts.expected(f"{root}.mlp") if self.experts else gated_shapes(f"{root}.mlp", width, self.inner)
            )
        return found

    def group(self, name: str) -> Group | None:
        """Return the precision group of a tensor; None keeps it float: norms, biases, routers."""
        speaks = self.names.group == "decoder"
        if name in (self.embedding, self.names.head):
            return "decoder" if speaks else "head"
        if not name.startswith(f"{self.names.model}.layers.") or not name.endswith("_proj.weight"):
            return None
        if speaks:
            return "decoder"
        return "experts" if ".experts." in name else "backbone"

    def copied(self, name: str) -> str | None:
        """Return the tensor that another one must repeat: the output projection that of a token, where it is tied."""
        return self.embedding if self.tied and name == self.names.head else None

    def stored(self, name: str) -> str:
        """Return the name under which the graph stores a tensor."""
        return stored_bank(name)

    def levels(self) -> tuple[ComputeLevel, ...]:
        """Return the default compute levels, cheapest first."""
        return expert_levels(self.experts.chosen if self.experts else 0)

    def expert_rows(self, source: Tensors, stored: str, expert: int) -> NDArray[np.float32]:
        """Return one expert's matrix of a stored bank; gate and up rows alternate."""
        assert self.experts, stored
        return self.experts.rows(source, stored, expert)

    def build(self, component: str, g: GraphWriter, w: Weights) -> None:
        """Write the backbone's graph."""
        del component
        x = g.input("embeds", "float32", ("tokens", self.width))
        at = steps(g, x, g.input("start", "int64", (1,)))
        rows = g.input("logit_rows", "int64", ("rows",))
        count = g.input("experts_per_token", "int64", (1,)) if self.experts else ""
        states = self.states(g, w, x, at, count)
        if self.hidden == self.layers:
            states[-1] = self.normed(g, w, states[-1])
            x = g.node("Gather", states[-1], rows)
        else:
            x = self.normed(g, w, g.node("Gather", states[-1], rows))
        head = self.embedding if self.tied else self.names.head
        g.output(linear(g, w, x, head, "head"), "logits", "float32", ("rows", self.vocabulary))
        if self.hidden is not None:
            g.output(states[self.hidden], "hidden", "float32", ("tokens", self.width))

    def states(
        self, g: GraphWriter, w: Weights, x: str, at: Steps, count: str, capacity: int | str = "context"
    ) -> list[str]:
        """Return x (S, width) and what each layer makes of it; the last is not normed.

        count: int64 (1,) experts a token. capacity: positions of the cache, a number or a free size.
        """
        positions = self.positions if isinstance(capacity, str) else capacity
        prefix = "" if self.names.group == "backbone" else f"{self.names.model}."
        rotary = rotary_tables(g, positions, self.head_dim, self.theta, prefix)
        found = [x]
        for layer in range(self.layers):
            found.append(self._layer(g, w, layer, found[-1], at, rotary, count, capacity))
        return found

    def normed(self, g: GraphWriter, w: Weights, x: str) -> str:
        """Return x after the model's last norm."""
        return rms_norm(g, w, x, f"{self.names.model}.norm", self.epsilon)

    def _layer(
        self,
        g: GraphWriter,
        w: Weights,
        layer: int,
        x: str,
        at: Steps,
        rotary: tuple[str, str],
        count: str,
        capacity: int | str,
    ) -> str:
        root, group = f"{self.names.model}.layers.{layer}", self.names.group
        normed = rms_norm(g, w, x, f"{root}.input_layernorm", self.epsilon)
        q, k, v = (self._projection(g, w, f"{root}.self_attn", part, normed) for part in ("q", "k", "v"))
        attended = cached_attention(
            g, q, k, v, layer, at, heads=self.heads, kv_heads=self.kv_heads, head_dim=self.head_dim,
            capacity=capacity, causal=True, rotary=rotary,
        )  # fmt: skip
        out = f"{root}.self_attn.o_proj"
        bias = f"{out}.bias" if self.out_biased else None
        x = g.node("Add", x, linear(g, w, attended, f"{out}.weight", group, bias))
        normed = rms_norm(g, w, x, f"{root}.post_attention_layernorm", self.epsilon)
        if self.experts:
            groups: tuple[Group, Group] = ("decoder" if group == "decoder" else "experts", group)
            return g.node("Add", x, self.experts.build(g, w, f"{root}.mlp", normed, count, groups=groups))
        return g.node("Add", x, gated(g, w, f"{root}.mlp", normed, group))

    def _projection(self, g: GraphWriter, w: Weights, root: str, part: str, x: str) -> str:
        name = f"{root}.{part}_proj"
        rows = linear(g, w, x, f"{name}.weight", self.names.group, f"{name}.bias" if self.biased else None)
        if not self.head_norms or part == "v":
            return rows
        # The CPU attention op refuses its own q/k norm inputs: norm over heads outside it.
        heads = self.heads if part == "q" else self.kv_heads
        split = g.node("Reshape", rows, g.constant([-1, heads, self.head_dim]))
        return g.node(
            "Reshape",
            rms_norm(g, w, split, f"{root}.{part}_norm", self.epsilon),
            g.constant([-1, heads * self.head_dim]),
        )
