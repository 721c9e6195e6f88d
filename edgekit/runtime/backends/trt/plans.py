"""PlanStore: plans of a bundle beside it, each in one file that says what it was built from.

A plan is a cache: one that is damaged, or was built from another graph, by another version, for another device or on
another machine, is as good as none, and its bytes reach no TensorRT. A plan is as large as its weights, so it is
written, checked and read block by block: the file is the plan, then its note as a line of JSON, then a line with the
note's size and seal. The note has the plan's hash, so that who sealed the one sealed the other.
"""

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import msgspec

from edgekit.atomic import FileDraft, draft_file
from edgekit.bundle import Bundle
from edgekit.bundle.manifest import Struct
from edgekit.plainfiles import open_plain
from edgekit.runtime.backends.sizes import input_sizes
from edgekit.runtime.backends.trt.seal import fits, seal_of

if TYPE_CHECKING:
    from hashlib import _Hash

_SEALED = b"edgekit plan 3"
_END = b"\n" + _SEALED + b" %08d %s\n"
_END_OF_PLAN = re.compile(rb"\n" + _SEALED + rb" (\d{8}) ([0-9a-f]{64})\n")
_END_BYTES = len(_END % (0, bytes(64)))
_SEALED_CACHE = b"edgekit cache 3"
_END_OF_CACHE = b"\n" + _SEALED_CACHE + b" %s\n"
_END_OF_CACHE_BYTES = len(_END_OF_CACHE % bytes(64))
_MAX_NOTE_BYTES = 1 << 20  # the sizes of some hundred inputs
_BLOCK_BYTES = 4 << 20
_REFUSED = "{reason}; free space, or choose another --output"
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
    sizes = input_sizes(bundle.manifest, name, context_tokens)
    return PlanKey(
        graph=hashes[component.graph],
        data=hashes[component.data] if component.data else "",
        builder=builder,
        version=version,
        device=device,
        sizes=" ".join(f"{one}:{size.low}:{size.usual}:{size.high}" for one, size in sorted(sizes.items())),
    )


class PlanNote(Struct, frozen=True):
    """What a plan's file says after the plan: its key, what the layer census found, and the plan's hash and size.

    ``layers``: how many work in which type, where an inspector could be asked.
    """

    key: PlanKey
    quantised_layers: int
    quantised_asked: int
    weight_bytes: int
    build_s: float
    sha256: str
    bytes: int
    layers: dict[str, int] = {}  # noqa: RUF012 - msgspec copies it


class PlanReader:
    """A plan as a stream of bytes that was checked; holds little of it beside one read, and lets the page cache go.

    marks: the hash of what stands before each block, and of all, as they were when the plan was checked: what is handed
    out has been compared with them since it left the disk. ``changed``: a block was not the same any more.
    """

    def __init__(self, file: BinaryIO, size: int, marks: "Sequence[_Hash]" = ()) -> None:
        self.size = size
        self.changed = False
        self._file = file
        self._marks = marks
        self._at = 0
        self._block, self._number = memoryview(b""), -1

    def read(self, size: int) -> bytes:
        """Return the next ``size`` bytes, fewer only at the plan's end, or where it ``changed``."""
        parts, left = [], min(size, self.size - self._at)
        while left > 0:
            number, begin = divmod(self._at, _BLOCK_BYTES)
            part = self._checked(number)[begin : begin + left]
            if not part:
                break
            parts.append(part)
            self._at += len(part)
            left -= len(part)
        return b"".join(parts)

    def _checked(self, number: int) -> memoryview:
        """Return a block of the plan, nothing if it changed."""
        if number != self._number:
            at = number * _BLOCK_BYTES
            self._file.seek(at)
            block = self._file.read(min(_BLOCK_BYTES, self.size - at))
            _forget(self._file, at, len(block))
            if self._marks:
                digest = self._marks[number].copy()
                digest.update(block)
                if digest.digest() != self._marks[number + 1].digest():
                    self.changed, block = True, b""
            self._block, self._number = memoryview(block), number
        return self._block

    def seek(self, at: int) -> bool:
        """Go to this byte of the plan; return whether there is such a place."""
        if not 0 <= at <= self.size:
            return False
        self._at = at
        return True

    def tell(self) -> int:
        """Return the place of the next byte to be read."""
        return self._at

    def fileno(self) -> int:
        """Return the descriptor of the file, which begins with the plan."""
        return self._file.fileno()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class PlanDraft:
    """A plan that is being written; ``sha256`` and ``bytes`` are of what there is so far."""

    def __init__(self, file: FileDraft, place: Callable[[PlanNote], Path]) -> None:
        self.bytes = 0
        self._file = file
        self._place = place
        self._digest = hashlib.sha256()

    @property
    def sha256(self) -> str:
        """Hash of the plan in hex."""
        return self._digest.hexdigest()

    def write(self, data: bytes | memoryview) -> None:
        """Add to the plan. Raises OutputError if the disk does not take it."""
        self._file.write(data)
        self._digest.update(data)
        self.bytes += len(data)

    def reader(self) -> PlanReader:
        """Return what there is so far, to be read; the caller closes it."""
        return PlanReader(self._file.path.open("rb"), self.bytes)

    def publish(self, note: PlanNote) -> Path:
        """Finish the file with its note, give it its name and return that. Raises OutputError as ``write``."""
        assert (note.bytes, note.sha256) == (self.bytes, self.sha256), "a note of another plan"
        line = msgspec.json.encode(note)
        self._file.write(line + _END % (len(line), seal_of(_SEALED, line)))
        return self._file.publish(self._place(note))


