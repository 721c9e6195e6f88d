"""Model: the façade of a loaded bundle; makes Streams and transcribes whole recordings.

Holds no conversation state: any number of Streams share one Model.
"""

import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any, TypeGuard, overload

from edgekit.bundle import Bundle, Manifest, open_bundle
from edgekit.bundle.trust import Trusted, read_trust
from edgekit.errors import EdgeKitError, UsageError
from edgekit.reprs import fields_line, quoted
from edgekit.runtime.answer.times.subtitles import srt, vtt
from edgekit.runtime.audio.files import Block
from edgekit.runtime.audio.inputs import Recording, Source, checked, name_of, pieces
from edgekit.runtime.events import Event, Segment, Text, TextCut, is_result, whole_segment
from edgekit.runtime.loading import Loaded, check_threads, load_bundle
from edgekit.runtime.options import RecordingFields, StreamFields, StreamOptions, stream_options
from edgekit.runtime.stream import Stream
from edgekit.timing import Trace

if sys.version_info >= (3, 11):
    from typing import Unpack


_PATH, _NONE = (str, os.PathLike), type(None)
_TYPES: dict[str, tuple[tuple[type, ...], str]] = {  # of what ``load`` is told
    "path": (_PATH, "the path of a bundle"), "verify_hashes": ((bool,), "True or False"),
    "speak": ((bool,), "True or False"), "backend": ((str, _NONE), "a name"),
    "allow_fallback": ((bool,), "True or False"), "require_signature": ((bool,), "True or False"),
    "plans": ((*_PATH, _NONE), "the path of a folder"),
}  # fmt: skip

Recordings = list[Any] | tuple[Any, ...]
"""Recordings in a list; Any, for a list of paths is no list of Recording to a type checker."""


