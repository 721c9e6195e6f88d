"""StreamOptions: how one Stream listens and answers, in two steps.

Made: every value has its type and lies in its range. Offered: this bundle has what is asked for, which is the
assembly's to say (``assemble.py``).
"""

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, TypedDict, TypeGuard, get_args

import numpy as np

from edgekit.bundle import Floor, GateKind, Sampling
from edgekit.bundle.ranges import SAMPLING
from edgekit.errors import UsageError
from edgekit.rates import DEFAULT_HZ, rate_fault
from edgekit.reprs import fields_line, quoted
from edgekit.runtime.answer.early.partials import PartialsKind
from edgekit.runtime.hear.resampler import MAX_CHANNELS
from edgekit.runtime.policy import Budget

Times = Literal["segments", "words"]
_OPTIONAL = ("top_k", "top_p")  # None: no such limit


@dataclass(frozen=True, slots=True, repr=False)
class StreamOptions:
    """How one Stream listens and answers; what is None is as the bundle says.

    Raises UsageError, which names the field, for a value of another type or outside its range.
    """

    # Listening
    sample_rate_hz: int = DEFAULT_HZ  # of the pushed samples, 1,000 to 768,000
    channels: int = 1  # of the pushed samples, 1 to 64
    gate: GateKind | None = None  # what counts; for a prompt of one's own about any sound: `sound`
    level: str | None = None  # pins a ComputeLevel, otherwise the Policy chooses within `budget`
    budget: Budget | None = None
    language: str | None = None  # of a multilingual model, or auto; None: what the bundle fixes, else auto
    task: str | None = None  # cross-attention models, such as transcribe or translate
    times: Times | None = None  # of segments as the model writes them, or of words; models that write down speech only
    partials: bool | PartialsKind = False  # text while the user talks, of what writes down speech in chunks; what
    # stands of it is what the final text will probably be (`agreed`, True) or is bound to be (`committed`)
    provisional_ms: int | None = None  # of silence that may be the end of speech, before the gate has decided
    floor: Floor | None = None  # of features: below the maximum so far (`running`), or of all of it, known at its end
    # Answering, for models that converse
    system: str | None = None
    prompt: str | None = None  # the name of a question that the bundle knows, or a text of one's own
    tools: str | None = None  # their schemas, as text
    turns: int | Literal["all"] = 0  # how many earlier ones an answer remembers at most
    think: bool | int | None = None  # whether a thought comes first, or of how many tokens at most
    speak: bool = False  # make sound of the answers too
    voice: str | None = None  # who speaks, of the bundle's voices
    # Sampling
    sampling: Sampling | Mapping[str, float | None] | None = None  # whole, or some fields of it
    seed: int | None = None  # of all draws: the same again
    max_tokens: int | None = None  # of an answer

    def __post_init__(self) -> None:
        """Raise UsageError; see the class."""
        _check_int(
            "channels", self.channels, 1, MAX_CHANNELS, "transpose the samples to (n, channels) or mix them down"
        )
        if fault := rate_fault(self.sample_rate_hz):
            raise UsageError(f"sample_rate_hz: {fault}; give the rate that the samples have")
        for name in ("level", "language", "task", "system", "prompt", "tools", "voice"):
            _check_type(name, getattr(self, name), str, optional=True)
        _check_type("speak", self.speak, bool)
        _check_partials(self.partials)
        _check_type("budget", self.budget, Budget, optional=True)
        _check_choice("gate", self.gate, get_args(GateKind))
        _check_choice("times", self.times, get_args(Times))
        _check_choice("floor", self.floor, get_args(Floor))
        if self.floor == "clip" and self.partials:
            raise UsageError("floor: 'clip' is known at the end of an utterance, partials come before; leave one out")
        if self.level is not None and self.budget is not None:
            raise UsageError(f"budget: level '{self.level}' is pinned, none is chosen within it; leave one out")
        if not (isinstance(self.turns, str) and self.turns == "all"):
            _check_int("turns", self.turns, 0, None, "correct it, or say 'all'")
        if self.think is not None and not isinstance(self.think, bool):
            _check_int("think", self.think, 0, None, "give a number of tokens, True or False")
        for name, least, step in (
            ("seed", 0, "choose another"), ("max_tokens", 1, "choose more"), ("provisional_ms", 1, "choose more"),
        ):  # fmt: skip
            if getattr(self, name) is not None:
                _check_int(name, getattr(self, name), least, None, step)
        _check_sampling(self.sampling)

    def __repr__(self) -> str:
        return fields_line(self)


class RecordingFields(TypedDict, total=False):
    """The fields of StreamOptions by name, but for those that a recording says itself; types as there."""

    gate: GateKind | None
    level: str | None
    budget: Budget | None
    language: str | None
    task: str | None
    times: Times | None
    partials: bool | PartialsKind
    provisional_ms: int | None
    floor: Floor | None
    system: str | None
    prompt: str | None
    tools: str | None
    turns: int | Literal["all"]
    think: bool | int | None
    speak: bool
    voice: str | None
    sampling: Sampling | Mapping[str, float | None] | None
    seed: int | None
    max_tokens: int | None


