"""Times, live: which tokens may come next, queries, the picture of attention and token times, against transformers."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from transformers.generation.logits_process import (  # noqa: E402 - they come after the question whether torch is here
    SuppressTokensAtBeginLogitsProcessor,
    SuppressTokensLogitsProcessor,
    WhisperTimeStampLogitsProcessor,
)
from transformers.generation.utils import GenerateEncoderDecoderOutput  # noqa: E402
from transformers.models.whisper.generation_whisper import _median_filter  # noqa: E402

import edgekit  # noqa: E402
from edgekit.bundle import Timestamps, TokenProtocol  # noqa: E402
from edgekit.exporter.export import ExportOptions, export  # noqa: E402
from edgekit.exporter.reference.whisper import WhisperReference  # noqa: E402
from edgekit.runtime.answer.answerer import Backbone  # noqa: E402
from edgekit.runtime.answer.sampler import Greedy  # noqa: E402
from edgekit.runtime.answer.times.alignment import attention, path, token_starts  # noqa: E402
from edgekit.runtime.answer.times.alignment import queries_of as alignment_queries  # noqa: E402
from edgekit.runtime.answer.times.timestamps import TimedSampler  # noqa: E402
from edgekit.runtime.audio.files import read_mono  # noqa: E402
from edgekit.runtime.judge import probe  # noqa: E402
from tests.reference import checkpoints  # noqa: E402

pytestmark = pytest.mark.reference

ROOT = Path(__file__).parents[2]
QUICK = ROOT / "tests/exporter/quick.toml"
TINY = ROOT / "models/edgekit-tiny/edgekit_tiny/checkpoint"
CLIP = ROOT / "export/clips/librivox-0890.flac"
END, NONE, FIRST, COUNT = 50, 59, 60, 40  # tokens 51 to 58 are other marks, which no answer has
SUPPRESS, AT_FIRST = (3, 7, *range(END + 1, NONE)), (5, END)
HEADS = ((0, 1), (0, 3), (1, 0))


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def theirs(latest):
    """Return what transformers makes of logits after tokens, as its generate puts the processors in order."""
    config = transformers.GenerationConfig(
        no_timestamps_token_id=NONE, eos_token_id=END, bos_token_id=END, max_initial_timestamp_index=latest
    )
    chain = [
        SuppressTokensAtBeginLogitsProcessor(AT_FIRST, begin_index=1),
        SuppressTokensLogitsProcessor(SUPPRESS),
        WhisperTimeStampLogitsProcessor(config, begin_index=1),
    ]

    def processed(said, logits):
        ids, scores = torch.tensor([[END + 1, *said]]), torch.from_numpy(logits)[None]
        for processor in chain:
            scores = processor(ids, scores)
        return scores[0].numpy()

    return processed


@pytest.mark.parametrize("latest", [0, 3, COUNT - 1])
@pytest.mark.parametrize("lean", [-3.0, 0.0, 3.0])
def test_the_tokens_of_timed_answers_are_those_of_transformers(latest, lean):
    """Answers of random logits, text or times favoured, until they end; ours is asked at each step."""
    protocol = TokenProtocol(
        attention="cross", stop=(END,), max_tokens=9, context_tokens=9, suppress=SUPPRESS, begin_suppress=AT_FIRST
    )
    times = Timestamps(first=FIRST, count=COUNT, latest_start=latest)
    ours = TimedSampler(Greedy(protocol), times, (END,), (NONE, *SUPPRESS))
    processed, draw = theirs(latest), np.random.default_rng([latest, int(lean) + 9])
    steps = 0
    for _ in range(60):
        said: list[int] = []
        while len(said) < 25:
            logits = draw.normal(0, 3, FIRST + COUNT).astype(np.float32)
            logits[FIRST:] += lean
            logits[list(SUPPRESS)] += 4  # what is never chosen is likely
            scores = processed(said, logits)
            token = int(np.argmax(scores))
            assert ours.pick(logits, said) == token, said
            steps += 1
            allowed = np.flatnonzero(np.isfinite(scores))
            said.append(int(draw.choice(allowed)) if draw.random() < 0.5 else token)  # not the likeliest alone
            if said[-1] == END:
                break
    assert steps > 200


def attend(reference, frames, tokens):
    """Return transformers' cross-attentions (layers, heads, tokens, positions) and unscaled queries, per layer."""
    queries: list[np.ndarray] = []
    layers = reference.model.model.decoder.layers
    hooks = [
        layer.encoder_attn.q_proj.register_forward_hook(lambda _, __, out: queries.append(out[0].numpy()))
        for layer in layers
    ]
    with torch.inference_mode():
        answer = reference.model.model.decoder(
            input_ids=torch.tensor([tokens]), encoder_hidden_states=torch.from_numpy(frames)[None],
            output_attentions=True, use_cache=False,
        )  # fmt: skip
    for hook in hooks:
        hook.remove()
    return answer.cross_attentions, queries


def token_times(reference, attentions, heads):
    """Return the seconds of each row of attention as transformers' generate tells them of tokens."""
    outputs = GenerateEncoderDecoderOutput(
        sequences=torch.zeros(1, attentions[0].shape[2], dtype=torch.long), cross_attentions=(attentions,)
    )
    return reference.model._extract_token_timestamps(outputs, heads, num_input_ids=0)[0, :-1].numpy()


