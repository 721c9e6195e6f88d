"""Recorder: what was said, kept in a folder because somebody asked for it: sound and text of each utterance.

Of each final Text ``NAME.wav`` (16-bit, as the sound came) and ``NAME.json``, one line, both of mode 0600 and named by
when the sound began; `cat *.json` is a file of JSON lines. The oldest go when they are too old or too many, and no file
of another name is touched. Streams are tapped in memory, and one thread of its own writes: a slow disk keeps nobody
waiting. A disk that takes nothing ends the recording, which is said, and nothing else.
"""

import io
import json
import logging
import os
import queue
import re
import stat
import threading
import time
import wave
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import partial
from itertools import count
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import SettingsError
from edgekit.runtime.events import Event, SpeechStarted, Text, to_json
from edgekit.runtime.options import StreamOptions
from edgekit.serving.served import Samples
from edgekit.serving.settings import RecordSettings

KEPT_S = 35.0  # while nobody talks: a beginning is known once all that waits before it was heard
MOST_S = 300.0  # of one utterance; the beginning of a longer one is left out, which is said once
LOOK_S = 600.0  # between two looks at what is too old
MOST_BYTES = 64 * 2**20  # of one stream's sound, and of all that is not written yet: 300 s of 48 kHz stereo fit
_WAITING = 64  # utterances that are not written yet
_NAME = re.compile(r"(\d{8}T\d{6})\d{3}Z-\d+\.(wav|json)")
_LEFT = re.compile(r"\.\d{8}T\d{9}Z-\d+\.(wav|json)\.partial")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Utterance:
    began: datetime
    stream: str
    text: Text
    samples: NDArray[np.int16]  # (n, channels)
    rate: int