class PlanStore:
    """The plans of one bundle; see the module docstring."""

    def __init__(self, bundle: Bundle, folder: Path | None = None) -> None:
        """folder: where they lie, by default a folder with the bundle's name and ``.plans`` beside it."""
        whole = bundle.folder.resolve()
        self.folder = folder or whole.with_name(whole.name + ".plans")

    def path(self, component: str, key: PlanKey) -> Path:
        """Return where the plan of a component lies or will lie."""
        return self.folder / f"{component}-{key.digest()}.plan"

    def open(self, component: str, key: PlanKey) -> tuple[PlanNote, PlanReader] | None:
        """Return the plan with this key, or None if there is none that is whole and of this device.

        The caller closes the reader.
        """
        try:
            file = open_plain(self.path(component, key))
        except OSError:  # not there, or no file: a pipe would be waited for
            return None
        note = _read_note(file)
        if note is None or note.key != key:
            file.close()
            return None
        reader, marks = PlanReader(file, note.bytes), [hashlib.sha256()]
        while block := reader.read(_BLOCK_BYTES):
            marks.append(marks[-1].copy())
            marks[-1].update(block)
        if note.sha256 != marks[-1].hexdigest():
            file.close()
            return None
        return note, PlanReader(file, note.bytes, marks)

    @contextmanager
    def draft(self, component: str) -> Iterator[PlanDraft]:
        """Yield a PlanDraft for a component; what is not published by the end of the block is removed.

        Raises OutputError if the disk does not take it.
        """
        with draft_file(self.folder / f"{component}.plan", refused=_REFUSED) as file:
            yield PlanDraft(file, lambda note: self.path(component, note.key))

    def notes(self, component: str) -> list[PlanNote]:
        """Return what this device noted of a component's plans; whether a plan is whole is not looked at."""
        return [note for note in self._notes(component) if note]

    def has_foreign(self, component: str) -> bool:
        """Return whether there are plans of a component without a seal of this device, or damaged beyond that."""
        return None in self._notes(component)

    def _notes(self, component: str) -> list[PlanNote | None]:
        return [_noted(path) for path in sorted(self.folder.glob(f"{component}-*.plan"))]

    def cache(self, file: str) -> bytes:
        """Return what an earlier run on this device kept in a file beside the plans; empty if there is none."""
        try:
            with open_plain(self.folder / file) as kept:
                whole = kept.read()
        except OSError:  # not there, or no file: a pipe would be waited for
            return b""
        data, end = whole[:-_END_OF_CACHE_BYTES], whole[-_END_OF_CACHE_BYTES:]
        seal = end[-65:-1]
        return data if end == _END_OF_CACHE % seal and fits(seal, _of_cache(file), data) else b""

    def has_cache(self, file: str) -> bool:
        """Return whether there is such a file beside the plans, whoever made it."""
        return (self.folder / file).exists()

    def keep_cache(self, file: str, data: bytes | memoryview) -> None:
        """Keep what was found out at some cost, such as timings. Raises OutputError if the disk does not take it."""
        seal = seal_of(_of_cache(file), data)
        with draft_file(self.folder / file, refused=_REFUSED) as new:
            new.write(data)
            new.write(_END_OF_CACHE % seal)
            new.publish()


def _of_cache(file: str) -> bytes:
    """Return what a cache is sealed as: its name too, so that it is no other one's."""
    return _SEALED_CACHE + b" " + file.encode()


def _noted(path: Path) -> PlanNote | None:
    try:
        with open_plain(path) as file:
            return _read_note(file)
    except OSError:  # gone meanwhile, or no file
        return None


def _read_note(file: BinaryIO) -> PlanNote | None:
    """Return what a file says behind its plan; None if its end is not that of a plan which this device sealed."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _END_BYTES))
    end = _END_OF_PLAN.fullmatch(file.read())
    length = int(end[1]) if end else 0
    if end is None or not 0 < length <= min(_MAX_NOTE_BYTES, size - _END_BYTES):
        return None
    begin = file.seek(size - _END_BYTES - length)
    line = file.read(length)
    if not fits(end[2], _SEALED, line):
        return None
    try:
        note = msgspec.json.decode(line, type=PlanNote)
    except msgspec.MsgspecError:
        return None
    file.seek(0)
    return note if note.bytes == begin else None


def _forget(file: BinaryIO, at: int, size: int) -> None:
    """Let the page cache drop what was read: it would displace what others need."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file.fileno(), at, size, os.POSIX_FADV_DONTNEED)
