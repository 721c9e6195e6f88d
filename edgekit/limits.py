"""What is left of a machine to this process: its cores, and the control groups that a container or service puts it in.

Reads the kernel's own files below a root folder. Sources: cgroups(7), proc(5), and of the kernel's documentation
admin-guide/cgroup-v2.rst (``cpu.max``) and scheduler/sched-bwc.rst (``cpu.cfs_quota_us``).
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Literal

ROOT = Path("/")
_PERIOD_US = 100_000  # the kernel's, where a file says none
# Where they are mounted by convention, for a machine that does not say it; of version 1 the controller's name follows.
_USUAL = "sys/fs/cgroup"
_MOST_DIGITS = 20  # of 2**64
_OCTAL = re.compile(r"\\([0-7]{3})")  # as mountinfo writes a space


def available_cores(root: Path = ROOT) -> int:
    """Return the cores this process may use: those it may run on, or fewer where a quota leaves it less of their time.

    A quota of 1.5 cores counts as 2: one thread would leave a third of it unused.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([allowed, *_quotas(root)]))


def control_groups(root: Path, controller: str) -> Iterator[tuple[Literal[1, 2], Path]]:
    """Yield the version and the folder of every control group that this process is in, the innermost first.

    A limit of any of them holds. ``controller``: of version 1, such as ``cpu``; a group of version 2 has them all.
    """
    own = dict(_own_groups(root))
    versions: tuple[tuple[Literal[1, 2], str], ...] = ((2, ""), (1, controller))
    for version, name in versions:
        path = PurePosixPath(own.get(name, "/"))
        for mounted, place in _mounts(root, name):
            # A container sees its own group mounted, and may be told the path of it that its host knows.
            inside = path.relative_to(mounted) if path.is_relative_to(mounted) and ".." not in path.parts else ""
            for folder in (PurePosixPath(inside), *PurePosixPath(inside).parents):
                yield version, place / folder


def _quotas(root: Path) -> Iterator[int]:
    """Yield how many cores each control group leaves, rounded up."""
    for version, folder in control_groups(root, "cpu"):
        if version == 2:
            quota, *rest = read_text(folder / "cpu.max").split() or [""]
            period = rest[0] if rest else str(_PERIOD_US)
        else:
            quota, period = (read_text(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period"))
        limit, of = whole_number(quota), whole_number(period)
        if limit is not None and of:  # "max" or -1 is none
            yield -(-limit // of)


def _own_groups(root: Path) -> Iterator[tuple[str, str]]:
    """Yield controllers and the path of the group that this process is in; "" stands for version 2."""
    for line in read_text(root / "proc/self/cgroup").splitlines():
        _, _, entry = line.partition(":")
        controllers, _, path = entry.partition(":")
        yield from ((name, path) for name in controllers.split(","))


def _mounts(root: Path, controller: str) -> list[tuple[str, Path]]:
    """Return which group is mounted and where, of version 2 for ""; where nothing is said, what is usual."""
    found = []
    for line in read_text(root / "proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        kind, *options = after.split(" ")
        parts = [_OCTAL.sub(lambda code: chr(int(code[1], 8)), part) for part in before.split(" ")[3:5]]
        if not options or len(parts) < 2:  # no line that the kernel writes
            continue
        mounted, place = parts
        named = kind == "cgroup" and controller and controller in options[-1].split(",")
        if named or (kind == "cgroup2" and not controller):
            found.append((mounted, root / place.lstrip("/")))
    return found or [("/", root / _USUAL / controller)]


def read_text(path: Path) -> str:
    """Return a system file's text, or "" where the machine does not have it or does not let us read it."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except (OSError, ValueError):  # the latter: a path with a sign that none can have
        return ""


def whole_number(text: str) -> int | None:
    """Return the number that a system file tells, None where it tells none or one that no kernel counts to."""
    text = text.strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS else None
