"""What drives the backbone of a bundle, by the way in which that attends to sound."""

from collections.abc import Mapping

from edgekit.bundle import TokenProtocol
from edgekit.runtime.answer.cross import CrossAnswerer
from edgekit.runtime.answer.prefix import PrefixAnswerer

ANSWERERS: Mapping[str, type[CrossAnswerer] | type[PrefixAnswerer]] = {
    "cross": CrossAnswerer,
    "prefix": PrefixAnswerer,
}


def converses(protocol: TokenProtocol) -> bool:
    """Return whether answers are replies; else they are what was said, of which drafts can be written; see Answerer."""
    return ANSWERERS[protocol.attention].converses
