"""The account of samples while devices die, come back at another rate, hang and lie, and whoever looks at it when."""

import logging
import threading
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest

from edgekit.runtime.audio.devices import calls
from edgekit.runtime.audio.devices.calls import FreshProcessError
from edgekit.serving.daemon import Daemon, Tally
from tests.runtime.audio.devices.machine import Driven, Machine, Plugged

RATE = 16_000


class Fated(Driven):
    """A microphone to which something happens at each wait; after ``fates`` of them it stops ``daemon``."""

    daemon: Daemon

    def __init__(self, machine: Machine, seed: int, fates: int, buffer_s: float) -> None:
        self.random, self.fates = np.random.default_rng(seed), fates
        super().__init__(machine, buffer_s=buffer_s)
        self.look()
        self.first = machine.now
        self.advance(0.05)  # before the first sound nothing is missed

    def wait(self, timeout_s: float) -> bool:
        """Let something happen, and time pass."""
        if self._failure is not None:
            raise self._failure
        if self.fates == 0:
            self.daemon.stop()
            return False
        self.fates -= 1
        mic = self.machine.plugged[0] if self.machine.plugged else MICROPHONE
        if self.random.random() < 0.5:
            self.machine.befall(mic, self.random)
        passes = self.random.uniform(4, 7) if mic.sends == "nothing" else self.random.choice([0.05, 0.1, 0.3, 5.0])
        try:
            self.advance(float(passes))
        except FreshProcessError as error:
            self._failure = error
        return self.ring.available_samples > 0


MICROPHONE = Plugged()


def balances(tally: Tally) -> bool:
    """Return whether an account holds."""
    parts = tally.processed, tally.gated, tally.dropped, tally.waiting
    return tally.captured == sum(parts[:3]) and min(parts) >= 0


@pytest.mark.parametrize("gate", ["off", "sound"])
@pytest.mark.parametrize("ends", ["stop", "show"])
@pytest.mark.parametrize("seed", range(6))
def test_the_account_balances_at_every_instant_whatever_happens_to_the_devices(
    load: Callable,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    *,
    seed: int,
    ends: str,
    gate: str,
) -> None:
    monkeypatch.setattr(calls, "CLOSE_S", 0.02)
    monkeypatch.setattr(calls, "_open", {})
    caplog.set_level(logging.ERROR, "edgekit")
    MICROPHONE.__init__(random=np.random.default_rng(seed))  # type: ignore[misc]
    machine = Machine(MICROPHONE)
    source = Fated(machine, seed, 60, buffer_s=[0.2, 3.0][seed % 2])
    shown: list[object] = []

    def show(event: object) -> None:
        shown.append(event)
        if ends == "show" and len(shown) == 10:
            raise ZeroDivisionError

    stream = load().stream(sample_rate_hz=RATE, gate=gate, level="full")
    source.daemon = daemon = Daemon(source, stream, show)
    accounts, over = list[Tally](), threading.Event()

    def look() -> None:
        while not over.is_set():
            accounts.append(daemon.tally)
            over.wait(0.001)

    looker = threading.Thread(target=look)
    looker.start()
    try:
        daemon.run()
    except (FreshProcessError, ZeroDivisionError):
        pass
    finally:
        over.set()
        looker.join(20)
        machine.thaw()
        for thread in threading.enumerate():
            if thread.name == "edgekit-portaudio":
                thread.join(20)
    assert calls.streams_open() == 0
    accounts.append(daemon.tally)
    assert [tally for tally in accounts if not balances(tally)] == []
    captured = [tally.captured + tally.waiting for tally in accounts]
    assert all(later >= earlier - 1 for earlier, later in pairwise(captured)), "nothing is uncounted"
    assert accounts[-1].waiting == 0
    missing = sum(samples for _, samples in source._gaps)
    heard_s = (source._heard_s or source.first) - source.first
    assert accounts[-1].captured + missing == pytest.approx(heard_s * RATE, abs=RATE / 20)
