"""Versions of the manifest: which are read, what an older one lacks, and what a newer one asks for.

The one place that knows a version before this one. A field that is added later is optional and changes no version; who
writes it raises ``needs`` (``manifest.py``) and enters it in ``docs/bundle-format.md``.
"""

import json
import re
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from edgekit.bundle.checks import check_manifest
from edgekit.bundle.faults import first_twice
from edgekit.bundle.manifest import FORMAT_VERSION, NEEDS, Manifest
from edgekit.bundle.ranges import IN_WORDS
from edgekit.bundle.text import as_manifest, decode, whole
from edgekit.errors import BundleFormatError
from edgekit.versions import VERSION, older

_SHOWN = re.compile(r"\d[0-9A-Za-z.+!-]{0,31}")  # of a version that a file names: no line of its own
_LONGEST = 400  # characters of what is told of a text that is not ours
_PLACE = re.compile(r"- at `\$([\w.\[\]]+)`$")
_BOUND = re.compile(r"^Expected `(?:int|float|str)` [<>=]+ ")
T = TypeVar("T")


class _Head(msgspec.Struct):
    """What every version has, and from 2 on the lowest EdgeKit that reads it; ``checksum``: see ``text.py``."""

    format_version: int
    needs: object = ""
    checksum: object = None


def read_manifest(text: bytes) -> Manifest:
    """Return the manifest of a JSON text of any version up to this one, checked (``checks``).

    Raises BundleFormatError, without the file's name: for a text that is not as it was written, for a later version or
    an EdgeKit that is too old with the one that is needed, for unknown fields and wrong types with the JSON path at
    fault, for values that cannot be, alone or together.
    """
    head = _read(lambda: msgspec.json.decode(text, type=_Head))
    if head.checksum is not None and not whole(text, head.checksum):
        raise BundleFormatError("does not match its checksum; copy or export it again")
    needs = head.needs if isinstance(head.needs, str) and _SHOWN.fullmatch(head.needs) else ""
    if head.format_version > FORMAT_VERSION:
        wanted = f"EdgeKit {needs} or newer" if needs else "the EdgeKit that made it"
        raise BundleFormatError(
            f"format version {head.format_version}, this EdgeKit {VERSION} reads {_known()}; install {wanted}"
        )
    if head.format_version < 1:
        raise BundleFormatError(f"format version {head.format_version}, there is {_known()} only; export it again")
    too_old = f"needs EdgeKit {needs} or newer, this is {VERSION}; install that" if older(VERSION, needs) else ""
    plain = _read(lambda: json.loads(text, object_pairs_hook=_once))
    if head.format_version == FORMAT_VERSION:
        manifest = _read(lambda: decode(text), too_old, plain)
    else:
        manifest = _read(lambda: as_manifest(upgraded(plain)), too_old, plain)
    if too_old:
        raise BundleFormatError(too_old)
    check_manifest(manifest)
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


def _read(reading: Callable[[], T], too_old: str = "", plain: object = None) -> T:
    """Return what a reader makes of a text; BundleFormatError where it cannot, with what to do about it."""
    try:
        return reading()
    except RecursionError as error:
        raise BundleFormatError("is nested too deep; export it again") from error
    except UnicodeDecodeError as error:
        raise BundleFormatError(f"is not UTF-8 ({error.reason}, byte {error.start}); export it again") from error
    except (msgspec.MsgspecError, ValueError) as error:
        raise BundleFormatError(f"{_shown(str(error), plain)}; {too_old or 'export it again'}") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object of these pairs; raises ValueError for a key that comes twice: readers differ in what it is."""
    result = dict(pairs)
    if len(result) < len(pairs):
        raise ValueError(f"key '{first_twice([key for key, _ in pairs])}' stands twice in an object")
    return result


def _shown(message: str, plain: object) -> str:
    """Return a message in one line, with the value where only a range and a place are told."""
    value = _value_at(plain, message) if _BOUND.match(message) else None
    if isinstance(value, (int, float)):
        message += f", which is {value}"
    for pattern, words in IN_WORDS.items():
        message = message.replace(f"matching regex {pattern!r}", words)
    line = "".join(one if one.isprintable() else ascii(one)[1:-1] for one in message)
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}..."


def _value_at(plain: object, message: str) -> object:
    """Return the value that a message of msgspec's is about; None where its path leads nowhere."""
    place = _PLACE.search(message)
    for step in re.findall(r"\w+", place[1]) if place else ():
        if isinstance(plain, dict) and step in plain:
            plain = plain[step]
        elif isinstance(plain, list) and step.isdecimal() and int(step) < len(plain):
            plain = plain[int(step)]
        else:
            return None
    return plain if place else None
