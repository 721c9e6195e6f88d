"""Files of a bundle, each opened once: what was checked is what is read, whatever its path leads to by then.

Every name is opened below one open folder, through no link, and only if it is a regular file; a pipe makes nobody wait.
Knows nothing of manifests.
"""

import errno
import hashlib
import mmap
import os
import stat
import weakref
from pathlib import Path, PurePosixPath
from threading import Lock

from edgekit.errors import BundleFileError, BundleFormatError

_BLOCK_BYTES = 1 << 20
_AGAIN = "copy or export it again"


class HeldFile:
    """One regular file that stays open while this object lives."""

    def __init__(self, descriptor: int, label: str) -> None:
        """label: what messages call it; the descriptor is closed with this object."""
        self.descriptor = descriptor
        self.label = label
        status = os.fstat(descriptor)
        self.bytes = status.st_size
        self._written = status.st_mtime_ns
        weakref.finalize(self, os.close, descriptor).atexit = False

    def read(self, offset: int = 0, size: int | None = None) -> bytes:
        """Return ``size`` bytes from ``offset`` on, all that it had when opened by default.

        Raises BundleFormatError if it has become shorter than that, BundleFileError if it cannot be read.
        """
        wanted = self.bytes - offset if size is None else size
        parts: list[bytes] = []
        while True:
            try:
                part = os.pread(self.descriptor, wanted, offset)
            except OSError as error:
                raise BundleFileError(f"{self.label}: cannot be read ({error.strerror}); {_AGAIN}") from error
            if len(part) == wanted:
                return b"".join((*parts, part)) if parts else part
            if not part:
                raise BundleFormatError(
                    f"{self.label}: ends at byte {offset}, {wanted} bytes before what the manifest says; {_AGAIN}"
                )
            parts.append(part)
            wanted -= len(part)
            offset += len(part)

    def sha256(self) -> str:
        """Return the hash of what it holds, as hex."""
        digest = hashlib.sha256()
        for start in range(0, self.bytes, _BLOCK_BYTES):
            digest.update(self.read(start, min(_BLOCK_BYTES, self.bytes - start)))
        return digest.hexdigest()

    def map(self) -> mmap.mmap:
        """Return its bytes as memory that the kernel reads from it when they are used, and may drop."""
        self.check_unchanged()
        return mmap.mmap(self.descriptor, self.bytes, access=mmap.ACCESS_READ)

    def check_unchanged(self) -> None:
        """Raise BundleFormatError if it was written to, or cut, since it was opened, as far as the kernel tells."""
        status = os.fstat(self.descriptor)
        if (status.st_size, status.st_mtime_ns) != (self.bytes, self._written):
            raise BundleFormatError(f"{self.label}: was written to while it was loaded; {_AGAIN}")


class BundleFiles:
    """The files below one folder, opened when first asked for and kept."""

    def __init__(self, folder: Path) -> None:
        """Open the folder. Raises FileNotFoundError or NotADirectoryError if it is none, else BundleFileError."""
        self._folder = folder
        try:
            self._root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except ValueError as error:  # a NUL or a lone surrogate in the name
            raise BundleFileError(f"{str(folder)!r}: no folder can have this name ({error}); check the path") from error
        except OSError as error:
            if isinstance(error, (FileNotFoundError, NotADirectoryError)):
                raise
            raise BundleFileError(f"{folder}: cannot be opened ({error.strerror}); check the path") from error
        weakref.finalize(self, os.close, self._root).atexit = False
        self._held: dict[str, HeldFile] = {}
        self._lock = Lock()

    def open(self, name: str) -> HeldFile:
        """Return the file of a name, the same one at every call.

        Raises BundleFormatError where the name leaves the folder, is or goes through a link, or is no regular file;
        BundleFileError if nothing is there or it cannot be opened.
        """
        with self._lock:
            if name not in self._held:
                self._held[name] = self._opened(name)
            return self._held[name]

    def holds(self, name: str) -> bool:
        """Return whether a file is open."""
        return name in self._held

    def let_go(self, name: str) -> None:
        """Forget a file, so that its descriptor is closed once nobody holds it."""
        with self._lock:
            self._held.pop(name, None)

    def _opened(self, name: str) -> HeldFile:
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or {"\\", "\0"} & set(name) or any(part in ("..", ".") for part in parts):
            raise BundleFormatError(f"{self._folder}: path '{name}' leaves the bundle; do not use this bundle")
        steps = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        at = self._root
        try:
            for part in parts[:-1]:
                inner = self._step(name, part, steps | os.O_DIRECTORY, at)
                if at != self._root:
                    os.close(at)
                at = inner
            descriptor = self._step(name, parts[-1], steps | os.O_NONBLOCK, at)
        finally:
            if at != self._root:
                os.close(at)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise BundleFormatError(
                f"{self._folder}: '{name}' is a folder, pipe or device, a regular file is needed; {_AGAIN}"
            )
        return HeldFile(descriptor, f"{self._folder / name}")

    def _step(self, name: str, part: str, flags: int, at: int) -> int:
        """Return the descriptor of one part of a path; raise the error that says what is wrong with it."""
        try:
            return os.open(part, flags, dir_fd=at)
        except OSError as error:
            if _is_link(part, at):
                raise BundleFormatError(
                    f"{self._folder}: '{name}' is or goes through a link, which a bundle may not hold; copy the file "
                    "itself"
                ) from error
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                raise BundleFileError(
                    f"{self._folder}: '{name}' is missing; copy the whole bundle again or export it again"
                ) from error
            raise BundleFileError(f"{self._folder}: '{name}' cannot be opened ({error.strerror}); {_AGAIN}") from error


def _is_link(part: str, at: int) -> bool:
    try:
        return stat.S_ISLNK(os.stat(part, dir_fd=at, follow_symlinks=False).st_mode)
    except OSError:
        return False
