"""A damaged manifest is read or refused, and so is the folder that it lies in."""

from edgekit.bundle import open_bundle
from edgekit.bundle.history import read_manifest


def test_a_damaged_manifest_is_read_or_refused(fuzz, tiny_bundle):
    texts = [(tiny_bundle(kind).folder / "manifest.json").read_bytes() for kind in ("cross", "prefix")]
    fuzz("manifest: text", lambda case: read_manifest(case.document(case.chosen(texts))))


def test_a_bundle_with_a_damaged_manifest_is_opened_or_refused(fuzz, tiny_bundle):
    folder = tiny_bundle().folder
    path = folder / "manifest.json"
    whole = path.read_bytes()

    def attempt(case):
        path.write_bytes(case.document(whole))
        open_bundle(folder)

    fuzz("manifest: door", attempt)
