"""Which backend runs a bundle, and that none takes the place of another unasked."""

import importlib.util
from pathlib import Path

import onnxruntime
import pytest

import edgekit
from edgekit.errors import BackendError, BundleFormatError, EdgeKitError, UsageError
from edgekit.runtime.backends.ort_cpu import CPU
from edgekit.runtime.backends.ort_cuda import CUDA


def built_with_cuda():
    return CUDA in onnxruntime.get_available_providers()


def test_an_ort_cpu_bundle_runs_on_the_cpu_and_says_so(tiny_bundle):
    model = edgekit.load(tiny_bundle().folder, threads=1)
    assert (model.backend, model.fallback) == (CPU, "")


def test_a_backend_that_does_not_run_the_dialect_is_refused_with_those_that_do(tiny_bundle):
    with pytest.raises(UsageError, match=r"backend 'tensorrt': .* dialect 'ort-cpu', which runs on onnxruntime-cpu; "):
        edgekit.load(tiny_bundle().folder, backend="tensorrt")
    with pytest.raises(UsageError, match=r"which runs on tensorrt, tensorrt-rtx, onnxruntime-cpu"):
        edgekit.load(tiny_bundle(dialect="standard").folder, backend="onnxruntime", allow_fallback=True)


def test_what_its_dialect_is_made_for_is_asked_for_and_its_absence_is_an_error(tiny_bundle):
    if importlib.util.find_spec("tensorrt") or importlib.util.find_spec("tensorrt_rtx"):
        pytest.skip("a TensorRT is installed here")
    with pytest.raises(EdgeKitError, match=r"^tensorrt: "):
        edgekit.load(tiny_bundle(dialect="standard").folder, threads=1)


def test_an_onnxruntime_without_cuda_is_an_error_that_says_what_to_install(tiny_bundle):
    if built_with_cuda():
        pytest.skip("this onnxruntime has the CUDA provider")
    message = r"^onnxruntime 1\.\S+: this build has no CUDA.*; pip uninstall .*pip install 'edgekit-audio\[gpu\]'$"
    with pytest.raises(BackendError, match=message):
        edgekit.load(tiny_bundle(dialect="ort-cuda").folder, threads=1)


@pytest.mark.skipif(
    not built_with_cuda() or Path("/proc/driver/nvidia").exists(), reason="needs onnxruntime-gpu and no GPU"
)
def test_a_cuda_provider_that_cannot_start_is_an_error_with_its_reason_and_not_the_cpu(tiny_bundle, capfd):
    asked = r"encoder.onnx: onnxruntime chose CPUExecutionProvider, asked for CUDAExecutionProvider: "
    with pytest.raises(BackendError, match=asked + r"(lib\S+: cannot open|its libraries load).*; "):
        edgekit.load(tiny_bundle(dialect="ort-cuda").folder, threads=1)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("dialect", "backend"),
    [("standard", None), ("standard", "tensorrt"), ("standard", "tensorrt-rtx"), ("ort-cuda", None)],
)
def test_a_fallback_that_is_allowed_runs_on_the_cpu_and_says_why(dialect, backend, tiny_bundle):
    folder = tiny_bundle(dialect=dialect).folder
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
    with pytest.raises(BundleFormatError, match=r"not a graph that may be loaded"):
        edgekit.load(bundle.folder, threads=1, verify_hashes=False, allow_fallback=True)
