"""Headers that state how many bytes follow: of WAV and its kin, AIFF, 8SVX, AU, CAF, NIST and VOC, of MP4 and AVI.

libsndfile makes do with fewer bytes than stated, and hears nothing where a header states none because it was written
before the sound and never again. Sources: the specifications of RIFF and of EBU Tech 3306 (RF64), Sony's of W64,
Apple's of AIFF and CAF, Sun's of AU.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from edgekit.runtime.audio.containers import mpeg
from edgekit.runtime.audio.containers.passage import Passage, Piece, Window

_OPEN_32 = 0x7FFF_0000  # from here on a length is what a program that writes to a pipe puts
_OPEN_64 = 1 << 62
_MOST_CHUNKS = 10_000  # before the sound: programs write a dozen
_MPEG = 0x55  # the number of MP3 in WAV
_W64_RIFF = b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00"
_W64_DATA = b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"


@dataclass(frozen=True, slots=True)
class _Chunks:
    """How a kind of file lays out its chunks.

    ``header``: bytes before the first one. ``name``, ``length``: bytes of a chunk's name and length. ``counted``: of
    these that the length counts, too. ``even``: what a chunk's bytes are filled up to a multiple of.
    """

    data: bytes
    order: Literal["little", "big"]
    header: int = 12
    name: int = 4
    length: int = 4
    counted: int = 0
    even: int = 2


_RIFF = _Chunks(b"data", "little")
_RIFX = _Chunks(b"data", "big")
_AIFF = _Chunks(b"SSND", "big")
_SVX = _Chunks(b"BODY", "big")
_CAF = _Chunks(b"data", "big", header=8, length=8, even=1)
_W64 = _Chunks(_W64_DATA, "little", header=40, name=16, length=8, counted=24, even=8)


@dataclass(frozen=True, slots=True)
class _Chunk:
    name: bytes
    at: int  # of its name
    body: int
    length: int  # of its body, as stated


def look(window: Window, start: int) -> list[Passage]:
    """Return the passage that a header at ``start`` begins, none if it is of another kind."""
    head = window.at(start, 40)
    for fits, kind in _KINDS:
        if fits(head):
            return [kind(window, start)]
    return []


def tiles(window: Window, start: int) -> bool:
    """Return whether chunks of RIFF or AIFF fill the rest of a file: notes that a program put behind the end."""
    for layout in (_RIFF, _AIFF):
        at = start
        for chunk in _chunks(window, start, layout):
            if not all(0x20 <= byte < 0x7F for byte in chunk.name):
                break
            at = _behind(chunk, layout, start)
        if window.size <= at <= window.size + 1:
            return True
    return False


def _chunks(window: Window, start: int, layout: _Chunks) -> Iterator[_Chunk]:
    """Yield the chunks of a file from ``start`` on, the last one possibly beyond its end."""
    at, head = start, layout.name + layout.length
    for _ in range(_MOST_CHUNKS):
        if len(data := window.at(at, head)) < head:
            return
        length = int.from_bytes(data[layout.name :], layout.order) - layout.counted
        chunk = _Chunk(data[: layout.name], at, at + head, max(0, length))
        yield chunk
        at = _behind(chunk, layout, start)


def _behind(chunk: _Chunk, layout: _Chunks, start: int) -> int:
    end = chunk.body + chunk.length
    return end + (start - end) % layout.even


def _wave(window: Window, start: int) -> Passage:
    """Return the passage of RIFF, RIFX, RF64 or BW64."""
    layout = _RIFX if window.at(start, 4) == b"RIFX" else _RIFF
    stated = int.from_bytes(window.at(start + 4, 4), layout.order)
    long: _Chunk | None = None
    codec = 0
    for chunk in _chunks(window, start + layout.header, layout):
        if chunk.name == b"fmt ":
            codec = int.from_bytes(window.at(chunk.body, 2), layout.order)
        elif chunk.name == b"ds64":
            long = chunk
            stated = int.from_bytes(window.at(chunk.body, 8), "little")
        elif chunk.name == layout.data:
            if long and chunk.length == 0xFFFF_FFFF:
                return _long_wave(window, start, chunk, long, stated)
            is_open = chunk.length >= _OPEN_32 and chunk.body + chunk.length > window.size
            if _is_unwritten(window, start, chunk, stated) or is_open:
                size = b"\xff\xff\xff\xff"
                return _open(window, start, [(start + 4, size), (chunk.at + 4, size)])
            found = _stated(window, start, chunk, start + 8 + stated, layout)
            return _wave_of_mpeg(window, chunk, found) if codec == _MPEG else found
    return _headless(window, start)


def _wave_of_mpeg(window: Window, chunk: _Chunk, found: Passage) -> Passage:
    """Return a passage whose sound is MP3, which libsndfile would take to be as long as its bit rate says."""
    stop = min(window.size, chunk.body + chunk.length)
    frames = mpeg.look(Window(window.file, stop), chunk.body)
    if found.truncated or len(frames) != 1:
        return found
    return replace(frames[0], end=found.end)


def _long_wave(window: Window, start: int, chunk: _Chunk, long: _Chunk, stated: int) -> Passage:
    """Return the passage of a file whose lengths are of 64 bits, in a chunk of their own."""
    length = int.from_bytes(window.at(long.body + 8, 8), "little")
    there = window.size - chunk.body
    if (length == 0 and there and start + 8 + stated != window.size) or length >= _OPEN_64:
        lengths = (window.size - start - 8).to_bytes(8, "little") + there.to_bytes(8, "little") + bytes(8)
        return _open(window, start, [(long.body, lengths)])
    return _stated(window, start, _Chunk(chunk.name, chunk.at, chunk.body, length), start + 8 + stated, _RIFF)


def _wave_64(window: Window, start: int) -> Passage:
    stated = int.from_bytes(window.at(start + 16, 8), "little")
    for chunk in _chunks(window, start + _W64.header, _W64):
        if chunk.name == _W64.data:
            if chunk.length >= _OPEN_64 or _is_unwritten(window, start, chunk, stated - 8):
                body = window.size - chunk.body
                sizes = [(start + 16, window.size - start), (chunk.at + 16, body + _W64.counted)]
                return _open(window, start, [(at, size.to_bytes(8, "little")) for at, size in sizes])
            return _stated(window, start, chunk, start + stated, _W64)
    return _headless(window, start)


def _iff(window: Window, start: int) -> Passage:
    """Return the passage of AIFF, AIFF-C or 8SVX."""
    layout = _AIFF if window.at(start + 8, 3) == b"AIF" else _SVX
    stated = int.from_bytes(window.at(start + 4, 4), "big")
    common: _Chunk | None = None
    for chunk in _chunks(window, start + layout.header, layout):
        if chunk.name == b"COMM":
            common = chunk
        elif chunk.name == layout.data:
            is_open = chunk.length >= _OPEN_32 and chunk.body + chunk.length > window.size
            if is_open or _is_unwritten(window, start, chunk, stated):
                there = window.size - chunk.body
                sizes = [(start + 4, window.size - start - 8), (chunk.at + 4, there)]
                if common:
                    facts = window.at(common.body, 8)
                    channels, bits = int.from_bytes(facts[:2], "big"), int.from_bytes(facts[6:], "big")
                    sizes.append((common.body + 2, (there - 8) // max(1, channels * ((bits + 7) // 8))))
                return _open(window, start, [(at, min(size, 0xFFFF_FFFF).to_bytes(4, "big")) for at, size in sizes])
            return _stated(window, start, chunk, start + 8 + stated, layout)
    return _headless(window, start)


def _caf(window: Window, start: int) -> Passage:
    for chunk in _chunks(window, start + _CAF.header, _CAF):
        if chunk.name == _CAF.data:
            if chunk.length >= _OPEN_64:  # -1: to the end of the file; libsndfile does not know it
                return _open(window, start, [(chunk.at + 4, (window.size - chunk.body).to_bytes(8, "big"))])
            return _stated(window, start, chunk, window.size, _CAF)
    return _headless(window, start)


def _au(window: Window, start: int) -> Passage:
    head = window.at(start, 12)
    order: Literal["little", "big"] = "big" if head[:4] == b".snd" else "little"
    offset, length = (int.from_bytes(head[at : at + 4], order) for at in (4, 8))
    body = start + offset
    if length == 0xFFFF_FFFF or (length == 0 and body < window.size):
        return _open(window, start, [(start + 8, b"\xff\xff\xff\xff")])
    return _stated(window, start, _Chunk(b"", start, body, length), body + length, _Chunks(b"", order, even=1))


def _sphere(window: Window, start: int) -> Passage:
    """Return the passage of a NIST SPHERE file, whose header is lines of text."""
    head = window.at(start, 1024).decode("latin-1")
    words = [line.split() for line in head.splitlines()]
    fields = {line[0]: line[2] for line in words if len(line) == 3 and line[2].isdecimal()}
    size = next((int(line[0]) for line in words[1:2] if line and line[0].isdecimal()), 1024)
    plain = not any(line[:1] == ["sample_coding"] and "," in line[-1] for line in words)
    if not plain or not {"sample_count", "sample_n_bytes"} <= fields.keys():
        return Passage((range(start, window.size),), window.size)
    length = int(fields["sample_count"]) * int(fields["sample_n_bytes"]) * int(fields.get("channel_count", "1"))
    body = start + size
    return _stated(window, start, _Chunk(b"", start, body, length), body + length, _Chunks(b"", "big", even=1))


def _voc(window: Window, start: int) -> Passage:
    """Return the passage of a Creative Voice file, a row of blocks that an empty one ends."""
    at = start + int.from_bytes(window.at(start + 20, 2), "little")
    while len(head := window.at(at, 4)) == 4 and head[0]:
        length = int.from_bytes(head[1:], "little")
        if at + 4 + length > window.size:
            return _stated(window, start, _Chunk(b"", at, at + 4, length), window.size, _RIFF)
        at += 4 + length
    return Passage((range(start, window.size),), window.size)


def _boxes(window: Window, start: int) -> Passage:
    """Return the passage of MP4 and its kin, a row of boxes. Source: ISO/IEC 14496-12, section 4.2."""
    at = start
    while len(head := window.at(at, 16)) >= 8:
        length = int.from_bytes(head[:4], "big")
        length = int.from_bytes(head[8:], "big") if length == 1 else length
        if length < 8:  # 0: to the end of the file
            break
        if at + length > window.size:
            return _stated(window, start, _Chunk(b"", at, at, length), window.size, _RIFF)
        at += length
    return Passage((range(start, window.size),), window.size)


def _avi(window: Window, start: int) -> Passage:
    length = int.from_bytes(window.at(start + 4, 4), "little")
    if 0 < length < _OPEN_32 and start + 8 + length > window.size:
        return _stated(window, start, _Chunk(b"", start, start + 8, length), window.size, _RIFF)
    return Passage((range(start, window.size),), window.size)


def _is_unwritten(window: Window, start: int, chunk: _Chunk, stated: int) -> bool:
    """Return whether a header was written before the sound and never again: it states none, and some follows."""
    return chunk.length == 0 and chunk.body < window.size and start + 8 + stated != window.size


def _stated(window: Window, start: int, chunk: _Chunk, stated_end: int, layout: _Chunks) -> Passage:
    """Return the passage whose header says how long its sound is, and where all of it ends."""
    end = chunk.body + chunk.length
    if end > window.size:
        there = max(0, window.size - chunk.body)
        said = f"{there} of {chunk.length} bytes are there"
        return Passage((range(start, window.size),), window.size, truncated=said)
    end = stated_end if end <= stated_end <= window.size else min(window.size, _behind(chunk, layout, start))
    return Passage((range(start, end),), end)


def _open(window: Window, start: int, sizes: list[tuple[int, bytes]]) -> Passage:
    """Return the passage that goes on to the end of the file, with these bytes in place of those at a position."""
    pieces: list[Piece] = []
    at = start
    for position, data in sorted(sizes):
        pieces += [range(at, position), data]
        at = position + len(data)
    return Passage((*pieces, range(at, window.size)), window.size)


def _headless(window: Window, start: int) -> Passage:
    return Passage((range(start, window.size),), window.size, truncated="its header has no sound behind it")


_KINDS: tuple[tuple[Callable[[bytes], bool], Callable[[Window, int], Passage]], ...] = (
    (lambda head: head[:4] in {b"RIFF", b"RIFX", b"RF64", b"BW64"} and head[8:12] == b"WAVE", _wave),
    (lambda head: head[:16] == _W64_RIFF, _wave_64),
    (lambda head: head[:4] == b"FORM" and head[8:12] in {b"AIFF", b"AIFC", b"8SVX", b"16SV"}, _iff),
    (lambda head: head[:4] == b"caff", _caf),
    (lambda head: head[:4] in {b".snd", b"dns."}, _au),
    (lambda head: head[:7] == b"NIST_1A", _sphere),
    (lambda head: head[:20] == b"Creative Voice File\x1a", _voc),
    (lambda head: head[4:8] == b"ftyp", _boxes),
    (lambda head: head[:4] == b"RIFF" and head[8:12] == b"AVI ", _avi),
)
