"""FLAC: a header that may not know how many samples follow, and files that were joined. Source: RFC 9639, section 8."""

from edgekit.runtime.audio.containers.passage import Passage, Window, id3_bytes

_MAGIC = b"fLaC"
_FIRST_BLOCK = b"\x00\x00\x22"  # the length of STREAMINFO, behind its type
_LONGEST_TAG = 1 << 20
_ID3_V1 = 128


def look(window: Window, start: int) -> list[Passage]:
    """Return the passages in FLAC from ``start`` on, none if that is no FLAC."""
    passages = []
    while start < window.size and _begins(window, start):
        end = min(window.size, _next(window, _frames_at(window, start)))
        stop = _without_tag(window, start, end)
        passages.append(Passage((range(start, stop),), end))
        start = end
    return passages


def _begins(window: Window, at: int) -> bool:
    head = window.at(at, 8)
    return head[:4] == _MAGIC and (at == 0 or head[4:5] in {b"\x00", b"\x80"}) and (at == 0 or head[5:] == _FIRST_BLOCK)


def _frames_at(window: Window, start: int) -> int:
    """Return where the frames begin, behind the blocks of what a file says of itself."""
    at, last = start + 4, False
    while not last and len(head := window.at(at, 4)) == 4:
        last = bool(head[0] & 0x80)
        at += 4 + int.from_bytes(head[1:], "big")
    return at


def _next(window: Window, at: int) -> int:
    while (at := window.find(_MAGIC, at)) < window.size and not _begins(window, at):
        at += 1
    return at


def _without_tag(window: Window, start: int, end: int) -> int:
    """Return where the frames end: an ID3 tag may stand between joined files, or at the end of the last."""
    if end == window.size and end - start > _ID3_V1 and window.at(end - _ID3_V1, 3) == b"TAG":
        return end - _ID3_V1
    at = max(start, end - _LONGEST_TAG)
    while (at := window.find(b"ID3", at)) < end:
        if at + id3_bytes(window.at(at, 10)) == end:
            return at
        at += 1
    return end
