"""What a bundle's tokenizer.json may hold: the tokenizers library takes it as it is, whatever becomes of its texts.

Knows the format of the library, https://huggingface.co/docs/tokenizers; loads nothing and needs no library.
"""

import base64
from collections.abc import Iterator
from typing import Any

import msgspec

_LEADS = (*range(0x100, 0x800, 0x40), 0x800, *range(0x1000, 0x10000, 0x1000), *range(0x10000, 0x110000, 0x30000))
SAMPLE = "Aa 1, \u00e9\u4f60\n" + "".join(map(chr, (*range(0xC0), *_LEADS, 0x100000)))
"""A text with every byte that UTF-8 has. A tokenizer may load, and lack the token for what it does not know."""
_LONGEST_TOKEN = 1000  # characters; published ones have at most about 130. Added ones take the square of it in time
_LONGEST_STRING = 1000  # characters of any other string
_LONGEST_REGEX = 20_000  # characters; those of GPT-4o and Qwen have below 500
_MOST_STEPS = 64  # of normalizer, pre_tokenizer, decoder or post_processor; published ones have at most 11
_MOST_GROWTH = 4000  # times; ALBERT's has the most of published ones, 3888 as it is counted here
_MOST_FROM_TOKEN = 100_000  # characters that a decoder may make of one token
_INSIDE = ("normalizers", "pretokenizers", "decoders", "processors")  # of a Sequence
_FORMS = 18  # characters that NFKD makes of U+FDFA, the most
# How many characters a step makes of one at most. Sources: Unicode 16 for forms and cases, UTF-8, and what the library
# writes: spaces around a character, a mark before a piece, a space for an empty suffix (it is between all characters).
_GROWS = {
    "NFC": 3,
    "NFD": 4,
    "NFKC": _FORMS,
    "NFKD": _FORMS,
    "Lowercase": 2,
    "BertNormalizer": 24,
    "ByteLevel": 5,
    "Metaspace": 2,
    "BPEDecoder": 3,
    "CTC": 3,
    "WordPiece": 3,
}


class _Token(msgspec.Struct):
    content: str


class _Model(msgspec.Struct):
    vocab: dict[str, int] | list[tuple[str, float]] | None = None
    unk_token: str | None = None
    continuing_subword_prefix: str | None = None
    end_of_word_suffix: str | None = None


class _File(msgspec.Struct):
    """What is looked at of a tokenizer.json before the library reads it."""

    added_tokens: list[_Token] | None = None
    normalizer: Any = None
    pre_tokenizer: Any = None
    decoder: Any = None
    post_processor: Any = None
    model: _Model | None = None


def check_tokenizer(text: bytes) -> None:
    """Raise ValueError for a tokenizer.json that could take memory or time without bound, or end the process."""
    try:
        file = msgspec.json.decode(text, type=_File)
    except RecursionError as error:
        raise ValueError("steps inside steps without end") from error
    model = file.model or _Model()
    longest = max(
        _check_tokens("an added token", [token.content for token in file.added_tokens or []]),
        _check_tokens("a token", [token if isinstance(token, str) else token[0] for token in model.vocab or []]),
    )
    for name in ("unk_token", "continuing_subword_prefix", "end_of_word_suffix"):
        _check_string(f"model.{name}", getattr(model, name) or "")
    growth = {
        name: _growth(name, getattr(file, name))
        for name in ("normalizer", "pre_tokenizer", "decoder", "post_processor")
    }
    read = growth["normalizer"] * growth["pre_tokenizer"] * growth["post_processor"]
    if read > _MOST_GROWTH:
        raise ValueError(f"a text may grow {read:.6g} times as it is read, at most {_MOST_GROWTH} times are taken")
    if (made := longest * growth["decoder"]) > _MOST_FROM_TOKEN:
        raise ValueError(f"a token may become {made:.6g} characters, at most {_MOST_FROM_TOKEN} are taken")


def _check_tokens(kind: str, tokens: list[str]) -> int:
    """Return the length of the longest token, at least 1."""
    if (longest := max(map(len, tokens), default=1)) > _LONGEST_TOKEN:
        raise ValueError(f"{kind} of {longest} characters, at most {_LONGEST_TOKEN} are taken")
    return max(longest, 1)


def _check_string(name: str, value: str, most: int = _LONGEST_STRING) -> None:
    if len(value) > most:
        raise ValueError(f"{name} has {len(value)} characters, at most {most} are taken")


def _growth(name: str, tree: object) -> float:
    """Return how many times longer a text may become by the steps of a tree, which are checked."""
    result = 1.0  # a float: products of 64 steps end below its largest
    for number, step in enumerate(_steps(tree), start=1):
        if number > _MOST_STEPS:
            raise ValueError(f"{name} has more than {_MOST_STEPS} steps")
        _check_strings(name, step)
        result *= _growth_of(step)
    return result


def _steps(tree: object) -> Iterator[dict[str, Any]]:
    """Yield the steps of a tree, Sequences too."""
    waiting = [tree]
    while waiting:
        one = waiting.pop()
        if isinstance(one, list):
            waiting += one
        elif isinstance(one, dict):
            yield one
            waiting += [one[key] for key in _INSIDE if key in one]


def _check_strings(name: str, step: dict[str, Any]) -> None:
    waiting: list[tuple[str, object]] = [(key, value) for key, value in step.items() if key not in _INSIDE]
    while waiting:
        key, value = waiting.pop()
        if isinstance(value, str) and key != "precompiled_charsmap":
            _check_string(f"{name}: {key[:40]}", value, _LONGEST_REGEX if key == "Regex" else _LONGEST_STRING)
        elif isinstance(value, dict):
            waiting += value.items()
        elif isinstance(value, list):
            waiting += [(key, inner) for inner in value]


def _growth_of(step: dict[str, Any]) -> float:
    """Return how many characters a step may make of one. It is told by its keys: old files name no type."""
    kind = step.get("type")
    result: float = _GROWS.get(kind, 1) if isinstance(kind, str) else max(_GROWS.values())
    if "content" in step:
        result *= _growth_by(step.get("pattern"), step["content"])
    if isinstance(prepended := step.get("prepend"), str):
        result *= 1 + len(prepended)
    if "precompiled_charsmap" in step:
        result *= _longest_mapped(step["precompiled_charsmap"])
    if isinstance(template := step.get("single"), list):  # "pair" is for two texts, and one is given
        result *= max(1, sum(isinstance(piece, dict) and "Sequence" in piece for piece in template))
    return result


def _growth_by(pattern: object, content: object) -> float:
    """Return the growth by a Replace; an expression may match nothing, before and behind every character."""
    length = len(content) if isinstance(content, str) else 0
    replaced = pattern.get("String") if isinstance(pattern, dict) else pattern
    return max(1, length / len(replaced)) if isinstance(replaced, str) and replaced else 1 + 2 * length


def _longest_mapped(charsmap: object) -> int:
    """Return the length of the longest replacement of a map of characters.

    Raises ValueError for one that is shorter than it says: the library makes room for all of it, and ends the process
    where it gets none. Layout: u32 bytes of a trie, the trie of u32 units, texts that end with 0.
    """
    try:
        data = base64.b64decode(charsmap if isinstance(charsmap, str) else "")
    except ValueError:
        data = b""
    size = int.from_bytes(data[:4], "little")
    if not 0 < size <= len(data) - 4 or size % 4:
        raise ValueError("precompiled_charsmap is damaged")
    texts = data[4 + size :].split(b"\0")
    return max(1, *(len(text.decode("utf-8", "replace")) for text in texts))
