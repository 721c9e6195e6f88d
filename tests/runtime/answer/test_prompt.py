"""What a judge takes for the prompt is what the backbone is fed, row by row."""

from collections.abc import Callable
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from edgekit.bundle import Thinking, TokenProtocol
from edgekit.errors import UsageError
from edgekit.runtime.answer.prompt import cross_prompt
from edgekit.runtime.engine import Recorded
from edgekit.runtime.judge.probe import answer, around, hear
from tests.runtime.streams import HOP, sound_of

_THINKING = Thinking(open="<en>", close="<de>", none="<en><de>", usual=True)


@pytest.mark.parametrize("attention", ["cross", "prefix"])
@pytest.mark.parametrize("thinking", [None, _THINKING])
def test_what_stands_around_sound_is_what_the_backbone_reads(load: Callable, attention: str, thinking: object) -> None:
    model = load(attention, context_tokens=64)
    protocol = msgspec.structs.replace(model.manifest.protocol, thinking=thinking)
    manifest = msgspec.structs.replace(model.manifest, protocol=protocol)
    backbone = Recorded(model.engines["backbone"])
    model = replace(
        model, bundle=replace(model.bundle, manifest=manifest), engines=model.engines | {"backbone": backbone}
    )
    heard = hear(model, sound_of(20 * HOP))
    told = answer(model, heard)
    before, after = around(model)
    read = np.concatenate([inputs["embeds"] for inputs, _ in backbone.calls])
    sound = list(heard.parts) if attention == "prefix" else []
    expected = [model.table.rows(before), *sound, model.table.rows([*after, *told.tokens])]
    np.testing.assert_array_equal(read, np.concatenate(expected)[: len(read)])
    assert len(read) >= sum(map(len, expected)) - 1  # the last token of an answer is not read back


_WHISPER = TokenProtocol(
    attention="cross", stop=(9,), max_tokens=4, context_tokens=16, start=(1,), start_tail=(8,),
    languages={"en": 2, "fr": 3}, tasks={"transcribe": 5, "translate": 6}, language="fr", task="translate",
)  # fmt: skip


@pytest.mark.parametrize(
    ("language", "task", "languages", "rest"),
    [
        (None, None, (), (3, 6, 8)),
        ("en", None, (), (2, 6, 8)),
        (None, "transcribe", (), (3, 5, 8)),
        ("auto", None, (2, 3), (6, 8)),
    ],
)
def test_what_a_bundle_fixes_is_fed_unless_another_is_asked_for(language, task, languages, rest) -> None:
    prompt = cross_prompt(_WHISPER, language, task)
    assert (prompt.start, prompt.languages, prompt.rest) == ((1,), languages, rest)


def test_a_bundle_that_fixes_nothing_finds_the_language_and_transcribes() -> None:
    free = msgspec.structs.replace(_WHISPER, language=None, task=None)
    assert cross_prompt(free) == cross_prompt(free, "auto") == cross_prompt(_WHISPER, "auto", "transcribe")


def test_a_bundle_without_languages_has_none_to_detect() -> None:
    english = msgspec.structs.replace(_WHISPER, languages={}, tasks={}, language=None, task=None)
    assert cross_prompt(english).rest == (8,)
    with pytest.raises(UsageError, match="language: 'auto' is not in this bundle; it has no choice of language"):
        cross_prompt(english, "auto")
