"""A bundle whose backbone counts what it is given, for what runs it and what loads it."""

import numpy as np
import pytest

from edgekit.bundle import Bundle
from tests.runtime.conftest import Graph

WIDTH, CONTEXT = 16, 8  # eight rows take more than the memory that a device gives at least


def counting():
    """Return a backbone: logits of the rows asked for are a running sum of embeds, times the experts chosen."""
    g = Graph("backbone", 3)
    x, start = g.input("embeds", "float32", ("tokens", WIDTH)), g.input("start", "int64", (1,))
    rows, experts = g.input("logit_rows", "int64", ("rows",)), g.input("experts_per_token", "int64", (1,))
    cross = g.input("cross.0", "float32", (1, 2, "sound", 2))
    past = g.input("past.sum", "float32", ("context", WIDTH), "carried")
    one = g.constant(np.array([1]))
    zero = g.constant(np.array([0]))
    before = g.node("Gather", past, zero, axis=0)
    count = g.node("Squeeze", g.node("Shape", x, start=0, end=1))
    numbers = g.node("Range", g.constant(np.array(0)), count, g.constant(np.array(1)))
    upto = g.node("LessOrEqual", g.node("Unsqueeze", numbers, zero), g.node("Unsqueeze", numbers, one))
    sums = g.node("Add", g.node("MatMul", g.node("Cast", upto, to=1), x), before)
    last = g.node("Gather", sums, g.constant(np.array([-1])), axis=0)
    g.node("ScatterND", past, g.node("Unsqueeze", zero, one), last, outs=("present.sum",))
    g.output("present.sum", "float32", ("context", WIDTH), "carried")
    heard = g.node("Add", g.node("ReduceSum", cross, keepdims=0), g.node("Cast", start, to=1))
    many = g.node("ReduceSum", g.node("Expand", g.constant(np.float32(2)), experts), keepdims=0)
    y = g.node("Add", g.node("Mul", sums, many), heard)
    g.node("Gather", y, rows, outs=("logits",))
    g.output("logits", "float32", ("rows", WIDTH))
    return g


@pytest.fixture
def bundle(tiny_bundle):
    """Two graphs of a standard bundle, and no more: a backbone that is ``counting``, an adapter without state."""
    tiny = tiny_bundle(dialect="standard", context_tokens=CONTEXT)
    components = {"backbone": counting().save(tiny.folder, plain=True)}
    g = Graph("adapter", 2)
    frames, other = g.input("frames", "float32", ("frames", WIDTH)), g.input("other", "float32", ("tokens", WIDTH))
    g.node("Add", frames, g.node("ReduceSum", other, keepdims=0), outs=("cross",))
    g.output("cross", "float32", ("frames", WIDTH))
    components["adapter"] = g.save(tiny.folder, plain=True)
    (tiny.folder / "adapter.data").touch()
    tiny.change(components=components)
    return Bundle(tiny.folder, tiny.manifest)
