"""The daemon: every sample is accounted for, however late the consumer, and it ends in good order."""

import signal
import struct
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile

import edgekit
from edgekit.cli.stopping import stopped_by_signals
from edgekit.errors import AudioError, DeviceError
from edgekit.runtime.audio.pace import chunks, paced
from edgekit.runtime.audio.recording import Recording
from edgekit.runtime.audio.ring import Ring
from edgekit.runtime.events import Lag, LevelChanged, Text
from edgekit.runtime.options import StreamOptions
from edgekit.serving import daemon as daemon_module
from edgekit.serving.daemon import Daemon

BLOCK = 160  # what a device hands over at once


class Script:
    """A Source without a device or a thread: each wait first records the next number of blocks of a plan."""

    def __init__(self, plan, *, rate=16_000, channels=1, buffer=1600, loudness=0.1, failure=None):
        self.sample_rate_hz, self.channels, self.overflows, self.fresh_s = rate, channels, 0, None
        self.away = False
        self.ring = Ring(buffer * channels)
        self.recorded = []
        self.waits = []
        self.stopped = False
        self._plan, self._failure = list(plan), failure
        self._random, self._loudness = np.random.default_rng(3), loudness

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        self.stopped = True

    @property
    def dropped_samples(self):
        """Count what the ring dropped."""
        return self.ring.dropped_samples // self.channels

    def wait(self, timeout_s):
        """Record, then say whether samples are there."""
        self.waits.append(timeout_s)
        if self._plan:
            for _ in range(self._plan.pop(0)):
                block = self._random.uniform(-1, 1, (BLOCK, self.channels)).astype(np.float32) * self._loudness
                self.recorded.append(block)
                self.ring.write(block.reshape(-1))
        elif not self.ring.available_samples:
            if self._failure is not None:
                raise self._failure
            self.ring.close()
        return self.ring.available_samples > 0

    def read(self, max_samples):
        """Return what waits."""
        return self.ring.read(max_samples * self.channels).reshape(-1, self.channels)


def ignore(_event):
    """Show nothing."""


@pytest.fixture
def model(tiny_bundle):
    return edgekit.load(tiny_bundle().folder, threads=1)


def listen(model, source, **options):
    events = []
    stream = model.stream(sample_rate_hz=source.sample_rate_hz, channels=source.channels, **options)
    daemon = Daemon(source, stream, events.append)
    daemon.run()
    return daemon, stream, events


def assert_balanced(tally):
    assert tally.captured == tally.processed + tally.gated + tally.dropped
    assert tally.waiting == 0


@pytest.mark.parametrize("blocks", [0, 1, 9, 10, 11, 37])
def test_a_consumer_in_time_processes_every_sample(model, blocks):
    daemon, _, _ = listen(model, Script([1] * blocks))
    assert daemon.tally.captured == daemon.tally.processed == blocks * BLOCK
    assert daemon.tally.dropped == daemon.tally.gated == 0


@pytest.mark.parametrize("plan", [[25], [1, 3, 30, 0, 2, 40, 1], [11] * 7, [200]])
def test_a_late_consumer_drops_exactly_what_the_account_says(model, plan):
    source = Script(plan)
    daemon, stream, events = listen(model, source)
    tally = daemon.tally
    assert tally.captured == sum(plan) * BLOCK
    assert tally.dropped > 0
    assert_balanced(tally)
    assert sum(event.dropped_samples for event in events if isinstance(event, Lag)) == tally.dropped
    assert stream.samples_received == tally.captured - tally.dropped


@pytest.mark.parametrize("rate", [16_000, 44_100, 48_000])
def test_silence_behind_a_closed_gate_is_counted_as_gated(model, rate):
    source = Script([1] * 60, rate=rate, loudness=0.0)
    daemon, _, events = listen(model, source, gate="sound")
    assert daemon.tally.gated == 60 * BLOCK
    assert daemon.tally.processed == 0
    assert_balanced(daemon.tally)
    assert not [event for event in events if isinstance(event, Text)]


def test_the_account_of_a_sound_too_short_to_be_resampled_balances(model):
    source = Played(np.ones(1), rate=192_000)
    daemon = Daemon(source, model.stream(sample_rate_hz=192_000), ignore)
    daemon.run()
    assert daemon.tally.captured == 1
    assert_balanced(daemon.tally)


@pytest.mark.parametrize(("rate", "channels"), [(48_000, 2), (44_100, 1), (16_000, 3)])
def test_the_account_balances_at_any_rate_and_number_of_channels(model, rate, channels):
    plan = [1, 4, 30, 2, 7]
    daemon, stream, _ = listen(model, Script(plan, rate=rate, channels=channels))
    assert daemon.tally.captured == sum(plan) * BLOCK
    assert_balanced(daemon.tally)
    # The resampler rounds the length of the whole input once, so one sample of 16 kHz is the most it may differ.
    expected = (daemon.tally.captured - daemon.tally.dropped) * 16_000 / rate
    assert abs(stream.samples_received - expected) <= 1


