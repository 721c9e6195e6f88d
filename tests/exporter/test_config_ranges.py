"""A config of a few bytes decides how much is built: what cannot be is refused before anything is made of it."""

import json
import os
import time
import tracemalloc

import pytest

from edgekit.errors import CheckpointError
from edgekit.exporter.dummy import open_dummy
from edgekit.exporter.export import ExportOptions, export
from edgekit.exporter.families.config import RANGES, check_count, check_range, counts, value
from edgekit.exporter.families.step_audio.token2wav import Token2Wav
from edgekit.exporter.options import find_recipe
from edgekit.exporter.source import checkpoint_source
from tests.exporter.test_export import QUICK

WRONG = [
    10**9, 10**400, -1, -(10**400), 1e999, float("nan"), 4.0, -0.0, True, None, "4", [4], {"a": 4}, [[[4]]], "a\0"
]  # fmt: skip


@pytest.fixture
def changed(checkpoint, tmp_path):
    """Return a function that copies a checkpoint and changes a key of a config, by its path; returns the folder."""

    def make(name, place, new, file="config.json"):
        folder = tmp_path / "changed"
        folder.mkdir(exist_ok=True)
        for path in checkpoint(name).iterdir():
            (folder / path.name).unlink(missing_ok=True)
            os.link(path, folder / path.name)
        whole = json.loads((folder / file).read_text())
        holder = whole
        for key in place[:-1]:
            holder = holder[key]
        holder[place[-1]] = new
        (folder / file).unlink()
        (folder / file).write_text(json.dumps(whole))
        return folder

    return make


def refusal(folder, alone=False):
    """Return the line with which a checkpoint, or its config alone, is refused, at once and with little memory."""
    start = time.monotonic()
    tracemalloc.start()
    with pytest.raises(CheckpointError) as caught:
        _opened(folder, alone)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert time.monotonic() - start < 2
    assert peak < 32 << 20
    assert str(caught.value).isprintable()
    return str(caught.value)


def _opened(folder, alone):
    source = open_dummy(folder) if alone else checkpoint_source(folder)
    source.opened.protocol(source.tokenizer)


SIZES = [
    *((name, (key,)) for name in ("whisper-dense", "whisper-experts") for key in (
        "decoder_layers", "encoder_layers", "d_model", "decoder_attention_heads", "encoder_attention_heads",
        "decoder_ffn_dim", "encoder_ffn_dim", "vocab_size", "num_mel_bins", "max_source_positions",
        "max_target_positions",
    )),
    *(("step-moe-4", ("text_config", key)) for key in (
        "hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "num_experts", "num_experts_per_tok",
        "moe_intermediate_size", "max_position_embeddings",
    )),
    *(("step-dense", ("audio_encoder_config", key)) for key in (
        "n_mels", "n_audio_ctx", "n_audio_state", "n_audio_head", "n_audio_layer", "llm_dim", "kernel_size",
        "adapter_stride",
    )),
]  # fmt: skip


@pytest.mark.parametrize(("name", "place"), SIZES, ids=lambda one: ".".join(one) if isinstance(one, tuple) else one)
def test_a_size_that_cannot_be_is_refused_by_its_key(name, place, changed):
    for wrong in WRONG:
        for alone in (False, True):
            assert place[-1] in refusal(changed(name, place, wrong), alone), wrong


def test_layers_and_experts_that_multiply_are_refused_before_they_are_named(changed):
    folder = changed("step-moe-4", ("text_config", "num_experts"), 4096)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = 1024
    (folder / "config.json").write_text(json.dumps(config))
    for alone in (False, True):
        assert "'num_hidden_layers' 1,024, 'num_experts' 4,096" in refusal(folder, alone)
    check_count({"num_hidden_layers": 61, "num_experts": 384, "matrices of each": 2})


@pytest.mark.parametrize("token", [-1, 10**9, 10**30, True, 1.5, "2", [], [-1], {"a": 1}])
@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
def test_a_token_that_no_vocabulary_has_is_refused_and_nothing_is_published(file, token, changed, tmp_path):
    for name, key in (("whisper-dense", "decoder_start_token_id"), ("whisper-dense", "eos_token_id"),
                      ("step-dense", "eos_token_id")):  # fmt: skip
        folder = changed(name, (key,), token, file)
        if file == "config.json":
            (folder / "generation_config.json").unlink(missing_ok=True)
        if token == [] and key == "eos_token_id":
            continue  # none beside the family's own
        with pytest.raises(CheckpointError, match=f"{key}|begins or ends an answer|is_multilingual"):
            export(folder, tmp_path / "bundle", ExportOptions(recipe=QUICK))
        assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    ("key", "wrong"),
    [
        ("max_new_tokens", 10**12), ("max_length", 10**400), ("top_k", 10**30), ("temperature", 1e-9),
        ("temperature", 10**400), ("repetition_penalty", 1e300), ("no_repeat_ngram_size", 10**12),
        ("suppress_tokens", [[1]]), ("begin_suppress_tokens", "1"),
    ],
)  # fmt: skip
def test_a_setting_without_bounds_is_refused_by_its_key(key, wrong, changed):
    folder = changed("step-dense", (key,), wrong)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"do_sample": True}))
    (folder / "generation_config.json").unlink(missing_ok=True)
    assert key in refusal(folder)


