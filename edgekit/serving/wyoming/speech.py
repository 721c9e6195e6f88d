"""Speech: what a stream says, as the events of Wyoming: audio-start, audio-chunk ..., audio-stop."""

import logging
from collections.abc import AsyncIterator

import numpy as np
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.event import Event as Message

from edgekit.errors import RefusedError
from edgekit.runtime.events import Audio, AudioCut
from edgekit.serving.reading import Reader

_WIDTH, _FULL_SCALE = 2, 32_767
_log = logging.getLogger(__name__)


async def spoken(reader: Reader, name: str) -> AsyncIterator[Message]:
    """Yield the sound of a stream to its end; ``name`` is for the log. Raises RefusedError where none came of it."""
    rate = 0
    async for event in reader:
        if isinstance(event, AudioCut):
            _log.warning("%s: the end of a spoken text is missing (%s)", name, event.reason)
        if isinstance(event, Audio) and len(event.samples):
            if not rate:
                rate = event.sample_rate_hz
                yield AudioStart(rate, _WIDTH, 1).event()
            samples = (event.samples.clip(-1, 1) * _FULL_SCALE).round().astype("<i2")
            yield AudioChunk(rate, _WIDTH, 1, np.ascontiguousarray(samples).tobytes()).event()
    ended = reader.ended
    assert ended is not None
    if ended.error or ended.reason not in {"finished", "stopping"} or not rate:
        raise RefusedError(
            "finished" if not ended.error and not rate else ended.reason,
            ended.error or f"synthesize: no sound came of it ({ended.reason}); send another text",
        )
    yield AudioStop().event()
