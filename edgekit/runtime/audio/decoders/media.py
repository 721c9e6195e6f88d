"""Media: what libsndfile does not read (AAC, AMR, WMA, the sound of videos), by FFmpeg's libraries in the package PyAV.

The package is an extra of its own: see docs/decisions/audio-files.md.
"""

import logging
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from edgekit.runtime.audio.decoders.base import DamagedError, RefusedError

Samples = NDArray[np.float32]

EXTRA = "edgekit-audio[media]"
_LOG = logging.getLogger(__name__)
_PLACES = 8  # for planes, in a frame itself
_MISSING_S = 1.0  # less than the header says: the last packet of a picture or a tag may end so much later

# Only files that hold their own sound: a playlist would have others opened, or fetched.
_FORMATS = (
    "3dostr,aa,aac,ac3,aiff,amr,amrnb,amrwb,ape,asf,asf_o,au,avi,caf,dsf,dts,eac3,flac,flv,g722,g729,gsm,iff,ivf,"
    "live_flv,loas,matroska,webm,mov,mp4,m4a,3gp,3g2,mj2,mp3,mpc,mpc8,mpeg,mpegts,mxf,nut,ogg,oma,qcp,rm,shn,sox,spdif,"
    "tak,tta,voc,w64,wav,wsaud,wv,xa"
)
_KINDS = (  # where in a file some bytes stand, and what they begin
    (4, b"ftyp", "MP4, M4A or MOV"), (4, b"moov", "MOV"), (0, b"\x1a\x45\xdf\xa3", "WebM or Matroska"),
    (0, b"#!AMR", "AMR"), (0, b"\x30\x26\xb2\x75", "WMA or WMV"), (0, b"ADIF", "AAC"), (0, b"FLV\x01", "FLV"),
    (0, b"\x00\x00\x01\xba", "MPEG"), (8, b"AVI ", "AVI"), (0, b"MAC ", "APE"), (0, b"wvpk", "WavPack"),
    (0, b"TTA1", "TTA"), (0, b"DSD ", "DSF"), (0, b"MPCK", "Musepack"), (0, b".RMF", "RealMedia"),
    (0, b"\x0b\x77", "AC-3"),
)  # fmt: skip


def kind(head: bytes) -> str | None:
    """Return what a file's first 16 bytes say it is, of the kinds that this module is for; None if they do not."""
    if len(head) > 3 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0:
        return "AAC"
    return next((name for at, mark, name in _KINDS if head[at : at + len(mark)] == mark), None)


def is_installed() -> bool:
    """Return whether PyAV can be imported."""
    return _package() is not None


class Media:
    """A Decoder of the first sound track of a media file. Raises RefusedError."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._av: Any = _package()
        try:
            self._file = self._av.open(file, options={"format_whitelist": _FORMATS}, metadata_errors="replace")
        except (self._av.error.FFmpegError, ValueError) as error:
            raise RefusedError(_words(error)) from error
        tracks = self._file.streams.audio
        if not tracks:
            raise RefusedError("no sound in it")
        if len(tracks) > 1:
            _LOG.warning("%s: %d sound tracks, the first is heard", name, len(tracks))
        self._track = tracks[0]
        if self._track.codec_context is None:
            raise RefusedError("its sound is of an unknown kind")
        self.sample_rate_hz, self.channels = self._track.rate or 0, self._track.channels or 0
        self.damaged = 0
        self._played_s = 0.0  # of all tracks, as far as was read
        self._frames = self._decoded()
        self._waiting: list[Samples] = []
        self._packing: dict[str, Any] = {}  # by the format of a frame
        self._error: DamagedError | None = None
        self._fill(1)  # the first frame tells the rate better than the header

    def read(self, samples: int) -> Samples:
        """Return the next samples, (n, channels) float32, none at the end. Raises DamagedError after the last."""
        self._fill(samples)
        if self._error and not self._waiting:
            raise self._error
        whole = np.concatenate([np.zeros((0, self.channels), np.float32), *self._waiting])
        self._waiting = [whole[samples:]] if len(whole) > samples else []
        return whole[:samples]

    def _fill(self, samples: int) -> None:
        """Decode until so many samples wait, if there are so many."""
        count = sum(map(len, self._waiting))
        try:
            while self._error is None and count < samples and (more := next(self._frames, None)) is not None:
                self._waiting.append(more)
                count += len(more)
        except DamagedError as error:
            self._error = error

    def close(self) -> None:
        """Let the file go."""
        self._file.close()

    def _decoded(self) -> Iterator[Samples]:
        """Yield the track frame by frame. All tracks are taken apart: how far they come tells a file that was cut."""
        av, begun = self._av, False
        try:
            for packet in self._file.demux():
                if packet.pts is not None and packet.time_base is not None:
                    self._played_s = max(
                        self._played_s, float((packet.pts + (packet.duration or 0)) * packet.time_base)
                    )
                if packet.stream.index != self._track.index:
                    continue
                for frame in packet.decode():
                    layout = (frame.sample_rate, frame.layout.nb_channels)
                    if not begun:
                        self.sample_rate_hz, self.channels = layout
                        begun = True
                    elif layout != (self.sample_rate_hz, self.channels):
                        raise DamagedError(f"from here on it has {layout[0]} Hz and {layout[1]} channels")
                    yield _samples(self._countable(frame))
        except av.error.EOFError:
            pass
        except av.error.FFmpegError as error:
            raise DamagedError(f"damaged: {_words(error)}") from error
        self._check_whole()

    def _countable(self, frame: Any) -> Any:  # noqa: ANN401 - PyAV is an extra
        """Return a frame with all channels in one plane where there are as many as FFmpeg has places for.

        PyAV 18 counts planes up to an empty place, and reads what lies behind them if there is none: a process ends.
        """
        if not frame.format.is_planar or frame.layout.nb_channels < _PLACES:
            return frame
        if frame.format.name not in self._packing:
            self._packing[frame.format.name] = self._av.AudioResampler(
                frame.format.packed, frame.layout, frame.sample_rate
            )
        (packed,) = self._packing[frame.format.name].resample(frame)  # nothing is resampled or held back
        return packed

    def _check_whole(self) -> None:
        stated_us = self._file.duration
        if stated_us is None or stated_us <= 0:
            return
        start_s = (self._file.start_time or 0) / self._av.time_base
        stated_s = stated_us / self._av.time_base + start_s
        if self._played_s < stated_s - _MISSING_S:
            raise DamagedError(f"truncated, {self._played_s:.1f} of {stated_s:.1f} s are there")


def _samples(frame: Any) -> Samples:  # noqa: ANN401 - PyAV is an extra
    """Return a decoded frame's samples, (n, channels) float32."""
    data = frame.to_ndarray()
    channels = frame.layout.nb_channels
    data = data.T if frame.format.is_planar else data.reshape(-1, channels)
    if data.dtype.kind == "f":
        return np.ascontiguousarray(data, np.float32)
    half = 1 << 8 * data.dtype.itemsize - 1
    middle = half if data.dtype.kind == "u" else 0
    return np.asarray((data.astype(np.float64) - middle) / half, np.float32)


def _words(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)


def _package() -> Any:  # noqa: ANN401 - PyAV is an extra
    """Return the package PyAV, silent; None without it."""
    if sys.modules.get("av", sys) is None:
        return None
    try:
        import av
    except ImportError:
        return None
    return av
