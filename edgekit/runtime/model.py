"""Model: the façade of a loaded bundle; makes Streams and transcribes whole recordings.

Holds no conversation state: any number of Streams share one Model.
"""

import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgekit.bundle import Bundle, open_bundle
from edgekit.errors import UsageError
from edgekit.rates import DEFAULT_HZ
from edgekit.runtime.audio.files import Block, blocks
from edgekit.runtime.events import Text
from edgekit.runtime.loading import Loaded, check_threads, load_bundle
from edgekit.runtime.options import StreamOptions, stream_options
from edgekit.runtime.stream import Stream
from edgekit.timing import Trace

_BLOCK_S = 1.0


@dataclass(frozen=True, slots=True)
class Utterance:
    """One answer and the seconds of audio it is about."""

    start_s: float
    end_s: float
    text: str
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Transcript:
    """What a recording says. ``audio_s``: its length; ``trace``: where the time went."""

    text: str
    utterances: tuple[Utterance, ...]
    audio_s: float
    trace: Trace = field(repr=False)


@dataclass(frozen=True, slots=True)
class Model(Loaded):
    """A bundle ready to run; see the module docstring and Loaded."""

    def stream(self, options: StreamOptions | None = None, /, **fields: Any) -> Stream:  # noqa: ANN401 - of StreamOptions
        """Return a new Stream with these StreamOptions, or by name with ``fields`` of them.

        Raises UsageError for a name that StreamOptions lacks, a value that cannot be, or one that this bundle does not
        offer.
        """
        if options is not None and (fields or not isinstance(options, StreamOptions)):
            raise UsageError(f"options: {options!r}, StreamOptions or its fields by name are needed; give one of these")
        return Stream(self, options or stream_options(fields))

    def transcribe(
        self,
        audio: str | os.PathLike[str] | ArrayLike,
        *,
        sample_rate_hz: int | None = None,
        **options: Any,  # noqa: ANN401 - of StreamOptions
    ) -> Transcript:
        """Return the Transcript of an audio file, or of samples (n,) or (n, channels) at ``sample_rate_hz``.

        ``sample_rate_hz``: of samples, 16,000 unless given; a file says its own. ``options`` are the other fields
        of StreamOptions, without ``channels``. Raises AudioError for a file that cannot be read to its end.
        """
        if "channels" in options:
            raise UsageError("channels: a file and an array say their own; leave it out")
        if isinstance(audio, (str, os.PathLike)):
            if sample_rate_hz is not None:
                raise UsageError(f"sample_rate_hz: {sample_rate_hz}, but a file says its own rate; leave it out")
            parts: Iterable[Block] = blocks(Path(audio), _BLOCK_S)
        else:
            parts = _pieces(np.asarray(audio), DEFAULT_HZ if sample_rate_hz is None else sample_rate_hz)
        stream: Stream | None = None
        events: list[Text] = []
        audio_s = 0.0
        for part in parts:
            if stream is None:
                channels = part.samples.shape[1] if part.samples.ndim == 2 else 1
                stream = self.stream(sample_rate_hz=part.sample_rate_hz, channels=channels, **options)
                stream.measure(limit=sys.maxsize)  # the caller gets them, and a recording has an end
            events += [event for event in stream.push(part.samples) if isinstance(event, Text) and event.final]
            audio_s += len(part.samples) / part.sample_rate_hz
        assert stream is not None, "there is at least one piece"
        events += [event for event in stream.finish() if isinstance(event, Text) and event.final]
        utterances = tuple(Utterance(event.start_s, event.end_s, event.text, event.tokens) for event in events)
        text = " ".join(utterance.text for utterance in utterances if utterance.text)
        return Transcript(text, utterances, audio_s, stream.trace)


def load(
    path: str | os.PathLike[str],
    *,
    threads: int | None = None,
    verify_hashes: bool = True,
    context_tokens: int | None = None,
    speak: bool = False,
    backend: str | None = None,
    allow_fallback: bool = False,
    plans: str | os.PathLike[str] | None = None,
) -> Model:
    """Return the Model of the bundle at ``path``, checked and loaded.

    threads: per engine, by default one per core this process may use. verify_hashes: False skips reading every file
    once more. context_tokens: a shorter KV cache than the bundle's, to save memory. speak: load what speaks, too.
    backend: what runs it, by default what its dialect is made for. allow_fallback: run on the CPU where that cannot.
    plans: the folder of TensorRT's plans, by default the one beside the bundle.
    Raises what open_bundle and load_engines do, and UsageError for values that cannot be.
    """
    check_threads(threads)
    bundle = open_bundle(path, check_hashes=verify_hashes)
    return load_opened(
        bundle, threads=threads, context_tokens=context_tokens, speak=speak, backend=backend,
        allow_fallback=allow_fallback, plans=plans,
    )  # fmt: skip


def load_opened(bundle: Bundle, **loading: Any) -> Model:  # noqa: ANN401 - of load_bundle
    """Return the Model of a bundle that is already checked, or that the exporter has just written; see ``load``."""
    loaded = load_bundle(bundle, **loading)
    return Model(**{one.name: getattr(loaded, one.name) for one in fields(Loaded)})


def _pieces(samples: NDArray[Any], sample_rate_hz: int) -> Iterator[Block]:
    """Yield samples in pieces of a second, so that no more than that waits; at least one piece, and not checked."""
    checkable = samples.ndim > 0 and isinstance(sample_rate_hz, int) and sample_rate_hz > 0
    size = round(_BLOCK_S * sample_rate_hz) if checkable else 0
    if not size or len(samples) <= size:
        yield Block(samples, sample_rate_hz)
        return
    for start in range(0, len(samples), size):
        yield Block(samples[start : start + size], sample_rate_hz)
