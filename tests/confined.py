"""Run a program as a systemd unit confines it, where no systemd runs.

``python -m tests.confined UNIT FOLDER PROGRAM...``, for root on Linux, with libseccomp and systemd-analyze. Reads the
unit's own directives and applies them by the kernel's means: namespaces, mounts, capabilities, seccomp filters.
FOLDER is shown read-only at ``/mnt``, since /tmp is hidden.
Not applied: what a control group does (DeviceAllow is emulated by a /dev of five devices, IPAddressDeny by no network).
"""

import ctypes
import errno
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

MNT = Path("/mnt")
_CLONE_NEWNS, _CLONE_NEWNET, _NAMESPACES = 0x20000, 0x40000000, 0x7E020080
_MS_RDONLY, _MS_NOSUID, _MS_BIND, _MS_REC, _MS_PRIVATE = 1, 2, 0x1000, 0x4000, 0x40000
_MOUNT_SETATTR, _AT_RECURSIVE, _AT_FDCWD = 442, 0x8000, -100
_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT, _CLEAR_ALL = 24, 38, 47, 4
_PROT_WRITE, _PROT_EXEC, _SHM_EXEC = 2, 4, 0o100000
_ALLOW = 0x7FFF0000
_REFUSE = 0x00050000 | errno.EPERM
_NE, _EQ, _MASKED_EQ = 1, 4, 7
_FAMILIES = 46  # that the kernel knows (AF_MAX of linux/socket.h)
_NOBODY = 65534
HIDDEN = {"ProtectHome": ("/home", "/root", "/run/user"), "PrivateTmp": ("/tmp", "/var/tmp")}  # noqa: S108 - which is the point
_BOTH = _PROT_WRITE | _PROT_EXEC
# What each directive refuses: a call, and how its arguments compare then.
_RULES: dict[str, list[tuple]] = {
    "MemoryDenyWriteExecute": [
        ("mmap", (2, _MASKED_EQ, _BOTH, _BOTH)),
        ("mprotect", (2, _MASKED_EQ, _PROT_EXEC, _PROT_EXEC)),
        ("pkey_mprotect", (2, _MASKED_EQ, _PROT_EXEC, _PROT_EXEC)),
        ("shmat", (2, _MASKED_EQ, _SHM_EXEC, _SHM_EXEC)),
    ],
    "RestrictNamespaces": [("setns",)]
    + [
        (name, (0, _MASKED_EQ, bit, bit))
        for name in ("unshare", "clone")
        for bit in (1 << at for at in range(32) if _NAMESPACES >> at & 1)
    ],
    "RestrictRealtime": [("sched_setscheduler", (1, _NE, 0, 0))],
    "LockPersonality": [("personality", (0, _NE, 0xFFFFFFFF, 0))],
}
_DEVICES = ("null", "zero", "full", "random", "urandom")
libc = ctypes.CDLL(None, use_errno=True)


