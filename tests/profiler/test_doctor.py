"""The doctor tells each state of a device from fake system files, fake commands and fake vendor libraries."""

import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import onnx
import pytest

from edgekit.profiler.doctor.examination import _devices, _disk, _gpu, _memory, _sound, examine
from edgekit.profiler.doctor.nvidia import examine_cuda_libraries, examine_driver, stacks_of
from edgekit.runtime.backends import BACKENDS
from edgekit.runtime.backends.examining import Machine, jetson_release
from edgekit.runtime.backends.ort_examining import GRAPH, library_fix
from edgekit.runtime.backends.probing import ask

SOUND = "edgekit.profiler.doctor.probes:sound"
JETPACK_6 = "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\nKERNEL_VARIANT: oot\n"
JETPACK_7 = "# R38 (release), REVISION: 2.0, GCID: 41844464, BOARD: generic, EABI: aarch64\n"
MODULE = "NVRM version: NVIDIA UNIX {}  {}  Release Build\nGCC version: 13.3.0\n"
MEMORY = "MemTotal:       8000000 kB\nMemAvailable:    5300000 kB\n"


@pytest.fixture
def machine(tmp_path):
    """Write files below a folder that stands for the root of a machine; a command is a script."""

    def write(files):
        for name, text in files.items():
            path = tmp_path / "root" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            if "bin" in path.parts:
                path.chmod(0o755)
        return tmp_path / "root"

    return write


@pytest.fixture
def library(tmp_path, monkeypatch):
    """Let the processes that the doctor starts import this in place of a vendor's package."""

    def write(name, source):
        folder = tmp_path / "packages"
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.py").write_text(textwrap.dedent(source))
        monkeypatch.setenv("PYTHONPATH", str(folder))

    return write


@pytest.fixture
def libcuda(tmp_path, monkeypatch):
    """Compile a stand-in for the driver's library and let the loader find it first."""

    def write(start):
        compiler = shutil.which("cc")
        if compiler is None:
            pytest.skip("no C compiler here to make a stand-in for libcuda")
        source = tmp_path / "cuda.c"
        source.write_text(
            "#include <string.h>\n#include <stddef.h>\n"
            f"int cuInit(unsigned f) {{ return {start}; }}\n"
            "int cuDriverGetVersion(int *v) { *v = 13020; return 0; }\n"
            "int cuDeviceGetCount(int *n) { *n = 1; return 0; }\n"
            'int cuDeviceGetName(char *s, int n, int d) { strncpy(s, "Imagined GPU", n); return 0; }\n'
            "int cuDeviceGetAttribute(int *v, int a, int d) { *v = a == 75 ? 8 : 7; return 0; }\n"
            "int cuDeviceTotalMem_v2(size_t *b, int d) { *b = (size_t)7 << 30; return 0; }\n"
        )
        subprocess.run([compiler, "-shared", "-fPIC", "-o", tmp_path / "libcuda.so.1", source], check=True)
        monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))

    return write


def named(found, name):
    """Return the one Finding of that name, of an Examination or of a part of it."""
    (finding,) = (one for one in getattr(found, "findings", found) if one.name == name)
    return finding


def of(name, root, *, gpu):
    """Return how a backend is on a machine."""
    return BACKENDS.get(name).examine(Machine(root, gpu, ask))


def test_a_machine_without_a_gpu_is_told_so_and_runs_bundles(machine, tmp_path):
    found = examine(machine({"proc/meminfo": MEMORY}), tmp_path)
    assert (named(found, "driver").state, named(found, "driver").fix) == ("missing", "")
    assert "GPU" not in {finding.name for finding in found.findings}
    assert named(found, "onnxruntime cpu").state == "ok"
    assert found.runs == ("onnxruntime-cpu",)
    assert [one.name for one in found.backends] == list(BACKENDS.names())
    assert len({finding.name for finding in found.findings}) == len(found.findings), "what two share is told once"
    assert "5175 of 7812 MiB" in named(found, "memory").text


def test_a_card_without_a_driver_names_the_package_of_the_system(machine):
    card = {
        "sys/bus/pci/devices/0000:01:00.0/vendor": "0x10de\n",
        "sys/bus/pci/devices/0000:01:00.0/class": "0x030000\n",
    }
    root = machine(card | {"etc/os-release": 'NAME="Ubuntu"\nVERSION_ID="24.04"\nID=ubuntu\n'})
    assert (examine_driver(root).state, examine_driver(root).fix) == ("missing", "sudo ubuntu-drivers install")
    (root / "sys/bus/pci/devices/0000:01:00.0/class").write_text("0x040300\n")  # its sound output alone
    assert "no NVIDIA GPU" in examine_driver(root).text


