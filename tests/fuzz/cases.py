"""Cases: small descriptions of damage, drawn by hypothesis, applied to a document or to bytes that were whole.

A Case is integers alone: it is quick to draw, crosses to a child process, prints in one line, shrinks to fewer
edits.
"""

import ast
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

KIND, PLACE = 1 << 8, 1 << 24  # below 2**24 hypothesis draws every number as often
MILD = KIND  # the bit of a kind that makes the edit one that may well be accepted
MOST_EDITS = 4
DEPTH = 100_000  # of what is nested deep: more than any stack holds
DEEP_LIST, DEEP_TABLE = "@deep-list@", "@deep-table@"
WILD: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 7, 255, 2**15, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, -(2**63),
    2**64, 10**6, 10**9, 10**12, 10**30, 0.0, -0.0, 0.5, -0.5, 1e-320, 1e308, math.nan, math.inf, -math.inf,
    "", " ", "a", "0", "-1", "1e9", "../x", "/dev/zero", "/dev/stdin", "a/b", "..", ".", "a\0b", "a\nb", "\x1b[2Jb",
    "\ud800", "\u00e9", "\u202eb", "\U0001f600", "x" * 300, "y" * 100_000, [], {}, [[]], [None], [0] * 5000, ["a", "a"],
    {"a": None}, {"": {}}, DEEP_LIST, DEEP_TABLE,
)  # fmt: skip
SPECIAL_BYTES = (b"\0", b"\xff", b"\x7f", b"\x80", b"\r\n", b"{", b"\xed\xa0\x80", b"\xfe\xff", b"[" * 2000)
SIZES = (0, 1, 2, 3, 255, 2**15 - 1, 2**16 - 1, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**63, 2**64 - 1)

Edit = tuple[int, int, int]


@dataclass(frozen=True)
class Case:
    """Damage to do: which of several whole things is meant, and what is edited in it, where and how."""

    which: int
    edits: tuple[Edit, ...]

    @property
    def mild(self) -> bool:
        """Return whether what comes of it may well be accepted, and is used then."""
        return not self.edits or bool(self.edits[0][0] & MILD)

    def chosen(self, options: Sequence[Any]) -> Any:
        """Return one of several whole things."""
        return options[self.which % len(options)]

    def values(self, wild: Sequence[Any] = WILD) -> list[Any]:
        """Return a wild value for each edit."""
        return [wild[how % len(wild)] for _, _, how in self.edits]

    def tree(self, whole: str | bytes) -> Any:
        """Return the value of a JSON text, edited; edits of bytes do nothing."""
        root = [json.loads(whole)]
        for edit in self.edits:
            if not _is_of_bytes(edit):
                _edit(root, *edit)
        return root[0] if root else None

    def document(self, whole: str | bytes) -> bytes:
        """Return a JSON text, edited as a tree and then as bytes."""
        data = as_json(self.tree(whole))
        for edit in self.edits:
            if _is_of_bytes(edit):
                data = _damaged(data, *edit)
        return data

    def data(self, whole: bytes) -> bytes:
        """Return bytes, edited."""
        for edit in self.edits:
            whole = _damaged(whole, *edit)
        return whole


def cases() -> st.SearchStrategy[Case]:
    """Return the strategy of Cases: half of them one mild edit, half up to MOST_EDITS wild ones."""
    places = st.integers(0, PLACE - 1)
    mild = st.lists(st.tuples(st.integers(MILD, MILD + KIND - 1), places, places), min_size=1, max_size=1)
    wild = st.lists(st.tuples(st.integers(0, KIND - 1), places, places), min_size=1, max_size=MOST_EDITS)
    which = st.integers(0, (1 << 16) - 1)
    return st.builds(lambda which, given: Case(which, tuple(given)), which, st.one_of(mild, wild))


def read_case(text: str) -> Case:
    """Return the Case that a fault was printed with."""
    which, edits = ast.literal_eval(text)
    return Case(which, edits)


def smaller(case: Case) -> Iterator[Case]:
    """Yield Cases that are simpler by one step."""
    for index in range(len(case.edits)):
        if len(case.edits) > 1:
            yield Case(case.which, case.edits[:index] + case.edits[index + 1 :])
    for index, (kind, place, how) in enumerate(case.edits):
        for edit in ((kind & MILD | kind % 32, place, how), (kind, place % 256, how), (kind, place, how % 64)):
            if edit != case.edits[index]:
                yield Case(case.which, (*case.edits[:index], edit, *case.edits[index + 1 :]))


def as_json(value: Any) -> bytes:
    """Return a JSON text; what stands for something deep becomes as deep as that."""
    text = json.dumps(value)
    text = text.replace(json.dumps(DEEP_LIST), "[" * DEPTH + "]" * DEPTH)
    text = text.replace(json.dumps(DEEP_TABLE), '{"a":' * DEPTH + "0" + "}" * DEPTH)
    return text.encode()


def _is_of_bytes(edit: Edit) -> bool:
    return edit[0] % 16 == 15 and not edit[0] & MILD


