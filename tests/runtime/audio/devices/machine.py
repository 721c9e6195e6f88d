"""A machine whose microphones come, go and fail, as the sounddevice module shows it; time passes as the test says."""

import threading
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np

from edgekit.runtime.audio.devices.lasting import LastingMicrophone
from tests.runtime.audio.portaudio import FakePortAudio, FakeStream, PortAudioError

BLOCK_S = 0.05


@dataclass
class Plugged:
    """A microphone in a socket, and what is wrong with it."""

    name: str = "USB Mic: Audio (hw:1,0)"
    rates: tuple[int, ...] = (16_000, 48_000)
    busy: bool = False
    sends: str = "noise"  # or: nothing, zeros, constant, repeated, nan
    clock: bool = True
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(1))

    def sound(self, samples: int) -> np.ndarray:
        """What it sends of these many samples."""
        if self.sends == "repeated":
            return np.random.default_rng(5).uniform(-0.1, 0.1, samples)
        values = {"zeros": 0.0, "constant": 0.25, "nan": np.nan}
        if self.sends in values:
            return np.full(samples, values[self.sends])
        return self.random.uniform(-0.1, 0.1, samples)


class Opened(FakeStream):
    """A stream of one microphone."""

    def __init__(self, machine: "Machine", settings: dict[str, object], mic: Plugged) -> None:
        super().__init__(machine, settings)
        self.machine, self.mic, self.gone = machine, mic, False

    def start(self) -> None:
        self.machine.enter("start")
        if self.mic.busy:
            raise PortAudioError("Error starting stream: Device unavailable [PaErrorCode -9985]", -9985)
        self.running = True

    def close(self) -> None:
        self.machine.enter("close")
        super().close()

    def unplug(self) -> None:
        self.gone = True
        super().unplug()

    def send(self, samples: np.ndarray, adc: float) -> None:
        """Call back."""
        block = samples.astype(np.float32)[:, None]
        self.settings["callback"](block, len(block), SimpleNamespace(inputBufferAdcTime=adc), flags())
        block[:] = 9.0  # PortAudio's memory


def flags() -> SimpleNamespace:
    return SimpleNamespace(input_overflow=False)


class Machine(FakePortAudio):
    """``plugged`` is what is there, ``seen`` what PortAudio found when it started. ``hangs``: calls that do not return
    until they are taken out of it, or until the test ends (``release``).
    """

    def __init__(self, *plugged: Plugged) -> None:
        super().__init__()
        self.plugged = list(plugged)
        self.hangs: set[str] = set()
        self.opened: list[Opened] = []
        self.now = 1000.0
        self.starts = 0
        self._initialized = 0
        self._changed = threading.Condition()
        self._over = False
        self._initialize()

    def enter(self, call: str) -> None:
        """Begin a call, and hang in it."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._over or call not in self.hangs, 60)

    def thaw(self) -> None:
        """Let every call return."""
        with self._changed:
            self.hangs.clear()
            self._changed.notify_all()

    def unplug(self) -> Plugged:
        """Pull out the last microphone; its streams end."""
        mic = self.plugged.pop()
        for one in self.running:
            one.unplug()
        return mic

    def befall(self, mic: Plugged, random: np.random.Generator) -> None:
        """Let something happen to a microphone, or to PortAudio."""
        fate = str(
            random.choice(["sends", "sends", "sends", "socket", "rate", "busy", "hang", "close", "thaw", "clock"])
        )
        if fate == "sends":
            mic.sends = str(random.choice(["noise", "noise", "nothing", "constant", "repeated", "nan", "zeros"]))
        elif fate == "socket":
            _ = self.unplug() if self.plugged else self.plugged.append(mic)
        elif fate == "rate":
            mic.rates = (int(random.choice([16_000, 44_100, 48_000])),)
        elif fate == "busy":
            mic.busy = not mic.busy
        elif fate == "clock":
            mic.clock = not mic.clock
        elif fate == "thaw":
            self.thaw()
        else:
            self.hangs.add("close" if fate == "close" else str(random.choice(["open", "start", "init"])))

    def _initialize(self) -> None:
        self.enter("init")
        self._initialized += 1
        self.starts += 1
        self.seen = list(self.plugged)

    def _terminate(self) -> None:
        assert not [one for one in self.opened if one.running], "a stream is open"
        self._initialized -= 1

    def query_devices(self, device=None, kind=None):
        facts = [
            {
                "name": one.name, "max_input_channels": 1, "max_output_channels": 0, "hostapi": 0, "index": index,
                "default_samplerate": float(one.rates[-1]),
            }
            for index, one in enumerate(self.seen)
        ]  # fmt: skip
        if kind is None:
            return facts
        index = 0 if device is None else device
        if not 0 <= index < len(facts):
            raise PortAudioError(f"Error querying device {-1 if device is None else device}")
        return facts[index]

    def check_input_settings(self, *, samplerate, device, **others):
        if samplerate not in self.seen[device or 0].rates:
            raise PortAudioError("Invalid sample rate [PaErrorCode -9997]", -9997)

    def InputStream(self, **settings) -> Opened:  # noqa: N802 - sounddevice's name
        self.enter("open")
        mic = self.seen[settings["device"] or 0]
        if mic not in self.plugged:
            raise PortAudioError("Error opening InputStream: Illegal combination of I/O devices [PaErrorCode -9993]")
        self.opened.append(Opened(self, settings, mic))
        return self.opened[-1]

    @property
    def running(self) -> list[Opened]:
        return [one for one in self.opened if one.running]

    def tick(self, seconds: float = BLOCK_S) -> None:
        """Let time pass, in which every microphone that is open sends a block."""
        self.now += seconds
        for one in self.running:
            if one.mic in self.plugged and not one.gone and one.mic.sends != "nothing":
                samples = round(seconds * one.settings["samplerate"])
                one.send(one.mic.sound(samples), self.now if one.mic.clock else 77.0)


class Driven(LastingMicrophone):
    """One whose supervising thread is the test."""

    def __init__(self, machine: Machine, device=None, **settings) -> None:
        self.machine = machine
        super().__init__(device, portaudio=machine, clock=lambda: machine.now, look_s=0.002, **settings)
        self._next_s = machine.now

    def __enter__(self) -> "Driven":  # noqa: PYI034 - typing.Self needs Python 3.11
        return self

    def __exit__(self, *_error) -> None:
        self._stop.set()
        self.close()

    def advance(self, seconds: float) -> None:
        """Let time pass, and look four times a second."""
        end = self.machine.now + seconds
        looks = 0
        while self.machine.now < end - 1e-9:
            looks += 1
            self.machine.tick()
            if looks % 5 == 0:
                self.look()

    def look(self) -> None:
        """Do what is due; calls that do not hang are over before time passes."""
        while self.step() == 0.0 and not self.machine.hangs:
            pass
