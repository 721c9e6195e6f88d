"""What keys of configs do in transformers: what is called without effect has none, what is used is used alike."""

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from transformers.models.qwen3_omni_moe import configuration_qwen3_omni_moe as configs  # noqa: E402
from transformers.models.qwen3_omni_moe import modeling_qwen3_omni_moe as models  # noqa: E402

from edgekit.bundle import Sampling, TokenProtocol  # noqa: E402
from edgekit.exporter.families.generation import GENERATION, governed, ids, sampling  # noqa: E402
from edgekit.exporter.families.qwen3_omni import keys as omni  # noqa: E402
from edgekit.exporter.families.qwen_keys import TEXTS  # noqa: E402
from edgekit.exporter.families.whisper_keys import WHISPER  # noqa: E402
from edgekit.runtime.answer.sampler import sampler  # noqa: E402
from tests.reference.list_keys import listed, text  # noqa: E402

pytestmark = pytest.mark.reference

LISTED = Path(__file__).parents[1] / "exporter" / f"keys-{transformers.__version__}.json"
VOCABULARY, PROMPT, MOST = 64, 9, 24
SIZES = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": VOCABULARY,
}  # fmt: skip
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
AXES = {"rope_scaling": {"rope_type": "default", "mrope_section": [2, 1, 1], "mrope_interleaved": True}}
# A value of each key without effect that is not the published class's own.
OTHER = {
    "activation_dropout": 0.5, "add_cross_attention": True, "apply_spec_augment": True, "architectures": ["Other"],
    "assistant_confidence_threshold": 0.9, "assistant_early_exit": 1, "assistant_lookbehind": 3,
    "attention_bias": True, "attention_dropout": 0.5, "auto_map": {"AutoModel": "other.Other"}, "bos_token_id": 5,
    "chunk_size_feed_forward": 2, "classifier_proj_size": 8, "compile_config": None, "conv_chunksize": 1,
    "cross_attention_hidden_size": 8, "decoder_layerdrop": 0.9, "decoder_start_token_id": 7, "disable_compile": True,
    "diversity_penalty": 0.5, "dropout": 0.5, "dtype": "bfloat16", "early_stopping": True, "encoder_layerdrop": 0.9,
    "finetuning_task": "other", "id2label": {"0": "other"}, "init_std": 0.5, "initializer_range": 0.5,
    "is_assistant": True, "is_decoder": True, "is_encoder_decoder": True, "label2id": {"other": 0},
    "layer_scale_initial_scale": 0.7, "length_penalty": 2.0, "low_memory": True, "mask_feature_length": 3,
    "mask_feature_min_masks": 3, "mask_feature_prob": 0.9, "mask_time_length": 3, "mask_time_min_masks": 3,
    "mask_time_prob": 0.9, "max_matching_ngram_size": 2, "max_position_embeddings": 5, "max_window_layers": 0,
    "median_filter_width": 3, "num_assistant_tokens": 3, "num_assistant_tokens_schedule": "heuristic",
    "output_attentions": True, "output_hidden_states": True, "output_logits": True, "output_router_logits": True,
    "output_scores": True, "pad_token_id": 50, "prefill_chunk_size": 2, "prefix": "other", "problem_type": "regression",
    "prompt_lookup_num_tokens": 3, "remove_invalid_values": True, "renormalize_logits": True, "return_dict": False,
    "return_dict_in_generate": True, "return_legacy_cache": True, "router_aux_loss_coef": 0.5,
    "scale_embedding": True, "sep_token_id": 5, "shared_expert_intermediate_size": 8, "sliding_window": 3,
    "target_lookbehind": 3, "task_specific_params": {"other": {"num_beams": 4}}, "tf_legacy_loss": True,
    "tie_word_embeddings": True, "tokenizer_class": "Other", "torch_dtype": "bfloat16", "torchscript": True,
    "use_bfloat16": True, "use_cache": False, "use_sliding_window": True, "use_weighted_layer_sum": True,
}  # fmt: skip
NOT_RUN = {
    "cache_config": "of caches that are refused, or kept elsewhere",
    "compile_config": "speed alone",
    "dtype": "numbers are float32 here, whatever a checkpoint is stored in",
    "is_assistant": "generate() sets it itself, in a model that guesses",
    "num_hidden_layers": "written only: encoder_layers says it",
    "return_dict": "these models of transformers' take no tuples from each other",
    "torch_dtype": "dtype by its older name",
    "torchscript": "return_dict by another name",
    "transformers_version": "a remark",
}


def _seeded(make):
    """Return a module with weights so large that what it says varies, and repeats itself."""
    torch.manual_seed(2)
    module = make().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.6)
    return module


