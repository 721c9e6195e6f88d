"""Reprs: objects in one line of at most LONGEST characters, for a prompt, a log and a traceback.

A field that is as by default says nothing; what is long is told by its number. Whole values are in the fields.
"""

from collections.abc import Mapping
from dataclasses import MISSING, fields

LONGEST = 200
_TEXT = 80  # characters of one text
_ITEMS = 32  # characters of one collection


def line(thing: object, **shown: object) -> str:
    """Return ``Name(field=value, ...)``."""
    return cut(f"{type(thing).__name__}({', '.join(f'{name}={short(value)}' for name, value in shown.items())})")


def fields_line(thing: object) -> str:
    """Return the line of a dataclass: every field of its repr that is not as by default."""
    shown = {}
    for one in fields(thing):  # type: ignore[arg-type]
        value = getattr(thing, one.name)
        if one.repr and (one.default is MISSING or value != one.default):
            shown[one.name] = value
    return line(thing, **shown)


def short(value: object) -> str:
    """Return a value's repr, or what it is and how much of it there is where that is long."""
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple) and shape:
        return f"<{getattr(value, 'dtype', '')} {'x'.join(map(str, shape))}>"
    if isinstance(value, str):
        return repr(value if len(value) <= _TEXT else f"{value[: _TEXT - 1]}…")
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (Mapping, tuple, list, set, frozenset, bytes)):
        # the number decides first: a text of a million items is not made to be thrown away
        whole = repr(value) if len(value) <= _ITEMS // 2 else ""
        return (
            whole if 0 < len(whole) <= _ITEMS else f"<{len(value)} {'bytes' if isinstance(value, bytes) else 'items'}>"
        )
    try:
        return cut(repr(value), _TEXT)
    except Exception:  # noqa: BLE001 - of a caller's own, or of a whole number with thousands of digits
        return f"<{type(value).__name__}>"


def quoted(value: object) -> str:
    """Return what a caller gave, as an error names it: as ``short``, numbers with all their digits."""
    return repr(value) if isinstance(value, float) else short(value)


def exact(value: object) -> str:
    """Return a value's repr for a message that refuses it: 1.0 is not 1; its end left out where it is long."""
    return cut(repr(value), _TEXT)


def cut(text: str, longest: int = LONGEST) -> str:
    """Return a text, its end left out where it is longer than that."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
