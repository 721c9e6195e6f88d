"""Exported Whisper graphs of both dialects against the stored answers of transformers, called as a stream calls them.

Tolerance: the graphs add in another order than torch does. Values are of the order 1 (frames) to 10 (logits), where
float32 sums of a few hundred products differ by some 1e-6; a wrong mask, position or weight is off by 1e-1 and more.
"""

from itertools import pairwise

import numpy as np
import pytest

from tests.exporter.graphs import STANDARD, Writer, exported, split
from tests.reference import checkpoints, goldens
from tests.reference.goldens import GREEDY_TOKENS, HEARD_COLUMNS

TOLERANCE = 1e-4
SOUNDS = [
    pytest.param(name, sound, id=f"{name}-{sound.key}") for name in goldens.WHISPER for sound in goldens.sounds(name)
]
PASSAGES = [
    pytest.param(name, passage, id=f"{name}-{passage.key}")
    for name in goldens.WHISPER
    for passage in goldens.passages(name)
]
SPLITS = [(0,), (1,), (1, 0), (4, 3), (60, 0)]


@pytest.fixture(scope="module", params=["cpu", STANDARD], ids=["ort-cpu", "standard"])
def graphs(tmp_path_factory, request):
    return exported(tmp_path_factory.mktemp("whisper"), request.param)


@pytest.fixture
def passage_of(graphs):
    """Return a function from a passage to its golden part and a Writer attending to its sound."""

    def find(name, passage):
        golden = goldens.load(name)
        ours = graphs(name, passage.sound)
        cross = ours.adapt(ours.encode(golden[f"{passage.sound.key}.mel"]))
        part = {key: golden[f"{passage.key}.{key}"] for key in ("after", "tokens", "rows", "logits")}
        writer = Writer(ours, passage.experts_per_token, cross)
        return part, writer, ours.table.rows

    return find


@pytest.mark.parametrize("name", goldens.WHISPER)
def test_the_weights_are_those_the_golden_was_made_with(name, graphs):
    assert checkpoints.digest(graphs(name, goldens.sounds(name)[0]).checkpoint) == goldens.load(name)["digest"]


@pytest.mark.parametrize(("name", "sound"), SOUNDS)
def test_the_encoder_called_by_chunks_equals_the_reference_on_the_whole(name, sound, graphs):
    golden = goldens.load(name)
    frames = np.concatenate(graphs(name, sound).encode(golden[f"{sound.key}.mel"]))
    np.testing.assert_allclose(frames, golden[f"{sound.key}.frames"], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(("name", "sound"), SOUNDS)
def test_the_cross_kv_gathered_by_chunks_equals_the_reference(name, sound, graphs):
    golden, ours = goldens.load(name), graphs(name, sound)
    cross = ours.adapt(ours.encode(golden[f"{sound.key}.mel"]))
    assert cross.shape[2] == -(-sound.frames // 2)
    np.testing.assert_allclose(cross[:, :, ::HEARD_COLUMNS], golden[f"{sound.key}.heard"], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("sizes", SPLITS, ids=str)
@pytest.mark.parametrize(("name", "passage"), PASSAGES)
def test_logits_equal_the_reference_however_the_tokens_are_fed(name, passage, sizes, passage_of):
    golden, writer, embed = passage_of(name, passage)
    tokens = np.concatenate([golden["after"], golden["tokens"]])
    logits = [writer.logits(embed(tokens[part]), range(part.stop - part.start)) for part in split(len(tokens), sizes)]
    np.testing.assert_allclose(np.concatenate(logits)[golden["rows"]], golden["logits"], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(("name", "passage"), PASSAGES)
def test_greedy_tokens_are_those_of_the_reference(name, passage, passage_of):
    golden, writer, embed = passage_of(name, passage)
    assert writer.greedy(embed(golden["after"]), GREEDY_TOKENS, embed) == golden["tokens"].tolist()


@pytest.mark.parametrize("name", goldens.WHISPER)
def test_logits_of_no_rows_are_empty_and_feed_the_cache_all_the_same(name, passage_of):
    golden, writer, embed = passage_of(name, goldens.passages(name)[-1])
    tokens = np.concatenate([golden["after"], golden["tokens"]])
    assert writer.logits(embed(tokens[:-1]), []).shape == (0, golden["logits"].shape[1])
    last = writer.logits(embed(tokens[-1:]), [0])
    np.testing.assert_allclose(last, golden["logits"][-1:], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", ["whisper-experts", "whisper-experts-128"])
def test_the_number_of_experts_changes_the_answer(name):
    golden = goldens.load(name)
    passages = [passage for passage in goldens.passages(name) if passage.sound == goldens.passages(name)[0].sound]
    first = [golden[f"{passage.key}.logits"][0] for passage in passages]
    for one, other in pairwise(first):
        assert np.abs(one - other).max() > 100 * TOLERANCE
