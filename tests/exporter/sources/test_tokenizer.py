"""Tokenizers: taken as published or built from vocab.json and merges.txt, with the checkpoint's own ids."""

import json
import os
from pathlib import Path

import pytest
import tokenizers

from edgekit.errors import CheckpointError
from edgekit.exporter.sources.tokenizer import token_id, tokenizer_json
from edgekit.runtime.answer.text import Tokenizer
from tests.exporter.vocabularies import EOT, FIRST, write


def pieces(text: str, said: str) -> list[str]:
    return tokenizers.Tokenizer.from_str(text).encode(said).tokens


def refusal(folder: Path) -> str:
    """Return the one line with which a tokenizer is refused."""
    with pytest.raises(CheckpointError) as caught:
        tokenizer_json(folder)
    line = str(caught.value)
    assert "\n" not in line
    return line


def test_a_published_tokenizer_is_taken_as_it_is(tmp_path):
    text = tokenizer_json(write(tmp_path / "parts", {"<|EOT|>": FIRST}))
    folder = tmp_path / "published"
    folder.mkdir()
    published = json.dumps(json.loads(text), indent=1)
    (folder / "tokenizer.json").write_text(published, encoding="utf-8")
    assert tokenizer_json(folder) == published


def test_a_built_tokenizer_cuts_as_qwen2_does(tmp_path):
    text = tokenizer_json(write(tmp_path))
    assert pieces(text, "hello hello") == ["hello", "Ġhello"]
    # Each digit stands alone, though the merges would join them; line breaks stay together.
    assert pieces(text, "12") == ["1", "2"]
    assert pieces(text, "l\n\n") == ["l", "ĊĊ"]
    assert pieces(text, "  l") == ["Ġ", "Ġ", "l"]
    # One sign before letters belongs to them.
    assert pieces(text, "_l") == ["_l"]
    # One apostrophe ending, upper case too.
    assert pieces(text, "l'S") == ["l", "'", "S"]


def test_a_built_tokenizer_cuts_as_gpt2_does_where_whisper_asks_for_it(tmp_path):
    text = tokenizer_json(write(tmp_path, added={"<|endoftext|>": FIRST}, kind="WhisperTokenizer"))
    assert pieces(text, "hello hello 12\n\n\n") == ["hello", "\u0120hello", "\u0120", "12", "\u010a\u010a\u010a"]
    assert (
        tokenizers.Tokenizer.from_str(text).encode("e\u0301").ids
        != tokenizers.Tokenizer.from_str(text).encode("\u00e9").ids
    )


def test_text_is_composed_before_it_is_cut(tmp_path):
    text = tokenizer_json(write(tmp_path))
    assert pieces(text, "e\u0301") == pieces(text, "\u00e9") == ["Ã", "©"]


@pytest.mark.parametrize("said", ["", "hello", " hello\n", "12 l'ré 你好 \U0001f399<|EOT|>!"])
def test_what_is_encoded_decodes_to_itself(tmp_path, said):
    loaded = tokenizers.Tokenizer.from_str(tokenizer_json(write(tmp_path, {"<|EOT|>": FIRST})))
    assert loaded.decode(loaded.encode(said).ids, skip_special_tokens=False) == said


@pytest.mark.parametrize("gap", [0, 1, 2000])
def test_added_tokens_keep_their_ids_also_behind_a_gap(tmp_path, gap):
    added = {"<audio_patch>": FIRST + 1 + gap, "<|EOT|>": FIRST}
    text = tokenizer_json(write(tmp_path, added))
    loaded = tokenizers.Tokenizer.from_str(text)

    for token, number in added.items():
        assert token_id(text, token) == number == loaded.token_to_id(token)
    assert loaded.encode("hello<|EOT|><audio_patch>").ids[1:] == [FIRST, FIRST + 1 + gap]
    assert loaded.decode([FIRST + 1 + gap]) == "<audio_patch>"


def test_added_tokens_come_from_either_list(tmp_path):
    text = tokenizer_json(write(tmp_path, {"<tts_end>": FIRST + 1}, {str(FIRST): EOT}))
    assert (token_id(text, "<|EOT|>"), token_id(text, "<tts_end>")) == (FIRST, FIRST + 1)
    loaded = tokenizers.Tokenizer.from_str(text)
    # Special says: left out of decoded text. added_tokens.json alone does not say it.
    assert loaded.decode([FIRST, FIRST + 1]) == "<tts_end>"


