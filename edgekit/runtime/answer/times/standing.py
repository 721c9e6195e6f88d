"""Standing: what of an answer to a long stretch of speech stands, and where the next answer goes on.

The end of a full piece of sound falls into a sentence, often into a word; small models also skip what they hear twice,
or say one phrase for ever. What is certain is kept, and the rest of the sound is heard again as the beginning of the
next piece. Knows times of words and segments; nothing of tokens' meaning, nor of sound.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from edgekit.runtime.answer.answerer import Own
from edgekit.runtime.answer.times.alignment import WordSpan
from edgekit.runtime.answer.times.timestamps import TextSpan

EDGE_S = 0.5  # what ends so close to the end of the sound may have been cut there
_GAP_S = 2.0  # without a word in the midst of speech: something was skipped
_LEAST_S, _LEAST_SHARE = 5.0, 1 / 3  # of the sound, to be behind before the rest is heard again


@dataclass(frozen=True, slots=True)
class Standing:
    """Tokens ``start`` to ``stop`` of an answer stand; the next one goes on at ``resume_s``, None: at its end.

    ``skips``: sound before ``resume_s`` of which nothing stands is not heard again: too little would be behind.
    """

    start: int
    stop: int
    resume_s: float | None = None
    skips: bool = False


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


def before_rest(segments: Sequence[TextSpan], heard_s: float) -> Standing | None:
    """Return what stands where the model ended long before the sound, which ends with speech; None if it did not."""
    last = segments[-1] if segments else None
    if last is None or heard_s - last.end_s <= _GAP_S or last.end_s < _least_s(heard_s):
        return None
    return Standing(0, last.stop, last.end_s)


def of_words(words: Sequence[WordSpan], tokens: int, heard_s: float, own: Own | None, *, full: bool) -> Standing:
    """Return what stands of an answer of so many tokens: the words that are its own, up to where some were skipped.

    full: speech goes on behind ``own``, or behind the sound. An answer that has no such end keeps its last word.
    """
    if not words:
        return Standing(0, tokens)
    first, end_s = own or (0.0, heard_s)
    inside = [word for word in words if first <= middle(word) < end_s]
    if not inside:
        return Standing(0, 0)
    ends = [word.start_s for word in inside[1:]] + ([min(end_s, heard_s)] if full else [])
    for at, next_s in enumerate(ends):
        if next_s - max(inside[at].end_s, _least_s(heard_s)) > _GAP_S:
            return _up_to(inside[: at + 1], next_s, heard_s)
    return Standing(inside[0].start, inside[-1].stop)


def before_edge(words: Sequence[WordSpan], tokens: int, heard_s: float) -> Standing:
    """Return what stands where the end of the sound cuts a word: those that end well before it."""
    whole = [word for word in words if word.end_s <= heard_s - EDGE_S]
    next_s = words[len(whole)].start_s if len(whole) < len(words) else heard_s
    return _up_to(whole, next_s, heard_s) if whole else Standing(0, tokens)


def before_loop(words: Sequence[WordSpan], loop: range, own: Own | None, heard_s: float) -> Standing:
    """Return what stands of an answer that began to repeat tokens ``loop``: the words that came before.

    Where that is too little the phrase stands once, and its sound is not heard again.
    """
    counted = [word for word in words if own is None or own[0] <= middle(word)]
    before = [word for word in counted if word.stop <= loop.start]
    if not before or before[-1].end_s < _least_s(heard_s):
        first = counted[0].start if counted else loop.start
        return Standing(0 if own is None or not words else min(first, loop.start), loop.stop)
    return _up_to(before, heard_s, heard_s)


def shown(stands: Standing, first: int, stop: int, words: Sequence[WordSpan], heard_s: float) -> Standing:
    """Return what stands where tokens ``first`` to ``stop`` were promised to: no less than these.

    Their sound is not heard again. Where that begins is known by ``words``.
    """
    if stop <= stands.stop:
        return replace(stands, start=first)
    if stands.resume_s is None:
        return Standing(first, stop)
    behind = [word.end_s for word in words if word.start < stop]
    return Standing(first, stop, min(heard_s, max(stands.resume_s, *behind)) if behind else stands.resume_s)


def _up_to(words: Sequence[WordSpan], next_s: float, heard_s: float) -> Standing:
    """Return that words stand, and the sound behind them is to be heard again.

    next_s: where the next word begins. Where none follows at once, nobody knows the end of the last one, only where it
    begins: it is heard again as well.
    """
    last, least_s = words[-1], _least_s(heard_s)
    if len(words) > 1 and next_s > last.end_s and last.start_s >= least_s:
        return Standing(words[0].start, words[-2].stop, last.start_s)
    return Standing(words[0].start, last.stop, max(last.end_s, least_s), skips=last.end_s < least_s)


def middle(word: WordSpan) -> float:
    """Return the second in the middle of a word: it tells to whom a word belongs that is heard twice."""
    return (word.start_s + word.end_s) / 2


def _least_s(heard_s: float) -> float:
    """Return how much of the sound has to be behind for the rest to be heard again."""
    return min(_LEAST_S, heard_s * _LEAST_SHARE)
