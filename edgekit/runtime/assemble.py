"""The parts of a stream, put together from its options and a loaded bundle: gate, listener, answerer, speaker.

The second step of checking StreamOptions: what this bundle offers. Also what the judge builds its answers from.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import msgspec

from edgekit.bundle import ComputeLevel, Floor, GateSettings, Manifest, Sampling, TokenProtocol
from edgekit.errors import UsageError
from edgekit.runtime.answer import driver_of
from edgekit.runtime.answer.answerer import Answerer, Setting
from edgekit.runtime.answer.prompt import no_dictation
from edgekit.runtime.answer.sampler import Sampler, sampler
from edgekit.runtime.answer.speaker import Speaker
from edgekit.runtime.hear.ending import EndingRule
from edgekit.runtime.hear.gate import Gate
from edgekit.runtime.hear.listener import Listener
from edgekit.runtime.loading import Loaded
from edgekit.runtime.options import StreamOptions
from edgekit.runtime.policy import SKIP
from edgekit.runtime.speak import SpeakerSetting, kind_of, open_speaker
from edgekit.timing import Trace

_THRESHOLDS = {"speech": (0.5, 0.35), "sound": (9.0, 5.0), "off": (0.0, 0.0)}  # start, stop


@dataclass(frozen=True, slots=True)
class Parts:
    """What a stream is made of; all but the gate note their work in one Trace."""

    gate: Gate
    listener: Listener
    answerer: Answerer
    speaker: Speaker | None
    ending: EndingRule
    dictates: bool  # an answer is what was said


def assemble(loaded: Loaded, options: StreamOptions, trace: Trace) -> Parts:
    """Return the parts of a stream. Raises UsageError for an option that the bundle does not offer."""
    manifest = loaded.manifest
    if options.partials and (reason := no_partials(manifest, options)) is not None:
        raise UsageError(
            f"partials: {manifest.name} writes nothing before an utterance is over: {reason}; leave them out"
        )
    protocol = manifest.protocol
    if options.partials == "committed" and protocol.timestamps is not None and not protocol.alignment:
        raise UsageError(
            f"partials: 'committed', {manifest.name} does not know when a word ended, where speech beyond its longest "
            "piece would go on; choose 'agreed'"
        )
    speaker = make_speaker(loaded, options, trace)
    return Parts(
        gate=make_gate(manifest, options),
        listener=make_listener(loaded, trace, options.floor or "running"),
        answerer=make_answerer(loaded, options, trace, speaker),
        speaker=speaker,
        ending=_rule(options) or EndingRule(),
        dictates=_no_dictation(manifest, options) is None,
    )


def make_gate(manifest: Manifest, options: StreamOptions) -> Gate:
    """Return what decides which sound counts. Raises UsageError for a ``provisional_ms`` that would do nothing."""
    settings, rule = gate_settings(manifest.gate, options, manifest.protocol), _rule(options)
    if rule is not None and not ends_early(settings, rule.pause_ms):
        known = "no end of speech" if settings.kind == "off" else f"it after {settings.min_silence_ms} ms"
        raise UsageError(f"provisional_ms: {rule.pause_ms}, the gate tells {known}; choose less or leave it out")
    return Gate(settings, manifest.front_end.sample_rate_hz, rule=rule)


def ends_early(settings: GateSettings, provisional_ms: int) -> bool:
    """Return whether speech can have a provisional end, before the one that a gate with these settings decides."""
    return settings.kind != "off" and provisional_ms < settings.min_silence_ms


def fitting(manifest: Manifest, options: StreamOptions) -> StreamOptions:
    """Return options without partials and a provisional end where a bundle has none: for who asks for what there is."""
    pause_ms = options.provisional_ms
    early = pause_ms is not None and ends_early(gate_settings(manifest.gate, options, manifest.protocol), pause_ms)
    partials = options.partials if no_partials(manifest, options) is None else False
    return replace(options, partials=partials, provisional_ms=pause_ms if early else None)


def _rule(options: StreamOptions) -> EndingRule | None:
    return None if options.provisional_ms is None else EndingRule(pause_ms=options.provisional_ms)


def writes_partials(manifest: Manifest, options: StreamOptions | None = None) -> bool:
    """Return whether a bundle, asked like that, has text to show while the user talks; see ``no_partials``."""
    return no_partials(manifest, options or StreamOptions()) is None


def no_partials(manifest: Manifest, options: StreamOptions) -> str | None:
    """Return why a bundle has no text to show while the user talks; None if it writes down speech, heard in chunks."""
    if (reason := _no_dictation(manifest, options)) is not None:
        return reason
    grid, front_end = manifest.grid, manifest.front_end
    if grid.chunk_frames >= grid.max_frames:
        seconds = grid.max_frames * front_end.hop_samples / front_end.sample_rate_hz
        return f"it hears {seconds:g} s at once"
    return None


def _no_dictation(manifest: Manifest, options: StreamOptions) -> str | None:
    """Return why answers are not what was said; None if they are."""
    return no_dictation(manifest.protocol, options) if driver_of(manifest.protocol).converses else None


def make_listener(loaded: Loaded, trace: Trace, floor: Floor = "running") -> Listener:
    """Return what hears a stream's sound."""
    manifest, engines = loaded.manifest, loaded.engines
    return Listener(manifest.front_end, manifest.grid, engines["encoder"], engines["adapter"], trace, floor=floor)


