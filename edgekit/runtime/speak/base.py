"""SpeechKind: all that the runtime is asked of a way of speaking.

A stranger's is one of these, registered once; see the package. Its struct in the manifest is in ``bundle/speech``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from edgekit.bundle import Sampling, TokenProtocol
from edgekit.runtime.answer.sampler import Limits
from edgekit.runtime.answer.speaker import Speaker
from edgekit.runtime.engine import Sizes
from edgekit.runtime.speak.rehearsal import Rehearsal, Spoken, say_tokens
from edgekit.runtime.speak.setting import SpeakerSetting

S = TypeVar("S")


def _nothing(_speech: Any, *_arguments: Any) -> Mapping[str, Any]:  # noqa: ANN401 - of any way of speaking
    return {}


def _nobody(_speech: Any) -> tuple[str, ...]:  # noqa: ANN401 - of any way of speaking
    return ()


def _as_written(_speech: Any, protocol: TokenProtocol) -> tuple[Limits, Sampling]:  # noqa: ANN401 - as above
    return protocol, protocol.sampling


@dataclass(frozen=True, slots=True)
class SpeechKind(Generic[S]):
    """A way of speaking; S: its struct in the manifest.

    ``name``: its kind there. ``components``: what is loaded to speak, beside what hears and writes. ``open`` makes one
    stream's Speaker. Spans of its engines are registered in its own file, see ``edgekit/spans.py``.

    What most are asked alike may be left out. ``free_sizes(speech, context_tokens)``: bounds of the free sizes of its
    components' inputs, by component. ``state_sizes(speech)``: likewise free sizes of what is handed from call to call,
    but for what depends on a voice. ``drawing(speech, protocol)``: which tokens a spoken answer may be of, and how they
    are drawn. ``voices(speech)``: who may be asked to speak, sorted. ``rehearse`` says an answer to be compared.
    """

    name: str
    components: tuple[str, ...]
    open: Callable[[S, SpeakerSetting], Speaker]
    free_sizes: Callable[[S, int], Mapping[str, Sizes]] = _nothing
    state_sizes: Callable[[S], Mapping[str, Mapping[str, int]]] = _nothing
    drawing: Callable[[S, TokenProtocol], tuple[Limits, Sampling]] = _as_written
    voices: Callable[[S], tuple[str, ...]] = _nobody
    rehearse: Callable[[S, Rehearsal], Spoken] | None = None

    def rehearsed(self, speech: S, rehearsal: Rehearsal) -> Spoken:
        """Return what is said; by default the sound of the answer's tokens."""
        if self.rehearse is not None:
            return self.rehearse(speech, rehearsal)
        return say_tokens(self.open(speech, rehearsal.setting), rehearsal)
