"""Memory: what there is for a run, what loading a bundle takes of it, and what building a plan takes.

On a board whose GPU shares the memory, what is available is the budget of both. What a library adds to a bundle's own
bytes was measured, and is kept in ``runtimes/memory.toml``: each part names the device, the versions, the day and the
command that it was measured with.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, get_args

import msgspec
import numpy as np

from edgekit.bundle import Bundle, Component, Manifest
from edgekit.bundle.manifest import Precision, Struct
from edgekit.errors import BackendError, ProfileError
from edgekit.limits import ROOT, control_groups, read_text, whole_number
from edgekit.resources import resource

FILE = "runtimes/memory.toml"
SCHEMA_VERSION = 1
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

_Factor = Annotated[float, msgspec.Meta(ge=0, le=1e6)]
MIB = 1 << 20
_FIELD = re.compile(r"^(\w+):\s+(\d{1,20}) kB$", re.MULTILINE)
# Of a control group, by version: its limit, its use, and what of the use are pages of files.
_GROUPS = {
    2: ("memory.max", "memory.current", ("inactive_file", "active_file")),
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file")),
}


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


@dataclass(frozen=True, slots=True)
class Need:
    """MiB that loading takes at least: ``weights``, and ``state`` that is handed from call to call."""

    weights: float
    state: float


def total_mib(root: Path = ROOT) -> int:
    """Return what this process may use at most: the machine's memory, or a container's limit if that is less; or 0."""
    limits = [limit >> 20 for limit, _ in _groups(root)]
    return min([_meminfo(root).get("MemTotal", 0) >> 10, *limits])


def available_mib(root: Path = ROOT) -> float | None:
    """Return what this process may still take: of the machine, or of its container if that is less; None if not told.

    Pages of files count as available, since the kernel drops them. What a GPU with memory of its own has is its
    driver's to say.
    """
    machine = _meminfo(root).get("MemAvailable")
    if machine is None:
        return None
    return min([machine / 1024, *(max(0, limit - used) / MIB for limit, used in _groups(root))])


def weight_bytes(manifest: Manifest, names: Iterable[str] | None = None) -> dict[str, int]:
    """Return the size of each component's weights, of all of them by default; 0 where the graph holds its own."""
    sizes = {entry.path: entry.bytes for entry in manifest.files}
    chosen = manifest.components if names is None else names
    found = {name: manifest.components[name].data for name in chosen}
    return {name: sizes[data] if data else 0 for name, data in found.items()}


def state_bytes(component: Component, sizes: Mapping[str, int]) -> int:
    """Return the size of what a component is handed from call to call; ``sizes``: its free ones, 0 where not told.

    That is its caches, ``carried`` ones in two buffers, and the keys and values of the longest utterance.
    """
    total = 0
    for spec in component.inputs:
        if spec.state == "none" and not spec.name.startswith("cross."):
            continue
        shape = [size if isinstance(size, int) else sizes.get(size, 0) for size in spec.shape]
        total += math.prod(shape) * np.dtype(spec.dtype).itemsize * (2 if spec.state == "carried" else 1)
    return total


def packed_need(manifest: Manifest, names: Iterable[str]) -> Need:
    """Return what onnxruntime's CPU backend packs for certain of these components' weights."""
    weights = weight_bytes(manifest, names)
    share = memory_fits().loading.weights
    packed = sum(share[manifest.components[name].precision] * size for name, size in weights.items())
    return Need(packed / MIB, 0.0)


def check_load(bundle: Bundle, need: Need, available: float | None, where: str = "this machine") -> None:
    """Raise BackendError if a Need is more than the MiB that are available; ``where``: whose memory that is."""
    whole = need.weights + need.state
    if available is None or whole <= available:
        return
    step = _advice(bundle.manifest, caches=need.state > 0)
    raise BackendError(
        f"{bundle.folder}: loading it takes at least {whole:,.0f} MiB ({need.weights:,.0f} weights, "
        f"{need.state:,.0f} caches), {where} has {available:,.0f} MiB available; {step}"
    )


def build_peak_mib(manifest: Manifest, name: str) -> float:
    """Return what the builder is predicted to allocate for the plan of a component, at its peak."""
    component = manifest.components[name]
    fit = memory_fits().building.peaks[component.precision]
    graph = next(entry.bytes for entry in manifest.files if entry.path == component.graph)
    return fit.weights * weight_bytes(manifest, [name])[name] / MIB + fit.graph * graph / MIB + fit.base_mib


def check_build(bundle: Bundle, name: str, available: float | None) -> float | None:
    """Return what a component's build leaves of the available MiB; None if that is not known.

    Raises BackendError if it would leave nothing: the machine would begin to swap.
    """
    if available is None:
        return None
    left = available - build_peak_mib(bundle.manifest, name)
    if left < 0:
        raise BackendError(
            f"{bundle.folder}: building the plan of '{name}' is predicted to take {available - left:,.0f} MiB, this "
            f"machine has {available:,.0f} MiB available; {_advice(bundle.manifest)}"
        )
    return left


def _advice(manifest: Manifest, *, caches: bool = False) -> str:
    order: tuple[Precision, ...] = ("float32", "int8", "int4")
    widest = min((order.index(one.precision) for one in manifest.components.values()), default=len(order) - 1)
    offered = order[widest + 1 :]
    smaller = f"export it with --precision {' or '.join(offered)}" if offered else "choose a smaller model"
    return f"end other programs, {'shorten the cache with --context-tokens, ' if caches else ''}or {smaller}"


def _meminfo(root: Path) -> dict[str, int]:
    return {key: int(kib) for key, kib in _FIELD.findall(read_text(root / "proc/meminfo"))}


def _groups(root: Path) -> Iterator[tuple[int, int]]:
    """Yield limit and use in bytes of every control group that limits this process; pages of files are no use."""
    for version, folder in control_groups(root, "memory"):
        limit_file, used_file, dropped = _GROUPS[version]
        limit, used = (whole_number(read_text(folder / name)) for name in (limit_file, used_file))
        if limit is not None:
            stat = dict(line.split(" ", 1) for line in read_text(folder / "memory.stat").splitlines() if " " in line)
            files = sum(whole_number(stat.get(name, "")) or 0 for name in dropped)
            yield limit, (0 if used is None else used - files)
