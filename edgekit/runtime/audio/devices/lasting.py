"""LastingMicrophone: a microphone that is opened again whenever it falls silent, for ever.

    PortAudio callback -> Ring                 one ring and one rate, however many devices come and go
    supervising thread: Watch -> close, open   each call on a thread of its own, that may be left behind

What is wrong is said once, and once that it is well again. The time without sound is told as samples dropped, so that
times stay right. Where PortAudio itself is stuck, and only a fresh process helps, it ends with FreshProcessError.
"""

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from types import ModuleType, TracebackType

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import DeviceError
from edgekit.rates import DEFAULT_HZ
from edgekit.runtime.audio.devices.calls import CLOSE_S, OPEN_S, Call, FreshProcessError, left_behind, let_go
from edgekit.runtime.audio.devices.names import list_devices, stable
from edgekit.runtime.audio.devices.watch import PATIENCE, Watch
from edgekit.runtime.audio.microphone import Microphone
from edgekit.runtime.audio.portaudio import load_portaudio, start_anew
from edgekit.runtime.audio.ring import Ring
from edgekit.runtime.hear.resampler import LOUDEST, Resampler

Samples = NDArray[np.float32]

LOOK_S = 0.25  # between two looks: four wake-ups a second cost nothing
FROZEN_S = 4.0  # in one call: long enough to say so
STUCK_S = 30.0  # in one call: a sound server that was restarted has answered by then
MOST_LEFT = 3  # calls left behind, each with its thread, device and memory
_PAUSES_S = (0.0, 0.25, 0.5, 1.0, 2.0, 3.0)  # before each try; the last for ever: with it, a device is heard within 5 s
_CLOCK_FAULTS = 2  # one after the other: it is the driver that tells no time, and sound comes nevertheless
_JITTER = 0.3  # share of a pause: programs that lost one sound server together do not come back together
_log = logging.getLogger(__name__)


class _Device:
    """A device from when it is opened until it is given up."""

    def __init__(self) -> None:
        self.microphone: Microphone | None = None
        self.resampler: Resampler | None = None
        self.watch: Watch | None = None
        self.blocks: deque[tuple[float, Samples, float, bool]] = deque(maxlen=1000)  # not looked at yet
        self.heard = False
        self.broken = ""

    def close(self) -> None:
        """Close it; one that is frozen keeps who calls."""
        if self.microphone is not None:
            self.microphone.close()


