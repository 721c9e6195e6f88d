"""Profile: what was measured, on what, with what, as plain data in a JSON file of a known schema version.

Knows how samples become figures (``summarise``) and what each figure means (``DEFINITIONS``); measures nothing itself.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from edgekit.atomic import write_whole
from edgekit.errors import ProfileError
from edgekit.plainfiles import read_plain
from edgekit.spans import SPEAK

SCHEMA_VERSION = 1
_MOST_BYTES = 64 << 20  # of a profile's file, which has some hundred thousand

Pace = Literal["real time", "back to back", "fresh process"]
"""``real time``: samples arrive when a microphone would hand them over; ``back to back``: as fast as they are taken."""


class Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Frozen record that refuses unknown fields."""


class Device(Struct, frozen=True):
    """The machine; a fact that it does not tell is "unknown". ``slug`` is derived and names the folder of its files."""

    slug: str
    cpu: str
    architecture: str
    instructions: tuple[str, ...]
    cores: int
    memory_mib: int
    os: str
    kernel: str
    power_mode: str
    environment: str


class Software(Struct, frozen=True):
    """Versions of what ran."""

    edgekit: str
    python: str
    numpy: str
    onnxruntime: str
    others: dict[str, str] = {}


class BundleFacts(Struct, frozen=True):
    """Which bundle was measured; ``manifest_sha256`` stands for every byte, as the manifest holds all hashes.

    ``dummy_seed`` is the manifest's: not None where noise stands for weights. What its export found: ``words_changed``
    at each level against the float ``twin`` on the check clips, as a share; ``twin`` is "whole", "weights" where only
    these were compared, "none" of noise, and empty where nothing was rounded; ``waiver``: the loss that whoever
    exported it accepted, and why. ``takes_prompt``: whether a user can lengthen what the backbone reads before the
    sound; None of profiles from before it was noted, as an empty ``dialect``.
    """

    name: str
    family: str
    precision: dict[str, str]
    manifest_sha256: str
    grid: str
    chunk_ms: int
    gate: str
    bytes: int
    dummy_seed: int | None = None
    dialect: str = ""
    words_changed: dict[str, float] = {}
    twin: str = ""
    waiver: str = ""
    takes_prompt: bool | None = None


class ClipFacts(Struct, frozen=True):
    """One input: hash of its samples (mono float32), its length, and where its last speech sample is."""

    name: str
    sha256: str
    seconds: float
    speech_end_s: float


class Settings(Struct, frozen=True):
    """How it was measured. ``fallback``: why ``backend`` is not the one asked for; empty if it is.

    ``engines``: what each says of its runs, such as nodes by provider; nothing where there is nothing to tell apart.
    """

    threads: int
    warmup: int
    repeat: int
    paced: bool
    block_ms: int
    level: str
    silence_after_s: float
    clips: tuple[ClipFacts, ...]
    backend: str = "onnxruntime-cpu"  # of profiles from before it was noted
    fallback: str = ""
    context_tokens: int | None = None
    engines: dict[str, dict[str, int]] = {}


class Metric(Struct, frozen=True):
    """One figure: order statistics of ``n`` samples, linearly interpolated (``numpy.percentile``'s default)."""

    name: str
    level: str
    pace: Pace
    unit: str
    n: int
    p50: float
    p90: float
    p99: float
    min: float
    max: float


class TimelineSpan(Struct, frozen=True, array_like=True):
    """One piece of work, in ms since the first sample was due."""

    name: str
    start_ms: float
    ms: float
    count: int


class Timeline(Struct, frozen=True):
    """One utterance as it went: moments in ms since the first sample was due, and every span of work."""

    clip: str
    text: str
    speech_end_ms: float
    closed_ms: float
    first_token_ms: float
    final_text_ms: float
    spans: tuple[TimelineSpan, ...]


