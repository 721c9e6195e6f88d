"""`edgekit export`, `quantize` and `verify`: what they print, and how they refuse."""

import json
import re
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edgekit.bundle import FileEntry, encode, hash_file, open_bundle

RECIPE = Path(__file__).parent / "quick.toml"


def test_export_prints_components_census_ratio_checks_and_size(cli, checkpoint, tmp_path):
    bundle = tmp_path / "b"
    code, out, err = cli("export", checkpoint, "-o", bundle, "--recipe", RECIPE, "--experts", "int4")
    assert code == 0
    lines = out.splitlines()
    manifest = open_bundle(bundle).manifest
    size = sum(
        path.stat().st_size for path in bundle.rglob("*") if path.name not in {"manifest.json", "provenance.json"}
    )
    assert lines[0] == f"{bundle}: tiny (whisper, ort-cpu), {size / 1e6:.1f} MB"
    assert lines[1] == "  precision: encoder int8, backbone int8, experts int4, head int8"
    head = lines[2].split()
    assert head[:3] == ["weights", "in", "MB"]
    assert {line.split()[0] for line in lines[3:6]} == set(manifest.components)
    assert "uint8 (4 bit)" in lines[2]
    assert "of their float32 bytes" in out
    assert "word error rate" in out
    # Not a terminal: a line for each stage, nothing that rewrites a line.
    assert [line for line in err.splitlines() if line.startswith("edgekit: ")] == err.splitlines()
    assert "\x1b" not in out + err


def test_json_says_the_same_and_the_census_adds_up(cli, checkpoint, tmp_path):
    bundle = tmp_path / "b"
    code, out, _ = cli("export", checkpoint, "-o", bundle, "--recipe", RECIPE, "--json")
    facts, manifest = json.loads(out), open_bundle(bundle).manifest
    assert code == 0
    assert facts["precision"] == manifest.precision
    total = sum(row.bytes for row in manifest.census)
    assert sum(held["bytes"] for held in facts["census"].values()) == total
    assert sum(size for held in facts["components"].values() for size in held.values()) == total
    assert sum(held["tensors"] for held in facts["census"].values()) == len(manifest.census)
    assert facts["verification"]["measured"]["word_error_rate"] <= 1.0
    assert "goldens" not in facts["verification"]


def test_a_group_is_named_by_its_own_flag_or_with_precision(cli, checkpoint, tmp_path):
    found = []
    for index, named in enumerate((("--experts", "int4"), ("--precision", "experts=int4"))):
        options = ("--recipe", RECIPE, "--precision", "float32", *named)
        code, _, err = cli("export", checkpoint, "-o", tmp_path / str(index), *options, "--accept-loss", "a test")
        assert code == 0, err
        found.append(open_bundle(tmp_path / str(index)).manifest.precision)
    assert found == [{"encoder": "float32", "backbone": "float32", "experts": "int4", "head": "float32"}] * 2


def test_quantize_gives_the_bundle_that_export_gives(cli, checkpoint, bundle, tmp_path):
    whole, small = tmp_path / "float", tmp_path / "int8"
    assert cli("export", checkpoint, "-o", whole, "--recipe", RECIPE, "--precision", "float32")[0] == 0
    code, out, _ = cli("quantize", whole, "-o", small)
    assert code == 0
    assert "precision: encoder int8, backbone int8, experts int8, head int8" in out
    assert open_bundle(small).manifest == open_bundle(bundle).manifest


@pytest.mark.parametrize(
    ("target", "dialect"), [("desktop-cuda", "ort-cuda"), ("desktop-rtx", "standard"), ("jetson-orin", "standard")]
)
def test_a_target_gets_a_bundle_of_its_dialect(cli, checkpoint, tmp_path, target, dialect):
    arguments = ("--target", target, "--recipe", RECIPE, "--precision", "float32")
    code, _, err = cli("export", checkpoint, "-o", tmp_path / "b", *arguments)
    assert code == 0, err
    assert open_bundle(tmp_path / "b").manifest.dialect == dialect


