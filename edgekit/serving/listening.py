"""Listening: the microphone of a process that listens, on a thread of its own, from the first model to the end.

One Daemon after another on one source: where the configuration is read again and the model or the options are others,
the sentence that is being said is finished by the old stream, and the next one is a new stream's. The source stays open
meanwhile, and every sample of it is in the account of one of them.
"""

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

from edgekit.runtime.model import Model
from edgekit.serving.daemon import Daemon

Begin = Callable[[Model], AbstractContextManager[Daemon]]
"""Puts together what listens with a model, behind the Daemon before it; what it opened is closed behind."""


class Listening:
    """See the module. ``begin`` is called on this thread; what it or the Daemon raises is in ``failure``."""

    def __init__(self, begin: Begin) -> None:
        self.failure: BaseException | None = None
        self.daemon: Daemon | None = None
        self._begin = begin
        self._next: Model | None = None  # what to begin with, once the present one has ended
        self._stopping = self._over = False
        self._changing = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="edgekit-listener", daemon=True)

    def start(self, model: Model) -> None:
        """Begin to listen."""
        self._next = model
        self._thread.start()

    def change(self, model: Model) -> None:
        """Go on with another model, or other options, behind what is being said."""
        with self._changing:
            if self._stopping or self._over:
                return
            self._next = model
            if self.daemon is not None:
                self.daemon.leave()

    def stop(self, within_s: float) -> bool:
        """End: what was recorded is finished if that takes no longer than this; say whether the thread has ended."""
        with self._changing:
            self._stopping = True
            if self.daemon is not None:
                self.daemon.stop()
        if self._thread.ident is None:
            return True
        self._thread.join(within_s)
        if self._thread.is_alive() and self.daemon is not None:
            self.daemon.give_up()
            self._thread.join(within_s / 4)
        return not self._thread.is_alive()

    @property
    def hangs(self) -> str:
        """In words, what does not end."""
        if (daemon := self.daemon) is None:
            return "what listens with the bundle is not put together yet"
        since_s = daemon.heartbeat.step_s
        if since_s is None:
            return "taking sound, or letting go of its device, does not end"
        return f"a step, or showing what it made, has not ended for {time.monotonic() - since_s:.1f} s"

    @property
    def over(self) -> bool:
        """Whether it has ended by itself: the end of a file, or a failure."""
        return self._over

    def alive(self, now_s: float) -> bool:
        """Return whether it hears and works, or is between two daemons; see ``Daemon.alive``."""
        daemon = self.daemon
        return not self._over and (daemon is None or daemon.alive(now_s))

    def _run(self) -> None:
        try:
            waits = False  # sound, in a source that was handed over: heard though it is to end meanwhile
            while (model := self._take_next(waits=waits)) is not None:
                with self._begin(model) as daemon:
                    with self._changing:
                        self.daemon = daemon
                        if self._stopping:
                            daemon.stop()
                        elif self._next is not None:
                            daemon.leave()
                    daemon.run()
                with self._changing:
                    self.daemon = None
                if not (waits := daemon.handed_over):
                    return  # the source has ended
        except BaseException as error:  # noqa: BLE001 - raised by who waits for the end
            self.failure = error
        finally:
            self._over = True

    def _take_next(self, *, waits: bool) -> Model | None:
        with self._changing:
            model, self._next = self._next, None
            return None if self._stopping and not waits else model
