"""Watch: the events of one stream, for others to see: the page that shows what the microphone's own stream hears."""

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from edgekit.runtime.events import Event, to_json
from edgekit.serving.served import Served

MOST_WATCHERS = 16
_MOST_WAITING = 256  # messages of one watcher


class Watcher:
    """What one watcher has not read yet. ``ended``: why nothing more comes, empty while it does."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self.ended = ""
        self._wake = wake
        self._waiting: deque[dict[str, Any]] = deque()

    def put(self, message: dict[str, Any]) -> None:
        """Let it read a message; one that does not read is ended."""
        if self.ended:
            return
        if len(self._waiting) >= _MOST_WAITING:
            self.end(f"slow: {_MOST_WAITING} messages wait to be read; read them")
        else:
            self._waiting.append(message)
            self._wake()

    def end(self, reason: str) -> None:
        """Say that nothing more comes."""
        self.ended = self.ended or reason
        self._wake()

    def read(self) -> list[dict[str, Any]]:
        """Return what came since the last call."""
        return [self._waiting.popleft() for _ in range(len(self._waiting))]


class Watch:
    """Hands the messages of a stream to every watcher. ``publish``, from any thread, waits for none of them.

    ``served``: the stream, whose facts may be shown; whoever publishes sets it.
    """

    def __init__(self) -> None:
        self.served: Served | None = None
        self._watchers: list[Watcher] = []  # replaced, never changed
        self._changing = threading.Lock()

    def publish(self, event: Event) -> None:
        """Show an event. Sound of answers is left out, its length is told."""
        self.say(to_json(event))

    def say(self, message: dict[str, Any]) -> None:
        """Show a message that is no event of the stream, such as that the microphone is gone."""
        for watcher in self._watchers:
            watcher.put(message)

    def watcher(self, wake: Callable[[], None]) -> Watcher | None:
        """Return a new watcher, None if there are too many; ``wake`` is called on any thread when it can be read."""
        with self._changing:
            self._watchers = [one for one in self._watchers if not one.ended]
            if len(self._watchers) >= MOST_WATCHERS:
                return None
            watcher = Watcher(wake)
            self._watchers = [*self._watchers, watcher]
        return watcher

    def close(self, reason: str = "stopping") -> None:
        """End every watcher."""
        for watcher in self._watchers:
            watcher.end(reason)
