"""State tensors: of the right shape and zero, and no memory until it is written."""

from pathlib import Path

import numpy as np
import pytest

from edgekit.bundle import Component, TensorSpec
from edgekit.profiler.footprint import memory_of
from edgekit.runtime.engine import allocate


def _component(dtype: str, *shape: int | str) -> Component:
    spec = TensorSpec(name="past.key.0", dtype=dtype, shape=shape, state="in-place")
    return Component(graph="g", data=None, inputs=(spec,), outputs=(), precision="float32")


@pytest.mark.parametrize("context", [0, 1, 2047, 2048, 2049])  # 1 MiB is where another way of allocating begins
@pytest.mark.parametrize("dtype", ["float32", "float16", "int64"])
def test_state_is_zero_writable_and_of_the_size_asked_for(dtype: str, context: int) -> None:
    (state,) = allocate(_component(dtype, 1, 4, "context", 32), {"context": context}).values()
    assert state.shape == (1, 4, context, 32)
    assert state.dtype == np.dtype(dtype)
    assert state.flags.c_contiguous
    assert not state.any()
    state += 1
    assert state.all()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_a_cache_takes_the_memory_of_the_tokens_in_it_and_not_of_its_capacity() -> None:
    (state,) = allocate(_component("float32", 1, 64, "context", 128), {"context": 4096}).values()
    assert state.nbytes == 128 << 20
    before = memory_of().anonymous_mib
    state[:, :, :8] = 1  # 8 tokens: 4 KiB at every 2 MiB, which is how far a head's keys are apart
    assert memory_of().anonymous_mib - before < 8