def _made(model, config):
    """Return a model of a config, with the attention that hands back whatever it is asked for."""
    return model._from_config(config, attn_implementation="eager").eval()


def _embeds(width=32):
    return torch.from_numpy(np.random.default_rng(1).standard_normal((1, PROMPT, width)).astype(np.float32))


@pytest.fixture(scope="module")
def writer():
    """Return a small Qwen2."""
    return _seeded(lambda: _made(transformers.Qwen2ForCausalLM, transformers.Qwen2Config(**SIZES)))


def _theirs(model, settings, prompt=None):
    """Return the tokens that transformers generates after a prompt of embeddings, which are no tokens, or of tokens."""
    settings = {"max_new_tokens": MOST} | settings if "max_length" not in settings else settings
    config = transformers.GenerationConfig(**settings)
    with torch.no_grad():
        found = model.generate(**prompt or {"inputs_embeds": _embeds()}, generation_config=config)
    found = getattr(found, "sequences", found)[0].tolist()
    ends = ids(settings, "eos_token_id")
    return found[:-1] if found and found[-1] in ends else found


def _ours(model, settings):
    """Return the tokens that EdgeKit's sampler takes, under the protocol that the same settings make."""
    plain = TokenProtocol(attention="prefix", stop=ids(settings, "eos_token_id"), max_tokens=MOST, context_tokens=1000)
    protocol = governed(settings, VOCABULARY, lambda _: plain, "")
    most = protocol.max_tokens if protocol.max_length is None else protocol.max_length - PROMPT
    chosen, said, rows = sampler(protocol, protocol.sampling, 0), [], _embeds()
    while len(said) < most:
        with torch.no_grad():
            logits = model(inputs_embeds=rows).logits[0, -1].numpy()
        token = chosen.pick(logits, said)
        if token in protocol.stop:
            break
        said.append(token)
        rows = torch.cat([rows, model.get_input_embeddings()(torch.tensor([[token]])).detach()], 1)
    return said


def test_the_list_of_this_version_is_what_its_classes_say():
    assert text(listed()) == LISTED.read_text()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"repetition_penalty": 1.3},
        {"repetition_penalty": 0.7},
        {"no_repeat_ngram_size": 1},
        {"no_repeat_ngram_size": 2},
        {"no_repeat_ngram_size": 3, "repetition_penalty": 0.8},
        {"suppress_tokens": [3, 11, 17, 40, -1, 900]},
        {"max_new_tokens": 5},
        {"max_length": PROMPT + 7},
        {"do_sample": False, "temperature": 0.3, "top_k": 2, "top_p": 0.5},
    ],
)
def test_settings_that_are_used_give_the_tokens_of_transformers(settings, writer):
    plain = _theirs(writer, {})
    found = _ours(writer, settings)
    assert found == _theirs(writer, settings)
    assert len(plain) == MOST
    assert (found == plain) == (not settings.keys() - {"do_sample", "temperature", "top_k", "top_p"})


@pytest.mark.parametrize("shape", [lambda token: token, lambda token: [63, token], lambda token: [token]])
def test_an_answer_ends_at_each_of_the_tokens_that_the_settings_name(shape, writer):
    plain = _theirs(writer, {})
    settings = {"eos_token_id": shape(plain[6])}
    assert _ours(writer, settings) == _theirs(writer, settings) == plain[: plain.index(plain[6])]


def test_what_first_tokens_are_kept_from_is_the_first_alone(writer):
    settings = {"begin_suppress_tokens": [_theirs(writer, {})[0]]}
    assert _ours(writer, settings) == _theirs(writer, settings) != _theirs(writer, {})


