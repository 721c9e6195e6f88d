"""When words were said: the cheapest way through a picture, and how tokens make words."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.runtime.answer.times.alignment import WordSpan, attention, path, timed_words, token_starts, words


def plain_path(cost):
    """Return rows and columns of the cheapest monotone way, cell by cell."""
    n, m = cost.shape
    best = [[float(cost[0, 0])] * m for _ in range(n)]
    came = {}
    for row in range(n):
        for column in range(m):
            before = [(row - 1, column - 1), (row - 1, column), (row, column - 1)]
            ways = [place for place in before if min(place) >= 0]
            if ways:
                came[row, column] = min(ways, key=lambda place: best[place[0]][place[1]])
                best[row][column] = float(cost[row, column]) + best[came[row, column][0]][came[row, column][1]]
    way = [(n - 1, m - 1)]
    while way[-1] in came:
        way.append(came[way[-1]])
    return [list(axis) for axis in zip(*way[::-1], strict=True)]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.integers(1, 17), st.integers(1, 23), st.integers(0, 2**31), st.sampled_from([2, 1000]))
def test_the_way_is_the_cheapest_one(n, m, seed, kinds):
    cost = np.random.default_rng(seed).integers(-kinds, kinds, (n, m)).astype(np.float32)
    rows, columns = path(cost)
    assert [rows.tolist(), columns.tolist()] == plain_path(cost)


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (5, 0)])
def test_there_is_no_way_through_nothing(shape):
    rows, columns = path(np.zeros(shape, np.float32))
    assert len(rows) == len(columns) == 0


@pytest.mark.parametrize("shape", [(1, 1), (5, 1), (1, 5), (9, 4), (4, 9)])
def test_every_token_begins_somewhere_and_none_before_the_one_before(shape):
    starts = token_starts(np.random.default_rng(1).normal(size=shape))
    assert len(starts) == shape[0]
    assert starts[0] == 0
    assert (np.diff(starts) >= 0).all()
    assert starts[-1] < shape[1]


def picture(starts, positions):
    """Return what attends to each position from its start to the next one's."""
    edges = [*starts, positions]
    return np.array([[1.0 * (a <= at < b) for at in range(positions)] for a, b in itertools.pairwise(edges)])


def test_words_begin_and_end_where_their_tokens_do():
    # three tokens and the end of the answer, which is looked for behind the last word
    assert timed_words(picture([0, 10, 25, 40], 60), [(" one", 1), (" two", 2)], 0.02) == [
        WordSpan(" one", 0, 1, 0.0, pytest.approx(0.2)),
        WordSpan(" two", 1, 3, pytest.approx(0.2), pytest.approx(0.8)),
    ]


def test_no_word_holds_silence():
    """The median is 0.2 s: none is longer than 0.4 s, the first ends where it does, others begin where they do."""
    found = timed_words(picture([0, 50, 60, 70, 170], 200), [(" a", 1), (" b", 1), (" c", 1), (" d", 1)], 0.02)
    bounds = [(round(word.start_s, 2), round(word.end_s, 2)) for word in found]
    assert bounds[1:3] == [(1.0, 1.2), (1.2, 1.4)]
    limit = 2 * min(0.7, np.median([1.0, 0.2, 0.2, 2.0]))
    assert bounds[0] == (pytest.approx(1.0 - min(limit, 1.0), abs=0.01), 1.0)
    assert bounds[3] == (1.4, pytest.approx(1.4 + limit, abs=0.01))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.integers(1, 4), max_size=9), st.integers(1, 40), st.integers(0, 2**31))
def test_times_of_any_picture_are_in_order_and_inside(counts, positions, seed):
    rows = sum(counts) + 1
    random = np.random.default_rng(seed).normal(size=(rows, positions))
    found = timed_words(random, [(f"w{at}", count) for at, count in enumerate(counts)], 0.02)
    assert [(word.start, word.stop) for word in found] == [
        (sum(counts[:at]), sum(counts[: at + 1])) for at in range(len(counts))
    ]
    for before, word in itertools.pairwise(found):
        assert before.end_s <= word.start_s + 1e-9
    assert all(0 <= word.start_s <= word.end_s <= positions * 0.02 for word in found)


def by_letter(text):
    """Return tokens of one byte each and what decodes them, as byte-level tokenizers do."""
    return list(text.encode())