class Recorder:
    """See the module; open in a ``with`` block. ``wall``: seconds since 1970, as names and ages have them.

    Raises SettingsError for a folder that is a link, no folder, or open to others.
    """

    def __init__(self, settings: RecordSettings, *, wall: Callable[[], float] = time.time) -> None:
        assert settings.dir is not None
        self.folder, self.stopped = Path(settings.dir), False
        self._keep = timedelta(days=settings.keep_days)
        self._most = round(settings.max_mb * 1_000_000)
        self._wall = wall
        self._numbers = count(1)
        self._sizes: dict[str, int] = {}  # of the files that are ours
        self._place = _open_folder(self.folder)
        self._queue: queue.Queue[_Utterance | None] = queue.Queue(_WAITING)
        self._thread = threading.Thread(target=self._write_all, name="edgekit-recorder", daemon=True)
        self._waiting_bytes = 0
        self._counting = threading.Lock()
        self._lost = 0
        self._said_cut = False

    def __enter__(self) -> "Recorder":  # noqa: PYI034 - typing.Self needs Python 3.11
        self._in_order(self._look)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(queue.Full):
            self._queue.put(None, timeout=1.0)
        self._thread.join(2.0)
        if not self._thread.is_alive():
            os.close(self._place)

    def tap(self, name: str, options: StreamOptions) -> "RecordTap":
        """Return what takes note of one stream."""
        return RecordTap(self, name, options.sample_rate_hz, options.channels)

    def wall(self) -> datetime:
        """Return the time of day."""
        return datetime.fromtimestamp(self._wall(), tz=timezone.utc)

    def keep(self, utterance: _Utterance) -> None:
        """Write an utterance soon; never waits."""
        if self.stopped:
            return
        with self._counting:
            size = utterance.samples.nbytes
            full = 0 < self._waiting_bytes > MOST_BYTES - size
            if not full:
                try:
                    self._queue.put_nowait(utterance)
                    self._waiting_bytes += size
                except queue.Full:
                    full = True
        if full:
            self._lost += 1
            if self._lost == 1:
                _log.warning("record: %s: too slow for what is said, some is not kept; it goes on", self.folder)

    def _write_all(self) -> None:
        while True:
            try:
                utterance = self._queue.get(timeout=LOOK_S)
            except queue.Empty:
                self._in_order(self._look)
                continue
            if utterance is None:
                return
            self._in_order(partial(self._write, utterance))
            with self._counting:
                self._waiting_bytes -= utterance.samples.nbytes

    def say_cut(self, name: str, kept_s: float) -> None:
        """Say, the first time, that an utterance is longer than the sound of it that is kept."""
        if not self._said_cut:
            self._said_cut = True
            _log.warning(
                "record: %s: the beginning of what was said is not kept, %.1f s of its sound are: at most %.0f s or "
                "%d MiB may be; it goes on", name, kept_s, MOST_S, MOST_BYTES >> 20,
            )  # fmt: skip

    def _in_order(self, work: Callable[[], None]) -> None:
        """Do some work on the disk; the first time that it fails is the last, and is said."""
        if self.stopped:
            return
        try:
            work()
        except OSError as error:
            self.stopped = True
            _log.warning(
                "record: %s: nothing more is kept (%s); free some space and start again", self.folder, error.strerror
            )

    def _look(self) -> None:
        """Learn what is there, clear away what was left by half, and let go of what is too old or too much."""
        self._sizes = {}
        for name in os.listdir(self._place):  # noqa: PTH208 - of the folder that is open, whatever lies at its path
            if _LEFT.fullmatch(name):
                self._remove(name)
            elif _NAME.fullmatch(name):
                with suppress(FileNotFoundError):
                    status = os.stat(name, dir_fd=self._place, follow_symlinks=False)
                    if stat.S_ISREG(status.st_mode):
                        self._sizes[name] = status.st_size
        self._make_room(0)

    def _make_room(self, size: int) -> None:
        oldest = (self.wall() - self._keep).strftime("%Y%m%dT%H%M%S")
        total = sum(self._sizes.values()) + size
        for stem in sorted({name.partition(".")[0] for name in self._sizes}):
            if stem >= oldest and total <= self._most:
                return
            for name in (f"{stem}.wav", f"{stem}.json"):
                if name in self._sizes:
                    self._remove(name)
                    total -= self._sizes.pop(name)

    def _remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._place)

    def _write(self, utterance: _Utterance) -> None:
        began = utterance.began
        name = f"{began:%Y%m%dT%H%M%S}{began.microsecond // 1000:03}Z-{next(self._numbers)}"
        said = to_json(utterance.text)
        line = {
            "at": began.isoformat(timespec="milliseconds"), "stream": utterance.stream, "wav": f"{name}.wav",
            "seconds": round(len(utterance.samples) / utterance.rate, 3),
        } | {key: value for key, value in said.items() if key != "event"}  # fmt: skip
        contents = {
            f"{name}.wav": _wav(utterance.samples, utterance.rate),
            f"{name}.json": (json.dumps(line, ensure_ascii=False) + "\n").encode(),
        }
        if (size := sum(map(len, contents.values()))) > self._most:
            _log.warning("record: an utterance of %d bytes is not kept, record.max_mb is less; set it higher", size)
            return
        self._make_room(size)
        for file, content in contents.items():
            self._publish(file, content)
            self._sizes[file] = len(content)

    def _publish(self, name: str, content: bytes) -> None:
        draft = f".{name}.partial"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(draft, flags, 0o600, dir_fd=self._place)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.rename(draft, name, src_dir_fd=self._place, dst_dir_fd=self._place)
        except OSError:
            self._remove(draft)
            raise


