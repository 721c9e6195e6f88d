"""Model: an opened bundle whose engines are loaded; makes Streams and transcribes whole recordings.

Knows which backend runs which dialect. Holds no conversation state: any number of Streams share one Model.
"""

import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from edgekit.bundle import Bundle, Manifest, open_bundle
from edgekit.errors import BundleFormatError, UsageError
from edgekit.rates import DEFAULT_HZ
from edgekit.runtime.answer.embedding import TokenTable
from edgekit.runtime.answer.text import Tokenizer, load_tokenizer
from edgekit.runtime.audio.files import Block, blocks
from edgekit.runtime.backends import LoadSettings, load_engines
from edgekit.runtime.engine import Engine
from edgekit.runtime.events import Event, Text
from edgekit.runtime.options import StreamOptions
from edgekit.runtime.policy import SKIP
from edgekit.runtime.speak import kind_of
from edgekit.runtime.stream import Stream
from edgekit.timing import Trace

COMPONENTS: tuple[str, ...] = ("encoder", "adapter", "backbone")
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
class Model:
    """A bundle ready to run; see the module docstring. ``context_tokens``: length of each stream's KV cache.

    ``backend`` runs it; ``fallback``: why that is not the one asked for, empty if it is.
    """

    bundle: Bundle
    engines: dict[str, Engine]
    table: TokenTable
    tokenizer: Tokenizer
    context_tokens: int
    backend: str
    fallback: str = ""

    @property
    def manifest(self) -> Manifest:
        """What the bundle promises."""
        return self.bundle.manifest

    def stream(self, **options: Any) -> Stream:  # noqa: ANN401 - of StreamOptions
        """Return a new Stream; ``options`` are the fields of StreamOptions."""
        return Stream(self, StreamOptions(**options))

    def transcribe(
        self,
        audio: str | os.PathLike[str] | ArrayLike,
        *,
        sample_rate_hz: int = DEFAULT_HZ,
        **options: Any,  # noqa: ANN401 - of StreamOptions
    ) -> Transcript:
        """Return the Transcript of an audio file, or of samples (n,) or (n, channels) at ``sample_rate_hz``.

        ``options`` are the fields of StreamOptions. Raises AudioError for a file that cannot be read to its end.
        """
        if isinstance(audio, (str, os.PathLike)):
            parts: Iterable[Block] = blocks(Path(audio), _BLOCK_S)
        else:
            parts = (Block(np.asarray(audio), sample_rate_hz),)
        stream: Stream | None = None
        events: list[Event] = []
        audio_s = 0.0
        for part in parts:
            if stream is None:
                channels = part.samples.shape[1] if part.samples.ndim == 2 else 1
                stream = self.stream(sample_rate_hz=part.sample_rate_hz, channels=channels, **options)
                stream.trace.limit = sys.maxsize  # the caller gets it, and a recording has an end
            events += stream.push(part.samples)
            audio_s += len(part.samples) / part.sample_rate_hz
        assert stream is not None, "blocks() yields at least one block"
        events += stream.finish()
        utterances = tuple(
            Utterance(event.start_s, event.end_s, event.text, event.tokens)
            for event in events
            if isinstance(event, Text) and event.final
        )
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
    if threads is not None and threads < 1:
        raise UsageError(f"threads: {threads}, at least 1 is needed; leave it out to use every core")
    bundle = open_bundle(path, check_hashes=verify_hashes)
    return load_opened(
        bundle, threads=threads, context_tokens=context_tokens, speak=speak, backend=backend,
        allow_fallback=allow_fallback, plans=plans,
    )  # fmt: skip


def load_opened(
    bundle: Bundle,
    *,
    threads: int | None = None,
    context_tokens: int | None = None,
    speak: bool = False,
    backend: str | None = None,
    allow_fallback: bool = False,
    plans: str | os.PathLike[str] | None = None,
) -> Model:
    """Return the Model of a bundle that is already checked, or that the exporter has just written; see ``load``."""
    limit = bundle.manifest.protocol.context_tokens
    if context_tokens is not None and not 0 < context_tokens <= limit:
        raise UsageError(f"context_tokens: {context_tokens}, this bundle takes 1 to {limit}; choose one of these")
    names = COMPONENTS
    if speak:
        if bundle.manifest.speech is None:
            name = bundle.manifest.name
            raise UsageError(f"speak: {name} writes and does not speak; leave it out or choose another bundle")
        names += kind_of(bundle.manifest.speech).components
    settings = LoadSettings(
        threads or _cores(), context_tokens or limit, backend, allow_fallback, Path(plans) if plans else None
    )
    loaded = load_engines(bundle, names, settings)
    model = Model(
        bundle, loaded.engines, TokenTable(bundle), load_tokenizer(bundle), settings.context_tokens, loaded.backend,
        loaded.fallback,
    )  # fmt: skip
    _check(model)
    return model


def _cores() -> int:
    """Return the cores this process may use, which a container or taskset may have limited."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _check(model: Model) -> None:
    """Raise BundleFormatError where the manifest's parts contradict each other."""
    manifest, protocol = model.manifest, model.manifest.protocol
    working = [level for level in manifest.levels if level.name != SKIP]
    if not working:
        raise BundleFormatError(f"{model.bundle.folder}: no compute level but 'skip'; export it again")
    if any(spec.name == "experts_per_token" for spec in manifest.components["backbone"].inputs):
        for level in working:
            if level.experts_per_token is None:
                raise BundleFormatError(
                    f"{model.bundle.folder}: level '{level.name}' has no experts_per_token, the backbone needs one; "
                    "export it again"
                )
    if odd := sorted(token for token in protocol.ids() if not 0 <= token < model.table.vocabulary):
        raise BundleFormatError(
            f"{model.bundle.folder}: token {odd[0]} of the protocol, the table has {model.table.vocabulary} rows; "
            "export it again"
        )