@pytest.mark.parametrize("kind", ["x86_64 Kernel Module", "Open Kernel Module for x86_64"])
def test_a_driver_without_cuda_libraries_is_told_apart(machine, kind):
    root = machine({"proc/driver/nvidia/version": MODULE.format(kind, "580.65.06")})
    driver = examine_driver(root)
    assert (driver.state, driver.text.split(" (")[0]) == ("ok", "NVIDIA 580.65.06")
    libraries = examine_cuda_libraries(root, driver)
    assert (libraries.state, libraries.fix) == ("missing", "pip install 'onnxruntime-gpu[cuda,cudnn]'")
    machine({f"usr/local/cuda-13.0/lib64/lib{name}": "" for name in ("cudart.so.13", "cublasLt.so.13.1", "cudnn.so.9")})
    assert examine_cuda_libraries(root, driver).text == "CUDA 13; cuDNN 9"


def test_a_driver_too_old_for_cuda_13_is_wrong(machine):
    root = machine(
        {"usr/lib64/libcudart.so.13": "", "usr/lib64/libcublasLt.so.13": "", "etc/os-release": "ID=debian\n"}
    )
    machine({"proc/driver/nvidia/version": MODULE.format("x86_64 Kernel Module", "535.10")})
    libraries = examine_cuda_libraries(root, examine_driver(root))
    assert (libraries.state, libraries.fix) == ("wrong", "sudo apt install nvidia-driver")
    assert "CUDA 13 needs driver 580 or later, 535 is loaded" in libraries.text


def test_nvidia_smi_is_believed_and_its_failure_told(machine):
    root = machine({"usr/bin/nvidia-smi": "#!/bin/sh\necho '580.95.05, Imagined GPU'\n"})
    assert (examine_driver(root).state, examine_driver(root).text) == ("ok", "NVIDIA 580.95.05")
    machine({"usr/bin/nvidia-smi": "#!/bin/sh\necho 'Driver/library version mismatch' >&2\nexit 18\n"})
    machine({"proc/driver/nvidia/version": MODULE.format("x86_64 Kernel Module", "580.65.06")})
    assert (examine_driver(root).state, examine_driver(root).fix) == ("wrong", "sudo reboot")
    assert "mismatch" in examine_driver(root).text


@pytest.mark.parametrize(
    ("text", "release", "named", "targets"),
    [
        (JETPACK_6, "36.4.3", "JetPack 6.1 to 6.2, CUDA 12.6 and TensorRT 10.3", ["jetson-orin"]),
        (JETPACK_7, "38.2.0", "JetPack 7.0 to 7.1, CUDA 13.0 and TensorRT 10.13", ["jetson-thor"]),
        (JETPACK_7.replace("38", "39"), "39.2.0", "JetPack 7.2", ["jetson-orin", "jetson-thor"]),
    ],
)
def test_a_jetson_is_told_by_its_release(machine, text, release, named, targets):
    root = machine({"etc/nv_tegra_release": text})
    assert jetson_release(root) == release
    assert [target.name for target, _ in stacks_of(release)] == targets
    driver = examine_driver(root)
    assert (driver.name, driver.state) == ("Jetson Linux", "ok")
    assert f"{release}: {named}" in driver.text
    assert examine_cuda_libraries(root, driver).fix == "sudo apt install nvidia-jetpack"


def test_an_older_jetpack_is_wrong_and_36_40_is_not_36_4(machine):
    root = machine({"etc/nv_tegra_release": "# R35 (release), REVISION: 4.1, GCID: 1\n"})
    assert examine_driver(root).state == "wrong"
    assert "35.4.1, targets are made for 36.4" in examine_driver(root).text
    assert not stacks_of("36.40.1")


def test_a_jetson_whose_environment_hides_tensorrt_is_told_how_to_make_one(machine):
    root = machine({"etc/nv_tegra_release": JETPACK_6, "usr/lib/python3.10/dist-packages/tensorrt/__init__.py": ""})
    machine({"proc/meminfo": MEMORY})
    finding = named(of("tensorrt", root, gpu=True), "TensorRT")
    assert finding.state == "wrong"
    assert "--system-site-packages" in finding.fix
    assert "share it" in _memory(root).text


