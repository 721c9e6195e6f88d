"""What generation settings make of a bundle's protocol: ends, choice, and where the settings come from."""

import json

import pytest

from edgekit.bundle import Sampling, TokenProtocol
from edgekit.errors import CheckpointError
from edgekit.exporter.export import ExportOptions, export
from edgekit.exporter.families import find_family
from edgekit.exporter.families.generation import GENERATION, governed, settings
from edgekit.exporter.sources.checkpoint import open_checkpoint
from edgekit.exporter.sources.tokenizer import token_id, tokenizer_json
from tests.reference import checkpoints

PLAIN = TokenProtocol(attention="prefix", stop=(9,), max_tokens=40, context_tokens=100, suppress=(2,))


def _governed(told, vocabulary=50):
    return governed(told, vocabulary, lambda _: PLAIN, "")


@pytest.fixture(scope="module")
def step(tmp_path_factory):
    """Return config and tokenizer of a tiny Step-Audio."""
    found = open_checkpoint(checkpoints.write(tmp_path_factory.mktemp("step"), "step-dense"))
    return found.config, tokenizer_json(found.folder)


def test_settings_change_the_protocol_by_what_they_say_and_nothing_else():
    assert _governed({}) == PLAIN
    assert _governed({"max_length": 20, "temperature": 0.5, "top_k": 3, "do_sample": False}) == PLAIN
    told = {
        "max_new_tokens": 7, "max_length": 30, "suppress_tokens": [3, -1, 50, 2], "begin_suppress_tokens": [9, 4],
        "repetition_penalty": 1.1, "no_repeat_ngram_size": 3, "do_sample": True, "top_p": 0.9,
    }  # fmt: skip
    found = _governed(told)
    assert (found.max_tokens, found.max_length) == (7, 30)
    assert (found.suppress, found.begin_suppress) == ((2, 3), (9, 4))
    assert found.sampling == Sampling(
        temperature=1.0, top_k=50, top_p=0.9, repetition_penalty=1.1, no_repeat_ngram_size=3
    )


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"suppress_tokens": ["3"]}, r"suppress_tokens is \['3'\], must be a token or a list of tokens"),
        ({"begin_suppress_tokens": 3.0}, "begin_suppress_tokens is 3.0, must be a token or a list of tokens"),
        ({"eos_token_id": [7, None]}, r"eos_token_id is \[7, None\], must be a token or a list of tokens"),
        ({"max_new_tokens": "7"}, "max_new_tokens is '7', must be a whole number, 1 or more"),
        ({"max_new_tokens": -3}, "max_new_tokens is -3, must be a whole number, 1 or more"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0, must be a whole number, 1 or more"),
        ({"max_length": -1}, "max_length is -1, must be a whole number, 1 or more"),
        ({"max_length": True}, "max_length is True, must be a whole number, 1 or more"),
        ({"repetition_penalty": True}, "repetition_penalty is True, must be a number above 0"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0, must be a number above 0"),
        ({"repetition_penalty": float("nan")}, "repetition_penalty is nan, must be a number above 0"),
        ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size is -1, must be a whole number, 0 for none"),
        ({"do_sample": "false"}, "do_sample is 'false', must be true or false"),
        ({"do_sample": True, "temperature": -1}, "temperature is -1, must be a number above 0"),
        ({"do_sample": True, "temperature": 0.0}, "temperature is 0.0, must be a number above 0"),
        ({"do_sample": True, "top_k": -2}, "top_k is -2, must be a whole number, 0 for no limit"),
        ({"do_sample": True, "top_k": 1.0}, "top_k is 1.0, must be a whole number, 0 for no limit"),
        ({"do_sample": True, "top_p": 0}, "top_p is 0, must be a number above 0, 1 for no limit"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_their_file_when_a_checkpoint_is_opened(told, said, step):
    config, _ = step
    family = find_family(config)
    with pytest.raises(CheckpointError, match=f"^generation_config.json: {said}.*; correct it, or take it out$"):
        family.bind(config, told)
    with pytest.raises(CheckpointError, match=f"^config.json: {said}.*; correct it, or take it out$"):
        family.bind(config | told, {})


def test_settings_of_drawing_do_not_matter_where_tokens_are_not_drawn(step):
    config, tokenizer = step
    found = find_family(config).bind(config, {"temperature": 0.0, "top_k": -2, "top_p": 0, "eos_token_id": 7})
    assert found.protocol(tokenizer).sampling == Sampling()


def test_an_end_that_is_suppressed_is_refused_by_the_file_that_says_it(step):
    with pytest.raises(CheckpointError, match="^generation_config.json: suppress_tokens has 9, at which answers end"):
        _governed({"suppress_tokens": [3, 9]})
    config, tokenizer = step
    told = {**config, "eos_token_id": 7, "suppress_tokens": [7]}
    with pytest.raises(CheckpointError, match="^config.json: suppress_tokens has 7, at which answers end"):
        find_family(config).bind(told, {}).protocol(tokenizer)


@pytest.mark.parametrize(("length", "context"), [(64, 64), (100_000, 256), (None, 256)])
def test_a_bundle_remembers_no_more_than_a_conversation_may_be_long(length, context, tmp_path):
    folder = checkpoints.write(tmp_path / "c", "step-dense")
    told = {"eos_token_id": [7]} | ({} if length is None else {"max_length": length})
    (folder / "generation_config.json").write_text(json.dumps(told))
    (tmp_path / "r.toml").write_text("context_tokens = 256\n[check]\ntwin_limit_mib = 0\n")
    manifest = export(folder, tmp_path / "b", ExportOptions(recipe=tmp_path / "r.toml", precision="float32"))
    assert (manifest.protocol.context_tokens, manifest.protocol.max_length) == (context, length)


def test_settings_come_from_the_config_where_no_file_has_them_the_outer_one_first():
    config = {"repetition_penalty": 1.2, "eos_token_id": None, "text_config": {"eos_token_id": 5, "top_k": 3}}
    config["text_config"]["repetition_penalty"] = 9.0
    assert settings(config, {}, ("text_config",), GENERATION) == {
        "repetition_penalty": 1.2, "eos_token_id": 5, "top_k": 3,
    }  # fmt: skip
    assert settings(config, {"top_p": 0.5}, ("text_config",), GENERATION) == {"top_p": 0.5}
    assert settings({"text_config": 3}, {}, ("text_config", "other"), GENERATION) == {}


@pytest.mark.parametrize(
    ("generation", "stops"), [({"eos_token_id": 7}, {7}), ({"eos_token_id": [7, 11]}, {7, 11}), ({}, None)]
)
def test_step_audio_ends_at_the_tokens_of_its_generation_settings_else_of_its_config(generation, stops, step):
    config, tokenizer = step
    family = find_family(config)
    found = set(family.bind(config, generation).protocol(tokenizer).stop)
    assert found == (set(config["eos_token_id"]) if stops is None else stops) | {token_id(tokenizer, "<|EOT|>")}


@pytest.mark.parametrize("key", ["num_beams", "min_new_tokens", "guidance_scale"])
def test_what_would_be_run_wrong_is_refused_by_the_file_that_says_it(key, step):
    config, _ = step
    family = find_family(config)
    with pytest.raises(CheckpointError, match=f"^generation_config.json: {key} is 4, .*; take a checkpoint without it"):
        family.bind(config, {key: 4})
    with pytest.raises(CheckpointError, match=f"^config.json: {key} is 4, "):
        family.bind({**config, key: 4}, {})
    family.bind({**config, key: 4}, {"eos_token_id": 7})
