"""Server: the streams of one model, side by side: which begin, whose turn it is, why they end.

Two threads, whatever the number of streams: one takes sound out of the inboxes, round robin, the other works, one step
of one stream after another. So while one answer is written or spoken, everybody's sound is still taken and gated. Who
worked least has the next turn; a stream that begins to wait is no better off than the least of those that wait already,
so nobody saves up turns. Live streams go before files, which get a step at least every FILE_S. Knows no protocol.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import TYPE_CHECKING, Any

from edgekit.errors import RefusedError
from edgekit.runtime.assemble import fitting
from edgekit.runtime.model import Model
from edgekit.runtime.options import StreamOptions, stream_options
from edgekit.runtime.stream import Stream
from edgekit.serving.latencies import Latencies
from edgekit.serving.limits import Limits
from edgekit.serving.served import Served, Tap, check_texts
from edgekit.serving.turn import Turn
from edgekit.timing import Clock

if TYPE_CHECKING:
    from edgekit.runtime.options import StreamFields

FILE_S = 0.5  # a file waits at most so long for its next step
STUCK_S = 20.0  # of one step, or one turn of the neighbours' loop: slow machines take seconds, what hangs for ever
STOP_S = 2.0  # what was said is finished in that time, or dropped
_SPANS = 1000  # of each side of a stream: nobody reads those of a year
_WHILE_SAID = ("partials", "provisional_ms")
ONCE = (*_WHILE_SAID, "speak")
"""The defaults that a recording, or one question, is better without: nothing is early about its end."""
_LOOK_S = 0.5  # between two looks at who is idle or does not read
_BUSY_S = 10.0  # over which `busy` is measured
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Counts:
    """What a server did so far. Seconds are of sound, but for ``worked_s``, which are of the working thread."""

    opened: int = 0
    refused: Counter[str] = field(default_factory=Counter)  # by reason
    ended: Counter[str] = field(default_factory=Counter)  # by reason
    events: Counter[str] = field(default_factory=Counter)  # by kind
    received_s: float = 0.0
    heard_s: float = 0.0
    gated_s: float = 0.0
    abandoned_s: float = 0.0
    worked_s: float = 0.0


class Server:
    """See the module. Streams may be opened while it is in a ``with`` block.

    ``model``: what new streams are made of; None while it is loaded, and may be replaced: streams that are open go on
    with the one they have.
    """

    def __init__(
        self, model: Model | None = None, limits: Limits | None = None, *, clock: Clock = time.monotonic
    ) -> None:
        self.model, self.limits, self.clock = model, limits or Limits(), clock
        self.defaults: StreamFields = {}  # of options that a stream does not say
        self.taps: Callable[[str, StreamOptions], Tap] | None = None  # what sees every new stream, by its name
        self.stopping = False
        self.stepped_at = clock()  # when a step ended last, or there was none to do
        self._streams: list[Served] = []  # replaced, never changed: the threads read it without a lock
        self._over = Counts()  # of streams that have ended
        self._past = Latencies()  # of the live ones among these
        self._admitting = threading.Lock()
        self._taken, self._worked = threading.Event(), threading.Event()  # what wakes either thread
        self._turn = Turn()
        self._ending = False
        self._waited: set[Served] = set()  # streams that were pending at the last turn
        self._busy: list[tuple[float, float]] = []  # moment, seconds worked until then
        self._worked_s = 0.0
        self._threads = [
            threading.Thread(target=self._take, name="edgekit-taker", daemon=True),
            threading.Thread(target=self._work, name="edgekit-worker", daemon=True),
        ]

    def __enter__(self) -> "Server":  # noqa: PYI034 - typing.Self needs Python 3.11
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop(0.0)
        self._ending = True
        self._stir()
        for thread in self._threads:
            thread.join(STOP_S)  # one whose engine hangs is left behind

    @property
    def alive(self) -> bool:
        """Whether both threads run, as they do inside the ``with`` block."""
        return all(thread.is_alive() for thread in self._threads)

    @property
    def hangs(self) -> bool:
        """Whether a thread goes on behind the block: native code that does not return."""
        return self._ending and any(thread.is_alive() for thread in self._threads)

    def open(
        self,
        options: "StreamOptions | StreamFields | None" = None,
        *,
        name: str,
        live: bool = True,
        wake: Callable[[], None] = lambda: None,
    ) -> Served:
        """Return a new stream; ``name`` is what the log calls it, ``live`` and ``wake`` see Served.

        Raises RefusedError for one too many, or while those that there are come late, the model is loaded or the
        server stops; UsageError for options that the bundle does not offer, or with too long a text.
        """
        given = (
            options if isinstance(options, StreamOptions) else self.options(options or {}, without=() if live else ONCE)
        )
        check_texts(given)
        with self._admitting:
            if (refusal := self._refusal(live=live)) is not None:
                self._over.refused[refusal.reason] += 1
                raise refusal
            assert self.model is not None
            stream = self.model.stream(given)
            stream.measure(limit=_SPANS)
            served = Served(
                stream, self.limits, name, live=live, wake=wake, stir=self._stir, clock=self.clock,
                tap=self.taps(name, given) if self.taps else None,
            )  # fmt: skip
            self._over.opened += 1
            self._streams = [*self._streams, served]
        return served

    def adopt(self, stream: Stream, name: str) -> Served:
        """Return a live stream, made elsewhere, as one of this server's that its caller steps and ends himself.

        ``Served.step`` waits for its turn, so that it and the streams of others go on side by side; it takes no place
        of theirs.
        """
        stream.measure(limit=_SPANS)
        served = Served(
            stream, self.limits, name, live=True, wake=lambda: None, stir=self._stir, clock=self.clock,
            tap=self.taps(name, stream.options) if self.taps else None, turn=self._turn,
        )  # fmt: skip
        with self._admitting:
            self._over.opened += 1
            self._streams = [*self._streams, served]
        return served

    def options(
        self, options: "Mapping[str, Any]", *, without: Collection[str] = (), model: Model | None = None
    ) -> StreamOptions:
        """Return the options of a stream that says these, and what it does not say as by default.

        A default that the bundle cannot do with the rest is left out; what is said is not. without: the defaults that
        do not hold here, such as ``ONCE``; model: what it is a stream of, if not the present one.
        """
        defaults: dict[str, Any] = {name: value for name, value in self.defaults.items() if name not in without}
        result = stream_options(_together(defaults, options))
        model = model or self.model
        if model is None:
            return result
        offered = fitting(model.manifest, result)
        soft = {name: getattr(offered, name) for name in _WHILE_SAID if name not in options}
        return replace(result, **soft)

    @property
    def loaded(self) -> Model:
        """The model that new streams are made of. Raises RefusedError while it is loaded."""
        if self.model is None:
            raise _loading()
        return self.model

    @property
    def ready(self) -> bool:
        """Whether a stream would be taken, if there is room for one."""
        return self.model is not None and not self.stopping

    @property
    def streams(self) -> list[Served]:
        """Those that are open."""
        return [served for served in self._streams if served.ended is None]

    @property
    def behind_s(self) -> float:
        """Seconds that the latest of the live streams is behind."""
        return max((served.behind_s for served in self.streams if served.live), default=0.0)

    @property
    def late_s(self) -> float:
        """Seconds that one of the live streams is late by this server's doing, at most; see ``Served.late_s``."""
        return max((served.late_s for served in self.streams), default=0.0)

    @property
    def busy(self) -> float:
        """The share of the last seconds that the working thread worked, 0 to 1."""
        now, (since, worked_s) = self.clock(), self._busy[0] if self._busy else (self.clock(), self._worked_s)
        return min(1.0, (self._worked_s - worked_s) / (now - since)) if now > since else 0.0

    @property
    def counts(self) -> Counts:
        """Return what was done so far, open streams included."""
        with self._admitting:
            over, streams = self._over, self._streams
            counts = Counts(
                over.opened, Counter(over.refused), Counter(over.ended), Counter(over.events), over.received_s,
                over.heard_s, over.gated_s, over.abandoned_s, over.worked_s,
            )  # fmt: skip
        for served in streams:
            _add(counts, served)
        return counts

    @property
    def latencies(self) -> Latencies:
        """Return those of the live streams there were lately, open ones included; a new object each time."""
        latencies = Latencies()
        with self._admitting:
            for one in (self._past, *(served.latencies for served in self._streams if served.live)):
                latencies.add(one)
        return latencies

    def stop(self, within_s: float = STOP_S) -> None:
        """Take no further stream, finish what was said within some seconds, then end every stream."""
        self.stopping = True
        for served in self._others:
            served.stop()
        end = self.clock() + within_s
        while self._others and self.clock() < end:
            self._worked.set()
            time.sleep(min(0.01, max(0.0, end - self.clock())))
        for served in self._others:
            served.close("stopping", f"stream: not all of it was heard within {within_s:g} s of the end; send it again")

    def stuck(self, longest_s: float) -> bool:
        """Return whether there is work and no step has ended for so long: an engine that hangs."""
        return any(served.pending for served in self.streams) and self.clock() - self.stepped_at > longest_s

    @property
    def _others(self) -> list[Served]:
        """Those that are open and stepped here."""
        return [served for served in self.streams if not served.own]

    def _refusal(self, *, live: bool) -> RefusedError | None:
        open_streams, limits = len(self._others), self.limits
        if self.stopping:
            return RefusedError("stopping", "server: it is stopping; connect again in a moment")
        if self.model is None:
            return _loading()
        if open_streams >= limits.streams:
            return RefusedError(
                "streams", f"streams: {open_streams} are open, at most {limits.streams} may be; try again when one ends"
            )
        if live and (late_s := self.late_s) > limits.late_s:
            return RefusedError(
                "late", f"streams: those that are open are {late_s:.1f} s late, {limits.late_s:g} s may be; "
                "try again in a moment",
            )  # fmt: skip
        return None

    def _stir(self) -> None:
        self._taken.set()
        self._worked.set()

    def _take(self) -> None:
        looked = self.clock()
        while not self._ending:
            self._taken.clear()
            took = [served.take() for served in self._streams]
            if any(took):
                self._worked.set()
            if self.clock() - looked >= _LOOK_S:
                looked = self.clock()
                self._look(looked)
            if not any(took):
                self._taken.wait(_LOOK_S)

    def _work(self) -> None:
        while not self._ending:
            self._worked.clear()
            served = self._next()
            if served is None:
                self.stepped_at = self.clock()
                self._forget_ended()
                self._worked.wait(_LOOK_S)
                continue
            before = served.worked_s
            with self._turn:
                served.work()
            self._worked_s += served.worked_s - before
            self.stepped_at = self.clock()
            if served.ended is not None:
                self._forget_ended()
            self._taken.set()  # what was heard made room

    def _next(self) -> Served | None:
        """Return whose turn it is."""
        pending = [served for served in self._streams if served.pending]
        if not pending:
            self._waited.clear()
            return None
        least = min((served.share_s for served in pending if served in self._waited), default=None)
        for served in pending:
            if served not in self._waited and least is not None:
                served.share_s = max(served.share_s, least)
        self._waited = set(pending)
        files = [served for served in pending if not served.live]
        now = self.clock()
        due = [served for served in files if now - served.stepped_at > FILE_S]
        live = [served for served in pending if served.live]
        return min(due or live or files, key=lambda served: served.share_s)

    def _look(self, now: float) -> None:
        for served in self._streams:
            served.look(now)
        self._busy = [one for one in self._busy if now - one[0] <= _BUSY_S] + [(now, self._worked_s)]
        self._worked.set()

    def _forget_ended(self) -> None:
        """Count what has ended and let go of it."""
        with self._admitting:
            for served in [served for served in self._streams if served.ended is not None]:
                assert served.ended is not None
                _add(self._over, served)
                if served.live:
                    self._past.add(served.latencies)
                self._over.ended[served.ended.reason] += 1
                if served.ended.error:
                    _log.warning("stream %s: %s", served.name, served.ended.error)
                self._streams = [one for one in self._streams if one is not served]