def test_a_provider_that_is_built_in_but_falls_back_is_wrong_and_its_library_named(machine, library):
    library(
        "onnxruntime",
        """
        import sys
        __version__ = "99.0"
        def get_available_providers():
            return ["CUDAExecutionProvider"]
        class InferenceSession:
            def __init__(self, graph, options=None, providers=()):
                print("[E:onnxruntime] Failed to load library x.so with error: libcublasLt.so.13: cannot open "
                      "shared object file: No such file or directory", file=sys.stderr)
            def get_providers(self):
                return ["CPUExecutionProvider"]
        """,
    )
    cuda = named(of("onnxruntime-cuda", machine({}), gpu=True), "onnxruntime cuda")
    assert (cuda.state, cuda.fix) == ("wrong", "pip install 'onnxruntime-gpu[cuda,cudnn]'")
    assert "falls back to CPUExecutionProvider" in cuda.text
    assert "libcublasLt.so.13 is not found" in cuda.text
    assert named(of("onnxruntime-cuda", machine({}), gpu=False), "onnxruntime cuda").fix == ""


def test_a_provider_that_computes_wrongly_is_wrong(machine, library):
    library(
        "onnxruntime",
        """
        __version__ = "99.0"
        def get_available_providers():
            return ["CPUExecutionProvider"]
        class SessionOptions: pass
        class InferenceSession:
            def __init__(self, graph, options=None, providers=()): pass
            def get_providers(self):
                return ["CPUExecutionProvider"]
            def run(self, names, inputs):
                return [inputs["x"]]
        """,
    )
    found = of("onnxruntime-cpu", machine({}), gpu=False)
    assert not found.here
    assert "computes wrongly" in named(found, "onnxruntime cpu").text


def test_a_library_that_ends_the_process_is_told_not_caught(machine, library):
    library("tensorrt", "import os; os.abort()")
    assert "crashed (SIGABRT)" in named(of("tensorrt", machine({}), gpu=False), "TensorRT").text


@pytest.mark.parametrize(
    ("version", "builds", "state"), [("10.3.0", True, "ok"), ("8.5.2", True, "wrong"), ("11.4", False, "wrong")]
)
def test_tensorrt_makes_no_runtime_without_a_device_and_has_to_build(machine, library, *, version, builds, state):
    builder = "class Builder: pass" if builds else ""
    library("tensorrt", f"__version__ = '{version}'\n{builder}\ndef Runtime(logger): raise SystemExit('no device')\n")
    assert named(of("tensorrt", machine({}), gpu=False), "TensorRT").state == state


def test_a_device_is_named_by_the_driver_s_library_and_tensorrt_runs_there(machine, library, libcuda):
    libcuda(start=0)
    library(
        "tensorrt",
        """
        __version__ = "10.3.0"
        class Builder: pass
        class Logger:
            ERROR = 1
            def __init__(self, level): pass
        class Runtime:
            max_threads = 1
            def __init__(self, logger): pass
        """,
    )
    root = machine({"etc/nv_tegra_release": JETPACK_6})
    assert _gpu(root).text == "Imagined GPU, compute capability 8.7, 7168 MiB; the driver speaks CUDA 13.2"
    found = of("tensorrt", root, gpu=True)
    assert (found.here, named(found, "TensorRT").state) == (True, "ok")
    assert not of("tensorrt", root, gpu=False).here, "it builds there and runs nothing"


def test_a_driver_s_library_that_refuses_is_wrong(machine, libcuda):
    libcuda(start=100)
    gpu = _gpu(machine({"etc/nv_tegra_release": JETPACK_6}))
    assert (gpu.state, gpu.text) == ("wrong", "cuInit answers 100")


def test_a_gpu_out_of_sight_of_the_loader_is_missing(machine):
    if ask("edgekit.runtime.backends.device:probe").said:
        pytest.skip("this machine has a CUDA driver")
    gpu = _gpu(machine({"etc/nv_tegra_release": JETPACK_6}))
    assert (gpu.state, gpu.fix) == ("missing", "sudo apt install nvidia-jetpack")


@pytest.mark.parametrize(
    ("kind", "nodes", "state", "fix"),
    [
        ("ok", {}, "ok", ""),
        ("none", {}, "missing", "plug one in"),
        ("none", {"dev/snd/pcmC0D0c": "", "dev/snd/pcmC0D0p": ""}, "wrong", "sudo usermod -aG audio"),
    ],
)
def test_microphone_and_loudspeaker_are_the_defaults_of_portaudio(machine, library, *, kind, nodes, state, fix):
    library(
        "sounddevice",
        f"""
        class PortAudioError(Exception): pass
        def get_portaudio_version():
            return 1246720, "PortAudio V19.7.0-devel, revision unknown"
        def query_devices(device, kind):
            if {kind == "none"}:
                raise PortAudioError("no default device")
            return {{"name": "Imagined " + kind}}
        """,
    )
    found = _devices(machine(nodes), ask(SOUND))
    assert named(found, "PortAudio").text == "PortAudio V19.7.0-devel"
    for name in ("microphone", "loudspeaker"):
        assert named(found, name).state == state
        assert named(found, name).fix.startswith(fix)


