"""OrtEngine: what it refuses to load, and how it keeps a stream's state."""

import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgekit.bundle import Bundle, Component, Requirements, TensorSpec, open_bundle
from edgekit.errors import BackendError, BundleFormatError, MissingPackageError
from edgekit.runtime.backends.ort import load_component, open_graph


def _encoder_inputs(frames: int, start: int, seed: int = 0) -> dict[str, np.ndarray]:
    mel = np.random.default_rng(seed).standard_normal((8, frames + 3)).astype(np.float32)
    return {"mel": mel, "start": np.array([start])}


def test_a_graph_pointing_outside_is_refused_before_it_is_loaded(tiny_bundle: Callable) -> None:
    bundle = tiny_bundle()
    path = bundle.folder / "encoder.onnx"
    model = onnx.load(str(path), load_external_data=False)
    (entry,) = [item for item in model.graph.initializer[-1].external_data if item.key == "location"] or [None]
    for tensor in model.graph.initializer:
        for item in tensor.external_data:
            if item.key == "location":
                item.value = "../secret"
    assert entry is not None
    path.write_bytes(model.SerializeToString())
    bundle.change()
    with pytest.raises(BundleFormatError, match=r"'\.\./secret' leaves the bundle"):
        load_component(open_bundle(bundle.folder), "encoder", 1)


def test_an_older_onnxruntime_than_required_is_refused_with_both_versions(tiny_bundle: Callable) -> None:
    import onnxruntime

    bundle = open_bundle(tiny_bundle(requires=Requirements(opset=20, onnxruntime="99.1")).folder)
    with pytest.raises(BackendError, match=rf"onnxruntime {onnxruntime.__version__} .* 99\.1"):
        load_component(bundle, "encoder", 1)


def test_a_missing_onnxruntime_says_what_to_install(tiny_bundle: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = open_bundle(tiny_bundle().folder)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'edgekit-audio\[cpu\]'"):
        load_component(bundle, "encoder", 1)


def test_a_graph_that_onnxruntime_refuses_is_a_backend_error(tiny_bundle: Callable) -> None:
    bundle = tiny_bundle()
    path = bundle.folder / "encoder.onnx"
    model = onnx.load(str(path), load_external_data=False)
    model.graph.node[0].op_type = "Neg"  # which takes one input, not two
    path.write_bytes(model.SerializeToString())
    bundle.change()
    with pytest.raises(BackendError, match=r"refuses it .*Neg"):
        load_component(open_bundle(bundle.folder), "encoder", 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"shape": (9, "mel_frames")},
            r"input 'mel' is tensor\(float\) \(8, mel_frames\), manifest says float32 \(9, ",
        ),
        ({"shape": (8, "mel_frames", 1)}, "manifest says float32"),
        ({"shape": ("bins", "mel_frames")}, "manifest says float32"),
        ({"dtype": "float16"}, "manifest says float16"),
        ({"name": "sound"}, "input 'mel' is not in the manifest"),
    ],
)
def test_a_signature_that_differs_from_the_manifest_is_refused(
    tiny_bundle: Callable, change: dict[str, object], message: str
) -> None:
    bundle = tiny_bundle()
    components = dict(bundle.manifest.components)
    first, *rest = components["encoder"].inputs
    changed = msgspec.structs.replace(first, **change)
    components["encoder"] = msgspec.structs.replace(components["encoder"], inputs=(changed, *rest))
    promised = msgspec.structs.replace(bundle.manifest, components=components)
    with pytest.raises(BundleFormatError, match=message):
        load_component(Bundle(bundle.folder, promised), "encoder", 1)


def test_state_without_its_pair_is_refused(tiny_bundle: Callable) -> None:
    bundle = tiny_bundle("prefix")
    components = dict(bundle.manifest.components)
    adapter = components["adapter"]
    outputs = tuple(TensorSpec(name=spec.name, dtype=spec.dtype, shape=spec.shape) for spec in adapter.outputs)
    components["adapter"] = msgspec.structs.replace(adapter, outputs=outputs)
    bundle.change(components=components)
    with pytest.raises(BundleFormatError, match="state 'tail'"):
        load_component(open_bundle(bundle.folder), "adapter", 1)


def test_in_place_state_makes_two_calls_equal_to_the_numpy_of_one_bound_call(tiny_bundle: Callable) -> None:
    engine = load_component(open_bundle(tiny_bundle().folder), "encoder", 1)
    first, second = _encoder_inputs(8, 0, seed=1), _encoder_inputs(7, 4, seed=2)
    call = engine.bind({})
    expected = [call.run(first)["frames"], call.run(second)["frames"]]
    fresh = engine.bind({})
    without_past = fresh.run(_encoder_inputs(7, 0, seed=2))["frames"]
    assert [len(frames) for frames in expected] == [4, 4]
    assert not np.array_equal(expected[1], without_past)  # the second call attended to the first
    np.testing.assert_array_equal(engine.bind({}).run(first)["frames"], expected[0])


