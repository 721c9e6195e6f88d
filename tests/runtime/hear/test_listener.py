"""Listener: the one loop that runs an encoder, for streams and for who measures an encoder alone."""

from collections.abc import Callable

import numpy as np
import pytest

from edgekit.runtime.engine import Recorded
from edgekit.runtime.hear.listener import Listener
from edgekit.spans import ADAPTER, ENCODER
from edgekit.timing import Trace
from tests.runtime.streams import CHUNK, HOP, PIECE, sound_of


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("samples", [HOP, CHUNK + 3 * HOP, PIECE - 7])
def test_without_an_adapter_the_encoder_gets_the_same_calls_and_its_frames_come_out(
    load: Callable, samples: int, masks: bool
) -> None:
    model = load("prefix", masks_last_position=masks)
    manifest, adapter = model.manifest, Recorded(model.engines["adapter"])
    whole, alone = Recorded(model.engines["encoder"]), Recorded(model.engines["encoder"])
    trace = Trace()
    both = Listener(manifest.front_end, manifest.grid, whole, adapter, Trace())
    one = Listener(manifest.front_end, manifest.grid, alone, None, trace)
    for _ in range(2):  # a second piece starts where the first did
        for _ in (*both.push(sound_of(samples)), *both.finish()):
            pass
        frames = [part.copy() for part in (*one.push(sound_of(samples)), *one.finish())]
    assert len(alone.calls) == len(whole.calls) == [span.name for span in trace.spans].count(ENCODER)
    for (ours, _), (theirs, _) in zip(alone.calls, whole.calls, strict=True):
        assert ours.keys() == theirs.keys()
        assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
    given = [inputs["frames"] for inputs, _ in adapter.calls]
    assert b"".join(part.tobytes() for part in frames) == b"".join(part.tobytes() for part in given[len(given) // 2 :])
    assert ADAPTER not in {span.name for span in trace.spans}


def test_a_listener_without_an_adapter_goes_back_to_a_mark(load: Callable) -> None:
    model = load()
    manifest = model.manifest
    listener = Listener(manifest.front_end, manifest.grid, model.engines["encoder"], None, Trace())
    first, rest = sound_of(CHUNK + 50), sound_of(2 * CHUNK, seed=1)
    list(listener.push(first))
    mark = listener.mark()
    heard = [part.copy() for part in (*listener.push(rest), *listener.finish())]
    listener.back(mark)
    again = [part.copy() for part in (*listener.push(rest), *listener.finish())]
    assert [part.tobytes() for part in again] == [part.tobytes() for part in heard]
