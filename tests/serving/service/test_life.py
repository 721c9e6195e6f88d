"""The life of a process that serves: loaded once or again, reloaded, watched, and stopped in good order."""

import dataclasses
import os
import re
import signal
import socket
import threading
import time

import numpy as np
import pytest
from msgspec import structs

import edgekit
from edgekit.errors import BundleFormatError, RefusedError, SettingsError
from edgekit.serving.configuration import Configured
from edgekit.serving.limits import Limits
from edgekit.serving.server import Server
from edgekit.serving.service.life import Life, account_of, status_of, works
from edgekit.serving.service.neighbours import Neighbours
from edgekit.serving.service.notify import Notify
from edgekit.serving.service.signals import Signals
from edgekit.serving.settings import LOADING, Settings
from tests.runtime.streams import RATE, sound_of
from tests.serving.test_server import Held

WAIT_S = 20


class Process:
    """A life that is told what comes next by a list, whose model may be held up."""

    def __init__(self, folder, bundle, error=None, **settings):
        self.settings = structs.replace(Settings(), bundle=str(bundle), **settings)
        self.error = error
        self.may = threading.Event()
        self.may.set()
        self.loads = 0
        self.steps = []
        self.received = 0
        self.notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notified.bind(str(folder / "notify"))
        self.notified.setblocking(False)
        variables = {"NOTIFY_SOCKET": str(folder / "notify"), "WATCHDOG_USEC": "1000"}
        self.alive = True
        self.server = Server(None, self.settings.limits)
        self.life = Life(
            self.server, Configured(self.settings), configure=self.configure, load=self.load, alive=lambda: self.alive,
            status=lambda: status_of(self.server), notify=Notify(variables),
            ready=lambda _model: self.steps.append("ready"),
        )  # fmt: skip

    def configure(self):
        if isinstance(self.settings, Exception):
            raise self.settings
        return Configured(self.settings)

    def load(self, settings):
        assert self.may.wait(WAIT_S)
        self.loads += 1
        if self.error is not None:
            raise self.error
        return edgekit.load(settings.bundle, threads=1)

    def wait(self, _timeout_s):
        """Be the Signals: what comes next is for `script` to say."""
        time.sleep(0.001)
        return next(self.script, 0)

    def run(self, script):
        """Live, while a generator says what comes: a signal, or 0 for none; its end is SIGTERM."""

        def then_end():
            yield from script
            self.received = signal.SIGTERM
            yield signal.SIGTERM

        self.script = then_end()
        self.life.run(self)

    @property
    def told(self):
        came = []
        try:
            while True:
                came.append(self.notified.recv(4096).decode().split("\n")[0])
        except BlockingIOError:
            return came


@pytest.fixture
def process(tmp_path, tiny_bundle):
    """Return a function that makes such a process, inside its server's block."""
    made = []

    def make(**settings):
        (folder := tmp_path / f"life{len(made)}").mkdir()
        bundle = settings.pop("bundle", None) or tiny_bundle("cross").folder
        made.append(Process(folder, bundle, **settings))
        made[-1].server.__enter__()
        return made[-1]

    yield make
    for one in made:
        one.server.__exit__(None, None, None)
        one.notified.close()


def until(condition):
    """Yield no signal until something is so."""
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end, "it did not come"
        yield 0


def test_it_is_ready_once_the_model_is_loaded_and_not_before(process):
    one = process()
    one.may.clear()

    def script():
        yield from (0, 0, 0)
        assert one.server.model is None
        assert one.told == ["EXTEND_TIMEOUT_USEC=30000000"]
        with pytest.raises(RefusedError, match="the model is being loaded; connect again in a moment"):
            one.server.open({}, name="early")
        assert status_of(one.server) == "loading"
        one.may.set()
        yield from until(lambda: one.server.ready)
        assert one.steps == ["ready"]
        yield 0
        told = one.told
        assert told[0] == "READY=1"
        assert "WATCHDOG=1" in told
        assert "STATUS=0 of 4 streams; 0.0 s behind; 0% busy" in told

    one.run(script())
    assert one.server.ready
    one.life.stop()
    assert not one.server.ready
    assert one.told[-1] == "STOPPING=1"


