"""Calls into PortAudio that may never return, each on a thread of its own that is left behind if it does not.

A sound server that is frozen blocks open, stop and close for as long as it is; no signal ends such a call, and a thread
cannot be ended. It is a daemon thread, so that it keeps nobody else. A process in which one is left behind must end by
``os._exit``: PortAudio's own exit handler would wait for it.

While PortAudio starts, sounddevice leads stderr to nowhere, since libraries below it talk. A start that does not return
would silence the whole program: stderr is led back.
"""

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TypeVar

from edgekit.errors import DeviceError

_Result = TypeVar("_Result")
_left: set["threading.Thread"] = set()
# Lets a stream go for a moment and returns what opens it again; None while it cannot.
Rest = Callable[[], Callable[[], None] | None]
_open: dict[int, tuple[object, Rest | None]] = {}  # by identity: streams that PortAudio has
_changing = threading.Lock()
_running = 0  # calls that have not returned
_stderr = -1  # where stderr led when the first of them began
_TALK_S = 1.0  # for so long what a library says is kept from stderr
OPEN_S = 8.0  # at the start: a Bluetooth headset takes two
CLOSE_S = 0.5  # of the two seconds that SIGTERM has


class FreshProcessError(DeviceError):
    """PortAudio does not answer in this process any more; a fresh one may find it well."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h


class Call(Generic[_Result]):
    """A call that has begun on a thread of its own."""

    def __init__(self, work: Callable[[], _Result]) -> None:
        self._work = work
        self._result: _Result
        self._error: BaseException | None = None
        self._undo: Callable[[_Result], object] | None = None
        self._abandoned = False
        self._settled = threading.Event()
        self._begun_s = time.monotonic()
        _begin()
        self._thread = threading.Thread(target=self._run, name="edgekit-portaudio", daemon=True)
        self._thread.start()

    def wait(self, timeout_s: float) -> bool:
        """Wait until it has returned, at most ``timeout_s``; say whether it has."""
        if self._settled.wait(timeout_s):
            return True
        if time.monotonic() - self._begun_s >= _TALK_S:
            _lead_stderr_back()
        return False

    def result(self) -> _Result:
        """Return what it returned, or raise what it raised; only once it has."""
        assert self._settled.is_set()
        if self._error is not None:
            raise self._error
        return self._result

    def abandon(self, undo: Callable[[_Result], object] = lambda _: None) -> None:
        """Leave it behind. ``undo``: what to do with its result, if it returns after all."""
        with _changing:
            self._abandoned, self._undo = True, undo
            late = not self._settled.is_set()
            if late:
                _left.add(self._thread)
        if late:
            _lead_stderr_back()
        elif self._error is None:
            undo(self._result)

    def _run(self) -> None:
        try:
            self._result = self._work()
        except BaseException as error:  # noqa: BLE001 - raised by `result`
            self._error = error
        _end()
        with _changing:
            self._settled.set()
            undo = self._undo if self._abandoned and self._error is None else None
        try:
            if undo is not None:
                undo(self._result)
        finally:
            with _changing:
                _left.discard(self._thread)


def _begin() -> None:
    global _running, _stderr  # noqa: PLW0603 - a process has one stderr
    with _changing:
        if _running == 0:
            with suppress(OSError):  # closed
                _stderr = os.dup(2)
        _running += 1


def _end() -> None:
    global _running, _stderr  # noqa: PLW0603
    with _changing:
        _running -= 1
        if _running == 0 and _stderr >= 0:
            os.close(_stderr)
            _stderr = -1


def _lead_stderr_back() -> None:
    with _changing:
        if _stderr >= 0:
            os.dup2(_stderr, 2)


def within(limit_s: float, what: str, work: Callable[[], _Result]) -> _Result:
    """Return what the work returns; leave it behind and raise FreshProcessError if it takes longer than ``limit_s``."""
    call = Call(work)
    if not call.wait(limit_s):
        call.abandon()
        raise FreshProcessError(
            f"{what}: PortAudio has not answered for {limit_s:g} s; see whether the sound server runs, then start again"
        )
    return call.result()


def let_go(close: Callable[[], object]) -> bool:
    """Close something; leave the call behind if it takes longer than ``CLOSE_S``, and say whether it did not."""
    call = Call(close)
    if call.wait(CLOSE_S):
        call.result()
        return True
    call.abandon()
    return False


def left_behind() -> int:
    """Return how many calls were left behind and have not returned yet."""
    with _changing:
        return len(_left)


def opened(stream: object, rest: Rest | None = None) -> None:
    """Count a stream that PortAudio has, until ``closed``: it may not be started anew meanwhile, unless it can rest."""
    with _changing:
        _open[id(stream)] = stream, rest


def closed(stream: object) -> None:
    """Count a stream no more."""
    with _changing:
        _open.pop(id(stream), None)


def streams_open() -> int:
    """Return how many streams PortAudio has."""
    with _changing:
        return len(_open)


def put_to_rest() -> list[Callable[[], None]] | None:
    """Let every stream go for a moment and return what opens them again; None if one cannot, and none has gone."""
    with _changing:
        rests = [rest for _, rest in _open.values()]
        stuck = bool(_left)
    awake: list[Callable[[], None]] = []
    for rest in [None] if stuck else rests:
        again = rest() if rest is not None else None
        if again is None:
            for wake in awake:
                wake()
            return None
        awake.append(again)
    return awake
