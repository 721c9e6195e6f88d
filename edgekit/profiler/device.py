"""Describe the machine and the software that a measurement ran on, from the system's own files.

Every fact that cannot be read is "unknown"; nothing is guessed and no program is started.
"""

import hashlib
import platform
import re
from collections.abc import Iterable
from pathlib import Path

import edgekit
from edgekit.limits import ROOT, available_cores, read_text
from edgekit.profiler.profiles import Device, Software
from edgekit.runtime.memory import total_mib
from edgekit.versions import installed

UNKNOWN = "unknown"
_RUNTIME = Path(edgekit.__file__).parent / "runtime"
_CPUINFO_MODEL = re.compile(r"^(?:model name|Model|Hardware)\s*:\s*(.+)$", re.MULTILINE)
_CPUINFO_FLAGS = re.compile(r"^(?:flags|Features)\s*:\s*(.+)$", re.MULTILINE)
# What INT8 and float kernels are chosen by, widest last; the slug ends with the last one present.
_X86 = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "amx_int8")
_ARM = ("asimd", "asimddp", "i8mm", "sve")
_FAMILIES = (("amx", ("amx_int8",)), ("avx512", ("avx512f",)), ("avx2", ("avx2",)))
_ARM_FAMILIES = (("sve", ("sve",)), ("i8mm", ("i8mm",)), ("dotprod", ("asimddp",)), ("neon", ("asimd",)))


def describe_device(root: Path = ROOT, machine: str | None = None, cores: int | None = None) -> Device:
    """Return the Device. ``root``, ``machine`` and ``cores`` are this machine's unless a test says otherwise."""
    machine = platform.machine() if machine is None else machine
    cores = available_cores(root) if cores is None else cores
    info = read_text(root / "proc/cpuinfo")
    flags = set(found.group(1).split()) if (found := _CPUINFO_FLAGS.search(info)) else set()
    arm = machine.startswith(("aarch64", "arm"))
    architecture = "arm" if arm else "x86" if machine in ("x86_64", "AMD64", "i686") else machine or UNKNOWN
    instructions = tuple(name for name in (_ARM if arm else _X86) if name in flags)
    board = read_text(root / "proc/device-tree/model").strip("\0\n ")
    model = _CPUINFO_MODEL.search(info)
    return Device(
        slug=_slug(board, architecture, cores, instructions),
        cpu=board or (model.group(1).strip() if model else UNKNOWN),
        architecture=machine or UNKNOWN,
        instructions=instructions,
        cores=cores,
        memory_mib=total_mib(root),
        os=_os_name(root),
        kernel=platform.release().split("-")[0] or UNKNOWN,
        power_mode=_power_mode(root),
        environment=_environment(root, flags),
    )


def describe_software(others: Iterable[str] = ()) -> Software:
    """Return the versions that count; ``others`` names further distributions, such as a peer's."""
    return Software(
        edgekit=edgekit.__version__,
        python=platform.python_version(),
        numpy=installed("numpy") or UNKNOWN,
        onnxruntime=installed("onnxruntime") or installed("onnxruntime-gpu") or UNKNOWN,
        others={name: installed(name) or UNKNOWN for name in others},
    )


def software_digest(software: Software | None = None, runtime: Path = _RUNTIME) -> str:
    """Return a SHA-256 in hex of what decides a bundle's text beside the bundle: versions and the runtime's modules.

    Results kept under this key are not mistaken for those of other software. ``software`` is this process's unless
    given, ``runtime`` a folder of which only ``.py`` files count, edgekit's own unless a test says otherwise.
    """
    software = describe_software() if software is None else software
    digest = hashlib.sha256(repr(software).encode())
    for path in sorted(runtime.rglob("*.py")):
        digest.update(f"\n{path.relative_to(runtime).as_posix()} ".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _slug(board: str, architecture: str, cores: int, instructions: tuple[str, ...]) -> str:
    if board:
        return re.sub(r"[^a-z0-9]+", "-", board.lower()).strip("-")
    families = _ARM_FAMILIES if architecture == "arm" else _FAMILIES
    widest = [family for family, needed in families if set(needed) <= set(instructions)][:1]
    return "-".join([architecture, f"{cores}core", *widest])


def _os_name(root: Path) -> str:
    found = re.search(r'^PRETTY_NAME="?([^"\n]+)', read_text(root / "etc/os-release"), re.MULTILINE)
    return found.group(1) if found else platform.system() or UNKNOWN


def _power_mode(root: Path) -> str:
    """Return a Jetson's power mode if it has one, else the first core's frequency governor."""
    mode = read_text(root / "var/lib/nvpmodel/status").strip()
    return mode or read_text(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").strip() or UNKNOWN


def _environment(root: Path, flags: set[str]) -> str:
    where = ["virtual machine"] if "hypervisor" in flags else []
    inside = (root / ".dockerenv").exists() or (root / "run/.containerenv").exists()
    if inside or re.search(r"docker|containerd|kubepods|lxc", read_text(root / "proc/1/cgroup")):
        where.append("container")
    return ", ".join(where) or "no sign of a virtual machine or container"
