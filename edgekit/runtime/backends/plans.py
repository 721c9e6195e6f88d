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

_MAGIC = b"edgekit plan 1\n"
_MAX_HEADER_BYTES = 1 << 16


class PlanKey(Struct, frozen=True):
    """All that decides what a plan is: hashes of graph and weights, what built it for what, sizes and flags."""

    graph: str
    data: str
    builder: str
    version: str
    device: str
    sizes: str
    flags: tuple[str, ...] = ()

    def digest(self) -> str:
        """Return a name for the key."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()[:16]


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
        if len(header) > _MAX_HEADER_BYTES:
            return None
        try:
            note = msgspec.json.decode(header, type=PlanNote)
        except msgspec.MsgspecError:
            return None
        if note.key != key or note.bytes != len(plan) or note.sha256 != hashlib.sha256(plan).hexdigest():
            return None
        return note, plan

    def publish(self, component: str, note: PlanNote, plan: bytes | memoryview) -> Path:
        """Write a plan under a temporary name and rename it. Raises OutputError if the disk does not take it."""
        path = self.path(component, note.key)
        self._write(path, _MAGIC, msgspec.json.encode(note), b"\n", plan)
        return path

    def timing_cache(self, name: str) -> bytes:
        """Return the timings that earlier builds measured under this name; empty if there are none."""
        try:
            return (self.folder / f"{name}.timings").read_bytes()
        except FileNotFoundError:
            return b""

    def keep_timings(self, name: str, timings: bytes | memoryview) -> None:
        """Write the timings of a build."""
        self._write(self.folder / f"{name}.timings", timings)

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