def test_special_tokens_map_says_which_added_tokens_are_special(tmp_path):
    write(tmp_path, {"<a>": FIRST, "<b>": FIRST + 1, "<c>": FIRST + 2})
    named = {"eos_token": {"content": "<a>"}, "additional_special_tokens": ["<b>"]}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(named))
    loaded = tokenizers.Tokenizer.from_str(tokenizer_json(tmp_path))
    assert loaded.decode([FIRST, FIRST + 1, FIRST + 2]) == "<c>"


def test_the_same_tokenizer_gives_the_same_bytes_in_any_file_order(tmp_path):
    added = {"<a>": FIRST, "<b>": FIRST + 1}
    first = tokenizer_json(write(tmp_path / "one", added))
    second = write(tmp_path / "two", dict(reversed(added.items())))
    vocabulary = json.loads((second / "vocab.json").read_text(encoding="utf-8"))
    (second / "vocab.json").write_text(json.dumps(dict(reversed(vocabulary.items()))), encoding="utf-8")
    assert tokenizer_json(second) == first


def test_a_token_that_is_no_added_token_is_found_in_the_vocabulary(tmp_path):
    assert token_id(tokenizer_json(write(tmp_path)), "hello") == tokenizers.Tokenizer.from_str(
        tokenizer_json(tmp_path)
    ).token_to_id("hello")


def test_a_missing_special_token_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"^tokenizer\.json: no special token <\|BOT\|>"):
        token_id(tokenizer_json(write(tmp_path)), "<|BOT|>")


def test_two_tokens_with_one_id_are_refused(tmp_path):
    assert "share id 5" in refusal(write(tmp_path, {"<a>": 5}))


def test_two_lists_that_disagree_are_refused(tmp_path):
    line = refusal(write(tmp_path, {"<|EOT|>": FIRST + 3}, {str(FIRST): EOT}))
    assert f"<|EOT|> has id {FIRST + 3}, tokenizer_config.json says {FIRST}" in line


def test_a_published_tokenizer_whose_ids_would_move_is_refused(tmp_path):
    content = json.loads(tokenizer_json(write(tmp_path, {"<a>": FIRST})))
    content["added_tokens"][0]["id"] = FIRST + 7
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    assert f"<a> has id {FIRST + 7}, loads as {FIRST}" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("tokenizer.json", "{}", "not a tokenizer"),
        ("tokenizer.json", "[]", "must be an object"),
        ("tokenizer.json", "", "not readable as JSON"),
        ("vocab.json", '{"a": -1}', "an id is not a whole number"),
        ("vocab.json", '{"a": "1"}', "an id is not a whole number"),
        ("merges.txt", "#version: 0.2\nh e\nh e l\n", "line 3 is 'h e l', must be two pieces"),
        ("merges.txt", "h\n", "line 1 is 'h', must be two pieces"),
        ("merges.txt", "h e\nzz z\n", "not a tokenizer"),
        ("added_tokens.json", '{"<a>": "x"}', "must be a whole number"),
        ("tokenizer_config.json", '{"added_tokens_decoder": []}', "added_tokens_decoder is not readable"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"x": {"content": "y"}}}', "not readable"),
        ("tokenizer_config.json", '{"tokenizer_class": "GPT2Tokenizer"}', "GPT2Tokenizer needs a tokenizer.json"),
    ],
)
def test_a_damaged_tokenizer_file_is_refused(tmp_path, file, text, said):
    write(tmp_path, {})
    (tmp_path / file).write_text(text)
    line = refusal(tmp_path)
    assert said in line
    assert str(tmp_path) in line


@pytest.mark.parametrize("file", ["vocab.json", "merges.txt"])
def test_a_missing_tokenizer_file_is_named(tmp_path, file):
    write(tmp_path)
    (tmp_path / file).unlink()
    assert file in refusal(tmp_path)


def published(folder: Path, **changes: object) -> Path:
    """Write a tokenizer.json that was changed; returns the folder."""
    content = json.loads(tokenizer_json(write(folder / "parts", {"<|EOT|>": FIRST})))
    (folder / "tokenizer.json").write_text(json.dumps(content | changes))
    return folder


def test_what_makes_the_library_panic_is_refused(tmp_path):
    template = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "x", "type_id": 0}}], "pair": []}
    prefixed = {
        "type": "BPE",
        "vocab": {"A": 0, "a": 1},
        "merges": [["A", "a"]],
        "continuing_subword_prefix": "x" * 100,
    }
    for changes in ({"model": prefixed, "pre_tokenizer": None, "added_tokens": []}, {"post_processor": template}):
        assert "not a tokenizer" in refusal(published(tmp_path, **changes))


