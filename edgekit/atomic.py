"""Files and folders that appear whole or not at all: built under a temporary name beside their place, then renamed.

The one writer of everything that EdgeKit leaves behind. What is not published by the end of its block is removed, and
what stood in its place before is then as it was. A program that is killed leaves ``.NAME.XXXXXXXX.partial``, which is
nothing to anybody and may be deleted.
"""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

from edgekit.errors import OutputError

REFUSED = "{reason}; choose another place or free some space"
"""What an OutputError says behind the place: ``reason`` is the system's."""


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

        The bytes are on the disk before the name is: after a power cut there is the old file or the whole new one.
        """
        place = place or self._place
        with _refusing(place, self._refused):
            os.fsync(self.file.fileno())
            return self.path.replace(place)


@contextmanager
def draft_file(place: Path, *, refused: str = REFUSED) -> Iterator[FileDraft]:
    """Yield the FileDraft of a file, whose folder is made where it is missing; it is removed unless published.

    Raises OutputError, as ``refused`` words it, where it cannot be written: a folder of that name is found out at once.
    """
    with _refusing(place, refused):
        if place.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(place))
        place.parent.mkdir(parents=True, exist_ok=True)
        path = _partial(place)
        file = path.open("xb", buffering=0)
    try:
        with file:
            yield FileDraft(path, file, place, refused)
    finally:
        with suppress(OSError):  # it has its name, or its disk is gone
            path.unlink()


def write_whole(place: Path, content: bytes) -> None:
    """Write a file, whole or not at all; raises OutputError."""
    with draft_file(place) as draft:
        draft.write(content)
        draft.publish()


class FolderDraft:
    """A folder that is being filled under a temporary name, ``path``."""

    def __init__(self, path: Path, place: Path) -> None:
        self.path = path
        self._place = place

    def publish(self) -> Path:
        """Give the folder its name, in the place of one that is there, and return that. Raises OSError."""
        if not self._place.exists():
            return self.path.rename(self._place)
        old = self.path.with_name(self.path.name + ".old")
        self._place.rename(old)
        try:
            self.path.rename(self._place)
        except OSError:
            old.rename(self._place)
            raise
        shutil.rmtree(old)
        return self._place


@contextmanager
def draft_folder(place: Path, *, refused: str = REFUSED) -> Iterator[FolderDraft]:
    """Yield the FolderDraft of an empty folder; it is removed with all that is in it unless published.

    Raises OutputError, as ``refused`` words it, where it cannot be made; what fails in it later is the caller's to say.
    """
    with _refusing(place, refused):
        place.parent.mkdir(parents=True, exist_ok=True)
        path = _partial(place)
        path.mkdir()
    try:
        yield FolderDraft(path, place)
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _partial(place: Path) -> Path:
    """Return a temporary name in the same folder, which no other writer chooses."""
    return place.with_name(f".{place.name}.{os.urandom(4).hex()}.partial")


@contextmanager
def _refusing(place: Path, refused: str) -> Iterator[None]:
    """Raise OutputError, one line, for what the system refuses in the block."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"{place}: {refused.format(reason=error.strerror or error)}") from error