class _Compared(ctypes.Structure):
    _fields_ = (("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))


def directives(unit: Path) -> dict[str, list[str]]:
    """Return the values of each key of a unit file, in order."""
    found: dict[str, list[str]] = {}
    for line in unit.read_text(encoding="utf-8").splitlines():
        if (match := re.fullmatch(r"(\w+)=(.*)", line)) is not None:
            found.setdefault(match[1], []).append(match[2])
    return found


def system_calls(group: str) -> set[str]:
    """Return the names of the calls in one of systemd's groups, with those of the groups within."""
    command = ["systemd-analyze", "syscall-filter", group]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    names = [line.strip() for line in text.splitlines()[1:] if line.strip() and not line.strip().startswith("#")]
    return set().union(*(system_calls(name) if name.startswith("@") else {name} for name in names))


def confine(unit: dict[str, list[str]], folder: Path) -> None:
    """Give up what the unit does not leave."""
    yes = {name for name, values in unit.items() if values[-1] in {"yes", "strict", "invisible"}}
    allowed, refused = _filters(unit)
    _check(libc.unshare(_CLONE_NEWNS | (_CLONE_NEWNET if "PrivateNetwork" in yes else 0)))
    _mount(None, "/", None, _MS_REC | _MS_PRIVATE)
    _mount(folder, MNT, None, _MS_BIND)
    if unit.get("DevicePolicy") == ["closed"]:
        _close_devices()
    for name, places in HIDDEN.items():
        for place in places if name in yes else ():
            if Path(place).is_dir():
                _mount("tmpfs", place, "tmpfs", 0, "mode=1777" if name == "PrivateTmp" else "mode=000")
    if "ProtectProc" in yes:
        _mount("proc", "/proc", "proc", _MS_NOSUID, "hidepid=invisible")
    if "ProtectSystem" in yes:
        attributes = (ctypes.c_uint64 * 4)(_MS_RDONLY, 0, 0, 0)
        _check(libc.syscall(_MOUNT_SETATTR, _AT_FDCWD, b"/", _AT_RECURSIVE, attributes, ctypes.sizeof(attributes)))
        for place in HIDDEN["PrivateTmp"]:
            attributes = (ctypes.c_uint64 * 4)(0, _MS_RDONLY, 0, 0)
            _check(libc.syscall(_MOUNT_SETATTR, _AT_FDCWD, place.encode(), 0, attributes, ctypes.sizeof(attributes)))
    os.umask(int(unit["UMask"][-1], 8))
    assert unit["CapabilityBoundingSet"] == [""]
    for capability in range(64):
        libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    os.setgroups([])
    os.setresgid(_NOBODY, _NOBODY, _NOBODY)
    os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    _check(libc.prctl(_PR_CAP_AMBIENT, _CLEAR_ALL, 0, 0, 0))
    _check(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    allowed.load()
    refused.load()


class _Filter:
    """A seccomp filter; loaded last, since it may forbid to load another."""

    def __init__(self, by_default: int) -> None:
        self._library = ctypes.CDLL("libseccomp.so.2")
        self._library.seccomp_init.restype = ctypes.c_void_p
        self._context = ctypes.c_void_p(self._library.seccomp_init(by_default))

    def rule(self, action: int, name: str, *compared: tuple[int, int, int, int]) -> None:
        """Add what is done about a call, where its arguments compare like this; a call of other machines is none."""
        number = self._library.seccomp_syscall_resolve_name(name.encode())
        if number < 0:
            return
        array = (_Compared * max(1, len(compared)))(*compared)
        code = self._library.seccomp_rule_add_array(self._context, action, number, len(compared), array)
        assert code == 0, (name, os.strerror(-code))

    def load(self) -> None:
        """Let it hold from now on."""
        code = self._library.seccomp_load(self._context)
        assert code == 0, os.strerror(-code)


def _filters(unit: dict[str, list[str]]) -> tuple[_Filter, _Filter]:
    """Return the filter of the calls that are allowed, seccomp among them, and that of what others are refused."""
    names: set[str] = set()
    for value in unit["SystemCallFilter"]:
        group = value.removeprefix("~")
        names = names - system_calls(group) if value.startswith("~") else names | system_calls(group)
    allowed = _Filter(_REFUSE)
    for name in sorted(names | {"execve", "seccomp"}):
        allowed.rule(_ALLOW, name)
    refused = _Filter(_ALLOW)
    refused.rule(_REFUSE, "seccomp")
    families = {getattr(socket, name) for name in unit["RestrictAddressFamilies"][-1].split()}
    others = [number for number in range(_FAMILIES) if number not in families]
    by_family = [(name, (0, _EQ, number, 0)) for name in ("socket", "socketpair") for number in others]
    for key, rules in {**_RULES, "RestrictAddressFamilies": by_family}.items():
        for name, *compared in rules if key in unit else ():
            refused.rule(_REFUSE, name, *compared)
    return allowed, refused


def _close_devices() -> None:
    aside = Path("/media")
    _mount("tmpfs", aside, "tmpfs", 0, "mode=755")
    for name in _DEVICES:
        (aside / name).touch()
        _mount(f"/dev/{name}", aside / name, None, _MS_BIND)
    _mount(aside, "/dev", None, _MS_BIND | _MS_REC)


def _mount(source: str | Path | None, place: str | Path, kind: str | None, flags: int, data: str = "") -> None:
    encoded = [None if part is None else os.fsencode(part) for part in (source, place, kind)]
    _check(libc.mount(*encoded, ctypes.c_ulong(flags), data.encode()), str(place))


def _check(code: int, what: str = "") -> None:
    if code != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


def main(unit: str, folder: str, *program: str) -> None:
    """Become the program, confined."""
    confine(directives(Path(unit)), Path(folder))
    os.chdir("/")
    signal.alarm(240)  # no confined program is left behind
    os.execv(program[0], program)  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    main(*sys.argv[1:])