def decode(tokens):
    return bytes(tokens).decode("utf-8", "replace")


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("", "en", []),
        (" Hello, world.", "en", [" Hello,", " world."]),
        (' "Hello," he said - (or so).', "en", [' "Hello,"', " he", " said", " - (or", " so)."]),
        (" Don't pay 3.50 at twenty-five past.", None, [" Don't", " pay", " 3.50", " at", " twenty-five", " past."]),
        (" ¿Qué tal? ¡Bien!", "es", [" ¿Qué", " tal?", " ¡Bien!"]),
        (" « Oui », dit-il !", "fr", [" « Oui »,", " dit-il !"]),
        (" Ёлка, ёж.", "ru", [" Ёлка,", " ёж."]),
        (" 안녕 하세요.", "ko", [" 안녕", " 하세요."]),
        ("...", "en", ["..."]),
        (" (", "en", [" ("]),
        ("你好、世界。", "zh", ["你", "好、", "世", "界。"]),
        ("「はい」、と。", "ja", ["「は", "い」、", "と。"]),
        ("สวัสดี", "th", list("สวัสดี")),
        ("你好、世界。", "en", ["你好、", "世界。"]),  # another language than it was taken for
        ("😀 a", "en", ["😀", " a"]),
    ],
)
def test_words_have_the_punctuation_beside_them(text, language, expected):
    pieces = words(by_letter(text), decode, language)
    assert [piece for piece, _ in pieces] == expected
    assert [count for _, count in pieces] == [len(piece.encode()) for piece in expected]


def test_words_between_spaces_are_those_of_the_text():
    text = " It's Mr. O'Neill's e-mail: a.b@c.de, 100% (well... 99.5%) \"so\" it's said; isn't it?"
    assert [piece.strip() for piece, _ in words(by_letter(text), decode, "en")] == text.split()


@pytest.mark.parametrize("language", ["zh", "en"])
@pytest.mark.parametrize(
    "broken", [b"a\xe4 b c d", b"\xe4\xb8a b", b"a \xff\xfe b", b"a b\xe4\xb8", b"\xe4", "a \ufffd b c".encode()]
)
def test_bytes_that_are_no_character_swallow_no_words_behind_them(broken, language):
    pieces = words(list(broken), decode, language)
    assert "".join(piece for piece, _ in pieces) == decode(broken)
    assert sum(count for _, count in pieces) == len(broken)
    expected = decode(broken) if language == "zh" else decode(broken).split()
    assert len(pieces) == len(expected)


def test_tokens_that_hold_parts_of_two_characters_stay_together():
    parts = ["你".encode()[:2], "你".encode()[2:] + "好".encode()[:1], "好".encode()[1:], b"a"]
    found = words(range(4), lambda tokens: b"".join(parts[one] for one in tokens).decode("utf-8", "replace"), "zh")
    assert found == [("你好", 3), ("a", 1)]


def test_tokens_without_a_text_belong_to_a_word():
    texts = ["", " a", "", " b", ""]
    found = words(range(5), lambda tokens: "".join(texts[one] for one in tokens), "en")
    assert found == [(" a", 2), (" b", 3)]
    assert words(range(2), lambda _: "", "en") == [("", 2)]


@pytest.mark.parametrize("positions", [1, 2, 3, 4, 7, 50])
def test_attention_of_any_length_has_its_shape_and_is_finite(positions):
    random = np.random.default_rng(2)
    queries = random.normal(size=(5, 3, 8)).astype(np.float16)
    keys = [random.normal(size=(60, 8)).astype(np.float16) for _ in range(3)]
    found = attention(queries, keys, positions)
    assert found.shape == (5, positions)
    assert np.isfinite(found).all()


def test_attention_looks_at_the_positions_that_were_heard_alone():
    random = np.random.default_rng(2)
    queries, keys = random.normal(size=(5, 2, 8)), [random.normal(size=(60, 8)) for _ in range(2)]
    short = [key[:20] for key in keys]
    np.testing.assert_array_equal(attention(queries, keys, 20), attention(queries, short, 20))


def test_half_precision_gives_the_times_of_single():
    random = np.random.default_rng(3)
    keys = [random.normal(size=(80, 8)).astype(np.float16) for _ in range(2)]
    queries = np.stack([np.stack([key[at * 8 + 4] for key in keys]) for at in range(9)]).astype(np.float16) * 4
    half = attention(queries, keys, 80)
    single = attention(queries.astype(np.float32), [key.astype(np.float32) for key in keys], 80)
    assert token_starts(-half).tolist() == token_starts(-single).tolist()


def test_the_way_of_an_answer_that_was_cut_ends_where_its_last_token_was_said():
    cost = np.full((3, 40), 1.0)
    for token, at in enumerate((2, 6, 10)):
        cost[token, at : at + 4] = -5.0
    _, whole = path(cost)
    rows, columns = path(cost, whole=False)
    assert whole[-1] == 39
    assert (rows[-1], columns[-1]) == (2, 13)
    assert token_starts(cost, whole=False).tolist() == [*token_starts(cost).tolist()[:2], 10]


def test_the_words_of_an_answer_that_was_cut_are_not_spread_over_all_of_the_sound():
    picture = np.full((3, 500), -0.1)
    for token, at in enumerate((0, 20, 40)):
        picture[token, at : at + 20] = 3.0
    pieces = [("one", 1), (" two", 1)]
    assert timed_words(picture, pieces, 0.02, whole=False)[-1].end_s <= 0.82