def test_draws_are_set_as_the_class_has_them_where_they_are_asked_for():
    published = transformers.GenerationConfig(do_sample=True)
    assert sampling({"do_sample": True}, Sampling()) == Sampling(
        temperature=published.temperature, top_k=published.top_k, top_p=None if published.top_p == 1 else 0
    )
    whole = {"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.95, "repetition_penalty": 1.05}
    assert sampling(whole, Sampling()) == Sampling(temperature=0.6, top_k=20, top_p=0.95, repetition_penalty=1.05)


def _without_effect(table):
    return [key for key, row in table.rows.items() if row.effect == "none" and key not in NOT_RUN]


@pytest.mark.parametrize(
    "key", [key for key in _without_effect(GENERATION) if key in transformers.GenerationConfig().to_dict()]
)
def test_a_setting_that_is_called_without_effect_has_none(key, writer):
    ends = {"eos_token_id": 63}  # guesses ask for one
    assert _theirs(writer, ends | {key: OTHER[key]}, _ids()) == _theirs(writer, ends, _ids())


def _ids():
    return {"input_ids": torch.arange(1, 10)[None]}


def _rows():
    return {"inputs_embeds": _embeds()}


def _mel():
    mel = torch.from_numpy(np.random.default_rng(2).standard_normal((16, 170)).astype(np.float32))
    return {"input_features": mel, "feature_lens": torch.tensor([170])}


def _codes():
    return {"codes": torch.from_numpy(np.random.default_rng(2).integers(0, 16, (1, 4, 6)))}


def _clip():
    mel = torch.from_numpy(np.random.default_rng(2).standard_normal((1, 16, 40)).astype(np.float32))
    return {"input_features": mel, "decoder_input_ids": torch.arange(1, 7)[None]}


# Model, config, its table, sizes, and what it is given.
KINDS = {
    "qwen2": (transformers.Qwen2ForCausalLM, transformers.Qwen2Config, TEXTS["qwen2"], SIZES, _ids),
    "qwen3": (transformers.Qwen3ForCausalLM, transformers.Qwen3Config, TEXTS["qwen3"], SIZES | {"head_dim": 8}, _ids),
    "qwen3_moe": (
        transformers.Qwen3MoeForCausalLM, transformers.Qwen3MoeConfig, TEXTS["qwen3_moe"], SIZES | EXPERTS, _ids,
    ),
    "thinker": (
        models.Qwen3OmniMoeThinkerTextModel, configs.Qwen3OmniMoeTextConfig, TEXTS["qwen3_omni_moe_text"],
        SIZES | EXPERTS | AXES, _rows,
    ),
    "talker": (
        models.Qwen3OmniMoeTalkerModel, configs.Qwen3OmniMoeTalkerTextConfig, TEXTS["qwen3_omni_moe_talker_text"],
        SIZES | EXPERTS | AXES | {"shared_expert_intermediate_size": 16}, _rows,
    ),
    "predictor": (
        models.Qwen3OmniMoeTalkerCodePredictorModel, configs.Qwen3OmniMoeTalkerCodePredictorConfig,
        TEXTS["qwen3_omni_moe_talker_code_predictor"], SIZES | {"head_dim": 8, "num_code_groups": 4}, _rows,
    ),
    "ears": (
        models.Qwen3OmniMoeAudioEncoder, configs.Qwen3OmniMoeAudioEncoderConfig, omni.EARS,
        {
            "d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 48, "num_mel_bins": 16,
            "n_window": 50, "n_window_infer": 800, "downsample_hidden_size": 8, "output_dim": 24,
        },
        _mel,
    ),
    "code2wav": (
        models.Qwen3OmniMoeCode2Wav, configs.Qwen3OmniMoeCode2WavConfig, omni.CODE2WAV,
        {
            "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 4, "num_quantizers": 4, "codebook_size": 16, "decoder_dim": 32, "sliding_window": 4,
            "upsample_rates": (2, 2), "upsampling_ratios": (2,),
        },
        _codes,
    ),
    "whisper": (
        transformers.WhisperForConditionalGeneration, transformers.WhisperConfig, WHISPER,
        {
            "d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 48,
            "decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 48, "num_mel_bins": 16,
            "max_source_positions": 20, "max_target_positions": 16, "vocab_size": VOCABULARY, "pad_token_id": 0,
            "bos_token_id": 0, "eos_token_id": 0, "decoder_start_token_id": 1,
        },
        _clip,
    ),
}  # fmt: skip
GENERATING = set(GENERATION.rows)


def _run(module, given):
    """Return the logits, or what a model without a head makes."""
    with torch.no_grad():
        found = module(**given)
    if isinstance(found, torch.Tensor):
        return found
    return found["logits"] if "logits" in found else found["last_hidden_state"]


@pytest.mark.parametrize("name", KINDS)
def test_a_key_of_a_config_that_is_called_without_effect_has_none(name):
    model, config, table, sizes, given = KINDS[name]
    plain = _seeded(lambda: _made(model, config(**sizes)))
    expected = _run(plain, given())
    assert float(expected.std()) > 0.01
    for key in _without_effect(table):
        if key in GENERATING - {"use_cache"}:
            continue  # generate()'s, above
        value = OTHER.get(key)
        if value is None:  # an extra key, which no class reads
            continue
        other = _made(model, config(**sizes | {key: value}))
        other.load_state_dict(plain.state_dict())
        # Segments that are convolved by other numbers at once are rounded differently.
        rounding = {"rtol": 1e-3, "atol": 1e-4} if key == "conv_chunksize" else {"rtol": 0, "atol": 0}
        found = _run(other, given())
        torch.testing.assert_close(found, expected, **rounding, msg=lambda said, key=key: f"{key}: {said}")
