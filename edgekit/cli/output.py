"""Output: stdout and stderr as commands print to them, whatever they are: not UTF-8, closed, full, without a reader.

What an encoding lacks is escaped as JSON does it, so that a line of JSON stays one. A result that cannot be written is
an OutputError. What is said by the way, on stderr, ends nothing: there is no other place to say that it was lost.
"""

import codecs
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from typing import Any, TextIO, cast

from edgekit.errors import OutputError

ESCAPE = "edgekit.escape"
_LAST_STANDARD = 2  # stderr's descriptor


class ReaderGoneError(OutputError):
    """Who read the output has enough of it, as ``head`` has: worth no word."""


@contextmanager
def open_output() -> Iterator[None]:
    """Let sys.stdout and sys.stderr be such streams in the block."""
    _fill_standard()
    before = sys.stdout, sys.stderr
    results, notices = _Results(sys.stdout), _Notices(sys.stderr)
    sys.stdout, sys.stderr = cast("TextIO", results), cast("TextIO", notices)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
        results.close()
        notices.close()


class _Stream(ABC):
    """A text stream beside one that may not be there; it has no ``buffer``, which would have another encoding."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream or open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 - no path; see `close`
        self._owned = stream is None
        self._errors = self._stream.errors
        if isinstance(self._stream, TextIOWrapper):
            self._stream.reconfigure(errors=ESCAPE)

    def __getattr__(self, name: str) -> Any:
        if name == "buffer":
            raise AttributeError(name)
        return getattr(self._stream, name)

    def writelines(self, lines: list[str]) -> None:
        """Write each of them."""
        for line in lines:
            self.write(line)

    @abstractmethod
    def write(self, text: str) -> int:
        """Write a text; see the subclass for where that fails."""

    def close(self) -> None:
        """Leave the stream as it was found."""
        with suppress(OSError, ValueError):  # a later flush tells, if anybody is told
            if self._owned:
                self._stream.close()
            elif isinstance(self._stream, TextIOWrapper):
                self._stream.reconfigure(errors=self._errors)


class _Results(_Stream):
    """stdout: what it does not take is an OutputError."""

    def __init__(self, stream: TextIO | None) -> None:
        super().__init__(stream)
        self._failed = False

    def write(self, text: str) -> int:
        """Write a text. Raises OutputError."""
        with self._refusing():
            return self._stream.write(text)

    def flush(self) -> None:
        """Hand on what is held back. Raises OutputError."""
        with self._refusing(flushing=True):
            self._stream.flush()

    def close(self) -> None:
        """Leave the stream as it was found, or after a failure to nobody: Python would try again when it ends.

        What a command that failed has held back is handed on here, not by Python: a signal may come in between.
        """
        with suppress(OutputError, ValueError):  # a command that did not fail has flushed, and was told
            self.flush()
        if self._failed and not self._owned:
            with suppress(OSError, ValueError):
                nobody = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nobody, self._stream.fileno())
                os.close(nobody)
        super().close()

    @contextmanager
    def _refusing(self, *, flushing: bool = False) -> Iterator[None]:
        if self._owned or self._stream.closed:
            if flushing:  # nothing was written
                return (yield)
            raise OutputError("output: not written, stdout is closed; leave it open, or send it to a file")
        try:
            yield
        except BrokenPipeError as error:
            self._failed = True
            raise ReaderGoneError("output: nobody reads it any more; run it again without what ended") from error
        except OSError as error:
            self._failed = True
            reason = error.strerror or str(error)
            raise OutputError(f"output: not written, {reason}; free some space or send it elsewhere") from error


class _Notices(_Stream):
    """stderr: what it does not take is lost."""

    def write(self, text: str) -> int:
        """Write a text, if that can be done."""
        with suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Hand on what is held back, if that can be done."""
        with suppress(OSError, ValueError):
            self._stream.flush()


def _escape(error: UnicodeError) -> tuple[str, int]:
    """Return what stands for letters that an encoding lacks, in UTF-16 as JSON has them, and where to go on."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2)), error.end


codecs.register_error(ESCAPE, _escape)


def _fill_standard() -> None:
    """Open what is closed of descriptors 0 to 2 on nothing: else a file gets the number, and what libraries print."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= _LAST_STANDARD:  # the lowest that is free
        pass
    os.close(number)
