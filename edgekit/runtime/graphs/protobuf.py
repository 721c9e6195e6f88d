"""Fields of a protobuf message, read where they lie; knows the wire format and no message.

Source: protobuf.dev, Encoding.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_MOST_BYTES = 10  # of a varint
_HIGH = bytes(range(128, 256))  # bytes after which a varint goes on

Span = tuple[int, int]
"""Where a field of bytes lies: its first byte, and the one behind its last."""


class UnreadableError(ValueError):
    """What makes a file no message that is taken here, in a few words."""


@dataclass(frozen=True, slots=True)
class Field:
    """A field that a message may have: its wire types, and whether it may come more than once."""

    wires: tuple[int, ...] = (BYTES,)
    many: bool = False


@dataclass(frozen=True, slots=True)
class Message:
    """A kind of message: the fields that are read, by number, and what those are called that are refused."""

    name: str
    fields: Mapping[int, Field]
    refused: Mapping[int, str]


class Reader:
    """Reads messages of one file; ``most``: fields of all of them together."""

    def __init__(self, data: bytes, most: int) -> None:
        self.data = data
        self._most = most
        self._left = most

    def read(self, span: Span, message: Message) -> dict[int, list[int | Span]]:
        """Return the fields of a message by number: whole numbers as such, all else as where it lies.

        Raises UnreadableError for what is no message, for a field that the message may not have, and for one that
        comes twice and may not.
        """
        result: dict[int, list[int | Span]] = {}
        known, left = message.fields, self._left
        for number, wire, value in _fields(self.data, *span):
            left -= 1
            if left < 0:
                raise UnreadableError(f"more than {self._most} fields")
            rule = known.get(number)
            if rule is None:
                what = message.refused.get(number, f"field {number}")
                raise UnreadableError(f"{message.name} with {what}, which no dialect writes")
            if wire not in rule.wires:
                raise UnreadableError(f"{message.name} whose field {number} is of wire type {wire}")
            values = result.get(number)
            if values is None:
                result[number] = [value]
            elif rule.many:
                values.append(value)
            else:
                raise UnreadableError(f"{message.name} that has field {number} twice")
        self._left = left
        return result

    def bytes(self, value: int | Span) -> bytes:
        """Return the bytes of a field."""
        assert isinstance(value, tuple)
        return self.data[value[0] : value[1]]

    def numbers(self, values: list[int | Span], most: int) -> list[int]:
        """Return whole numbers, packed or one by one, as signed 64 bits; UnreadableError if there are more."""
        result: list[int] = []
        for value in values:
            if isinstance(value, int):
                result.append(_signed(value))
                continue
            position, end = value
            while position < end:
                number, position = _varint(self.data, position, end)
                result.append(_signed(number))
                if len(result) > most:
                    raise UnreadableError(f"more than {most} numbers in a row")
        if len(result) > most:
            raise UnreadableError(f"more than {most} numbers in a row")
        return result

    def count(self, values: list[int | Span], width: int) -> int:
        """Return how many numbers there are, packed or one by one; width: their bytes, 0 for varints."""
        result = 0
        for value in values:
            if isinstance(value, int) or not isinstance(value, tuple):
                result += 1
            elif width:
                result += (value[1] - value[0]) // width
            else:
                result += len(self.bytes(value).translate(None, _HIGH))
        return result


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _fields(data: bytes, start: int, end: int) -> Iterator[tuple[int, int, int | Span]]:
    """Yield number, wire type and value of each field of the message in ``data[start:end]``."""
    position = start
    while position < end:
        key = data[position]
        position += 1
        if key > 127:
            key, position = _varint(data, position - 1, end)
        wire = key & 7
        if wire == BYTES:
            if position >= end:
                raise UnreadableError(f"cut off at byte {end}")
            size = data[position]
            position += 1
            if size > 127:
                size, position = _varint(data, position - 1, end)
            low, position = position, position + size
            if position > end:
                raise UnreadableError(f"field {key >> 3} runs over the end at byte {end}")
            yield key >> 3, wire, (low, position)
        elif wire == VARINT:
            value, position = _varint(data, position, end)
            yield key >> 3, wire, value
        elif wire in (FIXED32, FIXED64):
            low, position = position, position + (4 if wire == FIXED32 else 8)
            if position > end:
                raise UnreadableError(f"field {key >> 3} runs over the end at byte {end}")
            yield key >> 3, wire, int.from_bytes(data[low:position], "little")
        else:
            raise UnreadableError(f"wire type {wire} at byte {position}")


def _varint(data: bytes, position: int, end: int) -> tuple[int, int]:
    """Return a base-128 number of 64 bits and the position after it."""
    value = 0
    for shift in range(0, 7 * _MOST_BYTES, 7):
        if position >= end:
            raise UnreadableError(f"cut off at byte {end}")
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & (1 << 64) - 1, position
    raise UnreadableError(f"number longer than {_MOST_BYTES} bytes at byte {position}")
