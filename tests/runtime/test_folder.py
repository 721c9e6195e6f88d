"""Opening a bundle folder: only listed files, and no links."""

import re
from collections.abc import Callable

import msgspec
import pytest

from edgekit.bundle import TensorRef, open_bundle
from edgekit.bundle.dialects import DIALECTS, DialectName
from edgekit.errors import BundleFileError, BundleFormatError


def test_a_bundle_as_written_opens(tiny_bundle: Callable) -> None:
    bundle = tiny_bundle()
    assert open_bundle(bundle.folder).manifest == bundle.manifest


@pytest.mark.parametrize("part", ["weight", "scales"])
def test_the_files_of_the_token_table_must_be_listed(tiny_bundle: Callable, part: str) -> None:
    bundle = tiny_bundle()
    (bundle.folder / "spare").mkdir()
    (bundle.folder / "spare" / "table.bin").write_bytes(bytes(400))
    ref = TensorRef(file="spare/table.bin", offset=0, dtype="float32", shape=(100,))
    broken = msgspec.structs.replace(bundle.manifest.embedding, **{part: ref})
    (bundle.folder / "manifest.json").write_bytes(
        msgspec.json.encode(msgspec.structs.replace(bundle.manifest, embedding=broken))
    )
    with pytest.raises(BundleFormatError, match="'spare/table.bin' is used by a component but not listed"):
        open_bundle(bundle.folder)


@pytest.mark.parametrize("name", ["manifest.json", "tokens.bin"])
def test_a_link_is_refused_even_if_what_it_leads_to_is_right(tiny_bundle: Callable, name: str) -> None:
    bundle = tiny_bundle()
    elsewhere = bundle.folder.parent / "elsewhere"
    (bundle.folder / name).rename(elsewhere)
    (bundle.folder / name).symlink_to(elsewhere)
    with pytest.raises(BundleFormatError, match=f"'{name}' is (or goes through )?a link"):
        open_bundle(bundle.folder)


def test_a_dialect_that_nobody_registered_is_refused_with_the_known_ones(tiny_bundle: Callable) -> None:
    folder = tiny_bundle().folder
    path = folder / "manifest.json"
    text = re.sub(r',\s*"checksum": "[0-9a-f]+"', "", path.read_text())
    path.write_text(text.replace('"ort-cpu"', '"toy"'))
    with pytest.raises(
        BundleFormatError,
        match=r"manifest.json: dialect 'toy' is not known; choose one of: ort-cpu, ort-cuda, standard, or register it "
        r"first; export it again$",
    ):
        open_bundle(folder)
    with DIALECTS.registered(DialectName("toy", ("float32",))):
        assert open_bundle(folder).manifest.dialect == "toy"


@pytest.mark.parametrize("rate", [0, 999, 768_001])
def test_a_front_end_at_a_rate_that_is_not_heard_is_refused(tiny_bundle: Callable, rate: int) -> None:
    bundle = tiny_bundle()
    bundle.change(front_end=msgspec.structs.replace(bundle.manifest.front_end, sample_rate_hz=rate))
    with pytest.raises(BundleFormatError, match=r"Expected `int` .= (1000|768000) - at `\$.front_end.sample_rate_hz`"):
        open_bundle(bundle.folder)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "checkpoint",
            "checkpoint: is a checkpoint and no bundle; make one of it: `edgekit export .*checkpoint -o bundles/",
        ),
        ("talk.wav", "is a file, a bundle is a folder and stands first, as in `edgekit run BUNDLE FILE`"),
        ("tiny/manifest.json", "is a file of a bundle; give the folder: .*/tiny$"),
        ("", "no manifest.json there, its folders are bundles; give one: .*/tiny$"),
        ("tini", "no such folder; did you mean .*/tiny.$"),
        ("else", "no such folder; make one with `edgekit export CHECKPOINT -o .*else`$"),
        ("empty", "no manifest.json there, so it is no bundle; make one with `edgekit export CHECKPOINT -o .*empty`$"),
        ("no/where/else", "no such folder; make one with"),
    ],
)
def test_what_is_given_in_place_of_a_bundle_is_told_what_it_is(tiny_bundle: Callable, name: str, said: str) -> None:
    written = tiny_bundle().folder
    root = written.rename(written.with_name("tiny")).parent
    for folder in ("checkpoint", "empty"):
        (root / folder).mkdir()
    (root / "checkpoint" / "config.json").write_text("{}")
    (root / "talk.wav").write_bytes(b"RIFF")
    with pytest.raises(BundleFileError, match=said):
        open_bundle(root / name)