class Profile(Struct, frozen=True, tag_field="kind", tag="profile"):
    """Everything that one run of ``profile_bundle`` found. ``notes`` are what a reader must know to trust it."""

    schema_version: int
    date: str
    device: Device
    software: Software
    bundle: BundleFacts
    settings: Settings
    metrics: tuple[Metric, ...]
    definitions: dict[str, str]
    timeline: Timeline | None = None
    notes: tuple[str, ...] = ()
    simulated: bool = False

    def metric(self, name: str, *, pace: Pace | None = None, level: str | None = None) -> Metric | None:
        """Return the first metric of a name, at a pace and level if given."""
        for metric in self.metrics:
            if metric.name == name and pace in (None, metric.pace) and level in (None, metric.level):
                return metric
        return None


class Definition(Struct, frozen=True):
    """What a metric is called in a report, its unit, and what exactly it counts."""

    title: str
    unit: str
    text: str


_LAST_SPEECH = (
    "The last speech sample is the end of the clip's last 20 ms block within 30 dB of its loudest one; the clip is cut "
    "there, so the moment is known and does not depend on the gate."
)
DEFINITIONS: dict[str, Definition] = {
    "first_token_ms": Definition(
        title="First token, without the decision",
        unit="ms",
        text="From the moment when the block that closes the utterance is complete (or, with the gate off, when the "
        "input ends) to the first token's text in the caller's hands: the tail of the encoder, prefill, one pick, and "
        "any backlog. Ratios use this one.",
    ),
    "first_token_with_decision_ms": Definition(
        title="First token, with the decision",
        unit="ms",
        text="From the last speech sample to the same moment: the wait that tells the end of speech from a pause, then "
        f"the figure without the decision. {_LAST_SPEECH}",
    ),
    "final_text_ms": Definition(
        title="Final text, without the decision",
        unit="ms",
        text="As `first_token_ms`, to the final text: all tokens decoded.",
    ),
    "final_text_with_decision_ms": Definition(
        title="Final text, with the decision",
        unit="ms",
        text="As `first_token_with_decision_ms`, to the final text.",
    ),
    "first_audio_ms": Definition(
        title="First sound of the answer, without the decision",
        unit="ms",
        text="As `first_token_ms`, to the first piece of the spoken answer in the caller's hands (option `speak`); "
        "what the loudspeaker adds is not in it.",
    ),
    "first_audio_with_decision_ms": Definition(
        title="First sound of the answer, with the decision",
        unit="ms",
        text="As `first_token_with_decision_ms`, to the first piece of the spoken answer.",
    ),
    "decision_ms": Definition(
        title="End-of-speech decision",
        unit="ms",
        text="From the last speech sample to the end of the block in which the gate closes the utterance, in stream "
        "time: it is waiting, not work.",
    ),
    "first_draft_ms": Definition(
        title="First draft, after speech begins",
        unit="ms",
        text="From the first sample of the utterance, which lies before the speech by the gate's pre-roll, to the "
        "first words in the caller's hands while the user still talks (option `partials`); utterances that end before "
        "their first draft are left out.",
    ),
    "drafted_final_text_ms": Definition(
        title="Final text after drafts, without the decision",
        unit="ms",
        text="As `final_text_ms`, with drafts written while the user talked, which the answer only has to check.",
    ),
    "draft_ms": Definition(
        title="Draft",
        unit="ms",
        text="One draft: the tokens of the last one that are checked again, and new ones.",
    ),
    "drafted": Definition(
        title="Final text that was drafted",
        unit="share",
        text="Characters of the final text that the last draft had, from its beginning to the first difference.",
    ),
    "encoder_ms": Definition(
        title="Encoder, per chunk",
        unit="ms",
        text="One run of the encoder: one chunk of the bundle's grid.",
    ),
    "adapter_ms": Definition(
        title="Adapter, per chunk", unit="ms", text="One run of the adapter, after an encoder run."
    ),
    "prefill_ms": Definition(
        title="Prefill, per run",
        unit="ms",
        text="One run of the backbone over more than one token, or over the first ones of an answer.",
    ),
    "decode_ms": Definition(
        title="Decode, per token",
        unit="ms",
        text="One step of the backbone and the choice of the next token.",
    ),
    "work_while_talking": Definition(
        title="Encoder work done before the last speech sample",
        unit="share",
        text="Encoder positions finished before the last speech sample is due, of all encoder positions of the pass.",
    ),
    "real_time_factor": Definition(
        title="Real-time factor",
        unit="s/s",
        text="Seconds of work per second of audio: whole clips, gate off, pushed as fast as they are taken.",
    ),
    "drafted_real_time_factor": Definition(
        title="Real-time factor with drafts",
        unit="s/s",
        text="As `real_time_factor`, with drafts of the text.",
    ),
    "speech_real_time_factor": Definition(
        title="Real-time factor of speaking",
        unit="s/s",
        text="From the moment when the block that closes the utterance is complete to the last piece of the spoken "
        "answer in the caller's hands, per second of it; what is written beside it counts too. Above 1 the voice stops "
        "and waits.",
    ),
    "host_overhead": Definition(
        title="Host overhead of speaking",
        unit="share",
        text=f"Time of speaking (spans `{SPEAK}`) beside the engines in it (whose spans are named like the components "
        "that speak), as a share of their time, over all codec frames of a pass.",
    ),
    "silence_cost": Definition(
        title="Cost of silence",
        unit="s/s",
        text="Seconds of work per second of faint noise (-70 dB of full scale) with the bundle's gate on.",
    ),
    "encoder_frames_ratio": Definition(
        title="Encoder frames computed / received",
        unit="ratio",
        text="Mel frames that went through the encoder, silence added at the end included, by the frames "
        "received; gate off.",
    ),
    "import_ms": Definition(
        title="Import",
        unit="ms",
        text="`import edgekit.cli` in a fresh process, interpreter start excluded.",
    ),
    "load_s": Definition(
        title="Load",
        unit="s",
        text="`edgekit.load(bundle)` in a fresh process, hashes checked, onnxruntime's import included; files may be "
        "in the page cache.",
    ),
    "peak_memory_mib": Definition(
        title="Peak memory",
        unit="MiB",
        text="Highest resident set of a fresh process that loads the bundle and transcribes the longest clip, gate on.",
    ),
}


