"""Whisper, live: our reference against transformers' own forward passes, the goldens, and graphs of other weights."""

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from edgekit.exporter.reference.whisper import WhisperReference  # noqa: E402
from tests.exporter.graphs import Graphs, Writer  # noqa: E402 - they come after the question whether torch is here
from tests.reference import checkpoints, goldens, make_goldens  # noqa: E402

pytestmark = pytest.mark.reference

TOLERANCE = 1e-4  # between graph and torch; see tests/exporter/test_parity_whisper.py
ROUNDING = 1e-5  # between two orders of the same torch sums
FRESH_SEED = 1001


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def reference_of(folder, name, **changes):
    """Return the reference of a checkpoint with some sizes changed, and its shape."""
    shape = replace(checkpoints.SHAPES[name], **changes)
    return WhisperReference(checkpoints.write_whisper(folder, shape)), shape


@pytest.mark.parametrize("name", goldens.WHISPER)
def test_stored_goldens_are_what_torch_answers_now(name, tmp_path):
    fresh = make_goldens.make(name, checkpoints.write(tmp_path, name))
    assert make_goldens.differences(fresh, goldens.load(name)) == []


def test_a_changed_golden_is_named_with_its_distance():
    stored = goldens.load("whisper-dense")
    for key, change in (("exact-65.frames", 1e-3), ("exact-65.kown.tokens", 1), ("exact-65.mel", 1 / 32)):
        changed = stored | {key: stored[key].copy()}
        changed[key].flat[-1] += change
        (line,) = make_goldens.differences(stored, changed)
        assert line.startswith(f"{key}: ")
    missing = {key: value for key, value in stored.items() if key != "digest"}
    assert make_goldens.differences(stored, missing) == ["digest: only in one of them"]


def test_a_full_window_without_chunks_is_transformers_own_encoder(tmp_path):
    reference, shape = reference_of(tmp_path, "whisper-dense-128")
    mel = checkpoints.mel_features(5, shape.mel_bins, 2 * shape.source_positions)
    with torch.inference_mode():
        published = reference.model.model.encoder(torch.from_numpy(mel)[None]).last_hidden_state[0].numpy()
    np.testing.assert_allclose(reference.encode(mel), published, rtol=0, atol=ROUNDING)


def test_all_experts_together_are_the_dense_layer(tmp_path):
    split, shape = reference_of(tmp_path / "split", "whisper-experts")
    dense, _ = reference_of(tmp_path / "dense", "whisper-experts", experts=0, chunk_positions=0)
    frames = split.encode(checkpoints.mel_features(6, shape.mel_bins, 100))
    tokens = list(range(0, 580, 10))
    np.testing.assert_array_equal(split.logits(frames, tokens, shape.experts), dense.logits(frames, tokens))
    assert np.abs(split.logits(frames, tokens, shape.experts - 1) - dense.logits(frames, tokens)).max() > 1e-2


def test_the_split_layer_sums_the_experts_written_one_by_one(tmp_path):
    reference, shape = reference_of(tmp_path, "whisper-experts")
    layer = reference.model.model.decoder.layers[0]
    x = torch.from_numpy(checkpoints.mel_features(7, 9, shape.width))
    inner = shape.feed_forward // shape.experts
    for chosen in (1, 2, 3, 8):
        layer.fc1.chosen = chosen
        with torch.inference_mode():
            ours = layer.fc2(torch.nn.functional.gelu(layer.fc1(x)))
            scores = layer.fc1.router(x)
            for row, highest in enumerate(scores.topk(chosen, dim=-1).indices.tolist()):
                total = layer.fc2.bias.clone()
                for expert in highest:
                    own = slice(expert * inner, (expert + 1) * inner)
                    up = layer.fc1.dense.weight[own] @ x[row] + layer.fc1.dense.bias[own]
                    total += layer.fc2.weight[:, own] @ torch.nn.functional.gelu(up)
                np.testing.assert_allclose(ours[row].numpy(), total.numpy(), rtol=0, atol=ROUNDING)


def test_later_sound_leaves_frames_of_earlier_chunks_alone(tmp_path):
    reference, shape = reference_of(tmp_path, "whisper-experts")
    mel = checkpoints.mel_features(8, shape.mel_bins, 128)
    other = mel.copy()
    other[:, 65:] += 1  # frame 64 belongs to the second chunk too, but the convolutions of the first one see it
    one, two = reference.encode(mel, 32), reference.encode(other, 32)
    np.testing.assert_allclose(one[:32], two[:32], rtol=0, atol=ROUNDING)
    assert np.abs(one[32:] - two[32:]).max() > 1e-2


def test_forced_logits_and_greedy_tokens_are_those_of_transformers_whole_model(tmp_path):
    reference, shape = reference_of(tmp_path, "whisper-dense-128")
    mel = checkpoints.mel_features(9, shape.mel_bins, 2 * shape.source_positions)
    frames = reference.encode(mel)
    written = reference.write(frames, [487, 488, 493, 498], 20)
    with torch.inference_mode():
        published = reference.model(
            input_features=torch.from_numpy(mel)[None], decoder_input_ids=torch.tensor([written.tokens])
        ).logits[0]
    np.testing.assert_allclose(reference.logits(frames, written.tokens), published.numpy(), rtol=0, atol=TOLERANCE)
    assert published[3:-1].argmax(dim=-1).tolist() == written.tokens[4:]


@pytest.mark.parametrize("name", goldens.WHISPER)
def test_graphs_of_weights_no_golden_was_made_with_equal_torch(name, tmp_path, monkeypatch):
    shape = replace(checkpoints.SHAPES[name], seed=FRESH_SEED)
    monkeypatch.setitem(checkpoints.SHAPES, name, shape)
    ours = Graphs(tmp_path, name, shape.chunk_positions)
    reference = WhisperReference(ours.checkpoint)
    mel = checkpoints.mel_features(10, shape.mel_bins, min(2 * shape.source_positions, 333))
    frames = reference.encode(mel, shape.chunk_positions)
    parts = ours.encode(mel)
    np.testing.assert_allclose(np.concatenate(parts), frames, rtol=0, atol=TOLERANCE)
    cross = ours.adapt(parts)
    np.testing.assert_allclose(cross, reference.cross(frames), rtol=0, atol=TOLERANCE)
    tokens = np.random.default_rng(FRESH_SEED).integers(0, shape.vocabulary, 100).tolist()
    for experts in (1, 2, 5, 8) if shape.experts else (None,):
        logits = Writer(ours, experts, cross).logits(ours.table.rows(tokens), range(len(tokens)))
        wanted = reference.logits(frames, tokens, experts)
        assert reference.router_gap() > make_goldens.SMALLEST_GAP, "take another seed: rounding may choose an expert"
        np.testing.assert_allclose(logits, wanted, rtol=0, atol=TOLERANCE)
