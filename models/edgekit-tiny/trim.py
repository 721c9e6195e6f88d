"""Write the small checkpoint: the seed with only the tokens that English speech needs.

Knows tokens, ids and the rows of the token table; the other weights pass through unread. Always kept: single bytes,
numbers, marks. The rest of the table goes to the tokens used most, by the word frequencies of wordfreq, each with the
tokens it is merged from; so a spelling whose tokens are all kept is tokenised exactly as before. Timestamps and
language tokens go.

    pip install numpy safetensors tokenizers wordfreq==3.1.1
    python models/edgekit-tiny/trim.py SEED -o models/edgekit-tiny/edgekit_tiny/checkpoint
"""

import argparse
import json
import shutil
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

Json = dict[str, Any]

VOCABULARY = 32_768  # train/compare.py measures what another size loses
TABLE = "model.decoder.embed_tokens.weight"
BYTES = 256  # the first tokens of a byte-level vocabulary
MARKS = (*".,?!;:'\"-()/&%$#@*+=_", "...", "--", "\u2014", "\u2013", "\u2026", "\u2019", "\u201c", "\u201d", "\u00a3")
CLOSERS = ("", "'", '"', ")", ".", ",", "?", "!", ";", ":", "-", "...", "?!", "!!")
SUFFIXES = ("'s", "'t", "'re", "'ve", "'ll", "'d", "'m", "s", "th", "st", "nd", "rd", "am", "pm", "%", "k", "km", "mm")
ABBREVIATION_LETTERS = 3  # words up to this length are often said and written in capitals: PM, USB
SPECIALS = (
    "<|endoftext|>",
    "<|startoftranscript|>",
    "<|translate|>",
    "<|transcribe|>",
    "<|startoflm|>",
    "<|startofprev|>",
    "<|nocaptions|>",
    "<|notimestamps|>",  # last: Whisper's timestamps start at the next id, which is outside the table
)
ID_KEYS = {
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "decoder_start_token_id",
    "no_timestamps_token_id",
    "prev_sot_token_id",
}
TIMESTAMP_KEYS = {"max_initial_timestamp_index", "return_timestamps"}


def forms(word: str) -> Iterator[tuple[str, float]]:
    """Yield how a lower-case word is written in a transcript, each with its assumed share of the word's uses.

    Spoken prompts and commands are short, hence many capitals; only after a hyphen or quote no space comes first.
    A possessive 's is a token of its own.
    """
    capitals = 0.1 if len(word) <= ABBREVIATION_LETTERS else 0.005
    yield from ((" " + word, 0.7), (" " + word.capitalize(), 0.27), (" " + word.upper(), capitals))
    yield from ((word, 0.01), (word.capitalize(), 0.005))


def numbers_and_marks() -> Iterator[str]:
    """Yield the texts that are no words: numbers in digits, punctuation and what sticks to it."""
    for number in range(10_000):
        yield from (f"{number}", f" {number}", f" ${number}")
    for number in range(100):
        yield from (f"{number:02}", f" {number:02}", f" {number:03}", f":{number:02}", f".{number:02}", f",{number:03}")
    for mark in MARKS:
        for closer in CLOSERS:
            yield from (mark + closer, f" {mark}{closer}")
    for suffix in SUFFIXES:
        yield from (suffix, " " + suffix)


def expected_use(encoder: Tokenizer, frequencies: dict[str, float]) -> list[str]:
    """Return the tokens of all words in all forms, the most used first, ties by id. frequencies: word -> share."""
    use: defaultdict[int, float] = defaultdict(float)
    spelled = [(form, share * frequencies[word]) for word in frequencies for form, share in forms(word)]
    encoded = encoder.encode_batch_fast([form for form, _ in spelled], add_special_tokens=False)
    for (_, share), encoding in zip(spelled, encoded, strict=True):
        for token in encoding.ids:
            use[token] += share
    return [encoder.id_to_token(token) for token in sorted(use, key=lambda token: (-use[token], token))]


def kept_tokens(tokenizer: Json, frequencies: dict[str, float], size: int) -> list[str]:
    """Return at most size tokens without the special ones, in the seed's order and closed under merging."""
    vocabulary: dict[str, int] = tokenizer["model"]["vocab"]
    encoder = Tokenizer.from_str(json.dumps(tokenizer))
    parts = {"".join(pair): pair for pair in merge_pairs(tokenizer)}
    in_order = sorted(vocabulary, key=vocabulary.__getitem__)

    def with_parts(token: str) -> set[str]:
        return {token}.union(*(with_parts(part) for part in parts.get(token, ())))

    kept = set(in_order[:BYTES])
    for encoding in encoder.encode_batch(list(numbers_and_marks()), add_special_tokens=False):
        kept.update(*(with_parts(token) for token in encoding.tokens))
    if len(kept) > size:
        raise ValueError(f"vocabulary: {size} tokens, bytes, numbers and marks alone are {len(kept)}; ask for more")
    for token in expected_use(encoder, frequencies):
        wanted = with_parts(token) - kept
        if len(kept) + len(wanted) <= size:
            kept |= wanted
    return [token for token in in_order if token in kept and token not in SPECIALS]


