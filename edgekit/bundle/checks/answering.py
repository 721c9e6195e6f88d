"""Answering: tokens that the table has, limits that leave room, levels, sampling and gate."""

import math
from typing import Any

from edgekit.bundle.checks.signatures import shape_of
from edgekit.bundle.faults import Faults, fault, first_twice
from edgekit.bundle.manifest import GateSettings, Manifest, Sampling, TokenProtocol
from edgekit.bundle.ranges import SAMPLING

SKIP = "skip"
DETECTED = "auto"
_DECIBELS = 200.0


def answering_faults(manifest: Manifest) -> Faults:
    """Yield what is wrong with the protocol and with what decides how it is run."""
    protocol = manifest.protocol
    yield from _token_faults(manifest)
    yield from sampling_faults("protocol.sampling", protocol.sampling)
    yield from _text_faults(protocol)
    yield from _level_faults(manifest)
    yield from _gate_faults(manifest.gate)
    if "backbone" in manifest.components and "adapter" in manifest.components:
        yield from _alignment_faults(manifest)


def sampling_faults(path: str, sampling: Sampling) -> Faults:
    """Yield which fields of a sampling break the rules that a user's own has."""
    for name, (_, fits, rule) in SAMPLING.items():
        value: Any = getattr(sampling, name)
        if value is not None and not fits(value):
            yield fault(f"{path}.{name}", f"is {value}, {rule} is needed")


def _token_faults(manifest: Manifest) -> Faults:
    protocol, rows = manifest.protocol, manifest.embedding.weight.shape[0]
    for token in sorted(protocol.ids()):
        if token >= rows:
            yield fault("protocol", f"token {token} of the protocol, the table has {rows} rows")
    if protocol.vocabulary_limit is not None and protocol.vocabulary_limit > rows:
        yield fault("protocol.vocabulary_limit", f"is {protocol.vocabulary_limit}, the table has {rows} rows")
    backbone = manifest.components.get("backbone")
    logits = shape_of(backbone.outputs, "logits") if backbone else ()
    columns = [size for size in logits[-1:] if isinstance(size, int)]
    for token in sorted(protocol.ids()) if columns else ():
        if token >= columns[0]:
            yield fault("protocol", f"token {token} of the protocol, the backbone's logits have {columns[0]} columns")
    if not protocol.stop:
        yield fault("protocol.stop", "is empty, a token that ends an answer is needed")
    for name, value, known in (
        ("language", protocol.language, protocol.languages), ("task", protocol.task, protocol.tasks),
    ):  # fmt: skip
        if value is not None and value not in known and not (name == "language" and value == DETECTED):
            yield fault(f"protocol.{name}", f"is '{value}', {name}s names {', '.join(known) or 'none'}")


def _text_faults(protocol: TokenProtocol) -> Faults:
    for name, text, marks in (
        ("turn", protocol.turn, ("{role}", "{text}") if protocol.roles else ()),
        ("tools", protocol.tools, ("{tools}",) if protocol.tools else ()),
        ("opening", protocol.opening, ("{tools}",) if protocol.tools else ()),
    ):
        if absent := [mark for mark in marks if mark not in text]:
            yield fault(f"protocol.{name}", f"has no {absent[0]}, which is to be filled in")


def _level_faults(manifest: Manifest) -> Faults:
    levels = manifest.levels
    if (twice := first_twice(level.name for level in levels)) is not None:
        yield fault("levels", f"'{twice}' comes twice")
    working = [level for level in levels if level.name != SKIP]
    if not working:
        yield fault("levels", "no compute level but 'skip', one that works is needed")
    if any(level.name == SKIP for level in levels[1:]):
        yield fault("levels", f"'{SKIP}' is not the first, the cheapest comes first")
    backbone = manifest.components.get("backbone")
    if backbone and any(spec.name == "experts_per_token" for spec in backbone.inputs):
        for level in working:
            if level.experts_per_token is None:
                yield fault("levels", f"level '{level.name}' has no experts_per_token, the backbone needs one")
    experts = [level.experts_per_token for level in working if level.experts_per_token is not None]
    if experts != sorted(experts):
        yield fault("levels", f"have {', '.join(map(str, experts))} experts a token, the cheapest comes first")


def _gate_faults(gate: GateSettings) -> Faults:
    if gate.kind == "off":
        return
    most = 1.0 if gate.kind == "speech" else _DECIBELS
    for name, value in (("start", gate.start), ("stop", gate.stop)):
        if value > most:
            yield fault(f"gate.{name}", f"is {value}, at most {most:g} may be where it is '{gate.kind}'")
    if gate.stop > gate.start:
        yield fault("gate.stop", f"is {gate.stop}, at most start {gate.start} may be")


def _alignment_faults(manifest: Manifest) -> Faults:
    """Yield where word times would ask for heads that the graphs do not have."""
    alignment, components = manifest.protocol.alignment, manifest.components
    if not alignment:
        return
    queries, cross = (
        shape_of(components[name].outputs, output) for name, output in (("backbone", "queries"), ("adapter", "cross"))
    )
    layers = len({layer for layer, _ in alignment})
    width = [size for size in (*cross[1:2], *cross[3:]) if isinstance(size, int)]
    if queries[1:] != (layers * math.prod(width),):
        yield fault(
            "protocol.alignment",
            f"protocol.alignment has {layers} layers, output 'queries' of the backbone is {queries or 'not there'}",
        )
    sizes = [size for size in cross[:2] if isinstance(size, int)]
    for layer, head in alignment:
        if len(sizes) < 2 or not (2 * layer < sizes[0] and head < sizes[1]):
            yield fault(
                "protocol.alignment",
                f"protocol.alignment has layer {layer}, head {head}, the adapter makes 'cross' {cross}, two rows a "
                "layer",
            )
