"""The training code of edgekit-tiny against transformers and against what EdgeKit's runtime does."""

import importlib
import random
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytestmark = pytest.mark.reference
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TRAIN = Path(__file__).resolve().parents[2] / "models/edgekit-tiny/train"
CONFIG = {
    "d_model": 32,
    "num_mel_bins": 80,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_source_positions": 96,
    "max_target_positions": 32,
    "vocab_size": 90,
    "pad_token_id": 1,
    "bos_token_id": 1,
    "eos_token_id": 1,
    "decoder_start_token_id": 2,
}
ROUNDING = 1e-4  # float32, sums of at most 96 terms of size 1


@pytest.fixture(scope="module")
def train():
    names = ("augment", "features", "lessons", "network", "reference", "teacher", "train")
    sys.path.insert(0, str(TRAIN))
    try:
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in names})
    finally:
        sys.path.remove(str(TRAIN))
        for name in names:
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def published():
    """Return a transformers Whisper whose every number, biases and norms included, is random."""
    torch.manual_seed(3)
    model = transformers.WhisperForConditionalGeneration(transformers.WhisperConfig(**CONFIG)).eval()
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            tensor.copy_(torch.randn_like(tensor) * 0.3 + (1.0 if "layer_norm.weight" in name else 0.0))
    return model


@pytest.fixture(scope="module")
def tensors(train, published):
    stored = {name: value for name, value in published.state_dict().items() if name.startswith("model.")}
    return train.network.split_into_experts(stored, CONFIG["decoder_layers"])


@torch.inference_mode()
def test_with_all_experts_and_the_full_window_the_network_is_whisper(train, published, tensors):
    network = train.network.build(CONFIG, tensors).eval()
    mel, tokens = torch.randn(2, 80, 192), torch.randint(0, 90, (2, 7))
    sound = network.encoder(mel, None)
    best = train.network.best
    hidden, routings = network.decoder(tokens, sound, None, best(torch.full(tokens.shape, 8)))
    expected = published(input_features=mel, decoder_input_ids=tokens)
    assert (sound - expected.encoder_last_hidden_state).abs().max() < ROUNDING
    assert (network.head(hidden) - expected.logits).abs().max() < ROUNDING * expected.logits.abs().max()
    assert len(routings) == 2


