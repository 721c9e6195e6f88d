"""``python no_network.py PROGRAM ARGUMENT ...`` becomes that program, killed by the kernel if it opens an IP socket.

With ``--serving`` before the program it may listen by TCP, and is killed if it connects to anything, or opens an IP
socket of another kind. In native code, too, and in what it starts: a filter of system calls (seccomp) is inherited.
"""

import ctypes
import os
import platform
import socket
import struct
import sys

# Numbers of the system calls socket and connect, and what the kernel calls the machine. Source: linux/audit.h,
# asm/unistd.h.
MACHINES = {"x86_64": (41, 42, 0xC000003E), "aarch64": (198, 203, 0xC00000B7)}
_NO_NEW_PRIVILEGES, _SET_SECCOMP, _FILTER = 38, 22, 2  # linux/prctl.h, linux/seccomp.h
_LOAD, _EQUAL, _AND, _RETURN = 0x20, 0x15, 0x54, 0x06  # linux/bpf_common.h
_ALLOW, _KILL = 0x7FFF0000, 0x80000000
_NUMBER, _MACHINE, _FIRST, _SECOND = 0, 4, 16, 24  # offsets in struct seccomp_data
_KIND = 0xF  # of a socket, without its flags (linux/net.h, SOCK_TYPE_MASK)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.c_void_p))


def forbid_connections() -> None:
    """Let this process listen by TCP and connect to nothing; OSError where the kernel takes no filter."""
    call, connect, machine = MACHINES[platform.machine()]
    _install(
        (_LOAD, 0, 0, _MACHINE), (_EQUAL, 0, 9, machine),
        (_LOAD, 0, 0, _NUMBER), (_EQUAL, 8, 0, connect), (_EQUAL, 0, 6, call),
        (_LOAD, 0, 0, _FIRST), (_EQUAL, 1, 0, socket.AF_INET), (_EQUAL, 0, 3, socket.AF_INET6),
        (_LOAD, 0, 0, _SECOND), (_AND, 0, 0, _KIND), (_EQUAL, 0, 1, socket.SOCK_STREAM),
    )  # fmt: skip


def forbid_ip_sockets() -> None:
    """Install the filter in this process; OSError where the kernel takes none."""
    call, _, machine = MACHINES[platform.machine()]
    _install(
        (_LOAD, 0, 0, _MACHINE), (_EQUAL, 0, 5, machine),
        (_LOAD, 0, 0, _NUMBER), (_EQUAL, 0, 3, call),
        (_LOAD, 0, 0, _FIRST), (_EQUAL, 2, 0, socket.AF_INET), (_EQUAL, 1, 0, socket.AF_INET6),
    )  # fmt: skip


def _install(*steps: tuple[int, int, int, int]) -> None:
    """Install a filter of these steps; behind them stand what allows a call, and what kills."""
    whole = [*steps, (_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _KILL)]
    packed = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in whole))
    program = _Program(len(whole), ctypes.addressof(packed))
    library = ctypes.CDLL(None, use_errno=True)
    for arguments in ((_NO_NEW_PRIVILEGES, 1, 0, 0, 0), (_SET_SECCOMP, _FILTER, ctypes.byref(program), 0, 0)):
        if library.prctl(*arguments):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


if __name__ == "__main__":
    serving = sys.argv[1] == "--serving"
    (forbid_connections if serving else forbid_ip_sockets)()
    os.execvp(sys.argv[1 + serving], sys.argv[1 + serving :])  # noqa: S606 - what the test names
