"""Every key of Whisper's two configs: used, refused where it is set to something that matters, or without effect here.

Source of keys and defaults: transformers 4.57.6, WhisperConfig.__init__ (models/whisper/configuration_whisper.py) and
what WhisperForConditionalGeneration.generate reads of a generation config (models/whisper/generation_whisper.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from edgekit.errors import CheckpointError

BEGIN_SUPPRESS = [220, 50_256]
"""The class's default: a space and the end, of the English vocabulary."""
LARGEST_SHOWN = 60  # characters of a value in a message


@dataclass(frozen=True, slots=True)
class Key:
    """What becomes of one key.

    ``default``: the class's, where a file lacks the key. ``why``: of a refused key what EdgeKit does instead, with the
    next step; else what the key is for. ``allowed``: values of a refused key that change nothing, beside the default.
    """

    use: Literal["used", "refused", "no effect"]
    why: str
    default: Any = None
    allowed: tuple[Any, ...] = (None,)


_TRAINING = "training only"
_CLASSIFIER = "WhisperForAudioClassification only"
_WORD_TIMES = "times of words, which a stream does not write"
_LONG = "prompts of sound beyond 30 s; a stream ends an utterance before that"
_AT_ONE_TEMPERATURE = "generate() draws only at a temperature that the call gives; a stream's options say it here"

CONFIG_KEYS: Mapping[str, Key] = {
    "vocab_size": Key("used", "shapes", 51_865),
    "num_mel_bins": Key("used", "shapes", 80),
    "d_model": Key("used", "shapes", 384),
    "encoder_layers": Key("used", "shapes; may differ from decoder_layers", 4),
    "decoder_layers": Key("used", "shapes", 4),
    "encoder_attention_heads": Key("used", "shapes", 6),
    "decoder_attention_heads": Key("used", "shapes", 6),
    "encoder_ffn_dim": Key("used", "shapes", 1536),
    "decoder_ffn_dim": Key("used", "shapes", 1536),
    "max_source_positions": Key("used", "the window", 1500),
    "max_target_positions": Key("used", "the context", 448),
    "decoder_start_token_id": Key("used", "absent: <|startoftranscript|>; the class's 50257 is English only"),
    "eos_token_id": Key("used", "absent: <|endoftext|>; the class's 50256 is English only"),
    "forced_decoder_ids": Key("used", "where generation_config.json has none, nor language or task"),
    "suppress_tokens": Key("used", "where there is no generation_config.json"),
    "begin_suppress_tokens": Key("used", "where there is no generation_config.json", BEGIN_SUPPRESS),
    "max_length": Key("used", "where there is no generation_config.json; absent: half of the context"),
    "tie_word_embeddings": Key(
        "refused", "an output projection of its own is not supported; use a published Whisper checkpoint", True, ()
    ),
    "activation_function": Key("refused", "only gelu is supported; use a published Whisper checkpoint", "gelu", ()),
    "scale_embedding": Key("refused", "scaled embeddings are not supported; use a published checkpoint", False, ()),
    "use_weighted_layer_sum": Key("no effect", _CLASSIFIER, False),
    "classifier_proj_size": Key("no effect", _CLASSIFIER, 256),
    "median_filter_width": Key("no effect", _WORD_TIMES, 7),
    "apply_spec_augment": Key("no effect", _TRAINING, False),
    "mask_time_prob": Key("no effect", _TRAINING, 0.05),
    "mask_time_length": Key("no effect", _TRAINING, 10),
    "mask_time_min_masks": Key("no effect", _TRAINING, 2),
    "mask_feature_prob": Key("no effect", _TRAINING, 0.0),
    "mask_feature_length": Key("no effect", _TRAINING, 10),
    "mask_feature_min_masks": Key("no effect", _TRAINING, 0),
    "encoder_layerdrop": Key("no effect", _TRAINING, 0.0),
    "decoder_layerdrop": Key("no effect", _TRAINING, 0.0),
    "dropout": Key("no effect", _TRAINING, 0.0),
    "attention_dropout": Key("no effect", _TRAINING, 0.0),
    "activation_dropout": Key("no effect", _TRAINING, 0.0),
    "init_std": Key("no effect", _TRAINING, 0.02),
    "pad_token_id": Key("no effect", "fills batches", 50_256),
    "bos_token_id": Key("no effect", "decoding starts from decoder_start_token_id", 50_256),
    "use_cache": Key("no effect", "the same tokens, sooner or later", True),
    "is_encoder_decoder": Key("no effect", "every Whisper is one", True),
    "num_hidden_layers": Key("no effect", "the class repeats encoder_layers in it"),
}
GENERATION_KEYS: Mapping[str, Key] = {
    "decoder_start_token_id": Key("used", "the first token; wins over config.json"),
    "eos_token_id": Key("used", "one token or a list; wins over config.json"),
    "language": Key("used", "the bundle's default: a name, a code or a token"),
    "task": Key("used", "the bundle's default"),
    "forced_decoder_ids": Key("used", "the bundle's default language and task, where neither key names one"),
    "is_multilingual": Key("used", "whether the prompt names a language"),
    "lang_to_id": Key("used", "absent: the tokens' names"),
    "task_to_id": Key("used", "absent: the tokens' names"),
    "no_timestamps_token_id": Key("used", "absent: <|notimestamps|>"),
    "suppress_tokens": Key("used", "ids outside the vocabulary, such as -1, forbid nothing"),
    "begin_suppress_tokens": Key("used", "ids outside the vocabulary, such as -1, forbid nothing"),
    "max_length": Key("used", "prompt and answer; absent: half of the context"),
    "max_new_tokens": Key("used", "the answer alone"),
    "num_beams": Key("refused", "a stream writes the likeliest token and looks no further; set it to 1", 1),
    "return_timestamps": Key("refused", "a stream writes no times; set it to false", None, (None, False)),
    "logprob_threshold": Key("refused", "a stream decodes once and keeps what it wrote; take the key out"),
    "no_speech_threshold": Key("refused", "a stream's voice detector decides what is speech; take the key out"),
    "temperature": Key("no effect", _AT_ONE_TEMPERATURE, 1.0),
    "do_sample": Key("no effect", _AT_ONE_TEMPERATURE, False),
    "top_k": Key("no effect", _AT_ONE_TEMPERATURE, 50),
    "top_p": Key("no effect", _AT_ONE_TEMPERATURE, 1.0),
    "compression_ratio_threshold": Key("no effect", "asks for another temperature, of which a config names none"),
    "condition_on_prev_tokens": Key("no effect", _LONG),
    "prev_sot_token_id": Key("no effect", _LONG),
    "prompt_condition_type": Key("no effect", _LONG),
    "max_initial_timestamp_index": Key("no effect", "times, which a stream does not write"),
    "alignment_heads": Key("no effect", _WORD_TIMES),
    "return_token_timestamps": Key("no effect", _WORD_TIMES),
    "pad_token_id": Key("no effect", "fills batches"),
    "bos_token_id": Key("no effect", "decoding starts from decoder_start_token_id"),
}
ALIASES = {
    "hidden_size": "d_model",
    "num_attention_heads": "encoder_attention_heads",
    "num_key_value_heads": "encoder_attention_heads",
}
"""Other names of keys of config.json. Source: WhisperConfig.attribute_map."""


