"""Whose signature on a bundle is taken: keys that are named, or those of the trust store.

A signature is over the very bytes of the manifest, which names every other file by its hash.
"""

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Union

from edgekit.bundle.keys import SIGNATURE_BYTES, PublicKey, check_writers, read_public
from edgekit.errors import KeyFileError, SignatureError, UsageError
from edgekit.plainfiles import read_plain

SIGNATURE = "manifest.sig"
SYSTEM_STORE = Path("/etc/edgekit/trust")
_KINDS = {".pub", ".pem"}
_MOST_READ = 1 << 12  # bytes of what may be a signature, to tell how long it is

KeyPath = Union[str, "os.PathLike[str]"]
Trusted = Union[KeyPath, Sequence[KeyPath], "Trust"]
"""A file with a public key, a folder of such files, several of both, or what was read of them."""


@dataclass(frozen=True, slots=True)
class Trust:
    """The public keys of which one must have signed a bundle."""

    keys: tuple[PublicKey, ...]

    def signer(self, folder: Path, manifest: bytes) -> PublicKey:
        """Return the key that signed these bytes of a folder's manifest; raises SignatureError if none of these did."""
        signature = _read_signature(folder)
        for key in self.keys:
            if key.fits(signature, manifest):
                return key
        raise SignatureError(
            f"{folder}: '{SIGNATURE}' is no signature of this manifest by {self}: it is damaged, another manifest's or "
            "another key's; copy the bundle again, or trust the key that signed it"
        )

    def __str__(self) -> str:
        first, *others = self.keys
        return f"{first}, nor by {len(others)} other trusted keys" if others else str(first)


def read_trust(trust: Trusted | None, require_signature: bool = False) -> Trust | None:
    """Return the keys that ``trust`` names, those of the trust store if only a signature is required, None if neither.

    Raises KeyFileError for what is no Ed25519 public key, and if there is none at all, UsageError for what is no path.
    """
    if isinstance(trust, Trust):
        return trust
    if trust is None:
        return _read_store() if require_signature else None
    named = [trust] if isinstance(trust, (str, os.PathLike)) else trust
    if not isinstance(named, Sequence) or not all(isinstance(one, (str, os.PathLike)) for one in named):
        raise UsageError(f"trust: {trust!r}, the path of a public key or of a folder, or a list of them, is needed")
    if not all(os.fspath(one) for one in named):  # Path("") is the current folder: whatever lies there would be trusted
        raise KeyFileError("trust: a path is empty; name a file of a public key or a folder, '.' for this one")
    paths = [Path(one) for one in named]
    if not paths:
        raise KeyFileError("trust: no key is named, so no bundle could be; name a file of a public key or a folder")
    keys = []
    for path in paths:
        inside = [*_keys_in(path)] if _is_folder(path) else [read_public(path)]
        if not inside:
            raise KeyFileError(f"{path}: no key is there, *.pub and *.pem are read; put the signer's public key there")
        keys += inside
    return Trust(tuple(keys))


def store_folders() -> tuple[Path, ...]:
    """Return where the trust store is: the machine's part, and that of who runs this."""
    named = os.environ.get("XDG_CONFIG_HOME", "")
    try:
        own = Path(named) if named.startswith("/") else Path("~/.config").expanduser()
    except RuntimeError:  # a user without a home
        return (SYSTEM_STORE,)
    return SYSTEM_STORE, own / "edgekit" / "trust"


def _read_store() -> Trust:
    folders = store_folders()
    keys = [key for folder in folders if _is_folder(folder) for key in _keys_in(folder)]
    if not keys:
        raise KeyFileError(
            "--require-signature: no key is trusted here; copy the signer's NAME.pub to "
            f"{' or '.join(map(str, folders))}, or name it with --trust"
        )
    return Trust(tuple(keys))


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # in a folder that is closed to us
        return False


def _keys_in(folder: Path) -> Iterator[PublicKey]:
    try:
        mode, inside = folder.stat().st_mode, sorted(folder.iterdir())
    except OSError as error:
        raise KeyFileError(f"{folder}: {error.strerror}, trusted keys are there; check its permissions") from error
    check_writers(folder, stat.S_IMODE(mode))
    for path in inside:
        if path.suffix in _KINDS and not path.name.startswith("."):
            yield read_public(path)


def _read_signature(folder: Path) -> bytes:
    path = folder / SIGNATURE
    try:
        signature = read_plain(path, _MOST_READ, links=False)
    except FileNotFoundError as error:
        raise SignatureError(
            f"{folder}: is not signed, a signature by a trusted key is required; sign it where it was made, with "
            f"`edgekit sign {folder} --key NAME.key`, and copy it again"
        ) from error
    except OSError as error:  # a link too
        raise SignatureError(f"{path}: {error.strerror}, a file is needed; copy the bundle again") from error
    if len(signature) != SIGNATURE_BYTES:
        raise SignatureError(
            f"{path}: is no file of {SIGNATURE_BYTES} bytes (it has {len(signature)}), as a signature is; copy or sign "
            "the bundle again"
        )
    return signature
