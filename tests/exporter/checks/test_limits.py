"""Limits: every one that is exceeded is named, words first, with what to type next."""

import pytest

from edgekit.errors import QualityError
from edgekit.exporter.checks.limits import pass_or_waive
from edgekit.recipe import Limits

LIMITS = Limits(word_error_rate=0.01, token_mismatch=0.03, frame_error=0.1)
INT8 = {"encoder": "int8", "backbone": "int8", "head": "int8"}
INT4 = {"encoder": "int8", "backbone": "int4", "head": "int4"}


def found(words=None, writing=0, **measured):
    words = words or {"en": (70, 0)}
    return {
        "measured": measured | {"word_error_rate": 0.0},
        "words": {name: count for name, (count, _) in words.items()},
        "words_changed": {name: changed for name, (_, changed) in words.items()},
        "words_unsteady": 0,
        "words_changed_writing": writing,
    }


def refusal(facts, precision=INT8):
    with pytest.raises(QualityError) as refused:
        pass_or_waive("base", facts, LIMITS, precision, None)
    return str(refused.value)


def test_every_limit_that_is_exceeded_is_named_and_words_come_first():
    facts = found({"en": (70, 0), "es": (62, 13)}, frame_error=0.163, token_mismatch=0.12)
    assert refusal(facts) == (
        "base: word_error_rate 0.0985 (13 of 132 words; es 13 of 62), the recipe allows 0.01; token_mismatch 0.12, the "
        "recipe allows 0.03; frame_error 0.163, the recipe allows 0.1; try --encoder float32 --backbone float32, or "
        "pass --accept-loss REASON"
    )


def test_a_few_words_that_chance_explains_pass():
    assert pass_or_waive("base", found({"en": (64, 2), "fr": (64, 0), "ru": (64, 0)}), LIMITS, INT8, None) == {}


def test_one_language_that_lost_too_many_is_enough():
    assert "word_error_rate 0.0125 (4 of 320 words; ru 4 of 64)" in refusal(found({"en": (256, 0), "ru": (64, 4)}))


def test_many_languages_that_lost_a_word_or_two_each_are_too_many_together():
    told = refusal(found(dict.fromkeys(("en", "es", "fr", "it", "ru"), (64, 2))))
    assert "word_error_rate 0.0312 (10 of 320 words), the recipe allows 0.01" in told


@pytest.mark.parametrize(
    ("writing", "precision", "advice"),
    [
        (0, INT8, "try --encoder float32 or"),
        (13, INT8, "try --backbone float32 or"),
        (13, INT4, "try --backbone int8 --head int8 or"),
        (13, {"backbone": "float32", "head": "int4"}, "try --head int8 or"),
    ],
)
def test_what_to_type_is_the_finer_form_of_what_lost_the_words(writing, precision, advice):
    told = refusal(found({"es": (62, 13)}, writing), precision)
    assert advice.removesuffix(" or") + ", or pass --accept-loss" in told


def test_what_nobody_said_points_at_the_checkpoint():
    told = refusal(found(transcript_error_rate=1.4))
    assert told.startswith("base: transcript_error_rate 1.4, the recipe allows 0.75; look at its tokenizer.json, ")


def test_the_waiver_keeps_every_figure():
    waived = pass_or_waive("b", found({"es": (62, 13)}, logit_error=0.9), LIMITS, INT8, "a demo")["waiver"]
    assert waived == {
        "reason": "a demo",
        "for": "word_error_rate 0.21 (13 of 62 words; es 13 of 62), the recipe allows 0.01; "
        "logit_error 0.9, the recipe allows 0.3",
    }


def test_numbers_that_are_none_are_beyond_every_limit():
    assert "logit_error nan, the recipe allows" in refusal(found(logit_error=float("nan")))


def test_a_bundle_of_floats_is_told_that_nothing_finer_is_left():
    assert "; no finer form of it is left, or pass" in refusal(found(mel_error_db=2.0), {"decoder": "float32"})
    assert "; try --decoder float32, or pass" in refusal(found(mel_error_db=2.0), {"decoder": "int8"})