def test_a_late_consumer_gets_a_cheaper_level_until_it_has_caught_up(model):
    # The tiny bundle's full level is for a backlog of up to 1000 ms; 1600 ms wait at first, 100 ms are taken at a time.
    _, _, events = listen(model, Script([160], buffer=100_000))
    changes = [(event.level, event.at_s) for event in events if isinstance(event, LevelChanged)]
    # It answers every 400 ms: the first answer begins while 1100 ms wait, the second at 700 ms.
    assert changes == [("light", pytest.approx(0.4)), ("full", pytest.approx(0.8))]


def test_what_waits_when_it_is_stopped_is_still_heard(model):
    source = Script([30, 1, 1], buffer=10_000)
    stream = model.stream()
    daemon = Daemon(source, stream, ignore)
    wait = source.wait

    def wait_and_stop(timeout_s):
        ready = wait(timeout_s)
        daemon.stop()
        return ready

    source.wait = wait_and_stop
    daemon.run()
    assert source.stopped
    assert daemon.tally.captured == daemon.tally.processed == 30 * BLOCK


@pytest.mark.parametrize(("leave_at", "first", "last"), [(40, 100, 200), (190, 190, 195), (250, 300, 399)])
def test_who_leaves_waits_for_the_end_of_what_is_said(model, leave_at, first, last):
    """Of blocks of 10 ms: a second of sound, one of silence, and both again; the gate closes in either silence."""
    script = Script([1] * 400, buffer=64_000)
    stream = model.stream(gate="sound", level="full")
    daemon = Daemon(script, stream, ignore)
    record = script.wait

    def wait(timeout_s):
        script._loudness = 0.3 if len(script.recorded) % 200 < 100 else 0.0
        if len(script.recorded) == leave_at:
            daemon.leave()
        return record(timeout_s)

    script.wait = wait
    daemon.run()
    assert first <= len(script.recorded) <= last
    assert_balanced(daemon.tally)


def test_speech_without_a_pause_is_cut_after_all_where_somebody_leaves(model, monkeypatch):
    monkeypatch.setattr(daemon_module, "LEAVE_S", 0.0)
    script = Script([1] * 400, buffer=64_000, loudness=0.3)
    daemon = Daemon(script, model.stream(gate="sound", level="full"), ignore)
    daemon.leave()
    daemon.run()
    assert len(script.recorded) < 400
    assert_balanced(daemon.tally)


def test_a_failing_device_ends_it_after_what_was_recorded(model):
    source = Script([1, 2, 3], failure=DeviceError("microphone: gone; plug it in"))
    stream = model.stream()
    events = []
    daemon = Daemon(source, stream, events.append)
    with pytest.raises(DeviceError, match="gone"):
        daemon.run()
    assert daemon.tally.processed == 6 * BLOCK
    assert [event.final for event in events if isinstance(event, Text)][-1]


def test_samples_that_the_stream_refuses_are_counted_as_dropped(model):
    source = Script([1, 1, 1])
    write = source.ring.write
    source.ring.write = lambda samples: write(np.where(source.ring.written_samples == BLOCK, np.nan, samples))
    daemon = Daemon(source, model.stream(), ignore)
    with pytest.raises(AudioError, match="finite"):
        daemon.run()
    assert daemon.tally.dropped == BLOCK
    assert_balanced(daemon.tally)


class Clocked(Script):
    """A Source by whose waits time passes."""

    now, pace_s = 1000.0, 1.0

    def wait(self, timeout_s):
        self.now += self.pace_s
        ready = super().wait(0)
        if ready:
            self.fresh_s = self.now
        return ready


def test_a_source_without_fresh_sound_is_waited_for_and_the_daemon_is_not_alive(model):
    class Deaf(Clocked):
        def wait(self, timeout_s):
            self.now += 1.0
            alive.append(daemon.alive(self.now))
            if len(alive) == 100:
                daemon.stop()
            return False

    alive, source = [], Deaf([])
    daemon = Daemon(source, model.stream(), ignore, clock=lambda: source.now)
    daemon.run()
    assert alive == [True] * round(daemon_module.SOUND_S) + [False] * (100 - round(daemon_module.SOUND_S))


