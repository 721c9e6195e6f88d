"""Alignment: when each word of an answer was said, from what the backbone's cross-attention looked at.

Some heads of a decoder follow the words through the sound. Their attention over all tokens is one picture, and the
cheapest monotone way through it gives each token its time. Source: Whisper, timing.py (find_alignment, dynamic time
warping after Giorgino 2009); the queries come from the backbone, and the keys from the cross-KV that it read.
"""

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from edgekit.runtime.answer.text import UNFINISHED
from edgekit.runtime.engine import Array

_FILTER = 7  # positions of the median; Whisper's
_USUAL_S = 0.7  # a word's length at most, of which no word has more than the double; Whisper's
_UNSPACED = frozenset({"zh", "ja", "th", "lo", "my", "yue"})  # languages written without spaces between words


@dataclass(frozen=True, slots=True)
class WordSpan:
    """A word: tokens ``start`` to ``stop`` of an answer, its text, and when it was said, in seconds of its sound."""

    text: str
    start: int
    stop: int
    start_s: float
    end_s: float


def queries_of(written: Array, alignment: Sequence[tuple[int, int]], heads: int, head_dim: int) -> Array:
    """Return the queries (tokens, n, head_dim) of n heads.

    written: (tokens, layers * heads * head_dim), those of all heads of the layers that ``alignment`` names, in order.
    """
    layers = sorted({layer for layer, _ in alignment})
    places = [layers.index(layer) * heads + head for layer, head in alignment]
    return written.reshape(len(written), -1, head_dim)[:, places]


def attention(queries: Array, keys: Sequence[Array], positions: int) -> Array:
    """Return how each token attends to sound, (tokens, positions), as mean of normalised and smoothed heads.

    queries: (tokens, heads, head_dim), scaled by nothing yet; keys: (positions or more, head_dim) of each head.
    """
    scale = queries.shape[2] ** -0.5
    total = np.zeros((len(queries), positions), np.float32)
    for head, key in enumerate(keys):
        scores = queries[:, head].astype(np.float32) @ key[:positions].astype(np.float32).T * np.float32(scale)
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        weights /= weights.sum(axis=1, keepdims=True)
        deviation = weights.std(axis=0)
        weights = (weights - weights.mean(axis=0)) / np.where(deviation > 0, deviation, 1)
        total += _smoothed(weights)
    return total / max(1, len(keys))


def path(cost: Array, *, whole: bool = True) -> tuple[Array, Array]:
    """Return the cheapest monotone way through ``cost`` (n, m) from corner to corner, as indices of both axes.

    Each step goes on by one in the first axis, in the second or in both, which is taken first where they cost the
    same. Unless it is ``whole`` it ends anywhere in the second axis.
    """
    n, m = cost.shape
    best = np.full((n + 1, m + 1), np.inf)
    step = np.zeros((n + 1, m + 1), np.int8)
    best[0, 0] = 0.0
    for diagonal in range(2, n + m + 1):  # all cells of one are independent
        rows = np.arange(max(1, diagonal - m), min(n, diagonal - 1) + 1)
        columns = diagonal - rows
        ways = np.stack((best[rows - 1, columns - 1], best[rows - 1, columns], best[rows, columns - 1]))
        chosen = ways.argmin(axis=0)
        best[rows, columns] = cost[rows - 1, columns - 1] + ways[chosen, np.arange(len(rows))]
        step[rows, columns] = chosen
    taken = []
    row, column = n, m if whole or not n else 1 + int(best[n, 1:].argmin())
    while row and column:
        taken.append((row - 1, column - 1))
        move = step[row, column]
        row, column = row - (move != 2), column - (move != 1)
    rows_taken, columns_taken = np.array(taken[::-1], np.int64).reshape(-1, 2).T
    return rows_taken, columns_taken


def token_starts(cost: Array, *, whole: bool = True) -> Array:
    """Return the position (n,) where each token of ``cost`` (n, positions) begins; see ``path``."""
    rows, columns = path(cost, whole=whole)
    first = np.ones(len(rows), bool)
    first[1:] = np.diff(rows) > 0
    starts: Array = columns[first]
    return starts