def test_a_map_of_characters_that_is_shorter_than_it_says_does_not_end_the_process(tmp_path):
    for charsmap in ("AAAA/w==", "////fwAAAAA=", "", "!", None, 7, "AAAAAAAAAAA="):
        precompiled = {"type": "Precompiled", "precompiled_charsmap": charsmap}
        inside = {"type": "Sequence", "normalizers": [{"type": "NFC"}, precompiled]}
        for normalizer in (precompiled, inside):
            assert "precompiled_charsmap is damaged" in refusal(published(tmp_path, normalizer=normalizer))


def test_a_tokenizer_whose_texts_grow_without_bound_is_refused_before_a_text_is_read(tmp_path):
    steps = [{"type": "Replace", "pattern": {"Regex": "."}, "content": "x"}]
    steps += [{"type": "Replace", "pattern": {"String": "x"}, "content": "x" * 10}] * 5
    normalizer = {"type": "Sequence", "normalizers": steps}
    decoder = {"type": "Sequence", "decoders": [{"type": "Fuse"}, *steps]}
    line = refusal(published(tmp_path, normalizer=normalizer))
    assert line.startswith(f"{tmp_path / 'tokenizer.json'}: not a tokenizer (a text may grow ")
    assert line.endswith(" are taken); fetch the file again")
    assert "not a tokenizer (a token may become " in refusal(published(tmp_path, decoder=decoder))


def test_a_token_that_is_as_long_as_a_book_is_refused(tmp_path):
    token = {**EOT, "id": FIRST, "content": "y" * 100_000}
    assert "an added token of 100000 characters, at most 1000" in refusal(published(tmp_path, added_tokens=[token]))
    model = {"type": "BPE", "vocab": {"y" * 100_000: 0}, "merges": []}
    line = refusal(published(tmp_path, model=model, added_tokens=[]))
    assert "a token of 100000 characters, at most 1000" in line


def test_a_length_that_every_text_was_brought_to_is_forgotten(tmp_path):
    padding = {
        "strategy": {"Fixed": 10**12}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0,
        "pad_token": "a",
    }  # fmt: skip
    truncation = {"direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 0}
    text = tokenizer_json(published(tmp_path, padding=padding, truncation=truncation))
    (tmp_path / "written.json").write_text(text)
    loaded = Tokenizer(tmp_path / "written.json")
    assert loaded.decode(loaded.encode("hello hello")) == "hello hello"


@pytest.mark.parametrize("number", [-1, 2**31, 10**30, True, 1.0, "5", None])
def test_an_id_that_no_vocabulary_has_is_refused(number, tmp_path):
    token = {**EOT, "id": number}
    assert "tokenizer.json: added_tokens has" in refusal(published(tmp_path, added_tokens=[token]))
    write(tmp_path / "other", {"<|EOT|>": number})
    assert f"<|EOT|> has id {number!r}, must be a whole number" in refusal(tmp_path / "other")
    vocabulary = json.loads((tmp_path / "other/vocab.json").read_text()) | {"hell": number}
    write(tmp_path / "third")
    (tmp_path / "third/vocab.json").write_text(json.dumps(vocabulary))
    assert "an id is not a whole number from 0" in refusal(tmp_path / "third")


@pytest.mark.parametrize("added", [7, "x", {"a": 1}, [None], [[]], [{"id": 1}], [{"content": 3, "id": 3}]])
def test_added_tokens_of_another_form_are_refused(added, tmp_path):
    assert "tokenizer.json: added_tokens has" in refusal(published(tmp_path, added_tokens=added))
    with pytest.raises(CheckpointError, match="added_tokens has"):
        token_id(json.dumps({"added_tokens": added}), "<|EOT|>")


def test_a_tokenizer_that_is_a_fifo_or_has_half_a_surrogate_is_refused(tmp_path):
    os.mkfifo(tmp_path / "tokenizer.json")
    assert "Is a FIFO, must be a regular file" in refusal(tmp_path)
    folder = write(tmp_path / "parts")
    (folder / "vocab.json").write_text('{"\\ud800": 0}')
    assert "vocab.json: not readable as JSON" in refusal(folder)
    (folder / "vocab.json").write_text('{"a": 0}')
    (folder / "merges.txt").unlink()
    os.mkfifo(folder / "merges.txt")
    assert "Is a FIFO" in refusal(folder)