@pytest.mark.parametrize("task", [[], {}, ["transcribe"], 7, "sing"])
def test_a_task_of_any_type_that_is_none_is_refused(task, changed):
    folder = changed("whisper-dense-128", ("task",), task, "generation_config.json")
    assert "task is" in refusal(folder)


@pytest.mark.parametrize("name", ["<|a\nb|>", "", "<||>", "<|\ud83d|>", "x" * 100])
def test_a_language_whose_name_cannot_be_shown_is_refused(name, changed):
    folder = changed("whisper-dense-128", ("lang_to_id",), {name: 3}, "generation_config.json")
    assert "lang_to_id" in refusal(folder) or "not readable as JSON" in refusal(folder)


@pytest.mark.parametrize("rates", [[0], [True], [10**30], [64] * 4, [2] * 17, [2.0], "22", None, {"a": 1}, [[2]]])
def test_rates_of_a_decoder_that_cannot_be_are_refused(rates):
    with pytest.raises(CheckpointError, match="rates|samples_per_frame"):
        check_range(
            "samples_per_frame", _product(counts({"rates": rates}, "rates", "code2wav_config", most=64)), (1, 1 << 17)
        )


def _product(numbers):
    whole = 1
    for number in numbers:
        whole *= number
    return whole


@pytest.mark.parametrize(
    "section",
    [
        {"conformer": {"codes": 10**9}}, {"conformer": {"layers": [10**9, 1]}}, {"conformer": {"heads": 0}},
        {"conformer": {"width": -8}}, {"conformer": {"lookahead": 10**6}}, {"dit": {"layers": 10**400}},
        {"dit": {"mel_bins": 0}}, {"dit": {"inner": 1 << 30}}, {"vocoder": {"width": 10**12}},
        {"vocoder": {"f0_width": 0}}, {"guidance": float("inf")}, {"guidance": float("nan")}, {"guidance": 10**400},
        {"guidance": True}, {"dit": []}, {"conformer": {"layers": [1, 2, 3]}}, {"conformer": {"layers": 4}},
    ],
    ids=str,
)  # fmt: skip
def test_sizes_of_what_makes_sound_that_cannot_be_are_refused_by_their_place(section):
    with pytest.raises(CheckpointError, match=r"config.json: edgekit.token2wav\.\w+") as caught:
        Token2Wav.told(section)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "named", ["../../secret", "/etc/secret.toml", "a\0b", "x.toml", "a/b/c", ["whisper"], {"a": 1}, 7.5]
)
def test_a_checkpoint_names_no_recipe_outside_those_that_ship(named):
    with pytest.raises(CheckpointError, match="edgekit.recipe is"):
        find_recipe(None, {"model_type": "whisper", "edgekit": {"recipe": named}})
    assert find_recipe(None, {"model_type": "whisper", "edgekit": {"recipe": "whisper"}}) == find_recipe("whisper", {})


@pytest.mark.parametrize("extra", [[], "x", 7, None])
def test_what_edgekit_adds_to_a_config_is_an_object(extra, changed):
    assert "edgekit" in refusal(changed("whisper-experts", ("edgekit",), extra))


def test_a_config_that_is_a_fifo_is_refused_without_waiting(changed):
    folder = changed("whisper-dense", ("vocab_size",), 64)
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")
    for alone in (False, True):
        assert "Is a FIFO, must be a regular file" in refusal(folder, alone)


def test_every_range_takes_its_ends_and_nothing_beyond():
    for key, (least, most) in RANGES.items():
        kind = float if isinstance(least, float) or isinstance(most, float) or key == "rms_norm_eps" else int
        for good in (least, most):
            assert value({key: kind(good)}, key, kind) == good
        for wrong in (least - 1, most + most, most * 10**30):
            with pytest.raises(CheckpointError, match=f"'{key}' is"):
                value({key: kind(wrong)}, key, kind)
