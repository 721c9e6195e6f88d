"""POST /v1/chat/completions, as OpenAI has it: of bundles that converse, one answer to one question, text or sound."""

import base64
import io
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from edgekit.errors import EdgeKitError
from edgekit.runtime.answer import driver_of
from edgekit.runtime.events import Audio, Event, Text, TextCut
from edgekit.runtime.hear.resampler import Resampler
from edgekit.serving.http.asking import FORMATS, ChatRequest, decoded, question
from edgekit.serving.http.errors import ApiError, api_error
from edgekit.serving.http.hearing import EventStream, Hearing, unless_gone
from edgekit.serving.http.shared import Site
from edgekit.serving.http.transcriptions import check_model, sse

PCM_HZ = 24_000  # of pcm16, as OpenAI has it
_CUT = {"max_tokens", "max_length", "context", "rate", "repeats"}
_AUDIO_S = 3600  # nothing is kept; OpenAI's clients need a time until which it would be


class Chat:
    """The route."""

    def __init__(self, site: Site) -> None:
        self._site = site

    async def completions(self, request: Request) -> Response:
        """Answer POST /v1/chat/completions."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise ApiError(415, "Content-Type: application/json is needed; send the request as JSON")
        asked = decoded(await request.body())
        model = self._site.model
        check_model(asked.model, model)
        if not driver_of(model.manifest.protocol).converses:
            message = f"chat: {model.manifest.name} writes down speech and does not converse"
            raise ApiError(400, f"{message}; send it to /v1/audio/transcriptions", param="model", code="model")
        text, audio, fields = question(asked)
        name = f"http {request.client.host}:{request.client.port}" if request.client else "http"
        if audio is None:
            hearing = Hearing(self._site, fields, name, text=text)
        else:
            hearing = await Hearing.of(self._site, audio, fields, name)
        answer = _Answer(model.manifest.name, asked)
        if asked.stream:
            return EventStream(answer.chunks(hearing), hearing)
        return await unless_gone(request, answer.whole(hearing))


class _Answer:
    """What is sent for one request."""

    def __init__(self, model: str, asked: ChatRequest) -> None:
        self._head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}
        self._audio_id = f"audio_{uuid.uuid4().hex}"
        self._form = asked.audio.format if asked.audio else ""

    async def whole(self, hearing: Hearing) -> Response:
        """Return the answer when it is whole."""
        events = [event async for event in hearing]
        text, reason = "\n".join(event.text for event in events if isinstance(event, Text) and event.final), "stop"
        if any(isinstance(event, TextCut) and event.reason in _CUT for event in events):
            reason = "length"
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
        if self._form:
            data = base64.b64encode(_coded(*_sound(events), self._form)).decode()
            expires = self._head["created"] + _AUDIO_S  # type: ignore[operator]
            audio = {"id": self._audio_id, "data": data, "expires_at": expires, "transcript": text}
            message |= {"content": None, "audio": audio}
        choice = {"index": 0, "message": message, "finish_reason": reason, "logprobs": None}
        return JSONResponse({**self._head, "object": "chat.completion", "choices": [choice]})

    async def chunks(self, hearing: Hearing) -> AsyncIterator[str]:
        """Yield the server-sent events of an answer as it is made."""
        sent, done, reason = "", "", "stop"
        resampler: Resampler | None = None
        yield self._chunk({"role": "assistant", "content": ""})
        try:
            async for event in hearing:
                if isinstance(event, Text):
                    text = done + event.text
                    if text.startswith(sent) and len(text) > len(sent):
                        yield self._delta(text[len(sent) :])
                        sent = text
                    if event.final:
                        done = f"{sent}\n"
                elif isinstance(event, TextCut):
                    reason = "length" if event.reason in _CUT else reason
                elif isinstance(event, Audio):
                    resampler = resampler or Resampler(event.sample_rate_hz, 1, "", rate_out=PCM_HZ)
                    yield self._sound(resampler.push(event.samples))
            if resampler is not None and len(rest := resampler.finish()):
                yield self._sound(rest)
            yield self._chunk({}, reason)
        except ApiError as error:
            yield sse(error.to_dict())
        except EdgeKitError as error:
            yield sse(api_error(error).to_dict())
        yield "data: [DONE]\n\n"

    def _delta(self, text: str) -> str:
        return self._chunk({"audio": {"id": self._audio_id, "transcript": text}} if self._form else {"content": text})

    def _sound(self, samples: NDArray[np.float32]) -> str:
        return self._chunk({"audio": {"id": self._audio_id, "data": base64.b64encode(pcm16(samples)).decode()}})

    def _chunk(self, delta: dict[str, Any], reason: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}
        return sse({**self._head, "object": "chat.completion.chunk", "choices": [choice]})


def pcm16(samples: NDArray[np.float32]) -> bytes:
    """Return samples in [-1, 1] as signed 16 bits, little-endian; what exceeds that is clipped."""
    return np.clip(np.round(samples * 32768.0), -32768, 32767).astype("<i2").tobytes()


def _sound(events: list[Event]) -> tuple[NDArray[np.float32], int]:
    pieces = [event for event in events if isinstance(event, Audio)]
    rate = pieces[0].sample_rate_hz if pieces else PCM_HZ
    return np.concatenate([np.zeros(0, np.float32), *(piece.samples for piece in pieces)]), rate


def _coded(samples: NDArray[np.float32], rate: int, form: str) -> bytes:
    import soundfile

    if form == "pcm16":
        resampler = Resampler(rate, 1, "", rate_out=PCM_HZ)
        return pcm16(np.concatenate([resampler.push(samples), resampler.finish()]))
    file = io.BytesIO()
    soundfile.write(file, np.clip(samples, -1.0, 1.0), rate, subtype="PCM_16", format=FORMATS[form])
    return file.getvalue()
