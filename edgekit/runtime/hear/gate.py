"""Gate: decides which samples count, with hysteresis and pre-roll.

Knows thresholds and durations, not how sound is told from silence: that is a Detector's work. Samples are judged in
windows of fixed size counted from the first one, so every split of the input gives the same outputs.
"""

import math
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekit.bundle.manifest import GateSettings
from edgekit.errors import UsageError
from edgekit.runtime.hear.detectors import Detector, make_detector
from edgekit.runtime.hear.ending import EndingRule, Evidence, Loudness, ending
from edgekit.runtime.hear.resampler import Resampler

Samples = NDArray[np.float32]

_OVER = (0.1, 0.05)  # `start` and `stop` over playback: less is left of a voice there, and its level speaks for it too
_KEPT_S = 120.0  # of what was played: longer than any window waits to be judged


@dataclass(frozen=True, slots=True)
class Opened:
    """Sound counts from sample ``at_sample`` on, pre-roll included."""

    at_sample: int


@dataclass(frozen=True, slots=True, eq=False)
class Sound:
    """The next samples that count, (n,) float32, no gap since Opened; pre-roll and pauses are not ``sounding``."""

    samples: Samples
    sounding: bool


@dataclass(frozen=True, slots=True)
class Closed:
    """The last sounding window ended at ``end_sample``; that became known at ``decided_sample``."""

    end_sample: int
    decided_sample: int


@dataclass(frozen=True, slots=True)
class Paused:
    """What was said may have ended at ``end_sample``; that became known at ``decided_sample``.

    Sound behind it is held back until Resumed or Closed follows.
    """

    end_sample: int
    decided_sample: int
    evidence: Evidence


@dataclass(frozen=True, slots=True)
class Quiet:
    """The pause has lasted so long that it is an end by its sound alone; still to be confirmed."""

    decided_sample: int
    evidence: Evidence


@dataclass(frozen=True, slots=True)
class Resumed:
    """Speech goes on after Paused, at ``at_sample``; the ``held_samples`` that were held back since then follow."""

    at_sample: int
    held_samples: int


Output = Opened | Sound | Paused | Quiet | Resumed | Closed


def joined(outputs: Iterable[Output]) -> Iterator[Output]:
    """Yield the same outputs, Sounds that follow each other as one."""
    run: list[Sound] = []
    for output in (*outputs, None):
        if isinstance(output, Sound) and (not run or run[-1].sounding == output.sounding):
            run.append(output)
            continue
        if run:
            yield Sound(np.concatenate([sound.samples for sound in run]), run[0].sounding)
        run = [output] if isinstance(output, Sound) else []
        if output is not None and not run:
            yield output


def counting(gate: "Gate", resampler: Resampler, sound: Samples) -> int:
    """Return how many samples of a sound these let through, both of them fresh.

    By the sound alone: at its edges another gate, that heard what comes before and after, may differ.
    """
    outputs = [*gate.push(resampler.push(sound)), *gate.push(resampler.finish())]
    return sum(len(output.samples) for output in outputs if isinstance(output, Sound))


class Played:
    """What a loudspeaker plays beside what a gate hears, frame by frame of ``frame_s`` since the first sample.

    Whoever pushes adds a frame before its sound: None where nothing is played, else whether what is heard is more than
    the echo can be.
    """

    def __init__(self, frame_s: float) -> None:
        self.frame_s = frame_s
        self._frames: deque[bool | None] = deque(maxlen=math.ceil(_KEPT_S / frame_s))
        self._added = 0

    def add(self, state: bool | None) -> None:
        """Append the next frame."""
        self._frames.append(state)
        self._added += 1

    def until(self, end_s: float) -> bool | None:
        """Return the frame in which ``end_s`` ends; None for what is no longer known."""
        back = self._added - max(1, math.ceil(end_s / self.frame_s - 1e-6))
        return self._frames[-1 - back] if 0 <= back < len(self._frames) else None


