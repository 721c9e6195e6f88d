"""Life: what a process that serves does beside its streams, on its main thread, from the first load to the last signal.

    load -> ready -> (SIGHUP: read the configuration, load beside if the model is another) ... -> stop in good order

Knows no command and no protocol: how settings are read, a model is loaded and what is alive comes from outside.
"""

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msgspec import structs

from edgekit.errors import EdgeKitError, UsageError
from edgekit.runtime.model import Model
from edgekit.runtime.options import stream_options
from edgekit.serving.configuration import Configured, read_tools, settings_keys
from edgekit.serving.server import STOP_S, STUCK_S, Server
from edgekit.serving.service.neighbours import Neighbours
from edgekit.serving.service.notify import Notify
from edgekit.serving.service.signals import RELOAD, Signals
from edgekit.serving.settings import BOUND, LATER, Settings, check_stream, stream_fields

_STEP_S = 1.0  # of a step that is under way when all streams have ended
TICK_S = 0.25  # between two looks at the model that is loaded, the watchdog and what is told
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model, what it was loaded with, and the options of streams that do not say their own."""

    model: Model
    with_what: object
    defaults: dict[str, Any]


class Loading:
    """A model that is loaded on a thread of its own; ``result`` or ``error`` is there when it is ``over``."""

    def __init__(self, settings: Settings, load: Callable[[Settings], Model]) -> None:
        self.settings = settings
        self.result: Loaded | None = None
        self.error: BaseException | None = None
        self._load = load
        self._thread = threading.Thread(target=self._run, name="edgekit-loader", daemon=True)
        self._thread.start()

    @property
    def over(self) -> bool:
        """Whether it has come to an end."""
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            with_what = loaded_with(self.settings)  # before: what changes meanwhile is seen the next time
            model = self._load(self.settings)
            self.result = Loaded(model, with_what, defaults_of(self.settings, model))
        except BaseException as error:  # noqa: BLE001 - raised, or said, by Life
            self.error = error


class Life:
    """See the module.

    ``configure`` reads the settings again; ``load`` loads their model; ``ready`` is called once, when the first is
    there, ``changed`` when new streams get another model or other options from now on; ``alive``: whether all that
    works does; ``status``: one line for who looks.
    """

    def __init__(
        self,
        server: Server,
        configured: Configured,
        *,
        configure: Callable[[], Configured],
        load: Callable[[Settings], Model],
        alive: Callable[[], bool],
        status: Callable[[], str],
        notify: Notify | None = None,
        ready: Callable[[Model], None] = lambda _model: None,
        changed: Callable[[Model], None] = lambda _model: None,
    ) -> None:
        self.server, self.configured = server, configured
        self.notify = notify or Notify()
        self._configure, self._load, self._alive, self._status, self._ready = configure, load, alive, status, ready
        self._changed = changed
        self._current: Loaded | None = None
        self._loading: Loading | None = Loading(configured.settings, load)
        self._coming: Configured | None = None  # what was read and holds once its model is loaded
        self._again = False

    @property
    def left_behind(self) -> bool:
        """Whether a thread is in native code that cannot be stopped: it loads a model, or a step does not end."""
        loads = self._loading is not None and not self._loading.over
        return loads or self.server.clock() - self.server.stepped_at > _STEP_S  # who has nothing to do steps often

    def run(self, signals: Signals, over: Callable[[], bool] = lambda: False) -> None:
        """Serve until a signal ends it, or until ``over``. Raises what the first model could not be loaded for."""
        while not signals.received and not over():
            self._tick()
            number = signals.wait(TICK_S)
            if number == RELOAD and not signals.received:
                self._reload()

    def stop(self, within_s: float = STOP_S) -> None:
        """Finish what was said, in that time, and end every stream."""
        self.notify.stopping()
        self.server.stop(within_s)

    def _tick(self) -> None:
        if self._loading is not None:
            if self._loading.over:
                self._take_loaded(self._loading)
            else:
                self.notify.loading()
        if self._current is not None:
            self.notify.status(self._status())
            self.notify.feed(self._alive)
        if self._again and self._loading is None:
            self._again = False
            self._reload()

    def _take_loaded(self, loading: Loading) -> None:
        self._loading = None
        first = self._current is None
        if loading.result is None:
            assert loading.error is not None
            if first or not isinstance(loading.error, Exception):
                raise loading.error
            _refused("not loaded", loading.error, "the model that there was goes on")
        else:
            self._current = loading.result
            self.server.model = loading.result.model
            self._hold(self._coming or self.configured, loading.result.defaults)
            if first:
                self._ready(loading.result.model)
            else:
                _log.info(
                    "%s serves new streams; those that are open go on with the model they have",
                    loading.result.model.manifest.name,
                )
                self._changed(loading.result.model)
        self._coming = None
        self.notify.ready()

    def _reload(self) -> None:
        """Read the configuration again; what is wrong with it is said, and the old one stays."""
        if self._loading is not None:
            self._again = True
            return
        assert self._current is not None
        self.notify.reloading()
        try:
            new = self._configure()
            if loaded_with(new.settings) != self._current.with_what:
                _log.info("the model is another one: it is loaded beside the one that serves")
                self._coming = new
                self._loading = Loading(new.settings, self._load)
                return  # ready, once it is there
            before, defaults = self.server.defaults, defaults_of(new.settings, self._current.model)
            self._hold(new, defaults)
            if defaults != before:
                self._changed(self._current.model)
        except Exception as error:  # noqa: BLE001 - who serves goes on serving
            _refused("not reloaded", error, "what was read before stays")
        else:
            _log.info("reloaded: %s", new.file or "no configuration file is there")
        self.notify.ready()

    def _hold(self, new: Configured, defaults: Mapping[str, Any]) -> None:
        """Let settings hold from now on; name those that cannot."""
        before, after = dict(settings_keys(self.configured.settings)), dict(settings_keys(new.settings))
        later = [key for key in after if {key, key.split(".")[0]} & {*LATER} and before[key] != after[key]]
        if new.settings.http.token != self.configured.settings.http.token:
            later.append("the token")
        if later:
            _log.warning("changed, but it holds from the next start on: %s", ", ".join(later))
        bound = {name: getattr(self.server.limits, name) for name in BOUND}
        self.server.limits = structs.replace(new.settings.limits, **bound)
        self.server.defaults = dict(defaults)  # type: ignore[assignment]
        self.configured = new


def _refused(what: str, error: Exception, rest: str) -> None:
    """Say why a configuration does not hold; of a bug, or of a machine that lacks memory, where it was too."""
    if isinstance(error, EdgeKitError):
        _log.warning("%s: %s; %s", what, error, rest)
    else:
        _log.error("%s: unexpected %s; %s", what, type(error).__name__, rest, exc_info=error)


def loaded_with(settings: Settings) -> object:
    """Return what tells one model from another: how it is loaded, and the bytes of its manifest."""
    assert settings.bundle is not None
    try:
        digest = hashlib.sha256((Path(settings.bundle) / "manifest.json").read_bytes()).hexdigest()
    except OSError:
        digest = ""  # what is wrong with it, loading says
    return settings.loading, digest


def defaults_of(settings: Settings, model: Model) -> dict[str, Any]:
    """Return the options of streams that do not say their own. Raises UsageError for what the bundle does not offer."""
    fields = stream_fields(settings.stream, read_tools(settings.stream.tools))
    try:
        options = stream_options({**fields, "speak": settings.speak})
        model.stream(check_stream(settings.stream, model.manifest, options)).close()
    except UsageError as error:
        raise UsageError(f"stream.{error}") from error
    return fields


def status_of(server: Server) -> str:
    """Return in one line what a server does now: how many streams, how late, at which level. No word said."""
    if server.stopping or server.model is None:
        return "stopping" if server.stopping else "loading"
    streams = server.streams
    levels = sorted({served.stream.level.name for served in streams})
    parts = [
        f"{len(streams)} of {server.limits.streams} streams", f"{server.behind_s:.1f} s behind",
        f"{server.busy:.0%} busy", *([f"level {', '.join(levels)}"] if levels else []),
    ]  # fmt: skip
    return "; ".join(parts)


def account_of(server: Server) -> str:
    """Return the account of a server that has stopped, in one line."""
    counts = server.counts
    refused = sum(counts.refused.values())
    return (
        f"{counts.opened} streams, {refused} refused; received {counts.received_s:.1f} s = heard {counts.heard_s:.1f} "
        f"+ gated {counts.gated_s:.1f} + dropped {counts.abandoned_s:.1f} s"
    )


def works(server: Server, neighbours: Neighbours, longest_s: float = STUCK_S) -> bool:
    """Return whether a server goes on: its threads, no step that does not end, and the loop of its neighbours."""
    return server.alive and not server.stuck(longest_s) and neighbours.alive(time.monotonic(), longest_s)
