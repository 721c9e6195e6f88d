"""TOML of plain data, whether it can be TOML or not."""

import json
from typing import Any

from tests.fuzz.cases import DEEP_LIST, DEEP_TABLE

_DEPTH = 900  # what a line of 2,000 characters can hold


def as_toml(tree: Any) -> bytes:
    """Return the text of a table; None has no form in TOML and becomes a bare word."""
    if not isinstance(tree, dict):
        return _value(tree)
    lines = [f"{json.dumps(key)} = ".encode() + _value(value) for key, value in tree.items()]
    return b"\n".join(lines) + b"\n"


def _value(value: Any) -> bytes:
    if value in (DEEP_LIST, DEEP_TABLE):
        open_, close = (b"[", b"]") if value == DEEP_LIST else (b"{a=", b"}")
        return open_ * _DEPTH + b"0" + close * _DEPTH
    if isinstance(value, dict):
        return b"{" + b", ".join(f"{json.dumps(key)} = ".encode() + _value(one) for key, one in value.items()) + b"}"
    if isinstance(value, list):
        return b"[" + b",\n ".join(map(_value, value)) + b"]"
    if isinstance(value, float):
        return repr(value).encode()
    return json.dumps(value).encode()
