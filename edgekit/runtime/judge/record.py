"""The record: which files and settings the results of an export hold for, as hashes inside those results.

The manifest's list of files tells a damaged copy from a whole one, and is made anew by whoever changes a bundle. This
one stands among the results and says what was judged: a scale that is 5 % off makes less noise than another processor's
rounding does, and no number of a golden shows it.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from edgekit.errors import BundleFormatError
from edgekit.runtime.judge.golden_clips import FOLDER

JUDGED = "judged"
RESULTS = "verification"
FIELDS = (
    "family", "dialect", "requires", "precision", "components", "embedding", "front_end", "grid", "protocol", "levels",
    "gate", "recipe", "census", "speech", "dummy_seed",
)  # fmt: skip
"""Fields of the manifest that decide what a bundle computes, or what it was judged by."""


def record(manifest: bytes) -> dict[str, str]:
    """Return the SHA-256 of every file but the goldens, of FIELDS as ``manifest.FIELD``, and of the results alike.

    The results are all that the export found but this record: tolerances and tokens that are compared with are of them.

    manifest: the text of manifest.json. A field is hashed as it stands there: a later EdgeKit, which knows more fields
    than were written, finds the same hash. Raises BundleFormatError for a text that is none: it was read before, and
    is another by now.
    """
    try:
        return _record(json.loads(manifest))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BundleFormatError(f"manifest.json: is another than was opened ({error!r}); verify it again") from error


def _record(fields: Mapping[str, Any]) -> dict[str, str]:
    files = {file["path"]: file["sha256"] for file in fields["files"] if not file["path"].startswith(f"{FOLDER}/")}
    results = {name: value for name, value in fields[RESULTS].items() if name != JUDGED}
    decisive = {name: fields.get(name) for name in FIELDS} | {RESULTS: results}
    return files | {f"manifest.{name}": _hash(value) for name, value in decisive.items()}


def unjudged(manifest: bytes, judged: Mapping[str, str]) -> list[str]:
    """Return what is not as it was when it was judged, sorted: files and fields, those that came or went included."""
    found = record(manifest)
    return sorted(name for name in found.keys() | judged.keys() if found.get(name) != judged.get(name))


def _hash(value: object) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
