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
import soundfile

import edgekit
from edgekit.bundle import decode, open_bundle
from edgekit.errors import VerifyError
from edgekit.exporter.checks.quality import check_clips
from edgekit.exporter.export import ExportOptions, export, quantize
from edgekit.exporter.pack import list_files, write_array, write_manifest
from edgekit.recipe import load_recipe
from edgekit.runtime.judge import golden_clips
from edgekit.runtime.judge.probe import answer, hear
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


def as_version_2(bundle):
    """Make a bundle what version 2 of the format was: its own whole results, samples as arrays, and no record."""
    model = edgekit.load(bundle, threads=1)
    manifest = model.manifest
    (entry,) = manifest.verification["goldens"].values()
    heard = hear(model, golden_clips.golden_clips(model.bundle)[CLIP])
    shutil.rmtree(bundle / "goldens")
    write_array(bundle, "goldens/clip.0", golden_clips.in_16_bits(heard.samples))
    for call in (0, 1):
        write_array(bundle, f"goldens/mel.{call}", heard.mel[call])
        write_array(bundle, f"goldens/heard.{call}", heard.parts[call])
    write_array(bundle, "goldens/frames", heard.frames[:64])
    write_array(bundle, "goldens/logits", answer(model, heard, forced=entry["tokens"]).logits[:4])
    goldens = {CLIP: {"clip": "goldens/clip.0.npy", "text": entry["text"], "tokens": entry["tokens"]}}
    verification = {name: value for name, value in manifest.verification.items() if name not in ("judged", "compared")}
    _rewrite(bundle, manifest, verification | {"goldens": goldens})
    _set_fields(bundle, format_version=2)


def as_version_1(bundle):
    """Make a bundle what version 1 of the format was: no ``needs``, and no samples of the clips."""
    as_version_2(bundle)
    for file in (bundle / "goldens").glob("clip.*.npy"):
        file.unlink()
    manifest = manifest_of(bundle)
    goldens = {
        name: {key: value for key, value in entry.items() if key != golden_clips.CLIP}
        for name, entry in manifest.verification["goldens"].items()
    }
    _rewrite(bundle, manifest, manifest.verification | {"goldens": goldens})
    _set_fields(bundle, format_version=1, needs=None)


def _rewrite(bundle, manifest, verification):
    write_manifest(bundle, msgspec.structs.replace(manifest, verification=verification, files=list_files(bundle)))


def _set_fields(bundle, **fields):
    """Write fields of a manifest as they are; those that are None are taken out."""
    written = json.loads((bundle / "manifest.json").read_text()) | fields | {"checksum": None}
    kept = {name: value for name, value in written.items() if name not in (*fields, "checksum") or value is not None}
    (bundle / "manifest.json").write_text(json.dumps(kept, indent=1) + "\n")


def manifest_of(bundle):
    """Return the manifest of a bundle whose files are being changed."""
    return decode((bundle / "manifest.json").read_bytes())


def test_a_bundle_is_verified_without_edgekits_own_recordings(bundle, elsewhere):
    code, out, err = elsewhere(bundle)
    assert (code, err) == (0, "")
    first, *lines = out.splitlines()
    assert first == f"{bundle}: compared with its own results when it was made"
    assert len(lines) > 5
    assert all(line.startswith("ok      ") for line in lines)


def test_the_samples_that_travel_are_the_recordings_own(bundle):
    (recorded,) = check_clips(load_recipe(JUDGED), 16_000).values()
    assert list(golden_clips.golden_clips(open_bundle(bundle))) == [CLIP]
    carried = golden_clips.golden_clips(open_bundle(bundle))[CLIP]
    np.testing.assert_array_equal(carried, recorded[: len(carried)])
    assert carried.dtype == np.float32
    stored = soundfile.info(bundle / "goldens/clip.0.flac")
    assert (stored.format, stored.subtype, stored.samplerate) == ("FLAC", "PCM_16", 16_000)
    assert {check.name: check.error for check in verify(bundle, threads=1).checks}["mel.0: relative error"] == 0.0


@pytest.mark.parametrize("rate", [8000, 16_000, 44_100, 655_350, 655_360, 768_000])
def test_samples_are_packed_without_loss_at_any_rate_of_a_front_end(rate, tmp_path):
    samples = np.random.default_rng(1).integers(-32_768, 32_768, 4001).astype(np.int16)
    samples[:2] = -32_768, 32_767
    kind, content = golden_clips.packed(samples, rate)
    (tmp_path / f"clip.{kind}").write_bytes(content)
    read, rate_hz = soundfile.read(tmp_path / f"clip.{kind}", dtype="int16")
    assert (kind, rate_hz) == ("flac" if rate <= 655_350 else "wav", rate)
    np.testing.assert_array_equal(read, samples)


