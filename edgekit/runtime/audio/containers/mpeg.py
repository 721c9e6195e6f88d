"""MPEG audio (MP3 and its older layers): a row of frames, each with its own header, none of which says how many follow.

Sources: ISO/IEC 11172-3 and 13818-3, section 2.4; the Xing and LAME tags as LAME writes them; VBRI as Fraunhofer does.
libsndfile takes the length from the first frame's tag, or guesses it from the first frame's bit rate, and reads no
further. So the frames are counted here, and a tag with their number is put before them.
"""

from dataclasses import dataclass, field
from functools import lru_cache

from edgekit.runtime.audio.containers.passage import Passage, Piece, Window, id3_bytes

_RATES_HZ = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}  # by version
_KBPS = {  # by whether it is MPEG 1, and the layer
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_MONO = 3
_FRAMES_FLAG = 1
_LAME_BYTES = 24  # of LAME's part of the tag, up to its delay and padding
_SURE = 3  # frames in a row are no accident
_SEARCHED = 1 << 16  # bytes before the first frame
_DECODER_DELAY = 529  # samples


@dataclass(frozen=True, slots=True)
class _Frame:
    """A frame's header. ``kind``: what all frames of one stream share."""

    kind: tuple[int, int, int, bool]  # version, layer, rate in Hz, mono
    bytes: int

    @property
    def samples(self) -> int:
        version, layer, _, _ = self.kind
        return 384 if layer == 1 else 1152 if layer == 2 or version == 3 else 576

    @property
    def tag_at(self) -> int:
        """Where in a frame a Xing tag stands: behind the side information, all of it 0."""
        version, _, _, mono = self.kind
        return 4 + (32, 17)[mono] if version == 3 else 4 + (17, 9)[mono]


@dataclass(frozen=True, slots=True)
class _Tag:
    """What the first frame says in place of sound: how many follow, None if it does not; samples to leave out."""

    frames: int | None
    delay: int = 0
    padding: int = 0


@lru_cache(4096)
def _frame(data: bytes) -> _Frame | None:
    """Return the frame whose header ``data`` begins with, None if that is none (or in the free format)."""
    if len(data) < 4 or data[0] != 0xFF or data[1] < 0xE0:
        return None
    version, layer = data[1] >> 3 & 3, 4 - (data[1] >> 1 & 3)
    rate_index, padding, bits = data[2] >> 2 & 3, data[2] >> 1 & 1, data[2] >> 4
    if version == 1 or layer == 4 or rate_index == 3 or bits in {0, 15}:
        return None
    rate = _RATES_HZ[version][rate_index]
    bps = 1000 * _KBPS[version == 3, layer][bits - 1]
    if layer == 1:
        length = (12 * bps // rate + padding) * 4
    else:
        length = (144 if layer == 2 or version == 3 else 72) * bps // rate + padding
    return _Frame((version, layer, rate, data[3] >> 6 == _MONO), length)


def _tag(frame: _Frame, data: bytes) -> _Tag | None:
    """Return the tag that a whole frame is, None if it is sound."""
    if frame.kind[1] != 3:
        return None
    if data[36:40] == b"VBRI" and len(data) >= 54:
        return _Tag(int.from_bytes(data[50:54], "big"))
    at = frame.tag_at
    if data[at : at + 4] not in {b"Xing", b"Info"}:
        return None
    flags = int.from_bytes(data[at + 4 : at + 8], "big")
    at += 8
    frames = int.from_bytes(data[at : at + 4], "big") if flags & _FRAMES_FLAG else None
    at += sum(size for bit, size in ((1, 4), (2, 4), (4, 100), (8, 4)) if flags & bit)
    lame = data[at : at + _LAME_BYTES]
    if len(lame) < _LAME_BYTES or not lame[0]:
        return _Tag(frames)
    gaps = int.from_bytes(lame[21:24], "big")
    return _Tag(frames, gaps >> 12, gaps & 0xFFF)


@dataclass(slots=True)
class _Stream:
    """Frames of one kind in a row, as they are found."""

    first: _Frame
    header: bytes
    tag: _Tag | None
    stretches: list[range] = field(default_factory=list)
    frames: int = 0
    junk: int = 0

    def add(self, start: int, length: int) -> None:
        if self.stretches and self.stretches[-1].stop == start:
            self.stretches[-1] = range(self.stretches[-1].start, start + length)
        else:
            self.stretches.append(range(start, start + length))
        self.frames += 1

    def passage(self, end: int, cut: str) -> Passage:
        stated = self.tag.frames if self.tag else None
        # some encoders count the tag, too
        missing = stated is not None and stated > self.frames + 1
        truncated = f"{self.frames} of {stated} frames are there" if missing else ""
        notice = f"{self.junk} bytes between its frames are left out" if self.junk else ""
        if self.junk:  # damage, not an end: the rest is worth hearing
            truncated, cut = "", cut or truncated
        if self.first.kind[1] != 3:
            samples = self.frames * self.first.samples
            return Passage(tuple(self.stretches), end, samples, truncated, cut, notice)
        pieces, left_out = self._pieces(whole=stated == self.frames)
        samples = max(0, self.frames * self.first.samples - left_out)
        return Passage(pieces, end, samples, truncated, cut, notice)

    def _pieces(self, *, whole: bool) -> tuple[tuple[Piece, ...], int]:
        """Return a tag and the frames, and how many samples are left out of these for it.

        By a tag libsndfile leaves out its own delay, too: at the beginning behind the encoder's, at the end before the
        padding. Where the file has none of these, a frame of silence is put there for it. ``whole``: no frames follow
        the one that the padding is of.
        """
        silence, spare = self._empty(0), self.first.samples
        if not self.tag or not self.tag.delay:
            return (self._info(self.frames + 1, spare - _DECODER_DELAY, 0), silence, *self.stretches), 0
        padding = self.tag.padding if whole else 0
        left_out = self.tag.delay + padding
        if padding >= _DECODER_DELAY:
            return (self._info(self.frames, self.tag.delay, padding), *self.stretches), left_out
        return (self._info(self.frames + 1, self.tag.delay, padding + spare), *self.stretches, silence), left_out

    def _info(self, frames: int, delay: int, padding: int) -> bytes:
        """Return the frame of a tag that tells the number of frames behind it and the samples to leave out."""
        at = self.first.tag_at
        tag = b"Info" + _FRAMES_FLAG.to_bytes(4, "big") + frames.to_bytes(4, "big")
        tag += b"LAME".ljust(21, b"\0") + (delay << 12 | padding).to_bytes(3, "big")
        frame = bytearray(self._empty(at + len(tag) + 12))
        frame[at : at + len(tag)] = tag
        return bytes(frame)

    def _empty(self, least: int) -> bytes:
        """Return a frame of silence, of at least so many bytes."""
        for bits in range(1, 15):
            header = bytes([0xFF, self.header[1] | 1, self.header[2] & 0x0C | bits << 4, self.header[3]])
            frame = _frame(header)
            if frame and frame.bytes >= max(least, self.first.tag_at):
                return header.ljust(frame.bytes, b"\0")
        raise AssertionError("the highest bit rate has room for any tag")


def look(window: Window, start: int) -> list[Passage]:
    """Return the passages that MPEG frames from ``start`` on make, none if there are no such frames."""
    at = _next_frame(window, start, min(window.size, start + _SEARCHED))
    if at is None:
        return []
    streams: list[tuple[_Stream, int, str]] = []
    stream: _Stream | None = None
    cut = ""
    while at < window.size:
        header = window.at(at, 4)
        frame = _frame(header)
        follows = frame and stream and frame.kind == stream.first.kind
        if frame is None or not (follows or _is_row(window, at)):
            found, junk = _skip(window, at)
            if stream:
                stream.junk += junk
            at = found
            continue
        if at + frame.bytes > window.size:
            cut = f"its last frame has {window.size - at} of {frame.bytes} bytes"
            break
        tag = _tag(frame, window.at(at, frame.bytes))
        if stream is None or tag or frame.kind != stream.first.kind:
            if stream and stream.frames:
                streams.append((stream, at, ""))
            stream = _Stream(frame, header, tag)
        if not tag:
            stream.add(at, frame.bytes)
        at += frame.bytes
    if stream and (stream.frames or (stream.tag and stream.tag.frames)):
        streams.append((stream, window.size, cut))
    return [one.passage(end, what) for one, end, what in streams]


def _next_frame(window: Window, start: int, stop: int) -> int | None:
    """Return where the next row of frames begins, None if there is none before ``stop``."""
    at = start
    while (at := window.find(b"\xff", at)) < stop:
        if _is_row(window, at):
            return at
        at += 1
    return None


def _is_row(window: Window, at: int) -> bool:
    """Return whether frames of one kind begin here, _SURE of them or as many as the file has room for."""
    first = frame = _frame(window.at(at, 4))
    for _ in range(_SURE):
        if first is None or frame is None or frame.kind != first.kind:
            return False
        at += frame.bytes
        if at >= window.size:
            return True
        frame = _frame(window.at(at, 4))
    return True


def _skip(window: Window, at: int) -> tuple[int, int]:
    """Return where to look for frames again, and how many bytes before that are neither a tag nor empty."""
    head = window.at(at, 32)
    if length := id3_bytes(head[:10]):
        return at + length, 0
    if head[:3] == b"TAG":  # ID3v1, always the last 128 bytes
        return at + 128, 0
    if head[:8] == b"APETAGEX":
        return at + 32 + int.from_bytes(head[12:16], "little") * (head[23] >> 5 & 1), 0
    found = _next_frame(window, at + 1, window.size)
    stop = window.size if found is None else found
    junk, place = 0, at
    while place < stop:
        data = window.at(place, min(stop - place, 1 << 16))
        junk += len(data) - data.count(0)
        place += len(data)
    return stop, junk
