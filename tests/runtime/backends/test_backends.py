"""Which backend runs a bundle, and that none takes the place of another unasked."""

import importlib.util

import pytest

import edgekit
from edgekit.errors import BackendError, EdgeKitError, UsageError
from edgekit.runtime.backends import BACKENDS, CPU


def test_an_ort_cpu_bundle_runs_on_the_cpu_and_says_so(tiny_bundle):
    model = edgekit.load(tiny_bundle().folder, threads=1)
    assert (model.backend, model.fallback) == (CPU, "")


def test_a_backend_that_does_not_run_the_dialect_is_refused_with_those_that_do(tiny_bundle):
    with pytest.raises(UsageError, match=r"backend 'tensorrt': .* dialect 'ort-cpu', which runs on onnxruntime-cpu; "):
        edgekit.load(tiny_bundle().folder, backend="tensorrt")
    with pytest.raises(UsageError, match=r"which runs on tensorrt, tensorrt-rtx, onnxruntime-cpu"):
        edgekit.load(tiny_bundle(dialect="standard").folder, backend="onnxruntime", allow_fallback=True)


@pytest.mark.parametrize("dialect", ["standard", "ort-cuda"])
def test_what_its_dialect_is_made_for_is_asked_for_and_its_absence_is_an_error(dialect, tiny_bundle):
    if importlib.util.find_spec("tensorrt") or importlib.util.find_spec("tensorrt_rtx"):
        pytest.skip("a TensorRT is installed here")
    with pytest.raises(EdgeKitError, match=rf"^{BACKENDS[dialect][0]}: "):
        edgekit.load(tiny_bundle(dialect=dialect).folder, threads=1)


@pytest.mark.parametrize("backend", [None, "tensorrt", "tensorrt-rtx"])
def test_a_fallback_that_is_allowed_runs_on_the_cpu_and_says_why(backend, tiny_bundle):
    folder = tiny_bundle(dialect="standard").folder
    with pytest.raises(EdgeKitError) as refused:
        edgekit.load(folder, threads=1, backend=backend)
    model = edgekit.load(folder, threads=1, backend=backend, allow_fallback=True)
    assert model.backend == CPU
    assert model.fallback.endswith(str(refused.value))
    assert model.stream().finish() is not None


def test_the_cpu_that_was_asked_for_is_no_fallback(tiny_bundle):
    model = edgekit.load(tiny_bundle(dialect="standard").folder, threads=1, backend=CPU, allow_fallback=True)
    assert (model.backend, model.fallback) == (CPU, "")


def test_a_damaged_component_is_an_error_with_a_fallback_too(tiny_bundle):
    bundle = tiny_bundle(dialect="standard")
    graph = bundle.folder / "encoder.onnx"
    graph.write_bytes(bytes(graph.stat().st_size))
    with pytest.raises(BackendError, match=r"refuses it"):
        edgekit.load(bundle.folder, threads=1, verify_hashes=False, allow_fallback=True)
