"""A tokenizer.json whose texts could grow without bound is refused before the library has it; published forms pass."""

import base64
import json

import pytest

from edgekit.bundle.tokenizer_file import check_tokenizer
from edgekit.errors import BundleFormatError
from edgekit.runtime.answer.text import Tokenizer

LOWER_BLOCK = "\u2581"  # SentencePiece's space
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
METASPACE = {"type": "Metaspace", "replacement": LOWER_BLOCK, "prepend_scheme": "always", "split": True}
INSIDE = {
    "normalizer": "normalizers", "pre_tokenizer": "pretokenizers", "decoder": "decoders",
    "post_processor": "processors",
}  # fmt: skip


def replace(content, **pattern):
    """Return the step that puts ``content`` for what ``pattern`` says, String or Regex."""
    return {"type": "Replace", "pattern": pattern, "content": content}


def charsmap(longest, trie=bytes(8)):
    """Return a step with a map of characters whose longest replacement has so many characters of three bytes."""
    data = len(trie).to_bytes(4, "little") + trie + b"a\0" + LOWER_BLOCK.encode() * longest + b"\0b\0"
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(data).decode()}


def sequence(tree, *steps):
    """Return what makes ``tree`` these steps."""
    return {tree: {"type": "Sequence", INSIDE[tree]: list(steps)}}


def template(*pieces):
    """Return the step that writes a text as often as "A" is among ``pieces``, and special tokens."""
    parts = [
        {"Sequence": {"id": "A", "type_id": 0}} if piece == "A" else {"SpecialToken": {"id": piece, "type_id": 0}}
        for piece in pieces
    ]
    special = {piece: {"id": piece, "ids": [0], "tokens": [piece]} for piece in pieces if piece != "A"}
    return {"type": "TemplateProcessing", "single": parts, "pair": parts, "special_tokens": special}


TENFOLD = replace("x" * 10, String="x")
QWEN_SPLIT = {"type": "Split", "pattern": {"Regex": r"\p{N}|\s+"}, "behavior": "Isolated", "invert": False}
LLAMA_DECODER = (
    replace(" ", String=LOWER_BLOCK), {"type": "ByteFallback"}, {"type": "Fuse"},
    {"type": "Strip", "content": " ", "start": 1, "stop": 0},
)  # fmt: skip
PUBLISHED = {
    "Qwen2": {"normalizer": {"type": "NFC"}, "decoder": BYTES, "post_processor": BYTES}
    | sequence("pre_tokenizer", QWEN_SPLIT, BYTES),
    "Whisper": {"pre_tokenizer": BYTES, "decoder": BYTES, "post_processor": template("<s>", "A", "<e>")},
    "Llama 2": sequence("normalizer", {"type": "Prepend", "prepend": LOWER_BLOCK}, replace(LOWER_BLOCK, String=" "))
    | sequence("decoder", *LLAMA_DECODER),
    "Llama 3": {"decoder": BYTES} | sequence("post_processor", BYTES, template("<s>", "A")),
    "Gemma": {"normalizer": replace(LOWER_BLOCK, String=" ")} | sequence("decoder", *LLAMA_DECODER[:3]),
    "XLM-R": {"decoder": METASPACE, "post_processor": template("<s>", "A", "</s>")}
    | sequence("normalizer", charsmap(18), replace(" ", Regex=" {2,}"))
    | sequence("pre_tokenizer", {"type": "WhitespaceSplit"}, METASPACE),
    "ALBERT": {"decoder": METASPACE, "pre_tokenizer": METASPACE, "post_processor": template("[CLS]", "A", "[SEP]")}
    | sequence(
        "normalizer", replace('"', String="``"), replace('"', String="''"), {"type": "NFKD"}, {"type": "StripAccents"},
        {"type": "Lowercase"}, charsmap(18), replace(" ", Regex=" {2,}"),
    ),
    "CLIP": sequence("normalizer", {"type": "NFC"}, replace(" ", Regex=r"\s+"), {"type": "Lowercase"})
    | {"decoder": BYTES, "pre_tokenizer": BYTES},
    "BERT": {
        "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
                       "strip_accents": None, "lowercase": True},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
    },
    "wav2vec 2": {"decoder": {"type": "CTC", "pad_token": "<pad>", "word_delimiter_token": "|", "cleanup": True}},
    "a long expression": {"normalizer": replace("", Regex="ab|" * 4000 + "x")},
    "words of 1,000 characters": {"model": {"type": "BPE", "vocab": {"y" * 1000: 0}, "merges": []}},
    "a unigram": {"model": {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0], [LOWER_BLOCK * 16, -2.5]]}},
}  # fmt: skip
ENDLESS = {
    "a normalizer": (sequence("normalizer", *[TENFOLD] * 9), "a text may grow 1e+09 times as it is read, at most"),
    "a decoder": (sequence("decoder", BYTES, *[TENFOLD] * 9), "a token may become "),
    "a sequence of sequences": (
        sequence("normalizer", *[sequence("normalizer", *[TENFOLD] * 3)["normalizer"]] * 3), "may grow 1e+09 times",
    ),
    "steps without a type": (
        {"normalizer": {"normalizers": [{"pattern": {"String": "x"}, "content": "x" * 10}] * 9}}, "a text may grow ",
    ),
    "an expression that matches nothing": (sequence("normalizer", *[replace("ab", Regex="")] * 9), "a text may grow "),
    "expressions": (sequence("decoder", *[replace("x" * 10, Regex="^|.")] * 9), "a token may become "),
    "prefixes": (sequence("normalizer", *[{"type": "Prepend", "prepend": "x" * 20}] * 3), "a text may grow 9261 times"),
    "a map of characters": (sequence("normalizer", *[charsmap(70)] * 2), "a text may grow 4900 times"),
    "bytes of bytes": (sequence("pre_tokenizer", *[BYTES] * 20), "a text may grow "),
    "forms": (sequence("normalizer", *[{"type": "NFKD"}, replace("\ufdfa", String="\u0644")] * 5), "a text may grow "),
    "two trees": (
        sequence("normalizer", *[TENFOLD] * 2) | sequence("pre_tokenizer", *[BYTES] * 3), "a text may grow 12500 times",
    ),
    "an empty suffix": (sequence("decoder", *[{"type": "BPEDecoder", "suffix": ""}] * 20), "a token may become "),
    "a text that is written again": ({"post_processor": template(*"A" * 5000)}, "a text may grow 5000 times"),
    "sequences of sequences": (
        sequence("normalizer", *[sequence("normalizer", *[{"type": "NFC"}] * 9)["normalizer"]] * 9),
        "normalizer has more than 64 steps",
    ),
    "a long replacement": ({"decoder": replace("y" * 1001, String="x")}, "decoder: content has 1001 characters"),
    "a long prefix": ({"normalizer": {"type": "Prepend", "prepend": "y" * 9999}}, "prepend has 9999 characters"),
    "a long expression": ({"normalizer": replace("", Regex="(" * 100_000)}, "Regex has 100000 characters, at most"),
    "a long word": (
        {"model": {"type": "BPE", "vocab": {"a": 0, "y" * 1001: 1}, "merges": []}}, "a token of 1001 characters",
    ),
    "a long piece": (
        {"model": {"type": "Unigram", "unk_id": 0, "vocab": [["y" * 1001, 0.0]]}}, "a token of 1001 characters",
    ),
    "a long word that a decoder makes longer": (
        {"model": {"type": "BPE", "vocab": {"y" * 900: 1}, "merges": []}} | sequence("decoder", *[TENFOLD] * 3),
        "a token may become 900000 characters, at most 100000 are taken",
    ),
    "a long unknown": (
        {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [], "unk_token": "y" * 5000}},
        "unk_token has 5000 characters",
    ),
    "a damaged map": (
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "////fwAAAAA="}},
        "precompiled_charsmap is damaged",
    ),
    "a map in a decoder": (sequence("decoder", {"precompiled_charsmap": 7}), "precompiled_charsmap is damaged"),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_form_of_a_tokenizer_is_taken(name):
    check_tokenizer(json.dumps(PUBLISHED[name] | {"version": "1.0", "added_tokens": None}).encode())


