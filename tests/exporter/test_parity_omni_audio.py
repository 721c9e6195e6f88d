"""Qwen3-Omni's ears and voice against the stored answers of transformers' modules, called as a stream calls them.

Tolerance: the graphs add in another order than torch does. Embeddings are of the order 1 and samples of 0.2, where
float32 sums differ by some 1e-6; a wrong mask, position, state or weight is off by 1e-2 and more.
"""

import numpy as np
import pytest

from edgekit.errors import CheckpointError, RecipeError
from edgekit.exporter.families.qwen3_omni.code2wav import Code2Wav
from edgekit.exporter.families.qwen3_omni.ears import Qwen3OmniEars
from edgekit.exporter.families.qwen3_omni.keys import CODE2WAV as VOICE_KEYS
from edgekit.exporter.families.qwen3_omni.keys import EARS as EARS_KEYS
from edgekit.recipe import GridSettings
from tests.exporter.omni_audio import BLOCK, EARS, SEGMENT, VOICE, hearing, speak, voice
from tests.reference import omni_audio
from tests.reference.omni_audio import CODE_FRAMES

TOLERANCE = 1e-4
INT8_ERROR = 0.04  # root mean square, relative: rounding gives 0.024 (activations too) and 0.006 here
SPLITS = [(0,), (1,), (CODE_FRAMES - 1, 1), (1, 0), (2, 5, 1), (4,), (5,), (6,)]  # the window is 5 frames


@pytest.fixture(scope="module")
def golden():
    with np.load(omni_audio.GOLDEN) as stored:
        return {key: stored[key] for key in stored.files}


@pytest.fixture(scope="module", params=["ort-cpu", "ort-cuda", "standard"])
def ears(tmp_path_factory, request):
    return hearing(tmp_path_factory.mktemp("ears"), dialect=request.param)


@pytest.fixture(scope="module", params=["ort-cpu", "ort-cuda", "standard"])
def decoder(tmp_path_factory, request):
    return voice(tmp_path_factory.mktemp("voice"), dialect=request.param)


def _close(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE)


def _error(ours, theirs):
    return np.sqrt(np.square(ours - theirs).sum() / np.square(theirs).sum())


def test_the_weights_are_those_the_golden_was_made_with(golden):
    assert omni_audio.digest(omni_audio.ears_weights(), omni_audio.voice_weights()) == golden["digest"]


@pytest.mark.parametrize("frames", omni_audio.EXACT)
def test_block_by_block_the_ears_equal_the_published_tower_on_the_whole(frames, ears, golden):
    _close(ears.hear(omni_audio.mel(frames), BLOCK), golden[f"exact-{frames}"])


@pytest.mark.parametrize("frames", omni_audio.CHUNKED)
def test_second_by_second_a_segment_hears_the_earlier_ones_of_its_block(frames, ears, golden):
    _close(ears.hear(omni_audio.mel(frames), SEGMENT), golden[f"chunked-{frames}"])


def test_the_first_segment_of_a_block_loses_nothing_else_by_low_latency(ears):
    mel = omni_audio.mel(500)
    exact, chunked = (ears.hear(mel, grid) for grid in (BLOCK, SEGMENT))
    _close(chunked[52:], exact[52:])  # alone in its block
    assert _error(chunked[:52], exact[:52]) > 0.1


def test_sound_before_leaves_no_trace_in_the_next_block(ears):
    one, other = omni_audio.mel(530), omni_audio.mel(530)
    other[:, :400] += 1.0
    for grid in (BLOCK, SEGMENT):
        np.testing.assert_array_equal(ears.hear(one, grid)[52:], ears.hear(other, grid)[52:])


@pytest.mark.parametrize("grid", [BLOCK, SEGMENT], ids=["exact", "chunked"])
def test_positions_are_those_of_the_published_formula(grid):
    # Source: transformers, _get_feat_extract_output_lengths
    for frames in range(1, 1650):
        rest = frames % 100
        for _ in range(3):
            rest = (rest - 1) // 2 + 1
        whole, last = divmod(frames, grid.chunk_frames)
        assert whole * grid.positions(grid.chunk_frames) + grid.positions(last) == frames // 100 * 13 + rest


@pytest.mark.parametrize("sizes", SPLITS, ids=str)
def test_any_split_of_the_codes_gives_the_samples_of_all_at_once(sizes, decoder, golden):
    _close(np.concatenate(speak(decoder, omni_audio.codes(CODE_FRAMES), sizes)), golden["samples"])


@pytest.mark.parametrize("frames", [1, 2, 7])
def test_only_the_first_call_waits_for_samples(frames, decoder):
    spoken = [len(part) for part in speak(decoder, omni_audio.codes(7), [frames])]
    assert VOICE.held_samples == 555
    assert spoken[0] == 1920 * frames - 555
    assert sum(spoken) == 1920 * 7 - 555
    assert set(spoken[1:-1]) <= {1920 * frames}


def test_a_decoder_starts_afresh_after_a_reset(decoder):
    codes, call = omni_audio.codes(6), decoder.bind({})
    first = call.run({"codes": codes, "start": np.array([0])})["samples"]
    call.reset()
    np.testing.assert_array_equal(call.run({"codes": codes, "start": np.array([0])})["samples"], first)


