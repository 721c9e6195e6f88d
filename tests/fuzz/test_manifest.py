"""A manifest that was damaged is read or refused in one line."""

from edgekit.bundle.history import read_manifest


def test_a_damaged_manifest_is_read_or_refused(fuzz, tiny_bundle):
    whole = (tiny_bundle().folder / "manifest.json").read_bytes()
    fuzz("manifest: text", lambda case: read_manifest(case.document(whole)))
