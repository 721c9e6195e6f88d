"""A thousand bits (200 in continuous integration) of a whole bundle, one at a time.

Each is told when it is loaded, or has no effect on purpose.
"""

import os
import random
import shutil

import pytest

import edgekit
from edgekit.errors import EdgeKitError

FLIPS = 1000 if {"FUZZ_CASES", "FUZZ_SECONDS"} & set(os.environ) else 200
UNREAD = {"README.md", "provenance.json"}  # for people: neither listed in the manifest nor read when a bundle is run


def flips(folder, count, seed=15):
    """Yield a path and a bit in it for each flip: every file is met as often as another, and then any bit of it."""
    draw = random.Random(seed)
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    for number in range(count):
        path = paths[number % len(paths)]
        yield path, draw.randrange(8 * path.stat().st_size)


@pytest.mark.fuzz
def test_every_flipped_bit_of_a_bundle_is_refused(tiny_bundle, tmp_path):
    folder = tmp_path / "flipped"
    shutil.copytree(tiny_bundle().folder, folder)
    for name in UNREAD:
        (folder / name).write_text("for people\n")
    refused, without_effect, accepted = 0, [], []
    for path, bit in flips(folder, FLIPS):
        whole = path.read_bytes()
        at, mask = bit // 8, 1 << bit % 8
        path.write_bytes(whole[:at] + bytes([whole[at] ^ mask]) + whole[at + 1 :])
        try:
            edgekit.load(folder, threads=1)
        except EdgeKitError:
            refused += 1
        else:
            (without_effect if path.name in UNREAD else accepted).append(f"{path.name}: bit {bit}")
        path.write_bytes(whole)
    print(
        f"{FLIPS} flips: {refused} refused, {len(without_effect)} without effect on purpose, {len(accepted)} accepted"
    )
    assert accepted == []
    assert refused + len(without_effect) == FLIPS
    assert {line.partition(":")[0] for line in without_effect} == UNREAD
    edgekit.load(folder, threads=1)
