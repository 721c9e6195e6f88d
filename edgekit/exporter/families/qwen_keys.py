"""What EdgeKit makes of each key of the configs of Qwen's text models, by their ``model_type``.

Sources: transformers 4.57.6 and 5.24.0, configuration and modeling of qwen2, qwen3, qwen3_moe and qwen3_omni_moe; of
Step-Audio's own class stepfun-ai/Step-Audio-2-mini, configuration_step_audio_2.py.
"""

from collections.abc import Mapping

from edgekit.exporter.families.common import COMMON, TRAINING
from edgekit.exporter.families.keys import Config, Key, Keys, Neutral, refused, refused_unless, unused, used, used_if

_FULL = "only full attention is supported"
PLAIN = "only plain rotary positions are supported"
_PLAIN_KINDS = ("default", "mrope", None)  # the second is plain where neither images nor videos are read
_PLAIN_NAMES = {"rope_type", "type", "mrope_section", "mrope_interleaved", "interleaved", "partial_rotary_factor"}
_UNTIED = "its head is not the token table"


def _plain(value: object, config: Config) -> bool:
    """Return whether rope_scaling leaves positions as they are."""
    del config
    if not isinstance(value, Mapping):
        return False
    kinds = (value.get("rope_type"), value.get("type"))
    whole = value.get("partial_rotary_factor") in (None, 1)
    return whole and value.keys() <= _PLAIN_NAMES and all(kind in _PLAIN_KINDS for kind in kinds)


def plain_parameters(value: object, config: Config) -> bool:
    """Return whether rope_parameters, which may also hold the base, leaves positions as they are."""
    if not isinstance(value, Mapping):
        return False
    return _plain({name: one for name, one in value.items() if name != "rope_theta"}, config)


def _full(value: object, config: Config) -> bool:
    """Return whether layer_types names no other kind of attention."""
    del config
    return isinstance(value, list | tuple) and all(one == "full_attention" for one in value)


def _unwindowed(value: object, config: Config) -> bool:
    """Return whether use_sliding_window changes nothing: it is off, has no window, or layer_types says all."""
    windowless = "sliding_window" in config and config["sliding_window"] is None
    return not value or windowless or config.get("layer_types") is not None


def _unreached(value: object, config: Config) -> bool:
    """Return whether use_sliding_window changes nothing where layers from ``max_window_layers`` on have a window."""
    layers, first = config.get("num_hidden_layers", 32), config.get("max_window_layers", 28)
    unreached = isinstance(layers, int) and isinstance(first, int) and layers <= first
    return _unwindowed(value, config) or unreached


def _as_many(heads: int, kv_heads: int) -> Neutral:
    """Return whether num_attention_groups, which Step-Audio's class asks for too, says what the other key says.

    heads, kv_heads: what their keys are where they are absent; kv_heads that are null are as many as heads.
    """

    def same(value: object, config: Config) -> bool:
        found = config.get("num_key_value_heads", kv_heads)
        return bool(value == (config.get("num_attention_heads", heads) if found is None else found))

    return same


_DROPPED = unused("the published class hands it to no model")
_SWITCHED = unused("use_sliding_window and layer_types say whether there is a window")
_ALONE = unused("sliding_window alone says whether there is one")
_TEXT: dict[str, Key] = {
    **COMMON,
    **TRAINING,
    "head_dim": used("Qwen; where it is absent hidden_size / num_attention_heads"),
    "hidden_act": refused("only silu is supported", "silu", "swish", default="silu"),
    "rope_theta": used("Qwen: the base of rotary positions", 10_000.0),
    "rope_scaling": refused_unless(_plain, PLAIN),
    "rope_parameters": used_if(plain_parameters, "Qwen: the base of rotary positions", PLAIN),
    "partial_rotary_factor": refused(PLAIN, 1),
    "tie_word_embeddings": used("Qwen: whether the head is the token table", False),
    "rms_norm_eps": used("Qwen", 1e-6),
    "max_position_embeddings": used("Qwen: the longest conversation", 32_768),
    "layer_types": refused_unless(_full, _FULL),
}
_EXPERTS: dict[str, Key] = {
    "decoder_sparse_step": refused("every layer must have experts", 1),
    "mlp_only_layers": refused("every layer must have experts", []),
    "num_experts": used("Experts", 128),
    "num_local_experts": used("Experts: num_experts, as transformers 5 writes it"),
    "num_experts_per_tok": used("Experts", 8),
}


