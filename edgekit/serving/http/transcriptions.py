"""POST /v1/audio/transcriptions and /v1/audio/translations, as OpenAI has them.

What the routes take stands in the tables below: a parameter is used, accepted where it asks for what is done anyway, or
refused by name. None is passed over.
"""

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from edgekit.errors import EdgeKitError
from edgekit.reprs import cut
from edgekit.runtime.answer import driver_of
from edgekit.runtime.events import Event, Segment, Text, is_result, whole_segment
from edgekit.runtime.model import Model, Transcript, transcript_of
from edgekit.runtime.options import RecordingFields
from edgekit.serving.http.errors import ApiError, api_error, refused, unknown
from edgekit.serving.http.form import FILE, read_form
from edgekit.serving.http.hearing import EventStream, Hearing, unless_gone
from edgekit.serving.http.shared import Site

FORMATS = ("json", "text", "verbose_json", "srt", "vtt")
ALIASES = frozenset({"whisper-1"})
"""Models that clients ask for when they cannot be told another name; the one that is served answers."""
_TRANSCRIBING = ("file", "model", "language", "prompt", "response_format", "temperature", "stream",
                 "timestamp_granularities", "include", "chunking_strategy")  # fmt: skip
_TRANSLATING = ("file", "model", "prompt", "response_format", "temperature")
_REFUSED = {  # known, and not done here
    "keywords": "leave it out", "known_speaker_names": "nobody is told apart; leave it out",
    "known_speaker_references": "nobody is told apart; leave it out", "languages": "give one `language`, or none",
}  # fmt: skip
_LISTS = ("timestamp_granularities", "include", *_REFUSED)
_TRANSCRIBE, _TRANSLATE = "transcribe", "translate"


@dataclass(frozen=True, slots=True)
class Wish:
    """What a request asks for. ``fields``: options of the stream."""

    audio: bytes
    fields: RecordingFields
    form: str
    stream: bool
    granularities: tuple[str, ...]
    temperature: float | None


class Transcriptions:
    """The two routes."""

    def __init__(self, site: Site) -> None:
        self._site = site

    async def transcriptions(self, request: Request) -> Response:
        """Answer POST /v1/audio/transcriptions."""
        return await self._answer(request, _TRANSCRIBE)

    async def translations(self, request: Request) -> Response:
        """Answer POST /v1/audio/translations; 400 of a bundle that does not translate."""
        return await self._answer(request, _TRANSLATE)

    async def _answer(self, request: Request, task: str) -> Response:
        form = await read_form(request)
        audio, form.file = bytes(form.file or b""), None  # once: it may be a large part of a small machine's memory
        wish = _wish(form.texts, audio, task, self._site.model)
        name = f"http {request.client.host}:{request.client.port}" if request.client else "http"
        hearing = await Hearing.of(self._site, wish.audio, wish.fields, name)
        if wish.stream:
            return EventStream(_events(hearing), hearing)
        return await unless_gone(request, _whole(hearing, wish, task))


async def _whole(hearing: Hearing, wish: Wish, task: str) -> Response:
    events = [event async for event in hearing if is_result(event)]
    transcript = transcript_of(events, hearing.audio_s)
    if wish.form == "srt":
        return PlainTextResponse(transcript.to_srt(), media_type="application/x-subrip")
    if wish.form == "vtt":
        return PlainTextResponse(transcript.to_vtt(), media_type="text/vtt")
    if wish.form == "text":
        return PlainTextResponse(transcript.text + "\n")
    if wish.form == "json":
        return JSONResponse({"text": transcript.text})
    return JSONResponse(_verbose(transcript, wish, task))


async def _events(hearing: Hearing) -> AsyncIterator[str]:
    """Yield the server-sent events of a transcription; the deltas together are the text."""
    events: list[Event] = []
    said = False
    try:
        async for event in hearing:
            if not is_result(event):
                continue
            events.append(event)
            if isinstance(event, Text) and (text := " ".join(one.text for one in _segments(event) if one.text)):
                yield sse({"type": "transcript.text.delta", "delta": f" {text}" if said else text})
                said = True
        yield sse({"type": "transcript.text.done", "text": transcript_of(events, hearing.audio_s).text})
    except ApiError as error:
        yield sse({"type": "error", **error.to_dict()})
    except EdgeKitError as error:
        yield sse({"type": "error", **api_error(error).to_dict()})


def sse(message: Mapping[str, Any]) -> str:
    """Return a server-sent event."""
    return f"data: {json.dumps(message, ensure_ascii=False)}\n\n"


def check_model(name: str | None, model: Model, aliases: frozenset[str] = frozenset()) -> None:
    """Raise ApiError for a model that is not the one served; none may be named."""
    served = model.manifest.name
    if name and name != served and name not in aliases:
        message = f"model: {ascii(name)[:80]} is not served here; give '{served}', or none"
        raise ApiError(404, message, param="model", code="model_not_found")


def _segments(text: Text) -> tuple[Segment, ...]:
    return text.segments or (whole_segment(text),)


