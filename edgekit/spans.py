"""The names of spans: what each is the time of, and what its ``count`` counts. Nobody else spells one out.

Those of the common path stand here. What not every bundle has, such as a way of speaking, registers its own where its
code is.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from edgekit.registry import Registry


@dataclass(frozen=True, slots=True)
class SpanKind:
    """A name of spans. ``unit``: what ``count`` counts; ``text``: whose time it is; ``within``: the name around it."""

    name: str
    unit: str
    text: str
    within: str = ""


SPANS: Registry[SpanKind] = Registry("span", SpanKind)


def register(name: str, unit: str, text: str, *, within: str = "") -> str:
    """Make a name of spans known and return it. Raises RegistryError if it is known as something else already."""
    if (kind := SpanKind(name, unit, text, within)) not in SPANS:
        SPANS.register(kind)
    return name


@contextmanager
def registered(name: str, unit: str, text: str, *, within: str = "") -> Iterator[str]:
    """Keep a name for the length of a block: for tests, so that nothing they add outlives them."""
    if (kind := SpanKind(name, unit, text, within)) in SPANS:
        yield name
        return
    with SPANS.registered(kind):
        yield name


def span_kind(name: str) -> SpanKind:
    """Return what a name stands for. Raises RegistryError for one that nobody registered."""
    return SPANS.get(name)


def names_within(name: str) -> frozenset[str]:
    """Return the names of all spans that may lie within those of a name."""
    return frozenset(kind.name for kind in SPANS if kind.within == name)


RESAMPLE = register("resample", "samples", "pushed samples to the front end's rate")
GATE = register("gate", "samples", "deciding which samples count")
FEATURES = register("features", "samples", "samples to log-mel frames")
ENCODER = register("encoder", "encoder positions", "log-mel frames to encoder frames")
ADAPTER = register("adapter", "encoder frames", "encoder frames to what the backbone hears")
PREFILL = register("prefill", "tokens", "what the backbone reads before the first token of an answer")
DRAFT = register("draft", "drafts", "a text of what was heard so far, all its runs of the backbone")
PREPARE = register("prepare", "preparations", "work for the end of speech, done while the user talks")
DECODE = register("decode", "tokens", "a run of the backbone for the next token, and the choice of it")
ALIGN = register("align", "tokens", "finding when each word of an answer was said")
SPEAK = register("speak", "pieces", "making sound of an answer's tokens")
