"""Let two names change places in one step, where kernel and file system can: renameat2(2) of Linux."""

import ctypes
import errno
import os
import platform
from pathlib import Path

# Of each kernel's table; a C library may lack a function of its own for it (glibc has one since 2.28).
_NUMBERS = {"x86_64": 316, "aarch64": 276, "riscv64": 276}
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
# What says that it is not offered; who filters system calls may answer EPERM. What is really forbidden, a plain rename
# is refused too.
_NOT_OFFERED = frozenset({errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTTY, errno.EPERM})


def exchange(one: Path, other: Path) -> bool:
    """Let two names change places at once; return False where that is not offered. Raises OSError."""
    error = _renameat2(os.fsencode(one), os.fsencode(other))
    if error in _NOT_OFFERED:
        return False
    if error:
        raise OSError(error, os.strerror(error), str(one), None, str(other))
    return True


def _renameat2(one: bytes, other: bytes) -> int:
    """Return what the kernel says: 0, or an errno."""
    number = _NUMBERS.get(platform.machine()) if platform.system() == "Linux" else None
    if number is None or ctypes.sizeof(ctypes.c_void_p) != 8:
        return errno.ENOSYS
    call = ctypes.CDLL(None, use_errno=True).syscall
    call.restype = ctypes.c_long
    arguments = (_AT_FDCWD, ctypes.c_char_p(one), _AT_FDCWD, ctypes.c_char_p(other), _RENAME_EXCHANGE)
    return ctypes.get_errno() if call(ctypes.c_long(number), *arguments) else 0
