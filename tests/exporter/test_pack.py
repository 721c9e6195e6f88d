"""A bundle takes its place whole, and nothing that is not a bundle's own is replaced by it."""

import json
import os
import re

import pytest

from edgekit.errors import OutputError
from edgekit.exporter.pack import building, list_files


def _fifo(output):
    (output / "manifest.json").unlink()
    os.mkfifo(output / "manifest.json")


def _manifest(text):
    return lambda output: (output / "manifest.json").write_text(text)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda b: (b / "notes.txt").write_text("mine"), "holds notes.txt, which is no part of the bundle; move it or"),
        (lambda b: (b / "goldens/mine.npy").write_text("mine"), "holds goldens/mine.npy, which is no part of the"),
        (lambda b: (b / "goldens/manifest.json").write_text("mine"), "holds goldens/manifest.json, which is no part"),
        (lambda b: (b / "mine").mkdir(), "holds mine, which is no part of the bundle"),
        (lambda b: (b / "link").symlink_to(b.parent), "holds link, which is no part of the bundle"),
        (_manifest("{"), "is not a bundle, so it is not replaced"),
        (_manifest("[" * 100_000), "is not a bundle, so it is not replaced"),
        (_manifest('{"format_version": 99, "components": {}}'), "is not a bundle, so it is not replaced"),
        (_manifest('{"format_version": 99, "components": {}, "files": [{"path": 1}, 2]}'), "holds config.json, which"),
        (_fifo, "is not a bundle, so it is not replaced"),
    ],
)
def test_what_is_no_part_of_a_bundle_is_never_replaced(tmp_path, spoil, message):
    output = tmp_path / "b"
    with building(output, overwrite=False) as folder:
        _toy_bundle(folder)
    spoil(output)
    before = _contents(output)
    with (
        pytest.raises(OutputError, match=f"^{output}: {re.escape(message)}") as refused,
        building(output, overwrite=True) as folder,
    ):
        _toy_bundle(folder)
    assert "\n" not in str(refused.value)
    assert _contents(output) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b"]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda b: (b / "manifest.sig").write_text("a signature"),
        lambda b: (b / "provenance.json").unlink(),
        lambda b: (b / "config.json").write_text("damaged"),
        lambda b: (b / "goldens/logits.npy").unlink(),
        lambda b: (b / "manifest.json").write_text((b / "manifest.json").read_text().replace(": 1", ": 99")),
    ],
)
def test_a_bundle_is_replaced_whatever_became_of_its_own_files(tmp_path, spoil):
    output = tmp_path / "b"
    with building(output, overwrite=False) as folder:
        _toy_bundle(folder)
    spoil(output)
    with building(output, overwrite=True) as folder:
        _toy_bundle(folder)
        (folder / "provenance.json").write_text("new")
    assert (output / "provenance.json").read_text() == "new"
    assert not (output / "manifest.sig").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b"]


def test_a_signature_that_goes_with_the_old_bundle_is_told(tmp_path, caplog):
    for _ in range(2):
        with building(tmp_path / "b", overwrite=True) as folder:
            _toy_bundle(folder)
    assert not caplog.messages
    (tmp_path / "b" / "manifest.sig").write_bytes(bytes(64))
    with building(tmp_path / "b", overwrite=True) as folder:
        _toy_bundle(folder)
    place = tmp_path / "b"
    assert caplog.messages == [f"{place}: the bundle that it replaces was signed and this one is not; sign it again"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_comes_while_a_bundle_is_built_is_kept(tmp_path, overwrite):
    output = tmp_path / "b"
    with building(tmp_path / "other", overwrite=False) as folder:
        _toy_bundle(folder)
        (folder / "notes.txt").write_text("mine")
    with (
        pytest.raises(OutputError, match="holds notes.txt" if overwrite else "exists already"),
        building(output, overwrite=overwrite),
    ):
        (tmp_path / "other").rename(output)
    assert (output / "notes.txt").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b"]


def test_two_exports_to_one_place_do_not_meet(tmp_path):
    output = tmp_path / "b"
    with building(output, overwrite=True) as folder:
        _toy_bundle(folder)
        with (
            pytest.raises(OutputError, match=f"^{output}: another export is writing it; wait for that, or choose"),
            building(output, overwrite=True),
        ):
            pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b"]


def _toy_bundle(folder):
    (folder / "goldens").mkdir()
    for name in ("config.json", "goldens/logits.npy"):
        (folder / name).write_text(name)
    files = [{"path": entry.path} for entry in list_files(folder)]
    (folder / "manifest.json").write_text(json.dumps({"format_version": 1, "components": {}, "files": files}))
    (folder / "provenance.json").write_text("{}")


def _contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.is_file() and path.read_bytes() for path in sorted(folder.rglob("*"))
    }
