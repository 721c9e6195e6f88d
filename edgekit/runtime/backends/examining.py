"""What is found out about a machine, part by part: how it is, and what to type about it."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from edgekit.limits import read_text

State = Literal["ok", "missing", "wrong"]
APT = "sudo apt install nvidia-jetpack"
DRIVER_LIBRARY = "in a container: docker run --gpus all; else install the driver again"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing, how it is, and the command that mends it; no ``fix`` where there is nothing to mend or to type."""

    name: str
    state: State
    text: str
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Examined:
    """What was found of a backend; ``here``: whether it runs bundles on this machine. Parts may be another's, too."""

    findings: tuple[Finding, ...]
    here: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """What the process said; ``error`` says in one line why it said nothing, ``printed`` is all it wrote to stderr."""

    said: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    printed: str = ""


@dataclass(frozen=True, slots=True)
class Machine:
    """Where a backend is looked for: files below ``root``; ``gpu``: whether an NVIDIA GPU was seen.

    ``ask`` puts a question to a library in a process of its own: a function by its import path and one argument of it,
    "" for none; see ``probing.ask``.
    """

    root: Path
    gpu: bool
    ask: Callable[[str, str], Answer]

    @property
    def jetson(self) -> str:
        """See ``jetson_release``."""
        return jetson_release(self.root)


def jetson_release(root: Path) -> str:
    """Return the release of Jetson Linux, such as 36.4.3, or "" where this is no Jetson."""
    found = re.search(r"R(\d+)\s*\(release\),\s*REVISION:\s*([\d.]+)", read_text(root / "etc/nv_tegra_release"))
    return f"{found[1]}.{found[2]}" if found else ""