@torch.inference_mode()
@pytest.mark.parametrize("positions", [1, 7, 8, 9, 24, 95])
def test_a_chunk_sees_nothing_that_comes_later(train, tensors, positions):
    network = train.network.build(CONFIG, tensors).eval()
    mel = torch.randn(1, 80, 192)
    rows, chunk = torch.arange(96), torch.tensor([8])
    whole = network.encoder(mel, train.network.chunk_mask(rows, torch.tensor([96]), chunk))
    end = -(-positions // 8) * 8
    changed = mel.clone()
    changed[:, :, 2 * end + 1 :] += 5.0  # the convolutions of the last position reach one frame further
    part = network.encoder(changed, train.network.chunk_mask(rows, torch.tensor([96]), chunk))
    assert torch.equal(whole[:, :end], part[:, :end])
    if end < 96:
        assert not torch.allclose(whole[:, end:], part[:, end:])


@torch.inference_mode()
def test_padding_changes_no_position_of_a_clip(train, tensors):
    network = train.network.build(CONFIG, tensors).eval()
    mel = torch.randn(1, 80, 64)
    rows = torch.arange(32)
    alone = network.encoder(mel, train.network.chunk_mask(rows, torch.tensor([32]), torch.tensor([8])))
    padded = torch.cat((mel, torch.zeros(1, 80, 64)), 2)
    mask = train.network.chunk_mask(torch.arange(64), torch.tensor([32]), torch.tensor([8]))
    # the first padded frame is zero on both sides: the convolution pads with zeros too
    assert (network.encoder(padded, mask)[:, :32] - alone).abs().max() < ROUNDING


@torch.inference_mode()
def test_fewer_experts_are_the_ones_the_router_likes_best(train, tensors):
    network = train.network.build(CONFIG, tensors).eval()
    best = train.network.best
    sound, tokens = torch.randn(1, 5, 32), torch.randint(0, 90, (1, 3))
    hidden, (routing, _) = network.decoder(tokens, sound, None, best(torch.tensor([[8, 1, 8]])))
    with_all, _ = network.decoder(tokens, sound, None, best(torch.full((1, 3), 8)))
    assert torch.allclose(hidden[:, 0], with_all[:, 0])
    assert not torch.allclose(hidden[:, 1], with_all[:, 1])
    assert (routing.working.sum(-1) == torch.tensor([[8, 1, 8]])).all()
    assert routing.working[0, 1].int().argmax() == routing.scores[0, 1].argmax()


def test_every_expert_gets_the_same_number_of_neurons(train):
    similarity = torch.randn(64, 8, generator=torch.Generator().manual_seed(1))
    assert train.network.balanced(similarity).bincount().tolist() == [8] * 8


@pytest.mark.parametrize("samples", [1, 200, 16_001, 470_000])
def test_the_whole_window_is_what_transformers_computes(train, samples):
    sound = np.random.default_rng(samples).uniform(-0.5, 0.5, samples).astype(np.float32)
    expected = transformers.WhisperFeatureExtractor(feature_size=80)(sound, sampling_rate=16_000).input_features[0]
    assert np.abs(train.features.whole_window(torch.from_numpy(sound)).numpy() - expected).max() < 2e-3


@pytest.mark.parametrize("samples", [1, 10_239, 10_240, 10_241, 60_000])
@pytest.mark.parametrize(("chunk", "tail", "fill"), [(16, 16, 16), (64, 32, 64), (64, 32, 32)])
def test_the_student_hears_the_features_of_the_streaming_runtime(train, samples, chunk, tail, fill):
    from edgekit.bundle import FrontEnd, Grid
    from edgekit.runtime.hear.features import LogMel

    grid = Grid("chunked", 2 * chunk, 3000, 1500, tail_frames=2 * tail, pad_to_frames=2 * fill)
    sound = np.random.default_rng(samples).uniform(-0.5, 0.5, samples).astype(np.float32)
    log_mel = LogMel(FrontEnd(80), grid)
    chunks = [*log_mel.push(sound), *log_mel.finish()]
    expected = np.concatenate([part.mel[:, 2 : 2 + part.frames] for part in chunks], axis=1)
    found = train.features.streaming(torch.from_numpy(sound), chunk, 2 * tail, fill).numpy()
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 2e-3


def test_tokens_are_said_where_attention_was(train):
    attention = torch.full((8, 4, 40), 0.001)
    for token, (begin, end) in enumerate(((0, 10), (10, 14), (14, 30), (30, 40))):
        attention[:, token, begin:end] = 1.0
    assert np.abs(train.teacher.align(attention) - [10, 14, 30, 40]).max() <= 1


def test_a_cut_clip_keeps_only_words_that_were_whole(train):
    lessons = object.__new__(train.lessons.Lessons)
    lessons.begins_word = np.array([True, False, True, True])  # tokens 0, 2 and 3 (the end) begin a word
    clip = train.lessons.Clip(
        audio=np.zeros(32_000, np.int16),
        tokens=np.array([0, 1, 2, 3]),
        likely=np.zeros((4, 5)),
        log_shares=np.zeros((4, 5)),
        said=np.array([0.4, 0.8, 1.5, 2.0]),
        frames=np.zeros((100, 32)),
    )
    assert list(lessons.cut(clip, 0).tokens) == []
    assert list(lessons.cut(clip, 8_000).tokens) == []  # half a word
    assert list(lessons.cut(clip, 12_800).tokens) == [0, 1]
    assert list(lessons.cut(clip, 24_000).tokens) == [0, 1, 2]
    assert list(lessons.cut(clip, 32_000).tokens) == [0, 1, 2, 3]


def test_neural_voices_have_their_share_of_every_pool(train):
    lessons = object.__new__(train.lessons.Lessons)
    pick, size = random.Random(0), train.lessons.POOL
    many, few = list(range(1000)), list(range(1000, 1010))
    natural = int(size * train.lessons.NATURAL)
    both = lessons.draw({Path("shard-0000.npz"): many, Path("kokoro-0000.npz"): few}, pick)
    assert sum(clip >= 1000 for clip in both) == natural
    assert len({clip for clip in both if clip < 1000}) == size - natural  # none twice while there are enough
    assert lessons.draw({Path("shard-0000.npz"): many, Path("kokoro-0000.npz"): []}, pick).count(7) <= 1
    assert len(lessons.draw({Path("kokoro-0000.npz"): few}, pick)) == size


def test_a_varied_clip_has_its_length_and_its_timing(train):
    pick, rng = random.Random(1), np.random.default_rng(1)
    noises = train.augment.Noises(Path("nowhere"))
    sound = np.zeros(16_000, np.float32)
    sound[6_000] = 0.5  # a click is louder than noise of the same power, and every filter keeps it in its place
    for _ in range(50):
        varied = train.augment.vary(sound, [sound], noises, pick, rng)
        assert varied.shape == sound.shape
        assert varied.dtype == np.float32
        assert np.isfinite(varied).all()
        assert np.abs(varied).max() <= 1.0
        assert abs(int(np.abs(varied).argmax()) - 6_000) <= 1


def test_learning_lowers_the_loss_and_a_run_goes_on_where_it_stopped(train, tmp_path, tensors):
    import json

    from safetensors.torch import save_file

    start = tmp_path / "start"
    start.mkdir()
    save_file({name: value.contiguous() for name, value in tensors.items()}, start / "model.safetensors")
    (start / "config.json").write_text(json.dumps(CONFIG))
    for name in ("generation_config.json", "preprocessor_config.json", "tokenizer.json"):
        (start / name).write_text("{}")
    torch.manual_seed(5)
    frames = torch.randn(2, 32, 32)
    batch = train.lessons.Batch(
        mel=torch.randn(2, 80, 64),
        positions=torch.tensor([32, 24]),
        chunk=torch.tensor([8, 16]),
        tokens=torch.randint(0, 90, (2, 6)),
        labels=torch.tensor([[-100, 4, 5, 6, 7, 1], [-100, 4, 1, -100, -100, -100]]),
        likely=torch.randint(0, 90, (2, 6, 3)),
        log_shares=torch.full((2, 6, 3), -1.5),
        taught=torch.tensor([[False] + [True] * 5, [False] * 6]),
        frames=frames,
        voiced=torch.arange(32)[None] < torch.tensor([[32], [0]]),
        experts=torch.tensor([[8] * 6, [2] * 6]),
    )
    run = train.train.Run(start, tmp_path / "run", 3e-3, "cpu")
    found = [run.learn(batch, 0.0) for _ in range(60)]
    assert found[-1]["forced"] < 0.5 * found[0]["forced"]
    assert found[-1]["frames"] < found[0]["frames"]
    run.save()
    again = train.train.Run(start, tmp_path / "run", 3e-3, "cpu")
    assert (again.step, again.clips) == (60, 120)
    assert all(torch.equal(a, b) for a, b in zip(run.network.parameters(), again.network.parameters(), strict=True))
    assert run.learn(batch, 0.5) == again.learn(batch, 0.5)
    table = "decoder.embed_tokens.weight"
    assert torch.equal(run.network.state_dict()[table], tensors[f"model.{table}"])
