"""A microphone that is opened again: what is noticed when, heard again when, said how often, and counted how."""

import logging
import threading

import numpy as np
import pytest

from edgekit.errors import DeviceError
from edgekit.runtime.audio.devices import calls, lasting
from edgekit.runtime.audio.devices.calls import FreshProcessError, left_behind
from edgekit.runtime.audio.playback import Playback
from tests.runtime.audio.devices.machine import Driven, Machine, Opened, Plugged
from tests.runtime.audio.portaudio import PortAudioError

RATE = 16_000


@pytest.fixture(autouse=True)
def said(caplog):
    caplog.set_level(logging.INFO, "edgekit")
    return lambda: [record.getMessage() for record in caplog.records]


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """Let no stream that another test has left open keep PortAudio from starting anew."""
    monkeypatch.setattr(calls, "CLOSE_S", 0.02)
    monkeypatch.setattr(calls, "_open", {})


@pytest.fixture
def machine(alone):
    machine = Machine(Plugged())
    yield machine
    machine.thaw()
    for thread in threading.enumerate():
        if thread.name == "edgekit-portaudio":
            thread.join(20)
    assert left_behind() == 0
    assert calls.streams_open() == 0


def fresh(microphone, at_least=0.0):
    """Say whether sound came within the last half second."""
    return microphone.fresh_s is not None and microphone.machine.now - microphone.fresh_s <= 0.5 + at_least


def all_read(microphone):
    total = 0
    while len(samples := microphone.read(1000)):
        total += len(samples)
    return total


FAULTS = {
    "nothing": "no sound for",
    "constant": "the same value 0.2500",
    "repeated": "the same 50 ms again and again",
    "nan": "it sends what is no sound",
}


@pytest.mark.parametrize("sends", FAULTS)
def test_what_is_no_sound_is_noticed_within_three_seconds_and_heard_again_within_five(machine, said, sends):
    with Driven(machine) as microphone:
        microphone.advance(10)
        mic, begun = machine.plugged[0], machine.now
        mic.sends = sends
        while not said():
            microphone.advance(0.25)
        assert machine.now - begun <= 3.0
        assert FAULTS[sends] in said()[0]
        microphone.advance(60)
        assert len(said()) == 1, "once"
        assert len(machine.opened) > 10, "for ever"
        mic.sends, begun = "noise", machine.now
        while not fresh(microphone):
            microphone.advance(0.25)
        assert machine.now - begun <= 5.0
        microphone.advance(5)
        assert len(said()) == 2
        assert "well again after" in said()[1]
        assert len(machine.running) == 1


def test_each_trouble_is_said_anew_once_it_was_well(machine, said):
    with Driven(machine) as microphone:
        for _ in range(3):
            microphone.advance(10)
            machine.plugged[0].sends = "nothing"
            microphone.advance(5)
            machine.plugged[0].sends = "noise"
        microphone.advance(10)
    assert [line.split(":")[1][:6] for line in said()] == [" no so", " well "] * 3


@pytest.mark.parametrize("device", [None, "usb mic", 0, "USB Mic: Audio, ALSA"])
@pytest.mark.parametrize("change", ["same", "number", "rate", "both"])
def test_a_device_that_was_unplugged_is_heard_when_it_is_back_under_another_number_or_at_another_rate(
    machine, said, device, change
):
    with Driven(machine, device) as microphone:
        microphone.advance(5)
        mic = machine.unplug()
        microphone.advance(30)
        assert not fresh(microphone)
        assert "it stopped sending sound" in said()[0]
        if change in {"number", "both"}:
            machine.plugged.append(Plugged("Webcam (hw:1,0)"))
            mic.name = mic.name.replace("hw:1", "hw:2")
        if change in {"rate", "both"}:
            mic.rates = (48_000,)
        machine.plugged.append(mic)
        begun = machine.now
        microphone.advance(5)
        assert fresh(microphone)
        microphone.advance(5)
        running = machine.running[0]
        assert (running.mic is mic) == (device is not None or change in {"same", "rate"})
        assert running.settings["samplerate"] == (48_000 if change in {"rate", "both"} and running.mic is mic else RATE)
        assert microphone.sample_rate_hz == RATE
        assert begun < machine.now
        all_read(microphone)
        account = microphone.ring.written_samples - microphone.ring.dropped_samples + microphone.dropped_samples
        assert account == pytest.approx(45 * RATE, abs=RATE / 2)


