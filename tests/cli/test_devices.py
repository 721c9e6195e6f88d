"""`edgekit devices`: the names that `listen` takes, of what is there."""

import json
import sys

import pytest

from edgekit.runtime.audio.devices import calls
from edgekit.runtime.audio.microphone import Microphone
from edgekit.runtime.audio.playback import Playback
from tests.runtime.audio.portaudio import FakePortAudio, PortAudioError

DEVICES = [
    ("HDMI 0 (hw:0,3)", 0, 8, 0), ("USB Mic: Audio (hw:2,0)", 2, 0, 0), ("default", 32, 32, 0),
    ("USB Mic: Audio (hw:3,0)", 2, 0, 0), ("Headset", 1, 2, 0), ("Headset", 1, 2, 1),
]  # fmt: skip


class Several(FakePortAudio):
    """A machine of several devices, two of which have one name."""

    def query_devices(self, device=None, kind=None):
        facts = [
            {
                "name": name, "max_input_channels": inputs, "max_output_channels": outputs, "hostapi": system,
                "index": index, "default_samplerate": 48_000.0,
            }
            for index, (name, inputs, outputs, system) in enumerate(DEVICES)
        ]  # fmt: skip
        return facts if kind is None else facts[2 if device is None else device]

    def query_hostapis(self):
        return [{"name": "ALSA"}, {"name": "JACK"}]


def test_devices_are_listed_by_names_that_stay_and_the_defaults_are_marked(cli, monkeypatch):
    monkeypatch.setitem(sys.modules, "sounddevice", Several())
    code, out, err = cli("devices")
    assert (code, err) == (0, "")
    assert (
        out
        == """\
microphones:
   USB Mic: Audio (hw:2,0), ALSA  (number 1, ALSA, 2 channels, 48000 Hz)
 * default  (number 2, ALSA, 32 channels, 48000 Hz)
   USB Mic: Audio (hw:3,0), ALSA  (number 3, ALSA, 2 channels, 48000 Hz)
   Headset, ALSA  (number 4, ALSA, 1 channel, 48000 Hz)
   Headset, JACK  (number 5, JACK, 1 channel, 48000 Hz)
speakers:
   HDMI 0  (number 0, ALSA, 8 channels, 48000 Hz)
 * default  (number 2, ALSA, 32 channels, 48000 Hz)
   Headset, ALSA  (number 4, ALSA, 2 channels, 48000 Hz)
   Headset, JACK  (number 5, JACK, 2 channels, 48000 Hz)
* the system's default
"""
    )


def test_every_name_that_is_printed_opens_that_device(cli, monkeypatch):
    monkeypatch.setitem(sys.modules, "sounddevice", Several())
    monkeypatch.setattr(calls, "_open", {})
    listed = json.loads(cli("devices", "--json")[1])
    assert [one["number"] for one in listed] == [0, 1, 2, 3, 4, 5]
    for one in listed:
        portaudio = Several()
        for channels, make in (("inputs", Microphone), ("outputs", Playback)):
            if one[channels]:
                opened = make(device=one["name"], portaudio=portaudio)
                assert portaudio.stream.settings["device"] == one["number"]
                with opened:
                    pass
    assert calls.streams_open() == 0


def test_a_machine_without_sound_is_told_so_in_one_line(cli, monkeypatch):
    monkeypatch.setitem(sys.modules, "sounddevice", FakePortAudio(present=False))
    code, _, err = cli("devices")
    assert code == 1
    assert err == "edgekit: devices: PortAudio finds no sound device; plug one in, then `cat /proc/asound/cards`\n"


def test_a_portaudio_that_fails_is_one_line(cli, monkeypatch):
    class Failing(FakePortAudio):
        def query_hostapis(self):
            raise PortAudioError("Error querying host API: Internal error")

    monkeypatch.setitem(sys.modules, "sounddevice", Failing())
    code, out, err = cli("devices")
    assert (code, out) == (1, "")
    assert err.startswith("edgekit: devices: Error querying host API: Internal error; ")


@pytest.mark.parametrize("options", [["--wait"], ["--device", "usb"]])
def test_a_simulated_microphone_is_no_device(cli, bundle, wav, options):
    code, _, err = cli("listen", bundle, "--simulate", wav(), *options)
    assert code == 2
    assert "leave one out" in err


def test_a_speaker_that_nothing_is_spoken_through_is_refused(cli, bundle, wav):
    code, _, err = cli("listen", bundle, "--simulate", wav(), "--speaker", "usb")
    assert (code, err) == (
        2, "edgekit: --speaker usb: without --speak nothing is spoken; add it, or leave this out\n"
    )  # fmt: skip


def test_who_calls_a_portaudio_that_does_not_answer_ends_nevertheless(program, tmp_path):
    (tmp_path / "sounddevice.py").write_text("import time\ntime.sleep(1000)\n")
    (tmp_path / "sitecustomize.py").write_text(
        "import edgekit.runtime.audio.devices.calls as calls\ncalls.OPEN_S = 0.1\n"
    )
    process = program("devices", env={"PYTHONPATH": f"{tmp_path}:{':'.join(sys.path)}"})
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (75, "")
    assert err == (
        "edgekit: devices: PortAudio has not answered for 0.1 s; see whether the sound server runs, then start again\n"
    )
