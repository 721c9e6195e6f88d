"""Forms of a bank of experts, built for one token and for many: why the dialect gathers the union of what is asked.

``pytest -m engines -s tests/engines/test_expert_forms.py`` prints the figures of docs/decisions/standard-dialect.md.
Scratch memory is what the builder states; nothing is executed, so no form is timed.
"""

import re

import numpy as np
import pytest

from edgekit.exporter.dialects import DIALECTS, ExpertBank, Routing
from edgekit.exporter.dialects.standard.dialect import StandardDialect, expert_matrices
from edgekit.exporter.graph import GraphWriter
from edgekit.exporter.weights import Weights
from edgekit.recipe import QuantizeSettings

pytestmark = pytest.mark.engines
HIDDEN, INNER = 256, 512
SCRATCH = re.compile(r"Max Scratch Memory: (\d+) bytes")


class Banks:
    """Noise for both projections and a bias, as tensors of a checkpoint."""

    def __init__(self, experts):
        rng = np.random.default_rng(0)
        self.first = rng.standard_normal((experts, INNER, HIDDEN), np.float32)
        self.second = rng.standard_normal((experts, HIDDEN, INNER), np.float32)
        self.bias = rng.standard_normal(experts * INNER).astype(np.float32)

    def names(self):
        return frozenset({"bias"})

    def shape(self, name):
        return self.bias.shape

    def rows(self, name, start, stop):
        return self.bias[start:stop]


def write(folder, experts, form, precision="int8", activations="float32"):
    """Write a router and its experts as ``form`` (g, x, routing, w, bank) puts them; return the graph's path."""
    banks = Banks(experts)
    w = Weights(banks, {"experts": precision}, QuantizeSettings())
    bank = ExpertBank(
        names=("first", "second"), experts=experts, chosen=8, inner=INNER, hidden=HIDDEN, gated=False, bias="bias",
        load=lambda name, expert: getattr(banks, name)[expert],
    )  # fmt: skip
    name = f"{form.__name__}-{experts}-{precision}-{activations}"
    with GraphWriter(folder, name, DIALECTS.get("standard"), activations) as g:
        x, count = g.input("x", "float32", ("tokens", HIDDEN)), g.input("count", "int64", (1,))
        router = g.tensor("router", np.random.default_rng(1).standard_normal((HIDDEN, experts), np.float32))
        logits = g.node("MatMul", x, router)
        _, places = g.nodes("TopK", logits, count, outs=(None, None), axis=-1)
        zeros = g.node("Expand", g.constant(0.0), g.node("Shape", logits))
        ones = g.node("Expand", g.constant(1.0), g.node("Shape", places))
        mix = g.node("ScatterElements", zeros, places, ones, axis=1)
        g.output(form(g, x, Routing(logits, places, mix), w, bank), "y", "float32", ("tokens", HIDDEN))
        g.close(precision)
    return folder / g.graph_file


def union(g, x, routing, w, bank):
    return StandardDialect().experts(g, w, x, routing, bank)


def each_token(g, x, routing, w, bank):
    bias = bank.store_bias(g, w)
    first, second = (g.node("Gather", one, routing.places, axis=0) for one in expert_matrices(g, w, bank))
    column = g.node("Unsqueeze", x, g.constant([1, 3]))
    hidden = g.node("Squeeze", g.node("MatMul", first, column), g.constant([3]))
    hidden = g.node("Gelu", g.node("Add", hidden, g.node("Gather", bias, routing.places, axis=0)))
    out = g.node("MatMul", second, g.node("Unsqueeze", hidden, g.constant([3])))
    return g.node("ReduceSum", g.node("Squeeze", out, g.constant([3])), g.constant([1]), keepdims=0)


def every_expert(g, x, routing, w, bank):
    bias = bank.store_bias(g, w)
    first, second = expert_matrices(g, w, bank)
    hidden = g.node("MatMul", g.node("Unsqueeze", x, g.constant([0])), g.node("Transpose", first, perm=[0, 2, 1]))
    hidden = g.node("Gelu", g.node("Add", hidden, g.node("Unsqueeze", bias, g.constant([1]))))
    share = g.node("Unsqueeze", g.node("Transpose", routing.mix, perm=[1, 0]), g.constant([2]))
    out = g.node("MatMul", g.node("Mul", hidden, share), g.node("Transpose", second, perm=[0, 2, 1]))
    return g.node("ReduceSum", out, g.constant([0]), keepdims=0)


def scratch(path, tokens, chosen):
    """Return the scratch memory in bytes that the builder states for a plan of at most these sizes."""
    import tensorrt_rtx as trt

    class Logger(trt.ILogger):
        def __init__(self):
            trt.ILogger.__init__(self)
            self.lines = []

        def log(self, severity, message):
            self.lines.append(message)

    logger = Logger()
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    assert parser.parse_from_file(str(path))
    profile = builder.create_optimization_profile()
    profile.set_shape("x", (1, HIDDEN), (1, HIDDEN), (tokens, HIDDEN))
    profile.set_shape_input("count", [1], [chosen], [chosen])
    config = builder.create_builder_config()
    config.add_optimization_profile(profile)
    assert builder.build_serialized_network(network, config) is not None, logger.lines[-3:]
    return int([found[1] for line in logger.lines if (found := SCRATCH.search(line))][-1])


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Return scratch memory by form, experts, tokens and experts a token has."""
    folder = tmp_path_factory.mktemp("forms")
    found = {}
    for form in (each_token, every_expert, union):
        for experts in (16, 64):
            path = write(folder, experts, form)
            for tokens, chosen in ((1, 2), (32, 8)):
                bytes_ = scratch(path, tokens, chosen)
                print(f"{form.__name__}: {experts} experts, {tokens} tokens, {chosen} chosen: {bytes_ / 1e6:.1f} MB")
                found[form.__name__, experts, tokens, chosen] = bytes_
    return found


def test_one_token_expands_its_own_experts_however_many_there_are(measured):
    assert measured["union", 64, 1, 2] == measured["union", 16, 1, 2]
    assert measured["every_expert", 64, 1, 2] > 2 * measured["every_expert", 16, 1, 2]
    assert measured["union", 64, 1, 2] < measured["every_expert", 64, 1, 2] / 2


def test_many_tokens_expand_each_expert_once_and_not_for_each_token(measured):
    assert measured["union", 64, 32, 8] < measured["each_token", 64, 32, 8] / 2
    assert measured["union", 64, 32, 8] < 2 * measured["every_expert", 64, 32, 8]


@pytest.mark.parametrize(("precision", "activations"), [("int4", "float32"), ("int4", "float16"), ("int8", "float16")])
def test_in_int4_and_float16_too_one_token_expands_its_own_experts(precision, activations, tmp_path):
    found = [scratch(write(tmp_path, experts, union, precision, activations), 1, 2) for experts in (16, 64)]
    print(f"union, {precision}, {activations} products: {found[0] / 1e6:.1f} and {found[1] / 1e6:.1f} MB")
    assert found[0] == found[1]
