"""The text tokenizer of a checkpoint, as one tokenizer.json that the runtime loads.

Knows the published form (tokenizer.json) and the older one (vocab.json, merges.txt and lists of added tokens) of two
byte-level BPEs, Qwen2's and GPT-2's, which Whisper has. Builds no other kind: a wrong pre-tokeniser gives wrong tokens
silently.
"""

import json
from os import PathLike
from pathlib import Path
from typing import Any

import tokenizers

from edgekit.errors import CheckpointError
from edgekit.exporter.sources.stored import parse_object, read_object

# Source: Qwen2's tokenizer.json as published; the same expression splits text in Qwen's own tokenizer.
QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
# What is done with a text before its bytes are paired, by the tokenizer_class of tokenizer_config.json. Source:
# transformers 4.57.6, convert_slow_tokenizer.py, Qwen2Converter and WhisperConverter.
_QWEN2: dict[str, Any] = {
    "normalizer": {"type": "NFC"},
    "pre_tokenizer": {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": QWEN2_SPLIT}, "behavior": "Isolated", "invert": False},
            {**_BYTES, "use_regex": False},
        ],
    },
}
_GPT2: dict[str, Any] = {"normalizer": None, "pre_tokenizer": {**_BYTES, "use_regex": True}}
_FORMS = {
    "Qwen2Tokenizer": _QWEN2,
    "Qwen2TokenizerFast": _QWEN2,
    "WhisperTokenizer": _GPT2,
    "WhisperTokenizerFast": _GPT2,
}
ADDED_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


def tokenizer_json(folder: str | PathLike[str]) -> str:
    """Return the text of the checkpoint's tokenizer.json, or one built from vocab.json and merges.txt.

    The same files give the same bytes. Raises CheckpointError if there is no tokenizer, the tokenizers library cannot
    load it, or its added tokens would get other ids than the checkpoint says.
    """
    folder = Path(folder)
    path = folder / "tokenizer.json"
    if path.exists():
        content = parse_object(path.read_bytes(), str(path))
        text = path.read_text(encoding="utf-8")
    else:
        path = folder / "vocab.json"
        content = _built(folder)
        text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    _check(content, text, path)
    return text


def token_id(tokenizer_json_text: str, token: str) -> int:
    """Return the id of a special token. Raises CheckpointError if the tokenizer has no such token."""
    content = json.loads(tokenizer_json_text)
    for added in content.get("added_tokens", ()):
        if added["content"] == token:
            return int(added["id"])
    vocabulary = content["model"].get("vocab")
    if isinstance(vocabulary, dict) and token in vocabulary:
        return int(vocabulary[token])
    raise CheckpointError(
        f"tokenizer.json: no special token {token}, this family needs it; take the tokenizer of these weights"
    )


def marks_of(tokenizer_json_text: str) -> dict[str, int]:
    """Return name and id of every token that looks like a mark, ``<|...|>``, whether added or in the vocabulary."""
    content = json.loads(tokenizer_json_text)
    vocabulary = content.get("model", {}).get("vocab")
    found = {str(name): int(number) for name, number in (vocabulary if isinstance(vocabulary, dict) else {}).items()}
    found |= {str(added["content"]): int(added["id"]) for added in content.get("added_tokens", ())}
    return {name: number for name, number in found.items() if name.startswith("<|") and name.endswith("|>")}


def _check(content: dict[str, Any], text: str, path: Path) -> None:
    try:
        loaded = tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the library raises bare Exception for every malformed file
        raise CheckpointError(f"{path}: not a tokenizer ({error}); fetch the file again") from error
    for added in content.get("added_tokens", ()):
        got = loaded.token_to_id(added["content"])
        if got != added["id"]:
            raise CheckpointError(
                f"{path}: {added['content']} has id {added['id']}, loads as {got}; "
                "take the tokenizer that belongs to the weights"
            )


def _built(folder: Path) -> dict[str, Any]:
    config_path = folder / "tokenizer_config.json"
    config = read_object(config_path) if config_path.exists() else {}
    kind = config.get("tokenizer_class", next(iter(_FORMS)))
    if not (folder / "vocab.json").exists():
        raise CheckpointError(f"{folder}: no tokenizer.json and no vocab.json; fetch the checkpoint's tokenizer files")
    if kind not in _FORMS:
        raise CheckpointError(
            f"{config_path}: {kind} needs a tokenizer.json, only Qwen2's and Whisper's can be built from vocab.json; "
            "save one"
        )
    vocabulary = read_object(folder / "vocab.json")
    if not all(type(number) is int and number >= 0 for number in vocabulary.values()):
        raise CheckpointError(f"{folder / 'vocab.json'}: an id is not a whole number from 0; fetch the file again")
    added = _added_tokens(folder, config, config_path)
    # In the vocabulary as well: the library gives an added token that it does not find there the next free id, which
    # differs from the checkpoint's where the list has gaps.
    vocabulary |= {token["content"]: token["id"] for token in added}
    owners: dict[int, str] = {}
    for token, number in vocabulary.items():
        if owners.setdefault(number, token) != token:
            raise CheckpointError(
                f"{folder}: {token} and {owners[number]} share id {number}; fetch the tokenizer again"
            )
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        **_FORMS[kind],
        "post_processor": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": dict(sorted(vocabulary.items(), key=lambda item: item[1])),
            "merges": _merges(folder / "merges.txt"),
        },
    }


def _merges(path: Path) -> list[list[str]]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: not readable ({error}); fetch it, vocab.json alone is no tokenizer") from error
    merges = []
    for number, line in enumerate((line.removesuffix("\r") for line in lines), start=1):
        if not line or (number == 1 and line.startswith("#version:")):
            continue
        pair = line.split(" ")
        if len(pair) != 2 or not all(pair):
            raise CheckpointError(f"{path}: line {number} is {line[:40]!r}, must be two pieces; fetch the file again")
        merges.append(pair)
    return merges


def _added_tokens(folder: Path, config: dict[str, Any], config_path: Path) -> list[dict[str, Any]]:
    """Return the added tokens by id. added_tokens_decoder states flags; added_tokens.json knows ids only."""
    found: dict[str, dict[str, Any]] = {}
    try:
        for number, entry in config.get("added_tokens_decoder", {}).items():
            flags = {flag: bool(entry.get(flag, False)) for flag in ADDED_FLAGS}
            found[entry["content"]] = {"id": int(number), "content": entry["content"], **flags}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{config_path}: added_tokens_decoder is not readable; fetch the file again") from error
    path = folder / "added_tokens.json"
    for content, number in (read_object(path) if path.exists() else {}).items():
        if type(number) is not int:
            raise CheckpointError(f"{path}: {content} has id {number!r}, must be a whole number; fetch the file again")
        known = found.get(content)
        if known and known["id"] != number:
            raise CheckpointError(
                f"{path}: {content} has id {number}, {config_path.name} says {known['id']}; fetch the tokenizer again"
            )
        if not known:
            flags = dict.fromkeys(ADDED_FLAGS, False) | {"special": content in _special(folder)}
            found[content] = {"id": number, "content": content, **flags}
    return sorted(found.values(), key=lambda token: int(token["id"]))


def _special(folder: Path) -> frozenset[str]:
    """Return the tokens that special_tokens_map.json names, if it is there."""
    path = folder / "special_tokens_map.json"
    values = (read_object(path) if path.exists() else {}).values()
    tokens = [token for value in values for token in (value if isinstance(value, list) else [value])]
    return frozenset(str(token.get("content") if isinstance(token, dict) else token) for token in tokens)