def test_a_first_model_that_cannot_be_loaded_ends_it_and_a_later_one_does_not(process, caplog):
    broken = process(error=BundleFormatError("b: broken; copy it again"))
    with pytest.raises(BundleFormatError, match="^b: broken; copy it again$"):
        broken.run(until(lambda: False))
    one = process()

    def script():
        yield from until(lambda: one.server.ready)
        before = one.server.model
        one.error = BundleFormatError("b: broken; copy it again")
        one.settings = structs.replace(one.settings, threads=2, limits=Limits(streams=9))
        yield signal.SIGHUP
        yield from until(lambda: not one.life.left_behind)
        yield from (0, 0)
        assert one.server.model is before
        assert one.server.limits.streams == 4  # nothing of it holds
        assert one.told.count("READY=1") == 2

    one.run(script())
    assert "not loaded: b: broken; copy it again; the model that there was goes on" in caplog.text


@pytest.mark.parametrize("error", [MemoryError("no room"), OSError("an unreadable page"), RuntimeError("of an engine")])
@pytest.mark.parametrize("where", ["loading", "reading"])
def test_nothing_that_goes_wrong_in_a_reload_ends_who_serves(process, caplog, where, error):
    one = process()

    def script():
        yield from until(lambda: one.server.ready)
        before, good = one.server.model, one.settings
        assert "READY=1" in one.told
        if where == "loading":
            one.error, one.settings = error, structs.replace(good, threads=2)
        else:
            one.settings = error
        yield signal.SIGHUP
        yield from until(lambda: "READY=1" in one.told)
        assert one.server.model is before
        one.error, one.settings = None, structs.replace(good, threads=3)
        yield signal.SIGHUP
        yield from until(lambda: one.server.model is not before)

    one.run(script())
    assert f"loaded: unexpected {type(error).__name__}; " in caplog.text


@pytest.mark.parametrize("name", LOADING)
def test_whatever_a_model_is_loaded_with_a_change_loads_another(process, tiny_bundle, name):
    one = process()
    other = {
        "bundle": str(tiny_bundle("cross").folder), "threads": 3, "backend": "x", "context_tokens": 5, "plans": "p",
        "trust": ("k",),
    }.get(name, True)  # fmt: skip

    def script():
        yield from until(lambda: one.server.ready)
        before = one.server.model
        yield signal.SIGHUP
        yield from (0, 0)
        assert (one.loads, one.server.model) == (1, before)  # nothing has changed
        one.settings = structs.replace(one.settings, **{name: other})
        yield signal.SIGHUP
        yield from until(lambda: one.loads == 2)  # whether it can speak, its streams say

    one.run(script())


def test_a_bundle_that_another_took_the_place_of_is_loaded_again(process, tiny_bundle, tmp_path):
    place = tmp_path / "place"
    place.symlink_to(tiny_bundle("cross").folder)
    one = process(bundle=place)

    def script():
        yield from until(lambda: one.server.ready)
        open_before = one.server.open({"sample_rate_hz": RATE}, name="before")
        place.unlink()
        place.symlink_to(tiny_bundle("cross", name="other").folder)
        yield signal.SIGHUP
        yield from until(lambda: one.loads == 2 and one.server.model.manifest.name == "other")
        assert open_before.ended is None

    one.run(script())


def test_signals_while_a_model_is_loaded_are_not_forgotten(process):
    one = process()
    one.may.clear()

    def script():
        yield 0
        one.settings = structs.replace(one.settings, limits=Limits(streams=9))
        yield signal.SIGHUP
        yield signal.SIGHUP
        one.may.set()
        yield from until(lambda: one.server.limits.streams == 9)
        assert one.loads == 1

    one.run(script())


def test_a_configuration_that_is_wrong_changes_nothing_and_is_said(process, caplog):
    one = process()
    good = one.settings

    def script():
        yield from until(lambda: one.server.ready)
        for wrong in (
            SettingsError("f: a is 1, must be 2; correct it"),
            structs.replace(good, stream=structs.replace(good.stream, language="xx"), limits=Limits(streams=9)),
            structs.replace(good, stream=structs.replace(good.stream, tools="/no such file")),
        ):
            one.settings = wrong
            yield signal.SIGHUP
            assert "RELOADING=1" in one.told
        assert one.server.limits.streams == 4
        assert one.server.ready

    one.run(script())
    said = [record.getMessage() for record in caplog.records]
    assert said[0] == "not reloaded: f: a is 1, must be 2; correct it; what was read before stays"
    assert all(line.startswith("not reloaded: stream.") for line in said[1:])
    assert len(said) == 3