def test_calls_of_one_engine_do_not_disturb_each_other(tiny_bundle: Callable) -> None:
    engine = load_component(open_bundle(tiny_bundle().folder), "encoder", 1)
    inputs = [[_encoder_inputs(8, 4 * step, seed=10 * who + step) for step in range(3)] for who in range(2)]
    alone = []
    for mine in inputs:
        call = engine.bind({})
        alone.append([call.run(step)["frames"] for step in mine])
    calls = [engine.bind({}) for _ in inputs]
    for step in range(3):
        for who in range(2):
            np.testing.assert_array_equal(calls[who].run(inputs[who][step])["frames"], alone[who][step])


def test_outputs_stay_as_they_were_when_the_call_runs_again(tiny_bundle: Callable) -> None:
    engine = load_component(open_bundle(tiny_bundle().folder), "encoder", 1)
    call = engine.bind({})
    inputs = _encoder_inputs(8, 0, seed=1)
    first = call.run(inputs)["frames"]
    kept = first.copy()
    inputs["mel"] *= -1.0
    second = call.run(inputs)["frames"]
    del call, engine
    np.testing.assert_array_equal(first, kept)
    assert not np.array_equal(first, second)


def test_an_input_rewritten_in_place_and_one_of_another_shape_are_both_seen(tiny_bundle: Callable) -> None:
    engine = load_component(open_bundle(tiny_bundle().folder), "encoder", 1)
    call = engine.bind({})
    inputs = _encoder_inputs(8, 0, seed=1)
    first = call.run(inputs)["frames"]
    inputs["mel"][:] = _encoder_inputs(8, 0, seed=2)["mel"]
    rewritten = call.run(inputs)["frames"]
    np.testing.assert_array_equal(rewritten, engine.bind({}).run(_encoder_inputs(8, 0, seed=2))["frames"])
    assert not np.array_equal(first, rewritten)
    for frames in (1, 2, 7, 8):
        assert call.run(_encoder_inputs(frames, 0))["frames"].shape == (-(-frames // 2), 16)


def test_carried_state_moves_on_and_reset_forgets_it(tiny_bundle: Callable) -> None:
    call = load_component(open_bundle(tiny_bundle("prefix").folder), "adapter", 1).bind({})
    frames = np.random.default_rng(5).standard_normal((5, 16)).astype(np.float32)
    whole = call.run({"frames": frames})["embeds"]
    call.reset()
    parts = [
        call.run({"frames": np.ascontiguousarray(part)})["embeds"] for part in (frames[:1], frames[1:3], frames[3:])
    ]
    # 1e-5: a product of other sizes may add in another order
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-5)
    assert not np.allclose(call.run({"frames": frames})["embeds"][0], whole[0], atol=1e-3)


def test_no_logit_rows_give_no_logits(tiny_bundle: Callable) -> None:
    call = load_component(open_bundle(tiny_bundle("prefix").folder), "backbone", 1).bind({"context": 10})
    rows = np.random.default_rng(6).standard_normal((4, 16)).astype(np.float32)
    inputs = {"embeds": rows, "start": np.array([0]), "experts_per_token": np.array([2])}
    whole = call.run(inputs | {"logit_rows": np.array([1, 3])})["logits"]
    silent = call.run(inputs | {"logit_rows": np.zeros(0, np.int64)})["logits"]
    assert silent.shape == (0, whole.shape[1])
    step = call.run(inputs | {"embeds": rows[3:].copy(), "start": np.array([3]), "logit_rows": np.array([0])})["logits"]
    # 1e-4: one row at a time adds in another order than four
    np.testing.assert_allclose(step[0], whole[1], atol=1e-4)


def test_a_failing_run_is_a_backend_error_naming_the_graph(tiny_bundle: Callable) -> None:
    call = load_component(open_bundle(tiny_bundle().folder), "encoder", 1).bind({})
    with pytest.raises(BackendError, match=r"encoder\.onnx: onnxruntime failed"):
        call.run({"mel": np.zeros((8, 11), np.float32), "start": np.array([10_000])})


def test_products_of_8_bits_are_summed_exactly_on_every_processor(tmp_path: Path) -> None:
    """255 x 127 twice is more than 16 bits hold, in which x86 without VNNI would add them."""
    width, rows = 64, 16
    stored = {"w": np.full((width, rows), 127, np.int8), "s": np.ones(rows, np.float32)}
    graph = helper.make_graph(
        [helper.make_node("DynamicQuantizeMatMul", ["x", "w", "s"], ["y"], domain="com.microsoft")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, rows])],
        [onnx.numpy_helper.from_array(array, name) for name, array in stored.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, ir_version=10, opset_imports=opsets)
    (tmp_path / "g.onnx").write_bytes(model.SerializeToString())
    component = Component(
        graph="g.onnx",
        data=None,
        inputs=(TensorSpec(name="x", dtype="float32", shape=(1, width)),),
        outputs=(TensorSpec(name="y", dtype="float32", shape=(1, rows)),),
        precision="int8",
    )
    call = open_graph(tmp_path, component, 1).bind({})
    sound = np.full((1, width), 1.0, np.float32)  # of one sign, so that its codes are the largest ones
    np.testing.assert_allclose(call.run({"x": sound})["y"], width * 127, rtol=1e-6)
