"""The driver's library, called as cuda.h has it: a stand-in in C, in a process of its own; no GPU takes part."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edgekit.bundle import open_bundle
from edgekit.errors import BackendError
from edgekit.runtime.backends.device import CudaDevice, Driver, Memory, device_capability
from tests.runtime.backends.host_device import HostDevice

HERE = Path(__file__).parent


def has_driver():
    try:
        Driver()
    except BackendError:
        return False
    return True


@pytest.fixture(scope="module")
def standin(tmp_path_factory):
    """Return a function: code -> what it prints in a process that finds the stand-in for ``libcuda``."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler here to make a stand-in for libcuda")
    folder = tmp_path_factory.mktemp("libcuda")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", folder / "libcuda.so.1", HERE / "libcuda.c"], check=True)

    def run(code):
        path = os.pathsep.join((str(HERE.parents[2]), os.environ.get("PYTHONPATH", "")))
        environment = {**os.environ, "LD_LIBRARY_PATH": str(folder), "PYTHONPATH": path}
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


START = """
import ctypes
import gc
import numpy as np
from edgekit.errors import BackendError
from edgekit.runtime.backends.device import CudaDevice, Driver, Found, Held, Memory
device = CudaDevice()
held = ctypes.CDLL("libcuda.so.1").standin_held
"""


def test_the_first_device_is_described(standin):
    said = standin(START + "print(Driver().version(), Driver().devices(), device.capability)")
    assert said == "12.6 [Found(name='Imagined GPU', compute_capability='8.7', memory_mib=7168)] 8.7\n"


def test_free_memory_is_the_driver_s_or_the_machine_s_where_both_share_it(standin):
    said = standin(
        START
        + """
import os
from edgekit.runtime.memory import available_mib
print(device.free_mib())
os.environ["STANDIN_INTEGRATED"] = "1"
before = available_mib()
print(before is None or abs(device.free_mib() - before) < 1000)
"""
    )
    assert said == "3072.0\nTrue\n"


def test_a_bundle_that_the_gpu_has_no_memory_for_is_refused_before_a_session_is_made(standin, tiny_bundle):
    tiny = tiny_bundle(dialect="ort-cuda")
    manifest = open_bundle(tiny.folder).manifest
    protocol = msgspec.structs.replace(manifest.protocol, context_tokens=1 << 30)
    tiny.change(protocol=protocol)
    said = standin(
        f"""
import edgekit
from edgekit.errors import BackendError
try:
    edgekit.load({str(tiny.folder)!r}, threads=1)
except BackendError as error:
    print(error)
"""
    )
    assert re.search(r"loading it takes at least [\d,]+ MiB .*, the GPU has 3,072 MiB available; end other", said), said


def test_bytes_go_there_and_back_in_the_order_of_a_stream(standin):
    said = standin(
        START
        + """
stream = Held(device.open_stream(), device.close_stream)
there, here = Memory(device, 4096), Memory(device, 4096, host=True)
numbers = here.array(np.dtype("float32"), (3, 4))
numbers[:] = np.arange(12).reshape(3, 4)
device.copy_in(there.value, here.value, 48, stream.value)
device.zero(there.value + 8, 4, stream.value)
back = Memory(device, 48, host=True)
device.copy_out(back.value, there.value, 48, stream.value)
device.wait(stream.value)
print(back.array(np.dtype("float32"), (12,)).astype(int).tolist())
del stream, there, here, back
gc.collect()
print(held())
"""
    )
    assert said == "[0, 1, 0, 3, 4, 5, 6, 7, 8, 9, 10, 11]\n0\n"


def test_a_graph_does_nothing_when_captured_and_its_work_whenever_it_is_launched(standin):
    said = standin(
        START
        + """
stream = Held(device.open_stream(), device.close_stream)
there, here, back = Memory(device, 4), Memory(device, 4, host=True), Memory(device, 4, host=True)
number, seen = (one.array(np.dtype("int32"), ()) for one in (here, back))
def submit():
    device.copy_in(there.value, here.value, 4, stream.value)
    device.copy_out(back.value, there.value, 4, stream.value)
number[...], seen[...] = 1, -1
graph = Held(device.capture(stream.value, submit), device.drop_graph)
device.wait(stream.value)
print(int(seen))
for value in (5, 6):
    number[...] = value
    device.launch(graph.value, stream.value)
    device.wait(stream.value)
    print(int(seen))
def broken():
    submit()
    raise BackendError("TensorRT: does not")
def stopped():
    submit()
    raise KeyboardInterrupt("^C")
for end in (broken, stopped):
    before = held()
    try:
        device.capture(stream.value, end)
    except (BackendError, KeyboardInterrupt) as error:
        print(error, held() - before)
    device.wait(stream.value)  # it no longer captures
"""
    )
    assert said == "-1\n5\n6\nTensorRT: does not 0\n^C 0\n"


def test_plans_for_another_device_than_the_one_here_are_refused(standin):
    said = standin(
        """
import sys, types
sys.modules["tensorrt"] = types.SimpleNamespace(__version__="10.3.0.26")
from edgekit.errors import BackendError
from edgekit.recipe import load_target
from edgekit.runtime.backends.trt.builder import _load_builder
from edgekit.runtime.backends.trt.library import FULL
print(_load_builder(FULL, load_target("jetson-orin"))[1])
try:
    _load_builder(FULL, load_target("jetson-thor"))
except BackendError as error:
    print(error)
"""
    )
    assert said == (
        "8.7\ntarget 'jetson-thor': for compute capability 11.0, this machine's is 8.7, and plans are built on the "
        "device they are for; build there, or for this machine's target\n"
    )


def test_a_call_that_fails_is_told_in_the_driver_s_words(standin):
    said = standin(
        START
        + """
for call in (lambda: device.allocate(2 << 40), lambda: Driver().call("cuInit", 7)):
    try:
        call()
    except BackendError as error:
        print(error)
"""
    )
    assert said.splitlines() == [
        "CUDA: cuMemAlloc_v2 answers 2 (out of memory); `edgekit doctor` looks at the device",
        "CUDA: cuInit answers 1 (something else); `edgekit doctor` looks at the device",
    ]


def test_another_thread_works_with_the_device_once_it_says_so(standin):
    said = standin(
        START
        + """
import threading
def work():
    device.use()
    print(Memory(device, 1).size)
thread = threading.Thread(target=work)
thread.start()
thread.join()
print(held())
"""
    )
    assert said == "256\n0\n"


@pytest.mark.parametrize("call", [Driver, CudaDevice, device_capability])
def test_without_a_driver_the_way_to_one_is_told(call):
    if has_driver():
        pytest.skip("this machine has a CUDA driver")
    with pytest.raises(BackendError, match=r"^CUDA: libcuda\.so\.1: .*; `edgekit doctor` says what to install$"):
        call()


def test_memory_is_given_back_with_its_object_and_has_an_address_though_it_is_empty():
    device = HostDevice()
    device.use()
    memory = Memory(device, 0, host=True)
    assert memory.array(np.dtype("float32"), (0, 3)).shape == (0, 3)
    assert len(device.pinned) == 1
    assert next(iter(device.pinned)) == memory.value
    del memory
    assert not device.pinned


def test_a_device_that_takes_nothing_back_any_more_says_so_once_and_not_for_each_memory(capsys):
    class Broken(HostDevice):
        def free(self, address):
            raise BackendError("CUDA: cuMemFree_v2 answers 700 (an illegal memory access was encountered)")

    device = Broken()
    device.use()
    memory = Memory(device, 1)
    del memory
    assert capsys.readouterr() == ("", "")
