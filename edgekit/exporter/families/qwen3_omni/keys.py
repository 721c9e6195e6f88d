"""What EdgeKit makes of each key of Qwen3-Omni's config.json, down to its innermost configs.

Source: transformers 4.57.6 and 5.24.0, configuration and modeling of qwen3_omni_moe. Defaults that the two do not agree
on, n_window and n_window_infer, are none.
"""

from collections.abc import Mapping

from edgekit.exporter.families.common import COMMON, TRAINING
from edgekit.exporter.families.keys import Config, Keys, nested, refused, unused, used, used_if
from edgekit.exporter.families.qwen_keys import PLAIN, plain_parameters, text_keys

TEXT = "qwen3_omni_moe_text"
TALKER_TEXT = "qwen3_omni_moe_talker_text"
PREDICTOR = "qwen3_omni_moe_talker_code_predictor"
_SEEN = unused("images and videos are not read")
_MARKS = unused("the tokenizer says which tokens mark turns and sound")
_ALIKE = unused("of text and sound alone, positions are the same on every axis")

EARS = Keys(
    "transformers 4.57.6, Qwen3OmniMoeAudioEncoderConfig",
    {
        **COMMON,
        **TRAINING,
        "num_mel_bins": used("Qwen3OmniEars", 128),
        "d_model": used("Qwen3OmniEars", 1280),
        "encoder_layers": used("Qwen3OmniEars", 32),
        "encoder_attention_heads": used("Qwen3OmniEars", 20),
        "encoder_ffn_dim": used("Qwen3OmniEars", 5120),
        "max_source_positions": used("Qwen3OmniEars", 1500),
        "n_window": used("Qwen3OmniEars"),
        "n_window_infer": used("Qwen3OmniEars"),
        "downsample_hidden_size": used("Qwen3OmniEars", 480),
        "output_dim": used("Qwen3OmniEars", 3584),
        "activation_function": refused("only gelu is supported", "gelu", default="gelu"),
        "scale_embedding": unused("the published encoder has no embeddings to scale"),
        "conv_chunksize": unused("how many segments are convolved at once; each by itself"),
        "num_hidden_layers": unused("encoder_layers says it"),
    },
)
THINKER = Keys(
    "transformers 4.57.6, Qwen3OmniMoeThinkerConfig",
    {
        **COMMON,
        **TRAINING,
        "audio_config": nested("Qwen3OmniEars", EARS),
        "text_config": nested("Qwen", lambda config: text_keys(config["text_config"], TEXT)),
        **dict.fromkeys(("image_token_id", "video_token_id", "vision_config"), _SEEN),
        **dict.fromkeys(("vision_end_token_id", "vision_start_token_id", "vision_token_id"), _SEEN),
        **dict.fromkeys(("audio_end_token_id", "audio_start_token_id", "audio_token_id", "user_token_id"), _MARKS),
        **dict.fromkeys(("position_id_per_seconds", "seconds_per_chunk"), _ALIKE),
    },
)
TALKER = Keys(
    "transformers 4.57.6, Qwen3OmniMoeTalkerConfig",
    {
        **THINKER.rows,
        "audio_config": unused("the thinker's says it"),
        "spatial_merge_size": _SEEN,
        "text_config": nested("Talker", lambda config: text_keys(config["text_config"], TALKER_TEXT)),
        "code_predictor_config": nested("Talker", lambda config: text_keys(config["code_predictor_config"], PREDICTOR)),
        "num_code_groups": used("Talker", 32),
        "thinker_hidden_size": used("Talker", 2048),
        "accept_hidden_layer": used("Talker", 18),
        "codec_eos_token_id": used("TalkerSpeech", 4198),
        "codec_nothink_id": used("TalkerSpeech", 4203),
        "codec_think_bos_id": used("TalkerSpeech", 4204),
        "codec_think_eos_id": used("TalkerSpeech", 4205),
        "codec_pad_id": used("TalkerSpeech", 4196),
        "codec_bos_id": used("TalkerSpeech", 4197),
        "speaker_id": used("TalkerSpeech.speakers"),
        "output_router_logits": unused("of training"),
    },
)
CODE2WAV = Keys(
    "transformers 4.57.6, Qwen3OmniMoeCode2WavConfig",
    {
        **COMMON,
        **TRAINING,
        "num_quantizers": used("Code2Wav", 16),
        "codebook_size": used("Code2Wav", 2048),
        "hidden_size": used("Code2Wav", 1024),
        "intermediate_size": used("Code2Wav", 3072),
        "num_hidden_layers": used("Code2Wav", 8),
        "num_attention_heads": used("Code2Wav", 16),
        "num_key_value_heads": used("Code2Wav: as many as num_attention_heads", 16),
        "head_dim": used("Code2Wav; where it is absent hidden_size / num_attention_heads"),
        "sliding_window": used("Code2Wav", 72),
        "rope_theta": used("Code2Wav", 10_000.0),
        "rope_parameters": used_if(plain_parameters, "Code2Wav: the base of rotary positions", PLAIN),
        "rope_scaling": refused(PLAIN),
        "rms_norm_eps": used("Code2Wav", 1e-5),
        "upsampling_ratios": used("Code2Wav", (2, 2)),
        "upsample_rates": used("Code2Wav", (8, 5, 4, 3)),
        "decoder_dim": used("Code2Wav", 1536),
        "hidden_act": refused("only silu is supported", "silu", "swish", default="silu"),
        "attention_bias": refused("the published decoder has none", False, default=False),
        "max_position_embeddings": unused("frames count from the beginning, as far as it goes"),
    },
)


def _speaking(table: Keys, config: Config) -> Keys | None:
    """Return the table of a part that speaks, None where nothing of it is read."""
    parts = (config.get("talker_config"), config.get("code2wav_config"))
    return table if config.get("enable_audio_output", True) and all(isinstance(one, Mapping) for one in parts) else None


OMNI = Keys(
    "transformers 4.57.6, Qwen3OmniMoeConfig",
    {
        **COMMON,
        **TRAINING,
        "thinker_config": nested("Qwen and Qwen3OmniEars", THINKER),
        "talker_config": nested("Talker", lambda config: _speaking(TALKER, config)),
        "code2wav_config": nested("Code2Wav", lambda config: _speaking(CODE2WAV, config)),
        "enable_audio_output": used("whether there are Talker and Code2Wav", True),
        "tts_bos_token_id": used("TalkerSpeech", 151_672),
        "tts_eos_token_id": used("TalkerSpeech", 151_673),
        "tts_pad_token_id": used("TalkerSpeech", 151_671),
        **dict.fromkeys(
            ("assistant_token_id", "im_end_token_id", "im_start_token_id", "system_token_id", "user_token_id"), _MARKS
        ),
    },
)
