"""Ogg: pages, of which each says whose it is and whether it is the last. Source: RFC 3533, sections 4 and 6.

libsndfile hears the first of streams that follow each other, and takes a missing last page for the end.
"""

from dataclasses import dataclass, field

from edgekit.runtime.audio.containers.passage import Passage, Window

_MAGIC = b"OggS"
_FIRST, _LAST = 2, 4


@dataclass(slots=True)
class _Link:
    """Streams side by side, from their first pages to their last."""

    start: int
    open: set[int] = field(default_factory=set)
    begun: bool = False  # the first pages stand before all others

    def passage(self, end: int, *, whole: bool) -> Passage:
        truncated = "" if whole and not self.open else "its last page is not there"
        return Passage((range(self.start, end),), end, truncated=truncated)


def look(window: Window, start: int) -> list[Passage]:
    """Return the passages in Ogg from ``start`` on, none if that is no Ogg."""
    if window.at(start, 4) != _MAGIC:
        return []
    passages, link, at, whole = [], _Link(start), start, True
    while at < window.size:
        head = window.at(at, 27 + 255)
        segments = head[27 : 27 + head[26]] if len(head) > 26 else b""
        length = 27 + len(segments) + sum(segments)
        if head[:4] != _MAGIC[: len(head)] or (len(head) >= 27 and at + length <= window.size and head[4]):
            following = window.find(_MAGIC, at + 1)  # damage between pages
            if following == window.size:
                break
            at = following
            continue
        if len(head) < 27 or len(segments) < head[26] or at + length > window.size:
            whole = False
            break
        flags, serial = head[5], int.from_bytes(head[14:18], "little")
        if flags & _FIRST and link.begun:
            passages.append(link.passage(at, whole=True))
            link = _Link(at)
        if flags & _FIRST:
            link.open.add(serial)
        else:
            link.begun = True
        if flags & _LAST:
            link.open.discard(serial)
        at += length
    passages.append(link.passage(at if whole else window.size, whole=whole))
    return passages
