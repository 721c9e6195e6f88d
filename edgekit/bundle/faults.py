"""Faults: what is wrong with a manifest, in words. One is a line with the value, the rule and the JSON path."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

Faults = Iterator[str]
T = TypeVar("T")


def fault(path: str, what: str) -> str:
    """Return a fault at a JSON path, which is given without its ``$.``."""
    return f"{what} - at `$.{path}`"


def first_twice(values: Iterable[T]) -> T | None:
    """Return the first value that comes a second time, None if none does."""
    seen: set[T] = set()
    for value in values:
        if value in seen:
            return value
        seen.add(value)
    return None


def beyond(path: str, token: int, rows: int, table: str = "the table") -> Faults:
    """Yield a fault if a token is no row of a table."""
    if not 0 <= token < rows:
        yield fault(path, f"token {token}, {table} has {rows} rows")
