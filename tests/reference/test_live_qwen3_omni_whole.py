"""Qwen3-Omni from sound to sound: a float bundle's stream against transformers' own generate, greedy throughout."""

import msgspec
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from transformers import Qwen3OmniMoeConfig, Qwen3OmniMoeForConditionalGeneration  # noqa: E402

from edgekit.bundle import Bundle, Sampling, open_bundle  # noqa: E402
from edgekit.exporter.checkpoint import open_checkpoint, read  # noqa: E402
from edgekit.exporter.export import ExportOptions, export  # noqa: E402
from edgekit.runtime.events import Audio, Text  # noqa: E402
from edgekit.runtime.model import load_opened  # noqa: E402
from edgekit.runtime.probe import hear  # noqa: E402
from tests.exporter.test_export import QUICK  # noqa: E402
from tests.reference import checkpoints  # noqa: E402
from tests.reference import qwen3_omni as omni  # noqa: E402

pytestmark = pytest.mark.reference

TOLERANCE = 1e-4  # of samples in [-1, 1]
TEXT_TOKENS, FRAMES = 6, 20
SOUND = np.random.default_rng(23).uniform(-0.4, 0.4, 16_000 + 4_000).astype(np.float32)  # within one block of 2 s


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return checkpoints.write(tmp_path_factory.mktemp("omni"), "omni")


@pytest.fixture(scope="module")
def model(checkpoint, tmp_path_factory):
    """Return the Model of a float bundle that speaks greedily and for FRAMES at most."""
    folder = tmp_path_factory.mktemp("bundle") / "b"
    export(checkpoint, folder, ExportOptions(recipe=QUICK, precision="float32"))
    opened = open_bundle(folder)
    speech = msgspec.structs.replace(
        opened.manifest.speech, talker_sampling=Sampling(), code_sampling=Sampling(), max_frames=FRAMES
    )
    manifest = msgspec.structs.replace(opened.manifest, speech=speech)
    return load_opened(Bundle(folder, manifest), threads=1, speak=True)


@pytest.fixture(scope="module")
def published(checkpoint):
    """Return transformers' whole model with the checkpoint's weights; what sees keeps random ones."""
    found = open_checkpoint(checkpoint)
    whole = Qwen3OmniMoeForConditionalGeneration(Qwen3OmniMoeConfig(**found.config)).eval()
    held = {name: torch.from_numpy(np.array(read(found, name))) for name in found.names() if "visual" not in name}
    missing, unexpected = whole.load_state_dict(held, strict=False)
    assert unexpected == []
    assert all(name.startswith("thinker.visual.") for name in missing)
    return whole


def test_text_and_samples_are_those_of_transformers(model, published):
    protocol = model.manifest.protocol
    heard = hear(model, SOUND)
    features = np.concatenate(heard.mel, axis=1)
    ids = omni.tokens()
    prompt = model.tokenizer.encode(protocol.opening.replace("{system}", protocol.system) + protocol.before)
    prompt += [ids["<|audio_pad|>"]] * sum(map(len, heard.parts))
    prompt += model.tokenizer.encode(protocol.after.replace("{prompt}", "") + protocol.reply)
    tokens, wave = _generate(published, prompt, features)

    events = []
    stream = model.stream(gate="off", speak=True, voice="ethan", max_tokens=TEXT_TOKENS)
    for part in np.array_split(SOUND, 7):
        events += stream.push(part)
    events += stream.finish()
    (said,) = [event for event in events if isinstance(event, Text) and event.final]
    samples = np.concatenate([event.samples for event in events if isinstance(event, Audio)])
    assert list(said.tokens) == tokens
    assert len(np.unique(np.round(samples, 3))) > 50
    np.testing.assert_allclose(samples, wave, rtol=0, atol=TOLERANCE)


def _generate(published, prompt, features):
    """Return the answer's tokens and the samples of all its frames at once.

    The last token of text is chosen and never read, the last frame's first code never made a frame: both are one more.
    """
    codes = []
    predict, decode = published.talker.code_predictor.generate, published.code2wav.chunked_decode

    def greedy(**arguments):
        return predict(**arguments | {"do_sample": False, "top_k": None, "top_p": None})

    def kept(given, **arguments):
        codes.append(given)
        return decode(given, **arguments)

    with pytest.MonkeyPatch.context() as patch:  # published code always samples these codes and keeps them to itself
        patch.setattr(published.talker.code_predictor, "generate", greedy)
        patch.setattr(published.code2wav, "chunked_decode", kept)
        result, _ = published.generate(
            torch.tensor([prompt]), speaker="ethan", input_features=torch.from_numpy(features)[None],
            feature_attention_mask=torch.ones((1, features.shape[1]), dtype=torch.long),
            thinker_max_new_tokens=TEXT_TOKENS + 1, thinker_do_sample=False, talker_do_sample=False,
            talker_repetition_penalty=1.0, talker_temperature=None, talker_top_k=None, talker_top_p=None,
            talker_max_new_tokens=FRAMES + 1,
        )  # fmt: skip
    with torch.inference_mode():
        wave = published.code2wav(codes[0])[0, 0].numpy()
    return result.sequences[0, len(prompt) : -1].tolist(), wave
