"""OrtCall: recorded runs and copied state, on a GPU's code path with the CPU as its device. No GPU executed this."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.bundle import open_bundle
from edgekit.errors import BackendError
from edgekit.runtime.backends.ort import OrtEngine, load_component
from edgekit.runtime.backends.ort_cuda import CUDA, PROVIDER, check_placement, why_inactive


def engines(bundle, component):
    """Return an engine that runs plainly and one that records what comes again in the same shapes."""
    plain = load_component(open_bundle(bundle.folder), component, 1)
    return plain, OrtEngine(plain.component, plain.session, records=True)


def step(start, tokens=1, experts=2, seed=0):
    rng = np.random.default_rng([seed, start])
    return {
        "embeds": rng.standard_normal((tokens, 16)).astype(np.float32),
        "start": np.array([start]),
        "logit_rows": np.array([tokens - 1]),
        "experts_per_token": np.array([experts]),
    }


def test_recorded_steps_give_what_plain_ones_give(tiny_bundle):
    plain, recorded = (engine.bind({"context": 24}) for engine in engines(tiny_bundle("prefix"), "backbone"))
    calls = [step(0, tokens=5), *(step(at) for at in range(5, 12)), step(12, tokens=3), *(step(at) for at in (15, 16))]
    calls += [step(17, experts=1), step(18, experts=1), step(19)]
    for inputs in calls:
        expected = plain.run(inputs)["logits"]
        np.testing.assert_array_equal(recorded.run(inputs)["logits"], expected)
    assert len(recorded._graphs) == 1  # of one token: the others have come once, or have read-only arrays


def test_carried_state_goes_to_and_fro_between_the_buffers_of_recorded_runs(tiny_bundle):
    plain, recorded = (engine.bind({}) for engine in engines(tiny_bundle("prefix"), "adapter"))
    frames = np.random.default_rng(1).standard_normal((9, 3, 16)).astype(np.float32)
    for part in [*frames, frames[0, :1].copy(), *frames[:3]]:
        np.testing.assert_array_equal(recorded.run({"frames": part})["embeds"], plain.run({"frames": part})["embeds"])
    assert len(recorded._graphs) == 2  # one for each buffer to read from
    plain.reset()
    recorded.reset()
    np.testing.assert_array_equal(
        recorded.run({"frames": frames[4]})["embeds"], plain.run({"frames": frames[4]})["embeds"]
    )


def test_outputs_of_a_recorded_run_stay_as_they_were(tiny_bundle):
    call = engines(tiny_bundle("prefix"), "backbone")[1].bind({"context": 24})
    kept = [call.run(step(at, seed=3))["logits"] for at in range(4)]
    copies = [array.copy() for array in kept]
    call.run(step(4, seed=3))
    for array, copy in zip(kept, copies, strict=True):
        np.testing.assert_array_equal(array, copy)
    assert len({array.tobytes() for array in kept}) == 4


def test_only_few_shapes_are_recorded(tiny_bundle):
    call = engines(tiny_bundle("prefix"), "backbone")[1].bind({"context": 24})
    for tokens in [*range(1, 12), *range(1, 12)]:
        call.run(step(0, tokens=tokens))
    assert len(call._graphs) == 8


def test_arrays_that_stay_on_the_device_and_empty_ones_are_not_recorded(tiny_bundle):
    call = engines(tiny_bundle("prefix"), "backbone")[1].bind({"context": 24})
    for at in range(3):
        silent = step(at) | {"logit_rows": np.zeros(0, np.int64)}
        assert call.run(silent)["logits"].shape[0] == 0
    fixed = step(3)
    fixed["experts_per_token"].flags.writeable = False
    for _ in range(3):
        call.run(fixed)
    assert not call._graphs


def test_state_that_the_device_has_no_place_for_is_one_line(tiny_bundle):
    if CUDA in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has a place on the device")
    plain = load_component(open_bundle(tiny_bundle("prefix").folder), "backbone", 1)
    with pytest.raises(BackendError, match=r"^backbone\.onnx: no place for \d+ bytes of state .*; end other [^\n]*$"):
        OrtEngine(plain.component, plain.session, "cuda").bind({"context": 24})


class Starting:
    """onnxruntime with a CUDA provider that ends as its constructor does: a RuntimeError, of which Python is told."""

    def __init__(self, failure):
        class Session(onnxruntime.InferenceSession):
            def _create_inference_session(self, providers, *others):
                name, options = providers[0] if isinstance(providers[0], tuple) else (providers[0], {})
                if name == CUDA and (failure != CAPTURE or options["enable_cuda_graph"] == "1"):
                    raise RuntimeError(failure)
                super()._create_inference_session(["CPUExecutionProvider"], *others)

            def get_providers(self):
                return [CUDA]

            def get_provider_graph_assignment_info(self):
                return []

        self.InferenceSession = Session

    def __getattr__(self, name):
        return getattr(onnxruntime, name)

    def get_available_providers(self):
        return [CUDA]


CAPTURE = "This session cannot use the graph capture feature as requested by the user"


@pytest.fixture
def starting(monkeypatch):
    def use(failure):
        monkeypatch.setitem(sys.modules, "onnxruntime", Starting(failure))

    return use


def test_a_provider_that_does_not_start_is_told_in_its_own_words(tiny_bundle, starting, capsys):
    starting("CUDA failure 2: out of memory\n ; GPU=0")
    with pytest.raises(BackendError, match=r"refuses it \(CUDA failure 2: out of memory ; GPU=0\); `edgekit doctor` "):
        load_component(open_bundle(tiny_bundle("prefix").folder), "adapter", 1, PROVIDER)
    assert capsys.readouterr() == ("", "")


def test_a_graph_that_cannot_be_recorded_runs_without_and_says_so(tiny_bundle, starting):
    starting(CAPTURE)
    engine = load_component(open_bundle(tiny_bundle("prefix").folder), "adapter", 1, PROVIDER)
    assert not engine.records
    assert [note.startswith("no CUDA graph: ") and CAPTURE in note for note in engine.notes] == [True]


def session_of(tmp_path, kind, *nodes):
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])
    graph = helper.make_graph(
        list(nodes), "g", [x], [helper.make_tensor_value_info("y", kind, None)],
        [numpy_helper.from_array(np.array([0]), "zero")],
    )  # fmt: skip
    path = tmp_path / "g.onnx"
    path.write_bytes(
        helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)]).SerializeToString()
    )
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    return path, onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def test_shapes_may_be_computed_on_the_cpu_and_nothing_else(tmp_path):
    shape = helper.make_node("Shape", ["x"], ["s"])
    path, session = session_of(tmp_path, TensorProto.INT64, shape, helper.make_node("Gather", ["s", "zero"], ["y"]))
    assert check_placement(path, session) == {"CPUExecutionProvider": 2}
    path, session = session_of(
        tmp_path, TensorProto.FLOAT, helper.make_node("Gelu", ["x"], ["h"]), helper.make_node("Erf", ["h"], ["y"])
    )
    with pytest.raises(BackendError, match=r"g\.onnx: 1 Erf, 1 Gelu would run on the CPU, .*; export it for"):
        check_placement(path, session)


@pytest.fixture
def installed(tmp_path):
    """Return a stand-in for an onnxruntime whose provider library needs another of that name, or none."""

    def make(needs=""):
        compiler = shutil.which("cc")
        if compiler is None:
            pytest.skip("no C compiler here to make a library")
        (tmp_path / "capi").mkdir()
        (tmp_path / "empty.c").write_text("int empty;")
        build = [compiler, "-shared", "-fPIC", tmp_path / "empty.c", "-o"]
        if needs:
            subprocess.run([*build, tmp_path / needs, f"-Wl,-soname,{needs}"], check=True)
        linked = ["-Wl,--no-as-needed", tmp_path / needs] if needs else []
        subprocess.run([*build, tmp_path / "capi" / "libonnxruntime_providers_cuda.so", *linked], check=True)
        (tmp_path / (needs or "empty.c")).unlink()

        class Installed:
            __file__ = str(tmp_path / "__init__.py")

        return Installed

    return make


@pytest.mark.parametrize(
    ("needs", "step"),
    [
        ("libcublasLt.so.13", r"cannot open shared object file: .*; pip install 'onnxruntime-gpu\[cuda,cudnn\]'"),
        ("libcuda.so.1", r"cannot open shared object file: .*; `edgekit doctor` says what of the driver is missing"),
        ("", r"its libraries load, so no device answers; `edgekit doctor` looks at driver and device"),
    ],
)
def test_why_the_provider_is_not_active_names_the_library_and_what_to_type(needs, step, installed):
    if needs == "libcuda.so.1" and Path("/proc/driver/nvidia").exists():
        pytest.skip("a driver is installed here")
    told = why_inactive(installed(needs))
    assert told.startswith(needs)
    assert re.search(step, told)


def test_carried_state_goes_back_to_what_was_saved_from_either_buffer(tiny_bundle):
    plain, recorded = (engine.bind({}) for engine in engines(tiny_bundle("prefix"), "adapter"))
    frames = np.random.default_rng(1).standard_normal((9, 3, 16)).astype(np.float32)
    for runs in range(5):  # at each the other buffer is read, and from the third on runs are replayed
        for part in frames[:runs]:
            recorded.run({"frames": part})
        saved = recorded.save()
        kept = {name: array.copy() for name, array in saved.items()}
        expected = [recorded.run({"frames": part})["embeds"] for part in frames[5:8]]
        for others in (0, 1, 2):
            recorded.load(saved)
            for part in frames[:others]:
                recorded.run({"frames": part})
            recorded.load(saved)
            for part, wanted in zip(frames[5:8], expected, strict=True):
                np.testing.assert_array_equal(recorded.run({"frames": part})["embeds"], wanted)
        plain.load(saved)  # of another call, of another engine
        np.testing.assert_array_equal(plain.run({"frames": frames[5]})["embeds"], expected[0])
        np.testing.assert_equal(saved, kept)  # it is a copy
        recorded.reset()
