"""What a request for /v1/chat/completions may hold, and what it asks for.

A field that the Struct lacks is refused by name, and so is a value of a known one that would have no effect.
"""

import difflib
import json
import re
from typing import Any, Literal

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from edgekit.reprs import cut
from edgekit.runtime.options import RecordingFields
from edgekit.serving.http.errors import ApiError, refused

FORMATS = {"wav": "WAV", "flac": "FLAC", "pcm16": ""}
"""Of spoken answers, as soundfile calls them."""
_AT = " - at `$"  # where msgspec says what it complains of
_FIELD = re.compile(r"Object (contains|missing) (?P<kind>unknown|required) field `(?P<name>.*)`", re.DOTALL)


class TextPart(Struct, forbid_unknown_fields=True, tag="text"):
    """A piece of text."""

    text: str


class Sound(Struct, forbid_unknown_fields=True):
    """A recording in base64."""

    data: bytes
    format: str = "wav"


class SoundPart(Struct, forbid_unknown_fields=True, tag="input_audio"):
    """A recording."""

    input_audio: Sound


class Message(Struct, forbid_unknown_fields=True):
    """A turn."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[TextPart | SoundPart] | None = None
    name: str | None = None
    tool_calls: Raw | None = None
    tool_call_id: str | None = None
    refusal: str | None = None
    audio: Raw | None = None
    annotations: Raw | None = None


class Voice(Struct, forbid_unknown_fields=True):
    """How the answer sounds. ``voice``: one of the bundle's, None for its first one."""

    format: str
    voice: str | None = None


class ChatRequest(Struct, forbid_unknown_fields=True):
    """A request. The fields from ``n`` on are known, and take only values that ask for what is done anyway."""

    messages: list[Message]
    model: str | None = None
    modalities: list[Literal["text", "audio"]] | None = None
    audio: Voice | None = None
    stream: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    tools: Raw | UnsetType = UNSET
    # taken, without an effect on the answer
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    metadata: dict[str, str] | None = None
    # taken with these values alone
    n: Raw | UnsetType = UNSET
    stop: Raw | UnsetType = UNSET
    store: Raw | UnsetType = UNSET
    logprobs: Raw | UnsetType = UNSET
    top_logprobs: Raw | UnsetType = UNSET
    logit_bias: Raw | UnsetType = UNSET
    frequency_penalty: Raw | UnsetType = UNSET
    presence_penalty: Raw | UnsetType = UNSET
    response_format: Raw | UnsetType = UNSET
    tool_choice: Raw | UnsetType = UNSET
    parallel_tool_calls: Raw | UnsetType = UNSET
    service_tier: Raw | UnsetType = UNSET
    stream_options: Raw | UnsetType = UNSET
    reasoning_effort: Raw | UnsetType = UNSET
    verbosity: Raw | UnsetType = UNSET
    prediction: Raw | UnsetType = UNSET
    web_search_options: Raw | UnsetType = UNSET
    function_call: Raw | UnsetType = UNSET
    functions: Raw | UnsetType = UNSET


_ALONE: dict[str, tuple[Any, ...]] = {  # null goes everywhere
    "n": (1,), "stop": ([],), "store": (False,), "logprobs": (False,), "top_logprobs": (0,), "logit_bias": ({},),
    "frequency_penalty": (0,), "presence_penalty": (0,), "response_format": ({"type": "text"},),
    "tool_choice": ("auto",), "parallel_tool_calls": (True,), "service_tier": ("auto", "default"),
    "stream_options": ({}, {"include_usage": False}), "reasoning_effort": (), "verbosity": ("medium",),
    "prediction": (), "web_search_options": (), "function_call": (), "functions": ([],),
}  # fmt: skip


