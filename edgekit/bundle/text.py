"""The manifest as a JSON text, which ends with a checksum of itself.

``checksum`` is the SHA-256 of the text's own bytes, its 64 digits read as zeros: a byte that is damaged anywhere, in
white space too, is told from what was written. It is no signature: whoever changes the text can make the sum anew.
"""

import hashlib
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from edgekit.bundle.manifest import Manifest
from edgekit.bundle.ranges import Sha256
from edgekit.bundle.speaking import Speech, as_speech

_UNKNOWN = "0" * 64
_SUM = re.compile(r"[0-9a-f]{64}")


class _Written(Manifest, frozen=True):
    """A manifest as the text has it; without a ``checksum`` it was written before there was one, or by a person."""

    checksum: Sha256 | None = None


def encode(manifest: Manifest) -> bytes:
    """Return the manifest as indented JSON with a stable order of keys: the same content gives the same bytes."""
    written = _Written(**_fields(manifest), checksum=_UNKNOWN)
    text = msgspec.json.format(msgspec.json.encode(written, order="deterministic"), indent=1) + b"\n"
    start = text.rindex(_UNKNOWN.encode())  # its last field
    return text[:start] + hashlib.sha256(text).hexdigest().encode() + text[start + len(_UNKNOWN) :]


def whole(text: bytes, checksum: object) -> bool:
    """Return whether a text is as it was written, by the ``checksum`` that stands in it."""
    if not isinstance(checksum, str) or not _SUM.fullmatch(checksum) or text.count(checksum.encode()) != 1:
        return False
    return hashlib.sha256(text.replace(checksum.encode(), _UNKNOWN.encode())).hexdigest() == checksum


def decode(text: bytes) -> Manifest:
    """Return the manifest of a JSON text. Raises msgspec.MsgspecError, which names the JSON path at fault."""
    return Manifest(**_fields(msgspec.json.decode(text, type=_Written, dec_hook=_decoded)))


def as_manifest(fields: Mapping[str, Any]) -> Manifest:
    """Return the manifest of the plain data that a JSON text holds. Raises as ``decode`` does."""
    return Manifest(**_fields(msgspec.convert(fields, _Written, dec_hook=_decoded)))


def _fields(manifest: Manifest) -> dict[str, Any]:
    return {name: getattr(manifest, name) for name in Manifest.__struct_fields__}


def _decoded(kind: type[Any], value: object) -> Speech:
    if kind is not Speech:
        raise NotImplementedError(f"{kind}: the manifest has no other field of a kind that is registered")
    return as_speech(value, path="$.speech")
