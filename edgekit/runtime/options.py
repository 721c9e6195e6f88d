"""StreamOptions, and the parts of a Stream that they decide: its decoder, its gate, its level."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from edgekit.bundle import ComputeLevel, GateKind, GateSettings, Sampling, TokenProtocol
from edgekit.errors import UsageError
from edgekit.rates import DEFAULT_HZ
from edgekit.runtime.answer.answerer import Answerer, Setting
from edgekit.runtime.answer.cross import CrossAnswerer
from edgekit.runtime.answer.prefix import Asking, PrefixAnswerer
from edgekit.runtime.answer.sampler import sampler
from edgekit.runtime.answer.speaker import Speaker
from edgekit.runtime.events import Audio, Text, Thought
from edgekit.runtime.policy import Budget
from edgekit.runtime.speak import SpeakerSetting, kind_of, open_speaker
from edgekit.timing import Trace

if TYPE_CHECKING:
    from edgekit.runtime.model import Model

_THRESHOLDS = {"speech": (0.5, 0.35), "sound": (9.0, 5.0), "off": (0.0, 0.0)}  # start, stop


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """How one Stream listens and answers; what is None is as the bundle says.

    ``sample_rate_hz`` and ``channels`` describe the pushed samples. ``level`` pins a ComputeLevel, otherwise the Policy
    chooses within ``budget``. ``language`` and ``task`` are for cross-attention models (a multilingual one detects the
    language if none is given). ``partials``: write drafts of the text while the user talks, which costs work and makes
    the final text of a long utterance come sooner; cross-attention models only.

    For prefix models: ``system`` text, ``prompt`` (the name of a question that the bundle knows, or one's own, which
    may be about any sound: the gate is then ``sound`` unless another one is asked for), ``tools``
    (their schemas as text), ``turns`` (how many earlier ones an answer remembers at most; None: all that fit),
    ``think`` (whether a thought precedes the answer, or of how many tokens at most).

    ``speak``: make sound of the answers too, with the ``voice`` of that name, where the bundle speaks. ``sampling`` of
    the answer's tokens, whole or some fields of it, with ``seed``; ``max_tokens`` of an answer. ``on_text`` and
    ``on_audio`` are called with each Text, Thought or Audio event at the moment it exists, while ``push`` is still at
    work. ``hush`` is asked at each token and each piece of speech: where it says True, the rest of the answer is
    written and not spoken.
    """

    sample_rate_hz: int = DEFAULT_HZ
    channels: int = 1
    gate: GateKind | None = None
    level: str | None = None
    language: str | None = None
    task: str | None = None
    system: str | None = None
    prompt: str | None = None
    tools: str | None = None
    turns: int | None = 0
    think: bool | int | None = None
    speak: bool = False
    voice: str | None = None
    sampling: Sampling | Mapping[str, float] | None = None
    seed: int | None = None
    max_tokens: int | None = None
    budget: Budget | None = None
    partials: bool = False
    on_text: Callable[[Text | Thought], None] | None = None
    on_audio: Callable[[Audio], None] | None = None
    hush: Callable[[], bool] | None = None


def make_decoder(model: "Model", options: StreamOptions, trace: Trace, mouth: Speaker | None) -> Answerer:
    """Return the Answerer for the bundle's protocol; raises UsageError for options of the other one."""
    protocol = model.manifest.protocol
    max_tokens = protocol.max_tokens if options.max_tokens is None else options.max_tokens
    if not 0 < max_tokens <= protocol.max_tokens:
        raise UsageError(f"max_tokens: {max_tokens}, this bundle takes 1 to {protocol.max_tokens}; choose one of these")
    if options.turns is not None and options.turns < 0:
        raise UsageError(f"turns: {options.turns}, must be 0 or more; correct it")
    speech = model.manifest.speech if mouth is not None else None
    limits, usual = kind_of(speech).drawing(speech, protocol) if speech else (protocol, protocol.sampling)
    sampling = _sampling(options.sampling, usual)
    if options.seed is not None and mouth is None and sampling.temperature == 0:
        raise UsageError(f"seed: {options.seed}, nothing is drawn at temperature 0; add a temperature, such as 0.7")
    setting = Setting(
        manifest=model.manifest,
        engine=model.engines["backbone"],
        table=model.table,
        tokenizer=model.tokenizer,
        sampler=sampler(limits, sampling, options.seed or 0),
        trace=trace,
        context_tokens=model.context_tokens,
        max_tokens=max_tokens,
    )
    cross = protocol.attention == "cross"
    if cross and options.turns != 0:
        raise UsageError(f"turns: {options.turns}, this bundle writes down speech and remembers no turns; leave it out")
    for name in ("system", "prompt", "tools", "think") if cross else ("language", "task"):
        if getattr(options, name) not in {None, False}:
            raise UsageError(f"{name}: '{getattr(options, name)}', this bundle has no choice of {name}; leave it out")
    if cross:
        return CrossAnswerer(setting, options.language, options.task)
    asking = Asking(options.system, options.prompt, options.tools, options.turns, options.think)
    return PrefixAnswerer(setting, asking, mouth)


def _sampling(asked: Sampling | Mapping[str, float] | None, usual: Sampling) -> Sampling:
    """Return what was asked for, fields that were not as usual; raises UsageError for fields that would do nothing."""
    if asked is None or isinstance(asked, Sampling):
        return asked or usual
    found = msgspec.structs.replace(usual, **asked)
    if found.temperature == 0 and (idle := [name for name in asked if name != "temperature"]):
        raise UsageError(
            f"{idle[0]}: {asked[idle[0]]}, nothing is drawn at temperature 0; add a temperature, such as 0.7"
        )
    return found


def make_mouth(model: "Model", options: StreamOptions, trace: Trace) -> Speaker | None:
    """Return what speaks the answers, None where nobody asked for speech; raises UsageError where nothing can."""
    if not options.speak:
        if options.voice is not None:
            raise UsageError(f"voice: '{options.voice}', but nothing is spoken; ask for speech too")
        return None
    return open_speaker(
        SpeakerSetting(model.bundle, model.engines, model.table, trace, options.voice, options.seed or 0)
    )


def gate_settings(settings: GateSettings, options: StreamOptions, protocol: TokenProtocol) -> GateSettings:
    """Return the bundle's settings, with thresholds of the other scale where another kind is asked for.

    A question of the user's own may be about any sound: a gate that lets speech through alone makes way for ``sound``.
    """
    kind = options.gate
    own = options.prompt is not None and options.prompt not in protocol.questions
    if kind is None and own and settings.kind == "speech":
        kind = "sound"
    if kind is None or kind == settings.kind:
        return settings
    if kind not in _THRESHOLDS:
        raise UsageError(f"gate: '{kind}' is not known; choose one of: {', '.join(_THRESHOLDS)}")
    start, stop = _THRESHOLDS[kind]
    return msgspec.structs.replace(settings, kind=kind, start=start, stop=stop)


def find_level(levels: Iterable[ComputeLevel], name: str) -> ComputeLevel:
    """Return the level called ``name``; raises UsageError naming the known ones."""
    found = {level.name: level for level in levels}
    if name not in found:
        raise UsageError(f"level: '{name}' is not in this bundle; choose one of: {', '.join(found)}")
    return found[name]
