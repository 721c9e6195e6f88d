"""The clips that a checkpoint hears: those of the languages that it claims, each in its language."""

import msgspec
import numpy as np
import pytest

from edgekit.bundle import open_bundle
from edgekit.errors import RecipeError
from edgekit.exporter.checks.clips import claimed, language_of, with_clips_claimed
from edgekit.exporter.export import ExportOptions, export
from edgekit.recipe import CheckSettings, Recipe
from edgekit.recordings import named
from edgekit.runtime.judge.probe import answer, hear
from edgekit.runtime.model import load_opened
from tests.exporter.test_export import JUDGED

EVERY = ("en-*", "es-*", "fr-*", "it-*", "ru-*")


@pytest.fixture
def protocol(checkpoint, tmp_path):
    """Return a function: name of a checkpoint -> the TokenProtocol of its bundle."""

    def make(name):
        return export(checkpoint(name), tmp_path / name, ExportOptions(recipe=JUDGED, precision="float32")).protocol

    return make


def test_a_multilingual_checkpoint_hears_the_languages_of_its_tokens_and_another_those_of_the_recipe(protocol):
    recipe = Recipe(check=CheckSettings(clips=EVERY, languages=("it", "ru")))
    many, one = protocol("whisper-dense-128"), protocol("whisper-dense")
    assert {clip.language for clip in claimed(named(EVERY, "clips"), recipe, many)} == {"en", "fr"}
    assert {clip.language for clip in claimed(named(EVERY, "clips"), recipe, one)} == {"it", "ru"}
    heard = with_clips_claimed(recipe, many).check.clips
    assert heard == tuple(clip.name for clip in named(("en-*", "fr-*"), "clips"))
    assert [language_of("en-vm-whichbox.flac", each) for each in (many, one)] == ["en", None]


def test_the_manifest_names_the_clips_that_were_heard(checkpoint, tmp_path):
    recipe = tmp_path / "r.toml"
    recipe.write_text(JUDGED.read_text().replace('"librivox-0930.flac"', '"es-*", "en-vm-s*"'))
    made = export(checkpoint("whisper-dense-128"), tmp_path / "b", ExportOptions(recipe=recipe))
    assert list(made.recipe["check"]["clips"]) == ["en-vm-savefolder.flac"]
    assert set(made.verification["words"]) == set(made.verification["words_changed"]) == {"en"}


def test_a_clip_that_is_not_there_stops_the_export_before_anything_is_built(checkpoint, tmp_path):
    recipe = tmp_path / "r.toml"
    recipe.write_text('[check]\nclips = ["de-*"]\n')
    with pytest.raises(RecipeError, match=r"^check.clips: 'de-\*' is no recording of "):
        export(checkpoint("whisper-dense"), tmp_path / "b", ExportOptions(recipe=recipe))


def test_an_answer_is_asked_in_the_language_of_the_clip(checkpoint, tmp_path):
    export(checkpoint("whisper-dense-128"), tmp_path / "b", ExportOptions(recipe=JUDGED, precision="float32"))
    model = load_opened(open_bundle(tmp_path / "b"))
    heard = hear(model, np.zeros(8_000, np.float32))
    first = [answer(model, heard, language=language).logits[0] for language in ("en", "fr")]
    assert np.abs(first[0] - first[1]).max() > 0.01


def test_a_checkpoint_of_another_language_is_judged_by_every_clip(protocol):
    recipe = Recipe(check=CheckSettings(clips=EVERY))
    many = protocol("whisper-dense-128")
    german = msgspec.structs.replace(many, language="de")
    alone = msgspec.structs.replace(many, languages={"de": 3})
    for one in (german, alone):
        assert claimed(named(EVERY, "clips"), recipe, one) == ()
        assert with_clips_claimed(recipe, one).check.clips == tuple(clip.name for clip in named(EVERY, "clips"))
