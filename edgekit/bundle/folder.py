"""Open a bundle folder and check it before anything is loaded.

Checks, in this order: manifest present, signed where that is required and of a known version, every path inside the
folder and no link, every file present with its size and SHA-256. Knows nothing of what the graphs mean; a graph's own
external-data locations are compared with the manifest by the backend that loads it.
"""

import difflib
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from edgekit.bundle.history import read_manifest
from edgekit.bundle.keys import PublicKey
from edgekit.bundle.manifest import FileEntry, Manifest
from edgekit.bundle.trust import Trust
from edgekit.errors import BundleFileError, BundleFormatError
from edgekit.reprs import line

MANIFEST, _CONFIG = "manifest.json", "config.json"
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, repr=False)
class Bundle:
    """A checked bundle folder. ``signer``: whose signature was found on it, where one was required."""

    folder: Path
    manifest: Manifest
    signer: PublicKey | None = None

    def file(self, name: str) -> Path:
        """Return the path of a file that the manifest lists; raises BundleFormatError for any other."""
        if all(entry.path != name for entry in self.manifest.files):
            raise BundleFormatError(f"{self.folder}: '{name}' is not in the manifest's list of files; export it again")
        return self.folder / name

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
    manifest, signer = _read_manifest(folder, trust)
    for entry in manifest.files:
        _check_file(folder, entry, check_hashes)
    listed = {entry.path for entry in manifest.files}
    refs = [ref for table in manifest.tables().values() for ref in (table.weight, table.scales) if ref]
    named = {
        *(component.graph for component in manifest.components.values()),
        *(component.data for component in manifest.components.values() if component.data),
        *(ref.file for ref in refs),
        *(manifest.speech.files() if manifest.speech else ()),
    }
    if missing := sorted(named - listed):
        raise BundleFormatError(
            f"{folder}: '{missing[0]}' is used by a component but not listed under files; export it again"
        )
    return Bundle(folder, manifest, signer)


def _read_manifest(folder: Path, trust: Trust | None) -> tuple[Manifest, PublicKey | None]:
    path = folder / MANIFEST
    if path.is_symlink():
        raise BundleFormatError(f"{folder}: '{MANIFEST}' is a link, which a bundle may not hold; copy the file itself")
    try:
        text = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BundleFileError(f"{folder}: {_instead(folder)}") from error
    signer = trust.signer(folder, text) if trust else None  # before the first of its bytes is understood
    try:
        return read_manifest(text), signer
    except BundleFormatError as error:
        raise BundleFormatError(f"{path}: {error}") from error


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


def _check_file(folder: Path, entry: FileEntry, check_hash: bool) -> None:
    parts = PurePosixPath(entry.path).parts
    if not parts or entry.path.startswith("/") or "\\" in entry.path or any(part in ("..", ".") for part in parts):
        raise BundleFormatError(f"{folder}: path '{entry.path}' leaves the bundle; do not use this bundle")
    path = folder
    for part in parts:
        path = path / part
        if path.is_symlink():
            raise BundleFormatError(f"{folder}: '{entry.path}' is or goes through a link, which a bundle may not hold")
    if not path.is_file():
        raise BundleFileError(f"{folder}: '{entry.path}' is missing; copy the whole bundle again or export it again")
    size = path.stat().st_size
    if size != entry.bytes:
        raise BundleFormatError(
            f"{folder}: '{entry.path}' has {size} bytes, manifest says {entry.bytes}; copy or export it again"
        )
    if check_hash and hash_file(path) != entry.sha256:
        raise BundleFormatError(f"{folder}: '{entry.path}' does not match its SHA-256; copy or export it again")
