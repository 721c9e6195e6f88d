"""The manifest's text ends with a checksum of itself: no byte of it, white space included, is damaged unseen."""

import json
import re
from collections.abc import Callable

import numpy as np
import pytest

from edgekit.bundle import decode, encode, open_bundle
from edgekit.bundle.history import read_manifest
from edgekit.errors import BundleFormatError
from edgekit.runtime.judge.record import record

DAMAGED = "does not match its checksum; copy or export it again"


def test_every_byte_is_protected(tiny_bundle: Callable) -> None:
    """One bit of each byte, another each time; then one at every bit of the checksum itself."""
    text = (tiny_bundle().folder / "manifest.json").read_bytes()
    assert read_manifest(text) == decode(text)
    rng = np.random.default_rng(3)
    places = [(place, int(bit)) for place, bit in enumerate(rng.integers(0, 8, len(text)))]
    start = text.rindex(b'"checksum"')
    places += [(place, bit) for place in range(start, len(text)) for bit in range(8)]
    taken = []
    for place, bit in places:
        flipped = bytearray(text)
        flipped[place] ^= 1 << bit
        try:
            read_manifest(bytes(flipped))
        except BundleFormatError:
            continue
        taken.append((place, bit))
    assert taken == []


@pytest.mark.parametrize(
    "change",
    [
        (rb' "name"', rb'  "name"'),
        (rb"\n}\n$", rb"\n}"),
        (rb"\n}\n$", rb"\n}\n\n"),
        (rb'"tiny"', rb'"tina"'),
        (rb'"format_version": 3', rb'"format_version": 2'),
        (rb'"format_version": 3', rb'"format_version": 7'),
        (rb'"checksum": "..', rb'"checksum": "00'),
        (rb'"checksum": "', rb'"checksum": "0'),
        (rb'"checksum": "[0-9a-f]+"', rb'"checksum": ""'),
        (rb'"checksum": "[0-9a-f]+"', rb'"checksum": 0'),
    ],
)
def test_what_is_not_as_it_was_written_is_told(tiny_bundle: Callable, change: tuple[bytes, bytes]) -> None:
    folder = tiny_bundle().folder
    text = (folder / "manifest.json").read_bytes()
    changed = re.sub(*change, text, count=1)
    assert changed != text
    (folder / "manifest.json").write_bytes(changed)
    with pytest.raises(BundleFormatError, match=f"manifest.json: {DAMAGED}$"):
        open_bundle(folder)


def test_who_edits_a_manifest_takes_the_checksum_out(tiny_bundle: Callable) -> None:
    folder = tiny_bundle().folder
    fields = json.loads((folder / "manifest.json").read_text())
    del fields["checksum"]
    (folder / "manifest.json").write_text(json.dumps(fields | {"name": "edited"}))
    assert open_bundle(folder).manifest.name == "edited"


def test_the_same_content_gives_the_same_bytes_and_the_checksum_is_no_part_of_it(tiny_bundle: Callable) -> None:
    text = (tiny_bundle().folder / "manifest.json").read_bytes()
    manifest = read_manifest(text)
    assert encode(manifest) == text
    assert "checksum" not in type(manifest).__struct_fields__
    without = json.loads(text)
    del without["checksum"]
    assert record(text) == record(json.dumps(without).encode())


def test_zeros_elsewhere_in_the_text_are_not_taken_for_the_checksum(tiny_bundle: Callable) -> None:
    bundle = tiny_bundle(license="0" * 64, recipe={"checksum": "0" * 64, "note": '"checksum": "' + "0" * 64})
    assert open_bundle(bundle.folder).manifest.recipe["checksum"] == "0" * 64
