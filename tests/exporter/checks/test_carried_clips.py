"""A bundle is verified where EdgeKit's own recordings are not: what verify hears travels in the bundle."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edgekit.bundle import decode, open_bundle
from edgekit.errors import VerifyError
from edgekit.exporter.checks.quality import check_clips
from edgekit.exporter.export import ExportOptions, export, quantize
from edgekit.exporter.pack import list_files, write_array, write_manifest
from edgekit.recipe import load_recipe
from edgekit.runtime.judge import golden_clips
from edgekit.runtime.judge.verify import verify
from tests.exporter.test_export import JUDGED

ROOT = Path(__file__).resolve().parents[3]
CLIP = "librivox-0930.flac"


@pytest.fixture
def elsewhere(tmp_path):
    """Return a function that runs ``verify`` of an EdgeKit without ``export/clips``: return code, stdout, stderr."""
    for name in ("edgekit", "runtimes"):
        shutil.copytree(ROOT / name, tmp_path / "site" / name, ignore=shutil.ignore_patterns("__pycache__"))

    def run(bundle):
        done = subprocess.run(
            [sys.executable, "-m", "edgekit", "verify", str(bundle)],
            cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path / "site")},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout, done.stderr

    return run


@pytest.fixture
def bundle(checkpoint, tmp_path):
    export(checkpoint("whisper-experts"), tmp_path / "b", ExportOptions(recipe=JUDGED, precision="float32"))
    return tmp_path / "b"


def as_version_1(bundle):
    """Make a bundle what version 1 of the format was: no ``needs``, and no samples of the clips."""
    for file in (bundle / "goldens").glob("clip.*.npy"):
        file.unlink()
    manifest = manifest_of(bundle)
    goldens = {
        name: {key: value for key, value in entry.items() if key != golden_clips.CLIP}
        for name, entry in manifest.verification["goldens"].items()
    }
    verification = manifest.verification | {"goldens": goldens}
    write_manifest(bundle, msgspec.structs.replace(manifest, verification=verification, files=list_files(bundle)))
    fields = json.loads((bundle / "manifest.json").read_text()) | {"format_version": 1}
    del fields["needs"]
    (bundle / "manifest.json").write_text(json.dumps(fields, indent=1) + "\n")


def manifest_of(bundle):
    """Return the manifest of a bundle whose files are being changed."""
    return decode((bundle / "manifest.json").read_bytes())


def test_a_bundle_is_verified_without_edgekits_own_recordings(bundle, elsewhere):
    code, out, err = elsewhere(bundle)
    assert (code, err) == (0, "")
    assert len(out.splitlines()) > 5
    assert all(line.startswith("ok      ") for line in out.splitlines())


def test_the_samples_that_travel_are_the_recordings_own(bundle):
    (recorded,) = check_clips(load_recipe(JUDGED), 16_000).values()
    assert list(golden_clips.golden_clips(open_bundle(bundle))) == [CLIP]
    carried = golden_clips.golden_clips(open_bundle(bundle))[CLIP]
    np.testing.assert_array_equal(carried, recorded[: len(carried)])
    assert carried.dtype == np.float32
    assert np.load(bundle / "goldens/clip.0.npy").dtype == np.int16
    assert [check.error for check in verify(bundle, threads=1).checks][:1] == [0.0]


def test_other_samples_than_the_goldens_are_of_are_told_apart(bundle):
    write_array(bundle, "goldens/clip.0", np.load(bundle / "goldens/clip.0.npy")[::-1])
    write_manifest(bundle, msgspec.structs.replace(manifest_of(bundle), files=list_files(bundle)))
    assert not all(check.passed for check in verify(bundle, threads=1).checks)


def test_samples_of_another_kind_are_refused_in_one_line(bundle):
    write_array(bundle, "goldens/clip.0", np.zeros((2, 3)))
    write_manifest(bundle, msgspec.structs.replace(manifest_of(bundle), files=list_files(bundle)))
    with pytest.raises(ValueError, match=r"'goldens/clip.0.npy' is float64 \(2, 3\), samples \(n,\) int16 are needed"):
        verify(bundle, threads=1)


def test_a_bundle_of_version_1_is_verified_where_the_recordings_are_and_says_so_where_not(bundle, elsewhere):
    as_version_1(bundle)
    assert all(check.passed for check in verify(bundle, threads=1).checks)
    code, out, err = elsewhere(bundle)
    clips = Path(bundle).parent / "site/export/clips"
    assert (code, out) == (1, "")
    assert err == (
        f"edgekit: {bundle}: carries no samples of its clip '{CLIP}', and {clips} has none; export it again, or verify "
        "it where EdgeKit's export/clips is\n"
    )


def test_a_float_bundle_of_version_1_is_quantised_to_one_that_carries_its_clips(checkpoint, bundle, tmp_path):
    as_version_1(bundle)
    quantize(bundle, tmp_path / "q", ExportOptions(precision="int8", accept_loss="random weights"))
    options = ExportOptions(recipe=JUDGED, precision="int8", accept_loss="random weights")
    export(checkpoint("whisper-experts"), tmp_path / "straight", options)
    made, straight = (open_bundle(tmp_path / name).manifest for name in ("q", "straight"))
    assert {file.path: file.sha256 for file in made.files} == {file.path: file.sha256 for file in straight.files}
    assert made.verification["goldens"][CLIP][golden_clips.CLIP] == "goldens/clip.0.npy"
    assert made.format_version == straight.format_version == 2


def test_a_bundle_without_goldens_is_refused_before_anything_is_loaded(bundle):
    write_manifest(bundle, msgspec.structs.replace(manifest_of(bundle), verification={}))
    with pytest.raises(VerifyError, match=r"carries no goldens; export it again with a recipe that names check clips$"):
        verify(bundle)
