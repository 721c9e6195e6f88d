"""What EdgeKit makes of each key of a Whisper's config.json and generation_config.json.

Source: transformers 4.57.6, WhisperConfig (models/whisper/configuration_whisper.py) and what Whisper's own generate()
reads (models/whisper/generation_whisper.py).
"""

from collections import ChainMap
from dataclasses import replace

from edgekit.errors import CheckpointError
from edgekit.exporter.families.common import COMMON, TRAINING
from edgekit.exporter.families.generation import GENERATION
from edgekit.exporter.families.keys import Config, Key, Keys, refused, unused, used

ALIASES = {
    "hidden_size": "d_model",
    "num_attention_heads": "encoder_attention_heads",
    "num_key_value_heads": "encoder_attention_heads",
}
"""Other names of keys of config.json. Source: WhisperConfig.attribute_map."""

_OTHER_HEAD = unused("of a head that sorts sounds, which is not read")
_LONG = unused("of a prompt made of the text before; no text precedes an utterance, which has 30 s at most")


def _any(where: str, default: object = None) -> Key:
    """Return a key that is used and may stand in any config, or that the protocol alone reads."""
    return replace(used(where) if default is None else used(where, default), shared=True)


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
        "decoder_layers": used("WhisperBackbone; need not be encoder_layers", 4),
        "decoder_attention_heads": used("WhisperBackbone", 6),
        "decoder_ffn_dim": used("WhisperBackbone", 1536),
        "max_source_positions": used("WhisperEars", 1500),
        "max_target_positions": used("WhisperBackbone", 448),
        **{alias: _any(f"{name} by another name") for alias, name in ALIASES.items()},
        "decoder_start_token_id": _any("else <|startoftranscript|>: the class's 50257 is that of English alone"),
        "eos_token_id": _any("else <|endoftext|>: the class's 50256 is that of English alone"),
        "forced_decoder_ids": _any("TokenProtocol.language and task, where generation_config.json has none"),
        "begin_suppress_tokens": _any("as in generation_config.json, where that is absent", (220, 50_256)),
        "activation_function": refused("only gelu is supported", "gelu", default="gelu"),
        "scale_embedding": refused("embeddings that are scaled are not supported", False, default=False),
        "tie_word_embeddings": refused("an output projection of its own is not supported", True, default=True),
        "num_hidden_layers": unused("encoder_layers and decoder_layers say it"),
        "classifier_proj_size": _OTHER_HEAD,
        "use_weighted_layer_sum": _OTHER_HEAD,
        "median_filter_width": refused("only 7 is supported", 7, default=7),
        "edgekit": used("WhisperEars and WhisperBackbone: chunks, experts, the recipe"),
    },
)

WHISPER_GENERATION = GENERATION.with_rows(
    "transformers 4.57.6, GenerationConfig and generate() of Whisper",
    decoder_start_token_id=used("TokenProtocol.start; wins over config.json"),
    language=used("TokenProtocol.language: a name, a code or a token"),
    task=used("TokenProtocol.task"),
    forced_decoder_ids=used("TokenProtocol.language and task, where neither key names one"),
    is_multilingual=used("whether there are TokenProtocol.languages"),
    lang_to_id=used("TokenProtocol.languages; else the tokens' names"),
    task_to_id=used("TokenProtocol.tasks; else the tokens' names"),
    no_timestamps_token_id=used("TokenProtocol.start_tail; else <|notimestamps|>"),
    return_timestamps=refused("whether a stream writes times is said when it is made", False),
    logprob_threshold=refused("a stream decodes once and keeps what it wrote"),
    no_speech_threshold=refused("a stream's voice detector decides what is speech"),
    compression_ratio_threshold=unused("it asks for the next temperature, and a config names none"),
    **dict.fromkeys(("condition_on_prev_tokens", "prev_sot_token_id", "prompt_condition_type"), _LONG),
    alignment_heads=used("TokenProtocol.alignment and the backbone's output queries; else heads of the later layers"),
    max_initial_timestamp_index=used("TokenProtocol.timestamps"),
    return_token_timestamps=unused("whether a stream writes the times of words is said when it is made"),
)


def whole_config(config: Config) -> Config:
    """Return a config as WhisperConfig has it: with its defaults, and with keys by either name.

    Raises CheckpointError if the two names of a key say different things.
    """
    named = {name: config[alias] for alias, name in ALIASES.items() if config.get(alias) is not None}
    for alias, name in ALIASES.items():
        if name in named and config.get(name, named[name]) != config.get(alias, named[name]):
            raise CheckpointError(
                f"config.json: {alias} is {config[alias]} and {name} is {config[name]}, they are one key of Whisper; "
                "correct one of them"
            )
    return WHISPER.filled(ChainMap(named, dict(config)) if named.keys() - config.keys() else config)
