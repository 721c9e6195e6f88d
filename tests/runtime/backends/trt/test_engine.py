"""Plans on a device in the host's memory: what a stream binds, and how runs become graphs.

The device and TensorRT are the stand-ins of ``host_device.py``; no GPU takes part.
"""

import gc

import numpy as np
import pytest

from edgekit.errors import BackendError
from edgekit.runtime.backends import ort
from edgekit.runtime.backends.trt.library import FULL, RTX
from edgekit.runtime.backends.trt.loading import load_components
from edgekit.runtime.backends.trt.plans import PORTABLE
from tests.runtime.backends.conftest import CONTEXT, WIDTH
from tests.runtime.backends.host_device import SCRATCH_BYTES, HostDevice, publish, tensorrt, tensorrt_rtx


class Pair:
    """The same component on the stand-in and on onnxruntime; every run must give both the same."""

    def __init__(self, bundle, name="backbone", device=None, library=None):
        self.device = device or HostDevice()
        self.library = library or tensorrt(self.device)
        publish(bundle, self.library)
        loaded = load_components(bundle, [name], FULL, CONTEXT, library=self.library, device=self.device)
        self.engine, self.twin = loaded[name], ort.load_component(bundle, name, 1)
        self.bind()

    def bind(self):
        self.calls = [engine.bind({"context": CONTEXT}) for engine in (self.engine, self.twin)]

    def reset(self):
        for call in self.calls:
            call.reset()

    def run(self, **inputs):
        found, expected = (call.run(inputs) for call in self.calls)
        assert found.keys() == expected.keys()
        for name, array in found.items():
            np.testing.assert_array_equal(array, expected[name], strict=True)
        return found


def step(tokens=1, rows=None, experts=1, cross=None, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "embeds": rng.standard_normal((tokens, WIDTH)).astype(np.float32),
        "start": np.array([seed]),
        "logit_rows": np.arange(tokens if rows is None else rows),
        "experts_per_token": np.array([experts]),
        "cross.0": np.ones((1, 2, 3, 2), np.float32) if cross is None else cross,
    }


def test_a_step_that_comes_again_and_again_is_replayed_and_gives_the_same(bundle):
    pair = Pair(bundle)
    for seed in range(12):
        pair.run(**step(seed=seed))
    # two sides of the state: each is run once before it is captured, and the very first run has no context of its own
    assert pair.engine.counts == {"eager": 3, "captured": 2, "replayed": 9}
    assert pair.engine.notes == []


def test_state_moves_on_between_runs_of_any_size_and_reset_clears_it(bundle):
    pair = Pair(bundle)
    for turn in range(3):
        for seed, tokens in enumerate((5, 1, 1, 1, 1, 1, 1, 3, 1, 1, 8, 2, 2, 2, 2, 2, 1, 1)):
            pair.run(**step(tokens, seed=seed + turn))
        pair.reset()
    assert pair.engine.counts["replayed"] > pair.engine.counts["eager"] / 2


def test_no_rows_no_tokens_heard_and_more_rows_than_before(bundle):
    pair = Pair(bundle)
    for rows in (0, 0, 0, 0, 0, 1, 0, 8, 0, 0):
        tokens = max(rows, 1)
        assert pair.run(**step(tokens, rows=rows))["logits"].shape == (rows, WIDTH)


def test_graphs_of_two_sizes_are_kept_and_a_third_takes_the_place_of_the_older(bundle):
    pair = Pair(bundle)
    for _ in range(3):
        for tokens in (1, 2):
            for seed in range(6):
                pair.run(**step(tokens, seed=seed))
    assert pair.engine.counts["captured"] == 4
    contexts = pair.library.contexts
    for seed in range(6):
        pair.run(**step(3, seed=seed))
    for seed in range(6):
        pair.run(**step(2, seed=seed))  # still there
    assert (pair.engine.counts["captured"], pair.library.contexts) == (6, contexts)
    for seed in range(6):
        pair.run(**step(1, seed=seed))  # was given up
    assert pair.engine.counts["captured"] == 8


def test_a_size_that_an_input_sets_by_its_value_is_part_of_what_is_replayed(bundle):
    pair = Pair(bundle)
    results = {}
    for experts in (1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 1, 2, 1, 2):
        results[experts] = pair.run(**step(experts=experts))["logits"]
    assert pair.engine.counts["captured"] == 4
    assert not np.array_equal(results[1], results[2])


def test_arrays_that_are_rewritten_in_place_are_read_anew_also_by_a_graph(bundle):
    pair = Pair(bundle)
    inputs = step()
    for seed in range(8):
        inputs["embeds"][:] = seed
        inputs["start"][:] = seed
        pair.run(**inputs)
    assert pair.engine.counts["replayed"] > 2


