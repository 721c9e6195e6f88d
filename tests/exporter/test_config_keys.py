"""Every key of every config class of a family: it is used, refused by name, or has no effect.

The lists are of transformers' own classes, made by tests/reference/list_keys.py; that what is called without effect has
none is shown by tests/reference/test_live_keys.py.
"""

import json
import logging
from pathlib import Path

import pytest

from edgekit.errors import CheckpointError
from edgekit.exporter.families.generation import GENERATION
from edgekit.exporter.families.keys import ABSENT, Keys, used
from edgekit.exporter.families.qwen import Qwen
from edgekit.exporter.families.qwen3_omni import keys as omni
from edgekit.exporter.families.qwen_keys import (
    OMNI_PREDICTOR,
    OMNI_TALKER_TEXT,
    OMNI_TEXT,
    QWEN2,
    QWEN3,
    QWEN3_MOE,
    STEP_AUDIO_TEXT,
)
from edgekit.exporter.families.step_audio import keys as step
from edgekit.exporter.families.whisper_keys import WHISPER, WHISPER_GENERATION

LISTS = {
    path.stem.removeprefix("keys-"): json.loads(path.read_text())["classes"]
    for path in Path(__file__).parent.glob("keys-*.json")
}
TABLES = {
    "GenerationConfig": GENERATION,
    "WhisperConfig": WHISPER,
    "Qwen2Config": QWEN2,
    "Qwen3Config": QWEN3,
    "Qwen3MoeConfig": QWEN3_MOE,
    "Qwen3OmniMoeConfig": omni.OMNI,
    "Qwen3OmniMoeThinkerConfig": omni.THINKER,
    "Qwen3OmniMoeTextConfig": OMNI_TEXT,
    "Qwen3OmniMoeAudioEncoderConfig": omni.EARS,
    "Qwen3OmniMoeTalkerConfig": omni.TALKER,
    "Qwen3OmniMoeTalkerTextConfig": OMNI_TALKER_TEXT,
    "Qwen3OmniMoeTalkerCodePredictorConfig": OMNI_PREDICTOR,
    "Qwen3OmniMoeCode2WavConfig": omni.CODE2WAV,
}
OWN = {  # Step-Audio's classes are not transformers'
    "StepAudio2Config": step.STEP_AUDIO,
    "StepAudio2TextConfig": STEP_AUDIO_TEXT,
    "StepAudio2EncoderConfig": step.EARS,
}
UNSETTLED = {  # keys whose class has a default that is not taken
    ("Qwen3OmniMoeAudioEncoderConfig", "n_window"),  # 100 in 4.57.6, 50 in 5.24.0: it must be given
    ("Qwen3OmniMoeAudioEncoderConfig", "n_window_infer"),  # 400, then 800
    ("WhisperConfig", "decoder_start_token_id"),  # that of English alone; the tokenizer says it
    ("WhisperConfig", "eos_token_id"),
}
EVERY = [(version, name) for version, classes in LISTS.items() for name in classes]
WINDOW = {"sliding_window": 8, "max_window_layers": 1, "num_hidden_layers": 2}
# A value of each key that may be refused, which is, in a config with the other keys.
REFUSED = {
    "activation_function": ("relu", {}),
    "median_filter_width": (9, {}),
    "attention_bias": (True, {}),
    "bad_words_ids": ([[3]], {}),
    "cache_implementation": ("quantized", {}),
    "compression_config": ({"quant_method": "x"}, {}),
    "constraints": ([1], {}),
    "decoder_sparse_step": (2, {}),
    "dola_layers": ("high", {}),
    "encoder_no_repeat_ngram_size": (2, {}),
    "encoder_repetition_penalty": (1.1, {}),
    "epsilon_cutoff": (0.1, {"do_sample": True}),
    "eta_cutoff": (0.1, {"do_sample": True}),
    "exponential_decay_length_penalty": ([5, 1.1], {}),
    "force_words_ids": ([[3]], {}),
    "forced_bos_token_id": (3, {}),
    "forced_eos_token_id": (3, {}),
    "guidance_scale": (1.5, {}),
    "hidden_act": ("gelu", {}),
    "logprob_threshold": (-1.0, {}),
    "no_speech_threshold": (0.6, {}),
    "return_timestamps": (True, {}),
    "layer_types": (["full_attention", "sliding_attention"], {}),
    "max_time": (3.0, {}),
    "min_length": (3, {}),
    "min_new_tokens": (3, {}),
    "min_p": (0.1, {"do_sample": True}),
    "mlp_only_layers": ([0], {}),
    "begin_suppress_tokens": ("7", {}),
    "do_sample": (1, {}),
    "eos_token_id": ("7", {}),
    "max_length": (0, {}),
    "max_new_tokens": (0, {}),
    "no_repeat_ngram_size": (-1, {}),
    "repetition_penalty": (0.0, {}),
    "suppress_tokens": ("7", {}),
    "temperature": (-1.0, {"do_sample": True}),
    "top_k": (-2, {"do_sample": True}),
    "top_p": (0.0, {"do_sample": True}),
    "num_attention_groups": (4, {"num_key_value_heads": 2}),
    "num_beam_groups": (2, {}),
    "num_beams": (2, {}),
    "num_return_sequences": (2, {}),
    "partial_rotary_factor": (0.5, {}),
    "penalty_alpha": (0.6, {}),
    "pruned_heads": ({"0": [1]}, {}),
    "quantization_config": ({"quant_method": "gptq"}, {}),
    "rope_parameters": ({"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e6}, {}),
    "rope_scaling": ({"type": "linear", "factor": 2.0}, {}),
    "scale_embedding": (True, {}),
    "sequence_bias": ([[[3], -1.0]], {}),
    "sliding_window": (8, {}),
    "stop_strings": (["."], {}),
    "tie_encoder_decoder": (True, {}),
    "token_healing": (True, {}),
    "top_h": (0.4, {"do_sample": True}),
    "typical_p": (0.9, {"do_sample": True}),
    "use_sliding_window": (True, WINDOW),
    "watermarking_config": ({"bias": 2.0}, {}),
}
TIED = {"WhisperConfig": False}  # tie_word_embeddings: the value that is refused, else True
MATTER = [
    (name, key)
    for name, table in {**TABLES, **OWN, "Whisper's GenerationConfig": WHISPER_GENERATION}.items()
    for key, row in table.rows.items()
    if row.rule
]


def _default(classes, name, key):
    """Return what a class of the list takes where a key is absent; ABSENT where it has none."""
    found = classes[name]
    if key == "rope_theta" and "rope_parameters" in found:
        return found["rope_parameters"]["rope_theta"]
    if key == "num_experts" and "num_local_experts" in found:
        return found["num_local_experts"]
    return found.get(key, ABSENT)


@pytest.mark.parametrize(("version", "name"), EVERY)
def test_every_key_of_every_class_is_used_refused_by_name_or_without_effect(version, name):
    rows = TABLES[name].rows
    assert [key for key in LISTS[version][name] if key not in rows] == []
    for key in LISTS[version][name]:
        assert rows[key].rule if rows[key].effect == "refused" else rows[key].reason, key


@pytest.mark.parametrize(("version", "name"), EVERY)
def test_what_a_config_leaves_out_is_what_its_class_says(version, name):
    for key, row in TABLES[name].rows.items():
        published = _default(LISTS[version], name, key)
        if isinstance(published, list):
            published = tuple(published)
        if row.default is not ABSENT:
            # In transformers 5 a generation config has no defaults of its own: generate() puts them in.
            default = tuple(row.default) if isinstance(row.default, list) else row.default
            assert published in (default, ABSENT) or (name == "GenerationConfig" and published is None), key
        elif row.effect == "used" and not row.shared and row.inside is None and name != "GenerationConfig":
            unsettled = (name, key) in UNSETTLED or key in ("rope_parameters", "num_local_experts")
            assert published in (ABSENT, None) or unsettled, key


def test_the_lists_are_of_both_versions_and_of_every_table():
    assert sorted(LISTS) == ["4.57.6", "5.24.0"]
    for classes in LISTS.values():
        assert classes.keys() == TABLES.keys()


@pytest.mark.parametrize(("name", "key"), MATTER)
def test_a_value_that_matters_is_refused_by_name_with_the_rule_and_a_neutral_one_is_not(name, key):
    table = {**TABLES, **OWN, "Whisper's GenerationConfig": WHISPER_GENERATION}[name]
    value, others = (TIED.get(name, True), {}) if key == "tie_word_embeddings" else REFUSED[key]
    with pytest.raises(CheckpointError) as caught:
        table.check({**others, key: value}, "x.json", "a.b.")
    said = str(caught.value)
    assert said.startswith(f"x.json: a.b.{key} is {value!r}"[:60])
    assert table.rows[key].rule in said
    assert said.endswith(f"; {table.rows[key].step}")
    assert "\n" not in said
    row = table.rows[key]
    neutral = row.neutral if isinstance(row.neutral, tuple) else ()
    for allowed in (None, *neutral, *(() if row.default is ABSENT else (row.default,))):
        table.check({**others, key: allowed})


@pytest.mark.parametrize(
    ("table", "config"),
    [
        (QWEN2, {"sliding_window": 131_072, "use_sliding_window": False, "max_window_layers": 28}),
        (QWEN2, {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2, "num_hidden_layers": 2}),
        (QWEN2, {"use_sliding_window": True, "layer_types": ["full_attention"] * 2}),
        (QWEN3_MOE, {"use_sliding_window": True, "sliding_window": None}),
        (OMNI_TEXT, {"use_sliding_window": True}),
        (QWEN3, {"rope_scaling": {"rope_type": "default", "type": "default", "mrope_section": [2, 1, 1]}}),
        (QWEN3, {"rope_parameters": {"rope_theta": 5e5, "rope_type": "default", "partial_rotary_factor": 1.0}}),
        (GENERATION, {"typical_p": 0.5, "min_p": 0.5, "do_sample": False}),
        (STEP_AUDIO_TEXT, {"num_attention_groups": 4, "num_key_value_heads": 4}),
        (STEP_AUDIO_TEXT, {"num_attention_groups": 4}),
        (QWEN2, {"num_attention_groups": 32}),
        (QWEN2, {"num_attention_groups": 8, "num_attention_heads": 8, "num_key_value_heads": None}),
    ],
)
def test_what_changes_nothing_in_transformers_is_not_refused(table, config):
    table.check(config)


@pytest.mark.parametrize(
    ("table", "config"),
    [(QWEN2, {}), (QWEN3_MOE, {}), (STEP_AUDIO_TEXT, {}), (QWEN2, {"num_key_value_heads": None})],
)
def test_groups_that_differ_from_the_heads_that_will_be_taken_are_refused(table, config):
    with pytest.raises(CheckpointError, match=r"^config.json: num_attention_groups is 8, .*num_key_value_heads"):
        table.check({"num_attention_groups": 8, **config})


@pytest.mark.parametrize(
    "scaling",
    [
        {"type": "yarn"},
        {"rope_type": "llama3"},
        {"rope_type": "default", "factor": 2},
        {"partial_rotary_factor": 0.25},
        3,
    ],
)
def test_every_form_of_scaled_positions_is_refused(scaling):
    for key in ("rope_scaling", "rope_parameters"):
        with pytest.raises(CheckpointError, match=f"^config.json: {key} is .* only plain rotary positions"):
            QWEN3.check({key: scaling})


def test_a_key_that_nobody_knows_is_told_in_one_line_and_a_library_s_remark_is_not(caplog):
    table = Keys("", {"known": used("here")})
    with caplog.at_level(logging.WARNING):
        table.check({"known": 1, "_name_or_path": "x"})
        assert caplog.messages == []
        table.check({"known": 1, "strange": 2})
        table.check({"strange": 2, "other": 3}, "x.json")
    one, two = caplog.messages
    assert one.startswith("config.json: strange is no key that EdgeKit knows and is ignored; if it changes what the")
    assert two.startswith("x.json: strange, other are no keys that EdgeKit knows and are ignored; if one of them")


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ({"model_type": "qwen2"}, (10_000.0, 32, 32_768)),
        ({"model_type": "qwen3"}, (10_000.0, 32, 32_768)),
        ({"model_type": "qwen3_moe"}, (10_000.0, 4, 32_768)),
        ({"model_type": "qwen3_omni_moe_text"}, (1e6, 4, 32_768)),
        ({"model_type": "step_audio_2_text"}, (1e6, 4, 8192)),
        ({"model_type": "qwen3", "rope_parameters": {"rope_theta": 5e5}}, (5e5, 32, 32_768)),
        ({"model_type": "qwen3", "rope_theta": 3e5, "rope_parameters": {}}, (3e5, 32, 32_768)),
    ],
)
def test_a_text_model_has_the_base_heads_and_length_of_its_class_where_its_config_is_silent(kind, expected):
    model = Qwen({**kind, "num_attention_heads": 32, "hidden_size": 4096})
    assert (model.theta, model.kv_heads, model.positions) == expected


@pytest.mark.parametrize(("kind", "size"), [("qwen2", 64), ("qwen3", 128), ("qwen3_moe", 64)])
def test_a_head_has_the_size_that_its_class_says_where_the_config_is_silent(kind, size):
    assert (
        Qwen({"model_type": kind, "hidden_size": 1024, "num_attention_heads": 16, "num_key_value_heads": 4}).head_dim
        == size
    )


def test_a_key_that_a_table_calls_without_effect_cannot_be_read():
    config = QWEN2.filled({"attention_bias": True})
    with pytest.raises(AssertionError, match="attention_bias is read, and has no effect"):
        config["attention_bias"]
    with pytest.raises(AssertionError, match="other is in no row of transformers 4.57.6, Qwen2Config"):
        config.get("other")