def test_a_device_that_its_driver_renamed_by_a_little_is_found(machine):
    with Driven(machine, 0) as microphone:
        microphone.advance(5)
        mic = machine.unplug()
        machine.plugged += [Plugged("Webcam (hw:1,0)"), mic]
        mic.name = "USB Mic: Audio #2 (hw:3,0)"
        microphone.advance(5)
        assert fresh(microphone)
        assert machine.running[0].mic is mic


def test_a_named_device_is_awaited_and_no_other_microphone_is_taken_for_it(machine, said):
    with Driven(machine, "usb") as microphone:
        microphone.advance(5)
        machine.unplug()
        machine.plugged.append(Plugged("Webcam (hw:1,0)"))
        microphone.advance(60)
        assert not machine.running
        (_, line) = said()
        assert "microphone 'usb': none has this name" in line
        assert "Webcam" in line


class Speaking(Machine):
    """One with a loudspeaker too."""

    mute = False

    def query_devices(self, device=None, kind=None):
        if kind == "output":
            return {"name": "speaker", "max_output_channels": 1, "default_samplerate": 24_000.0}
        return super().query_devices(device, kind)

    def check_output_settings(self, **settings):
        """Take anything."""

    def OutputStream(self, **settings):  # noqa: N802 - sounddevice's name
        if self.mute:
            raise PortAudioError("Error opening OutputStream: Illegal combination of I/O devices [PaErrorCode -9993]")
        self.opened.append(Opened(self, settings, Plugged(sends="nothing")))
        return self.opened[-1]


@pytest.mark.parametrize("speaks", [False, True])
def test_a_microphone_comes_back_beside_an_open_speaker_which_rests_between_two_answers(speaks):
    machine = Speaking(Plugged())
    with Playback(portaudio=machine) as playback, Driven(machine, "usb") as microphone:
        microphone.advance(5)
        mic = machine.plugged.pop()
        machine.running[-1].unplug()
        if speaks:
            playback.play(np.ones(2400, np.float32), 24_000)
            playback.finish()
        microphone.advance(10)
        assert (machine.starts == 1) == speaks, "an answer is not broken off"
        speaker = next(one for one in machine.running if one.mic is not mic)
        if speaks:
            speaker.ask(2400)
        mic.name = mic.name.replace("hw:1", "hw:2")
        machine.plugged.append(mic)
        microphone.advance(5)
        assert fresh(microphone)
        assert machine.starts > 1
        playback.play(np.ones(240, np.float32), 24_000)
        (speaker,) = [one for one in machine.running if one.mic is not mic]
        np.testing.assert_array_equal(speaker.ask(240), 1.0)
    assert not machine.running


@pytest.mark.parametrize("speaks", [False, True])
def test_a_sound_server_that_ends_both_and_comes_back_is_heard_and_spoken_through_again(speaks):
    machine = Speaking(Plugged())
    with Playback(portaudio=machine) as playback, Driven(machine, "usb") as microphone:
        microphone.advance(5)
        mic, machine.mute = machine.plugged.pop(), True
        if speaks:
            playback.play(np.ones(2400, np.float32), 24_000)
        for one in machine.running:
            one.unplug()
        microphone.advance(20)
        assert machine.starts > 3
        with pytest.raises(DeviceError, match="it stopped taking sound"):
            playback.play(np.ones(240, np.float32), 24_000)
        machine.plugged.append(mic)
        machine.mute = False
        microphone.advance(5)
        assert fresh(microphone)
        playback.flush()
        playback.play(np.ones(240, np.float32), 24_000)
        (speaker,) = [one for one in machine.running if one.mic is not mic]
        np.testing.assert_array_equal(speaker.ask(240), 1.0)
    assert not machine.running


