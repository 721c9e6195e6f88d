"""Results and recipe: plain objects of the manifest, as far as whoever reads them takes a shape for granted.

Both hold more than is looked at here, and results of checks that a later EdgeKit makes; what is known must be of its
kind. A whole recipe is read by ``recipe.py``, which lies above the bundle.
"""

from typing import Annotated, Any

import msgspec

from edgekit.bundle.faults import Faults, fault
from edgekit.bundle.manifest import Manifest
from edgekit.bundle.ranges import Label, Name, Share, Text, Token

_NESTED = 32  # objects and lists in each other, at most
_Error = Annotated[float, msgspec.Meta(ge=0)]


class _Told(msgspec.Struct):
    """What is stored of an answer."""

    text: Text | msgspec.UnsetType = msgspec.UNSET
    tokens: tuple[Token, ...] | msgspec.UnsetType = msgspec.UNSET
    then: Token | None = None


class _Golden(_Told):
    """A clip's entry."""

    clip: Name | None = None
    language: Name | None = None
    cheapest: _Told | msgspec.UnsetType = msgspec.UNSET
    spoken: int | msgspec.UnsetType = msgspec.UNSET


class _Compared(msgspec.Struct):
    compared_with: Name = msgspec.field(default="itself", name="with")
    why: Name | None = None
    distance: dict[Name, _Error] = {}


class _Waiver(msgspec.Struct):
    reason: Text
    broken: Any = msgspec.field(name="for")


class _Results(msgspec.Struct):
    goldens: dict[Label, _Golden] = {}
    compared: _Compared = msgspec.field(default_factory=_Compared)
    judged: dict[Name, str] = {}
    levels: dict[Name, Share] = {}
    waiver: _Waiver | msgspec.UnsetType = msgspec.UNSET


class _Recipe(msgspec.Struct):
    limits: dict[Name, _Error] = {}
    quantize: dict[Name, Any] = {}
    int4: dict[Name, Any] = {}


def result_faults(manifest: Manifest) -> Faults:
    """Yield what in the recipe, or among the results of an export, is not what its readers take it for."""
    for name, value, kind in (("recipe", manifest.recipe, _Recipe), ("verification", manifest.verification, _Results)):
        if _depth(value) > _NESTED:
            yield fault(name, f"is nested more than {_NESTED} deep")
            return
        try:
            read = msgspec.convert(value, kind)
        except msgspec.ValidationError as error:  # whose path begins with the object
            at = str(error)
            yield at.replace("`$", f"`$.{name}") if "`$" in at else fault(name, at)
            return
        if isinstance(read, _Results):
            yield from _golden_faults(manifest, read)


def _golden_faults(manifest: Manifest, results: _Results) -> Faults:
    """Yield goldens that cannot be fed again."""
    backbone = manifest.components["backbone"]
    rows = manifest.embedding.weight.shape[0]
    columns = next((spec.shape[-1] for spec in backbone.outputs if spec.name == "logits" and spec.shape), rows)
    most = min(rows, columns) if isinstance(columns, int) else rows
    unset, context = msgspec.UNSET, manifest.protocol.context_tokens
    for name, golden in results.goldens.items():
        answers = [golden, *([] if golden.cheapest is unset else [golden.cheapest])]
        if any(answer.tokens is unset for answer in answers[1:]) or (
            golden.tokens is unset and golden.spoken is not unset
        ):
            yield fault("verification.goldens", f"'{name}' has no tokens")
        if any(answer.text is unset and answer.tokens is not unset for answer in answers):
            yield fault("verification.goldens", f"'{name}' has tokens and no text")
        for answer in answers:
            tokens = [*(answer.tokens or ()), *([] if answer.then is None else [answer.then])]
            if wrong := [token for token in tokens if token >= most]:
                yield fault("verification.goldens", f"'{name}' has token {wrong[0]}, the bundle has {most}")
            if len(tokens) > context:
                yield fault("verification.goldens", f"'{name}' has {len(tokens)} tokens, the context has {context}")


def _depth(value: object) -> int:
    """Return how deep objects and lists stand in each other, without going deep oneself."""
    depth, inside = 0, [value]
    while inside := [
        one
        for outer in inside
        if isinstance(outer, (dict, list))
        for one in (outer.values() if isinstance(outer, dict) else outer)
        if isinstance(one, (dict, list))
    ]:
        depth += 1
    return depth