def merge_pairs(tokenizer: Json) -> list[tuple[str, str]]:
    """Return the byte pair merges in rank order; files write them as "a b" or as ["a", "b"]."""
    merges = tokenizer["model"]["merges"]
    pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in merges)
    return [(left, right) for left, right in pairs]


def trimmed_tokenizer(tokenizer: Json, kept: list[str]) -> tuple[Json, list[int]]:
    """Return tokenizer.json with contiguous ids, special tokens last, and the seed's id of every new id."""
    old = tokenizer["model"]["vocab"] | {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    new = {token: index for index, token in enumerate([*kept, *SPECIALS])}
    merges = [pair for pair in merge_pairs(tokenizer) if "".join(pair) in new]
    assert all(part in new for pair in merges for part in pair)
    added = [token | {"id": new[token["content"]]} for token in tokenizer["added_tokens"] if token["content"] in new]
    post = json.loads(json.dumps(tokenizer["post_processor"]))
    for special in post["special_tokens"].values():
        special["ids"] = [new[token] for token in special["tokens"]]
    model = tokenizer["model"] | {
        "vocab": {token: new[token] for token in new if token in tokenizer["model"]["vocab"]},
        "merges": [" ".join(pair) for pair in merges],
    }
    trimmed = tokenizer | {"added_tokens": added, "post_processor": post, "model": model}
    return trimmed, [old[token] for token in new]


def renumbered(config: Json, rows: list[int]) -> Json:
    """Return config.json or generation_config.json with new ids; suppressed tokens that are gone are left out."""
    new = {old: index for index, old in enumerate(rows)}
    changed: Json = {}
    for key, value in config.items():
        if key in ID_KEYS:
            changed[key] = new[value]
        elif key == "vocab_size":
            changed[key] = len(rows)
        elif key in ("suppress_tokens", "begin_suppress_tokens"):
            changed[key] = [new[token] for token in value if token in new]
        elif key == "forced_decoder_ids":
            changed[key] = [[position, new[token]] for position, token in value]
        elif key not in TIMESTAMP_KEYS:
            changed[key] = value
    return changed


def trim(seed: Path, output: Path, frequencies: dict[str, float], size: int) -> int:
    """Write the trimmed checkpoint into the folder output and return its vocabulary size. Same input, same bytes."""
    tokenizer = json.loads((seed / "tokenizer.json").read_text(encoding="utf-8"))
    trimmed, rows = trimmed_tokenizer(tokenizer, kept_tokens(tokenizer, frequencies, size - len(SPECIALS)))
    tensors = load_file(seed / "model.safetensors")
    tensors[TABLE] = np.ascontiguousarray(tensors[TABLE][rows])
    output.mkdir(parents=True, exist_ok=True)
    save_file(tensors, output / "model.safetensors", metadata={"format": "pt"})
    (output / "model.safetensors").chmod(0o644)
    for name in ("config.json", "generation_config.json"):
        config = json.loads((seed / name).read_text(encoding="utf-8"))
        if "edgekit" in config:
            config["edgekit"]["recipe"] = "edgekit-tiny"
        (output / name).write_text(json.dumps(renumbered(config, rows), indent=2) + "\n", encoding="utf-8")
    text = json.dumps(trimmed, ensure_ascii=False, separators=(",", ":"))
    (output / "tokenizer.json").write_text(text, encoding="utf-8")
    shutil.copyfile(seed / "preprocessor_config.json", output / "preprocessor_config.json")
    return len(rows)


def english_words() -> dict[str, float]:
    """Return English words without digits and their share of all words; source: wordfreq 3.1.1."""
    import wordfreq

    shares = wordfreq.get_frequency_dict("en")
    return {word: shares[word] for word in shares if not any(map(str.isdigit, word))}


def main() -> None:
    """Trim the seed with the English words of wordfreq and print what came out."""
    parser = argparse.ArgumentParser(description="Write the seed checkpoint with a smaller English vocabulary.")
    parser.add_argument("seed", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--vocabulary", type=int, default=VOCABULARY, help="tokens, special ones included")
    arguments = parser.parse_args()
    size = trim(arguments.seed, arguments.output, english_words(), arguments.vocabulary)
    print(f"{size} tokens, {sum(path.stat().st_size for path in arguments.output.iterdir())} bytes")


if __name__ == "__main__":
    main()
