"""Loops: an answer that repeats itself for ever, as small models do on sound they do not understand.

Knows tokens only. People repeat words too, so a loop is several repeats of one phrase that are also long together.
"""

from collections.abc import Sequence

LONGEST_PHRASE = 24  # tokens
SHORTEST_LOOP = 12  # tokens that the repeats take together: "no, no, no" is none


def loop_start(tokens: Sequence[int], repeats: int | None) -> int | None:
    """Return how many tokens to keep if the last ones are a phrase said ``repeats`` times in a row, else None.

    The phrase is kept once. The shortest phrase that fits is meant. ``repeats`` None looks for no loop.
    """
    if repeats is None:
        return None
    for size in range(1, min(LONGEST_PHRASE, len(tokens) // repeats) + 1):
        span = size * repeats
        if span < SHORTEST_LOOP:
            span = -(-SHORTEST_LOOP // size) * size
        if span > len(tokens):
            continue
        tail = tokens[-span:]
        if all(tail[at] == tail[at % size] for at in range(size, span)):
            return len(tokens) - span + size
    return None
