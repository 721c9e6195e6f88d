"""models/edgekit-tiny: the committed checkpoint agrees with itself, and trimming moves every token with its row."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

ROOT = Path(__file__).resolve().parents[1]
TINY = ROOT / "models" / "edgekit-tiny"
CHECKPOINT = TINY / "edgekit_tiny" / "checkpoint"
CLIPS = ROOT / "export" / "clips"
TABLE = "model.decoder.embed_tokens.weight"

SENTENCES = [
    "the quick brown fox jumps over the lazy dog",
    "please enter the password and the number again",
    "there is nothing that the other brother would rather do",
]
WORDS = {"the": 0.5, "password": 0.2, "other": 0.1, "brother": 0.1, "quick": 0.1}


def script(path: Path) -> ModuleType:
    """Return a script of models/ as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def trim():
    """Return models/edgekit-tiny/trim.py."""
    return script(TINY / "trim.py")


@pytest.fixture(scope="module")
def generation() -> dict[str, object]:
    """Return the committed generation_config.json."""
    return json.loads((CHECKPOINT / "generation_config.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """Return the committed tokenizer."""
    return Tokenizer.from_file(str(CHECKPOINT / "tokenizer.json"))


@pytest.fixture(scope="module")
def seed(tmp_path_factory, trim) -> Path:
    """Return a small seed: a byte-level tokenizer trained on SENTENCES, one table row per id that holds the id."""
    folder = tmp_path_factory.mktemp("seed")
    small = Tokenizer(models.BPE())
    small.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    small.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    small.train_from_iterator(
        [" " + line for line in SENTENCES],
        trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False),
    )
    small.add_special_tokens([*trim.SPECIALS[:2], "<|de|>", *trim.SPECIALS[2:]])
    ids = {name: small.token_to_id(name) for name in trim.SPECIALS}
    end, start, last = (ids["<|endoftext|>"], ids["<|startoftranscript|>"], ids["<|notimestamps|>"])
    small.post_processor = processors.TemplateProcessing(
        single="<|startoftranscript|> $A <|endoftext|>",
        special_tokens=[("<|startoftranscript|>", start), ("<|endoftext|>", end)],
    )
    small.save(str(folder / "tokenizer.json"))
    rows = np.repeat(np.arange(last + 1 + 5, dtype=np.float16)[:, None], 2, axis=1)  # five timestamps follow
    save_file({TABLE: rows, "model.decoder.other": np.ones(3, np.float16)}, folder / "model.safetensors")
    config = {"vocab_size": len(rows), "eos_token_id": end, "decoder_start_token_id": start}
    fox = small.token_to_id("\u0120fox")
    steering = {
        "eos_token_id": end,
        "no_timestamps_token_id": last,
        "suppress_tokens": [3, fox, ids["<|nocaptions|>"]],
        "begin_suppress_tokens": [end],
        "forced_decoder_ids": [[1, last]],
        "max_initial_timestamp_index": 50,
    }
    for name, content in (("config", config), ("generation_config", steering), ("preprocessor_config", {})):
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def test_package_names_the_checkpoint_folder():
    command = [sys.executable, "-c", "from edgekit_tiny import checkpoint; print(checkpoint())"]
    printed = subprocess.run(command, cwd=TINY, check=True, capture_output=True, text=True).stdout.strip()
    assert Path(printed) == CHECKPOINT
    assert sorted(path.name for path in CHECKPOINT.iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "tokenizer.json",
    ]


def test_config_table_and_tokenizer_agree_on_the_vocabulary(tokenizer):
    config = json.loads((CHECKPOINT / "config.json").read_text(encoding="utf-8"))
    with safe_open(CHECKPOINT / "model.safetensors", "numpy") as tensors:
        shape = tensors.get_slice(TABLE).get_shape()
    assert shape == [config["vocab_size"], config["d_model"]]
    assert sorted(tokenizer.get_vocab().values()) == list(range(config["vocab_size"]))


def test_every_weight_is_half_precision_and_finite():
    for name, weight in load_file(CHECKPOINT / "model.safetensors").items():
        assert weight.dtype == np.float16, name
        assert np.isfinite(weight).all(), name


def test_every_decoder_layer_has_a_router_for_eight_experts():
    config = json.loads((CHECKPOINT / "config.json").read_text(encoding="utf-8"))
    with safe_open(CHECKPOINT / "model.safetensors", "numpy") as tensors:
        for layer in range(config["decoder_layers"]):
            router = tensors.get_slice(f"model.decoder.layers.{layer}.router.weight")
            assert router.get_shape() == [config["edgekit"]["num_experts"], config["d_model"]] == [8, 384]


def test_special_tokens_are_last_and_the_configs_use_their_ids(trim, tokenizer, generation):
    config = json.loads((CHECKPOINT / "config.json").read_text(encoding="utf-8"))
    ids = {name: tokenizer.token_to_id(name) for name in trim.SPECIALS}
    assert list(ids.values()) == list(range(config["vocab_size"] - len(ids), config["vocab_size"]))
    for steering in (config, generation):
        assert steering["eos_token_id"] == steering["bos_token_id"] == steering["pad_token_id"] == ids["<|endoftext|>"]
        assert steering["decoder_start_token_id"] == ids["<|startoftranscript|>"]
    assert generation["no_timestamps_token_id"] == ids["<|notimestamps|>"]
    assert generation["forced_decoder_ids"] == [[1, ids["<|notimestamps|>"]]]
    # the end may come first: sound without words has no text
    assert generation["begin_suppress_tokens"] == [tokenizer.token_to_id("\u0120")]
    assert tokenizer.encode("").ids == [ids["<|startoftranscript|>"], ids["<|notimestamps|>"], ids["<|endoftext|>"]]


def test_suppressed_tokens_are_no_words(tokenizer, generation):
    for token in generation["suppress_tokens"]:
        text = tokenizer.decode([token], skip_special_tokens=False).strip()
        assert text.startswith("<|") or not any(letter.isalnum() for letter in text), text


@pytest.mark.parametrize(
    "text", ["", " ", "a", " Gr\u00fc\u00dfe, \u043c\u0438\u0440! \U0001f600", "\x00\x7f \t\n", "x" * 1000]
)
def test_any_text_survives_the_tokenizer(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids) == text


@pytest.mark.parametrize("word", ["the", "The", "password", "Password", "unlock", "PM", "London", "2000", "..."])
def test_words_of_everyday_speech_are_single_tokens(tokenizer, word):
    assert len(tokenizer.encode(" " + word, add_special_tokens=False).ids) == 1


def trimmed(trim, seed: Path, output: Path, size: int) -> tuple[Tokenizer, Tokenizer]:
    """Trim seed into output; return the tokenizers before and after."""
    assert trim.trim(seed, output, WORDS, size) <= size
    return Tokenizer.from_file(str(seed / "tokenizer.json")), Tokenizer.from_file(str(output / "tokenizer.json"))


@pytest.mark.parametrize("size", [275, 290, 10_000])
def test_every_kept_token_takes_its_row_along(trim, seed, tmp_path, size):
    before, after = trimmed(trim, seed, tmp_path, size)
    table = load_file(tmp_path / "model.safetensors")[TABLE]
    vocabulary = after.get_vocab()
    assert sorted(vocabulary.values()) == list(range(len(table)))
    for token, index in vocabulary.items():
        np.testing.assert_array_equal(table[index], before.token_to_id(token))


def test_kept_words_are_tokenised_as_before_and_the_rest_in_smaller_pieces(trim, seed, tmp_path):
    before, after = trimmed(trim, seed, tmp_path, 10_000)
    for word in WORDS:
        assert before.encode(" " + word).tokens == after.encode(" " + word).tokens
    assert before.token_to_id("\u0120jumps") is not None
    assert after.token_to_id("\u0120jumps") is None
    assert len(after.encode(" jumps").tokens) > len(before.encode(" jumps").tokens)
    assert after.decode(after.encode(" jumps").ids) == " jumps"


def test_ids_in_the_configs_follow_their_tokens_and_gone_ones_are_left_out(trim, seed, tmp_path):
    before, after = trimmed(trim, seed, tmp_path, 10_000)
    steering = json.loads((tmp_path / "generation_config.json").read_text(encoding="utf-8"))
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    third = after.token_to_id(before.id_to_token(3))
    assert steering["suppress_tokens"] == [third, after.token_to_id("<|nocaptions|>")]
    assert steering["forced_decoder_ids"] == [[1, after.token_to_id("<|notimestamps|>")]]
    assert "max_initial_timestamp_index" not in steering
    assert config["vocab_size"] == after.get_vocab_size() == after.token_to_id("<|notimestamps|>") + 1
    assert after.token_to_id("<|de|>") is None


def test_trimming_twice_gives_the_same_bytes(trim, seed, tmp_path):
    for name in ("one", "two"):
        trimmed(trim, seed, tmp_path / name, 290)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name


def test_a_vocabulary_smaller_than_its_bytes_is_refused(trim, seed, tmp_path):
    with pytest.raises(ValueError, match="ask for more"):
        trim.trim(seed, tmp_path, WORDS, 256)


@pytest.mark.reference
def test_transformers_reads_recorded_sentences_with_the_checkpoint(monkeypatch):
    pytest.importorskip("torch", reason="needs torch")
    monkeypatch.syspath_prepend(str(TINY / "train"))
    reference = script(TINY / "train" / "reference.py")
    tiny = reference.load(CHECKPOINT)
    heard = {
        name: reference.transcribe(tiny, reference.read(CLIPS / name))
        for name in ("librivox-0870.flac", "librivox-0930.flac")
    }
    assert heard == {
        "librivox-0870.flac": " And Mr. John Dashwood had then leisure to consider how much there might be"
        " prudently in his power to do for them.",
        "librivox-0930.flac": " He might even have been made amiable himself.",
    }
