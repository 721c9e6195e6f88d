"""Which device is meant, and what is said where none or several are."""

import pytest

from edgekit.errors import DeviceError
from edgekit.runtime.audio.microphone import Microphone
from edgekit.runtime.audio.playback import Playback
from tests.runtime.audio.portaudio import FakePortAudio, PortAudioError

SYSTEMS = ("ALSA", "JACK Audio Connection Kit")
DEVICES = [("HDMI", 0, 8, 0), ("USB Mic", 2, 0, 0), ("usb hub", 1, 2, 0), ("USB Mic", 2, 0, 1), ("built in", 2, 2, 0)]
MICROPHONES = "1 (USB Mic, ALSA), 2 (usb hub, ALSA), 3 (USB Mic, JACK Audio Connection Kit), 4 (built in, ALSA)"
JACK = "3 (USB Mic, JACK Audio Connection Kit)"
MATCHING = "several match; name one with --device by its number"


class Several(FakePortAudio):
    """A machine of several devices, none of them the default, of which only one is found by its name."""

    def query_devices(self, device=None, kind=None):
        facts = [
            {
                "name": name, "max_input_channels": inputs, "max_output_channels": outputs, "hostapi": system,
                "default_samplerate": 48_000.0,
            }
            for name, inputs, outputs, system in DEVICES
        ]  # fmt: skip
        if kind is None:
            return facts
        if device == "built in":
            return facts[4]
        if isinstance(device, str) or device == 0:
            raise ValueError("sounddevice says it in words of its own")
        raise PortAudioError(f"Error querying device {device or -1}")

    def query_hostapis(self):
        return [{"name": name} for name in SYSTEMS]


@pytest.mark.parametrize(
    ("device", "line"),
    [
        ("usb", f"microphone 'usb': {MATCHING}: 1 (USB Mic, ALSA), 2 (usb hub, ALSA), {JACK}"),
        ("USB mic", f"microphone 'USB mic': {MATCHING}: 1 (USB Mic, ALSA), {JACK}"),
        ("mic usb", f"microphone 'mic usb': none has this name; name one with --device: {MICROPHONES}"),
        ("hdmi", f"microphone 'hdmi': none has this name; name one with --device: {MICROPHONES}"),
        (17, f"microphone 17: none has this number; name one with --device: {MICROPHONES}"),
        (0, f"microphone 0: none has this number; name one with --device: {MICROPHONES}"),
        (None, f"microphone: none is the default; name one with --device: {MICROPHONES}"),
    ],
)
def test_who_names_no_microphone_or_several_is_shown_those_there_are(device, line):
    with pytest.raises(DeviceError) as raised:
        Microphone(device, portaudio=Several())
    assert str(raised.value) == line


def test_a_microphone_that_is_named_is_taken():
    assert Microphone("built in", portaudio=Several()).sample_rate_hz == 16_000


def test_a_speaker_is_chosen_by_an_option():
    with pytest.raises(DeviceError) as raised:
        Playback(portaudio=Several())
    assert str(raised.value) == (
        "speaker: none is the default; name one with --speaker: 0 (HDMI, ALSA), 2 (usb hub, ALSA), 4 (built in, ALSA)"
    )