def test_of_two_with_one_name_the_one_with_its_number_is_taken_again():
    machine = Machine(Plugged("Mic (hw:0,0)"), Plugged("Mic (hw:1,0)"))
    with Driven(machine, 1) as microphone:
        microphone.advance(5)
        machine.plugged[1].sends = "nothing"
        microphone.advance(4)
        machine.plugged[1].sends = "noise"
        microphone.advance(5)
        assert [one.mic for one in machine.opened] == [machine.plugged[1]] * len(machine.opened)
        assert len(machine.opened) > 1
        assert fresh(microphone)


def test_another_program_that_takes_the_device_is_waited_for(machine, said):
    with Driven(machine) as microphone:
        microphone.advance(5)
        machine.plugged[0].busy = True
        machine.running[0].unplug()
        microphone.advance(40)
        assert "busy, another program holds it" in said()[1]
        assert len(said()) == 2
        machine.plugged[0].busy = False
        microphone.advance(5)
        assert fresh(microphone)


def test_at_the_start_what_is_missing_or_busy_is_an_error(machine):
    with pytest.raises(DeviceError, match="none found"):
        Driven(Machine())
    with pytest.raises(DeviceError, match="none has this name"):
        Driven(machine, "no such")


def test_who_waits_waits_for_the_first_device_too(said):
    machine = Machine()
    with Driven(machine, "usb", waits=True) as microphone:
        assert "none found" in said()[0]
        microphone.advance(60)
        machine.plugged.append(Plugged(rates=(44_100,)))
        microphone.advance(5)
        assert fresh(microphone)
        assert microphone.sample_rate_hz == RATE
        microphone.advance(5)
        assert len(said()) == 2
        assert microphone.dropped_samples == 0, "nothing was missed before the first sound"


def test_a_clock_that_stands_still_is_a_fault_twice_and_then_the_drivers_way(machine, said):
    with Driven(machine) as microphone:
        microphone.advance(5)
        machine.plugged[0].clock = False
        microphone.advance(3)
        assert "its clock has stood still" in said()[0]
        microphone.advance(60)
        assert len(machine.opened) == 3
        assert fresh(microphone)
        assert "well again" in said()[-1]


def test_zeros_are_said_once_and_never_a_reason_to_open_it_again(machine, said):
    with Driven(machine) as microphone:
        microphone.advance(5)
        machine.plugged[0].sends = "zeros"
        microphone.advance(29)
        assert not said()
        microphone.advance(100)
        assert fresh(microphone)
        assert said() == ["microphone: only zeros for 30 s: is it muted, or another one meant? it goes on"]
        machine.plugged[0].sends = "noise"
        microphone.advance(1)
        assert said()[1:] == ["microphone: it sends sound again"]
        assert len(machine.opened) == 1


def test_a_device_that_hangs_in_its_close_is_left_behind_and_another_is_opened(machine, said):
    with Driven(machine) as microphone:
        microphone.advance(5)
        machine.hangs = {"close"}
        machine.running[0].mic.sends = "nothing"
        microphone.advance(3)
        assert left_behind() == 1
        first = machine.opened[0]
        machine.plugged[0].sends = "noise"
        microphone.advance(5)
        assert fresh(microphone)
        assert machine.starts == 1, "PortAudio is not started anew while a call is in it"
        before = microphone.ring.written_samples
        first.send(np.full(160, 0.5), 5.0)  # it comes back after all
        assert microphone.ring.written_samples == before
        machine.thaw()


