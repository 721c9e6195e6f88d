"""The text tokenizer of a checkpoint, as one tokenizer.json that the runtime loads.

Knows the published form (tokenizer.json) and the older one (vocab.json, merges.txt and lists of added tokens) of two
byte-level BPEs, Qwen2's and GPT-2's, which Whisper has. Builds no other kind: a wrong pre-tokeniser gives wrong tokens
silently.
"""

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from os import PathLike
from pathlib import Path
from typing import Any

import tokenizers

from edgekit.bundle.tokenizer_file import SAMPLE, check_tokenizer
from edgekit.errors import CheckpointError
from edgekit.exporter.sources.stored import LARGEST_LIST, parse_object, read_file, read_object
from edgekit.reprs import exact

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
_FILE = "tokenizer.json"
_IDS, _ID = 1 << 22, "a whole number from 0, below 4194304"  # fifteen times the largest vocabulary that is published
PANIC = "PanicException"  # what a panic of the library raises, which is no Exception
ADDED_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


def tokenizer_json(folder: str | PathLike[str]) -> str:
    """Return the text of the checkpoint's tokenizer.json, or one built from vocab.json and merges.txt.

    The same files give the same bytes. Raises CheckpointError if there is no tokenizer, the tokenizers library cannot
    load it, or its added tokens would get other ids than the checkpoint says.
    """
    folder = Path(folder)
    path = folder / "tokenizer.json"
    if path.exists():
        return checked_tokenizer(read_file(path, LARGEST_LIST), str(path))
    content = _built(folder)
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    _check(content, text, folder / "vocab.json")
    return text


def checked_tokenizer(data: bytes, source: str) -> str:
    """Return the text of a tokenizer.json, ``source`` naming it in errors; raises as ``tokenizer_json`` does."""
    content, text = parse_object(data, source), data.decode("utf-8")
    _check(content, text, Path(source))
    return text


def token_id(tokenizer_json_text: str, token: str) -> int:
    """Return the id of a special token. Raises CheckpointError if the tokenizer has no such token."""
    if (number := _tokens(tokenizer_json_text).get(token)) is None:
        raise CheckpointError(
            f"tokenizer.json: no special token {token}, this family needs it; take the tokenizer of these weights"
        )
    return number


def marks_of(tokenizer_json_text: str) -> dict[str, int]:
    """Return name and id of every token that looks like a mark, ``<|...|>``, whether added or in the vocabulary."""
    found = _tokens(tokenizer_json_text)
    return {name: number for name, number in found.items() if name.startswith("<|") and name.endswith("|>")}


@lru_cache(maxsize=1)  # a family asks for one token after another
def _tokens(text: str) -> Mapping[str, int]:
    """Return name and id of every token, those added first; raises CheckpointError for what is no tokenizer."""
    return _ids(parse_object(text, _FILE), Path(_FILE))


def _ids(content: dict[str, Any], path: Path) -> dict[str, int]:
    model = content.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    found = vocabulary if isinstance(vocabulary, dict) else {}
    for name, number in found.items():
        if type(number) is not int or not 0 <= number < _IDS:
            raise CheckpointError(f"{path}: {name} has id {exact(number)}, must be {_ID}; fetch the file again")
    return found | _added(content, path)


def _added(content: dict[str, Any], path: Path) -> dict[str, int]:
    """Return name and id of every added token."""
    added = content.get("added_tokens") or []
    result: dict[str, int] = {}
    for one in added if isinstance(added, list) else [added]:
        name, number = (one.get("content"), one.get("id")) if isinstance(one, dict) else (None, None)
        if not isinstance(name, str) or type(number) is not int or not 0 <= number < _IDS:
            raise CheckpointError(
                f"{path}: added_tokens has {exact(one)}, must be a text and its id, {_ID}; fetch the file again"
            )
        result[name] = number
    return result


def _check(content: dict[str, Any], text: str, path: Path) -> None:
    _ids(content, path)
    loaded = _loaded(text, path)
    for name, number in _added(content, path).items():
        got = loaded.token_to_id(name)
        if got != number:
            raise CheckpointError(
                f"{path}: {name} has id {number}, loads as {got}; take the tokenizer that belongs to the weights"
            )


def _loaded(text: str, path: Path) -> tokenizers.Tokenizer:
    """Return the library's tokenizer, which reads and writes a text once: some that load cannot."""
    try:
        check_tokenizer(text.encode())
        loaded = tokenizers.Tokenizer.from_str(text)
        loaded.no_padding()  # as the runtime has it
        loaded.no_truncation()
        loaded.decode(loaded.encode(SAMPLE, add_special_tokens=False).ids, skip_special_tokens=True)
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != PANIC:
            raise
        raise CheckpointError(f"{path}: not a tokenizer ({error}); fetch the file again") from error
    return loaded


def _built(folder: Path) -> dict[str, Any]:
    config_path = folder / "tokenizer_config.json"
    config = read_object(config_path) if config_path.exists() else {}
    kind = str(config.get("tokenizer_class", next(iter(_FORMS))))
    if not (folder / "vocab.json").exists():
        raise CheckpointError(f"{folder}: no tokenizer.json and no vocab.json; fetch the checkpoint's tokenizer files")
    if kind not in _FORMS:
        raise CheckpointError(
            f"{config_path}: {kind} needs a tokenizer.json, only Qwen2's and Whisper's can be built from vocab.json; "
            "save one"
        )
    vocabulary = read_object(folder / "vocab.json", LARGEST_LIST)
    if not all(type(number) is int and 0 <= number < _IDS for number in vocabulary.values()):
        raise CheckpointError(f"{folder / 'vocab.json'}: an id is not {_ID}; fetch the file again")
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
        lines = read_file(path, LARGEST_LIST).decode("utf-8").split("\n")
    except (CheckpointError, UnicodeDecodeError) as error:
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
    decoder = config.get("added_tokens_decoder", {})
    for key, entry in decoder.items() if isinstance(decoder, dict) else [("", decoder)]:
        content = entry.get("content") if isinstance(entry, dict) else None
        if not isinstance(content, str) or not re.fullmatch("[0-9]{1,7}", key) or int(key) >= _IDS:
            raise CheckpointError(f"{config_path}: added_tokens_decoder is not readable; fetch the file again")
        flags = {flag: bool(entry.get(flag, False)) for flag in ADDED_FLAGS}
        found[content] = {"id": int(key), "content": content, **flags}
    path = folder / "added_tokens.json"
    for content, number in (read_object(path) if path.exists() else {}).items():
        if type(number) is not int or not 0 <= number < _IDS:
            raise CheckpointError(f"{path}: {content} has id {exact(number)}, must be {_ID}; fetch the file again")
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
