"""`edgekit verify` refuses a bundle that is not the one that was judged, though every hash of its files is right."""

import json
import shutil
from pathlib import Path

import msgspec
import pytest

from edgekit.bundle import decode, open_bundle
from edgekit.errors import VerifyError
from edgekit.exporter.export import ExportOptions, export
from edgekit.exporter.pack import write_manifest
from edgekit.runtime.judge.record import record, unjudged
from edgekit.runtime.judge.verify import verify
from tests.exporter.sabotages import SABOTAGES, spoil
from tests.exporter.test_export import JUDGED, QUICK

CHECKPOINT = Path(__file__).parents[3] / "models" / "edgekit-tiny" / "edgekit_tiny" / "checkpoint"
WORDS = "a word that a check clip says and another are swapped in the tokenizer"
EXPERTS = "two experts are swapped"
# What running a bundle of edgekit-tiny shows without its record, and a check that does.
SEEN = {
    WORDS: "texts of the stored tokens that differ",
    EXPERTS: "logits.cheapest: relative error",
    "a row of the encoder's positions is another's": "heard.0: relative error",
    "two rows of the token table are swapped": "logits: relative error",
    "a weight of the encoder has the other sign": "frames: relative error",
    "a norm's epsilon is another in the graph": "logits: relative error",
    "an answer starts from another token": "logits.cheapest: relative error",
    "the cheapest level takes more experts than it says": "logits.cheapest: relative error",
    "the features have another floor": "mel.0: relative error",
}
# What stays within the rounding of another processor: no number tells it, on one processor or another.
UNHEARD = (
    "the scales of a bank of experts are 5 % off",
    "the scales of a linear of the backbone are 5 % off",
    "one code of a weight is another",
)


@pytest.fixture(scope="module", params=["whisper-experts", "whisper-experts-128"])
def good(request, checkpoint, tmp_path_factory):
    """Export random weights to INT8: one language, and several."""
    folder = tmp_path_factory.mktemp("good") / request.param
    options = ExportOptions(recipe=JUDGED, precision="int8", accept_loss="random weights")
    export(checkpoint(request.param), folder, options)
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "tiny"
    export(CHECKPOINT, folder)
    return folder


def test_a_good_bundle_passes(good):
    verified = verify(good, threads=1)
    assert [check for check in verified.checks if not check.passed] == []
    assert (verified.judged, verified.compared) == (True, "compared with its float twin")


@pytest.mark.parametrize("sabotage", SABOTAGES)
def test_what_was_not_judged_is_refused_and_named(sabotage, good, tmp_path):
    spoilt = open_bundle(spoil(good, tmp_path / "b", sabotage)).folder  # its hashes are right
    text = (spoilt / "manifest.json").read_bytes()
    wrong = unjudged(text, decode(text).verification["judged"])
    verified = verify(spoilt, threads=1)
    assert not verified.judged
    first = verified.checks[0]
    assert (first.name, first.passed) == (f"files and settings that are not those judged ({', '.join(wrong)})", False)


def _without_record(bundle):
    """Make the record right, too: only what running the bundle shows is left."""
    manifest = decode((bundle / "manifest.json").read_bytes())
    judged = record((bundle / "manifest.json").read_bytes())
    write_manifest(bundle, msgspec.structs.replace(manifest, verification=manifest.verification | {"judged": judged}))


@pytest.mark.parametrize("sabotage", SEEN)
def test_what_is_far_from_the_float_twin_is_seen_by_running_it_alone(sabotage, trained, tmp_path):
    spoilt = spoil(trained, tmp_path / "b", sabotage)
    _without_record(spoilt)
    verified = verify(spoilt, threads=1)
    assert verified.judged
    assert SEEN[sabotage] in [check.name for check in verified.checks if not check.passed]


