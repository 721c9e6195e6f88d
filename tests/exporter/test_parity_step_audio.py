"""Step-Audio graphs of both dialects against the stored answers of transformers' modules, called as a stream does.

Tolerance: the graphs add in another order than torch does. Values are of the order 1 (frames) to 10 (embeddings and
logits), where float32 sums of up to 2048 products differ by some 1e-6 to 1e-5; a wrong mask, position or weight is off
by 1e-1 and more.
"""

import numpy as np
import pytest

from tests.exporter.graphs import STANDARD, Writer, exported, split
from tests.reference import checkpoints, goldens
from tests.reference.goldens import GREEDY_TOKENS

TOLERANCE = 1e-4
SOUNDS = [
    pytest.param(name, sound, id=f"{name}-{sound.key}") for name in goldens.STEP_AUDIO for sound in goldens.sounds(name)
]
PASSAGES = [
    pytest.param(name, passage, id=f"{name}-{passage.key}")
    for name in goldens.STEP_AUDIO
    for passage in goldens.passages(name)
]
SPLITS = [(0,), (1,), (1, 0), (20, 3), (100, 0)]


@pytest.fixture(scope="module", params=["cpu", STANDARD], ids=["ort-cpu", "standard"])
def graphs(tmp_path_factory, request):
    return exported(tmp_path_factory.mktemp("step-audio"), request.param)


@pytest.fixture
def passage_of(graphs):
    """Return a function from a passage to its golden part, a Writer, the prompt's rows and the token table."""

    def find(name, passage):
        golden = goldens.load(name)
        ours = graphs(name, passage.sound)
        heard = ours.adapt(ours.encode(golden[f"{passage.sound.key}.mel"]))
        part = {key: golden[f"{passage.key}.{key}"] for key in ("before", "after", "tokens", "rows", "logits")}
        embed = ours.table.rows
        own = checkpoints.SHAPES[name].experts_per_token
        writer = Writer(ours, passage.experts_per_token or own)
        return part, writer, np.concatenate([embed(part["before"]), heard, embed(part["after"])]), embed

    return find


@pytest.mark.parametrize("name", goldens.STEP_AUDIO)
def test_the_weights_are_those_the_golden_was_made_with(name, graphs):
    assert checkpoints.digest(graphs(name, goldens.sounds(name)[0]).checkpoint) == goldens.load(name)["digest"]


@pytest.mark.parametrize(("name", "sound"), SOUNDS)
def test_the_encoder_called_by_chunks_equals_the_reference_on_the_whole(name, sound, graphs):
    golden = goldens.load(name)
    frames = np.concatenate(graphs(name, sound).encode(golden[f"{sound.key}.mel"]))
    wanted = golden[f"{sound.key}.frames"]
    # The graph leaves out a last pooled frame of padding that no embedding is made of.
    spare = len(wanted) - len(frames)
    assert spare == (-(-sound.frames // 2) % 4 == 2)
    np.testing.assert_allclose(frames, wanted[: len(frames)], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(("name", "sound"), SOUNDS)
def test_embeddings_equal_the_reference_in_number_and_value(name, sound, graphs):
    golden, ours = goldens.load(name), graphs(name, sound)
    heard = ours.adapt(ours.encode(golden[f"{sound.key}.mel"]))
    np.testing.assert_allclose(heard, golden[f"{sound.key}.heard"], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("sizes", SPLITS, ids=str)
@pytest.mark.parametrize(("name", "passage"), PASSAGES)
def test_logits_equal_the_reference_however_the_prompt_is_fed(name, passage, sizes, passage_of):
    golden, writer, prompt, embed = passage_of(name, passage)
    rows = np.concatenate([prompt, embed(golden["tokens"])])
    logits = [writer.logits(rows[part], range(part.stop - part.start)) for part in split(len(rows), sizes)]
    np.testing.assert_allclose(np.concatenate(logits)[golden["rows"]], golden["logits"], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(("name", "passage"), PASSAGES)
def test_greedy_tokens_are_those_of_the_reference(name, passage, passage_of):
    golden, writer, prompt, embed = passage_of(name, passage)
    assert writer.greedy(prompt, GREEDY_TOKENS, embed) == golden["tokens"].tolist()


@pytest.mark.parametrize("name", goldens.STEP_AUDIO)
def test_logits_of_no_rows_are_empty_and_feed_the_cache_all_the_same(name, passage_of):
    golden, writer, prompt, embed = passage_of(name, goldens.passages(name)[-1])
    rows = np.concatenate([prompt, embed(golden["tokens"])])
    assert writer.logits(rows[:-1], []).shape == (0, golden["logits"].shape[1])
    last = writer.logits(rows[-1:], [0])
    np.testing.assert_allclose(last, golden["logits"][-1:], rtol=0, atol=TOLERANCE)
