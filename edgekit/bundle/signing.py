"""Sign a bundle: ``manifest.sig`` beside its manifest, 64 bytes that plain OpenSSL checks too."""

import os
from pathlib import Path

from edgekit.atomic import write_whole
from edgekit.bundle.folder import open_bundle
from edgekit.bundle.keys import SIGNATURE_BYTES, PrivateKey
from edgekit.bundle.trust import SIGNATURE
from edgekit.errors import OutputError
from edgekit.plainfiles import read_plain


def sign_bundle(path: str | os.PathLike[str], key: PrivateKey, *, overwrite: bool = False) -> bool:
    """Write the signature of a bundle, every file of which is checked first; return whether one was there before.

    Raises what open_bundle does, and OutputError if there is another signature and ``overwrite`` is not given, or if it
    cannot be written.
    """
    folder = Path(path)
    signature, place = key.sign(open_bundle(folder).text), folder / SIGNATURE  # of the very bytes that were checked
    if there := os.path.lexists(place):
        if _holds(place, signature):
            return True
        if not place.is_file():
            raise OutputError(f"{place}: is there and is no file, as a signature is; move it away")
        if not overwrite:
            raise OutputError(f"{place}: is there already, by another key or of another manifest; pass --overwrite")
    write_whole(place, signature)
    return there


def _holds(place: Path, signature: bytes) -> bool:
    try:
        return read_plain(place, SIGNATURE_BYTES, links=False) == signature
    except OSError:
        return False
