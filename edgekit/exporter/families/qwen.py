"""Decoder-only backbones of the Qwen line: Qwen2 (dense) and Qwen3-MoE, as other families embed them.

Knows tensor names ``model.*`` and ``lm_head.weight``, rotary attention and experts; nothing of audio.
"""

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.bundle import ComputeLevel
from edgekit.errors import CheckpointError
from edgekit.exporter.blocks import (
    Steps,
    cached_attention,
    choose_experts,
    rms_norm,
    rotary_tables,
    scatter_mix,
    steps,
)
from edgekit.exporter.checkpoint import Tensors
from edgekit.exporter.families.config import check_parts, value
from edgekit.exporter.families.levels import expert_levels
from edgekit.exporter.graph import GraphWriter
from edgekit.exporter.weights import ExpertBank, Weights, stored_expert
from edgekit.recipe import Group

_EXPERT = re.compile(r"(?P<root>.*\.mlp\.experts)\.\d+\.(?P<part>gate|up|down)_proj\.weight")
_MAX_POSITIONS = 32_768  # rotary tables are stored: 16 MiB at head size 128


class Qwen:
    """A Qwen2 or Qwen3-MoE text model bound to its config (a checkpoint's ``text_config``)."""

    embedding = "model.embed_tokens.weight"

    def __init__(self, config: Mapping[str, Any]) -> None:
        kind = config.get("model_type", "qwen2")
        if kind not in ("qwen2", "qwen3_moe"):
            raise CheckpointError(
                f"config.json: text_config.model_type '{kind}' is not a backbone EdgeKit knows (qwen2, qwen3_moe)"
            )
        rope = config.get("rope_parameters") or {}
        if config.get("rope_scaling") or rope.get("rope_type", "default") != "default":
            raise CheckpointError("config.json: text_config scales rotary positions; only plain ones are supported")
        if config.get("use_sliding_window"):
            raise CheckpointError(
                "config.json: text_config.use_sliding_window is set; only full attention is supported"
            )
        if config.get("hidden_act", "silu") != "silu":
            raise CheckpointError(f"config.json: hidden_act '{config['hidden_act']}' is not supported; Qwen uses silu")
        self.moe = kind == "qwen3_moe"
        self.width = value(config, "hidden_size", int)
        self.layers = value(config, "num_hidden_layers", int)
        self.heads = value(config, "num_attention_heads", int)
        self.kv_heads = value(config, "num_key_value_heads", int, self.heads)
        if "head_dim" not in config:
            check_parts(config, "hidden_size", "num_attention_heads")
        check_parts({"num_key_value_heads": self.kv_heads, **config}, "num_attention_heads", "num_key_value_heads")
        self.head_dim = value(config, "head_dim", int, self.width // max(1, self.heads))
        self.vocabulary = value(config, "vocab_size", int)
        self.positions = min(value(config, "max_position_embeddings", int, 16_384), _MAX_POSITIONS)
        self.theta = value({**config, **rope}, "rope_theta", float, 1e6)
        self.epsilon = value(config, "rms_norm_eps", float, 1e-6)
        self.tied = value(config, "tie_word_embeddings", bool, False)
        self.inner = value(config, "intermediate_size", int)
        self.experts = self.chosen = 0
        if self.moe:
            self.experts = value(config, "num_experts", int)
            self.chosen = value(config, "num_experts_per_tok", int)
            self.inner = value(config, "moe_intermediate_size", int)
            self.renormalised = value(config, "norm_topk_prob", bool, False)
            if value(config, "decoder_sparse_step", int, 1) != 1 or config.get("mlp_only_layers"):
                raise CheckpointError("config.json: only Qwen3-MoE with experts in every layer is supported")
        self.biased = not self.moe or value(config, "attention_bias", bool, False)

    def expected(self) -> Mapping[str, tuple[int, ...]]:
        """Return name and shape of every tensor."""
        width, inner = self.width, self.inner
        found: dict[str, tuple[int, ...]] = {self.embedding: (self.vocabulary, width), "model.norm.weight": (width,)}
        if not self.tied:
            found["lm_head.weight"] = (self.vocabulary, width)
        rows = {"q_proj": self.heads * self.head_dim}
        rows |= dict.fromkeys(("k_proj", "v_proj"), self.kv_heads * self.head_dim)
        for layer in range(self.layers):
            root = f"model.layers.{layer}"
            for part, count in rows.items():
                found[f"{root}.self_attn.{part}.weight"] = (count, width)
                if self.biased:
                    found[f"{root}.self_attn.{part}.bias"] = (count,)
            found[f"{root}.self_attn.o_proj.weight"] = (width, rows["q_proj"])
            found[f"{root}.input_layernorm.weight"] = found[f"{root}.post_attention_layernorm.weight"] = (width,)
            banks = [f"{root}.mlp"]
            if self.moe:
                for part in ("q_norm", "k_norm"):
                    found[f"{root}.self_attn.{part}.weight"] = (self.head_dim,)
                found[f"{root}.mlp.gate.weight"] = (self.experts, width)
                banks = [f"{root}.mlp.experts.{expert}" for expert in range(self.experts)]
            for bank in banks:
                found[f"{bank}.gate_proj.weight"] = found[f"{bank}.up_proj.weight"] = (inner, width)
                found[f"{bank}.down_proj.weight"] = (width, inner)
        return found

    def group(self, name: str) -> Group | None:
        """Return the precision group of a tensor; None keeps it float: norms, biases, routers."""
        if name in (self.embedding, "lm_head.weight"):
            return "head"
        if not name.startswith("model.layers.") or not name.endswith("_proj.weight"):
            return None
        return "experts" if ".experts." in name else "backbone"

    def stored(self, name: str) -> str:
        """Return the name under which the graph stores a tensor."""
        if self.tied and name == self.embedding:
            return self.embedding
        if match := _EXPERT.fullmatch(name):
            part = "down_proj" if match["part"] == "down" else "gate_up_proj"
            return f"{match['root']}.{part}.weight"
        return name

    def levels(self) -> tuple[ComputeLevel, ...]:
        """Return the default compute levels, cheapest first."""
        return expert_levels(self.chosen)

    def expert_rows(self, source: Tensors, stored: str, expert: int) -> NDArray[np.float32]:
        """Return one expert's matrix of a stored bank; gate and up rows alternate."""
        if (banked := stored_expert(source, stored, expert)) is not None:
            return banked
        root = stored.removesuffix(".weight").rpartition(".")[0]
        if stored.endswith(".down_proj.weight"):
            return source.rows(f"{root}.{expert}.down_proj.weight", 0, self.width)
        gate, up = (source.rows(f"{root}.{expert}.{part}_proj.weight", 0, self.inner) for part in ("gate", "up"))
        return np.stack([gate, up], axis=1).reshape(2 * self.inner, self.width)

    def build(self, g: GraphWriter, w: Weights) -> None:
        """Write the backbone's graph: embeddings in, logits of the asked rows out."""
        x = g.input("embeds", "float32", ("tokens", self.width))
        at = steps(g, x, g.input("start", "int64", (1,)))
        rows = g.input("logit_rows", "int64", ("rows",))
        count = g.input("experts_per_token", "int64", (1,)) if self.moe else ""
        rotary = rotary_tables(g, self.positions, self.head_dim, self.theta)
        for layer in range(self.layers):
            x = self._layer(g, w, layer, x, at, rotary, count)
        x = rms_norm(g, w, g.node("Gather", x, rows), "model.norm", self.epsilon)
        head = self.embedding if self.tied else "lm_head.weight"
        g.output(w.linear(g, x, head, "head"), "logits", "float32", ("rows", self.vocabulary))

    def _layer(
        self, g: GraphWriter, w: Weights, layer: int, x: str, at: Steps, rotary: tuple[str, str], count: str
    ) -> str:
        root = f"model.layers.{layer}"
        normed = rms_norm(g, w, x, f"{root}.input_layernorm", self.epsilon)
        q, k, v = (self._projection(g, w, f"{root}.self_attn", part, normed) for part in ("q", "k", "v"))
        attended = cached_attention(
            g, q, k, v, layer, at, heads=self.heads, kv_heads=self.kv_heads, head_dim=self.head_dim,
            capacity="context", causal=True, rotary=rotary,
        )  # fmt: skip
        x = g.node("Add", x, w.linear(g, attended, f"{root}.self_attn.o_proj.weight", "backbone"))
        normed = rms_norm(g, w, x, f"{root}.post_attention_layernorm", self.epsilon)
        if self.moe:
            return g.node("Add", x, self._experts(g, w, f"{root}.mlp", normed, count))
        gate = w.linear(g, normed, f"{root}.mlp.gate_proj.weight", "backbone")
        up = w.linear(g, normed, f"{root}.mlp.up_proj.weight", "backbone")
        inner = g.node("Mul", g.node("Mul", gate, g.node("Sigmoid", gate)), up)
        return g.node("Add", x, w.linear(g, inner, f"{root}.mlp.down_proj.weight", "backbone"))

    def _projection(self, g: GraphWriter, w: Weights, root: str, part: str, x: str) -> str:
        name = f"{root}.{part}_proj"
        rows = w.linear(g, x, f"{name}.weight", "backbone", f"{name}.bias" if self.biased else None)
        if not self.moe or part == "v":
            return rows
        # The CPU attention op refuses its own q/k norm inputs: norm over heads outside it.
        heads = self.heads if part == "q" else self.kv_heads
        split = g.node("Reshape", rows, g.constant([-1, heads, self.head_dim]))
        return g.node(
            "Reshape",
            rms_norm(g, w, split, f"{root}.{part}_norm", self.epsilon),
            g.constant([-1, heads * self.head_dim]),
        )

    def _experts(self, g: GraphWriter, w: Weights, root: str, x: str, count: str) -> str:
        logits = g.node("Gemm", x, w.plain(g, f"{root}.gate.weight"), transB=1)
        values, places = choose_experts(g, g.node("Softmax", logits, axis=-1), count)
        if self.renormalised:
            values = g.node("Div", values, g.node("ReduceSum", values, g.constant([1]), keepdims=1))

        bank = ExpertBank(
            names=(f"{root}.experts.gate_up_proj.weight", f"{root}.experts.down_proj.weight"),
            experts=self.experts,
            chosen=self.chosen,
            inner=self.inner,
            hidden=self.width,
            gated=True,
            load=partial(self.expert_rows, w.source),
        )
        return w.experts(g, x, logits, scatter_mix(g, logits, places, values), bank)
