"""Versions of the manifest: which are read, what an older one lacks, and what a newer one asks for.

The one place that knows a version before this one. A field that is added later is optional and changes no version; who
writes it raises ``needs`` (``manifest.py``) and enters it in ``docs/bundle-format.md``.
"""

import re
from typing import Any

import msgspec

from edgekit.bundle.manifest import FORMAT_VERSION, NEEDS, Manifest, as_manifest, decode
from edgekit.errors import BundleFormatError
from edgekit.versions import VERSION, older

_SHOWN = re.compile(r"\d[0-9A-Za-z.+!-]{0,31}")  # of a version that a file names: no line of its own


class _Head(msgspec.Struct):
    """What every version has, and from 2 on the lowest EdgeKit that reads it."""

    format_version: int
    needs: object = ""


def read_manifest(text: bytes) -> Manifest:
    """Return the manifest of a JSON text of any version up to this one.

    Raises BundleFormatError, without the file's name: for a later version or an EdgeKit that is too old with the one
    that is needed, for unknown fields and wrong types with the JSON path at fault.
    """
    try:
        head = msgspec.json.decode(text, type=_Head)
    except msgspec.MsgspecError as error:
        raise BundleFormatError(f"{error}; export it again") from error
    needs = head.needs if isinstance(head.needs, str) and _SHOWN.fullmatch(head.needs) else ""
    if head.format_version > FORMAT_VERSION:
        wanted = f"EdgeKit {needs} or newer" if needs else "the EdgeKit that made it"
        raise BundleFormatError(
            f"format version {head.format_version}, this EdgeKit {VERSION} reads {_known()}; install {wanted}"
        )
    if head.format_version < 1:
        raise BundleFormatError(f"format version {head.format_version}, there is {_known()} only; export it again")
    too_old = f"needs EdgeKit {needs} or newer, this is {VERSION}; install that" if older(VERSION, needs) else ""
    try:
        if head.format_version == FORMAT_VERSION:
            manifest = decode(text)
        else:
            manifest = as_manifest(upgraded(msgspec.json.decode(text)))
    except msgspec.MsgspecError as error:
        raise BundleFormatError(f"{error}; {too_old or 'export it again'}") from error
    if too_old:
        raise BundleFormatError(too_old)
    return manifest


def upgraded(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the plain data of a manifest of an earlier version as this version has it.

    Version 1 has no ``needs``, and its goldens name no files of their clips' samples, which ``verify`` then looks for
    among EdgeKit's own recordings. Version 2 has no record of what was judged, and its goldens are of the bundle
    itself. All else is the same. Raises msgspec.ValidationError for a field that is newer.
    """
    if fields["format_version"] == 1 and "needs" in fields:
        raise msgspec.ValidationError("Object contains unknown field `needs`")
    return {"needs": NEEDS} | fields | {"format_version": FORMAT_VERSION}


def _known() -> str:
    return f"{', '.join(str(version) for version in range(1, FORMAT_VERSION))} and {FORMAT_VERSION}"