def picture_of(attentions, heads):
    """Return transformers' picture (tokens, positions): normalised, smoothed, the mean of heads."""
    weights = torch.stack([attentions[layer][:, head] for layer, head in heads]).permute(1, 0, 2, 3)
    std, mean = torch.std(weights, dim=-2, keepdim=True, unbiased=False), torch.mean(weights, dim=-2, keepdim=True)
    return _median_filter((weights - mean) / std, 7).mean(dim=1)[0].numpy()


@pytest.fixture(scope="module")
def random_whisper(tmp_path_factory):
    """Return a checkpoint of random weights with alignment heads, its bundles and its reference."""
    root = tmp_path_factory.mktemp("whisper")
    folder = checkpoints.write(root / "checkpoint", "whisper-dense-128")
    path = folder / "generation_config.json"
    path.write_text(
        json.dumps(json.loads(path.read_text()) | {"alignment_heads": [list(pair) for pair in HEADS[::-1]]})
    )
    bundles = {}
    for precision in ("float32", "int8"):
        export(folder, root / precision, ExportOptions(recipe=QUICK, precision=precision))
        bundles[precision] = edgekit.load(root / precision, threads=1)
    return SimpleNamespace(bundles=bundles, reference=WhisperReference(folder))


def queries_of(model, cross, tokens):
    """Return what the bundle's backbone writes as ``queries``, and the keys that it read."""
    backbone = Backbone(model.engines["backbone"], model.table.width, 128)
    packed = [np.ascontiguousarray(row[None]) for row in cross]
    backbone.reset(packed)
    level = model.manifest.levels[-1]
    alignment = model.manifest.protocol.alignment
    written = backbone.queries(model.table.rows(tokens), level)
    queries = alignment_queries(written, alignment, cross.shape[1], cross.shape[3])
    return queries, [cross[2 * layer, head] for layer, head in model.manifest.protocol.alignment]


@pytest.mark.parametrize(("precision", "worst"), [("float32", 1e-4), ("int8", 0.25)])
def test_queries_are_those_of_transformers_cross_attention(random_whisper, precision, worst):
    model, reference = random_whisper.bundles[precision], random_whisper.reference
    assert model.manifest.protocol.alignment == HEADS
    frames = reference.encode(checkpoints.mel_features(11, 128, 170))
    tokens = np.random.default_rng(4).integers(0, 600, 37).tolist()
    _, queries = attend(reference, frames, tokens)
    found, _ = queries_of(model, reference.cross(frames), tokens)
    size = found.shape[2]
    expected = np.stack([queries[layer][:, head * size : (head + 1) * size] for layer, head in HEADS], axis=1)
    np.testing.assert_allclose(found, expected, rtol=0, atol=worst)
    assert np.abs(found - expected).mean() < worst / 4
    assert expected.std() > 1


@pytest.mark.parametrize("positions", [85, 31, 5, 4])
def test_the_picture_of_attention_is_that_of_transformers(random_whisper, positions):
    model, reference = random_whisper.bundles["float32"], random_whisper.reference
    frames = reference.encode(checkpoints.mel_features(12, 128, 170))[:positions]
    tokens = np.random.default_rng(5).integers(0, 600, 23).tolist()
    attentions, _ = attend(reference, frames, tokens)
    found = attention(*queries_of(model, reference.cross(frames), tokens), positions)
    np.testing.assert_allclose(found, picture_of(attentions, HEADS), rtol=0, atol=2e-3)


def test_the_way_through_one_picture_is_that_of_transformers(random_whisper):
    reference = random_whisper.reference
    frames = reference.encode(checkpoints.mel_features(13, 128, 190))
    for count in (1, 2, 17, 60, 120):  # the last has more tokens than there are positions
        tokens = np.random.default_rng(count).integers(0, 600, count).tolist()
        if count == 1:
            assert path(np.zeros((1, 9)))[1].tolist() == list(range(9))
            continue
        attentions, _ = attend(reference, frames, tokens)
        starts = token_starts(-picture_of(attentions, HEADS).astype(np.float64)) * 0.02
        np.testing.assert_allclose(starts, token_times(reference, attentions, HEADS), rtol=0, atol=0.02 + 1e-6)


def test_token_times_of_speech_are_those_of_transformers(tmp_path):
    """edgekit-tiny in float32 on a sentence, and transformers on the same frames and tokens."""
    export(TINY, tmp_path / "bundle", ExportOptions(recipe=QUICK, precision="float32"))
    model, reference = edgekit.load(tmp_path / "bundle", threads=1), WhisperReference(TINY)
    heard = probe.hear(model, read_mono(CLIP, 16_000))
    said = probe.answer(model, heard).tokens
    before, _ = probe.around(model)
    tokens = [*before, *said, model.manifest.protocol.stop[0]]
    cross = np.concatenate(heard.parts, axis=2)
    attentions, _ = attend(reference, heard.frames, tokens)
    heads = model.manifest.protocol.alignment
    found = token_starts(-attention(*queries_of(model, cross, tokens), cross.shape[2])) * 0.02
    expected = token_times(reference, attentions, heads)
    assert len(said) > 15
    np.testing.assert_allclose(found, expected, rtol=0, atol=0.02 + 1e-6)
    assert expected[-2] > 3.5  # it follows the sentence, of 5.3 s
