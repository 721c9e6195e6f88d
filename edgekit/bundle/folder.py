"""Open a bundle folder and check it before anything is loaded.

Checks, in this order: manifest present and of a known version, every path inside the folder and no link, every file
present with its size and SHA-256. Knows nothing of what the graphs mean; a graph's own external-data locations are
compared with the manifest by the backend that loads it.
"""

import difflib
import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from edgekit.bundle.history import read_manifest
from edgekit.bundle.manifest import FileEntry, Manifest
from edgekit.errors import BundleFileError, BundleFormatError
from edgekit.reprs import line

MANIFEST, _CONFIG = "manifest.json", "config.json"
MOST_MANIFEST_BYTES = 1 << 26  # of a model with 100,000 tensors it has a third of that
_BLOCK_BYTES = 1 << 20
_NO_WAITING = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)


@dataclass(frozen=True, slots=True, repr=False)
class Bundle:
    """A checked bundle folder."""

    folder: Path
    manifest: Manifest

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


def open_bundle(path: str | os.PathLike[str], *, check_hashes: bool = True) -> Bundle:
    """Return the Bundle at ``path`` after checking version, paths, sizes and hashes.

    Raises BundleFileError if the folder, its manifest or a listed file is missing, BundleFormatError for the rest.
    ``check_hashes=False`` skips only the hashes, for a caller that has just checked them.
    """
    folder = Path(path)
    manifest = _read_manifest(folder)
    for check_hash in (False, True)[: 1 + check_hashes]:  # every size before the first hash, which takes its time
        for entry in manifest.files:
            _check_file(folder, entry, check_hash)
    return Bundle(folder, manifest)


def _read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    if path.is_symlink():
        raise BundleFormatError(f"{folder}: '{MANIFEST}' is a link, which a bundle may not hold; copy the file itself")
    try:
        text = read_regular(path, MOST_MANIFEST_BYTES)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BundleFileError(f"{folder}: {_instead(folder)}") from error
    try:
        return read_manifest(text)
    except BundleFormatError as error:
        raise BundleFormatError(f"{path}: {error}") from error


def read_regular(path: Path, at_most: int) -> bytes:
    """Return the bytes of a small file; raises BundleFormatError for a larger one, and for what is no regular file.

    What has no end, or waits for a writer, such as a device or a pipe, is told before anything is read of it.
    """
    handle = os.open(path, os.O_RDONLY | _NO_WAITING)
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise BundleFormatError(f"{path}: is a folder, pipe or device, a regular file is needed; copy it again")
        if status.st_size > at_most:
            raise BundleFormatError(f"{path}: has {status.st_size} bytes, at most {at_most} are read; export it again")
        with open(handle, "rb", closefd=False) as stream:
            text = stream.read(at_most)
    finally:
        os.close(handle)
    return text


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
