"""What every dialect says about a call: where it stands in its cache or stream, how it attends, what it asks."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Steps:
    """Where a call stands in its cache: names of int64 ``start`` and ``total`` (1,), and of what else a dialect needs.

    ``last`` and ``total_scalar`` are the int32 forms of onnxruntime's op; ``places`` int64 (S,) are the positions of
    the new rows, where shapes may not depend on values.
    """

    start: str
    total: str
    last: str = ""
    total_scalar: str = ""
    places: str = ""


@dataclass(frozen=True, slots=True)
class Routing:
    """Which experts the rows (S, ...) of a call go to.

    ``mix`` (S, experts), >= 0, holds each expert's weight, 0 for those not chosen; ``places`` (S, chosen) are the
    chosen ones; ``logits`` (S, experts) only rank them.
    """

    logits: str
    places: str
    mix: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """Sizes of an attention over a cache; ``bias`` (1, 1, S, T) is added to the scores, ``rotary`` are cos and sin."""

    heads: int
    kv_heads: int
    head_dim: int
    capacity: int | str
    causal: bool
    rotary: tuple[str, str] | None = None
    bias: str = ""


@dataclass(frozen=True, slots=True)
class SlidingWindow:
    """A call's place in sliding attention: a row sees itself and the ``past`` rows before it.

    Names of rotary tables ``cos`` and ``sin`` (past + S, head_dim / 2) and of the mask ``bias`` (1, 1, S, past + S).
    """

    past: int
    cos: str
    sin: str
    bias: str