@pytest.mark.parametrize("name", [name for name in PUBLISHED if not {"XLM-R", "ALBERT"} & {name}])
def test_a_published_form_is_one_that_the_library_takes(name, tiny_bundle, tmp_path):
    content = json.loads((tiny_bundle().folder / "tokenizer.json").read_bytes())
    (tmp_path / "tokenizer.json").write_text(json.dumps(content | {"added_tokens": []} | PUBLISHED[name]))
    Tokenizer(tmp_path / "tokenizer.json")


@pytest.mark.parametrize("name", ENDLESS)
def test_a_tokenizer_that_makes_a_book_of_a_letter_is_refused(name, tiny_bundle, tmp_path):
    changes, said = ENDLESS[name]
    content = json.loads((tiny_bundle().folder / "tokenizer.json").read_bytes())
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(content | {"pre_tokenizer": None} | changes))
    with pytest.raises(BundleFormatError) as caught:
        Tokenizer(path)
    line = str(caught.value)
    assert line.startswith(f"{path}: not a tokenizer (")
    assert said in line
    assert line.endswith("); copy or export the bundle again")
    assert "\n" not in line


def test_sequences_inside_sequences_without_end_are_refused():
    deep = '{"type":"Sequence","normalizers":[' * 5000 + "]}" * 5000
    with pytest.raises(ValueError, match="steps inside steps without end"):
        check_tokenizer(f'{{"normalizer":{deep}}}'.encode())


def test_a_tokenizer_without_the_token_for_what_it_does_not_know_is_refused_when_it_is_loaded(tiny_bundle, tmp_path):
    content = json.loads((tiny_bundle().folder / "tokenizer.json").read_bytes())
    content["model"] |= {"unk_token": "nowhere", "merges": []}
    content["model"]["vocab"].pop("\u00f0")  # the first byte of letters of four
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(BundleFormatError, match="not a tokenizer .*nowhere"):
        Tokenizer(tmp_path / "tokenizer.json")
