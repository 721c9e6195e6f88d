"""What a file holds, by its bytes: one passage or several, whole or not, and how its decoder shall see each.

A header may state too few samples, or none, and libsndfile reads no more than it states; or more than are there, and
libsndfile says nothing. Each module knows some kinds of file; libsndfile is asked about all others as they are.
"""

from dataclasses import replace
from typing import BinaryIO

from edgekit.runtime.audio.containers import chunked, flac, mpeg, ogg
from edgekit.runtime.audio.containers.passage import Passage, Splice, Window, id3_bytes

__all__ = ["Passage", "Splice", "passages"]

_ID3_V1 = 128
_MOST_PASSAGES = 10_000
_NEXT_TO_NOTHING = 16  # bytes behind the end: filling, less than a millisecond


def passages(file: BinaryIO, size: int) -> list[Passage]:
    """Return the passages in a file, at least one; ``size``: its bytes. Raises ValueError for nothing but headers."""
    window = Window(file, size)
    found: list[Passage] = []
    start = 0
    while start < size:
        begin = start + id3_bytes(window.at(start, 10))
        # what begins like a kind and has nothing of it leads nowhere
        known = next((some for look in _LOOKS if (some := look(window, begin)) and some[-1].end > start), [])
        if not known:
            break
        found += known
        if len(found) > _MOST_PASSAGES:
            raise ValueError(f"more than {_MOST_PASSAGES:,} recordings joined into one")
        start = known[-1].end
    if not found:
        return [Passage((range(size),), size)]
    if start < size and (left_out := _left_out(window, start)):
        last = found[-1]
        found[-1] = replace(last, cut=last.cut or f"{left_out} bytes follow the end that its header states")
    return found


def _left_out(window: Window, start: int) -> int:
    """Return how many bytes behind the last passage may be sound, 0 where they are filling or notes."""
    count = window.size - start
    tag = window.at(start, 8)
    if count < _NEXT_TO_NOTHING or tag == b"APETAGEX" or (tag[:3] == b"TAG" and count == _ID3_V1):
        return 0
    if chunked.tiles(window, start):
        return 0
    at = start
    while at < window.size:
        if window.at(at, 1 << 16).strip(b"\0"):
            return count
        at += 1 << 16
    return 0


_LOOKS = (chunked.look, ogg.look, flac.look, mpeg.look)