def test_other_samples_than_the_goldens_are_of_are_told_apart(bundle):
    samples, rate = soundfile.read(bundle / "goldens/clip.0.flac", dtype="int16")
    soundfile.write(bundle / "goldens/clip.0.flac", samples[::-1], rate)
    write_manifest(bundle, msgspec.structs.replace(manifest_of(bundle), files=list_files(bundle)))
    verified = verify(bundle, threads=1)
    assert verified.judged
    assert not all(check.passed for check in verified.checks)


def test_samples_of_another_kind_are_refused_in_one_line(bundle):
    as_version_2(bundle)
    write_array(bundle, "goldens/clip.0", np.zeros((2, 3)))
    write_manifest(bundle, msgspec.structs.replace(manifest_of(bundle), files=list_files(bundle)))
    with pytest.raises(ValueError, match=r"'goldens/clip.0.npy' is float64 \(2, 3\), samples \(n,\) int16 are needed"):
        verify(bundle, threads=1)


def test_a_bundle_of_version_2_is_verified_by_its_own_results(bundle, elsewhere):
    as_version_2(bundle)
    verified = verify(bundle, threads=1)
    assert verified.judged is None, "it has no record"
    assert all(check.passed for check in verified.checks)
    assert {check.error for check in verified.checks} == {0.0}
    assert elsewhere(bundle)[0] == 0
    write_array(bundle, "goldens/frames", np.load(bundle / "goldens/frames.npy") * np.float32(1.01))
    write_manifest(bundle, msgspec.structs.replace(manifest_of(bundle), files=list_files(bundle)))
    _set_fields(bundle, format_version=2)
    code, out, err = elsewhere(bundle)
    assert code == 1
    assert "FAILED  frames: relative error: 0.0099, allowed 0.0001" in out
    assert err.endswith("1 of 8 checks failed, first 'frames: relative error'; export it again\n")


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
    assert made.verification["goldens"][CLIP][golden_clips.CLIP] == "goldens/clip.0.flac"
    assert made.format_version == straight.format_version == 3


def test_a_bundle_without_goldens_is_refused_before_anything_is_loaded(bundle):
    write_manifest(bundle, msgspec.structs.replace(manifest_of(bundle), verification={}))
    with pytest.raises(VerifyError, match=r"carries no goldens; export it again with a recipe that names check clips$"):
        verify(bundle)


def _golden_bytes(bundle):
    files = open_bundle(bundle).manifest.files
    goldens = sum(file.bytes for file in files if file.path.startswith("goldens/"))
    return goldens, sum(file.bytes for file in files)


def test_goldens_take_a_megabyte_at_most_of_a_small_bundle(checkpoint, tmp_path):
    recipe = tmp_path / "long.toml"
    recipe.write_text(JUDGED.read_text().replace('"librivox-0930.flac"', '"librivox-*", "en-*"'))
    for name in ("whisper-dense", "whisper-experts", "step-moe-4"):  # the first hears 30 s at once
        made = export(checkpoint(name), tmp_path / name, ExportOptions(recipe=recipe, precision="float32"))
        goldens, every = _golden_bytes(tmp_path / name)
        assert goldens <= max(1_000_000, 0.05 * every)
        assert 1 < len(made.verification["goldens"]) <= 8
        assert all(check.passed for check in verify(tmp_path / name, threads=1).checks)


def test_clips_that_there_is_no_room_for_are_left_out(checkpoint, tmp_path, monkeypatch):
    recipe = tmp_path / "two.toml"
    recipe.write_text(JUDGED.read_text().replace('"librivox-0930.flac"', '"librivox-0880.flac", "librivox-0930.flac"'))
    options = ExportOptions(recipe=recipe, precision="float32")
    both = export(checkpoint("whisper-experts"), tmp_path / "both", options).verification["goldens"]
    assert list(both) == ["librivox-0880.flac", "librivox-0930.flac"]
    monkeypatch.setattr("edgekit.exporter.checks.goldens.FREE_BYTES", 400_000)
    one = export(checkpoint("whisper-experts"), tmp_path / "one", options).verification["goldens"]
    assert list(one) == ["librivox-0880.flac"]
    assert _golden_bytes(tmp_path / "one")[0] < 400_000
    assert all(check.passed for check in verify(tmp_path / "one", threads=1).checks)
