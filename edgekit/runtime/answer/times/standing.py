"""Standing: what of an answer to a long stretch of speech stands, and where the next answer goes on.

The end of a full piece of sound falls into a sentence, often into a word; small models also skip what they hear twice,
or say one phrase for ever. What is certain is kept, and the rest of the sound is heard again as the beginning of the
next piece. Knows times of words and segments; nothing of tokens' meaning, nor of sound.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from edgekit.runtime.answer.answerer import Own
from edgekit.runtime.answer.times.alignment import WordSpan
from edgekit.runtime.answer.times.timestamps import TextSpan

EDGE_S = 0.5  # what ends so close to the end of the sound may have been cut there
_GAP_S = 2.0  # without a word in the midst of speech: something was skipped
_LEAST_S, _LEAST_SHARE = 5.0, 1 / 3  # of the sound, to be behind before the rest is heard again


@dataclass(frozen=True, slots=True)
class Standing:
    """Tokens ``start`` to ``stop`` of an answer stand; the next one goes on at ``resume_s``, None: at its end."""

    start: int
    stop: int
    resume_s: float | None = None


def of_segments(segments: Sequence[TextSpan], heard_s: float) -> Standing | None:
    """Return what stands where speech goes on behind the sound: whole segments. None if none ends late enough.

    The last one stands if the model closed it well before the end of the sound. Source of the rule: Whisper,
    transcribe.py, which keeps one that ends with the sound, too, and so loses words.
    """
    for last in reversed(segments):
        if last.closed and last.end_s <= heard_s - EDGE_S:
            late = last.end_s >= heard_s * _LEAST_SHARE
            return Standing(0, last.stop, last.end_s) if late else None
    return None


def of_words(words: Sequence[WordSpan], tokens: int, heard_s: float, own: Own | None, *, full: bool) -> Standing:
    """Return what stands of an answer of so many tokens: the words that are its own, up to where some were skipped.

    full: speech goes on behind ``own``, or behind the sound. An answer that has no such end keeps its last word.
    """
    if not words:
        return Standing(0, tokens)
    first, end_s = own or (0.0, heard_s)
    inside = [word for word in words if first <= (word.start_s + word.end_s) / 2 < end_s]
    if not inside:
        return Standing(0, 0)
    ends = [word.start_s for word in inside[1:]] + ([min(end_s, heard_s)] if full else [])
    for word, next_s in zip(inside, ends, strict=False):
        if next_s - word.end_s > _GAP_S and _behind(word.end_s, heard_s):
            return Standing(inside[0].start, word.stop, word.end_s)
    return Standing(inside[0].start, inside[-1].stop)


def before_edge(words: Sequence[WordSpan], tokens: int, heard_s: float) -> Standing:
    """Return what stands where the end of the sound cuts a word: those that end well before it."""
    whole = [word for word in words if word.end_s <= heard_s - EDGE_S]
    return Standing(0, whole[-1].stop, whole[-1].end_s) if whole else Standing(0, tokens)


def before_loop(words: Sequence[WordSpan], loop: range, own: Own | None, heard_s: float) -> Standing | None:
    """Return what stands of an answer that began to repeat tokens ``loop``: what came before; None if too little."""
    first = own[0] if own else 0.0
    inside = [word for word in words if first <= (word.start_s + word.end_s) / 2 and word.stop <= loop.start]
    if not inside or not _behind(inside[-1].end_s, heard_s):
        return None
    return Standing(inside[0].start, inside[-1].stop, inside[-1].end_s)


def _behind(at_s: float, heard_s: float) -> bool:
    """Return whether enough of the sound is behind for the rest to be heard again."""
    return at_s >= min(_LEAST_S, heard_s * _LEAST_SHARE)