def _edit(root: list[Any], kind: int, place: int, how: int) -> None:  # noqa: C901, PLR0912 - one case each
    """Edit a tree in place; ``root`` holds it as its only item."""
    holder, key = _place(root, place, walks=bool(kind & 128))
    value = holder[key]
    if kind & MILD:
        holder[key] = _near(value, how)
        return
    alike = [one for one in WILD if type(one) is type(value)] if kind & 64 else []
    wild = _copy((alike or WILD)[how % len(alike or WILD)])
    match kind % 16:
        case 3 if holder is not root:
            del holder[key]
        case 4 if isinstance(holder, dict):
            names = [f"{key}x", str(key).upper(), "", *holder, "\ud800", "a\nb"]
            holder[names[how % len(names)]] = holder.pop(key)
        case 5 if isinstance(holder, list) and holder is not root:
            holder[key:key] = [_copy(value) for _ in range((1, 2, 100)[how % 3])]
        case 5 if isinstance(holder, dict):
            names = [*holder, f"{key}2"]
            holder[names[how % len(names)]] = _copy(value)
        case 6 | 7 if isinstance(value, (int, float)) and not isinstance(value, bool):
            holder[key] = (value + 1, value - 1, value * 2, -value, value // 2, value * 10**6, value + 0.5)[how % 7]
        case 8:
            other, name = _place(root, how, walks=False)
            holder[key] = _copy(other[name])
        case 9:
            other, name = _place(root, how, walks=True)
            if id(holder) not in _containers(other[name]) and id(other) not in _containers(value):
                holder[key], other[name] = other[name], value
        case 10 if isinstance(value, (list, str)):
            holder[key] = (value[:1], value[:-1], value[1:], value[::-1], value + value)[how % 5]
        case 11 if isinstance(value, str):
            holder[key] = (f"../{value}", f"{value}\0", f"{value}\n{value}", f"{value}x", value.upper(), f"/{value}")[
                how % 6
            ]
        case 12:
            holder[key] = ([value], {"a": value}, [value, _copy(value)], f"{value}"[:99], {str(how): value})[how % 5]
        case 13 if isinstance(value, dict):
            value[str(wild)[:50]] = wild
        case _:
            holder[key] = wild


def _near(value: Any, how: int) -> Any:
    """Return another value of the same type, not far away; None and what is empty have none."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return (value + 1, value - 1, value * 2, value // 2, value * 32)[how % 5]
    if isinstance(value, str):
        return (f"{value}x", value[:-1], f"x{value}", value * 2)[how % 4]
    if isinstance(value, list):
        return (value[:-1], value + value[-1:], value[::-1], value[1:])[how % 4]
    if isinstance(value, dict) and value:
        gone = list(value)[how % len(value)]
        return {name: one for name, one in value.items() if name != gone}
    return value


def _place(root: list[Any], place: int, *, walks: bool) -> tuple[Any, Any]:
    """Return a container and a key in it: any of the tree, or by a walk, where each branch is as likely as another."""
    if not walks:
        sites = list(_sites(root))
        return sites[place % len(sites)]
    holder: Any = root
    key: Any = 0
    while True:
        value = holder[key]
        if not isinstance(value, (dict, list)) or not value or place % 8 == 7:
            return holder, key
        place //= 8 if len(value) < 8 else 16  # what is left leads on below
        keys = list(value) if isinstance(value, dict) else range(len(value))
        holder, key = value, keys[place * 2_654_435_761 % len(keys)]


def _sites(holder: Any) -> Iterator[tuple[Any, Any]]:
    for key in list(holder) if isinstance(holder, dict) else range(len(holder)):
        yield holder, key
        if isinstance(holder[key], (dict, list)):
            yield from _sites(holder[key])


def _containers(value: Any) -> set[int]:
    inside = {id(value)}
    if isinstance(value, (dict, list)):
        for one in value.values() if isinstance(value, dict) else value:
            inside |= _containers(one)
    return inside


def _copy(value: Any) -> Any:
    return json.loads(json.dumps(value)) if isinstance(value, (dict, list)) else value


def _damaged(data: bytes, kind: int, place: int, how: int) -> bytes:  # noqa: PLR0911 - one case each
    """Return bytes with one edit; every second wild one lies in the first 128 bytes, where headers are."""
    length = len(data)
    if kind & MILD and kind % 2:
        return data + SPECIAL_BYTES[how % len(SPECIAL_BYTES)]
    if kind & MILD:  # a bit of the second half
        at = length - 1 - place % (length // 2 + 1)
        return data[:at] + bytes([data[at] ^ 1 << how % 8]) + data[at + 1 :] if length else data
    at = place % (min(length, 128) if kind & 128 and length else length + 1)
    run = how % 64 + 1
    match kind // 16 % 8:
        case 0 if at < length:  # a bit
            return data[:at] + bytes([data[at] ^ 1 << how % 8]) + data[at + 1 :]
        case 1 if at < length:  # a byte
            return data[:at] + bytes([how % 256]) + data[at + 1 :]
        case 2:  # cut short
            return data[:at]
        case 3:  # some left out
            return data[:at] + data[at + run :]
        case 4:  # something put in
            return data[:at] + SPECIAL_BYTES[how % len(SPECIAL_BYTES)] + data[at:]
        case 5:  # repeated
            return data[:at] + data[at : at + run * 16] * (2 + how % 3) + data[at + run * 16 :]
        case 6:  # taken from elsewhere
            other = how % (length + 1)
            return data[:at] + data[other : other + run] + data[at + run :]
        case _:  # a field of a size
            width, order = (1, 2, 4, 8)[how % 4], ("little", "big")[how // 4 % 2]
            value = SIZES[how // 8 % len(SIZES)] % (1 << 8 * width)
            return data[:at] + value.to_bytes(width, order) + data[at + width :]  # type: ignore[arg-type]
