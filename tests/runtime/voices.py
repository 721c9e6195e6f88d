"""A voice for tiny bundles: the real Talker on engines of plain numpy, which reads along as its backbone is told."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import numpy as np

from edgekit.bundle import Sampling, Speech, SpeechFormat, Struct, speech
from edgekit.runtime import speak
from edgekit.runtime.answer.text import load_tokenizer
from edgekit.runtime.events import Audio, Event
from edgekit.runtime.model import Model
from edgekit.runtime.speak import SpeakerSetting, SpeechKind
from edgekit.runtime.speak.frames import TalkerOptions
from edgekit.runtime.speak.talker import Talker
from tests.runtime.conftest import VOCABULARY, WIDTH, special
from tests.runtime.streams import roomy
from tests.runtime.talkers import SPEECH, TALKER_WIDTH, Maths

TURNS = {
    "again": "<stop>", "turn": "<start>{role}{text}<stop>", "roles": {"user": "u", "tool": "t"}, "max_tokens": 6,
}  # fmt: skip
SPOKEN = TURNS | {
    "opening": "<start>s{system}",
    "before": "<start>u<sound>",
    "reply": "<start>am",
    "roles": {"user": "u"},
}


class ReadingSpeech(Struct, Speech, frozen=True, tag_field="kind", tag="reading"):
    """No file of its own: the talker's numbers are drawn by ``seed``. ``frames``: of the longest answer;
    ``context``: of its KV.
    """

    seed: int = 1
    frames: int = 12
    context: int = 400
    temperature: float = 0.0

    def files(self) -> tuple[str, ...]:
        """Return none."""
        return ()


class _Maths(Maths):
    """A Talker's engines for the tiny bundle's backbone."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        draw = np.random.default_rng([seed, 1])
        self.text = draw.standard_normal((VOCABULARY, WIDTH)).astype(np.float32)
        self._read, self._heard = draw.standard_normal((2, WIDTH, TALKER_WIDTH)).astype(np.float32)


def _open(found: ReadingSpeech, setting: SpeakerSetting) -> Talker:
    maths = _Maths(found.seed)
    ids = {name: _id_of(setting, letter) for name, letter in {"system": "s", "user": "u", "assistant": "a"}.items()}
    described = msgspec.structs.replace(
        SPEECH, turn_start=special("<start>"), roles=ids, max_frames=found.frames, context_frames=found.context
    )
    warm = Sampling(temperature=found.temperature) if found.temperature else None
    options = TalkerOptions(seed=setting.seed, talker_sampling=warm, code_sampling=warm)
    return Talker(described, maths.engines(), maths.tables(), setting.trace, options)


def _id_of(setting: SpeakerSetting, letter: str) -> int:
    """Return the token of one letter."""
    (token,) = load_tokenizer(setting.bundle).encode(letter)
    return token


@contextmanager
def reading() -> Iterator[None]:
    """Let bundles speak so, within a ``with`` block."""
    kind = SpeechKind(name="reading", components=("adapter",), open=_open)
    with speech.registered(SpeechFormat(ReadingSpeech)), speak.registered(kind):
        yield


def conversing(load: Callable[..., Model], context: int = 240, **fields: Any) -> Model:
    """Return a prefix bundle whose protocol has turns."""
    protocol = msgspec.structs.replace(load("prefix", **roomy(context)).manifest.protocol, **(TURNS | fields))
    return load("prefix", protocol=protocol)


def speaking(load: Callable[..., Model], context: int = 240, said: Speech | None = None, **fields: Any) -> Model:
    """Return one that speaks too; within ``reading``."""
    protocol = msgspec.structs.replace(load("prefix", **roomy(context)).manifest.protocol, **(SPOKEN | fields))
    return load("prefix", writes_hidden=True, speech=said or ReadingSpeech(), protocol=protocol)


def sound_in(events: list[Event], answer: int | None = None) -> np.ndarray:
    """Return the samples of all Audio, or of one answer's."""
    pieces = [one.samples for one in events if isinstance(one, Audio) and answer in (None, one.answer)]
    return np.concatenate([np.zeros(0, np.float32), *pieces])
