"""Files and folders that appear whole or not at all: built under a temporary name beside their place, then renamed.

The one writer of every result that EdgeKit leaves behind. What is not published by the end of its block is removed, and
what stood in its place before is then as it was. At every instant, a power cut included, the old one is there whole or
the new one is: a folder changes places with the one that it replaces. Where the kernel cannot do that in one step
(``exchanging``) there is an instant between two, in which the old folder lies whole in ``.NAME.XXXXXXXX.partial/old``;
who writes to that place next puts it back. What a killed program leaves under such a name, who writes there next clears
away (``leftovers``). SIGINT, SIGTERM and SIGHUP wait while something takes its place or is removed (``signals``).
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

from edgekit.atomic.exchanging import exchange
from edgekit.atomic.leftovers import NEW, OLD, clear_leftovers, hold, remove, temporary
from edgekit.atomic.signals import signals_held
from edgekit.errors import OutputError

__all__ = ["FileDraft", "FolderDraft", "clear_leftovers", "draft_file", "draft_folder", "write_new", "write_whole"]

REFUSED = "{reason}; choose another place or free some space"
"""What an OutputError says behind the place: ``reason`` is the system's."""
_PRIVATE, _SHARED = 0o600, 0o666  # before the umask
_NOT_SYNCED = (errno.EINVAL, errno.ENOTSUP)  # what a file system says that has nothing to do for a folder


class FileDraft:
    """A file that is being written under a temporary name, ``path``; ``file`` is unbuffered, for who needs its number.

    Its methods raise OutputError where the disk does not take it.
    """

    def __init__(self, path: Path, file: FileIO, place: Path, refused: str) -> None:
        self.path, self.file = path, file
        self._place, self._refused = place, refused

    def write(self, data: bytes | memoryview) -> None:
        """Add all of these bytes."""
        left = memoryview(data)
        with _refusing(self._place, self._refused):
            while left:
                left = left[self.file.write(left) :]

    def publish(self, place: Path | None = None) -> Path:
        """Give the file its name, another one in the same folder than was announced if ``place``, and return that.

        The bytes are on the disk before the name is: after a power cut there is the old file or the whole new one. It
        may be read by nobody who might not read the old one.
        """
        place = place or self._place
        with _refusing(place, self._refused), signals_held():
            _narrow(self.file.fileno(), place)
            os.fsync(self.file.fileno())
            self.path.replace(place)
            _sync(place.parent)
        return place

    def publish_new(self, mode: int) -> bool:
        """Give the file its name and these permissions; return False, nothing changed, where something has that name.

        Of two programs that publish at once one succeeds.
        """
        with _refusing(self._place, self._refused), signals_held():
            os.fchmod(self.file.fileno(), mode)  # whatever the umask
            os.fsync(self.file.fileno())
            try:
                self._place.hardlink_to(self.path)  # unlike a renaming, it fails where something is
            except FileExistsError:
                return False
            _sync(self._place.parent)
        return True


@contextmanager
def draft_file(place: Path, *, refused: str = REFUSED, private: bool = False) -> Iterator[FileDraft]:
    """Yield the FileDraft of a file, whose folder is made where it is missing; it is removed unless published.

    private: for its owner alone, since it holds what somebody said. Raises OutputError, as ``refused`` words it, where
    it cannot be written: a folder or a device of that name is found out at once.
    """
    path, file = None, None
    try:
        with _refusing(place, refused), signals_held():
            if place.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(place))
            if place.exists() and not place.is_file():
                raise OSError(errno.EINVAL, "a device or a pipe, which a file would replace", str(place))
            place.parent.mkdir(parents=True, exist_ok=True)
            clear_leftovers(place)
            while file is None:
                path = temporary(place)
                file = _create(path, _PRIVATE if private else _SHARED)
        assert path is not None
        yield FileDraft(path, file, place, refused)
    finally:
        with signals_held():
            if path is not None:
                remove(path, place)  # unless it has its name
            if file is not None:
                file.close()


