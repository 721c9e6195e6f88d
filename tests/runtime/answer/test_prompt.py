"""What a judge takes for the prompt is what the backbone is fed, row by row."""

from collections.abc import Callable
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from edgekit.bundle import Thinking
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
