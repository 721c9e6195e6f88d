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
    return {check.name.partition(":")[0]: check for check in verify(bundle, threads=1).checks if "speech" in check.name}


def test_what_a_bundle_says_is_verified_codes_and_sound(bundle):
    whole = verify(bundle, threads=1).checks
    assert all(check.passed for check in whole)
    found = _speech(bundle)
    assert {name.split(" ")[0] for name in found} == {"speech"}
    assert [check.error for check in found.values()] == [0.0] * len(found)
    _spoil(bundle, "spoken.sound", lambda sound: sound * 1.1)
    failed = [check.name for check in _speech(bundle).values() if not check.passed]
    assert failed == ["speech (spoken.sound): relative error"]


def test_a_float_bundle_says_what_it_said_when_it_was_made(checkpoint, tmp_path):
    export(checkpoint("omni"), tmp_path / "b", ExportOptions(recipe=JUDGED, precision="float32"))
    found = {check.name: check.error for check in verify(tmp_path / "b", threads=1).checks if "speech" in check.name}
    assert found == {"speech (spoken.sound): relative error": 0.0, "speech codes that differ / codes": 0.0}


def test_other_codes_are_told_apart(bundle):
    assert _speech(bundle)["speech codes that differ / codes"].passed  # there are codes to compare
    _spoil(bundle, "spoken.codes", lambda codes: codes ^ 1)
    assert not _speech(bundle)["speech codes that differ / codes"].passed
