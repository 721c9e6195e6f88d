"""Backend: what loads the components of a bundle, one Engine for each; and what it is asked beside that.

A stranger's is an object with these names, registered once; see the package.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from edgekit.bundle import Bundle
from edgekit.limits import ROOT
from edgekit.recipe import Target
from edgekit.runtime.backends.examining import Examined, Machine
from edgekit.runtime.engine import Engine
from edgekit.runtime.memory import Need

Progress = Callable[[str, int, int], None]
"""Called with the component, work done and work in all."""


@dataclass(frozen=True, slots=True)
class Runs:
    """A dialect that a backend runs. Of several backends the one with the lowest ``preference`` is meant.

    ``twin``: with the same numbers and too slowly for use, so that it is meant only where it is named.
    """

    dialect: str
    preference: int = 0
    twin: bool = False


@dataclass(frozen=True, slots=True)
class LoadSettings:
    """How engines are loaded. ``backend`` None: the dialect's own. ``threads``: of each engine on the CPU.

    ``plans``: the folder of a backend's plans, if it is not the one beside the bundle. ``root``: below it lies what the
    machine says of its memory; its own unless a test says otherwise.
    """

    threads: int
    context_tokens: int
    backend: str | None = None
    allow_fallback: bool = False
    plans: Path | None = None
    root: Path = ROOT


class Backend(Protocol):
    """What runs components of some dialects."""

    @property
    def name(self) -> str:
        """What it is asked for by."""
        ...

    @property
    def dialects(self) -> tuple[Runs, ...]:
        """What it runs."""
        ...

    everywhere: bool = False
    """Whether it needs no device: then others fall back to it, and an exporter judges a bundle by it."""

    def absent(self) -> str:
        """Return in one line why its software is not here and what to type, "" if it is; loads nothing."""
        ...

    def load(self, bundle: Bundle, names: tuple[str, ...], settings: LoadSettings) -> Mapping[str, Engine]:
        """Return the Engine of each named component.

        Raises BackendError or MissingPackageError if it is not there, does not take a component, or has not the memory
        for them; BundleFormatError for what no backend could run.
        """
        ...

    def need(self, bundle: Bundle, names: tuple[str, ...], context_tokens: int) -> Need:
        """Return what loading these components for one stream takes for certain, at a length of the KV cache."""
        ...

    def examine(self, machine: Machine) -> Examined:
        """Return how it is on this machine, for ``edgekit doctor``."""
        ...


class Built(Protocol):
    """One component's plan: where it lies, whether it was there already, and what to tell of it."""

    @property
    def component(self) -> str:
        """The component's name."""
        ...

    @property
    def path(self) -> Path:
        """The plan's file."""
        ...

    @property
    def kept(self) -> bool:
        """Whether it was there from before."""
        ...

    @property
    def size_bytes(self) -> int:
        """How large the plan is."""
        ...

    @property
    def build_s(self) -> float:
        """How long it took to build."""
        ...

    @property
    def summary(self) -> str:
        """What it holds, in a few words."""
        ...

    @property
    def facts(self) -> Mapping[str, Any]:
        """All that is known of it, as JSON takes it."""
        ...


@runtime_checkable
class Builder(Protocol):
    """A Backend that runs plans, which are built of a bundle beforehand."""

    def build(
        self, bundle: Bundle, target: Target, folder: Path | None, context_tokens: int | None, progress: Progress
    ) -> list[Built]:
        """Return the plan of every component, built now or kept from before; raises BackendError where that fails.

        folder: where plans lie, by default beside the bundle; context_tokens: length of the KV cache, the bundle's own
        by default.
        """
        ...
