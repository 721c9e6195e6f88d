"""Manifests of other versions: earlier ones are read, later ones say which EdgeKit they need."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgekit.bundle import FORMAT_VERSION, decode, encode, open_bundle
from edgekit.bundle.history import read_manifest, upgraded
from edgekit.bundle.manifest import NEEDS
from edgekit.errors import BundleFormatError
from edgekit.versions import VERSION, older

VERSION_1 = Path(__file__).parent / "manifest-version-1.json"  # as an EdgeKit wrote it that knew no other version


def change(folder: Path, **fields: Any) -> Path:
    """Write some of a manifest's fields anew, by hand and so without a checksum; return its path."""
    path = folder / "manifest.json"
    written = json.loads(path.read_text())
    del written["checksum"]
    path.write_text(json.dumps(written | fields))
    return path


def _as_in(content: Any, written: Any) -> Any:
    """Return plain data without the fields that came later, of which this manifest says nothing."""
    if isinstance(content, dict) and isinstance(written, dict):
        return {name: _as_in(one, written[name]) for name, one in content.items() if name in written}
    return content


def test_a_manifest_of_version_1_is_read_with_all_that_it_says() -> None:
    text = VERSION_1.read_bytes()
    written, manifest = json.loads(text), read_manifest(text)
    again = json.loads(encode(manifest))
    assert (written.pop("format_version"), again.pop("format_version")) == (1, FORMAT_VERSION)
    assert (again.pop("needs"), again["front_end"].pop("floor")) == (NEEDS, "running")
    assert _as_in(again, written) == written
    assert decode(encode(manifest)) == manifest


def test_a_manifest_of_version_2_is_read_and_still_says_what_it_needs() -> None:
    fields = json.loads(VERSION_1.read_bytes()) | {"format_version": 2, "needs": "0.0.9"}
    manifest = read_manifest(json.dumps(fields).encode())
    assert (manifest.format_version, manifest.needs) == (FORMAT_VERSION, "0.0.9")


def test_what_is_brought_up_to_this_version_is_not_changed_in_place() -> None:
    fields = json.loads(VERSION_1.read_bytes())
    assert upgraded(fields)["format_version"] == FORMAT_VERSION
    assert fields == json.loads(VERSION_1.read_bytes())


def test_a_bundle_says_that_it_needs_no_later_edgekit_than_the_one_that_wrote_it(tiny_bundle: Callable) -> None:
    manifest = open_bundle(tiny_bundle().folder).manifest
    assert (manifest.format_version, manifest.needs) == (FORMAT_VERSION, NEEDS)
    assert not older(VERSION, NEEDS)


READS = f"this EdgeKit {VERSION} reads 1, 2 and 3"
TOO_OLD = f"needs EdgeKit 99.1 or newer, this is {VERSION}; install that"
ANY = "install the EdgeKit that made it"
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"format_version": 4, "needs": "0.9"}, f"format version 4, {READS}; install EdgeKit 0.9 or newer"),
    ({"format_version": 4, "needs": None}, f"format version 4, {READS}; {ANY}"),
    ({"format_version": 4, "needs": "9\n\x1b[2J"}, f"format version 4, {READS}; {ANY}"),
    ({"format_version": 0}, "format version 0, there is 1, 2 and 3 only; export it again"),
    ({"format_version": "2"}, "Expected `int`, got `str` - at `$.format_version`; export it again"),
    ({"needs": "99.1", "smell": 1}, f"Object contains unknown field `smell`; {TOO_OLD}"),
    ({"needs": "99.1"}, TOO_OLD),
    ({"smell": 1}, "Object contains unknown field `smell`; export it again"),
    ({"levels": [{"name": 3}]}, "Expected `str`, got `int` - at `$.levels[0].name`; export it again"),
    ({"format_version": 1}, "Object contains unknown field `needs`; export it again"),
]


@pytest.mark.parametrize(("fields", "message"), REFUSED)
def test_what_cannot_be_read_is_one_line_with_what_to_do(tiny_bundle: Callable, fields: dict, message: str) -> None:
    folder = tiny_bundle().folder
    path = change(folder, **fields)
    with pytest.raises(BundleFormatError) as refused:
        open_bundle(folder)
    assert str(refused.value) == f"{path}: {message}"


def test_a_wrong_field_of_version_1_is_named_with_its_path(tiny_bundle: Callable) -> None:
    folder = tiny_bundle().folder
    fields = json.loads((folder / "manifest.json").read_text()) | {"format_version": 1, "levels": [{"name": 3}]}
    del fields["needs"], fields["checksum"]
    (folder / "manifest.json").write_text(json.dumps(fields))
    with pytest.raises(
        BundleFormatError, match=r"Expected `str`, got `int` - at `\$.levels\[0\].name`; export it again"
    ):
        open_bundle(folder)