class StreamFields(RecordingFields, total=False):
    """The fields of StreamOptions by name, for a caller's editor and type checker to know them."""

    sample_rate_hz: int
    channels: int


def stream_options(options: Mapping[str, Any]) -> StreamOptions:
    """Return the StreamOptions with these fields. Raises UsageError for an unknown name, with the nearest known one."""
    known = [one.name for one in fields(StreamOptions)]
    for name in options:
        if name not in known:
            raise UsageError(f"{name}: {quoted(options[name])}, a stream has no such option; {nearest(name, known)}")
    return StreamOptions(**options)


def nearest(name: str, known: list[str]) -> str:
    """Return the next step for a name that is not known: the nearest one, else all of them."""
    near = difflib.get_close_matches(str(name), known, n=1)  # a mapping's may be no text
    return f"did you mean '{near[0]}'?" if near else f"choose one of: {', '.join(known)}"


def check_lag(lag_ms: object) -> None:
    """Raise UsageError for a lag that is neither None nor 0 or more milliseconds."""
    if lag_ms is not None and not (_is_finite(lag_ms, float) and lag_ms >= 0):
        raise UsageError(
            f"lag_ms: {quoted(lag_ms)}, 0 or more milliseconds are needed; leave it out where nothing is live"
        )


def check_dropped(dropped_samples: object) -> None:
    """Raise UsageError for what is no number of samples."""
    if not (_is_finite(dropped_samples, int) and dropped_samples >= 0):
        raise UsageError(
            f"dropped_samples: {quoted(dropped_samples)}, a whole number, 0 or more, is needed; correct it"
        )


def check_heard(heard_s: object) -> None:
    """Raise UsageError for what is neither None nor 0 or more seconds."""
    if heard_s is not None and not (_is_finite(heard_s, float) and heard_s >= 0):
        raise UsageError(f"heard_s: {quoted(heard_s)}, 0 or more seconds are needed; give those that were played")


def _check_type(name: str, value: object, kind: type, *, optional: bool = False) -> None:
    if not isinstance(value, kind) and not (optional and value is None):
        raise UsageError(
            f"{name}: {quoted(value)}, a {kind.__name__} is needed; give one{' or leave it out' * optional}"
        )

    if isinstance(value, str):
        check_text(name, value)


def check_turn(text: object, role: object) -> None:
    """Raise UsageError for a turn in text that is none."""
    for name, value in (("text", text), ("role", role)):
        if not isinstance(value, str):
            raise UsageError(f"{name}: {quoted(value)}, a str is needed; give one")
        check_text(name, value)


def check_text(name: str, text: str) -> None:
    """Raise UsageError for a text that no tokenizer takes: a half of a character (a lone surrogate) stands in it."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = text[error.start]
        raise UsageError(f"{name}: {half!r} at {error.start} is half of a character; leave it out") from error


def _check_choice(name: str, value: object, known: tuple[str, ...]) -> None:
    if value is not None and not (isinstance(value, str) and value in known):
        raise UsageError(f"{name}: {quoted(value)} is not known; choose one of: {', '.join(known)}")


def _check_partials(value: object) -> None:
    if not isinstance(value, bool) and not (isinstance(value, str) and value in get_args(PartialsKind)):
        known = ", ".join(("True", "False", *get_args(PartialsKind)))
        raise UsageError(f"partials: {quoted(value)} is not known; choose one of: {known}")


def _check_int(name: str, value: object, least: int, most: int | None, step: str) -> None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or not least <= value <= (math.inf if most is None else most):  # type: ignore[operator]
        bounds = f"{least} or more" if most is None else f"{least} to {most}"
        raise UsageError(f"{name}: {quoted(value)}, a whole number, {bounds}, is needed; {step}")


def _check_sampling(sampling: object) -> None:
    if sampling is None:
        return
    given: Mapping[str, Any]
    if isinstance(sampling, Sampling):
        given = {name: getattr(sampling, name) for name in SAMPLING}
    elif isinstance(sampling, Mapping):
        given = dict(sampling)
    else:
        raise UsageError(f"sampling: {quoted(sampling)}, a Sampling or some of its fields are needed; give a mapping")
    for name, value in given.items():
        if name not in SAMPLING:
            raise UsageError(f"sampling: '{name}' is no field of it; {nearest(name, list(SAMPLING))}")
        kind, fits, rule = SAMPLING[name]
        if value is None and name in _OPTIONAL:
            continue
        if not _is_finite(value, kind) or not fits(value):
            raise UsageError(f"{name}: {quoted(value)}, {rule} is needed; choose another value")


def _is_finite(value: object, kind: type) -> TypeGuard[float]:
    """Return whether a value is a finite number, numpy's included; a whole one of 64 bits if ``kind`` is int."""
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool) and abs(int(value)) < 2**63
    return whole or (kind is float and isinstance(value, (float, np.floating)) and math.isfinite(value))
