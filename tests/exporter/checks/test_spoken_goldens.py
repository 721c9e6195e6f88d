"""Goldens of what speaks: a bundle agrees with its own, and one that says or sounds something else does not."""

import msgspec
import numpy as np
import pytest

from edgekit.bundle import open_bundle
from edgekit.exporter.export import ExportOptions, export
from edgekit.exporter.pack import list_files, write_array, write_manifest
from edgekit.runtime.judge.verify import verify
from tests.exporter import speaking
from tests.exporter.test_export import JUDGED


@pytest.fixture(params=["omni", "step"])
def bundle(request, checkpoint, tmp_path):
    found = checkpoint("omni") if request.param == "omni" else speaking.write(tmp_path / "checkpoint")
    export(found, tmp_path / "b", ExportOptions(recipe=JUDGED, precision="int8", accept_loss="random weights"))
    return tmp_path / "b"


def _spoil(bundle, name, change):
    """Change one golden and enter it into the manifest."""
    stored = np.load(bundle / "goldens" / f"{name}.npy")
    write_array(bundle, f"goldens/{name}", change(stored).astype(stored.dtype))
    manifest = open_bundle(bundle, check_hashes=False).manifest
    write_manifest(bundle, msgspec.structs.replace(manifest, files=list_files(bundle)))


def _speech(bundle):
    checks = verify(bundle, threads=1).checks
    return {check.name: check for check in checks if check.name.startswith("sp")}


SOUND, CODES = "spoken.sound: relative error", "speech codes that differ / codes"


def test_what_a_bundle_says_is_verified_codes_and_sound(bundle):
    whole = verify(bundle, threads=1).checks
    assert all(check.passed for check in whole)
    found = _speech(bundle)
    assert list(found) == [SOUND, CODES]
    assert 0 < found[SOUND].error < found[SOUND].tolerance, "its float twin makes another sound of these codes"
    assert found[CODES].error == 0, "which it took itself"
    _spoil(bundle, "spoken.sound", lambda sound: sound * 3)
    assert [check.name for check in _speech(bundle).values() if not check.passed] == [SOUND]


def test_a_float_bundle_says_what_it_said_when_it_was_made(checkpoint, tmp_path):
    export(checkpoint("omni"), tmp_path / "b", ExportOptions(recipe=JUDGED, precision="float32"))
    assert {name: check.error for name, check in _speech(tmp_path / "b").items()} == {SOUND: 0.0, CODES: 0.0}


def test_other_codes_are_told_apart(bundle):
    assert _speech(bundle)[CODES].passed  # there are codes to compare
    _spoil(bundle, "spoken.codes", lambda codes: codes ^ 1)
    assert not _speech(bundle)[CODES].passed
