"""What ``info`` says of a bundle, and which language a client means."""

import msgspec
import pytest
from wyoming.info import Info

from edgekit.bundle import Question
from edgekit.errors import RefusedError
from edgekit.serving.wyoming.about import info_of, language_option, languages
from tests.runtime.conftest import special

LANGUAGES = {"en": special("<en>"), "de": special("<de>"), "jw": 1, "no": 2, "yue": 3}


@pytest.fixture
def manifest(tiny_bundle):
    """Return a function that makes a manifest; further fields are those of its protocol."""

    def make(attention="cross", source="", licence="", **protocol):
        own = tiny_bundle(attention).manifest
        return msgspec.structs.replace(
            own, source=source, license=licence, protocol=msgspec.structs.replace(own.protocol, **protocol)
        )

    return make


def test_info_names_the_bundle_its_languages_its_licence_and_where_it_comes_from(manifest):
    source = "https://example.org/whisper-tiny at 1234"
    given = info_of(manifest(source=source, licence="MIT", languages=LANGUAGES), "kitchen").event()
    (program,) = Info.from_event(given).asr
    (model,) = program.models
    assert (program.name, program.installed, program.supports_transcript_streaming) == ("kitchen", True, True)
    assert (model.name, model.installed) == ("tiny", True)
    assert model.languages == ["de", "en", "jv", "no", "yue"]
    assert (model.attribution.name, model.attribution.url) == (f"{source}; MIT", "https://example.org/whisper-tiny")
    assert (given.data["tts"], given.data["handle"], given.data["wake"]) == ([], [], [])


def test_a_bundle_without_a_choice_of_languages_hears_english_unless_the_settings_say_another(manifest):
    assert languages(manifest()) == ("en",)
    assert languages(manifest(), ["de"]) == ("de",)
    assert languages(manifest(languages=LANGUAGES), ["de"]) == ("de", "en", "jv", "no", "yue")


def test_a_bundle_that_converses_writes_down_if_it_has_that_question_and_answers_if_it_takes_texts(manifest):
    alone = info_of(manifest("prefix"), "kitchen")
    assert (alone.asr, alone.handle) == ([], [])
    asked = info_of(manifest("prefix", questions={"transcribe": Question(prompt="Write.")}), "kitchen", ["zh"])
    assert [one.languages for program in asked.asr for one in program.models] == [["zh"]]
    answering = info_of(manifest("prefix", roles={"user": "user"}), "kitchen")
    assert (answering.asr, [one.name for one in answering.handle]) == ([], ["kitchen"])


@pytest.mark.parametrize(
    ("asked", "option"),
    [
        (None, None), ("", None), (" ", None), ("de", "de"), ("de-AT", "de"), ("DE_at", "de"), ("en-US", "en"),
        ("jv", "jw"), ("jw", "jw"), ("nb", "no"), ("nb-NO", "no"), ("yue-HK", "yue"),
    ],
)  # fmt: skip
def test_a_language_is_known_by_its_primary_subtag(manifest, asked, option):
    assert language_option(manifest(languages=LANGUAGES), asked) == option


@pytest.mark.parametrize("asked", ["fr", "fr-FR", "x" * 5000, "../en", "deu", "a\nb"])
def test_a_language_that_a_bundle_lacks_is_refused_by_its_name_with_those_that_there_are(manifest, asked):
    with pytest.raises(RefusedError, match="choose one of: de, en, jv, no, yue") as refused:
        language_option(manifest(languages=LANGUAGES), asked)
    assert refused.value.reason == "language"
    assert "\n" not in str(refused.value)


def test_of_one_language_that_one_needs_no_option_and_another_is_refused(manifest):
    assert language_option(manifest(), "en-GB") is None
    with pytest.raises(RefusedError, match="'de' is not in tiny; choose one of: en"):
        language_option(manifest(), "de")


def test_a_bundle_that_finds_the_language_by_itself_takes_any_unless_the_settings_name_some(manifest):
    own = manifest("prefix", questions={"transcribe": Question(prompt="Write.")})
    assert language_option(own, "sv") is None
    with pytest.raises(RefusedError):
        language_option(own, "sv", ["zh", "en"])
