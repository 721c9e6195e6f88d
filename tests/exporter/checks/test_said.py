"""Whether words come out that a person said, asked of every export whose recipe names transcripts."""

import json
import shutil

import pytest

from edgekit.errors import QualityError
from edgekit.exporter.export import ExportOptions, export
from tests.exporter.test_export import JUDGED

NAMED = '[check]\ntranscripts = ["librivox-08*"]\n'
REFUSED = (
    r"^judged: transcript_error_rate [\d.]+, the recipe allows 0.75; look at its tokenizer.json, "
    r"generation_config.json and preprocessor_config.json, .*, or pass --accept-loss REASON$"
)


@pytest.fixture
def recipe(tmp_path):
    """Return a function that writes a recipe for random weights with changes to its text."""

    def write(old, new):
        text = JUDGED.read_text()
        assert old in text
        (tmp_path / "r.toml").write_text(text.replace(old, new))
        return tmp_path / "r.toml"

    return write


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_checkpoint_that_says_nothing_a_person_said_is_refused_unless_accepted(
    precision, checkpoint, recipe, tmp_path
):
    options = {"recipe": recipe("[check]\n", NAMED), "precision": precision}
    with pytest.raises(QualityError, match=REFUSED):
        export(checkpoint("whisper-experts"), tmp_path / "b", ExportOptions(**options))
    assert not (tmp_path / "b").exists()
    found = export(
        checkpoint("whisper-experts"), tmp_path / "b", ExportOptions(**options, accept_loss="random weights")
    ).verification
    assert list(found["transcripts"]) == ["librivox-0870.flac", "librivox-0880.flac", "librivox-0890.flac"]
    assert found["measured"]["transcript_error_rate"] == min(found["transcripts"].values()) > 0.75
    assert found["waiver"]["for"].startswith("transcript_error_rate ")


def test_one_recording_that_is_heard_is_enough(checkpoint, recipe, tmp_path):
    options = ExportOptions(
        recipe=recipe("[limits]\n", "[limits]\ntranscript_error_rate = 99.0\n"), precision="float32"
    )
    options.recipe.write_text(options.recipe.read_text().replace("[check]\n", NAMED))
    found = export(checkpoint("whisper-dense"), tmp_path / "b", options).verification
    assert list(found["transcripts"]) == ["librivox-0870.flac"]
    assert "waiver" not in found


@pytest.mark.parametrize(
    ("named", "reason"),
    [
        (NAMED + "run_limit_mib = 0\n", "not asked: 1 MiB of weights, the recipe runs 0"),
        (NAMED + 'languages = ["fr"]\n', "not asked: no transcript is in a language of the checkpoint"),
        ("[check]\n", None),
    ],
)
def test_where_nobody_asks_the_manifest_says_why(named, reason, checkpoint, recipe, tmp_path):
    options = ExportOptions(recipe=recipe("[check]\n", named), precision="float32")
    found = export(checkpoint("whisper-dense"), tmp_path / "b", options).verification
    assert found.get("transcripts") == reason


def test_a_bundle_that_answers_is_asked_to_transcribe(checkpoint, recipe, tmp_path):
    options = ExportOptions(recipe=recipe("[check]\n", NAMED), precision="float32", accept_loss="random weights")
    found = export(checkpoint("step-dense"), tmp_path / "b", options).verification
    assert found["measured"]["transcript_error_rate"] > 0


def test_a_checkpoint_that_is_fixed_to_translate_is_not_asked_for_what_was_said(checkpoint, recipe, tmp_path):
    folder = tmp_path / "c"
    shutil.copytree(checkpoint("whisper-dense-128"), folder)
    said = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps(said | {"task": "translate"}))
    options = ExportOptions(recipe=recipe("[check]\n", NAMED), precision="float32")
    found = export(folder, tmp_path / "b", options).verification
    assert found["transcripts"] == "not asked: the checkpoint is fixed to 'translate'"
