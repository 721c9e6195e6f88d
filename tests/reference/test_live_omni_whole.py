"""A whole Qwen3-Omni, ears to mouth: what a stream writes and speaks against transformers' own generate."""

import dataclasses

import msgspec
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from transformers import Qwen3OmniMoeConfig, Qwen3OmniMoeForConditionalGeneration  # noqa: E402
from transformers.models.whisper import WhisperFeatureExtractor  # noqa: E402

from edgekit.bundle import Sampling  # noqa: E402
from edgekit.exporter.export import ExportOptions, export  # noqa: E402
from edgekit.exporter.reference.qwen3_omni_ears import Qwen3OmniEarsReference  # noqa: E402
from edgekit.exporter.sources.checkpoint import open_checkpoint, read  # noqa: E402
from edgekit.runtime.events import Audio, AudioCut, Text  # noqa: E402
from edgekit.runtime.model import load  # noqa: E402
from tests.reference.checkpoints import write  # noqa: E402
from tests.runtime.streams import Logged  # noqa: E402

pytestmark = pytest.mark.reference

RATE = 16_000
TEXT_TOKENS, FRAMES = 12, 24
GREEDY = Sampling()
TOLERANCE = 1e-4  # samples of full scale 1


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write(tmp_path_factory.mktemp("omni"), "omni")


@pytest.fixture(scope="module")
def model(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle") / "omni"
    export(checkpoint, folder, ExportOptions(precision="float32", mode="exact", accept_loss="random weights"))
    loaded = load(folder, threads=1, speak=True)
    manifest = loaded.manifest
    speech = msgspec.structs.replace(manifest.speech, talker_sampling=GREEDY, code_sampling=GREEDY, max_frames=FRAMES)
    protocol = msgspec.structs.replace(manifest.protocol, max_tokens=TEXT_TOKENS, max_tokens_per_s=None, stop=())
    object.__setattr__(loaded.bundle, "manifest", msgspec.structs.replace(manifest, speech=speech, protocol=protocol))
    return loaded


@pytest.fixture(scope="module")
def published(checkpoint):
    opened = open_checkpoint(checkpoint)
    torch.manual_seed(0)
    made = Qwen3OmniMoeForConditionalGeneration(Qwen3OmniMoeConfig(**opened.config)).eval()
    state = {name: torch.from_numpy(read(opened, name)) for name in opened.names()}
    missing, unexpected = made.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(name.startswith("thinker.visual.") for name in missing)
    # Without flash-attn the published tower loses its blocks; this one is the same with the mask that it lacks.
    tensors = {name: read(opened, name) for name in opened.names() if name.startswith("thinker.audio_tower.")}
    made.thinker.audio_tower = Qwen3OmniEarsReference(opened.config["thinker_config"]["audio_config"], tensors).tower
    return made


def _sound(seconds):
    """Return noise that is loudest at its beginning, so that the floor of a stream is that of the whole clip."""
    rng = np.random.default_rng(5)
    count = int(seconds * RATE)
    return (0.3 * rng.standard_normal(count) * np.linspace(1, 0.4, count)).astype(np.float32)


def _theirs(published, model, samples):
    """Return transformers' tokens, codes (frames, codebooks) and samples for one turn of sound, greedy throughout."""
    extractor = WhisperFeatureExtractor(feature_size=128)
    heard = extractor(samples, sampling_rate=RATE, padding=False, return_tensors="pt")["input_features"]
    protocol, encode = model.manifest.protocol, model.tokenizer.encode
    opening = protocol.opening.replace("{system}", protocol.system).replace("{tools}", "")
    frames = heard.shape[2]
    count = 13 * (frames // 100) + _tail(frames % 100)
    ids = [
        *encode(opening + protocol.before),
        *[published.config.thinker_config.audio_token_id] * count,
        *encode(protocol.after.replace("{prompt}", protocol.prompt) + protocol.reply),
    ]
    predict = published.talker.code_predictor.generate

    def greedy(**arguments):
        return predict(**arguments | {"do_sample": False, "top_k": None, "top_p": None})

    kept = []
    decode = published.code2wav.chunked_decode

    def keep(codes, **arguments):
        kept.append(codes)
        return decode(codes, **arguments)

    with pytest.MonkeyPatch.context() as patch, torch.inference_mode():  # published code always samples these codes
        patch.setattr(published.talker.code_predictor, "generate", greedy)
        patch.setattr(published.code2wav, "chunked_decode", keep)
        result, _ = published.generate(
            torch.tensor([ids]), speaker="ethan", input_features=heard,
            feature_attention_mask=torch.ones((1, frames), dtype=torch.long),
            thinker_max_new_tokens=TEXT_TOKENS + 1, thinker_do_sample=False, thinker_eos_token_id=-1,
            talker_do_sample=False, talker_repetition_penalty=1.0, talker_temperature=None, talker_top_k=None,
            talker_top_p=None, talker_max_new_tokens=FRAMES + 1,
        )  # fmt: skip
        whole = published.code2wav(kept[0])[0, 0].numpy()
    return result.sequences[0, len(ids) :].tolist()[:TEXT_TOKENS], kept[0][0].T.numpy(), whole


def _tail(frames):
    for _ in range(3):
        frames = (frames + 1) // 2
    return frames


@pytest.mark.parametrize("seconds", [0.5, 1.0, 2.3, 9.1])
def test_a_stream_writes_and_speaks_what_generate_does(published, model, seconds):
    samples = _sound(seconds)
    tokens, codes, whole = _theirs(published, model, samples)
    decoder = Logged(model.engines["decoder"])
    speaking = dataclasses.replace(model, engines={**model.engines, "decoder": decoder})
    stream = speaking.stream(gate="off", speak=True, voice="ethan", level="full")
    events = [event for part in np.array_split(samples, 7) for event in stream.push(part)] + list(stream.finish())
    (text,) = [event for event in events if isinstance(event, Text) and event.final]
    assert list(text.tokens) == tokens
    np.testing.assert_array_equal(np.concatenate([call["codes"] for call in decoder.calls]), codes)
    spoken = np.concatenate([event.samples for event in events if isinstance(event, Audio)])
    assert {event.sample_rate_hz for event in events if isinstance(event, Audio)} == {24_000}
    assert spoken.shape == whole.shape
    np.testing.assert_allclose(spoken, whole, rtol=0, atol=TOLERANCE)
    cuts = [event.reason for event in events if isinstance(event, AudioCut)]
    assert cuts == ["frames"] * (len(codes) == FRAMES)
    if len(codes) >= TEXT_TOKENS:  # sound comes while text is still written
        first = next(index for index, event in enumerate(events) if isinstance(event, Audio))
        assert first < events.index(text)
