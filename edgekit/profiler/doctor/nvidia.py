"""What a machine's own files say of its NVIDIA parts: driver, Jetson release, CUDA's libraries.

Reads below a root folder and starts ``nvidia-smi`` from there; loads no library.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

from edgekit.limits import read_text
from edgekit.recipe import Stack, Target, load_target, target_names
from edgekit.runtime.backends.examining import APT, Finding, jetson_release
from edgekit.versions import begins, numbers, older

_SMI_TIMEOUT_S = 30
_COMMANDS = ("usr/local/bin", "usr/bin", "usr/sbin", "usr/lib/wsl/lib")
_LIBRARIES = (
    "usr/local/cuda*/lib64", "usr/local/cuda*/targets/*/lib", "usr/lib/*-linux-gnu", "usr/lib/*-linux-gnu/nvidia",
    "usr/lib/*-linux-gnu/tegra", "usr/lib64",
)  # fmt: skip
# The oldest driver for CUDA 13 outside Jetsons: CUDA 13.0 release notes, table of minimum driver versions.
_CUDA_13_DRIVER = "580"
_DISPLAY = "0x03"  # PCI base class


def stacks_of(release: str) -> list[tuple[Target, Stack]]:
    """Return the targets, with their stack, that are made for a release of Jetson Linux."""
    targets = [load_target(name) for name in target_names()]
    return [
        (target, stack)
        for target in targets
        for stack in target.stacks
        if any(begins(release, beginning) for beginning in stack.l4t)
    ]


def examine_driver(root: Path) -> Finding:
    """Return how the driver is: a Jetson's release, a kernel module's version, a card without one, or no card."""
    if release := jetson_release(root):
        return _examine_jetson(release)
    module = re.search(r"Kernel Module.*?\s(\d{3}\.[\d.]+)", read_text(root / "proc/driver/nvidia/version"))
    code, said = _smi(root)
    if code == 0 and said:
        version = said.splitlines()[0].split(",")[0].strip()
        return Finding("driver", "ok", f"NVIDIA {version}")
    if module and code is None:
        return Finding("driver", "ok", f"NVIDIA {module[1]} (kernel module; nvidia-smi is not installed)")
    if module:
        return Finding(
            "driver", "wrong", f"NVIDIA {module[1]} in the kernel, but nvidia-smi fails: {said}", "sudo reboot"
        )
    if _card(root):
        return Finding("driver", "missing", "an NVIDIA GPU is on the bus and no driver is loaded", _driver_fix(root))
    return Finding("driver", "missing", "no NVIDIA GPU seen; bundles for the CPU need none")


def examine_cuda_libraries(root: Path, driver: Finding) -> Finding:
    """Return which CUDA a program would find, from the names of the files; ``driver`` is examine_driver's."""
    found = {name: _majors(root, name) for name in ("cudart", "cublasLt", "cudnn")}
    fix = APT if jetson_release(root) else "pip install 'onnxruntime-gpu[cuda,cudnn]'"
    absent = [f"lib{name}.so" for name in ("cudart", "cublasLt") if not found[name]]
    if absent:
        return Finding("CUDA libraries", "missing", f"{' and '.join(absent)} found nowhere", fix)
    newest = max(found["cudart"])
    text = f"CUDA {', '.join(map(str, sorted(found['cudart'])))}; cuDNN {', '.join(map(str, found['cudnn'])) or 'none'}"
    version = re.search(r"NVIDIA (\d+)", driver.text)
    if newest >= 13 and version and older(version[1], _CUDA_13_DRIVER):
        return Finding(
            "CUDA libraries",
            "wrong",
            f"{text}: CUDA 13 needs driver {_CUDA_13_DRIVER} or later, {version[1]} is loaded",
            _driver_fix(root),
        )
    return Finding("CUDA libraries", "ok", text)


def _examine_jetson(release: str) -> Finding:
    known = stacks_of(release)
    if not known:
        begins = sorted({begin for name in target_names() for stack in load_target(name).stacks for begin in stack.l4t})
        return Finding(
            "Jetson Linux",
            "wrong",
            f"{release}, targets are made for {', '.join(begins)} (JetPack 6 and 7)",
            "on another computer: sdkmanager, and flash a newer JetPack",
        )
    stack = known[0][1]
    names = " or ".join(target.name for target, _ in known)
    return Finding(
        "Jetson Linux",
        "ok",
        f"{release}: {stack.name}, CUDA {stack.cuda} and TensorRT {stack.tensorrt} expected; target {names}",
    )


def _smi(root: Path) -> tuple[int | None, str]:
    """Return nvidia-smi's exit code, None if it is not there, and what it said, of driver version and names."""
    found = shutil.which("nvidia-smi", path=":".join(str(root / folder) for folder in _COMMANDS))
    if found is None:
        return None, ""
    try:
        done = subprocess.run(
            [found, "--query-gpu=driver_version,name", "--format=csv,noheader"],
            capture_output=True, text=True, errors="replace", timeout=_SMI_TIMEOUT_S, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return 1, " ".join(str(error).split())
    return done.returncode, (done.stdout.strip() or " ".join(done.stderr.split()))


def _card(root: Path) -> bool:
    return any(
        read_text(device / "vendor").strip() == "0x10de" and read_text(device / "class").startswith(_DISPLAY)
        for device in (root / "sys/bus/pci/devices").glob("*")
    )


def _driver_fix(root: Path) -> str:
    name = re.search(r'^ID="?(\w+)', read_text(root / "etc/os-release"), re.MULTILINE)
    fixes = {"ubuntu": "sudo ubuntu-drivers install", "debian": "sudo apt install nvidia-driver"}
    return fixes.get(name[1] if name else "", "install NVIDIA's driver by the system's package manager, then reboot")


def _majors(root: Path, library: str) -> set[int]:
    """Return the major versions of a library that lie where the loader, or onnxruntime, looks for it."""
    folders = [folder for pattern in _LIBRARIES for folder in root.glob(pattern)]
    if root == Path("/"):
        folders += [folder for entry in sys.path for folder in Path(entry).glob("nvidia/*/lib")]
    names = [path.name for folder in folders for path in folder.glob(f"lib{library}.so.*")]
    return {version[0] for name in names if (version := numbers(name.partition(".so.")[2]))}