def make_answerer(
    loaded: Loaded,
    options: StreamOptions,
    trace: Trace,
    speaker: Speaker | None = None,
    chosen: Sampler | None = None,
) -> Answerer:
    """Return what drives the backbone; ``chosen`` picks its tokens in place of the options' sampling.

    Raises UsageError for options of the other kind of attention.
    """
    protocol = loaded.manifest.protocol
    max_tokens = protocol.max_tokens if options.max_tokens is None else options.max_tokens
    if not 0 < max_tokens <= protocol.max_tokens:
        raise UsageError(f"max_tokens: {max_tokens}, this bundle takes 1 to {protocol.max_tokens}; choose one of these")
    setting = Setting(
        manifest=loaded.manifest,
        engine=loaded.engines["backbone"],
        table=loaded.table,
        tokenizer=loaded.tokenizer,
        sampler=chosen or _sampler(loaded, options, speaker),
        trace=trace,
        context_tokens=loaded.context_tokens,
        max_tokens=max_tokens,
        any_sound=gate_settings(loaded.manifest.gate, options, protocol).kind != "speech",
    )
    driver = driver_of(protocol)
    return driver.make(setting, driver.options(options), speaker)


def _sampler(loaded: Loaded, options: StreamOptions, speaker: Speaker | None) -> Sampler:
    protocol, speech = loaded.manifest.protocol, loaded.manifest.speech if speaker else None
    limits, default = kind_of(speech).drawing(speech, protocol) if speech else (protocol, protocol.sampling)
    sampling = _sampling(options.sampling, default)
    if options.seed is not None and speaker is None and sampling.temperature == 0:
        raise UsageError(f"seed: {options.seed}, nothing is drawn at temperature 0; add a temperature, such as 0.7")
    return sampler(limits, sampling, options.seed or 0)


def _sampling(requested: Sampling | Mapping[str, float | None] | None, default: Sampling) -> Sampling:
    """Return what was asked for, other fields as by default; raises UsageError for fields that would do nothing."""
    if requested is None or isinstance(requested, Sampling):
        return requested or default
    result = msgspec.structs.replace(default, **requested)
    if result.temperature == 0 and (idle := [name for name in requested if name in ("top_k", "top_p")]):
        raise UsageError(
            f"{idle[0]}: {requested[idle[0]]}, nothing is drawn at temperature 0; add a temperature, such as 0.7"
        )
    return result


def make_speaker(loaded: Loaded, options: StreamOptions, trace: Trace) -> Speaker | None:
    """Return what speaks the answers, None where nobody asked for speech; raises UsageError where nothing can."""
    if not options.speak:
        if options.voice is not None:
            raise UsageError(f"voice: '{options.voice}', but nothing is spoken; ask for speech too")
        return None
    return open_speaker(speaker_setting(loaded, options, trace))


def speaker_setting(loaded: Loaded, options: StreamOptions, trace: Trace) -> SpeakerSetting:
    """Return what a speaker needs of a bundle that was loaded to speak."""
    return SpeakerSetting(loaded.bundle, loaded.engines, loaded.table, trace, options.voice, options.seed or 0)


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
    start, stop = _THRESHOLDS[kind]
    return msgspec.structs.replace(settings, kind=kind, start=start, stop=stop)


def working_levels(levels: Iterable[ComputeLevel]) -> tuple[ComputeLevel, ...]:
    """Return the levels that do something, cheapest first."""
    return tuple(level for level in levels if level.name != SKIP)


def find_level(levels: Iterable[ComputeLevel], name: str) -> ComputeLevel:
    """Return the level called ``name``; raises UsageError naming the known ones."""
    known = {level.name: level for level in levels}
    if name not in known:
        raise UsageError(f"level: '{name}' is not in this bundle; choose one of: {', '.join(known)}")
    return known[name]
