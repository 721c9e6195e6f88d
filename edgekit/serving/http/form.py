"""A form with a recording in it, read as it comes, into memory alone: what people say is written to no disk."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from edgekit.reprs import cut
from edgekit.serving.http.errors import ApiError, unknown

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

FILE = "file"
_MOST_PARTS, _LARGEST_FIELD, _LARGEST_HEAD = 64, 64 * 2**10, 4096
_WITH_CURL = "e.g. curl -F file=@talk.wav"


@dataclass(slots=True)
class Form:
    """``texts``: its fields by name, ``[]`` at the end left out; ``file``: the bytes of its recording."""

    texts: dict[str, list[str]] = field(default_factory=dict)
    file: bytearray | None = None


async def read_form(request: Request) -> Form:
    """Return the form of a request. Raises ApiError for what is none, and for one without a recording."""
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind.lower() != b"multipart/form-data":
        raise ApiError(415, f"Content-Type: multipart/form-data is needed, with a file in it; {_WITH_CURL}")
    if not options.get(b"boundary"):
        raise _broken("its boundary is missing")
    form = await _Reading(options[b"boundary"]).read(request.stream())
    if form.file is None:
        problem = f"{FILE}: there is none, a recording is needed; {_WITH_CURL}"
        raise ApiError(400, problem, param=FILE, code="missing_required_parameter")
    return form


class _Reading:
    """The callbacks of python-multipart."""

    def __init__(self, boundary: bytes) -> None:
        callbacks: MultipartCallbacks = {
            "on_part_begin": self._part_begins, "on_part_data": self._part, "on_part_end": self._part_ends,
            "on_header_field": self._header_name, "on_header_value": self._header_value,
            "on_header_end": self._header_ends, "on_headers_finished": self._headers_end, "on_end": self._ends,
        }  # fmt: skip
        try:
            self._parser = MultipartParser(boundary, callbacks)
        except FormParserError as error:
            raise _broken(str(error)) from error
        self._form = Form()
        self._parts = 0
        self._whole = False
        self._part_begins()

    async def read(self, pieces: AsyncIterator[bytes]) -> Form:
        """Return the form."""
        try:
            async for piece in pieces:
                self._parser.write(piece)
            self._parser.finalize()
        except FormParserError as error:
            raise _broken(str(error)) from error
        if not self._whole:
            raise _broken("it ends before its last boundary")
        return self._form

    def _part_begins(self) -> None:
        self._head: dict[bytes, bytes] = {}
        self._header, self._value = b"", b""
        self._name, self._filename = "", False
        self._text = bytearray()
        self._parts += 1
        if self._parts > _MOST_PARTS:
            raise _broken(f"more than {_MOST_PARTS} parts")

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]
        self._check_head()

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]
        self._check_head()

    def _check_head(self) -> None:
        if len(self._header) + len(self._value) + sum(map(len, self._head.values())) > _LARGEST_HEAD:
            raise _broken(f"the head of a part is larger than {_LARGEST_HEAD:,} bytes")

    def _header_ends(self) -> None:
        self._head[self._header.lower()] = self._value
        self._header, self._value = b"", b""

    def _headers_end(self) -> None:
        _, options = parse_options_header(self._head.get(b"content-disposition", b""))
        if not options.get(b"name"):
            raise _broken("a part has no name")
        self._name = options[b"name"].decode("utf-8", "backslashreplace")
        self._filename = b"filename" in options
        if not self._filename:
            return
        if self._name != FILE:
            raise unknown(self._name, f"the recording is called `{FILE}`")
        if self._form.file is not None:
            raise ApiError(400, f"{FILE}: there are two, send one", param=FILE, code="invalid_value")
        self._form.file = bytearray()

    def _part(self, data: bytes, start: int, end: int) -> None:
        if self._filename:
            assert self._form.file is not None, "its head was read"
            self._form.file += data[start:end]
            return
        self._text += data[start:end]
        if len(self._text) > _LARGEST_FIELD:
            name = cut(ascii(self._name)[1:-1], 60)
            raise ApiError(400, f"{name}: larger than {_LARGEST_FIELD:,} bytes; send less", param=name)

    def _part_ends(self) -> None:
        if not self._filename:
            text = self._text.decode("utf-8", "backslashreplace")
            self._form.texts.setdefault(self._name.removesuffix("[]"), []).append(text)

    def _ends(self) -> None:
        self._whole = True


def _broken(reason: str) -> ApiError:
    shown = cut(ascii(reason)[1:-1].rstrip("."), 200)
    return ApiError(400, f"multipart/form-data: {shown}; {_WITH_CURL}", code="multipart")