def _together(defaults: "Mapping[str, Any]", options: "Mapping[str, Any]") -> dict[str, Any]:
    """Return options with the defaults that have an effect beside them; of sampling field by field.

    Beside another a default may have none, or be the opposite of what was said; a stream refuses either.
    """
    idle, sampling = set(), options.get("sampling")
    speaks = {**defaults, **options}.get("speak")
    if not speaks:
        idle.add("voice")
    if options.get("floor") == "clip":  # known at the end alone
        idle.add("partials")
    drawing = defaults.get("sampling") or {}
    if isinstance(sampling, Mapping):
        if sampling.get("temperature") == 0:  # nothing is drawn, but for a voice
            drawing = {name: value for name, value in drawing.items() if name not in {"top_k", "top_p"}}
            idle |= set() if speaks else {"seed"}
        sampling = {**drawing, **sampling}
    result = {name: value for name, value in defaults.items() if name not in idle} | dict(options)
    return result | {"sampling": sampling} if "sampling" in options else result


def _loading() -> RefusedError:
    return RefusedError("loading", "server: the model is being loaded; connect again in a moment")


def _add(counts: Counts, served: Served) -> None:
    stream = served.stream
    rate = stream.sample_rate_hz
    heard_s, gated_s = stream.samples_heard / rate, stream.samples_gated / rate
    counts.events.update(served.made)
    counts.received_s += served.pushed_s
    counts.heard_s += heard_s
    counts.gated_s += gated_s
    if served.ended is not None:  # what the inbox, the resampler and the queue still held
        counts.abandoned_s += max(0.0, served.pushed_s - heard_s - gated_s)
    counts.worked_s += served.worked_s