def test_a_stream_of_any_length_sees_its_window_alone(decoder):
    """Far into a stream the same codes give the same sound, once states reach back to them and no further."""
    codes, call = omni_audio.codes(80), decoder.bind({})
    near, far = (call.run({"codes": codes, "start": np.array([start])})["samples"] for start in (0, 10**12))
    np.testing.assert_array_equal(near[-20 * 1920 :], far[-20 * 1920 :])


def test_quantised_ears_and_voice_stay_near_their_float_twins(tmp_path, ears, golden):
    mel = omni_audio.mel(401)
    assert _error(hearing(tmp_path / "e", "int8").hear(mel, BLOCK), golden["exact-401"]) < INT8_ERROR
    (samples,) = speak(voice(tmp_path / "v", "int8"), omni_audio.codes(CODE_FRAMES), [0])
    assert 0 < _error(samples, golden["samples"]) < INT8_ERROR


def test_two_swapped_weights_would_be_heard(tmp_path, golden):
    weights = omni_audio.ears_weights()
    names = [f"thinker.audio_tower.layers.{layer}.self_attn.k_proj.weight" for layer in (0, 1)]
    weights[names[0]], weights[names[1]] = weights[names[1]], weights[names[0]]
    assert _error(hearing(tmp_path / "e", "int8", weights).hear(omni_audio.mel(401), BLOCK), golden["exact-401"]) > 0.2
    weights = omni_audio.voice_weights()
    names = [f"code2wav.pre_transformer.layers.{layer}.mlp.up_proj.weight" for layer in (0, 1)]
    weights[names[0]], weights[names[1]] = weights[names[1]], weights[names[0]]
    (samples,) = speak(voice(tmp_path / "v", "int8", weights), omni_audio.codes(CODE_FRAMES), [0])
    assert _error(samples, golden["samples"]) > 0.2


def test_linears_are_quantised_and_convolutions_stay_float():
    ears = {name for name in EARS.expected() if EARS.group(name) == "encoder"}
    assert all(name.endswith("weight") and len(EARS.expected()[name]) == 2 for name in ears)
    assert len(ears) == 2 * 6 + 3
    spoken = {name for name in VOICE.expected() if VOICE.group(name) == "decoder"}
    assert len(spoken) == 2 * 7
    assert all(".pre_transformer.layers." in name and name.endswith("_proj.weight") for name in spoken)


@pytest.mark.parametrize(("asked", "frames"), [(None, 100), (1000, 100), (2000, 200), (4000, 400)])
def test_a_chunk_is_whole_segments_that_fill_a_block(asked, frames):
    assert EARS.grid(GridSettings(mode="chunked", chunk_ms=asked)).chunk_frames == frames
    assert EARS.grid(GridSettings(chunk_ms=asked)).chunk_frames == 400


@pytest.mark.parametrize("asked", [0, -1000, 500, 1500, 3000, 8000])
def test_a_chunk_that_fills_no_block_is_refused(asked):
    with pytest.raises(RecipeError, match=f"grid.chunk_ms {asked}: must be a multiple of 1000 that divides 4000"):
        EARS.grid(GridSettings(mode="chunked", chunk_ms=asked))


def test_silence_at_the_end_is_refused():
    with pytest.raises(RecipeError, match="grid.tail_ms 500"):
        EARS.grid(GridSettings(tail_ms=500))


@pytest.mark.parametrize(
    ("kind", "config", "change", "message"),
    [
        (Qwen3OmniEars, omni_audio.EARS, {"n_window": 100}, "n_window 100 .* only 50"),
        (Qwen3OmniEars, omni_audio.EARS, {"n_window_infer": 250}, "n_window_infer 250"),
        (Qwen3OmniEars, omni_audio.EARS, {"n_window_infer": 0}, "'n_window_infer' is 0"),
        (EARS_KEYS.check, omni_audio.EARS, {"activation_function": "relu"}, "'relu', only gelu"),
        (Qwen3OmniEars, omni_audio.EARS, {"max_source_positions": 12}, "at least 13 max_source_positions"),
        (Qwen3OmniEars, omni_audio.EARS, {"encoder_attention_heads": 3}, "must divide evenly"),
        (Qwen3OmniEars, omni_audio.EARS, {"output_dim": None}, "'output_dim' is None"),
        (Code2Wav, omni_audio.VOICE, {"num_key_value_heads": 2}, "num_key_value_heads is 2, only the published 4"),
        (VOICE_KEYS.check, omni_audio.VOICE, {"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        (VOICE_KEYS.check, omni_audio.VOICE, {"attention_bias": True}, "attention_bias is True"),
        (Code2Wav, omni_audio.VOICE, {"sliding_window": 1}, "sliding_window 1"),
        (Code2Wav, omni_audio.VOICE, {"decoder_dim": 24}, "a multiple of 16"),
        (Code2Wav, omni_audio.VOICE, {"upsample_rates": [8, "5"]}, "upsample_rates is .* whole numbers"),
    ],
)
def test_a_config_that_no_published_checkpoint_has_is_refused(kind, config, change, message):
    with pytest.raises(CheckpointError, match=message):
        kind(config | change)