def summarise(name: str, samples: Sequence[float], *, level: str, pace: Pace) -> Metric:
    """Return the Metric of at least one sample; the name must have a definition."""
    assert samples, f"{name}: no samples"
    p50, p90, p99 = (float(value) for value in np.percentile(np.asarray(samples, np.float64), (50, 90, 99)))
    return Metric(
        name=name,
        level=level,
        pace=pace,
        unit=DEFINITIONS[name].unit,
        n=len(samples),
        p50=_rounded(p50),
        p90=_rounded(p90),
        p99=_rounded(p99),
        min=_rounded(min(samples)),
        max=_rounded(max(samples)),
    )


def encode_record(record: msgspec.Struct) -> bytes:
    """Return a Profile or Comparison as indented JSON: the same content gives the same bytes."""
    return msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n"


def decode_profile(text: bytes, name: str) -> Profile:
    """Return the Profile in ``text``; ``name`` is for the error, a ProfileError."""
    try:
        version = msgspec.json.decode(text, type=_Version).schema_version
        if version == SCHEMA_VERSION:
            return msgspec.json.decode(text, type=Profile)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ProfileError(
            f"{name}: {error}; it is no profile of this EdgeKit, make it again with `edgekit profile`"
        ) from error
    raise ProfileError(
        f"{name}: schema version {version}, this EdgeKit reads {SCHEMA_VERSION}; make it again with `edgekit profile`"
    )


def load_profile(path: str | os.PathLike[str]) -> Profile:
    """Return the Profile in a JSON file; raises ProfileError if it is not one, OSError if it cannot be read."""
    return decode_profile(read_plain(Path(path), _MOST_BYTES), str(path))


def save_profile(profile: Profile, path: str | os.PathLike[str]) -> None:
    """Write a Profile as JSON, whole or not at all, for its owner alone: it quotes its clips. Raises OutputError."""
    write_whole(Path(path), encode_record(profile), private=True)


class _Version(msgspec.Struct):
    schema_version: int


def _rounded(value: float) -> float:
    """Return five significant digits: more is noise, and would make every diff of a profile unreadable."""
    return float(f"{value:.5g}")
