"""What libraries take in memory beside a bundle's own bytes: measured, and kept in ``runtimes/memory.toml``.

Each part names the device, the versions, the day and the command that it was measured with. Knows the file and no rule
of what is refused by it (``memory.py``).
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, get_args

import msgspec

from edgekit.bundle.manifest import Precision, Struct
from edgekit.errors import ProfileError
from edgekit.resources import resource

FILE = "runtimes/memory.toml"
SCHEMA_VERSION = 1
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

_Factor = Annotated[float, msgspec.Meta(ge=0, le=1e6)]


class Provenance(Struct, frozen=True):
    """Where figures are from. ``device``: its slug, as under profiles/; ``report``: the samples behind them."""

    device: str
    cpu: str
    date: Annotated[str, msgspec.Meta(pattern=r"^\d{4}-\d{2}-\d{2}$")]
    command: str
    report: str
    versions: dict[str, str]


class LoadingFit(Struct, frozen=True):
    """Share of the weights, by precision, that onnxruntime's CPU backend packs into memory of its own at least.

    The mapped file of the weights is let go for it.
    """

    source: Provenance
    weights: dict[Precision, _Factor]

    def __post_init__(self) -> None:
        """Raise ValueError, which msgspec tells with the place, where a precision is left out."""
        _check_precisions(self.weights)


class BuildPeak(Struct, frozen=True):
    """MiB at the peak: ``weights`` x those of the weights + ``graph`` x those of the graph's file + ``base_mib``."""

    weights: _Factor
    graph: _Factor
    base_mib: _Factor


class BuildingFit(Struct, frozen=True):
    """What TensorRT's builder allocates for the plan of a component, by its precision."""

    source: Provenance
    peaks: dict[Precision, BuildPeak]

    def __post_init__(self) -> None:
        """Raise ValueError as in LoadingFit."""
        _check_precisions(self.peaks)


class MemoryFits(Struct, frozen=True):
    """The file: what loading a bundle takes, and what building a plan takes."""

    schema_version: int
    loading: LoadingFit
    building: BuildingFit


@cache
def memory_fits() -> MemoryFits:
    """Return the fits that ship with EdgeKit, read when they are first asked for. Raises ProfileError."""
    return read_fits(resource(FILE))


def read_fits(path: Path) -> MemoryFits:
    """Return the fits in a TOML file; raises ProfileError, one line, for one that is missing or broken."""
    again = "install EdgeKit again, or measure them with `make bench-memory`"
    try:
        fits = msgspec.toml.decode(path.read_bytes(), type=MemoryFits)
    except OSError as error:
        raise ProfileError(f"{path}: {error.strerror}, what memory things take is read from it; {again}") from error
    except (msgspec.MsgspecError, ValueError) as error:
        raise ProfileError(f"{path}: {' '.join(str(error).split())}; {again}") from error
    if fits.schema_version != SCHEMA_VERSION:
        raise ProfileError(
            f"{path}: schema version {fits.schema_version}, this EdgeKit reads {SCHEMA_VERSION}; {again}"
        )
    return fits


def _check_precisions(found: Mapping[Precision, object]) -> None:
    if absent := [name for name in PRECISIONS if name not in found]:
        raise ValueError(f"{', '.join(absent)}: left out, each of {', '.join(PRECISIONS)} is needed")
