"""Open a bundle folder and check it before anything is loaded.

Checks, in this order: manifest present, signed where that is required and of a known version, every path inside the
folder and no link, every file present with its size and SHA-256. What runs is read through the descriptors that were
hashed. Knows nothing of what the graphs mean; who loads one checks it first (``runtime/graphs``).
"""

import difflib
import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path

from edgekit.bundle.files import BundleFiles, HeldFile
from edgekit.bundle.history import read_manifest
from edgekit.bundle.keys import PublicKey
from edgekit.bundle.manifest import MANIFEST, TOKENIZER, FileEntry, Manifest
from edgekit.bundle.trust import Trust
from edgekit.errors import BundleFileError, BundleFormatError
from edgekit.reprs import line

_CONFIG = "config.json"
MOST_MANIFEST_BYTES = 1 << 26  # of a model with 100,000 tensors it has a third of that
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, repr=False)
class Bundle:
    """A checked bundle folder, or one that the exporter has just written.

    ``text``: the manifest's bytes as they were read; empty for a manifest that was not. ``hashed``: whether what is
    read must have the manifest's hashes. ``signer``: whose signature was found on it, where one was required.
    """

    folder: Path
    manifest: Manifest
    text: bytes = b""
    hashed: bool = False
    signer: PublicKey | None = None
    _files: list[BundleFiles] = field(default_factory=list, compare=False)  # none until a file is asked for

    def file(self, name: str) -> Path:
        """Return the path of a file that the manifest lists; raises BundleFormatError for any other.

        For messages, and for what was just written: what is at a path may change, what ``open`` and ``read`` return
        is what was checked.
        """
        self._entry(name)
        return self.folder / name

    def open(self, name: str) -> HeldFile:
        """Return a listed file, open: the one whose bytes were checked. Raises as ``file`` and ``BundleFiles.open``."""
        self._entry(name)
        return self._opened().open(name)

    def read(self, name: str) -> bytes:
        """Return what a listed file holds, hashed as it is read; BundleFormatError if that is not what was checked."""
        entry, files = self._entry(name), self._opened()
        kept = files.holds(name)
        content = files.open(name).read()
        if not kept:
            files.let_go(name)
        if self.hashed and hashlib.sha256(content).hexdigest() != entry.sha256:
            raise _changed(self.folder, entry)
        return content

    def _opened(self) -> BundleFiles:
        if not self._files:
            self._files.append(BundleFiles(self.folder))
        return self._files[0]

    def _entry(self, name: str) -> FileEntry:
        entry = next((entry for entry in self.manifest.files if entry.path == name), None)
        if entry is None:
            raise BundleFormatError(f"{self.folder}: '{name}' is not in the manifest's list of files; export it again")
        return entry

    def __repr__(self) -> str:
        return line(self, folder=str(self.folder), name=self.manifest.name, files=len(self.manifest.files))


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file as hex, read in blocks of 1 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def open_bundle(path: str | os.PathLike[str], *, check_hashes: bool = True, trust: Trust | None = None) -> Bundle:
    """Return the Bundle at ``path`` after checking signature, version, paths, sizes and hashes.

    Raises BundleFileError if the folder, its manifest or a listed file is missing, BundleFormatError for the rest.
    ``check_hashes=False`` skips only the hashes, for a caller that has just checked them. ``trust``: keys of which one
    must have signed it, else SignatureError.
    """
    folder = Path(path)
    try:
        files = BundleFiles(folder)
    except BundleFileError:  # a FileNotFoundError, too
        raise
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BundleFileError(f"{folder}: {_instead(folder)}") from error
    text = _read_text(folder, files)
    signer = trust.signer(folder, text) if trust is not None else None  # before the first of its bytes is understood
    manifest = _decoded(folder, text)
    used = _used(manifest)
    for check_hash in (False, True)[: 1 + check_hashes]:  # every size before the first hash, which takes its time
        for entry in manifest.files:
            _check_file(folder, files.open(entry.path), entry, check_hash)
            if entry.path not in used:  # what only a check reads, such as goldens, takes no descriptor meanwhile
                files.let_go(entry.path)
    return Bundle(folder, manifest, text, check_hashes, signer, [files])


def _used(manifest: Manifest) -> set[str]:
    """Return the files that a run reads."""
    refs = [ref for table in manifest.tables().values() for ref in (table.weight, table.scales) if ref]
    return {
        TOKENIZER,
        *(component.graph for component in manifest.components.values()),
        *(component.data for component in manifest.components.values() if component.data),
        *(ref.file for ref in refs),
        *(manifest.speech.files() if manifest.speech else ()),
    }


def _read_text(folder: Path, files: BundleFiles) -> bytes:
    try:
        file = files.open(MANIFEST)
    except BundleFileError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise BundleFileError(f"{folder}: {_instead(folder)}") from error
        raise
    files.let_go(MANIFEST)
    if file.bytes > MOST_MANIFEST_BYTES:
        raise BundleFormatError(
            f"{folder / MANIFEST}: has {file.bytes} bytes, at most {MOST_MANIFEST_BYTES} are read; do not use this "
            "bundle"
        )
    return file.read()


def _decoded(folder: Path, text: bytes) -> Manifest:
    try:
        return read_manifest(text)
    except BundleFormatError as error:
        raise BundleFormatError(f"{folder / MANIFEST}: {error}") from error


def _instead(folder: Path) -> str:
    """Return what a path without a manifest is, and what to do about it."""
    make = f"make one with `edgekit export CHECKPOINT -o {folder}`"
    if folder.name == MANIFEST and folder.is_file():
        return f"is a file of a bundle; give the folder: {folder.parent}"
    if folder.is_file():
        return "is a file, a bundle is a folder and stands first, as in `edgekit run BUNDLE FILE`; give both"
    if not folder.is_dir():
        beside = folder.parent.glob(f"*/{MANIFEST}") if folder.parent.is_dir() else ()
        near = difflib.get_close_matches(folder.name, [path.parent.name for path in beside], n=1)
        return f"no such folder; did you mean {folder.parent / near[0]}?" if near else f"no such folder; {make}"
    if (folder / _CONFIG).is_file():
        name = folder.resolve().name
        return f"is a checkpoint and no bundle; make one of it: `edgekit export {folder} -o bundles/{name}`"
    if inside := sorted(str(path.parent) for path in folder.glob(f"*/{MANIFEST}")):
        return f"no {MANIFEST} there, its folders are bundles; give one: {', '.join(inside[:4])}"
    return f"no {MANIFEST} there, so it is no bundle; {make}"


def _check_file(folder: Path, file: HeldFile, entry: FileEntry, check_hash: bool) -> None:
    if file.bytes != entry.bytes:
        raise BundleFormatError(
            f"{folder}: '{entry.path}' has {file.bytes} bytes, manifest says {entry.bytes}; copy or export it again"
        )
    if check_hash and file.sha256() != entry.sha256:
        raise _changed(folder, entry)


def _changed(folder: Path, entry: FileEntry) -> BundleFormatError:
    return BundleFormatError(f"{folder}: '{entry.path}' does not match its SHA-256; copy or export it again")
