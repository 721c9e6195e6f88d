"""Ranges: what a single value of a manifest may be. What values must be together is said in ``checks``.

Upper bounds are far beyond every model that is known, and low enough that nothing is allocated, or waited for, without
end. A sampling's are those of a user's own, too.
"""

from collections.abc import Callable, Mapping
from typing import Annotated

import msgspec

from edgekit.rates import HIGHEST_HZ, LOWEST_HZ

MOST_BYTES = 1 << 48  # of one file
MOST_STATE_BYTES = 1 << 38  # that a stream's components are handed from call to call, together
MOST_FRAMES = 1 << 22  # 11 hours of 10 ms
MOST_TOKENS = 1 << 24  # of a vocabulary
LONGEST_CONTEXT = 1 << 30
DTYPES = {"float32": 4, "float16": 2, "int64": 8, "int32": 4, "int16": 2, "int8": 1, "uint8": 1, "bool": 1}
"""What numbers of a bundle may be, as numpy calls them, and the bytes of each."""
RANKS, LARGEST_SIZE = 8, 1 << 40

_ONE_LINE = r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]*\Z"  # a message that quotes it stays a line, and moves no cursor
_VERSION, _SHA256 = r"^\d{1,9}(\.\d{1,9}){0,7}[0-9A-Za-z.+-]{0,32}\Z", r"^[0-9a-f]{64}\Z"
IN_WORDS: Mapping[str, str] = {_ONE_LINE: "of one line", _VERSION: "that is a version", _SHA256: "of 64 hex digits"}
"""What a text that matches a pattern is, for messages."""
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=1024, pattern=_ONE_LINE)]
Label = Annotated[str, msgspec.Meta(max_length=1024, pattern=_ONE_LINE)]
Text = Annotated[str, msgspec.Meta(max_length=1 << 20)]
Mark = Annotated[str, msgspec.Meta(min_length=1, max_length=1 << 20)]
Version = Annotated[str, msgspec.Meta(pattern=_VERSION)]
Sha256 = Annotated[str, msgspec.Meta(pattern=_SHA256)]
Rate = Annotated[int, msgspec.Meta(ge=LOWEST_HZ, le=HIGHEST_HZ)]
Bytes = Annotated[int, msgspec.Meta(ge=0, le=MOST_BYTES)]
Size = Annotated[int, msgspec.Meta(ge=1, le=LARGEST_SIZE)]
Frames = Annotated[int, msgspec.Meta(ge=0, le=MOST_FRAMES)]
SomeFrames = Annotated[int, msgspec.Meta(ge=1, le=MOST_FRAMES)]
Token = Annotated[int, msgspec.Meta(ge=0, lt=MOST_TOKENS)]
SomeTokens = Annotated[int, msgspec.Meta(ge=1, le=LONGEST_CONTEXT)]
Few = Annotated[int, msgspec.Meta(ge=1, le=4096)]
Index = Annotated[int, msgspec.Meta(ge=0, lt=4096)]
Repeats = Annotated[int, msgspec.Meta(ge=2, le=MOST_TOKENS)]
Milliseconds = Annotated[int, msgspec.Meta(ge=0, le=600_000)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1000)]
Positive = Annotated[float, msgspec.Meta(gt=0, le=1e6)]
Finite = Annotated[float, msgspec.Meta(ge=-1e6, le=1e6)]

LOWEST_TEMPERATURE = 0.001  # below it weights overflow or all but one are 0, which is what 0 is for
LOWEST_PENALTY = 0.001  # logits are divided by it
SAMPLING: Mapping[str, tuple[type, Callable[[float], bool], str]] = {
    "temperature": (float, lambda value: value == 0 or value >= LOWEST_TEMPERATURE, "0, or 0.001 or more"),
    "top_k": (int, lambda value: value >= 1, "1 or more"),
    "top_p": (float, lambda value: 0 < value <= 1, "more than 0, up to 1"),
    "repetition_penalty": (float, lambda value: value >= LOWEST_PENALTY, "more than 0, at least 0.001"),
    "no_repeat_ngram_size": (int, lambda value: value >= 0, "0 or more"),
}
"""Of each field of a sampling: what it is, whether a value fits, and the rule in words."""