def _sizes(vocabulary: int, hidden: int, inner: int, layers: int, heads: int, kv_heads: int) -> dict[str, Key]:
    return {
        "vocab_size": used("Qwen", vocabulary),
        "hidden_size": used("Qwen", hidden),
        "intermediate_size": used("Qwen", inner),
        "num_hidden_layers": used("Qwen", layers),
        "num_attention_heads": used("Qwen", heads),
        "num_key_value_heads": used("Qwen; as many as num_attention_heads where it is null", kv_heads),
        "num_attention_groups": refused_unless(
            _as_many(heads, kv_heads), "it must be num_key_value_heads, or, without that key, what its class has"
        ),
    }


_SMALL = _sizes(151_936, 4096, 22_016, 32, 32, 32)
_BIASED = used("Qwen", False)
QWEN2 = Keys(
    "transformers 4.57.6, Qwen2Config",
    {
        **_TEXT,
        **_SMALL,
        "attention_bias": unused("queries, keys and values have one in any case"),
        "use_sliding_window": refused_unless(_unreached, _FULL),
        **dict.fromkeys(("max_window_layers", "sliding_window"), _SWITCHED),
        "max_seq_len": unused("max_position_embeddings says it"),
    },
)
STEP_AUDIO_TEXT = QWEN2.with_rows(
    "configuration_step_audio_2.py, StepAudio2TextConfig",
    **_sizes(64_012, 4096, 11_008, 48, 32, 4),
    max_position_embeddings=used("Qwen: the longest conversation", 8192),
    rope_theta=used("Qwen: the base of rotary positions", 1e6),
    **dict.fromkeys(("layer_types", "max_window_layers", "sliding_window", "use_sliding_window"), _DROPPED),
)
QWEN3 = QWEN2.with_rows(
    "transformers 4.57.6, Qwen3Config", attention_bias=_BIASED, head_dim=used("Qwen", 128),
)  # fmt: skip
QWEN3_MOE = QWEN3.with_rows(
    "transformers 4.57.6, Qwen3MoeConfig",
    **_EXPERTS,
    **_sizes(151_936, 2048, 6144, 24, 32, 4),
    head_dim=_TEXT["head_dim"],
    moe_intermediate_size=used("Experts", 768),
    norm_topk_prob=used("Experts", False),
    use_sliding_window=refused_unless(_unwindowed, _FULL),
)
_OMNI = QWEN3_MOE.with_rows(
    "", sliding_window=refused(_FULL), **dict.fromkeys(("max_window_layers", "use_sliding_window"), _ALONE),
)  # fmt: skip
OMNI_TEXT = _OMNI.with_rows(
    "transformers 4.57.6, Qwen3OmniMoeTextConfig",
    **_sizes(3584, 2048, 18_944, 28, 28, 4),
    norm_topk_prob=used("Experts", True),
    rope_theta=used("Qwen", 1e6),
    shared_expert_intermediate_size=unused("the thinker's layers have no shared expert"),
)
OMNI_TALKER_TEXT = _OMNI.with_rows(
    "transformers 4.57.6, Qwen3OmniMoeTalkerTextConfig",
    **_sizes(3072, 1024, 2048, 20, 16, 2),
    moe_intermediate_size=used("Experts", 384),
    shared_expert_intermediate_size=used("Experts"),
    tie_word_embeddings=refused(_UNTIED, False),
)
OMNI_PREDICTOR = QWEN3.with_rows(
    "transformers 4.57.6, Qwen3OmniMoeTalkerCodePredictorConfig",
    **_sizes(2048, 1024, 3072, 5, 16, 8),
    num_code_groups=used("Talker", 32),
    sliding_window=refused(_FULL),
    **dict.fromkeys(("max_window_layers", "use_sliding_window"), _ALONE),
    tie_word_embeddings=refused(_UNTIED, False),
)
TEXTS = {
    "step_audio_2_text": STEP_AUDIO_TEXT,
    "qwen2": QWEN2,
    "qwen3": QWEN3,
    "qwen3_moe": QWEN3_MOE,
    "qwen3_omni_moe_text": OMNI_TEXT,
    "qwen3_omni_moe_talker_text": OMNI_TALKER_TEXT,
    "qwen3_omni_moe_talker_code_predictor": OMNI_PREDICTOR,
}
"""The table of each ``model_type`` of a text model."""


def text_keys(config: Config, default: str) -> Keys | None:
    """Return the table of a text model by its ``model_type``, else ``default``; None if that is not known."""
    return TEXTS.get(str(config.get("model_type", default)))
