"""Qwen3-Omni's ears and voice, live: names, values and lengths of the graphs against transformers' own modules."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from transformers.models.qwen3_omni_moe import modeling_qwen3_omni_moe as published  # noqa: E402

from edgekit.exporter.families.qwen3_omni.code2wav import Code2Wav  # noqa: E402
from edgekit.exporter.families.qwen3_omni.ears import Qwen3OmniEars  # noqa: E402
from edgekit.exporter.reference.qwen3_omni_ears import Qwen3OmniEarsReference  # noqa: E402
from edgekit.recipe import GridSettings  # noqa: E402
from edgekit.resources import resource  # noqa: E402
from edgekit.runtime.audio.files import read_mono  # noqa: E402
from edgekit.runtime.hear.features import log_mel  # noqa: E402
from tests.exporter.omni_audio import Hearing, speak, voice  # noqa: E402 - after the question whether torch is here
from tests.reference import omni_audio, omni_audio_golden  # noqa: E402
from tests.runtime.hear import loudness  # noqa: E402

pytestmark = pytest.mark.reference

TOLERANCE = 1e-4  # between graph and torch; see tests/exporter/test_parity_omni_audio.py
ROUNDING = 1e-5  # the same torch code on another processor
FRESH_SEED = 2002
PUBLISHED_BLOCK = omni_audio.EARS | {"n_window_infer": 800}
LENGTHS = (1, 7, 8, 9, 99, 100, 101, 230, 799, 800, 801, 1650)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def ears(tmp_path_factory):
    """Return the graphs of the ears with the published block of 8 s, the reference and both grids."""
    weights, family = omni_audio.ears_weights(FRESH_SEED), Qwen3OmniEars(PUBLISHED_BLOCK)
    graphs = Hearing(tmp_path_factory.mktemp("ears"), family, weights, "float32", "ort-cpu")
    reference = Qwen3OmniEarsReference(PUBLISHED_BLOCK, weights)
    return family, graphs, reference, {mode: family.grid(GridSettings(mode=mode)) for mode in ("exact", "chunked")}


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    weights = omni_audio.voice_weights(FRESH_SEED)
    return voice(tmp_path_factory.mktemp("voice"), "float32", weights), omni_audio_golden.code2wav(
        omni_audio.VOICE, weights
    )


def _close(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE)


def test_the_stored_golden_is_what_torch_answers_now():
    fresh = omni_audio_golden.make()
    with np.load(omni_audio.GOLDEN) as stored:
        assert sorted(stored.files) == sorted(fresh)
        assert stored["digest"] == fresh.pop("digest")
        for key, value in fresh.items():
            np.testing.assert_allclose(stored[key], value, rtol=0, atol=ROUNDING)


def test_names_and_shapes_are_those_of_the_published_classes_at_their_real_size():
    audio = {"d_model": 1280, "output_dim": 2048, "n_window": 50, "n_window_infer": 800}
    configs = published.Qwen3OmniMoeAudioEncoderConfig(**audio), published.Qwen3OmniMoeCode2WavConfig()
    with torch.device("meta"):
        modules = published.Qwen3OmniMoeAudioEncoder(configs[0]), published.Qwen3OmniMoeCode2Wav(configs[1])
    theirs = [{name: tuple(one.shape) for name, one in module.state_dict().items()} for module in modules]
    ours = {
        "thinker.audio_tower.": Qwen3OmniEars(configs[0].to_dict()).expected(),
        "code2wav.": Code2Wav(configs[1].to_dict()).expected(),
    }
    for (prefix, expected), shapes in zip(ours.items(), theirs, strict=True):
        assert expected == {prefix + name: shape for name, shape in shapes.items()}
    sizes = {prefix: sum(int(np.prod(shape)) for shape in expected.values()) for prefix, expected in ours.items()}
    assert sizes == {"thinker.audio_tower.": 647_927_168, "code2wav.": 216_016_577}


def test_the_mask_that_is_added_is_the_one_the_published_class_prepares(ears):
    _, _, reference, _ = ears
    bounds = torch.tensor([0, 104, 208, 215], dtype=torch.int32)
    theirs = reference.tower._prepare_attention_mask(torch.zeros(215, 64), bounds)
    assert torch.equal(reference.mask(215) == 0, theirs == 0)


def test_within_a_block_the_reference_is_the_published_tower_as_it_is(ears):
    _, _, reference, _ = ears
    plain = published.Qwen3OmniMoeAudioEncoder(reference.tower.config).eval()
    plain.load_state_dict(reference.tower.state_dict())
    for frames in (99, 800):
        mel = omni_audio.mel(frames)
        with torch.inference_mode():
            theirs = plain(torch.from_numpy(mel), feature_lens=torch.tensor([frames])).last_hidden_state
        np.testing.assert_allclose(reference.hear(mel), theirs.numpy(), rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("frames", LENGTHS)
def test_the_ears_equal_the_published_tower_at_any_length(frames, ears):
    _, graphs, reference, grids = ears
    mel = omni_audio.mel(frames)
    exact = reference.hear(mel)
    _close(graphs.hear(mel, grids["exact"]), exact)
    _close(graphs.hear(mel, grids["chunked"]), reference.hear(mel, 13))


@pytest.mark.parametrize("name", ["librivox-0870.flac", "librivox-0880.flac", "librivox-0920.flac"])
def test_from_samples_to_embeddings_the_ears_equal_transformers_on_a_clip(name, ears):
    """Clips of at most one block: the running maximum of the first call is then the clip's."""
    family, graphs, reference, grids = ears
    sound = read_mono(resource("export") / "clips" / name, 16_000)[:-37]
    extractor = transformers.WhisperFeatureExtractor(feature_size=128)
    found = extractor(sound, sampling_rate=16_000, padding=True, return_attention_mask=True, return_tensors="np")
    theirs = found.input_features[0][:, found.attention_mask[0].astype(bool)]
    ours = log_mel(sound, family.front_end(GridSettings()), grids["exact"])
    assert ours.shape == theirs.shape == (128, len(sound) // 160)
    _close(ours, theirs)
    np.testing.assert_allclose(
        graphs.hear(ours, grids["exact"]), reference.hear(np.ascontiguousarray(theirs)), rtol=0, atol=1e-3
    )  # features up to 1e-4 apart, through a network that amplifies them
    _close(graphs.hear(ours, grids["exact"]), reference.hear(ours))


@pytest.mark.parametrize("order", loudness.ORDERS)
def test_whole_clips_beyond_a_block_equal_transformers_in_either_order_of_loudness(order, ears):
    """A whole file has the clip's floor: features as near as within a block, and embeddings too."""
    family, graphs, reference, grids = ears
    sound, front_end = loudness.in_order(order), family.front_end(GridSettings())
    assert front_end.floor == "clip"
    extractor = transformers.WhisperFeatureExtractor(feature_size=128)
    theirs = extractor(sound, sampling_rate=16_000, padding=True, truncation=False, return_tensors="np")
    features = np.ascontiguousarray(theirs.input_features[0])
    for mode in ("exact", "chunked"):
        ours = log_mel(sound, front_end, grids[mode], "clip")
        assert ours.shape == features.shape
        np.testing.assert_allclose(ours, features, rtol=0, atol=2e-5)
    ours = log_mel(sound, front_end, grids["exact"], "clip")
    np.testing.assert_allclose(graphs.hear(ours, grids["exact"]), reference.hear(features), rtol=0, atol=1e-3)


def test_a_running_floor_lifts_values_below_the_later_maximum_only(ears):
    """Beyond one block the published floor, below the whole clip's maximum, is ours once the loudest was heard."""
    family, _, _, grids = ears
    clips = [
        read_mono(resource("export") / "clips" / f"librivox-{name}.flac", 16_000) for name in ("0870", "0920", "0930")
    ]
    sound = np.concatenate([0.2 * clips[0], clips[1], 0.5 * clips[2]])
    theirs = transformers.WhisperFeatureExtractor(feature_size=128)(
        sound, sampling_rate=16_000, padding=True, return_tensors="np"
    ).input_features[0]
    floor = theirs.min()
    for mode in ("exact", "chunked"):
        ours = log_mel(sound, family.front_end(GridSettings()), grids[mode])
        _close(np.maximum(ours, floor), theirs[:, : ours.shape[1]])
        assert ours.min() < floor - 0.01


@pytest.mark.parametrize("frames", [1, 4, 5, 6, 40])
@pytest.mark.parametrize("sizes", [(0,), (1,), (3, 1, 20, 16), (7, 0), (39, 1), (12,)], ids=str)
def test_any_split_of_the_codes_equals_the_published_decoder_on_the_whole(frames, sizes, decoder):
    graph, module = decoder
    codes = omni_audio.codes(frames, FRESH_SEED)
    ours, theirs = np.concatenate(speak(graph, codes, sizes)), omni_audio_golden.spoken(module, codes)
    assert ours.shape == theirs.shape == (1920 * frames - 555,)
    _close(ours, theirs)


def test_a_long_stream_frame_by_frame_equals_the_published_decoder_on_the_whole(decoder):
    graph, module = decoder
    codes = omni_audio.codes(400, FRESH_SEED)
    _close(np.concatenate(speak(graph, codes, [1])), omni_audio_golden.spoken(module, codes))


def test_the_published_chunked_decode_loses_what_ours_keeps(decoder):
    graph, module = decoder
    codes = omni_audio.codes(40, FRESH_SEED)
    with torch.inference_mode():
        cut = module.chunked_decode(torch.from_numpy(codes.T.copy())[None], chunk_size=20, left_context_size=5)
    assert cut.shape[-1] == 1920 * 40 - 2 * 555
    assert sum(map(len, speak(graph, codes, [20]))) == 1920 * 40 - 555
