"""Footprint: what one process takes from start to end: time, memory by kind, and what it left of the processors.

Read from Linux's /proc by the parent, so that it holds for any program and costs it nothing.
"""

import os
import re
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from edgekit.errors import ProfileError
from edgekit.runtime.memory import available_mib

_INTERVAL_S = 0.05
_SPARE_MIB = 256.0  # with less than this to be had, the machine itself is in danger
_LAST_TO_LIVE = "1000"  # where memory ends all the same, this process goes and no other
_FIELD = re.compile(r"^(\w+):\s+(\d+) kB$", re.MULTILINE)


class Memory(msgspec.Struct, frozen=True):
    """Resident memory of a process in MiB: now, at most so far, and by kind.

    ``anonymous_mib`` is what it allocated; ``file_mib`` are pages of mapped files, which the kernel takes back when it
    needs them and reads again.
    """

    now_mib: float
    peak_mib: float
    anonymous_mib: float
    file_mib: float


class Footprint(msgspec.Struct, frozen=True):
    """What one process took.

    ``peak_mib`` is the kernel's own high-water mark; ``peak_anonymous_mib`` the highest of a sample every 50 ms.
    ``cpu_s``: on all cores. ``others_cores``: how many cores were busy with anything else, on average.
    """

    wall_s: float
    cpu_s: float
    peak_mib: float
    peak_anonymous_mib: float
    others_cores: float


def memory_of(pid: int | None = None) -> Memory:
    """Return the Memory of a process, by default this one.

    Raises ProfileError where it cannot be read: no such process, or no /proc.
    """
    path = Path("/proc", "self" if pid is None else str(pid), "status")
    try:
        held = {key: int(kib) / 1024 for key, kib in _FIELD.findall(path.read_text(encoding="ascii", errors="replace"))}
        return Memory(held["VmRSS"], held["VmHWM"], held["RssAnon"], held["RssFile"] + held["RssShmem"])
    except (OSError, KeyError) as error:
        raise ProfileError(f"{path}: tells no memory; measure on Linux, while the process runs") from error


def measure_footprint(command: Sequence[str], *, spare_mib: float = _SPARE_MIB) -> tuple[str, Footprint]:
    """Run a program and return what it wrote to its standard output, and its Footprint.

    Raises ProfileError with the program's last words if it fails, and with the memory it held if it was stopped since
    less than ``spare_mib`` MiB were left for everything else on this machine.
    """
    with tempfile.TemporaryFile() as written, tempfile.TemporaryFile() as complaints:
        busy_s, begun_s = _busy_s(), time.perf_counter()
        process = subprocess.Popen(command, stdout=written, stderr=complaints)
        try:
            cpu_s, memory = _watch(process, spare_mib)
        finally:
            if process.returncode is None:
                process.kill()
                process.wait()
        wall_s = time.perf_counter() - begun_s
        others_s = _busy_s() - busy_s - cpu_s
        written.seek(0)
        complaints.seek(0)
        if process.returncode:
            reason = (complaints.read().decode(errors="replace").strip().splitlines() or ["no message"])[-1]
            raise ProfileError(f"{_name(command)}: exit code {process.returncode} ({reason}); run it by itself")
        return written.read().decode(), Footprint(
            wall_s, cpu_s, memory.peak_mib, memory.anonymous_mib, max(0.0, others_s / wall_s)
        )


def _watch(process: "subprocess.Popen[bytes]", spare_mib: float) -> tuple[float, Memory]:
    """Wait for a process and return its seconds of CPU, and a Memory of the highest of everything."""
    highest = Memory(0.0, 0.0, 0.0, 0.0)
    Path(f"/proc/{process.pid}/oom_score_adj").write_text(_LAST_TO_LIVE, encoding="ascii")
    while True:
        pid, status, used = os.wait4(process.pid, os.WNOHANG)
        if pid:
            process.returncode = os.waitstatus_to_exitcode(status)
            return used.ru_utime + used.ru_stime, highest
        try:
            seen = memory_of(process.pid)
        except ProfileError:  # it has ended, and is not waited for yet
            continue
        pairs = zip(msgspec.structs.astuple(highest), msgspec.structs.astuple(seen), strict=True)
        highest = Memory(*map(max, pairs))
        if (left := available_mib()) is not None and left < spare_mib:
            raise ProfileError(
                f"{_name(process.args)}: stopped at {seen.now_mib:,.0f} MiB, {seen.anonymous_mib:,.0f} of them "
                f"allocated, with {left:,.0f} MiB left on this machine; it needs more memory"
            )
        time.sleep(_INTERVAL_S)


def _name(command: object) -> str:
    return " ".join(Path(part).name for part in list(command)[1:4]) if isinstance(command, (list, tuple)) else "program"


def _busy_s() -> float:
    """Return the seconds that all cores together have worked since the machine started."""
    ticks = [int(part) for part in Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]]
    user, nice, system, _idle, _waiting, interrupts, soft, stolen = ticks
    return (user + nice + system + interrupts + soft + stolen) / os.sysconf("SC_CLK_TCK")
