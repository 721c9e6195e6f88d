"""What is answered: what drives the backbone, its tokens and texts, and the speaker's protocol.

There is one Driver for each way in which a backbone attends to sound; ``driver_of`` returns a bundle's.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from edgekit.bundle import TokenProtocol
from edgekit.errors import UsageError
from edgekit.reprs import quoted
from edgekit.runtime.answer.answerer import Answerer, Setting
from edgekit.runtime.answer.cross.driver import CrossAnswerer
from edgekit.runtime.answer.prefix import PrefixAnswerer
from edgekit.runtime.answer.prompt import Asking
from edgekit.runtime.answer.speaker import Speaker

Options = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Driver:
    """What drives a backbone that attends to sound in one way.

    ``converses``: see Answerer. ``takes``: options of a stream that not every driver has; ``make`` is given these by
    name, and who speaks. ``lacks``: what is said of another's option where "has no choice of" it says too little.
    """

    converses: bool
    takes: tuple[str, ...]
    make: Callable[[Setting, Options, Speaker | None], Answerer]
    lacks: Mapping[str, str] = field(default_factory=dict)

    def options(self, requested: object) -> dict[str, Any]:
        """Return what it takes of the fields of ``requested``. Raises UsageError for an option of another driver's."""
        for name in (name for driver in DRIVERS.values() for name in driver.takes if name not in self.takes):
            if (value := getattr(requested, name)) not in {None, False}:  # 0 turns are none
                why = self.lacks.get(name, f"has no choice of {name}")
                raise UsageError(f"{name}: {quoted(value)}, this bundle {why}; leave it out")
        return {name: getattr(requested, name) for name in self.takes}


def driver_of(protocol: TokenProtocol) -> Driver:
    """Return what drives the backbone of a bundle with this protocol."""
    return DRIVERS[protocol.attention]


def _cross(setting: Setting, options: Options, _speaker: Speaker | None) -> CrossAnswerer:
    return CrossAnswerer(setting, **options)


def _prefix(setting: Setting, options: Options, speaker: Speaker | None) -> PrefixAnswerer:
    turns = None if options["turns"] == "all" else options["turns"]
    return PrefixAnswerer(setting, Asking(**{**options, "turns": turns}), speaker)


DRIVERS: Mapping[str, Driver] = {
    "cross": Driver(
        CrossAnswerer.converses,
        takes=("language", "task", "times"),
        make=_cross,
        lacks={"turns": "writes down speech and remembers no turns"},
    ),
    "prefix": Driver(
        PrefixAnswerer.converses,
        takes=("turns", "system", "prompt", "tools", "think"),
        make=_prefix,
        lacks={"times": "answers what it hears and knows no times of words"},
    ),
}
"""By the manifest's ``protocol.attention``."""
