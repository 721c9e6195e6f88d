"""Finding: one thing that ``edgekit doctor`` looked at, how it is, and what to type about it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

State = Literal["ok", "missing", "wrong"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing, how it is, and the command that mends it; no ``fix`` where there is nothing to mend or to type."""

    name: str
    state: State
    text: str
    fix: str = ""


def read_text(path: Path) -> str:
    """Return a system file's text, or "" where the machine does not have it or does not let us read it."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