@dataclass(frozen=True, slots=True, repr=False)
class Transcript:
    """What a recording says. ``audio_s``: its length; ``trace``: where the time went.

    ``language``: of a multilingual model that writes down speech, the one that was given, or that of the segments which
    are longest together, those without a word left out if others have some; None where the model tells none.
    ``truncated``: words may be missing; see TextCut.
    """

    text: str
    segments: tuple[Segment, ...]
    audio_s: float
    language: str | None = None
    truncated: bool = False
    trace: Trace = field(default_factory=Trace, repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON: every field but ``trace``."""
        segments = [
            {
                "start_s": round(one.start_s, 6), "end_s": round(one.end_s, 6), "text": one.text,
                "language": one.language, "language_probability": one.language_probability, "tokens": list(one.tokens),
                "words": [
                    {"text": word.text, "start_s": round(word.start_s, 6), "end_s": round(word.end_s, 6)}
                    for word in one.words
                ],
            }
            for one in self.segments
        ]  # fmt: skip
        return {
            "text": self.text, "language": self.language, "audio_s": round(self.audio_s, 6),
            "truncated": self.truncated, "segments": segments,
        }  # fmt: skip

    def to_json(self, *, indent: int | None = None) -> str:
        """Return ``to_dict()`` as a JSON text in UTF-8 letters; in one line unless ``indent`` is given."""
        return json.dumps(self.to_dict(), ensure_ascii=False, indent=indent)

    def to_srt(self) -> str:
        """Return the segments as a file of SubRip: by words where they have them, else each as one cue."""
        return srt(self.segments)

    def to_vtt(self) -> str:
        """Return the segments as a file of WebVTT; see ``to_srt``."""
        return vtt(self.segments)

    def __repr__(self) -> str:
        return fields_line(self)


@dataclass(frozen=True, slots=True, repr=False)
class Model(Loaded):
    """A bundle ready to run; see the module docstring and Loaded."""

    def stream(self, options: StreamOptions | None = None, /, **fields: "Unpack[StreamFields]") -> Stream:
        """Return a new Stream with these StreamOptions, or by name with ``fields`` of them.

        Raises UsageError for a name that StreamOptions lacks, a value that cannot be, or one that this bundle does not
        offer.
        """
        if options is not None and (fields or not isinstance(options, StreamOptions)):
            raise UsageError(
                f"options: {quoted(options)}, StreamOptions or its fields by name are needed; give one of these"
            )
        return Stream(self, options or stream_options(fields))

    @overload
    def transcribe(
        self, audio: Recording, *, sample_rate_hz: int | None = None, **options: "Unpack[RecordingFields]"
    ) -> Transcript: ...

    @overload
    def transcribe(
        self, audio: Recordings, *, sample_rate_hz: int | None = None, **options: "Unpack[RecordingFields]"
    ) -> list[Transcript]: ...

    def transcribe(
        self,
        audio: Recording | Recordings,
        *,
        sample_rate_hz: int | None = None,
        **options: "Unpack[RecordingFields]",
    ) -> Transcript | list[Transcript]:
        """Return the Transcript of a recording, or a list of them for a list or tuple of recordings.

        audio: the path of an audio file, the bytes of one, a binary file that is open, or an array of samples, (n,) or
        (n, channels), float in [-1, 1] or int16; channels are averaged, or one is heard where they cancel.
        sample_rate_hz: of arrays, 16,000 unless given; a file says its own. ``options``: the other fields of
        StreamOptions, without ``channels``; ``floor`` is the one that the checkpoint was trained with, unless partials
        are asked for.

        Of a list every item is looked at before the first is heard. An item that fails ends the call, no Transcript is
        returned, and the error names its index. Raises AudioError for a file that cannot be read to its end, UsageError
        for what is no recording and for options as ``stream`` does.
        """
        if "channels" in options:
            raise UsageError("channels: a file and an array say their own; leave it out")
        if not _is_list(audio):
            return self._transcript(checked(audio, sample_rate_hz), sample_rate_hz, options)
        sources = []
        for index, item in enumerate(audio):
            with _named(index):
                sources.append(checked(item, sample_rate_hz))
        transcripts = []
        for index, source in enumerate(sources):
            with _named(index):
                transcripts.append(self._transcript(source, sample_rate_hz, options))
        return transcripts

    def _transcript(self, source: Source, sample_rate_hz: int | None, options: RecordingFields) -> Transcript:
        stream: Stream | None = None
        events: list[Event] = []
        audio_s = 0.0
        for piece in pieces(source, sample_rate_hz):
            if stream is None:
                stream = Stream(self, recording_options(self.manifest, options, piece), source=name_of(source))
                stream.measure(limit=sys.maxsize)  # the caller gets them, and a recording has an end
            events += [event for event in stream.push(piece.samples) if is_result(event)]
            audio_s += len(piece.samples) / piece.sample_rate_hz
        assert stream is not None, "there is at least one piece"
        events += [event for event in stream.finish() if is_result(event)]
        return transcript_of(events, audio_s, stream.trace)


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
    trust: Trusted | None = None,
    require_signature: bool = False,
) -> Model:
    """Return the Model of the bundle at ``path``, checked and loaded.

    threads: per engine, by default one per core this process may use. verify_hashes: False skips reading every file
    once more. context_tokens: a shorter KV cache than the bundle's, to save memory. speak: load what speaks, too.
    backend: what runs it, by default what its dialect is made for. allow_fallback: run on the CPU where that cannot.
    plans: the folder of TensorRT's plans, by default the one beside the bundle. trust: public keys, in files or
    folders, of which one must have signed the bundle; require_signature: one of the trust store, if no ``trust`` says.
    Raises what open_bundle and load_engines do, KeyFileError for a key that cannot be used, and UsageError for values
    that cannot be.
    """
    check_threads(threads)
    _check_types(
        path=path,
        verify_hashes=verify_hashes,
        speak=speak,
        backend=backend,
        allow_fallback=allow_fallback,
        plans=plans,
        require_signature=require_signature,
    )
    keys = read_trust(trust, require_signature)
    if keys and not verify_hashes:
        raise UsageError(
            "verify_hashes: False, a signature is of the hashes, so they are checked with it; leave it out"
        )
    bundle = open_bundle(path, check_hashes=verify_hashes, trust=keys)
    return load_opened(
        bundle, threads=threads, context_tokens=context_tokens, speak=speak, backend=backend,
        allow_fallback=allow_fallback, plans=plans,
    )  # fmt: skip


def load_opened(bundle: Bundle, **loading: Any) -> Model:  # noqa: ANN401 - of load_bundle
    """Return the Model of a bundle that is already checked, or that the exporter has just written; see ``load``."""
    loaded = load_bundle(bundle, **loading)
    return Model(**{one.name: getattr(loaded, one.name) for one in fields(Loaded)})


def recording_options(manifest: Manifest, options: RecordingFields, piece: Block) -> StreamOptions:
    """Return how a stream hears a recording whose first piece this is; see ``recording_fields``."""
    return stream_options(recording_fields(manifest, options, piece))


def recording_fields(manifest: Manifest, options: RecordingFields, piece: Block) -> StreamFields:
    """Return the fields of StreamOptions for a recording whose first piece this is.

    Its rate and channels are the recording's; ``floor`` is the one that the checkpoint was trained with, unless it is
    given or partials are asked for: a recording has an end.
    """
    floor = options.get("floor")
    if floor is None:
        floor = "running" if options.get("partials") else manifest.front_end.floor
    channels = piece.samples.shape[1] if piece.samples.ndim == 2 else 1
    return {**options, "sample_rate_hz": piece.sample_rate_hz, "channels": channels, "floor": floor}


def transcript_of(
    events: Iterable[Event], audio_s: float, trace: Trace | None = None, *, whole: bool = True
) -> Transcript:
    """Return the Transcript of a recording of ``audio_s`` seconds by the events of its stream, in order.

    whole: the recording was heard to its end.
    """
    segments: list[Segment] = []
    truncated = not whole
    for event in events:
        if isinstance(event, Text) and event.final:
            segments += event.segments or (whole_segment(event),)
        truncated = truncated or isinstance(event, TextCut)
    lengths: dict[str, float] = {}
    for one in [one for one in segments if one.text] or segments:
        if one.language is not None:
            lengths[one.language] = lengths.get(one.language, 0.0) + one.end_s - one.start_s
    text = " ".join(one.text for one in segments if one.text)
    language = max(lengths, key=lengths.__getitem__, default=None)
    return Transcript(text, tuple(segments), audio_s, language, truncated, trace or Trace())


def _check_types(**settings: object) -> None:
    for name, value in settings.items():
        types, rule = _TYPES[name]
        if not isinstance(value, types):
            raise UsageError(f"{name}: {quoted(value)}, {rule} is needed; give that")


def _is_list(audio: object) -> TypeGuard[Recordings]:
    return isinstance(audio, (list, tuple))


@contextmanager
def _named(index: int) -> Iterator[None]:
    """Name the item of a list that an error is about."""
    try:
        yield
    except EdgeKitError as error:
        raise type(error)(f"audio[{index}]: {error}") from error
