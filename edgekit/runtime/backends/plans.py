"""PlanStore: plans of a bundle beside it, each in one file that says what it was built from.

A plan is a cache: one that is damaged, or was built from another graph, by another version or for another device, is as
good as none, and its bytes reach no TensorRT.
"""

import hashlib
import os
import tempfile
from pathlib import Path

import msgspec

from edgekit.bundle import Bundle
from edgekit.bundle.manifest import Struct
from edgekit.errors import OutputError
from edgekit.runtime.backends.sizes import input_sizes

_MAGIC = b"edgekit plan 1\n"
_MAX_HEADER_BYTES = 1 << 16
PORTABLE = "8.0 to 12.0"
"""The device of a plan that TensorRT for RTX built for all that it builds for unless told otherwise."""


class PlanKey(Struct, frozen=True):
    """All that decides what a plan is: hashes of graph and weights, what built it, and for what sizes.

    ``device``: compute capabilities that it was built for, or PORTABLE.
    """

    graph: str
    data: str
    builder: str
    version: str
    device: str
    sizes: str

    def digest(self) -> str:
        """Return a name for the key."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()[:16]


def plan_key(bundle: Bundle, name: str, builder: str, version: str, *, device: str, context_tokens: int) -> PlanKey:
    """Return the key of a component's plan. Raises BundleFormatError for a free size that no grid tells of."""
    component = bundle.manifest.components[name]
    hashes = {entry.path: entry.sha256 for entry in bundle.manifest.files}
    sizes = input_sizes(bundle.manifest, component, context_tokens)
    return PlanKey(
        graph=hashes[component.graph],
        data=hashes[component.data] if component.data else "",
        builder=builder,
        version=version,
        device=device,
        sizes=" ".join(f"{one}:{size.low}:{size.usual}:{size.high}" for one, size in sorted(sizes.items())),
    )


class PlanNote(Struct, frozen=True):
    """What a plan's file says before the plan: its key, what the layer census found, and the plan's hash and size."""

    key: PlanKey
    int8_layers: int
    int8_asked: int
    weight_bytes: int
    build_s: float
    sha256: str
    bytes: int


class PlanStore:
    """The plans of one bundle; see the module docstring."""

    def __init__(self, bundle: Bundle, folder: Path | None = None) -> None:
        """folder: where they lie, by default a folder with the bundle's name and ``.plans`` beside it."""
        whole = bundle.folder.resolve()
        self.folder = folder or whole.with_name(whole.name + ".plans")

    def path(self, component: str, key: PlanKey) -> Path:
        """Return where the plan of a component lies or will lie."""
        return self.folder / f"{component}-{key.digest()}.plan"

    def read(self, component: str, key: PlanKey) -> tuple[PlanNote, bytes] | None:
        """Return the plan with this key, or None if there is none that is whole."""
        try:
            whole = self.path(component, key).read_bytes()
        except FileNotFoundError:
            return None
        if not whole.startswith(_MAGIC):
            return None
        header, _, plan = whole[len(_MAGIC) :].partition(b"\n")
        note = _note(header)
        if (
            note is None
            or note.key != key
            or note.bytes != len(plan)
            or note.sha256 != hashlib.sha256(plan).hexdigest()
        ):
            return None
        return note, plan

    def publish(self, component: str, note: PlanNote, plan: bytes | memoryview) -> Path:
        """Write a plan under a temporary name and rename it. Raises OutputError if the disk does not take it."""
        path = self.path(component, note.key)
        self._write(path, _MAGIC, msgspec.json.encode(note), b"\n", plan)
        return path

    def notes(self, component: str) -> list[PlanNote]:
        """Return what the files of a component's plans say of them; whether a plan is whole is not looked at."""
        found = []
        for path in sorted(self.folder.glob(f"{component}-*.plan")):
            with path.open("rb") as file:
                if file.readline(len(_MAGIC)) == _MAGIC and (note := _note(file.readline(_MAX_HEADER_BYTES))):
                    found.append(note)
        return found

    def cache(self, file: str) -> bytes:
        """Return what an earlier run kept in a file beside the plans; empty if there is none."""
        try:
            return (self.folder / file).read_bytes()
        except FileNotFoundError:
            return b""

    def keep_cache(self, file: str, data: bytes | memoryview) -> None:
        """Keep what was found out at some cost, such as timings. Raises OutputError if the disk does not take it."""
        self._write(self.folder / file, data)

    def _write(self, path: Path, *parts: bytes | memoryview) -> None:
        temporary: Path | None = None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=self.folder)
            temporary = Path(name)
            with os.fdopen(handle, "wb") as stream:
                for part in parts:
                    stream.write(part)
            temporary.chmod(0o644)
            temporary.replace(path)
        except OSError as error:
            if temporary is not None:
                temporary.unlink(missing_ok=True)
            raise OutputError(f"{path}: {error.strerror}; free space, or choose another --output") from error


def _note(header: bytes) -> PlanNote | None:
    if len(header) > _MAX_HEADER_BYTES:
        return None
    try:
        return msgspec.json.decode(header, type=PlanNote)
    except msgspec.MsgspecError:
        return None
