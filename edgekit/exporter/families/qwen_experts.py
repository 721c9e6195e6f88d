"""Feed-forwards of the Qwen line: dense, or a mixture of experts that a router chooses, perhaps with a shared one.

Knows the tensor names below ``...layers.{i}.mlp`` and nothing of attention. Source: transformers,
Qwen3MoeSparseMoeBlock and Qwen2MoeSparseMoeBlock (the shared expert).
"""

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import CheckpointError
from edgekit.exporter.blocks import choose_experts, experts, linear, scatter_mix
from edgekit.exporter.dialects import ExpertBank, Routing
from edgekit.exporter.families.config import value
from edgekit.exporter.graph import GraphWriter
from edgekit.exporter.sources.checkpoint import Tensors
from edgekit.exporter.weights import Weights, stored_expert
from edgekit.recipe import Group

_EXPERT = re.compile(r"(?P<root>.*\.mlp\.experts)\.\d+\.(?P<part>gate|up|down)_proj\.weight")


def gated_shapes(root: str, width: int, inner: int) -> dict[str, tuple[int, ...]]:
    """Return name and shape of the three matrices of one gated feed-forward."""
    parts = {"gate_proj": (inner, width), "up_proj": (inner, width), "down_proj": (width, inner)}
    return {f"{root}.{part}.weight": shape for part, shape in parts.items()}


def gated(g: GraphWriter, w: Weights, root: str, x: str, group: Group) -> str:
    """Return ``down(silu(gate(x)) * up(x))``."""
    gate = linear(g, w, x, f"{root}.gate_proj.weight", group)
    up = linear(g, w, x, f"{root}.up_proj.weight", group)
    inner = g.node("Mul", g.node("Mul", gate, g.node("Sigmoid", gate)), up)
    return linear(g, w, inner, f"{root}.down_proj.weight", group)


def stored_bank(name: str) -> str:
    """Return the name of the bank that holds an expert's matrix, or the tensor's own name."""
    if match := _EXPERT.fullmatch(name):
        part = "down_proj" if match["part"] == "down" else "gate_up_proj"
        return f"{match['root']}.{part}.weight"
    return name


class Experts:
    """Experts of a text config: ``count`` in every layer, of which each token takes ``chosen``.

    ``shared``: width of the expert that every token takes as well, scaled by a gate of its own; 0 for none.
    """

    def __init__(self, config: Mapping[str, Any], width: int, *, shared: bool) -> None:
        self.width = width
        self.count = value(config, "num_local_experts" if "num_local_experts" in config else "num_experts", int)
        self.chosen = value(config, "num_experts_per_tok", int)
        self.inner = value(config, "moe_intermediate_size", int)
        self.renormalised = value(config, "norm_topk_prob", bool)
        self.shared = value(config, "shared_expert_intermediate_size", int) if shared else 0
        if not 1 <= self.chosen <= self.count:
            raise CheckpointError(
                f"config.json: 'num_experts_per_tok' is {self.chosen}, must be from 1 to 'num_experts', {self.count}; "
                "use the published config.json"
            )

    def expected(self, root: str) -> dict[str, tuple[int, ...]]:
        """Return name and shape of every tensor of one layer, ``root`` being its ``...mlp``."""
        found: dict[str, tuple[int, ...]] = {f"{root}.gate.weight": (self.count, self.width)}
        for expert in range(self.count):
            found |= gated_shapes(f"{root}.experts.{expert}", self.width, self.inner)
        if self.shared:
            found |= gated_shapes(f"{root}.shared_expert", self.width, self.shared)
            found[f"{root}.shared_expert_gate.weight"] = (1, self.width)
        return found

    def rows(self, source: Tensors, stored: str, expert: int) -> NDArray[np.float32]:
        """Return one expert's matrix of a stored bank; gate and up rows alternate."""
        if (banked := stored_expert(source, stored, expert)) is not None:
            return banked
        root = stored.removesuffix(".weight").rpartition(".")[0]
        if stored.endswith(".down_proj.weight"):
            return source.rows(f"{root}.{expert}.down_proj.weight", 0, self.width)
        gate, up = (source.rows(f"{root}.{expert}.{part}_proj.weight", 0, self.inner) for part in ("gate", "up"))
        return np.stack([gate, up], axis=1).reshape(2 * self.inner, self.width)

    def build(self, g: GraphWriter, w: Weights, root: str, x: str, count: str, *, groups: tuple[Group, Group]) -> str:
        """Return what the experts make of x (S, width); ``count``: int64 (1,) experts a token.

        groups: precision of the experts and of the shared one.
        """
        logits = g.node("Gemm", x, w.plain(g, f"{root}.gate.weight"), transB=1)
        values, places = choose_experts(g, g.node("Softmax", logits, axis=-1), count)
        if self.renormalised:
            values = g.node("Div", values, g.node("ReduceSum", values, g.constant([1]), keepdims=1))

        bank = ExpertBank(
            names=(f"{root}.experts.gate_up_proj.weight", f"{root}.experts.down_proj.weight"),
            experts=self.count,
            chosen=self.chosen,
            inner=self.inner,
            hidden=self.width,
            gated=True,
            load=partial(self.rows, w.source),
            group=groups[0],
        )
        mixed = experts(g, w, x, Routing(logits, places, scatter_mix(g, logits, places, values)), bank)
        if not self.shared:
            return mixed
        share = g.node("Sigmoid", g.node("Gemm", x, w.plain(g, f"{root}.shared_expert_gate.weight"), transB=1))
        return g.node("Add", mixed, g.node("Mul", gated(g, w, f"{root}.shared_expert", x, groups[1]), share))