def test_what_nobody_can_write_goes_to_the_device_once(bundle):
    pair = Pair(bundle)
    for number in range(2):
        cross = np.full((1, 2, 20, 2), number, np.float32)
        cross.flags.writeable = False
        pair.device.uploads.clear()
        for seed in range(8):
            pair.run(**step(cross=cross, seed=seed))
        assert pair.device.uploads.count(cross.nbytes) == 1
        assert max(map(len, pair.device.pinned.values())) < cross.nbytes  # nor does it take memory of the host twice
    other = cross + 1  # writeable: it may change from run to run
    for _ in range(6):
        other += 1
        pair.run(**step(cross=other))
    pair.run(**step(cross=cross))


def test_outputs_are_the_callers_own(bundle):
    pair = Pair(bundle)
    kept = [pair.run(**step(seed=seed))["logits"] for seed in range(8)]
    copies = [array.copy() for array in kept]
    pair.run(**step(seed=9))
    np.testing.assert_array_equal(kept, copies)
    assert all(array.flags.writeable for array in kept)


def test_streams_share_the_engine_and_nothing_else(bundle):
    pair = Pair(bundle)
    first, others = pair.calls, []
    pair.bind()
    for seed in range(10):
        for calls in (first, pair.calls):
            found, expected = (call.run(step(seed=seed + len(others))) for call in calls)
            np.testing.assert_array_equal(found["logits"], expected["logits"])
            others.append(seed)


def test_calls_share_one_scratch_memory_and_take_turns_with_it(bundle):
    turns = []

    class Watched(HostDevice):
        def wait(self, stream):
            turns.append(pair.engine.turn.locked())
            super().wait(stream)

    pair = Pair(bundle, device=Watched())
    first = pair.calls
    pair.bind()
    sizes = [len(held) for held in pair.device.memory.values()]
    assert (sizes.count(SCRATCH_BYTES), len(first)) == (1, 2)
    pair.run(**step())
    assert turns == [True]  # still taken while the device works
    with pytest.raises(BackendError):
        pair.calls[0].run(step(CONTEXT + 1))
    assert not pair.engine.turn.locked()


def test_a_component_without_state_is_captured_once(bundle):
    pair = Pair(bundle, "adapter")
    for seed in range(6):
        pair.run(frames=np.full((3, WIDTH), seed, np.float32), other=np.ones((2, WIDTH), np.float32))
    assert pair.engine.counts == {"eager": 2, "captured": 1, "replayed": 4}


def test_a_run_that_was_refused_half_way_leaves_nothing_behind(bundle):
    pair = Pair(bundle, "adapter")
    three, two = np.ones((3, WIDTH), np.float32), np.ones((2, WIDTH), np.float32)
    pair.run(frames=three, other=two)
    with pytest.raises(BackendError, match=r"input 'other' of \(0, 16\) is outside"):
        pair.calls[0].run({"frames": two, "other": np.ones((0, WIDTH), np.float32)})
    pair.run(frames=5 * three, other=two)


def test_a_capture_that_fails_is_told_and_runs_go_on(bundle):
    device = HostDevice()
    device.refuses_capture = True
    pair = Pair(bundle, device=device)
    for seed in range(8):
        pair.run(**step(seed=seed))
    assert pair.engine.counts == {"eager": 8}
    pair.bind()
    for seed in range(4):
        pair.run(**step(seed=seed))
    assert len(pair.engine.notes) == 1
    assert "no CUDA graph: CUDA: cuStreamEndCapture answers 901" in pair.engine.notes[0]


def test_all_memory_is_given_back_with_the_call(bundle):
    pair = Pair(bundle)
    for tokens in (1, 1, 1, 1, 1, 1, 8, 8, 8, 8):
        pair.run(**step(tokens))
    assert pair.device.memory
    assert pair.device.graphs
    pair.calls, pair.engine = [], None
    gc.collect()
    device = pair.device
    assert (device.memory, device.pinned, device.graphs, device.streams) == ({}, {}, {}, {})


def test_a_size_beyond_the_plan_is_one_line_and_the_stream_goes_on(bundle):
    pair = Pair(bundle)
    pair.run(**step(seed=1))
    with pytest.raises(BackendError, match=r"backbone.onnx: input 'embeds' of \(9, 16\) is outside of what its plan"):
        pair.calls[0].run(step(CONTEXT + 1))
    with pytest.raises(BackendError, match=r"infers no shapes, experts_per_token = 3 \("):
        pair.calls[0].run(step(experts=3))
    for seed in range(6):
        pair.run(**step(seed=seed))


def test_a_run_that_tensorrt_refuses_is_told_in_its_words(bundle):
    pair = Pair(bundle)
    context = pair.calls[0]._any.context
    context.execute_async_v3 = lambda stream: context._engine.logger.log(1, "out of\n  registers")
    with pytest.raises(BackendError, match=r"TensorRT does not run it \(out of registers\); run `edgekit verify`"):
        pair.run(**step())


