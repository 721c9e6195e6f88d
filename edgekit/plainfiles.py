"""Plain files: a stranger's file is opened if it is a regular one, and read whole only up to a size that is named.

A FIFO would wait for a writer that never comes, a device has no end, and a size in a file's own words is no size. All
that goes wrong is an OSError, whose ``strerror`` says what to tell of the path.
"""

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path

_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def is_there(path: Path) -> bool:
    """Return whether a path names anything; a name that no file can have does not."""
    try:
        path.stat()
    except (OSError, ValueError):
        return False
    return True


def open_plain(path: Path, *, links: bool = True) -> BufferedReader:
    """Return a regular file opened for reading; raises OSError for anything else, and never waits for it.

    links: whether the path may be a link to one.
    """
    flags = ["O_NONBLOCK", "O_BINARY", "O_CLOEXEC"] + ([] if links else ["O_NOFOLLOW"])
    try:
        descriptor = os.open(path, sum({getattr(os, flag, 0) for flag in flags}, os.O_RDONLY))
    except ValueError as error:  # a NUL or a lone surrogate in the name
        raise OSError(errno.EINVAL, f"No file can have this name ({error})") from error
    if fault := _fault(os.fstat(descriptor).st_mode, path):
        os.close(descriptor)
        raise fault
    return os.fdopen(descriptor, "rb")


def _fault(mode: int, path: Path) -> OSError | None:
    if stat.S_ISREG(mode):
        return None
    if stat.S_ISDIR(mode):
        return IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    kind = _KINDS.get(stat.S_IFMT(mode), "no file")
    return OSError(errno.EINVAL, f"Is {kind}, must be a regular file", str(path))


def read_plain(path: Path, most: int, *, links: bool = True) -> bytes:
    """Return the bytes of a regular file; raises OSError where there are more than ``most``. links: see open_plain."""
    return read_with_mode(path, most, links=links)[0]


def read_with_mode(path: Path, most: int, *, links: bool = True) -> tuple[bytes, int]:
    """Return the bytes of a regular file and its permissions; raises OSError as ``read_plain``."""
    with open_plain(path, links=links) as file:
        status = os.fstat(file.fileno())
        size = status.st_size
        data = file.read(min(size, most))
        if size > most or len(data) < size:
            rule = f"at most {most:,} are read" if size > most else f"{len(data):,} could be read"
            raise OSError(errno.EFBIG, f"Has {size:,} bytes, {rule}", str(path))
        return data, stat.S_IMODE(status.st_mode)
