"""What EdgeKit makes of each key of a Whisper's config.json and generation_config.json.

Source: transformers 4.57.6, WhisperConfig and generate() of Whisper.
"""

from edgekit.exporter.families.common import COMMON, TRAINING
from edgekit.exporter.families.generation import GENERATION
from edgekit.exporter.families.keys import Keys, refused, unused, used

_OTHER_HEAD = unused("of a head that sorts sounds, which is not read")
_TIMES = unused("of word times, which are not written")

WHISPER = Keys(
    "transformers 4.57.6, WhisperConfig",
    {
        **COMMON,
        **TRAINING,
        "vocab_size": used("WhisperBackbone", 51_865),
        "num_mel_bins": used("WhisperEars", 80),
        "d_model": used("WhisperEars", 384),
        "encoder_layers": used("WhisperEars", 4),
        "encoder_attention_heads": used("WhisperEars", 6),
        "encoder_ffn_dim": used("WhisperEars", 1536),
        "decoder_layers": used("WhisperBackbone", 4),
        "decoder_attention_heads": used("WhisperBackbone", 6),
        "decoder_ffn_dim": used("WhisperBackbone", 1536),
        "max_source_positions": used("WhisperEars", 1500),
        "max_target_positions": used("WhisperBackbone", 448),
        "decoder_start_token_id": used("WhisperBackbone", 50_257),
        "eos_token_id": used("WhisperBackbone", 50_256),
        "activation_function": refused("only gelu is supported", "gelu", default="gelu"),
        "scale_embedding": refused("embeddings that are scaled are not supported", False, default=False),
        "tie_word_embeddings": refused("an output projection of its own is not supported", True, default=True),
        "num_hidden_layers": unused("encoder_layers and decoder_layers say it"),
        "classifier_proj_size": _OTHER_HEAD,
        "use_weighted_layer_sum": _OTHER_HEAD,
        "median_filter_width": _TIMES,
        "edgekit": used("WhisperEars and WhisperBackbone: chunks, experts, the recipe"),
    },
)

WHISPER_GENERATION = GENERATION.with_rows(
    "transformers 4.57.6, GenerationConfig and generate() of Whisper",
    lang_to_id=used("TokenProtocol.languages"),
    task_to_id=used("TokenProtocol.tasks"),
    no_timestamps_token_id=used("TokenProtocol.start_tail"),
    decoder_start_token_id=unused("config.json says it"),
    alignment_heads=_TIMES,
    max_initial_timestamp_index=_TIMES,
    return_timestamps=_TIMES,
    prev_sot_token_id=unused("no text precedes an utterance"),
    is_multilingual=unused("lang_to_id says it"),
)