def timed_words(
    picture: Array, pieces: Sequence[tuple[str, int]], position_s: float, *, whole: bool = True
) -> list[WordSpan]:
    """Return when each word was said. picture: (tokens + 1, positions), the last row of the end of the answer.

    whole: the answer is of all of the sound, and not of its beginning alone.
    pieces: words with their numbers of tokens. A word holds no silence: none is longer than twice the median, the first
    one ends where it does, and each other one begins where it does. One that seems to take no time began in the silence
    before it.
    """
    starts = token_starts(-picture, whole=whole) * position_s
    edges = np.concatenate(([0], np.cumsum([count for _, count in pieces], dtype=np.int64)))
    begun, ended = starts[edges[:-1]], starts[edges[1:]]
    lengths = (ended - begun)[ended > begun]
    longest = 2 * min(_USUAL_S, float(np.median(lengths))) if len(lengths) else 0.0
    found: list[WordSpan] = []
    for index, (text, _) in enumerate(pieces):
        start_s, end_s = float(begun[index]), float(ended[index])
        if longest and end_s - start_s > longest:
            start_s, end_s = (end_s - longest, end_s) if index == 0 else (start_s, start_s + longest)
        if found and end_s - start_s < position_s:
            start_s = max(found[-1].end_s, start_s - longest / 2)
        found.append(WordSpan(text, int(edges[index]), int(edges[index + 1]), start_s, end_s))
    return found


def words(tokens: Sequence[int], decode: Callable[[Sequence[int]], str], language: str | None) -> list[tuple[str, int]]:
    """Return the words of an answer, each with its number of tokens: punctuation belongs to the word beside it."""
    pieces = _characters(tokens, decode)
    if language not in _UNSPACED:
        pieces = _spaced(pieces)
    return _punctuated(pieces)


def _characters(tokens: Sequence[int], decode: Callable[[Sequence[int]], str]) -> list[tuple[str, int]]:
    """Return the shortest runs of tokens that are whole characters; tokens without a text belong to what follows.

    Bytes that are no character, as models write them at times, are one for themselves.
    """
    whole, at = decode(tokens), 0
    pieces: list[tuple[str, int]] = []
    run: list[int] = []
    for index, token in enumerate(tokens):
        run.append(token)
        text = decode(run)
        if UNFINISHED in text and not whole.startswith(text, at):
            text = decode(tokens[: index + 1])
            text = text[at:] if whole.startswith(text) else ""
        if text:
            pieces.append((text, len(run)))
            at, run = at + len(text), []
    if run and pieces and not whole[at:]:
        pieces[-1] = (pieces[-1][0], pieces[-1][1] + len(run))
    elif run:
        pieces.append((whole[at:], len(run)))
    return pieces


def _spaced(pieces: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
    """Join the pieces that no space stands before, unless the one before ends with punctuation that takes none."""
    joined: list[tuple[str, int]] = []
    for text, count in pieces:
        if joined and not text[:1].isspace() and not _is_wide(joined[-1][0]):
            before, tokens = joined[-1]
            joined[-1] = (before + text, tokens + count)
        else:
            joined.append((text, count))
    return joined


def _punctuated(pieces: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
    """Join punctuation with the word before it, opening punctuation with the one behind."""
    joined: list[tuple[str, int]] = []
    opening: tuple[str, int] = ("", 0)
    for text, count in pieces:
        punctuation = _is_punctuation(text)
        if punctuation and _opens(text.strip(), alone=text[:1].isspace() or not joined):
            opening = (opening[0] + text, opening[1] + count)
        elif punctuation and joined and not opening[1]:
            joined[-1] = (joined[-1][0] + text, joined[-1][1] + count)
        else:
            joined.append((opening[0] + text, opening[1] + count))
            opening = ("", 0)
    if opening[1]:
        joined.append(opening)
    return joined


def _is_punctuation(text: str) -> bool:
    stripped = text.strip()
    return bool(stripped) and all(unicodedata.category(one).startswith("P") for one in stripped)


def _is_wide(text: str) -> bool:
    return _is_punctuation(text[-1:]) and unicodedata.east_asian_width(text[-1]) in "WF"


def _opens(text: str, *, alone: bool) -> bool:
    """Return whether punctuation belongs to the word behind it: some only where it stands ``alone``, after a space."""
    kinds, marks = ({"Ps", "Pi", "Pd"}, "\"'¿¡") if alone else ({"Ps", "Pi"}, "¿¡")
    return all(unicodedata.category(one) in kinds or one in marks for one in text)


def _smoothed(weights: Array) -> Array:
    """Return the running median along the last axis, the ends reflected."""
    half = _FILTER // 2
    if weights.shape[1] <= half:
        return weights
    padded = np.pad(weights, ((0, 0), (half, half)), mode="reflect")
    smoothed: Array = np.median(np.lib.stride_tricks.sliding_window_view(padded, _FILTER, axis=1), axis=-1)
    return smoothed
