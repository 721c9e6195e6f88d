"""Subtitles: segments and their words as cues of SubRip (SRT) and WebVTT.

A cue is read at a glance: at most two lines of 42 letters and seven seconds, as the BBC's and Netflix's guides for
timed text have it. Sources of the forms: SubRip's own, as players read it; WebVTT, W3C Candidate Recommendation 2019.
"""

import html
import textwrap
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edgekit.runtime.events import Segment, Word

_LINE, _LINES, _LONGEST_S = 42, 2, 7.0
_PAUSE_S = 0.6  # between two words of one cue at most: a speaker's pause
_SHORTEST_S = 0.05
_ENDS = (".", "?", "!", "…", "\u3002", "\uff1f", "\uff01")  # the last three are those of Chinese and Japanese


@dataclass(frozen=True, slots=True)
class Cue:
    """A text, without line breaks, and when it is shown, in seconds."""

    start_s: float
    end_s: float
    text: str


def cues(segments: Sequence[Segment]) -> list[Cue]:
    """Return the cues of segments, in order: none is empty, and none begins before the one before it ends.

    A segment with words becomes as many as it needs, without them it is one.
    """
    found: list[Cue] = []
    for segment in segments:
        parts = _split(segment) if segment.words else iter([Cue(segment.start_s, segment.end_s, segment.text)])
        for cue in parts:
            start_s = max(cue.start_s, found[-1].end_s) if found else max(0.0, cue.start_s)
            if text := " ".join(cue.text.split()):
                found.append(Cue(start_s, max(cue.end_s, start_s + _SHORTEST_S), text))
    return found


def srt(segments: Sequence[Segment]) -> str:
    """Return a file of SubRip: numbered cues."""
    return "".join(
        f"{number}\n{_clock(cue.start_s, ',')} --> {_clock(cue.end_s, ',')}\n{_lines(cue.text)}\n\n"
        for number, cue in enumerate(cues(segments), 1)
    )


def vtt(segments: Sequence[Segment]) -> str:
    """Return a file of WebVTT; what means something in it is escaped in texts."""
    shown = (
        f"{_clock(cue.start_s, '.')} --> {_clock(cue.end_s, '.')}\n{html.escape(_lines(cue.text), quote=False)}\n\n"
        for cue in cues(segments)
    )
    return "WEBVTT\n\n" + "".join(shown)


def _split(segment: Segment) -> Iterator[Cue]:
    """Yield the cues of a segment: they end with a sentence, at a pause, or where they are full."""
    run: list[tuple[Word, int, int]] = []
    for word, start, stop in _places(segment):
        if run:
            first, text_start, _ = run[0]
            last, _, text_stop = run[-1]
            full = not _fits(segment.text[text_start:stop]) or word.end_s - first.start_s > _LONGEST_S
            if full or word.start_s - last.end_s > _PAUSE_S or last.text.endswith(_ENDS):
                yield Cue(first.start_s, last.end_s, segment.text[text_start:text_stop])
                run = []
        run.append((word, start, stop))
    if run:
        yield Cue(run[0][0].start_s, run[-1][0].end_s, segment.text[run[0][1] :])


def _places(segment: Segment) -> Iterator[tuple[Word, int, int]]:
    """Yield each word and where it stands in the text: some languages write none of them apart."""
    at = 0
    for word in segment.words:
        start = segment.text.find(word.text, at)
        start = at if start < 0 else start
        at = start + len(word.text)
        yield word, start, at


def _lines(text: str) -> str:
    """Return a text in lines, two of about the same length where one is too short for it."""
    if _width(text) <= _LINE:
        return text
    if " " not in text:
        half = -(-len(text) // 2)
        return f"{text[:half]}\n{text[half:]}" if _width(text) <= _LINE * _LINES else text
    widths = range(-(-len(text) // _LINES), _LINE + 1)  # of two lines the most even ones
    wrapped = (textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) for width in widths)
    lines = next((lines for lines in wrapped if len(lines) <= _LINES), None)
    return "\n".join(lines or textwrap.wrap(text, _LINE, break_long_words=False, break_on_hyphens=False))


def _fits(text: str) -> bool:
    """Return whether a text has room in a cue."""
    if _width(text) > _LINE * _LINES:
        return False
    return " " not in text or len(textwrap.wrap(text, _LINE)) <= _LINES


def _width(text: str) -> int:
    """Return the columns of a text: wide letters of East Asia take two."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def _clock(seconds: float, point: str) -> str:
    """Return hours, minutes, seconds and milliseconds."""
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1000:02}{point}{rest % 1000:03}"
