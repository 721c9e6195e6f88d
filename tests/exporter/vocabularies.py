"""Write the older form of a tokenizer: vocab.json, merges.txt and lists of added tokens."""

import json
from pathlib import Path

import tokenizers

MERGES = [
    ("h", "e"),
    ("l", "l"),
    ("he", "ll"),
    ("hell", "o"),
    ("Ġ", "hello"),
    ("1", "2"),
    ("ĊĊ", "Ċ"),
    ("Ċ", "Ċ"),
    ("_", "l"),
]
EOT = {
    "content": "<|EOT|>",
    "special": True,
    "normalized": False,
    "lstrip": False,
    "rstrip": False,
    "single_word": False,
}


def write(
    folder: Path,
    added: dict[str, int] | None = None,
    decoder: dict[str, object] | None = None,
    kind: str = "Qwen2Tokenizer",
) -> Path:
    """Write vocab.json, merges.txt, tokenizer_config.json and perhaps added_tokens.json; returns the folder."""
    folder.mkdir(exist_ok=True)
    pieces = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    pieces += [left + right for left, right in sorted(MERGES, key=lambda pair: len("".join(pair)))]
    (folder / "vocab.json").write_text(json.dumps({piece: i for i, piece in enumerate(pieces)}), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in MERGES), ""]
    (folder / "merges.txt").write_text("\n".join(lines), encoding="utf-8")
    config = {"tokenizer_class": kind} | ({"added_tokens_decoder": decoder} if decoder else {})
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    if added is not None:
        (folder / "added_tokens.json").write_text(json.dumps(added))
    return folder


FIRST = 256 + len(MERGES)  # the first id behind the vocabulary