def test_who_hears_and_works_is_alive(model):
    alive, source = [], Clocked([1] * 100)
    source.pace_s = 0.01
    daemon = Daemon(source, model.stream(), ignore, lambda: alive.append(daemon.alive(source.now)), lambda: source.now)
    daemon.run()
    assert all(alive)
    assert len(alive) >= 90
    assert daemon.heartbeat.sound_s == source.fresh_s > 1000.9


@pytest.mark.parametrize("where", ["step", "show"])
def test_work_that_is_stuck_is_no_sign_of_life_however_much_sound_comes(model, where):
    source = Clocked([1] * 10_000)
    stream, asked, answered = model.stream(), threading.Event(), threading.Event()
    real = stream.step

    def stuck(*shown):
        asked.set()
        assert answered.wait(20)
        return () if shown else real()

    if where == "step":
        stream.step = stuck
    daemon = Daemon(source, stream, stuck, clock=lambda: source.now)
    thread = threading.Thread(target=daemon.run, daemon=True)
    thread.start()
    try:
        assert asked.wait(20)
        began = daemon.heartbeat.step_s
        while source.now < began + daemon_module.STEP_S + 1:
            assert answered.wait(0.001) is False
        source.fresh_s = source.now
        assert daemon.alive(began + daemon_module.STEP_S)
        assert not daemon.alive(began + daemon_module.STEP_S + 0.5)
    finally:
        daemon.stop()
        answered.set()
        thread.join(20)
    assert not thread.is_alive()


def test_a_signal_stops_it_and_the_handlers_are_put_back(model):
    class Signalled(Script):
        def wait(self, timeout_s):
            ready = super().wait(timeout_s)
            if len(self.waits) == 3:
                signal.pthread_kill(threading.main_thread().ident, signal.SIGTERM)
                stopped.wait(20)  # the handler runs in the main thread
            return ready

    class Told(Daemon):
        def stop(self):
            super().stop()
            stopped.set()

    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    source, stopped = Signalled([1] * 1000), threading.Event()
    daemon = Told(source, model.stream(), ignore)
    with stopped_by_signals(daemon):
        daemon.run()
    assert len(source.waits) == 3
    assert daemon.tally.processed == 3 * BLOCK
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_second_interrupt_ends_the_program_at_once(model):
    daemon = Daemon(Script([]), model.stream(), ignore)
    with stopped_by_signals(daemon):
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_terminal_that_is_closed_ends_it_in_good_order_however_often_it_says_so(model):
    daemon = Daemon(Script([]), model.stream(), ignore)
    with stopped_by_signals(daemon) as received:
        for _ in range(3):
            signal.raise_signal(signal.SIGHUP)
        assert daemon.stopping
        signal.raise_signal(signal.SIGTERM)  # as a session's end sends it behind
        assert received.number == signal.SIGHUP


def test_a_program_that_is_to_survive_its_terminal_does(model):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        daemon = Daemon(Script([]), model.stream(), ignore)
        with stopped_by_signals(daemon) as received:
            signal.raise_signal(signal.SIGHUP)
        assert (received.number, daemon.stopping) == (0, False)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_off_the_main_thread_no_signal_is_touched(model):
    before = signal.getsignal(signal.SIGTERM)

    def run():
        with stopped_by_signals(Daemon(Script([]), model.stream(), ignore)):
            found.append(signal.getsignal(signal.SIGTERM))

    found = []
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [before]


class Played(Script):
    """A Source whose sound is given, in blocks of one wait each."""

    def __init__(self, *blocks, rate=16_000):
        super().__init__([], rate=rate, buffer=1_000_000)
        self._blocks = list(blocks)

    def wait(self, timeout_s):
        """Record the next block."""
        if self._blocks:
            self.ring.write(self._blocks.pop(0).astype(np.float32))
        elif not self.ring.available_samples:
            self.ring.close()
        return self.ring.available_samples > 0


class FakeClock:
    """Time that passes only in sleep."""

    def __init__(self):
        self.now = 100.0
        self.slept = []

    def __call__(self):
        """Tell the time."""
        return self.now

    def sleep(self, seconds):
        """Let time pass."""
        self.slept.append(seconds)
        self.now += seconds


def write_wav(path: Path, seconds=0.5, rate=16_000, channels=1):
    samples = np.random.default_rng(5).uniform(-0.3, 0.3, (round(seconds * rate), channels))
    soundfile.write(path, samples, rate, subtype="FLOAT")
    return samples.astype(np.float32)


@pytest.mark.parametrize("samples", [1, 319, 320, 321, 16_001])
def test_a_paced_file_hands_over_every_chunk_when_its_last_sample_exists(tmp_path, samples):
    path = tmp_path / "a.wav"
    soundfile.write(path, np.full(samples, 0.1), 16_000)
    clock, handed = FakeClock(), 0
    for chunk, lag_ms in paced(path, clock, clock.sleep):
        handed += len(chunk.samples)
        assert clock.now == pytest.approx(100.0 + handed / 16_000)
        assert lag_ms == pytest.approx(0.0, abs=1e-6)
    assert handed == samples


