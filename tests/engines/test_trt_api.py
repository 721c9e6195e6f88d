"""What the real TensorRT for RTX says to what edgekit runs plans with, as far as it goes without a GPU."""

import subprocess
import sys

import msgspec
import pytest

import edgekit
from edgekit.errors import BackendError
from edgekit.recipe import load_target
from edgekit.runtime.backends import build_plans
from edgekit.runtime.backends.device import Driver
from edgekit.runtime.backends.ort_cpu import CPU
from edgekit.runtime.backends.trt import library
from edgekit.runtime.backends.trt.library import load_library, make_logger
from edgekit.runtime.backends.trt.plans import PORTABLE, PlanStore

pytestmark = pytest.mark.engines
RTX = load_target("desktop-rtx")


@pytest.fixture(scope="module")
def trt():
    return load_library(library.RTX)


@pytest.fixture(scope="module")
def bundle(small):
    return small("float32")


@pytest.fixture(scope="module")
def named(bundle):
    """Return the plans for the target's devices, beside the bundle."""
    return build_plans(bundle, RTX)


@pytest.mark.parametrize(
    ("kind", "members"),
    [
        ("Runtime", ("deserialize_cuda_engine",)),
        ("ICudaEngine", ("num_io_tensors", "get_tensor_name", "get_tensor_dtype", "get_tensor_location",
                         "device_memory_size_v2", "create_execution_context", "create_runtime_config",
                         "create_engine_inspector")),
        ("EngineInspector", ("get_engine_information",)),
        ("LayerInformationFormat", ("JSON",)),
        ("IBuilderConfig", ("profiling_verbosity", "progress_monitor", "set_memory_pool_limit")),
        ("ProfilingVerbosity", ("DETAILED",)),
        ("IExecutionContext", ("set_device_memory", "set_input_shape", "set_tensor_address", "infer_shapes",
                               "get_tensor_shape", "execute_async_v3", "is_stream_capturable")),
        ("IRuntimeConfig", ("set_execution_context_allocation_strategy", "create_runtime_cache", "set_runtime_cache")),
        ("IRuntimeCache", ("serialize", "deserialize")),
        ("ExecutionContextAllocationStrategy", ("USER_MANAGED",)),
        ("TensorLocation", ("HOST", "DEVICE")),
        ("ILogger", ("ERROR", "INTERNAL_ERROR")),
    ],
)  # fmt: skip
def test_every_name_that_running_a_plan_uses_is_there(trt, kind, members):
    assert [member for member in members if not hasattr(getattr(trt, kind), member)] == []


def test_element_types_are_numpy_s(trt):
    import numpy as np

    found = {name: np.dtype(trt.nptype(getattr(trt, name))) for name in ("float32", "float16", "int64", "int8", "bool")}
    assert found == {name: np.dtype(name) for name in found}


def test_the_logger_keeps_the_first_error_until_it_is_asked_for(trt):
    logger = make_logger(trt, verbose=False)
    for severity, text in ((trt.ILogger.WARNING, "w"), (trt.ILogger.ERROR, "first\n one"), (trt.ILogger.ERROR, "next")):
        logger.log(severity, text)
    assert (logger.error(), logger.error(), logger.lines) == ("first one", "no reason given", [])


def test_inputs_that_set_sizes_by_their_value_are_the_ones_that_lie_on_the_host(trt, bundle):
    network_flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    logger = make_logger(trt, verbose=False)
    for name, component in bundle.manifest.components.items():
        network = trt.Builder(logger).create_network(network_flags)
        parser = trt.OnnxParser(network, logger)
        assert parser.parse_from_file(str(bundle.folder / component.graph))
        inputs = [network.get_input(index) for index in range(network.num_inputs)]
        shaping = [tensor.name for tensor in inputs if tensor.is_shape_tensor]
        assert shaping == (["experts_per_token"] if name == "backbone" else [])
        # no output has a size that is known after the run only: -1 in the network comes from inputs
        assert not any(network.get_output(index).is_shape_tensor for index in range(network.num_outputs))


def test_plans_are_built_for_the_devices_of_the_target(bundle, named, plans):
    folder = named[0].path.parent
    assert {one.note.key.device for one in named} == {"8.6 8.9 12.0"}
    one_device = msgspec.structs.replace(RTX, compute_capability=("8.9",))
    alone = build_plans(bundle, one_device, folder=folder)
    assert not any(one.kept for one in alone)
    assert {one.note.key.device for one in alone} == {"8.9"}
    # code for one device takes less room than for three: the builder did hear of it
    assert sum(one.note.bytes for one in alone) < sum(one.note.bytes for one in named)
    portable = build_plans(bundle, msgspec.structs.replace(RTX, compute_capability=()), folder=plans)
    assert {one.note.key.device for one in portable} == {PORTABLE}
    assert all(one.kept for one in build_plans(bundle, RTX, folder=folder))
    assert len(PlanStore(bundle, folder).notes("backbone")) == 2


def test_a_device_that_tensorrt_for_rtx_does_not_know_is_refused(bundle, tmp_path):
    target = msgspec.structs.replace(RTX, compute_capability=("8.6", "9.0"))
    with pytest.raises(
        BackendError, match=r"compute capability 9\.0, tensorrt-rtx .* builds for .*SM89.*; use a target"
    ):
        build_plans(bundle, target, folder=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("named")
def test_without_a_device_running_a_plan_is_one_line_and_no_runtime_is_made(bundle):
    try:
        Driver()
    except BackendError:
        pass
    else:
        pytest.skip("this machine has a CUDA driver")
    # in a process of its own, which a Runtime without a device would end
    code = f"import edgekit; edgekit.load({str(bundle.folder)!r}, threads=1)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    said = done.stderr.splitlines()[-1]
    assert "BackendError: tensorrt-rtx: no CUDA device answers on this machine, CUDA: libcuda.so.1: " in said
    model = edgekit.load(bundle.folder, threads=1, allow_fallback=True)
    assert model.backend == CPU
    assert "no CUDA device answers" in model.fallback
