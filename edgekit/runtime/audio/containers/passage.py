"""Passage: one stretch of a file that a decoder reads as a whole, and the file as that decoder shall see it.

Knows bytes; knows nothing of sound.
"""

import io
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_BUFFER = 1 << 17
_FEWEST_LOOKS, _LOOK_BYTES = 10_000, 10  # the smallest frames of MP3 have 24 bytes, and take two looks

Piece = bytes | range
"""Bytes that stand in for some of the file's, or where in the file those are that stay."""


@dataclass(frozen=True, slots=True)
class Passage:
    """One passage in a file, which may hold several, one behind the other.

    ``pieces``: what its decoder shall see. ``end``: the byte of the file behind it. ``samples``: how many of each
    channel are in it, where its kind tells that better than its decoder. ``truncated``: says what is missing, by the
    header, before a sample is heard; ``cut``: what is missing, to be said when the rest was heard. ``notice``: what is
    left out that is no sound as far as one can tell.
    """

    pieces: tuple[Piece, ...]
    end: int
    samples: int = 0
    truncated: str = ""
    cut: str = ""
    notice: str = ""


class Window:
    """Bytes of a file at any position, of which a few are wanted at a time and in order.

    Raises ValueError for a file of nothing but headers, which would take minutes to look through.
    """

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file, self._start, self._data = file, 0, b""
        self.size = size
        self._looks = _FEWEST_LOOKS + size // _LOOK_BYTES

    def at(self, position: int, count: int) -> bytes:
        """Return ``count`` bytes from a position on, fewer at the end of the file, none beyond it."""
        if position >= self.size:  # a header may name any place, even one that no file can have
            return b""
        self._looks -= 1
        if self._looks < 0:
            raise ValueError("more headers than sound in it")
        skipped = position - self._start
        if skipped < 0 or skipped + count > len(self._data):
            self.file.seek(position)
            self._data = self.file.read(max(count, _BUFFER))
            self._data = self._data[: max(0, self.size - position)]
            self._start, skipped = position, 0
        return self._data[skipped : skipped + count]

    def find(self, wanted: bytes, position: int) -> int:
        """Return where ``wanted`` next begins from a position on, the file's size where it does not."""
        while position < self.size:
            self.at(position, len(wanted))
            if (found := self._data.find(wanted, position - self._start)) >= 0:
                return self._start + found
            position = max(position + 1, self._start + len(self._data) - len(wanted) + 1)
        return self.size


def id3_bytes(head: bytes) -> int:
    """Return how long the tag is that ten bytes begin, 0 if they begin none. Source: id3.org, ID3v2.4, section 3."""
    if len(head) < 10 or head[:3] != b"ID3" or any(byte > 0x7F for byte in head[6:10]):
        return 0
    length = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
    return 10 + length + (10 if head[5] & 0x10 else 0)


class Splice(io.RawIOBase):
    """A file made of pieces of another one. Never raises: ``error`` is the first that the other file raised.

    libsndfile calls it from C, where an exception is lost; so it reads as a file that ends there. ``ended``: more was
    wanted than there is.
    """

    def __init__(self, file: BinaryIO, pieces: Sequence[Piece]) -> None:
        self._file, self._pieces = file, tuple(piece for piece in pieces if len(piece))
        self._starts = [0, *accumulate(map(len, self._pieces))]
        self._at = 0
        self.error: OSError | ValueError | None = None
        self.ended = False

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._at

    @property
    def left(self) -> int:
        """Bytes behind the position."""
        return max(0, self._starts[-1] - self._at)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move, as any file does."""
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._starts[-1]}[whence])
        return self._at

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """Fill a buffer as far as there are bytes."""
        view = memoryview(buffer).cast("B")
        filled = 0
        try:
            while filled < len(view) and (data := self._next(len(view) - filled)):
                view[filled : filled + len(data)] = data
                filled += len(data)
                self._at += len(data)
        except (OSError, ValueError) as error:  # ValueError: the file was closed meanwhile
            self.error = self.error or error
        self.ended = filled < len(view)
        return filled

    def _next(self, most: int) -> bytes:
        """Return some bytes from the position on, none at the end."""
        index = bisect_right(self._starts, self._at) - 1
        if index >= len(self._pieces):
            return b""
        piece, skipped = self._pieces[index], self._at - self._starts[index]
        if isinstance(piece, bytes):
            return piece[skipped : skipped + most]
        self._file.seek(piece.start + skipped)
        return self._file.read(min(most, len(piece) - skipped))