def test_a_portaudio_that_does_not_start_is_wrong_and_not_missing(machine, library):
    library(
        "sounddevice",
        """
        class PortAudioError(Exception): pass
        raise PortAudioError("Error initializing PortAudio: Unanticipated host error", -9999)
        """,
    )
    (found,) = [finding for finding in _devices(machine({}), ask(SOUND)) if finding.name == "PortAudio"]
    assert found.state == "wrong"
    assert found.text == "does not start (Error initializing PortAudio: Unanticipated host error)"
    assert found.fix.startswith("cat ~/.asoundrc")


def test_a_portaudio_that_crashes_is_wrong(machine, library):
    library("sounddevice", "import os; os.abort()")
    found = _devices(machine({}), ask(SOUND))
    assert [(one.state, one.text) for one in found] == [("wrong", "crashed (SIGABRT)")]


def test_missing_packages_are_told_with_what_to_type(machine, library):
    library("sounddevice", "raise OSError('PortAudio library not found')")
    library("soxr", "raise ModuleNotFoundError(\"No module named 'soxr'\")")
    library("onnxruntime", "raise ModuleNotFoundError(\"No module named 'onnxruntime'\")")
    found = _sound(machine({}))
    assert (named(found, "PortAudio").state, named(found, "PortAudio").fix) == ("missing", "apt install libportaudio2")
    assert (named(found, "soxr").state, named(found, "soxr").fix) == ("missing", "pip install soxr")
    (only,) = of("onnxruntime-cpu", machine({}), gpu=False).findings
    assert (only.state, only.fix) == ("missing", "pip install 'edgekit-audio[cpu]'")


def test_two_packages_of_one_module_are_wrong(machine, tmp_path, monkeypatch):
    for name in ("onnxruntime", "onnxruntime_gpu"):
        folder = tmp_path / "site" / f"{name}-1.31.1.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 1.31.1\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    finding = named(of("onnxruntime-cpu", machine({}), gpu=False), "onnxruntime")
    assert (finding.state, finding.fix.split(",")[0]) == ("wrong", "pip uninstall -y onnxruntime onnxruntime-gpu")


def test_an_onnxruntime_older_than_bundles_ask_for_is_wrong(machine, library, tmp_path, monkeypatch):
    folder = tmp_path / "site" / "edgekit_audio-0.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: edgekit-audio\nVersion: 0\nRequires-Dist: onnxruntime>=1.31; extra == 'cpu'\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    library("onnxruntime", "__version__ = '1.23.2'\ndef get_available_providers(): return ['CPUExecutionProvider']\n")
    found = of("onnxruntime-cpu", machine({}), gpu=False)
    assert not found.here
    finding = named(found, "onnxruntime")
    assert (finding.state, finding.text) == ("wrong", "1.23.2, bundles made by this EdgeKit ask for 1.31 or later")


def test_little_memory_and_little_disk_are_wrong(machine):
    root = machine({"proc/meminfo": "MemTotal: 1000000 kB\nMemAvailable: 524287 kB\n"})
    assert _memory(root).state == "wrong"
    machine({"proc/meminfo": "MemTotal: 1000000 kB\nMemAvailable: 524288 kB\n"})
    assert _memory(root).state == "ok"
    assert [_disk(free).state for free in (0, 1023, 1024)] == ["wrong", "wrong", "ok"]


def test_the_graph_that_providers_compute_is_valid():
    model = onnx.load_from_string(GRAPH)
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == ["MatMul", "Add"]


def test_a_folder_called_like_a_library_is_not_taken_for_it(tmp_path, monkeypatch):
    (tmp_path / "tensorrt_rtx.py").write_text("__version__ = 'from the wrong place'")
    monkeypatch.chdir(tmp_path)
    if sys.version_info < (3, 11):
        pytest.skip("Python 3.10 cannot leave out the current folder")
    assert "wrong place" not in ask("edgekit.runtime.backends.trt.backend:probe", "tensorrt_rtx").said.get(
        "version", ""
    )


@pytest.mark.parametrize(
    ("absent", "fix"),
    [
        ("libcublasLt.so.13", "pip install 'onnxruntime-gpu[cuda,cudnn]'"),
        ("libcuda.so.1", "in a container: docker run --gpus all; else install the driver again"),
        ("", ""),
    ],
)
def test_each_library_that_a_provider_misses_has_its_own_remedy(machine, absent, fix):
    assert library_fix(Machine(machine({}), True, ask), absent) == fix
    jetson = machine({"etc/nv_tegra_release": JETPACK_6})
    assert library_fix(Machine(jetson, True, ask), absent) == "sudo apt install nvidia-jetpack"


def test_the_file_tree_of_a_test_is_not_this_machine(tmp_path):
    assert jetson_release(Path(tmp_path)) == ""