class LastingMicrophone:
    """A Source of mono sound that outlives its devices; see ``serving.daemon.Source``.

    ``device``: words of a name, a number, or None for whatever is the system's default at the time. One that was named
    is awaited, by its name: nobody's other microphone is taken in its place. Without ``waits`` the first device has to
    be there: DeviceError as of ``Microphone``. ``sample_rate_hz`` is its rate; one that comes with another rate is
    resampled. ``reopened`` counts. ``portaudio`` stands in for sounddevice; ``look_s`` for the time between looks.
    """

    channels = 1

    def __init__(
        self,
        device: int | str | None = None,
        *,
        rate_hz: int = DEFAULT_HZ,
        buffer_s: float = 10.0,
        waits: bool = False,
        portaudio: ModuleType | None = None,
        clock: Callable[[], float] = time.monotonic,
        look_s: float = LOOK_S,
    ) -> None:
        self._wanted, self._hint = device, None if isinstance(device, str) else device
        self._portaudio, self._clock, self._look_s = portaudio, clock, look_s
        self.sample_rate_hz, self.reopened, self._overflows = rate_hz, 0, 0
        self.fresh_s: float | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._supervise, name="edgekit-microphone", daemon=True)
        self._writing = threading.Lock()  # the ring has one producer at a time, and what is told with it is whole
        self._current: _Device | None = None  # whose sound is taken
        self._device: _Device | None = None  # the same, once it has started
        self._call: Call[None] | None = None
        self._called_s = self._next_s = 0.0
        self._heard_s: float | None = None  # when the last sound had come
        self._gaps: deque[tuple[int, int]] = deque()  # at which sample of the ring how many are missing
        self._missing = 0  # of gaps that were read
        self._tries = self._clock_faults = 0
        self._trouble_s: float | None = None
        self._said: set[str] = set()
        self._muted = False
        self._failure: BaseException | None = None
        self._open_first(waits=waits)
        self.ring = Ring(max(1, round(buffer_s * self.sample_rate_hz)))

    def __enter__(self) -> "LastingMicrophone":  # noqa: PYI034 - typing.Self needs Python 3.11
        self._next_s = self._clock()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(2 * CLOSE_S)
        self.close()

    def close(self) -> None:
        """Write nothing more, and let the device go, or leave it behind."""
        with self._writing:
            device, self._current = self._current, None
        call, self._call, self._device = self._call, None, None
        if call is not None and device is not None:
            call.abandon(lambda _: device.close())
        elif device is not None:
            self._let_go(device)
        self.ring.close()

    @property
    def overflows(self) -> int:
        """How often PortAudio lost samples before we saw them."""
        device = self._current
        return self._overflows + (device.microphone.overflows if device and device.microphone else 0)

    @property
    def dropped_samples(self) -> int:
        """Samples that were not read in time, and those that are missing before what is read next."""
        with self._writing:
            position = self._position()
            while self._gaps and self._gaps[0][0] <= position:
                self._missing += self._gaps.popleft()[1]
            return self.ring.dropped_samples + self._missing

    def wait(self, timeout_s: float) -> bool:
        """Sleep until samples are there, at most ``timeout_s``; say whether they are. Raises FreshProcessError."""
        if self.ring.wait(timeout_s):
            return True
        if self._failure is not None:
            raise self._failure
        return False

    def read(self, max_samples: int) -> Samples:
        """Return the oldest samples that wait, (n, 1) float32 with n <= ``max_samples``, none behind a gap."""
        with self._writing:
            ahead = self._gaps[0][0] - self._position() if self._gaps else 0
        return self.ring.read(min(max_samples, ahead) if ahead > 0 else max_samples).reshape(-1, 1)

    def step(self) -> float:
        """Do what is due by now; return for how many seconds nothing is. For the supervising thread."""
        now_s = self._clock()
        return self._opening(now_s) if self._device is None else self._watching(self._device, now_s)

    def _position(self) -> int:
        return self.ring.processed_samples + self.ring.dropped_samples

    def _open_first(self, *, waits: bool) -> None:
        """Open the device without starting it: its rate is the stream's, and what is wrong is known at the start."""
        device = _Device()
        call = Call(lambda: self._make(device))
        if not call.wait(OPEN_S):
            call.abandon(lambda _: device.close())
            raise FreshProcessError(
                f"microphone: PortAudio has not answered for {OPEN_S:.0f} s; see whether the sound server runs, "
                "then start again"
            )
        try:
            call.result()
        except DeviceError as error:
            if not waits:
                raise
            self._trouble(str(error), self._clock())
            return
        assert device.microphone is not None
        self._current, self.sample_rate_hz = device, device.microphone.sample_rate_hz

    def _make(self, device: _Device) -> None:
        self._portaudio = portaudio = self._portaudio or load_portaudio("microphone")
        device.microphone = microphone = Microphone(
            self._wanted, portaudio=portaudio, rate_hz=self.sample_rate_hz, hint=self._hint,
            hand_over=partial(self._hand_over, device),
        )  # fmt: skip
        self._hint = microphone.facts["index"]
        if isinstance(self._wanted, int):  # by its name from now on: another may get the number
            here = list_devices(portaudio)[self._wanted]
            self._wanted = f"{stable(here.label)}, {here.system}"

    def _begin(self, device: _Device) -> None:
        """Open and start; on a thread of its own. PortAudio knows the devices of when it was started."""
        if device.microphone is None:
            if self._portaudio is not None:
                start_anew(self._portaudio)
            self._make(device)
        assert device.microphone is not None
        rate_hz = device.microphone.sample_rate_hz
        if rate_hz != self.sample_rate_hz:
            device.resampler = Resampler(rate_hz, 1, "", rate_out=self.sample_rate_hz)
        device.microphone.__enter__()

    def _supervise(self) -> None:
        try:
            while not self._stop.is_set():
                self._stop.wait(self.step())
        except BaseException as error:  # noqa: BLE001 - `wait` raises it, where it can be seen
            self._failure = error
            self.ring.close()

    def _opening(self, now_s: float) -> float:
        if self._call is None:
            if now_s < self._next_s:
                return min(self._next_s - now_s, self._look_s)
            self._tries += 1
            with self._writing:
                begun = self._current = self._current or _Device()
            self._call, self._called_s = Call(partial(self._begin, begun)), now_s
        if not self._call.wait(self._look_s):
            self._look_at_call(now_s)
            return 0.0
        call, self._call = self._call, None
        device = self._current
        assert device is not None
        try:
            call.result()
        except DeviceError as error:
            self._give_up(device, str(error), now_s)
            return 0.0
        assert device.microphone is not None
        device.watch = Watch(device.microphone.sample_rate_hz, now_s)
        self._device = device
        self.reopened += self._heard_s is not None
        return self._look_s

    def _look_at_call(self, now_s: float) -> None:
        waited_s = now_s - self._called_s
        if waited_s >= FROZEN_S:
            self._trouble("PortAudio does not answer, as where the sound server is frozen", now_s)
        if waited_s >= STUCK_S:
            raise FreshProcessError(
                f"microphone: PortAudio has not answered for {waited_s:.0f} s; "
                "see whether the sound server runs, then start again"
            )

    def _watching(self, device: _Device, now_s: float) -> float:
        assert device.watch is not None
        assert device.microphone is not None
        watch, timed = device.watch, self._clock_faults < _CLOCK_FAULTS
        while device.blocks:
            at_s, block, device_s, lost = device.blocks.popleft()
            watch.took(at_s, block, device_s if timed else 0.0, lost=lost)
        fault = watch.look(now_s)
        if watch.fresh_s is not None:
            self.fresh_s = watch.fresh_s
        if device.broken:
            self._give_up(device, device.broken, now_s)
        elif device.microphone.ring.closed:
            self._give_up(device, "it stopped sending sound", now_s)
        elif fault is not None:
            self._clock_faults += fault.kind == "clock"
            self._give_up(device, fault.text, now_s, kind=fault.kind)
        else:
            self._tell_of_zeros(watch)
            if watch.well:
                self._well(now_s)
            return self._look_s
        return 0.0

    def _give_up(self, device: _Device, text: str, now_s: float, kind: str = "") -> None:
        """Let a device go, and try again after a pause that grows with each try."""
        with self._writing:
            self._current = self._device = None
            if device.resampler is not None:
                self.ring.write(device.resampler.finish())
        self._trouble(text, now_s, kind)
        pause_s = _PAUSES_S[min(self._tries, len(_PAUSES_S) - 1)]
        self._next_s = now_s + pause_s * (1 - _JITTER * random.random())  # noqa: S311 - spreads, protects nothing
        self._let_go(device)

    def _let_go(self, device: _Device) -> None:
        if device.microphone is not None:
            self._overflows += device.microphone.overflows
        if not let_go(device.close) and left_behind() >= MOST_LEFT and not self._stop.is_set():
            raise FreshProcessError(
                f"microphone: PortAudio has not answered {MOST_LEFT} calls; "
                "see whether the sound server runs, then start again"
            )

    @property
    def away(self) -> bool:
        """Whether something is wrong with it, which was said, and it is being opened again."""
        return self._trouble_s is not None

    def _trouble(self, text: str, now_s: float, kind: str = "") -> None:
        """Say what is wrong, once for each kind or text until it is well again."""
        if self._trouble_s is None:
            self._trouble_s = now_s
        if (kind or text) not in self._said:
            self._said.add(kind or text)
            name = "" if text.startswith("microphone") else "microphone: "
            _log.warning("%s%s; it is opened again until it is well", name, text)

    def _well(self, now_s: float) -> None:
        if self._trouble_s is not None:
            _log.info("microphone: well again after %.0f s", now_s - self._trouble_s)
        self._trouble_s, self._tries = None, 0
        self._clock_faults = self._clock_faults if self._clock_faults >= _CLOCK_FAULTS else 0
        self._said.clear()

    def _tell_of_zeros(self, watch: Watch) -> None:
        if watch.muted and not self._muted:
            _log.warning(
                "microphone: only zeros for %.0f s: is it muted, or another one meant? it goes on", PATIENCE.muted_s
            )
        elif self._muted and not watch.zeros_s:
            _log.info("microphone: it sends sound again")
        self._muted = watch.muted or (self._muted and watch.zeros_s > 0)

    def _hand_over(self, device: _Device, samples: Samples, device_s: float, lost: bool) -> None:
        """Take a block on PortAudio's thread: copy and count; another rate, which is rare, is resampled here too."""
        now_s = self._clock()
        with self._writing:
            if device is not self._current or device.microphone is None:
                return  # it was given up, and comes back after all
            block = samples[:, 0].copy()
            missing_s = 0.0
            if not device.heard and self._heard_s is not None:
                missing_s = max(0.0, now_s - len(block) / device.microphone.sample_rate_hz - self._heard_s)
            device.heard, self._heard_s = True, now_s
            if not (np.abs(block) <= LOUDEST).all():  # of NaN it is False
                device.broken = "it sends what is no sound (not finite, or far beyond full scale)"
                missing_s += len(block) / device.microphone.sample_rate_hz
                block = block[:0]
            if missing := round(missing_s * self.sample_rate_hz):
                self._gaps.append((self.ring.written_samples, missing))
            self.ring.write(block if device.resampler is None else device.resampler.push(block))
            device.blocks.append((now_s, block, device_s, lost))