def test_calls_that_never_return_end_in_the_wish_for_a_fresh_process(machine):
    microphone = Driven(machine)
    microphone.advance(5)
    machine.hangs = {"close"}
    machine.plugged[0].sends = "nothing"
    with pytest.raises(FreshProcessError, match="has not answered 3 calls") as raised:
        microphone.advance(60)
    assert raised.value.exit_code == 75
    microphone.close()


@pytest.mark.parametrize("call", ["open", "start", "init"])
def test_a_sound_server_that_is_frozen_is_said_and_heard_as_soon_as_it_answers(machine, said, call):
    with Driven(machine) as microphone:
        microphone.advance(5)
        machine.hangs = {call}
        machine.running[0].unplug()
        microphone.advance(20)
        assert "PortAudio does not answer" in said()[1]
        assert len(said()) == 2
        machine.thaw()
        microphone.advance(5)
        assert fresh(microphone)


def test_one_that_stays_frozen_ends_in_the_wish_for_a_fresh_process(machine):
    microphone = Driven(machine)
    microphone.advance(5)
    machine.hangs = {"open"}
    machine.running[0].unplug()
    with pytest.raises(FreshProcessError, match="has not answered for 3"):
        microphone.advance(40)
    microphone.close()


def test_a_call_that_returns_after_the_end_lets_its_device_go(machine):
    with Driven(machine) as microphone:
        microphone.advance(5)
        machine.hangs = {"start"}
        machine.running[0].unplug()
        microphone.advance(5)
    machine.thaw()
    for thread in threading.enumerate():
        if thread.name == "edgekit-portaudio":
            thread.join(20)
    assert not machine.running


def test_its_own_thread_hears_and_ends(machine):
    microphone = lasting.LastingMicrophone(portaudio=machine, look_s=0.01)
    with microphone:
        for _ in range(1000):
            machine.tick(0.01)
            if microphone.wait(0.01):
                break
        assert microphone.ring.available_samples
    assert not machine.running
    assert not [thread for thread in threading.enumerate() if thread.name == "edgekit-microphone"]


def test_what_is_missing_is_told_where_it_is_missing(machine):
    with Driven(machine, buffer_s=100.0) as microphone:
        microphone.advance(5)
        machine.plugged[0].sends = "nothing"
        microphone.advance(20)
        machine.plugged[0].sends = "noise"
        microphone.advance(10)
        before, at = 0, microphone._gaps[0][0]
        while not microphone.dropped_samples:
            samples = microphone.read(999)
            assert len(samples)
            before += len(samples)
        assert before == at == pytest.approx(5 * RATE, abs=RATE / 4)
        missing = microphone.dropped_samples
        assert missing == pytest.approx(20 * RATE, abs=5 * RATE)
        after = all_read(microphone)
        assert microphone.dropped_samples == missing
        assert before + missing + after == pytest.approx(35 * RATE, abs=RATE / 4)


@pytest.mark.parametrize("seed", range(12))
def test_whatever_happens_all_time_is_accounted_for(machine, seed):
    random = np.random.default_rng(seed)
    mic, read = machine.plugged[0], 0
    microphone = Driven(machine, "usb", buffer_s=3.0)
    microphone.look()
    first = machine.now
    microphone.advance(0.05)  # before the first sound nothing is missed
    try:
        for _ in range(60):
            machine.befall(mic, random)
            # A pause that is borne is no gap: a device that falls behind for a moment sends the rest later.
            microphone.advance(float(random.uniform(4, 9) if mic.sends == "nothing" else random.uniform(0.05, 6)))
            if random.random() < 0.6:
                read += all_read(microphone)
            dropped = microphone.dropped_samples
            waiting = microphone.ring.available_samples + sum(missing for _, missing in microphone._gaps)
            heard_s = (microphone._heard_s or first) - first
            # What a resampler holds back is on its way.
            assert read + dropped + waiting == pytest.approx(heard_s * RATE, abs=RATE / 20)
    except FreshProcessError:
        pass
    finally:
        microphone.close()