class RecordTap:
    """Keeps the latest sound of one stream and hands each utterance of it to the Recorder."""

    def __init__(self, recorder: Recorder, name: str, rate: int, channels: int) -> None:
        self._recorder, self._name, self._rate, self._channels = recorder, name, rate, channels
        self._pieces: deque[NDArray[np.int16]] = deque()
        self._first = self._last = 0  # samples of the stream: where the pieces begin, and end
        self._came = recorder.wall()  # when that end came
        self._most = MOST_BYTES // (2 * channels)  # samples
        self._zeros = np.zeros((max(1, rate // 10), channels), np.int16)
        self._open: float | None = None  # the beginning of speech that no final text is about yet
        self._lock = threading.Lock()

    def pushed(self, samples: Samples, missing_samples: int = 0) -> None:
        """Take note of a piece of sound; what was lost before it is silence."""
        if self._recorder.stopped or samples.size != len(samples) * self._channels:  # the stream refuses the latter
            return
        piece = _as_int16(samples).reshape(len(samples), self._channels)
        with self._lock:
            silent = min(missing_samples, round(MOST_S * self._rate), self._most)
            if missing_samples > silent:
                self._pieces.clear()
                self._first = self._last + missing_samples - silent
            self._pieces += [self._zeros[: silent - at] for at in range(0, silent, len(self._zeros))]
            self._pieces.append(piece)
            self._last += missing_samples + len(piece)
            self._came = self._recorder.wall()
            self._forget(KEPT_S if self._open is None else MOST_S)

    def event(self, event: Event) -> None:
        """Take note of an event; a final Text is an utterance."""
        if isinstance(event, SpeechStarted):
            with self._lock:
                self._open = event.at_s if self._open is None else self._open
        elif isinstance(event, Text) and event.final and not self._recorder.stopped:
            with self._lock:
                self._open = None
                wanted, end = round(event.start_s * self._rate), round(event.end_s * self._rate)
                start = max(wanted, self._first)
                samples = self._between(start, end)
                began = self._came - timedelta(seconds=(self._last - start) / self._rate)
            if start > wanted:
                self._recorder.say_cut(self._name, len(samples) / self._rate)
            self._recorder.keep(_Utterance(began, self._name, event, samples, self._rate))

    def _between(self, start: int, end: int) -> NDArray[np.int16]:
        parts, at = [self._zeros[:0]], self._first
        for piece in self._pieces:
            parts.append(piece[max(0, start - at) : max(0, end - at)])
            at += len(piece)
        return np.concatenate(parts)

    def _forget(self, seconds: float) -> None:
        """Let go of the oldest pieces beyond so many seconds, and beyond MOST_BYTES."""
        while len(self._pieces) > 1:
            samples = self._last - self._first
            if samples - len(self._pieces[0]) <= seconds * self._rate and samples <= self._most:
                return
            self._first += len(self._pieces.popleft())


def _as_int16(samples: Samples) -> NDArray[np.int16]:
    if samples.dtype == np.int16:
        return samples.astype(np.int16)
    clipped: NDArray[np.float32] = np.clip(np.nan_to_num(samples.astype(np.float32)), -1, 32_767 / 32_768)
    return np.rint(clipped * 32_768).astype(np.int16)


def _wav(samples: NDArray[np.int16], rate: int) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.astype("<i2").tobytes())
    return buffer.getvalue()


def _open_folder(folder: Path) -> int:
    """Return a descriptor of the folder, made with mode 0700 if it is not there."""
    rule = "a folder that nobody else may read is needed"
    try:
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError as error:
        if os.path.isdir(folder.parent):  # noqa: PTH112 - of what may not be looked at it is False
            raise SettingsError(
                f"record.dir: {folder}: {folder.parent} takes no new folder, {rule}; name another"
            ) from error
        raise SettingsError(f"record.dir: {folder}: {folder.parent} is not there, {rule}; make it first") from error
    except OSError as error:
        kind = "is a link" if folder.is_symlink() else error.strerror
        raise SettingsError(f"record.dir: {folder}: {kind}, {rule}; name another") from error
    status = os.fstat(descriptor)
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        os.close(descriptor)
        raise SettingsError(f"record.dir: {folder}: others may read it (mode {mode:04o}), {rule}; chmod 700 it")
    if status.st_uid != os.geteuid():
        os.close(descriptor)
        raise SettingsError(f"record.dir: {folder}: belongs to another user, {rule}; name another")
    return descriptor
