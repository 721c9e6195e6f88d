"""What tests of streams share: sound, its splits, events, engines that keep what they were given."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from edgekit.runtime.engine import Engine
from edgekit.runtime.events import Event, Text
from edgekit.runtime.model import Model
from edgekit.runtime.stream import Stream

RATE = 16_000
HOP = 160
PIECE = 40 * HOP  # the tiny grid's longest piece: 0.4 s
CHUNK = 8 * HOP
KINDS = [
    ("cross", {}),
    ("prefix", {}),
    ("prefix", {"masks_last_position": True}),
]


class Logged:
    """An Engine that passes every call on and keeps a copy of what went in."""

    def __init__(self, engine: Engine) -> None:
        self.component, self.counts, self.notes = engine.component, engine.counts, engine.notes
        self.engine = engine
        self.calls: list[dict[str, np.ndarray]] = []

    def bind(self, sizes: Mapping[str, int]) -> "LoggedCall":
        """Bind the engine that is logged."""
        return LoggedCall(self.engine.bind(sizes), self.calls)


class LoggedCall:
    """A Call of a Logged engine."""

    def __init__(self, call: Any, calls: list[dict[str, np.ndarray]]) -> None:
        self._call, self._calls = call, calls

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Log and run."""
        self._calls.append({name: array.copy() for name, array in inputs.items()})
        return self._call.run(inputs)

    def reset(self) -> None:
        """Reset the call that is logged."""
        self._call.reset()

    def save(self) -> dict[str, np.ndarray]:
        """Return the state of the call that is logged."""
        return self._call.save()

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        """Load the state of the call that is logged."""
        self._call.load(state)


def logged(model: Model) -> tuple[Model, dict[str, Logged]]:
    engines = {name: Logged(engine) for name, engine in model.engines.items()}
    return dataclasses.replace(model, engines=engines), engines


def sound_of(samples: int, seed: int = 0, loudness: float = 0.3) -> np.ndarray:
    """Return noise whose loudness and colour change, so that every stretch of it is different."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal(samples)
    swell = 1 + np.sin(np.arange(samples) * rng.uniform(0.001, 0.003))
    return (loudness * swell * np.sin(np.cumsum(0.2 + 0.15 * swell) + 0.3 * noise)).astype(np.float32)


def splits(samples: np.ndarray, kind: str) -> Iterator[np.ndarray]:
    """Yield ``samples`` in parts."""
    rng = np.random.default_rng(7)
    if kind == "samples":
        yield from np.split(samples, len(samples))
        return
    sizes = {
        "chunks": (CHUNK,),
        "near-chunks": (CHUNK - 1, CHUNK + 1),
        "halves": (-(-len(samples) // 2),),
        "windows": (512,),
    }.get(kind)
    while len(samples):
        size = int(rng.choice(sizes or (0, 0, 1, 159, 160, 161, 511, 512, 2000, 7000)))
        yield samples[:size]
        samples = samples[size:]
    yield samples


def run(stream: Stream, parts: Iterator[np.ndarray] | list[np.ndarray], *, lag_ms: float | None = None) -> list[Event]:
    events = [event for part in parts for event in stream.push(part, lag_ms=lag_ms)]
    return events + list(stream.finish())


def final_texts(events: list[Event]) -> list[Text]:
    return [event for event in events if isinstance(event, Text) and event.final]


def spoken(events: list[Event]) -> str:
    return " | ".join(text.text for text in final_texts(events))


def roomy(context_tokens: int) -> dict[str, Any]:
    return {"context_tokens": context_tokens}


class Loudest:
    """A detector that a test can steer: the score of a window is its loudest sample."""

    def __init__(self, window_samples: int = 400) -> None:
        self.window_samples = window_samples

    def score(self, window: np.ndarray) -> float:
        """Return the loudest sample."""
        assert window.shape == (self.window_samples,)
        return float(np.abs(window).max())

    def reset(self) -> None:
        """Do nothing: there is nothing to forget."""
