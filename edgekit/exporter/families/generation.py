"""The keys of generation_config.json, and what becomes of them: where an answer ends, and how its tokens are chosen.

Defaults and meanings are those of transformers' GenerationConfig, 4.57.6; keys of 5.24.0 are here too. Where a
checkpoint has no such file, transformers takes these keys from config.json and from the text config inside it, and so
does ``settings``.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from edgekit.bundle import Sampling, TokenProtocol
from edgekit.errors import CheckpointError
from edgekit.exporter.families.config import MOST_POSITIONS, RANGES, value
from edgekit.exporter.families.keys import Config, Keys, Neutral, ranged, refused, refused_unless, unused
from edgekit.reprs import exact

FILE = "generation_config.json"


def _undrawn(*neutral: object) -> Any:  # noqa: ANN401 - a Neutral
    """Return whether a value changes nothing: one of ``neutral``, or tokens are not drawn at all."""
    return lambda value, config: value in neutral or not config.get("do_sample")


def _whole(least: int) -> Neutral:
    """Return whether a value is a whole number from ``least`` to MOST_POSITIONS."""
    return lambda value, _: type(value) is int and least <= value <= MOST_POSITIONS


def _above_0(value: object, config: Config) -> bool:
    del config
    least, most = RANGES["temperature"]
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most


def _drawn(possible: Neutral) -> Neutral:
    """Return whether a value is possible, or tokens are not drawn at all."""
    return lambda value, config: not config.get("do_sample") or possible(value, config)


def _tokens(value: object, config: Config) -> bool:
    del config
    return all(type(token) is int for token in (value if isinstance(value, list | tuple) else (value,)))


_BEAMS = "of a search with beams, which is refused"
_CACHES = "how a cache is held; the tokens are the same"
_GUESSES = "guesses are checked by the model itself; the tokens are the same"
_GIVEN = "what generate() hands back beside the tokens"
_ONE = "only one answer, token by token, is written"
_COUNT = f"must be a whole number, 1 or more and at most {MOST_POSITIONS:,}"
_TOKENS = "must be a token or a list of tokens"

GENERATION = Keys(
    "transformers 4.57.6, GenerationConfig",
    {
        # Ends.
        "eos_token_id": ranged(_tokens, "TokenProtocol.stop", _TOKENS),
        "max_new_tokens": ranged(_whole(1), "TokenProtocol.max_tokens", _COUNT),
        "max_length": ranged(_whole(1), "TokenProtocol.max_length; the class's own is no limit", _COUNT, 20),
        "min_length": refused("an answer ends where the model ends it", 0),
        "min_new_tokens": refused("an answer ends where the model ends it", 0),
        "max_time": refused("an answer ends where the model ends it, not by the clock"),
        "stop_strings": refused("an answer ends at a token, not at a text", []),
        "early_stopping": unused(_BEAMS),
        # Choice.
        "do_sample": ranged(
            lambda value, _: isinstance(value, bool), "TokenProtocol.sampling.temperature: 0 if false",
            "must be true or false", False,
        ),
        "temperature": ranged(_drawn(_above_0), "TokenProtocol.sampling", "must be a number above 0 to draw by", 1.0),
        "top_k": ranged(_drawn(_whole(0)), "TokenProtocol.sampling", "must be a whole number, 0 for no limit", 50),
        "top_p": ranged(_drawn(_above_0), "TokenProtocol.sampling", "must be a number above 0, 1 for no limit", 1.0),
        "repetition_penalty": ranged(_above_0, "TokenProtocol.sampling", "must be a number above 0, 1 for none", 1.0),
        "no_repeat_ngram_size": ranged(_whole(0), "TokenProtocol.sampling", "must be a whole number, 0 for none", 0),
        "suppress_tokens": ranged(_tokens, "TokenProtocol.suppress", _TOKENS),
        "begin_suppress_tokens": ranged(_tokens, "TokenProtocol.begin_suppress", _TOKENS),
        "min_p": refused_unless(_undrawn(0.0), "tokens are drawn by temperature, top_k and top_p only"),
        "top_h": refused_unless(_undrawn(), "tokens are drawn by temperature, top_k and top_p only"),
        "typical_p": refused_unless(_undrawn(1.0), "tokens are drawn by temperature, top_k and top_p only"),
        "epsilon_cutoff": refused_unless(_undrawn(0.0), "tokens are drawn by temperature, top_k and top_p only"),
        "eta_cutoff": refused_unless(_undrawn(0.0), "tokens are drawn by temperature, top_k and top_p only"),
        "bad_words_ids": refused("only single tokens can be forbidden, by suppress_tokens", []),
        "sequence_bias": refused("no logit is raised or lowered by a table", {}, []),
        "encoder_repetition_penalty": refused("only what was said is penalised, by repetition_penalty", 1.0),
        "encoder_no_repeat_ngram_size": refused("only what was said is kept from coming again", 0),
        "exponential_decay_length_penalty": refused("no end is made likelier than the model makes it"),
        "forced_bos_token_id": refused("only the prompt is forced"),
        "forced_eos_token_id": refused("an answer that is too long is cut, no end is forced"),
        "guidance_scale": refused("the model is run once for a token, without guidance", 1, 1.0),
        "watermarking_config": refused("no mark is drawn into the tokens"),
        "token_healing": refused("the end of the prompt is not written anew", False),
        "dola_layers": refused("tokens come from the last layer alone"),
        "penalty_alpha": refused("there is no contrastive search", 0, 0.0),
        "renormalize_logits": unused("the order of tokens and their shares stay the same"),
        "remove_invalid_values": unused("a logit that is no number is an error here"),
        # Searches.
        "num_beams": refused(_ONE, 1),
        "num_beam_groups": refused(_ONE, 1),
        "num_return_sequences": refused(_ONE, 1),
        "constraints": refused(_ONE, []),
        "force_words_ids": refused(_ONE, []),
        "diversity_penalty": unused(_BEAMS),
        "length_penalty": unused(_BEAMS),
        "low_memory": unused(_BEAMS),
        # Ids that the family's own prompt has, or none needs.
        "bos_token_id": unused("the prompt is the family's own"),
        "pad_token_id": unused("one answer at a time needs no padding"),
        "decoder_start_token_id": unused("a family without a decoder of its own begins with its prompt"),
        # How it is done.
        **dict.fromkeys(("cache_config", "max_cache_len", "prefill_chunk_size", "use_cache"), unused(_CACHES)),
        "cache_implementation": refused_unless(
            lambda value, _: value not in ("quantized", "sliding_window"), "every key and value is kept as it is"
        ),
        **dict.fromkeys(
            (
                "assistant_confidence_threshold", "assistant_early_exit", "assistant_ensemble_weight",
                "assistant_lookbehind", "is_assistant", "max_matching_ngram_size", "num_assistant_tokens",
                "num_assistant_tokens_schedule", "prompt_lookup_num_tokens", "speculation_type", "target_lookbehind",
                "use_mtp",
            ),
            unused(_GUESSES),
        ),
        **dict.fromkeys(("compile_config", "continuous_batching_config", "disable_compile"), unused("graphs are ONNX")),
        **dict.fromkeys(
            (
                "output_attentions", "output_hidden_states", "output_logits", "output_scores",
                "return_dict_in_generate", "return_legacy_cache",
            ),
            unused(_GIVEN),
        ),
        "transformers_version": unused("who wrote the file"),
    },
)  # fmt: skip


def settings(config: Config, generation: Config, inside: Sequence[str], keys: Keys) -> Config:
    """Return the generation settings of a checkpoint: those of its file, or, if there is none, those of its config.

    inside: the names that lead to the config of the text model, whose settings count where the outer ones are silent.
    """
    if generation:
        return generation
    found: dict[str, Any] = {}
    levels = [config]
    for name in inside:
        inner = levels[-1].get(name)
        levels.append(inner if isinstance(inner, Mapping) else {})
    for level in levels:
        for name in keys.rows.keys() & level.keys():
            if level[name] is not None:
                found.setdefault(name, level[name])
    return found


def ids(told: Config, key: str, file: str = FILE) -> tuple[int, ...]:
    """Return a key that holds a token or a list of tokens; none where it is absent. Raises CheckpointError."""
    found = told.get(key)
    given = found if isinstance(found, list | tuple) else () if found is None else (found,)
    if not _tokens(given, told):
        raise CheckpointError(f"{file}: '{key}' is {exact(found)}, {_TOKENS}; correct it")
    return tuple(given)


def sampling(told: Config, default: Sampling) -> Sampling:
    """Return how tokens are chosen: as the settings say, and what they leave out as ``default`` says.

    Drawing settings count only where ``do_sample`` is set, as in transformers; then those left out are the class's.
    """
    changes: dict[str, Any] = {}
    if told.get("repetition_penalty") is not None:
        changes["repetition_penalty"] = value(told, "repetition_penalty", float)
    if told.get("no_repeat_ngram_size") is not None:
        changes["no_repeat_ngram_size"] = value(told, "no_repeat_ngram_size", int)
    if told.get("do_sample"):
        whole = GENERATION.filled({name: one for name, one in told.items() if one is not None})
        changes["temperature"] = value(whole, "temperature", float)
        changes["top_k"] = value(whole, "top_k", int) or None  # 0: from all of them
        changes["top_p"] = None if (share := value(whole, "top_p", float)) >= 1 else share
    return msgspec.structs.replace(default, **changes)


def governed(
    told: Config, vocabulary: int, protocol: Callable[[str], TokenProtocol], tokenizer: str, *, file: str = FILE
) -> TokenProtocol:
    """Return a family's protocol with what generation settings, which GENERATION has checked, say beyond it.

    At which tokens an answer ends is the family's to say. file: the one that says the settings. vocabulary: ids from
    there on are no tokens, and neither are those below 0, which some published lists have.
    """
    found = protocol(tokenizer)

    def forbidden(key: str, known: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(dict.fromkeys(token for token in (*known, *ids(told, key)) if 0 <= token < vocabulary))

    if endings := sorted(set(ids(told, "suppress_tokens")) & set(found.stop)):
        raise CheckpointError(
            f"{file}: suppress_tokens has {endings[0]}, at which answers end, and only their first token can be kept "
            "from being one; take it out, or into begin_suppress_tokens"
        )

    def most(key: str, default: int | None) -> int | None:
        return default if told.get(key) in (None, unset[key]) else value(told, key, int)

    unset = {"max_new_tokens": None, "max_length": GENERATION.rows["max_length"].default}
    result = msgspec.structs.replace(
        found,
        max_tokens=most("max_new_tokens", found.max_tokens),
        max_length=most("max_length", found.max_length),
        suppress=forbidden("suppress_tokens", found.suppress),
        begin_suppress=forbidden("begin_suppress_tokens", found.begin_suppress),
        sampling=sampling(told, found.sampling),
    )
    if beyond := sorted(token for token in result.ids() if not 0 <= token < vocabulary):
        raise CheckpointError(
            f"{file}: token {exact(beyond[0])} begins or ends an answer, it must be from 0 and below vocab_size, "
            f"{vocabulary}; take the published file, or correct it"
        )
    return result
