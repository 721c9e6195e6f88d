"""SpeakerSetting: what any Speaker of a stream is made of."""

from collections.abc import Mapping
from dataclasses import dataclass

from edgekit.bundle import Bundle
from edgekit.runtime.answer.embedding import TokenTable
from edgekit.runtime.engine import Engine
from edgekit.timing import Trace


@dataclass(frozen=True, slots=True)
class SpeakerSetting:
    """The bundle, its engines and the backbone's token table; who speaks, as a voice of the bundle's, and for its draws
    a seed. ``voice`` None: the bundle's own choice.
    """

    bundle: Bundle
    engines: Mapping[str, Engine]
    table: TokenTable
    trace: Trace
    voice: str | None = None
    seed: int = 0