def _verbose(transcript: Transcript, wish: Wish, task: str) -> dict[str, Any]:
    """Return OpenAI's TranscriptionVerbose; what is not known of a segment is null."""
    answer: dict[str, Any] = {
        "task": task, "language": transcript.language, "duration": round(transcript.audio_s, 6),
        "text": transcript.text,
    }  # fmt: skip
    if "segment" in wish.granularities:
        answer["segments"] = [
            {
                "id": index, "seek": 0, "start": round(one.start_s, 6), "end": round(one.end_s, 6), "text": one.text,
                "tokens": list(one.tokens), "temperature": wish.temperature, "avg_logprob": None,
                "compression_ratio": None, "no_speech_prob": None,
            }
            for index, one in enumerate(transcript.segments)
        ]  # fmt: skip
    if "word" in wish.granularities:
        answer["words"] = [
            {"word": word.text, "start": round(word.start_s, 6), "end": round(word.end_s, 6)}
            for one in transcript.segments
            for word in one.words
        ]
    if transcript.truncated:
        answer["truncated"] = True
    return answer


def _wish(form: Mapping[str, list[str]], audio: bytes, task: str, model: Model) -> Wish:
    """Return what a form asks for. Raises ApiError for anything in it that would have no effect."""
    one = _known(form, _TRANSCRIBING if task == _TRANSCRIBE else _TRANSLATING)
    check_model(one.get("model"), model, ALIASES)
    response_format = one.get("response_format") or "json"
    if response_format not in FORMATS:
        raise refused("response_format", response_format, f"choose one of: {', '.join(FORMATS)}")
    stream = _flag("stream", one.get("stream", "false"))
    if stream and response_format not in {"json", "text"}:
        raise refused("response_format", response_format, "with stream=true give json or text")
    granularities = _granularities(form.get("timestamp_granularities", []), response_format)
    fields: RecordingFields = {}
    temperature = _temperature(one.get("temperature"))
    if temperature is not None:
        fields["sampling"] = {"temperature": temperature}
    if one.get("language"):
        fields["language"] = one["language"]
    if "word" in granularities or (response_format in {"srt", "vtt"} and model.manifest.protocol.alignment):
        fields["times"] = "words"
    _set_task(fields, task, one.get("prompt", ""), model)
    return Wish(audio, fields, response_format, stream, granularities, temperature)


def _known(form: Mapping[str, list[str]], known: tuple[str, ...]) -> dict[str, str]:
    """Return the values of a form, the first of each. Raises ApiError for a field that is not known or does nothing."""
    for name, values in form.items():
        if name in _REFUSED:
            raise refused(name, values[0], _REFUSED[name])
        if name not in known or name == FILE:
            raise unknown(name, f"this route takes {', '.join(known)}")
        if len(values) > 1 and name not in _LISTS:
            raise ApiError(400, f"{name}: given {len(values)} times; give it once", param=name, code="invalid_value")
    if includes := [value for value in form.get("include", []) if value]:
        raise refused("include", includes[0], "leave it out")
    one = {name: values[0] for name, values in form.items()}
    if one.get("chunking_strategy", "auto") not in {"auto", ""}:
        raise refused("chunking_strategy", one["chunking_strategy"], "give auto, or leave it out")
    return one


def _set_task(fields: RecordingFields, task: str, prompt: str, model: Model) -> None:
    """Say what is to be done: in a bundle's own words for it, or in those of ``prompt`` where it can be asked."""
    protocol = model.manifest.protocol
    if driver_of(protocol).converses:
        if task == _TRANSLATE and task not in protocol.questions:
            raise ApiError(400, f"translations: {model.manifest.name} was not made to; ask it by a chat", code="task")
        if prompt or task in protocol.questions:
            fields["prompt"] = prompt or task
        return
    if prompt:
        raise refused("prompt", prompt, "this bundle writes down what it hears; leave it out")
    if task == _TRANSLATE:
        if task not in protocol.tasks:
            raise ApiError(400, f"translations: {model.manifest.name} does not translate; use another", code="task")
        fields["task"] = task


def _granularities(values: list[str], response_format: str) -> tuple[str, ...]:
    """Return which times are asked for; those of segments if none are."""
    for value in values:
        if value not in {"word", "segment"}:
            raise refused("timestamp_granularities", value, "choose of: word, segment")
    if values and response_format != "verbose_json":
        raise refused("timestamp_granularities", values[0], "add response_format=verbose_json")
    return tuple(values) or (("segment",) if response_format == "verbose_json" else ())


def _flag(name: str, value: str) -> bool:
    if value.lower() not in {"true", "false"}:
        message = f"{name}: {cut(ascii(value), 80)}, true or false is needed; correct it"
        raise ApiError(400, message, param=name, code="invalid_value")
    return value.lower() == "true"


def _temperature(value: str | None) -> float | None:
    if not value:
        return None
    try:
        return float(value)
    except ValueError as error:
        message = f"temperature: {ascii(value)[:80]}, a number is needed; 0 takes the likeliest words"
        raise ApiError(400, message, param="temperature", code="invalid_value") from error
