"""A damaged manifest is read or refused, and so is the folder that it lies in."""

import json

from edgekit.bundle import open_bundle
from edgekit.bundle.history import read_manifest


def without_checksum(folder):
    """Return the text of a bundle's manifest without the checksum by which every damage is told at once."""
    fields = json.loads((folder / "manifest.json").read_bytes())
    fields.pop("checksum", None)
    return json.dumps(fields)


def test_a_damaged_manifest_is_read_or_refused(fuzz, tiny_bundle):
    texts = [without_checksum(tiny_bundle(kind).folder) for kind in ("cross", "prefix")]
    fuzz("manifest: text", lambda case: read_manifest(case.document(case.chosen(texts))), whole=2)


def test_a_bundle_with_a_damaged_manifest_is_opened_or_refused(fuzz, tiny_bundle):
    folder = tiny_bundle().folder
    path = folder / "manifest.json"
    whole = without_checksum(folder)

    def attempt(case):
        path.write_bytes(case.document(whole))
        open_bundle(folder)

    fuzz("manifest: door", attempt)
