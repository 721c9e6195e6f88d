"""Sign a bundle: ``manifest.sig`` beside its manifest, 64 bytes that plain OpenSSL checks too."""

import os
from pathlib import Path

from edgekit.atomic import write_whole
from edgekit.bundle.folder import MANIFEST, open_bundle
from edgekit.bundle.history import read_manifest
from edgekit.bundle.keys import PrivateKey
from edgekit.bundle.trust import SIGNATURE
from edgekit.errors import BundleFormatError, OutputError


def sign_bundle(path: str | os.PathLike[str], key: PrivateKey, *, overwrite: bool = False) -> bool:
    """Write the signature of a bundle, every file of which is checked first; return whether one was there before.

    Raises what open_bundle does, and OutputError if there is another signature and ``overwrite`` is not given, or if it
    cannot be written.
    """
    folder = Path(path)
    bundle = open_bundle(folder)
    manifest = (folder / MANIFEST).read_bytes()
    if read_manifest(manifest) != bundle.manifest:  # what is signed is what was checked
        raise BundleFormatError(f"{folder}: '{MANIFEST}' changed while it was read; sign it once nobody writes there")
    signature, place = key.sign(manifest), folder / SIGNATURE
    there = place.is_symlink() or place.exists()
    if there and not overwrite:
        if not place.is_symlink() and place.is_file() and place.read_bytes() == signature:
            return True
        raise OutputError(f"{place}: is there already, by another key or of another manifest; pass --overwrite")
    write_whole(place, signature)
    return there