def test_what_streams_do_not_say_is_as_the_configuration_has_it(process):
    one = process()
    level = {}

    def script():
        yield from until(lambda: one.server.ready)
        name = one.server.model.manifest.levels[-1].name
        one.settings = structs.replace(one.settings, stream=structs.replace(one.settings.stream, level=name))
        yield signal.SIGHUP
        yield from until(lambda: one.server.defaults.get("level") == name)
        level["default"] = one.server.open({}, name="a").stream.options.level == name
        level["own"] = one.server.open({"level": None}, name="b").stream.options.level
        file = one.server.open({}, name="c", live=False).stream.options
        level["file"] = (file.partials, file.level == name)

    one.run(script())
    assert level == {"default": True, "own": None, "file": (False, True)}


def test_limits_that_a_port_is_opened_with_hold_from_the_next_start_on_and_others_at_once(process, caplog):
    one = process()
    old, new = one.settings.limits, Limits(streams=7, connections=3, body_bytes=2048, message_bytes=2048, slow_s=3.0)

    def script():
        yield from until(lambda: one.server.ready)
        one.settings = structs.replace(one.settings, limits=new)
        yield signal.SIGHUP
        yield from until(lambda: one.server.limits.streams == 7)

    one.run(script())
    kept = {name: getattr(old, name) for name in ("connections", "body_bytes", "message_bytes", "header_bytes")}
    assert one.server.limits == structs.replace(new, **kept)
    said = "changed, but it holds from the next start on: limits.body_bytes, limits.message_bytes, limits.connections"
    assert said in caplog.messages


def test_a_watchdog_is_not_fed_by_what_is_not_alive(process):
    one = process()

    def script():
        yield from until(lambda: one.server.ready)
        yield from until(lambda: "WATCHDOG=1" in one.told)
        one.alive = False
        yield from (0, 0)
        assert one.told == [] or set(one.told) <= {"STATUS"}
        yield from (0, 0, 0)
        assert "WATCHDOG=1" not in one.told

    one.run(script())


def test_a_step_that_does_not_end_is_not_alive_and_one_that_is_slow_is(load):
    model = load()
    held = Held(model.engines["encoder"])
    now = [100.0]
    neighbours = Neighbours([])
    neighbours.start()
    model = dataclasses.replace(model, engines=model.engines | {"encoder": held})
    with Server(model, Limits(), clock=lambda: now[0]) as server:
        assert works(server, neighbours)
        held.may.clear()
        served = server.open({"sample_rate_hz": RATE}, name="a")
        served.push(sound_of(9000))
        assert held.waits.wait(WAIT_S)
        now[0] += 19
        assert works(server, neighbours)
        now[0] += 2
        assert not works(server, neighbours)
        held.may.set()
    assert not works(server, neighbours)  # its threads have ended
    neighbours.stop()


def test_an_account_balances_and_says_no_word(process):
    one = process()

    def script():
        yield from until(lambda: one.server.ready)
        served = one.server.open({"sample_rate_hz": RATE}, name="somebody's name")
        served.push(np.concatenate([sound_of(9000), np.zeros(RATE, np.float32)]))
        served.finish()
        yield from until(lambda: served.ended)

    one.run(script())
    one.life.stop()
    account = account_of(one.server)
    numbers = re.fullmatch(
        r"1 streams, 0 refused; received (.+) s = heard (.+) \+ gated (.+) \+ dropped (.+) s", account
    ).groups()
    received, *rest = map(float, numbers)
    assert received == pytest.approx((9000 + RATE) / RATE, abs=0.1)
    assert received == pytest.approx(sum(rest), abs=0.2)
    assert "somebody" not in account + status_of(one.server)


@pytest.fixture
def signals():
    """Take the signals of this process, as long as a test lasts."""
    with Signals() as taken:
        yield taken


def test_signals_come_in_order_and_those_that_end_it_once(signals):
    assert signals.wait(0.0) == 0
    os.kill(os.getpid(), signal.SIGHUP)
    os.kill(os.getpid(), signal.SIGTERM)
    assert [signals.wait(1.0), signals.received] == [signal.SIGHUP, 0]
    assert [signals.wait(1.0), signals.received] == [signal.SIGTERM, signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) == signals._before[signal.SIGTERM]
    for _ in range(3000):  # more than the pipe between them holds
        signals._came(signal.SIGHUP, None)
    assert signals.wait(0.0) == signal.SIGHUP


def test_who_ignores_hangups_goes_on_ignoring_them():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Signals() as signals:
            os.kill(os.getpid(), signal.SIGHUP)
            assert signals.wait(0.0) == 0
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
