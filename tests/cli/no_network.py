"""``python no_network.py PROGRAM ARGUMENT ...`` becomes that program, killed by the kernel if it opens an IP socket.

In native code, too, and in what it starts: a filter of system calls (seccomp) is inherited.
"""

import ctypes
import os
import platform
import socket
import struct
import sys

# Number of the system call socket, and what the kernel calls the machine. Source: linux/audit.h, asm/unistd.h.
MACHINES = {"x86_64": (41, 0xC000003E), "aarch64": (198, 0xC00000B7)}
_NO_NEW_PRIVILEGES, _SET_SECCOMP, _FILTER = 38, 22, 2  # linux/prctl.h, linux/seccomp.h
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06  # linux/bpf_common.h
_ALLOW, _KILL = 0x7FFF0000, 0x80000000
_NUMBER, _MACHINE, _FIRST = 0, 4, 16  # offsets in struct seccomp_data


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.c_void_p))


def forbid_ip_sockets() -> None:
    """Install the filter in this process; OSError where the kernel takes none."""
    call, machine = MACHINES[platform.machine()]
    steps = [
        (_LOAD, 0, 0, _MACHINE), (_EQUAL, 0, 5, machine),
        (_LOAD, 0, 0, _NUMBER), (_EQUAL, 0, 3, call),
        (_LOAD, 0, 0, _FIRST), (_EQUAL, 2, 0, socket.AF_INET), (_EQUAL, 1, 0, socket.AF_INET6),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _KILL),
    ]  # fmt: skip
    packed = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
    program = _Program(len(steps), ctypes.addressof(packed))
    library = ctypes.CDLL(None, use_errno=True)
    for arguments in ((_NO_NEW_PRIVILEGES, 1, 0, 0, 0), (_SET_SECCOMP, _FILTER, ctypes.byref(program), 0, 0)):
        if library.prctl(*arguments):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


if __name__ == "__main__":
    forbid_ip_sockets()
    os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606 - what the test names
