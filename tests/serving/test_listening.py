"""One daemon after another on one source: it stays open, and no sample of it is in no account."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise

import numpy as np
import pytest

from edgekit.errors import DeviceError
from edgekit.runtime.audio.echo.canceller import EchoCanceller
from edgekit.runtime.audio.echo.reference import Reference
from edgekit.runtime.audio.echo.source import EchoFree
from edgekit.runtime.audio.ring import Ring
from edgekit.runtime.events import Event, Lag
from edgekit.runtime.model import Model
from edgekit.serving import daemon as daemon_module
from edgekit.serving.daemon import Daemon, Tally
from edgekit.serving.listening import Listening
from tests.runtime.test_front_end_24k import FRONT_END

RATE, BLOCK = 16_000, 441
WAIT_S = 20.0


class Talk:
    """A Source of 48 blocks, two at each wait; before each wait ``befalls`` is called with its number."""

    sample_rate_hz, channels, overflows, fresh_s, away = RATE, 1, 0, None, False
    blocks = 48

    def __init__(self, befalls: Callable[[int], None], buffer_s: float = 10.0) -> None:
        self.ring = Ring(round(buffer_s * RATE))
        self.entered = self.exited = self.waits = 0
        self._befalls = befalls
        self.sound = np.random.default_rng(5).uniform(-1e-5, 1e-5, (self.blocks, BLOCK)).astype(np.float32)

    def __enter__(self) -> object:
        """Count."""
        self.entered += 1
        return self

    def __exit__(self, *_error: object) -> None:
        """Count."""
        self.exited += 1

    @property
    def dropped_samples(self) -> int:
        """Count what the ring dropped."""
        return self.ring.dropped_samples

    def wait(self, timeout_s: float) -> bool:
        """Record two blocks; the device overflows in between."""
        del timeout_s
        self._befalls(self.waits)
        for block in self.sound[2 * self.waits : 2 * self.waits + 2]:
            self.ring.write(block)
            self.overflows += 1
        self.waits += 1
        if 2 * self.waits > self.blocks:
            self.ring.close()
        return self.ring.available_samples > 0

    def read(self, max_samples: int) -> np.ndarray:
        """Return what waits."""
        return self.ring.read(max_samples).reshape(-1, 1)


class Room:
    """A Listening on a Talk; at some of its waits the model changes, or it stops."""

    def __init__(self, model: Model, changes: tuple[int, ...], *, stop: int = -1, echo: bool = False) -> None:
        self.model, self.changes, self.stop, self.echo = model, changes, stop, echo
        self.daemons: list[Daemon] = []
        self.events: list[Event] = []
        self.pushed: list[np.ndarray] = []
        self.fails_at = -1
        self.between: Callable[[], None] = lambda: None
        self.source = Talk(self.befalls)
        self.heard = [self.source]
        self.listening = Listening(self.begin)

    def befalls(self, wait: int) -> None:
        """Do what is to be done at this wait."""
        if wait in self.changes:
            self.listening.change(self.model)
        if wait == self.stop:
            self.end()

    def end(self) -> None:
        """Let another thread stop it."""
        self.ender = threading.Thread(target=self.listening.stop, args=(WAIT_S,))
        self.ender.start()
        while not self.listening._stopping:
            self.ender.join(0.001)

    @contextmanager
    def begin(self, model: Model) -> Iterator[Daemon]:
        """Put a daemon together, as the command does."""
        if len(self.daemons) == self.fails_at:
            raise DeviceError("speaker: gone; plug it in")
        if self.daemons:
            self.between()
        if self.echo:
            first = self.heard[-1].canceller.rest if len(self.heard) > 1 else None
            canceller = EchoCanceller(Reference(Ring(RATE), RATE, RATE), RATE, cancels=False, first=first)
            self.heard.append(EchoFree(self.source, canceller))
        stream = model.stream(sample_rate_hz=RATE, gate="sound", level="full")
        push = stream.push
        stream.push = lambda samples, **said: (self.pushed.append(samples.copy()), push(samples, **said))[1]
        after = self.daemons[-1] if self.daemons else None
        self.daemons.append(Daemon(self.heard[-1], stream, self.events.append, after=after))
        yield self.daemons[-1]

    def run(self) -> None:
        """Listen to its end."""
        self.listening.start(self.model)
        self.listening._thread.join(WAIT_S)
        assert self.listening.over


def balances(tally: Tally) -> bool:
    parts = tally.processed, tally.gated, tally.dropped, tally.waiting
    return tally.captured == sum(parts[:3]) and min(parts) >= 0


@pytest.mark.parametrize("loudness", [1, 20_000])
@pytest.mark.parametrize("changes", [(7,), (0,), (3, 4, 19), tuple(range(24))])
def test_a_change_hands_the_open_source_over_and_every_sample_is_in_one_account(
    load: Callable, monkeypatch: pytest.MonkeyPatch, changes: tuple[int, ...], loudness: int
) -> None:
    monkeypatch.setattr(daemon_module, "LEAVE_S", 0.0)  # for speech without a pause
    room = Room(load(), changes)
    room.source.sound *= loudness
    room.run()
    assert room.listening.failure is None
    assert (room.source.entered, room.source.exited) == (1, 1)
    tallies = [daemon.tally for daemon in room.daemons]
    assert len(tallies) == len(changes) + 1
    assert all(map(balances, tallies))
    assert sum(tally.captured for tally in tallies) == 48 * BLOCK
    assert sum(tally.overflows for tally in tallies) == 48
    assert sum(tally.waiting + tally.dropped for tally in tallies) == 0
    assert np.array_equal(np.concatenate(room.pushed)[:, 0], room.source.sound.reshape(-1))


def test_what_is_dropped_between_two_daemons_is_in_the_account_of_the_next_whose_stream_is_told(load: Callable) -> None:
    room = Room(load(), (7,))
    room.source.ring.capacity_samples = 4 * BLOCK

    def between() -> None:
        for _ in range(9):
            room.source.ring.write(np.zeros(BLOCK, np.float32))
        assert balances(room.daemons[0].tally)

    room.between = between
    room.run()
    first, second = (daemon.tally for daemon in room.daemons)
    assert balances(first)
    assert balances(second)
    assert first.captured + second.captured == (48 + 9) * BLOCK
    assert first.dropped == 0
    assert second.dropped == (9 + 2 - 4) * BLOCK
    assert sum(event.dropped_samples for event in room.events if isinstance(event, Lag)) == second.dropped


def test_the_sum_of_all_accounts_never_loses_a_sample_while_it_changes(load: Callable) -> None:
    room, over, sums = Room(load(), (2, 9, 15)), threading.Event(), list[int]()

    def look() -> None:
        while not over.is_set():
            tallies = [daemon.tally for daemon in room.daemons.copy()]
            assert all(map(balances, tallies))
            sums.append(sum(tally.captured for tally in tallies))
            over.wait(0.001)

    looker = threading.Thread(target=look)
    looker.start()
    room.run()
    over.set()
    looker.join(WAIT_S)
    assert all(later >= earlier - len(room.daemons) for earlier, later in pairwise(sums)), "but for rounding"


def test_a_stop_between_two_daemons_still_hears_what_waits(load: Callable) -> None:
    room = Room(load(), (7,))

    def between() -> None:
        room.source.ring.write(np.zeros(BLOCK, np.float32))
        room.end()

    room.between = between
    room.run()
    assert (room.source.entered, room.source.exited) == (1, 1)
    tallies = [daemon.tally for daemon in room.daemons]
    assert sum(tally.captured for tally in tallies) == room.source.ring.written_samples
    assert sum(tally.dropped for tally in tallies) == 0


def test_a_stop_beside_a_change_closes_the_source(load: Callable) -> None:
    room = Room(load(), (7,), stop=7)
    room.run()
    assert len(room.daemons) == 1
    assert (room.source.entered, room.source.exited) == (1, 1)
    assert room.daemons[0].tally.captured == room.source.ring.written_samples


def test_where_the_next_cannot_begin_what_waits_is_dropped_and_said(load: Callable) -> None:
    room = Room(load(), (7,))
    room.fails_at = 1
    room.run()
    assert isinstance(room.listening.failure, DeviceError)
    room.source.ring.write(np.zeros(77, np.float32))
    room.daemons[0].close_source()
    rest = room.daemons[0].behind
    assert room.source.exited == 1
    assert (rest.captured, rest.dropped) == (77, 77)


def test_the_end_of_a_file_ends_it_though_the_model_has_just_changed(load: Callable) -> None:
    room = Room(load(), (25,))
    room.listening.change(load())
    room.run()
    assert (room.source.entered, room.source.exited) == (1, 1)
    assert sum(daemon.tally.captured for daemon in room.daemons) == 48 * BLOCK


def test_without_its_echo_too_a_microphone_goes_on_where_it_was(load: Callable) -> None:
    room = Room(load(), (3, 8, 20), echo=True)
    room.run()
    assert room.listening.failure is None
    heard = np.concatenate(room.pushed)[:, 0]
    assert np.array_equal(heard[160:], room.source.sound.reshape(-1)), "a frame later"
    tallies = [daemon.tally for daemon in room.daemons]
    assert all(map(balances, tallies))
    assert sum(tally.captured for tally in tallies) == 48 * BLOCK + 160


def test_a_model_whose_front_end_has_another_rate_goes_on_at_that_of_the_source(load: Callable) -> None:
    room = Room(load(), ())
    other = load(front_end=FRONT_END)
    room.source._befalls = lambda wait: room.listening.change(other) if wait == 7 else None
    room.run()
    assert room.listening.failure is None
    assert [daemon._stream.sample_rate_hz for daemon in room.daemons] == [RATE, 24_000]
    tallies = [daemon.tally for daemon in room.daemons]
    assert all(map(balances, tallies))
    assert sum(tally.captured for tally in tallies) == 48 * BLOCK