def test_a_late_consumer_of_a_paced_file_is_told_how_late_it_is_and_never_waits(tmp_path):
    write_wav(tmp_path / "a.wav", 0.1)
    clock, lags = FakeClock(), []
    for _, lag_ms in paced(tmp_path / "a.wav", clock, clock.sleep):
        lags.append(lag_ms)
        clock.now += 0.05  # each chunk of 20 ms takes 50 ms
    assert lags == pytest.approx([0.0, 30.0, 60.0, 90.0, 120.0])
    assert clock.slept == pytest.approx([0.02])


@pytest.mark.parametrize(("rate", "channels"), [(16_000, 1), (44_100, 2)])
def test_a_recording_gives_the_same_text_as_the_file_itself(model, tmp_path, rate, channels):
    path = tmp_path / "a.wav"
    samples = write_wav(path, 0.5, rate, channels)
    clock = FakeClock()
    daemon, _, events = listen(model, Recording(path, clock=clock, sleep=clock.sleep))
    assert daemon.tally.captured == len(samples)
    assert daemon.tally.dropped == 0
    assert_balanced(daemon.tally)
    heard = [event.text for event in events if isinstance(event, Text) and event.final]
    assert heard == [segment.text for segment in model.transcribe(path).segments]
    assert clock.now == pytest.approx(100.5)


def test_a_recording_that_is_damaged_later_ends_with_the_error_of_the_file(model, tmp_path):
    path = tmp_path / "a.wav"
    samples = write_wav(path, 1.5)
    samples[20_000] = np.nan
    soundfile.write(path, samples, 16_000, subtype="FLOAT")
    clock = FakeClock()
    with pytest.raises(AudioError, match="sample 20000 is NaN"):
        listen(model, Recording(path, clock=clock, sleep=clock.sleep))


def test_a_recording_that_the_system_ends_is_an_error_after_what_was_played(model, tmp_path):
    path = tmp_path / "a.wav"
    write_wav(path, 1.5)
    clock = FakeClock()

    def sleep(seconds):
        if clock.now > 101:
            raise OSError(5, "Input/output error")
        clock.sleep(seconds)

    events = []
    source = Recording(path, clock=clock, sleep=sleep)
    daemon = Daemon(source, model.stream(sample_rate_hz=16_000), events.append)
    with pytest.raises(OSError, match="Input/output error"):
        daemon.run()
    assert_balanced(daemon.tally)
    assert daemon.tally.captured > 15_000
    assert [event for event in events if isinstance(event, Text) and event.final]


def test_stopping_a_recording_ends_its_thread_in_the_middle_of_a_sleep(model, tmp_path):
    path = tmp_path / "a.wav"
    write_wav(path, 60.0)
    source = Recording(path)
    daemon = Daemon(source, model.stream(sample_rate_hz=16_000), ignore)
    daemon.stop()
    daemon.run()
    assert_balanced(daemon.tally)
    assert daemon.tally.captured < 16_000
    assert not [thread for thread in threading.enumerate() if thread.name == "edgekit-recording"]


def test_chunks_of_a_file_join_to_the_file(tmp_path):
    samples = write_wav(tmp_path / "a.wav", 2.345, 22_050, 2)
    pieces = list(chunks(tmp_path / "a.wav"))
    assert {len(piece.samples) for piece in pieces[:-1]} <= {441, 22_050 % 441 or 441}
    np.testing.assert_array_equal(np.concatenate([piece.samples for piece in pieces]), samples)


def test_an_hour_of_sound_is_read_in_little_memory(tmp_path):
    path, samples = tmp_path / "hour.wav", 3600 * 16_000
    with path.open("wb") as file:  # a header, then a hole that reads as silence
        file.write(struct.pack("<4sI4s", b"RIFF", 36 + 2 * samples, b"WAVE"))
        file.write(struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, 16_000, 32_000, 2, 16))
        file.write(struct.pack("<4sI", b"data", 2 * samples))
        file.truncate(44 + 2 * samples)
    tracemalloc.start()
    try:
        assert sum(len(chunk.samples) for chunk in chunks(path, 1.0)) == samples
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # A second is 64 kB and the hour 230 MB; soundfile and its module take about 1 MB.
    assert peak < 4 << 20


def test_stream_and_source_must_agree_on_rate_and_channels(model):
    assert StreamOptions().sample_rate_hz == 16_000
    with pytest.raises(AssertionError):
        Daemon(Script([], rate=48_000), model.stream(), ignore)
