"""Step-Audio, live: our reference against transformers' own passes, the goldens, and graphs of other weights."""

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from edgekit.exporter.reference.step_audio import StepAudioReference, token_count, valid_positions  # noqa: E402
from tests.exporter.graphs import Graphs, Writer  # noqa: E402 - they come after the question whether torch is here
from tests.reference import checkpoints, goldens, make_goldens  # noqa: E402

pytestmark = pytest.mark.reference

TOLERANCE = 1e-4  # between graph and torch; see tests/exporter/test_parity_step_audio.py
ROUNDING = 1e-5  # between two orders of the same torch sums
SMALLEST_GAP = 5e-5  # between a chosen and an unchosen router score; graph and torch differ by some 1e-6 there
FRESH_SEED = 2001


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    return StepAudioReference(checkpoints.write(tmp_path_factory.mktemp("dense"), "step-dense"))


@pytest.mark.parametrize("name", goldens.STEP_AUDIO)
def test_stored_goldens_are_what_torch_answers_now(name, tmp_path):
    fresh = make_goldens.make(name, checkpoints.write(tmp_path, name))
    assert make_goldens.differences(fresh, goldens.load(name)) == []


def test_a_full_window_with_every_key_is_transformers_own_encoder(dense, monkeypatch):
    monkeypatch.setattr("edgekit.exporter.reference.step_audio.valid_positions", lambda frames: frames)
    mel = checkpoints.mel_features(5, 128, 128)
    with torch.inference_mode():
        published = dense.encoder(torch.from_numpy(mel)[None]).last_hidden_state[0].numpy()
    np.testing.assert_allclose(dense.encode(mel), published, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("frames", [5, 6, 7, 8, 63, 64, 127, 128])
def test_the_last_position_is_never_seen_and_the_one_before_it_is(frames, dense, monkeypatch):
    positions = -(-frames // 2)
    assert valid_positions(frames) == positions - 1
    mel = checkpoints.mel_features(6, 128, frames)
    plain = dense.encode(mel)[0]
    table = dense.encoder.embed_positions.weight
    for position, seen in ((positions - 1, False), (positions - 2, True)):
        turned = table.clone()
        turned[position] *= -1
        with monkeypatch.context() as patch:
            patch.setitem(dense.encoder.embed_positions._parameters, "weight", torch.nn.Parameter(turned))
            assert (np.abs(dense.encode(mel)[0] - plain).max() > 1e-4) == seen


def test_token_counts_are_those_of_the_published_formula():
    # Source: stepfun-ai/Step-Audio2, stepaudio2.py: 25 s are 2502 frames and 313 tokens.
    assert token_count(2502) == 313
    assert [token_count(frames) for frames in range(2, 14)] == [0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2]


@pytest.mark.parametrize("name", goldens.STEP_AUDIO)
def test_embeddings_are_as_many_as_the_formula_says(name):
    golden = goldens.load(name)
    for sound in goldens.sounds(name):
        assert len(golden[f"{sound.key}.heard"]) == max(0, token_count(sound.frames))


@pytest.mark.parametrize("name", goldens.STEP_AUDIO)
def test_greedy_tokens_with_a_cache_are_those_of_forced_logits(name, tmp_path):
    reference = StepAudioReference(checkpoints.write(tmp_path, name))
    prompt = reference.embed(list(range(3, 200, 7)))
    written = reference.write(prompt, 20)
    logits = reference.logits(np.concatenate([prompt, reference.embed(written.tokens[:-1])]))
    assert logits[len(prompt) - 1 :].argmax(axis=1).tolist() == written.tokens


def test_experts_per_token_of_the_config_is_the_default(tmp_path):
    reference = StepAudioReference(checkpoints.write(tmp_path, "step-moe-2"))
    prompt = reference.embed([1, 2, 3, 4, 5])
    three = reference.logits(prompt, 3)
    np.testing.assert_array_equal(reference.logits(prompt), reference.logits(prompt, 2))
    assert np.abs(three - reference.logits(prompt)).max() > 1e-2


@pytest.mark.parametrize("chunk_positions", [0, 8, 24])
@pytest.mark.parametrize("name", goldens.STEP_AUDIO)
def test_graphs_of_weights_no_golden_was_made_with_equal_torch(name, chunk_positions, tmp_path, monkeypatch):
    shape = replace(checkpoints.SHAPES[name], seed=FRESH_SEED)
    monkeypatch.setitem(checkpoints.SHAPES, name, shape)
    ours = Graphs(tmp_path, name, chunk_positions)
    reference = StepAudioReference(ours.checkpoint)
    for frames in (57, 102):
        mel = checkpoints.mel_features(frames, shape.mel_bins, frames)
        heard = ours.adapt(ours.encode(mel))
        np.testing.assert_allclose(heard, reference.hear(mel, chunk_positions), rtol=0, atol=TOLERANCE)
    tokens = np.random.default_rng(FRESH_SEED).integers(0, shape.vocabulary, 60).tolist()
    rows = np.concatenate([ours.table.rows(tokens[:20]), heard, ours.table.rows(tokens[20:])])
    for experts in range(1, shape.experts_per_token + 1) if shape.experts else (None,):
        logits = Writer(ours, experts).logits(rows, range(len(rows)))
        wanted = reference.logits(rows, experts)
        assert reference.router_gap() > SMALLEST_GAP, "take another seed: rounding may choose an expert"
        np.testing.assert_allclose(logits, wanted, rtol=0, atol=TOLERANCE)
