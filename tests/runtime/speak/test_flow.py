"""Flow as a stream: whatever the pushes, the same frames; and an answer knows nothing of the one before."""

from dataclasses import replace

import numpy as np
import pytest

from edgekit.errors import BundleFormatError, UsageError
from edgekit.runtime.speak.matching import Flow
from tests.exporter import flows
from tests.exporter.graphs import split
from tests.reference.flow_weights import TINY, draw, draw_codes, draw_voice

CHUNK = 25


@pytest.fixture(scope="module")
def engines(tmp_path_factory):
    return flows.engines(tmp_path_factory.mktemp("flow"), draw(TINY, 3), TINY)


@pytest.fixture
def open_flow(engines):
    """Return a function that makes a Flow on the shared engines, of chunks and settings that may be given."""

    def make(prompt=20, chunk=CHUNK, voice=None, **settings):
        voice = voice or draw_voice(TINY, prompt, 1)
        return Flow(engines["flow_encoder"], engines["flow_step"], voice, flows.speech(TINY, chunk), **settings)

    return make


def speak(flow, codes, sizes=(0,)):
    return np.concatenate([*(flow.push(codes[part]) for part in split(len(codes), sizes)), flow.finish()])


@pytest.mark.parametrize("sizes", [(1,), (2, 27, 1), (28,), (29, 5), (100, 3)], ids=str)
def test_any_split_of_the_codes_gives_the_same_frames(sizes, open_flow):
    codes = draw_codes(TINY, 130, 1)
    flow = open_flow()
    np.testing.assert_array_equal(speak(flow, codes, sizes), speak(flow, codes))


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 24, 25, 26, 27, 28, 29, 53, 54])
def test_every_code_gives_two_frames(count, open_flow):
    frames = speak(open_flow(), draw_codes(TINY, count, 1))
    assert frames.shape == (2 * count, TINY.dit.mel_bins)
    assert frames.dtype == np.float32


def test_a_chunk_is_made_as_soon_as_its_look_ahead_is_there(open_flow):
    flow, codes = open_flow(), draw_codes(TINY, 60, 1)
    assert len(flow.push(codes[:27])) == 0
    assert len(flow.push(codes[27:28])) == 50
    assert len(flow.push([])) == 0
    assert len(flow.push(codes[28:53])) == 50
    assert len(flow.finish()) == 2 * 3


def test_first_chunks_may_be_smaller_and_grow(open_flow):
    flow, codes = open_flow(first_chunks=(2, 5)), draw_codes(TINY, 60, 1)
    made = [len(flow.push([code])) for code in codes]
    assert [(index + 1, frames) for index, frames in enumerate(made) if frames] == [
        (5, 4),
        (10, 10),
        (35, 50),
        (60, 50),
    ]
    assert flow.finish().shape == (6, TINY.dit.mel_bins)
    # The next answer begins with the small ones again.
    assert len(flow.push(codes[:5])) == 4


@pytest.mark.parametrize("prompt", [20, 60])
def test_an_answer_does_not_know_the_one_before(prompt, open_flow):
    flow, codes = open_flow(prompt), draw_codes(TINY, 70, 1)
    first = speak(flow, codes)
    speak(flow, draw_codes(TINY, 200, 2))  # long enough that the prompt is forgotten
    np.testing.assert_array_equal(speak(flow, codes), first)
    flow.push(codes[:40])
    flow.open()
    np.testing.assert_array_equal(speak(flow, codes), first)


def test_two_streams_share_engines_and_nothing_else(open_flow):
    one, other = open_flow(20), open_flow(9)
    codes, more = draw_codes(TINY, 60, 1), draw_codes(TINY, 60, 2)
    alone, alone_too = speak(one, codes), speak(other, more)
    mixed, mixed_too = [], []
    for code, another in zip(codes, more, strict=True):
        mixed.append(one.push([code]))
        mixed_too.append(other.push([another]))
    np.testing.assert_array_equal(np.concatenate([*mixed, one.finish()]), alone)
    np.testing.assert_array_equal(np.concatenate([*mixed_too, other.finish()]), alone_too)


def test_voice_and_codes_are_heard(open_flow):
    codes = draw_codes(TINY, 30, 1)
    mine = draw_voice(TINY, 20, 1)
    plain = speak(open_flow(voice=mine), codes)
    for changed in (
        replace(mine, speaker=-mine.speaker),
        replace(mine, mel=-mine.mel),
        replace(mine, codes=mine.codes[::-1].copy()),
    ):
        assert np.abs(speak(open_flow(voice=changed), codes) - plain).max() > 0.01
    assert np.abs(speak(open_flow(voice=mine), codes[::-1].copy()) - plain).max() > 0.01
    louder = replace(mine, speaker=2 * mine.speaker)  # only its direction counts
    np.testing.assert_allclose(speak(open_flow(voice=louder), codes), plain, rtol=0, atol=1e-4)


def test_where_the_context_is_used_up_an_answer_goes_on_behind_the_prompt(open_flow):
    codes = draw_codes(TINY, 130, 1)
    plain = speak(open_flow(), codes)
    flow = open_flow(context_codes=75)  # the prompt's 20, two chunks, and no third
    frames = speak(flow, codes)
    assert frames.shape == plain.shape
    np.testing.assert_array_equal(frames[:100], plain[:100])
    assert np.isfinite(frames).all()
    assert np.abs(frames[100:] - plain[100:]).max() > 0.01
    np.testing.assert_array_equal(speak(flow, codes), frames)  # the prompt is still there
    np.testing.assert_array_equal(speak(open_flow(context_codes=153), codes)[:250], plain[:250])


@pytest.mark.parametrize("code", [-1, TINY.conformer.codes])
def test_a_code_that_the_bundle_does_not_have_is_refused_and_changes_nothing(code, open_flow):
    flow, codes = open_flow(), draw_codes(TINY, 40, 1)
    flow.push(codes[:10])
    with pytest.raises(UsageError, match=f"speech code {code}: must be 0 to 96"):
        flow.push([1, code, 2])
    np.testing.assert_array_equal(np.concatenate([flow.push(codes[10:]), flow.finish()]), speak(open_flow(), codes))


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ({"sample_rate_hz": 16_000}, "sample rate 16000, this bundle wants 24000"),
        ({"mel": np.zeros((40, 17), np.float32)}, "mel bins 17, this bundle wants 16"),
        ({"speaker": np.ones(192, np.float32)}, "speaker numbers 192, this bundle wants 24"),
        ({"codes": np.full(20, 97)}, "largest code 97, this bundle wants below 97"),
    ],
)
def test_a_voice_of_another_model_is_refused(part, said, open_flow):
    with pytest.raises(BundleFormatError, match=said):
        open_flow(voice=replace(draw_voice(TINY, 20, 1), **part))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"context_codes": 47}, "context_codes 47"),
        ({"chunk": 0}, "must be 1 or more"),
        ({"first_chunks": (0,)}, "must be 1 or more"),
        ({"first_chunks": (60,), "context_codes": 80}, "context_codes 80"),
        ({"prompt": 1430}, "wants 3016 frames of noise, this bundle has 3000"),
    ],
)
def test_sizes_that_leave_no_room_are_refused(settings, said, open_flow):
    with pytest.raises(UsageError, match=said):
        open_flow(**settings)