class Gate:
    """The gate of one stream.

    Opens when ``min_sound_ms`` of windows have scored ``start``, then at least ``stop``; closes after
    ``min_silence_ms`` of windows below ``stop``. Until that is decided the silence is handed out too: a stream cannot
    wait for it. ``rate``: of the samples, in Hz. ``played``: what a loudspeaker plays, which does not open it.

    With a ``rule`` a pause may come before the end, Paused: silence behind it is held back, as it is while closed. If
    speech goes on it is handed out, behind Resumed, else Closed follows as it does without a rule.
    """

    def __init__(
        self, settings: GateSettings, rate: int, detector: Detector | None = None, *, rule: EndingRule | None = None
    ) -> None:
        self._detector = make_detector(settings, rate) if detector is None else detector
        self._window = self._detector.window_samples
        off = settings.kind == "off"
        self.played: Played | None = None
        self._rate, self._kind = rate, settings.kind
        self._start, self._stop = (1.0, 1.0) if off else (settings.start, settings.stop)
        self._sound_windows = 1 if off else self._windows(settings.min_sound_ms, rate)
        self._silence_windows = self._windows(settings.min_silence_ms, rate)
        self._rule, self._window_ms = rule, self._window * 1000 / rate
        self._pre_roll = 0 if off else math.ceil(settings.pre_roll_ms * rate / 1000)
        self.is_open = False
        self.pushed_samples = self.passed_samples = self.gated_samples = 0
        self._probability = 0.0
        self._partial: Samples = np.zeros(0, np.float32)
        self._held: deque[Samples] = deque()  # windows that a later opening may still hand out
        self._run = 0  # windows in a row: sounding while closed, silent while open
        self._end = 0
        self._loudness, self._longest = Loudness(), 0  # of the utterance: windows in a row before speech went on
        self._paused = self._quiet = False  # what was handed out of the silence so far

    @property
    def probability(self) -> float:
        """The last window's score: a probability for ``speech``, decibels for ``sound``, 1.0 for ``off``."""
        return self._probability

    @property
    def pending_samples(self) -> int:
        """Samples neither passed nor gated yet."""
        return self.pushed_samples - self.passed_samples - self.gated_samples

    def push(self, samples: Samples) -> list[Output]:
        """Return what ``samples``, (n,) float32, decide, in order."""
        samples = np.asarray(samples, np.float32)
        if samples.ndim != 1:
            raise UsageError(f"samples: shape {samples.shape}, mono (n,) is needed; average the channels first")
        self.pushed_samples += samples.size
        waiting = np.concatenate([self._partial, samples])  # a copy: the caller may reuse its buffer
        whole = waiting.size - waiting.size % self._window
        self._partial = waiting[whole:].copy()
        outputs: list[Output] = []
        for start in range(0, whole, self._window):
            outputs += self._judge(waiting[start : start + self._window])
        return outputs

    def finish(self) -> list[Output]:
        """Return the rest and close; an incomplete last window is judged as if silence followed. Starts afresh."""
        outputs: list[Output] = []
        if self._partial.size:
            rest, self._partial = self._partial, np.zeros(0, np.float32)
            outputs += self._judge(rest)
        if self.is_open:
            outputs.append(self._close(self.pushed_samples))
        self._forget_all_but(0)
        self._run = 0
        self._detector.reset()
        return outputs

    def _windows(self, milliseconds: int, rate: int) -> int:
        return max(1, math.ceil(milliseconds * rate / 1000 / self._window))

    def _judge(self, samples: Samples) -> list[Output]:
        """Score one window and return what follows from it; a shorter ``samples`` is the stream's last."""
        window = np.pad(samples, (0, self._window - samples.size))
        self._probability = self._detector.score(window)
        if self.is_open:
            return self._judge_open(samples)
        self._held.append(samples.copy())
        sounding = self._may_open()
        self._run = self._run + 1 if sounding else 0
        if self._run < self._sound_windows:
            self._forget_all_but(self._pre_roll + self._run * self._window)
            return []
        return self._open(samples.size)

    def _may_open(self) -> bool:
        """Return whether the window judged last, already held, counts towards opening."""
        start, stop = self._start, self._stop
        if self.played is not None and self._kind != "off":
            over = self.played.until(self._judged / self._rate)
            if over is False:
                return False
            if over and self._kind == "speech":
                start, stop = min(start, _OVER[0]), min(stop, _OVER[1])
        return self._probability >= (stop if self._run else start)

    def _judge_open(self, samples: Samples) -> list[Output]:
        if self._paused:
            self._held.append(samples.copy())
        else:
            self.passed_samples += samples.size
        position = self._judged
        sounding = self._probability >= self._stop
        if sounding:
            self._longest, self._run, self._end = max(self._longest, self._run), 0, position
            self._loudness.add(samples)
            return self._resume(samples.size) if self._paused else [Sound(samples, sounding)]
        self._run += 1
        handed: list[Output] = [] if self._paused else [Sound(samples, sounding)]
        if self._run >= self._silence_windows:
            return [*handed, self._close(position)]
        return handed if self._rule is None else handed + self._pause(samples, position, self._rule)

    @property
    def position_samples(self) -> int:
        """Samples that were passed, gated or, in a pause, held back."""
        return self._judged if self.is_open else self.passed_samples + self.gated_samples

    @property
    def _judged(self) -> int:
        return self.passed_samples + self.gated_samples + sum(window.size for window in self._held)

    def _pause(self, samples: Samples, position: int, rule: EndingRule) -> list[Output]:
        """Return what one more silent window (n,) says of the end."""
        doubt = max(0.0, self._probability) / self._stop if self._stop > 0 else 0.0
        # Sound ends within its last window, half of it on average.
        silence_ms, longest_ms = ((run + 0.5) * self._window_ms if run else 0.0 for run in (self._run, self._longest))
        evidence = Evidence(silence_ms, doubt, self._loudness.fall_db(samples), longest_ms)
        now, outputs = ending(evidence, rule), list[Output]()
        if now != "goes on" and not self._paused:
            self._paused = True
            outputs.append(Paused(self._end, position, evidence))
        if now == "end" and not self._quiet:
            self._quiet = True
            outputs.append(Quiet(position, evidence))
        return outputs

    def _resume(self, last: int) -> list[Output]:
        """Hand out what was held back since the pause began; its ``last`` samples sound."""
        samples = np.concatenate(list(self._held))
        self._held.clear()
        self.passed_samples += samples.size
        self._paused = self._quiet = False
        before, sounding = np.split(samples, [samples.size - last])
        silence = [Sound(before, sounding=False)] if before.size else []
        return [Resumed(self._judged - last, before.size), *silence, Sound(sounding, sounding=True)]

    def _open(self, last: int) -> list[Output]:
        sounding = (self._run - 1) * self._window + last
        self._forget_all_but(self._pre_roll + sounding)
        samples = np.concatenate(list(self._held))
        self._held.clear()
        at = self.passed_samples + self.gated_samples
        self.passed_samples += samples.size
        self.is_open, self._run, self._end = True, 0, at + samples.size
        before, counted = np.split(samples, [samples.size - sounding])
        self._loudness, self._longest = Loudness(), 0
        self._loudness.add(counted)
        pre_roll = [Sound(before, sounding=False)] if before.size else []
        return [Opened(at), *pre_roll, Sound(counted, sounding=True)]

    def _close(self, position: int) -> Closed:
        self.is_open, self._run = False, 0
        self._paused = self._quiet = False
        self._forget_all_but(self._pre_roll)  # of what was held back since a pause
        return Closed(self._end, position)

    def _forget_all_but(self, samples: int) -> None:
        """Gate the oldest held samples until at most ``samples`` are left."""
        excess = sum(window.size for window in self._held) - samples
        while excess > 0:
            oldest = self._held.popleft()
            if oldest.size > excess:
                self._held.appendleft(oldest[excess:])
            gone = min(oldest.size, excess)
            self.gated_samples += gone
            excess -= gone
