"""Trace: bounded in a stream that may run for days, whole where a run is measured."""

import sys
from collections.abc import Callable
from itertools import count

import numpy as np
import pytest

import edgekit
from edgekit.profiler.pacing import Pacer
from edgekit.profiler.passes import run_pass
from edgekit.timing import Trace


@pytest.mark.parametrize(
    ("limit", "kept"), [(1, [8]), (2, [7, 8]), (3, [6, 7, 8]), (8, [4, 5, 6, 7, 8]), (9, [*range(9)])]
)
def test_beyond_the_limit_the_oldest_half_is_dropped(limit: int, kept: list[int]) -> None:
    trace = Trace(clock=count().__next__, limit=limit)
    for index in range(9):
        with trace.span("work", index):
            pass
    assert [span.count for span in trace.spans] == kept


def test_a_stream_keeps_few_spans_and_a_measured_run_keeps_all(
    tiny_bundle: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgekit.runtime.stream.Trace", lambda *given: Trace(*given) if given else Trace(limit=10))
    model = edgekit.load(tiny_bundle().folder, threads=1)
    samples = np.random.default_rng(0).uniform(-0.3, 0.3, 20_000).astype(np.float32)
    stream = model.stream()
    for part in np.array_split(samples, 40):
        list(stream.push(part))
        assert len(stream.trace.spans) <= 2 * 10  # of taking and of working
    moments = count()
    done = run_pass(model, samples, Pacer(lambda: float(next(moments)), paced=False))
    assert sum(span.count for span in done.spans if span.name == "gate") >= 20_000
    assert model.transcribe(samples).trace.limit == sys.maxsize


def test_a_day_of_streaming_is_bounded() -> None:
    assert Trace().limit == 20_000