@pytest.mark.parametrize("sabotage", UNHEARD)
def test_what_is_nearer_than_another_processors_rounding_is_seen_by_the_record_alone(sabotage, trained, tmp_path):
    spoilt = spoil(trained, tmp_path / "b", sabotage)
    assert [check.passed for check in verify(spoilt, threads=1).checks].count(False) == 1
    _without_record(spoilt)
    assert all(check.passed for check in verify(spoilt, threads=1).checks)


def test_a_record_that_was_taken_out_is_missed(good, tmp_path):
    spoilt = spoil(good, tmp_path / "b", WORDS)
    manifest = decode((spoilt / "manifest.json").read_bytes())
    verification = {name: value for name, value in manifest.verification.items() if name != "judged"}
    write_manifest(spoilt, msgspec.structs.replace(manifest, verification=verification))
    assert not verify(spoilt, threads=1).judged


def test_a_file_that_came_or_went_and_a_field_that_a_later_edgekit_knows(good):
    text = (good / "manifest.json").read_bytes()
    fields = json.loads(text)
    judged = fields["verification"]["judged"]
    assert unjudged(text, judged) == []
    assert unjudged(text, judged | {"voices/low.npz": "0"}) == ["voices/low.npz"]
    assert unjudged(json.dumps(fields).encode(), judged) == [], "how it is laid out says nothing"
    fields["files"].append({"path": "more.bin", "bytes": 1, "sha256": "0"})
    fields["grid"] |= {"later": None}
    assert unjudged(json.dumps(fields).encode(), judged) == ["manifest.grid", "more.bin"]


def test_the_files_of_goldens_are_no_part_of_the_record(good):
    judged = json.loads((good / "manifest.json").read_bytes())["verification"]["judged"]
    assert not any(name.startswith("goldens/") for name in judged)
    assert {
        "tokenizer.json",
        "backbone.onnx",
        "backbone.onnx.data",
        "manifest.protocol",
        "manifest.census",
    } <= judged.keys()


def test_without_check_clips_the_record_alone_is_verified_and_that_is_said(checkpoint, tmp_path):
    export(checkpoint("whisper-dense"), tmp_path / "b", ExportOptions(recipe=QUICK, precision="int8"))
    verified = verify(tmp_path / "b")
    assert verified.compared == "nothing was run: its recipe named no check clip in a language of the checkpoint"
    assert [check.passed for check in verified.checks] == [True]


@pytest.mark.parametrize("compared", [None, {"with": "itself"}, {"with": "nothing", "why": "unheard of"}])
def test_goldens_that_are_gone_for_no_known_reason_are_missed(compared, good, tmp_path):
    shutil.copytree(good, tmp_path / "b")
    manifest = decode((tmp_path / "b" / "manifest.json").read_bytes())
    verification = manifest.verification | {"goldens": {}, "compared": compared}
    if compared is None:
        del verification["compared"]
    write_manifest(tmp_path / "b", msgspec.structs.replace(manifest, verification=verification))
    with pytest.raises(VerifyError, match=r"carries no goldens; export it again with a recipe that names check clips$"):
        verify(tmp_path / "b")


def test_a_bundle_too_large_to_have_been_run_is_verified_by_its_record(checkpoint, tmp_path):
    recipe = tmp_path / "large.toml"
    recipe.write_text(JUDGED.read_text().replace("[check]", "[check]\ntwin_limit_mib = 0"))
    export(checkpoint("whisper-dense"), tmp_path / "b", ExportOptions(recipe=recipe, precision="int8"))
    verified = verify(tmp_path / "b")
    assert verified.compared == "nothing was run: it is too large to have been run when it was made"
    assert [check.passed for check in verified.checks] == [True]
    spoilt = shutil.copytree(tmp_path / "b", tmp_path / "spoilt")
    changed = SABOTAGES["an answer ends at another token"](spoilt, decode((spoilt / "manifest.json").read_bytes()))
    write_manifest(spoilt, changed)
    assert [check.passed for check in verify(spoilt).checks] == [False]