def test_a_failure_is_told_in_its_own_words_and_not_in_those_of_an_earlier_one(bundle):
    pair = Pair(bundle)
    call = pair.calls[0]
    context = call._any.context
    shaped, context.set_input_shape = (
        context.set_input_shape,
        lambda name, shape: context._engine.logger.log(1, "first"),
    )
    with pytest.raises(BackendError, match=r"input 'embeds' of \(1, 16\) is outside .* \(first\); "):
        call.run(step())
    context.set_input_shape = shaped
    context.execute_async_v3 = lambda stream: context._engine.logger.log(1, "second")
    with pytest.raises(BackendError, match=r"TensorRT does not run it \(second\); "):
        call.run(step(2))


def test_an_address_that_tensorrt_refuses_is_told_in_its_words(bundle):
    pair = Pair(bundle)
    context = pair.calls[0]._any.context
    context.set_tensor_address = lambda name, address: context._engine.logger.log(1, "not on this device")
    with pytest.raises(BackendError, match=r"does not take the address of 'embeds' \(not on this device\)"):
        pair.run(**step())


def test_an_output_whose_size_is_known_after_the_run_only_is_refused(bundle):
    pair = Pair(bundle)
    pair.calls[0]._any.context.get_tensor_shape = lambda name: (-1, WIDTH)
    with pytest.raises(BackendError, match=r"the size of output 'logits' is known after the run only"):
        pair.run(**step())


def test_a_graph_from_before_a_tensor_moved_is_captured_anew(bundle):
    pair = Pair(bundle)
    for tokens in (1, 1, 1, 1, 1, 8, 1, 1, 1, 1, 1):
        pair.run(**step(tokens))
    assert pair.engine.counts["captured"] == 4


def test_what_is_compiled_at_load_is_kept_beside_the_plans(bundle):
    device = HostDevice()
    library = tensorrt_rtx(device)
    store = publish(bundle, library, kind="tensorrt-rtx", device="8.6 8.7")

    def engine():
        return load_components(bundle, ["backbone"], RTX, CONTEXT, library=library, device=device)["backbone"]

    first = engine()
    assert first.notes == []
    first.bind({"context": CONTEXT})
    (file,) = store.folder.glob("backbone-*.compiled")
    assert store.cache(file.name) == b"compiled"
    call = engine().bind({"context": CONTEXT})
    assert store.cache(file.name) == b"compiled" * 2
    for seed in range(6):
        call.run(step(seed=seed))
    del call
    gc.collect()
    assert store.cache(file.name) == b"compiled" * 4  # two contexts more, for the two sides of the state
    store.keep_cache(file.name, b"another driver's")
    assert engine().notes == [f"{file.name}: of another driver or device, compiled anew"]
    file.write_bytes(b"compiled elsewhere")
    again = engine()
    assert again.notes == [f"{file.name}: not sealed by this device, compiled anew"]
    again.bind({"context": CONTEXT})
    assert store.cache(file.name) == b"compiled"


def test_no_graph_is_captured_while_tensorrt_for_rtx_still_compiles(bundle):
    device = HostDevice()
    library = tensorrt_rtx(device)
    publish(bundle, library, kind="tensorrt-rtx", device=PORTABLE)
    engine = load_components(bundle, ["backbone"], RTX, CONTEXT, library=library, device=device)["backbone"]
    call = engine.bind({"context": CONTEXT})
    engine._engine.capturable = False
    for seed in range(6):
        call.run(step(seed=seed))
    assert engine.counts == {"eager": 6, "not capturable": 3}
    engine._engine.capturable = True
    call.run(step())
    assert engine.counts["replayed"] == 1


def test_carried_state_goes_back_to_what_was_saved_also_between_replayed_runs(bundle):
    pair = Pair(bundle)
    for runs in range(6):  # either side of the state, run and replayed
        for seed in range(runs):
            pair.run(**step(seed=seed))
        saved = [call.save() for call in pair.calls]
        kept = [{name: array.copy() for name, array in one.items()} for one in saved]
        for name, array in saved[0].items():
            np.testing.assert_array_equal(array, saved[1][name], strict=True)
        expected = [pair.run(**step(seed=seed))["logits"] for seed in range(20, 23)]
        for others in range(3):
            for seed in range(others):
                pair.run(**step(seed=seed + 40))
            for call, state in zip(pair.calls, saved, strict=True):
                call.load(state)
            for seed, wanted in zip(range(20, 23), expected, strict=True):
                np.testing.assert_array_equal(pair.run(**step(seed=seed))["logits"], wanted)
        np.testing.assert_equal(saved, kept)
    assert pair.engine.counts["replayed"] > 0
    assert any(array.any() for array in saved[0].values())
