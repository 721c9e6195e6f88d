"""The names of spans: what each is the time of, and what its ``count`` counts. Nobody else spells one out.

Those of the common path stand here. What not every bundle has, such as a way of speaking, registers its own where its
code is.
"""

from dataclasses import dataclass

from edgekit.errors import UsageError


@dataclass(frozen=True, slots=True)
class SpanKind:
    """A name of spans. ``unit``: what ``count`` counts; ``text``: whose time it is; ``within``: the name around it."""

    name: str
    unit: str
    text: str
    within: str = ""


_KINDS: dict[str, SpanKind] = {}


def register(name: str, unit: str, text: str, *, within: str = "") -> str:
    """Make a name of spans known and return it. Raises UsageError if it is known as something else already."""
    kind = SpanKind(name, unit, text, within)
    known = _KINDS.setdefault(name, kind)
    if known != kind:
        raise UsageError(
            f"span '{name}': counts {unit}, but is registered already and counts {known.unit}; choose another name"
        )
    return name


def span_kind(name: str) -> SpanKind:
    """Return what a name stands for. Raises UsageError for one that nobody registered."""
    if name not in _KINDS:
        raise UsageError(f"span '{name}': not registered, known are {', '.join(sorted(_KINDS))}; register it first")
    return _KINDS[name]


def names_within(name: str) -> frozenset[str]:
    """Return the names of all spans that may lie within those of a name."""
    return frozenset(kind.name for kind in _KINDS.values() if kind.within == name)


RESAMPLE = register("resample", "samples", "pushed samples to the front end's rate")
GATE = register("gate", "samples", "deciding which samples count")
FEATURES = register("features", "samples", "samples to log-mel frames")
ENCODER = register("encoder", "encoder positions", "log-mel frames to encoder frames")
ADAPTER = register("adapter", "encoder frames", "encoder frames to what the backbone hears")
PREFILL = register("prefill", "tokens", "what the backbone reads before the first token of an answer")
DRAFT = register("draft", "drafts", "a text of what was heard so far, all its runs of the backbone")
PREPARE = register("prepare", "preparations", "work for the end of speech, done while the user talks")
DECODE = register("decode", "tokens", "a run of the backbone for the next token, and the choice of it")
SPEAK = register("speak", "pieces", "making sound of an answer's tokens")