def test_an_output_that_exists_is_kept_unless_told_otherwise(cli, checkpoint, tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b/mine.txt").write_text("mine")
    for arguments in ((), ("--overwrite",)):
        code, out, err = cli("export", checkpoint, "-o", tmp_path / "b", "--recipe", RECIPE, *arguments)
        assert (code, out) == (1, "")
        assert err.splitlines()[-1].startswith(f"edgekit: {tmp_path / 'b'}: ")
    assert (tmp_path / "b/mine.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("--target=moon", (1, "target 'moon' is not known; choose one of: cpu")),
        ("--recipe=moon.toml", (1, "moon.toml: no such file")),
        ("--accept-loss= ", (2, "--accept-loss: empty, the manifest keeps the reason")),
        ("--decoder=int8", (2, "--decoder: checkpoint0 has no such weights; it has --encoder, --backbone, --experts")),
        ("--precision=eyes=int8", (2, "--precision eyes=int8: checkpoint0 has no such weights; it has --encoder")),
    ],
)
def test_a_wrong_option_is_one_line_and_nothing_is_written(cli, checkpoint, tmp_path, option, expected):
    code, part = expected
    found, out, err = cli("export", checkpoint, "-o", tmp_path / "b", option)
    assert (found, out) == (code, "")
    assert err.startswith(f"edgekit: {part}")
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_no_checkpoint_is_one_line(cli, tmp_path):
    code, out, err = cli("export", tmp_path / "none", "-o", tmp_path / "b")
    assert (code, out) == (1, "")
    assert err.startswith(f"edgekit: {tmp_path / 'none'}")
    assert err.count("\n") == 1


def test_a_quantised_bundle_is_not_quantised_again(cli, bundle, tmp_path):
    code, _, err = cli("quantize", bundle, "-o", tmp_path / "b")
    assert code == 1
    assert "is quantised already" in err


def test_verify_compares_with_the_stored_goldens(cli, bundle):
    code, out, err = cli("verify", bundle)
    assert (code, err) == (0, "")
    first, *lines = out.splitlines()
    assert first == f"{bundle}: compared with its float twin"
    assert all(line.startswith("ok      ") for line in lines)
    code, out, _ = cli("verify", bundle, "--json")
    assert code == 0
    facts = json.loads(out)
    assert facts["compared"] == "compared with its float twin"
    assert {check["passed"] for check in facts["checks"]} == {True}


def _with_logits(bundle, copy, change):
    """Copy a bundle with other golden logits, listed as they are now."""
    shutil.copytree(bundle, copy)
    golden = copy / "goldens/logits.npy"
    np.save(golden, change(np.load(golden)))
    manifest = open_bundle(bundle).manifest
    entry = FileEntry(path="goldens/logits.npy", bytes=golden.stat().st_size, sha256=hash_file(golden))
    files = tuple(entry if old.path == entry.path else old for old in manifest.files)
    (copy / "manifest.json").write_bytes(encode(msgspec.structs.replace(manifest, files=files)))
    return copy


def test_verify_fails_on_goldens_that_another_model_made(cli, bundle, tmp_path):
    copy = _with_logits(bundle, tmp_path / "copy", lambda logits: logits * np.float32(3))
    code, out, err = cli("verify", copy)
    assert code == 1
    assert re.search(r"FAILED  logits: relative error: 0\.66\d, allowed ", out)
    assert err.startswith(f"edgekit: {copy}: 1 of ")
    assert "first 'logits: relative error'; the bundle is the one that was judged: try another backend" in err


def test_a_golden_of_another_shape_fails_and_is_null_in_json(cli, bundle, tmp_path):
    copy = _with_logits(bundle, tmp_path / "copy", lambda logits: logits[1:])
    code, out, _ = cli("verify", copy, "--json")

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    checks = json.loads(out, parse_constant=refuse)["checks"]
    assert code == 1
    assert [(check["error"], check["passed"]) for check in checks if not check["passed"]] == [(None, False)]


@pytest.mark.parametrize("clip", ["../secret.wav", "/etc/passwd", "..", "a\\b.wav", ""])
def test_verify_reads_no_clip_outside_its_own_folder(cli, bundle, tmp_path, clip):
    copy = shutil.copytree(bundle, tmp_path / "copy")
    manifest = open_bundle(bundle).manifest
    goldens = {clip: next(iter(manifest.verification["goldens"].values()))}
    verification = {**manifest.verification, "goldens": goldens}
    (copy / "manifest.json").write_bytes(encode(msgspec.structs.replace(manifest, verification=verification)))
    code, out, err = cli("verify", copy)
    assert (code, out) == (1, "")
    assert err == f"edgekit: {copy}: clip '{clip}' of the goldens is not a bare file name; export it again\n"


def test_verify_refuses_a_changed_byte(cli, bundle, tmp_path):
    copy = shutil.copytree(bundle, tmp_path / "copy")
    data = copy / "backbone.onnx.data"
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    code, out, err = cli("verify", copy)
    assert (code, out) == (1, "")
    assert "does not match its SHA-256" in err