def decoded(body: bytes) -> ChatRequest:
    """Return a request. Raises ApiError that names what in it cannot be."""
    try:
        asked = msgspec.json.decode(body, type=ChatRequest)
    except RecursionError as error:
        raise ApiError(400, "body: nested too deeply; send a request as OpenAI has it", code="invalid_json") from error
    except msgspec.ValidationError as error:
        raise _fault(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ApiError(
            400, f"body: no JSON, {_line(error)}; send a request as OpenAI has it", code="invalid_json"
        ) from error
    for name, values in _ALONE.items():
        raw = getattr(asked, name)
        if raw is UNSET:
            continue
        value = _plain(name, raw)
        if value is not None and not any(value == one and isinstance(value, bool) == isinstance(one, bool)
                                         for one in values):  # fmt: skip
            raise refused(name, value, "leave it out")
    return asked


def _plain(name: str, raw: Raw) -> Any:  # noqa: ANN401 - any JSON
    try:
        return msgspec.json.decode(raw)
    except RecursionError as error:
        raise ApiError(400, f"{name}: nested too deeply; leave it out", param=name, code="invalid_json") from error


def question(asked: ChatRequest) -> tuple[str, bytes | None, RecordingFields]:
    """Return the question's text, its recording if it has one, and how to answer. Raises ApiError for anything else."""
    parts: list[TextPart | SoundPart] = []
    system: list[str] = []
    asking = 0
    for index, message in enumerate(asked.messages):
        given = _parts(message, f"messages[{index}]")
        if message.role == "user":
            asking += 1
            parts += given
        else:
            system += [part.text for part in given if isinstance(part, TextPart)]
    if asking != 1 or not parts:
        problem = f"messages: {asking} of role user with something in them, one is needed; send the question"
        raise ApiError(400, problem, param="messages", code="invalid_value")
    text = "\n".join(part.text for part in parts if isinstance(part, TextPart))
    sound = [part.input_audio.data for part in parts if isinstance(part, SoundPart)]
    if len(sound) > 1:
        problem = f"messages: {len(sound)} recordings, one is heard; send one"
        raise ApiError(400, problem, param="messages", code="unsupported_value")
    fields: RecordingFields = {"gate": "off", **_sampled(asked), **_spoken(asked)}
    if asked.tools is not UNSET and (tools := _plain("tools", asked.tools)):
        fields["tools"] = json.dumps(tools, ensure_ascii=False)
    if system:
        fields["system"] = "\n".join(system)
    if sound and text:
        fields["prompt"] = text
    return text, sound[0] if sound else None, fields


def _parts(message: Message, where: str) -> list[TextPart | SoundPart]:
    if message.role in {"assistant", "tool", "function"}:
        problem = f"{where}.role: '{message.role}', earlier turns cannot be given to a bundle; send the question alone"
        raise ApiError(400, problem, param=f"{where}.role", code="unsupported_value")
    parts = [TextPart(message.content)] if isinstance(message.content, str) else message.content or []
    if message.role != "user" and any(isinstance(part, SoundPart) for part in parts):
        problem = f"{where}.content: a system's words are text; leave the sound out"
        raise ApiError(400, problem, param=f"{where}.content", code="unsupported_value")
    return list(parts)


def _sampled(asked: ChatRequest) -> RecordingFields:
    fields: RecordingFields = {}
    drawn: dict[str, float | None] = {"temperature": asked.temperature, "top_p": asked.top_p}
    if sampling := {name: value for name, value in drawn.items() if value is not None}:
        fields["sampling"] = sampling
    if asked.seed is not None:
        fields["seed"] = asked.seed
    most = [one for one in (asked.max_completion_tokens, asked.max_tokens) if one is not None]
    if len(most) > 1:
        problem = "max_tokens: max_completion_tokens is given too; give one of them"
        raise ApiError(400, problem, param="max_tokens", code="invalid_value")
    if most:
        fields["max_tokens"] = most[0]
    return fields


def _spoken(asked: ChatRequest) -> RecordingFields:
    if ("audio" in (asked.modalities or [])) != (asked.audio is not None):
        problem = "audio: goes with modalities ['text', 'audio']; give both or neither"
        raise ApiError(400, problem, param="audio", code="invalid_value")
    if asked.audio is None:
        return {"speak": False}
    if asked.audio.format not in FORMATS or (asked.stream and asked.audio.format != "pcm16"):
        step = "with stream give pcm16" if asked.stream else f"choose one of: {', '.join(FORMATS)}"
        raise refused("audio.format", asked.audio.format, step)
    return {"speak": True, "voice": asked.audio.voice} if asked.audio.voice else {"speak": True}


def _line(error: Exception) -> str:
    return cut(ascii(str(error))[1:-1], 300)


def _fault(message: str) -> ApiError:
    """Return the error of what msgspec complains of: the field, what is wrong with it, what to do."""
    what, _, place = message.rpartition(_AT) if _AT in message else (message, "", "")
    place = place.removesuffix("`").removeprefix(".")
    match, step = _FIELD.fullmatch(what), "correct it"
    name = match["name"] if match else ""
    if match and match["kind"] == "unknown":
        known = [one for one in ChatRequest.__struct_fields__ if one not in _ALONE]
        near = difflib.get_close_matches(name, [] if place else known, n=1)
        step = f"did you mean '{near[0]}'?" if near else "leave it out"
    elif match:
        step = "add it"
    elif not place:
        step = 'send {"messages": [{"role": "user", "content": "..."}]}'
    shown = cut(ascii(".".join(one for one in (place, name) if one))[1:-1], 100) or "body"
    return ApiError(400, f"{shown}: {cut(ascii(what)[1:-1], 300)}; {step}", param=shown, code="invalid_value")
