"""Greedy choice under the protocol's masks, and text that appears token by token."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tokenizers

from edgekit.bundle import TokenProtocol, open_bundle
from edgekit.errors import BackendError, BundleFormatError
from edgekit.runtime.answer.sampler import Greedy
from edgekit.runtime.answer.text import Detokenizer, Tokenizer, load_tokenizer

SIZE = 12


def _protocol(**fields: object) -> TokenProtocol:
    return TokenProtocol(attention="cross", stop=(10,), max_tokens=1, context_tokens=1, **fields)


def _logits(*best: int) -> np.ndarray:
    """Return logits whose highest are at ``best``, in that order."""
    logits = np.random.default_rng(0).standard_normal(SIZE).astype(np.float32)
    for rank, token in enumerate(best):
        logits[token] = 100.0 - rank
    return logits


def test_without_masks_the_highest_logit_wins_and_the_first_of_equals() -> None:
    greedy = Greedy(_protocol())
    assert greedy.pick(_logits(7), []) == 7
    assert greedy.pick(np.zeros(SIZE, np.float32), [0]) == 0


def test_masks_pass_on_to_the_best_allowed_token_and_leave_the_logits_alone() -> None:
    greedy = Greedy(_protocol(suppress=(3, 4), begin_suppress=(5,), vocabulary_limit=8))
    logits = _logits(11, 3, 9, 4, 5, 6)
    kept = logits.copy()
    assert greedy.pick(logits, []) == 6
    assert greedy.pick(logits, [0]) == 5
    np.testing.assert_array_equal(logits, kept)


def test_a_stop_token_is_allowed_behind_every_mask_but_the_first_step_s_own() -> None:
    greedy = Greedy(_protocol(suppress=(10,), vocabulary_limit=8))
    assert greedy.pick(_logits(10, 1), []) == 10
    assert greedy.pick(_logits(11, 10, 1), [0]) == 10
    published = Greedy(_protocol(begin_suppress=(10,), vocabulary_limit=8))
    assert published.pick(_logits(10, 1), []) == 1
    assert published.pick(_logits(10, 1), [0]) == 10


def test_every_choice_equals_that_of_masking_all_logits_first() -> None:
    protocol = _protocol(suppress=(0, 3, 7), begin_suppress=(1, 2, 10), vocabulary_limit=9)
    greedy = Greedy(protocol)
    rng = np.random.default_rng(1)
    for round_ in range(300):
        first = bool(round_ % 2)
        logits = rng.integers(0, 4, SIZE).astype(np.float32)  # many ties
        banned = {0, 3, 7, 9, 11} | ({1, 2, 10} if first else set())
        allowed = [token for token in range(SIZE) if token not in banned]
        assert greedy.pick(logits, [] if first else [0]) == max(allowed, key=lambda token: (logits[token], -token))


def test_logits_that_are_not_numbers_raise() -> None:
    logits = _logits(3)
    logits[5] = np.nan
    with pytest.raises(BackendError, match="NaN"):
        Greedy(_protocol()).pick(logits, [])


@pytest.fixture
def tokenizer(tiny_bundle: Callable) -> Tokenizer:
    return load_tokenizer(open_bundle(tiny_bundle().folder))


def test_special_tokens_in_a_text_are_recognised_and_none_is_added(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode("<start>hi<stop>")
    assert len(tokens) == 4
    assert min(tokens[0], tokens[3]) >= 256 > max(tokens[1:3])
    assert tokenizer.encode("") == []


@pytest.mark.parametrize("text", ["", "a", "hello", "ä", "日本語", "a😀b", "😀", "naïve café", "e\u0301", "\n \n"])
def test_pieces_are_never_half_characters_and_join_to_the_text(tokenizer: Tokenizer, text: str) -> None:
    detokenizer = Detokenizer(tokenizer)
    tokens = tokenizer.encode(text)
    assert len(tokens) == len(text.encode())  # a token per byte: every character is cut
    pieces = [detokenizer.push(token) for token in tokens]
    assert all("\ufffd" not in piece for piece in pieces)
    assert "".join(pieces) == text
    assert detokenizer.finish() == ""


def test_special_tokens_are_silent_in_the_middle_of_a_character(tokenizer: Tokenizer) -> None:
    detokenizer = Detokenizer(tokenizer)
    first, second = tokenizer.encode("ä")
    assert [detokenizer.push(token) for token in (first, 257, second, 258)] == ["", "", "ä", ""]


def test_an_unfinished_character_is_shown_as_replaced_at_the_end(tokenizer: Tokenizer) -> None:
    detokenizer = Detokenizer(tokenizer)
    assert detokenizer.push(tokenizer.encode("ä")[0]) == ""
    assert detokenizer.finish() == "\ufffd"


def test_bytes_that_never_become_a_character_do_not_hold_back_the_text(tokenizer: Tokenizer) -> None:
    detokenizer = Detokenizer(tokenizer)
    tail = tokenizer.encode("ä")[1]
    pieces = [detokenizer.push(tail) for _ in range(8)]
    assert "".join(pieces) == "\ufffd" * 8
    assert pieces[3]
    assert detokenizer.push(tokenizer.encode("x")[0]) == "x"


def test_a_long_answer_costs_the_same_per_token_at_its_end(tokenizer: Tokenizer) -> None:
    detokenizer = Detokenizer(tokenizer)
    for token in tokenizer.encode("word " * 500):
        detokenizer.push(token)
        assert len(detokenizer._tokens) <= 2


def test_words_of_a_tokenizer_that_drops_the_first_space_keep_theirs(tmp_path: Path) -> None:
    model = tokenizers.models.WordLevel({"\u2581hello": 0, "\u2581world": 1, "<unk>": 2}, unk_token="<unk>")  # noqa: S106 - no password
    stored = tokenizers.Tokenizer(model)
    stored.decoder = tokenizers.decoders.Metaspace()
    stored.save(str(tmp_path / "tokenizer.json"))
    detokenizer = Detokenizer(Tokenizer(tmp_path / "tokenizer.json"))
    assert [detokenizer.push(token) for token in (0, 1, 1)] == ["hello", " world", " world"]


def test_a_file_that_is_no_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(BundleFormatError, match="not a tokenizer"):
        Tokenizer(tmp_path / "tokenizer.json")


def test_a_tokenizer_whose_added_token_is_as_long_as_a_book_is_refused_before_it_is_built(tiny_bundle, tmp_path):
    content = json.loads((tiny_bundle().folder / "tokenizer.json").read_bytes())
    content["added_tokens"][0]["content"] = "y" * 100_000  # half a minute in the library
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(BundleFormatError, match="an added token of 100000 characters, at most 1000"):
        Tokenizer(tmp_path / "tokenizer.json")
