"""Notify: what systemd is told of a service that it started (Type=notify). Where nobody asks, nothing is told.

Source: sd_notify(3) and systemd.service(5): one datagram of NAME=VALUE lines to the socket that NOTIFY_SOCKET names,
``@`` standing for the zero byte of an abstract one. Written here, for it is so little: sdnotify 0.3.2, the package for
it, knows neither the watchdog's time nor the clock of RELOADING, and says of an error nothing, so that a watchdog that
is not fed would go unsaid.
"""

import logging
import os
import socket
import time
from collections.abc import Callable, MutableMapping

from edgekit.timing import Clock

STATUS_S = 5.0  # at most so often a status is told, and only another one
_EXTENDED_S = 30.0  # a start may last so much longer, each time that it is said
_WAIT_S = 1.0  # for what cannot be told again; a status and the watchdog are, so nobody waits for them
_MICRO = 1_000_000
_log = logging.getLogger(__name__)


class Notify:
    """See the module. Called from one thread.

    ``environment``: its variables are taken out, so that no program that is started answers for this one.
    """

    def __init__(self, environment: MutableMapping[str, str] | None = None, *, clock: Clock = time.monotonic) -> None:
        variables = os.environ if environment is None else environment
        self._address = variables.pop("NOTIFY_SOCKET", "")
        self._clock = clock
        self.watchdog_s = _watchdog_s(variables.pop("WATCHDOG_USEC", ""), variables.pop("WATCHDOG_PID", ""))
        self._status, self._told_at = "", -STATUS_S
        self._fed_at = self._extended_at = float("-inf")
        self._failed = False

    @property
    def on(self) -> bool:
        """Whether somebody is told."""
        return bool(self._address)

    def ready(self) -> None:
        """Say that it serves: for the first time, or again."""
        self._send("READY=1", wait_s=_WAIT_S)

    def reloading(self) -> None:
        """Say that the configuration is read again; ``ready`` follows."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={round(time.monotonic() * _MICRO)}", wait_s=_WAIT_S)  # not our clock

    def stopping(self) -> None:
        """Say that it ends."""
        self._send("STOPPING=1", wait_s=_WAIT_S)

    def loading(self) -> None:
        """Say that the start goes on: call it often, it is told as often as is needed."""
        if self._clock() - self._extended_at >= _EXTENDED_S / 3:
            self._extended_at = self._clock()
            self._send(f"EXTEND_TIMEOUT_USEC={round(_EXTENDED_S * _MICRO)}")

    def status(self, text: str) -> None:
        """Tell one line for who looks at the service, at most every STATUS_S seconds and only another one."""
        now = self._clock()
        if text != self._status and now - self._told_at >= STATUS_S and self._send(f"STATUS={' '.join(text.split())}"):
            self._status, self._told_at = text, now

    def feed(self, alive: Callable[[], bool]) -> None:
        """Feed the watchdog, if there is one, it is time, and the work is alive."""
        if self.watchdog_s is None or self._clock() - self._fed_at < self.watchdog_s / 2:
            return
        if alive() and self._send("WATCHDOG=1"):
            self._fed_at = self._clock()

    def _send(self, *lines: str, wait_s: float = 0.0) -> bool:
        """Return whether it was taken; wait at most so long for a systemd that is slow."""
        if not self._address:
            return False
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | getattr(socket, "SOCK_CLOEXEC", 0)) as sender:
                sender.settimeout(wait_s)
                sender.sendto("\n".join(lines).encode("utf-8", "replace"), address)
        except (
            OSError,
            ValueError,
            AttributeError,
        ) as error:  # a name that no socket has; Windows without such sockets
            if not self._failed:
                _log.warning("systemd: not told that %s (%s); is NOTIFY_SOCKET still its?", lines[0], error)
            self._failed = True
            return False
        self._failed = False
        return True


def _watchdog_s(microseconds: str, process: str) -> float | None:
    """Return the seconds within which the watchdog wants to be fed, None if this process has none."""
    if not microseconds.isascii() or not microseconds.isdecimal() or int(microseconds) == 0:
        return None
    if process and process != str(os.getpid()):
        return None
    return int(microseconds) / _MICRO