def whole_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config with the class's defaults for the keys of sizes that it lacks.

    Raises CheckpointError if an alias of a key says something else than the key.
    """
    whole = {
        name: key.default for name, key in CONFIG_KEYS.items() if key.use != "no effect" and key.default is not None
    }
    whole.pop("begin_suppress_tokens")  # counts only without a generation config
    whole |= config
    for alias, name in ALIASES.items():
        if alias in config and name in config and config[alias] != config[name]:
            raise CheckpointError(
                f"config.json: {alias} is {config[alias]} and {name} is {config[name]}, they are one key of Whisper; "
                "correct one of them"
            )
        if alias in config:
            whole[name] = config[alias]
    return whole


def refuse_keys(config: Mapping[str, Any], generation: Mapping[str, Any]) -> None:
    """Raise CheckpointError naming the first key that would change the answer and that EdgeKit does not follow.

    Without a generation config the keys of generation count where they stand in config.json, as in transformers.
    """
    file, said = ("generation_config.json", generation) if generation else ("config.json", config)
    for where, found, keys in (("config.json", config, CONFIG_KEYS), (file, said, GENERATION_KEYS)):
        for name, key in keys.items():
            given = found.get(name, key.default)
            if key.use == "refused" and given != key.default and given not in key.allowed:
                raise CheckpointError(f"{where}: {name} is {str(given)[:LARGEST_SHOWN]}, {key.why}")