def write_whole(place: Path, content: bytes, *, private: bool = False) -> None:
    """Write a file, whole or not at all, ``private`` for its owner alone; raises OutputError."""
    with draft_file(place, private=private) as draft:
        draft.write(content)
        draft.publish()


def write_new(place: Path, content: bytes, *, mode: int) -> bool:
    """Write a file with these permissions, whole or not at all; return False where something is there already.

    At no instant may others read what they may not in the end. Raises OutputError.
    """
    with draft_file(place, private=True) as draft:
        draft.write(content)
        return draft.publish_new(mode)


class FolderDraft:
    """A folder that is being filled under a temporary name, ``path``.

    ``path.parent`` is nobody else's: what is left there beside it goes when it is published, or is not.
    """

    def __init__(self, path: Path, place: Path) -> None:
        self.path = path
        self._place = place

    def publish(self, *, replace: bool = True) -> Path:
        """Give the folder its name, in the place of one that is there if ``replace``, and return that. Raises OSError.

        All of it is on the disk before the name is. What was replaced goes when the block of ``draft_folder`` ends.
        """
        with signals_held():
            for folder, _, files in os.walk(self.path):
                for file in files:
                    _sync(Path(folder, file))
                _sync(Path(folder))
            if replace and os.path.lexists(self._place):
                self._take_over()
            else:
                self.path.rename(self._place)
            _sync(self._place.parent)
        return self._place

    def _take_over(self) -> None:
        if exchange(self.path, self._place):
            return
        old = self.path.with_name(OLD)
        self._place.rename(old)
        try:
            self.path.rename(self._place)
        except OSError:
            old.rename(self._place)
            raise


@contextmanager
def draft_folder(place: Path, *, refused: str = REFUSED) -> Iterator[FolderDraft]:
    """Yield the FolderDraft of an empty folder; it is removed with all that is in it unless published.

    Raises OutputError, as ``refused`` words it, where it cannot be made; what fails in it later is the caller's to say.
    """
    path, descriptor = None, None
    try:
        with _refusing(place, refused), signals_held():
            place.parent.mkdir(parents=True, exist_ok=True)
            clear_leftovers(place)
            while descriptor is None:
                path = temporary(place)
                descriptor = _create_folder(path)
            assert path is not None
            (path / NEW).mkdir()
        yield FolderDraft(path / NEW, place)
    finally:
        with signals_held():
            try:
                with _refusing(place, refused):
                    if path is not None:
                        remove(path, place)
            finally:
                if descriptor is not None:
                    os.close(descriptor)


def _create(path: Path, mode: int) -> FileIO | None:
    """Return a new file that is marked as alive; None if it was taken for a leftover before it could be."""
    file = open(  # noqa: SIM115 - a Path has no opener; the caller closes it
        path, "xb", buffering=0, opener=lambda name, flags: os.open(name, flags, mode)
    )
    if hold(path, file.fileno()):
        return file
    file.close()
    return None


def _create_folder(path: Path) -> int | None:
    """Return the descriptor of a new folder that is marked as alive; None if it was taken for a leftover before."""
    path.mkdir(mode=0o700)
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    except FileNotFoundError:
        return None
    if hold(path, descriptor):
        return descriptor
    os.close(descriptor)
    return None


def _narrow(descriptor: int, place: Path) -> None:
    """Take from a new file the rights that the one in its place does not give."""
    try:
        before = place.lstat().st_mode
    except FileNotFoundError:
        return
    mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
    if stat.S_ISREG(before) and mode & ~before:
        os.fchmod(descriptor, mode & before)


def _sync(path: Path) -> None:
    """Let a file's bytes, or a folder's names, be on the disk. Raises OSError."""
    if path.is_symlink() or not hasattr(os, "O_DIRECTORY"):  # Windows opens no folder
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NOT_SYNCED:
            raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        os.close(descriptor)


@contextmanager
def _refusing(place: Path, refused: str) -> Iterator[None]:
    """Raise OutputError, one line, for what the system refuses in the block."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"{place}: {refused.format(reason=error.strerror or error)}") from error
