"""Listener: sound of one utterance to what the backbone hears of it, chunk by chunk on the bundle's Grid.

Knows log-mel, encoder and adapter and their state; knows nothing of when an utterance begins or ends, nor of text.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from edgekit.bundle import Floor, FrontEnd, Grid
from edgekit.errors import BackendError
from edgekit.runtime.engine import Array, Engine
from edgekit.runtime.hear.features import LogMel, LogMelMark, MelChunk
from edgekit.spans import ADAPTER, ENCODER, FEATURES
from edgekit.timing import Trace


@dataclass(frozen=True, slots=True, eq=False)
class ListenerMark:
    """Where a Listener stood: log-mel, ``carried`` state, and positions, by whose number in-place caches go back."""

    piece: int
    mel: LogMelMark
    encoder: Mapping[str, Array]
    adapter: Mapping[str, Array]
    start: int
    frames: int


class Listener:
    """One stream's front half. A piece of sound starts with the first push, or the first after ``finish``.

    The one loop that runs an encoder: a measurement or a check of encoder calls hands in an engine that watches them.
    Without an adapter what is yielded is the encoder's own frames. ``floor``: see LogMel; with ``clip`` all work of a
    piece is done when it is finished.
    """

    def __init__(
        self,
        front_end: FrontEnd,
        grid: Grid,
        encoder: Engine,
        adapter: Engine | None,
        trace: Trace,
        *,
        floor: Floor = "running",
    ) -> None:
        self.frames_computed = 0
        self._trace, self._grid = trace, grid
        self._hop = front_end.hop_samples
        self._mel = LogMel(front_end, grid, floor)
        self._encoder_graph = encoder.component.graph
        self._encoder, self._adapter = encoder.bind({}), adapter.bind({}) if adapter else None
        self._heard = ""
        if adapter:
            (self._heard,) = (spec.name for spec in adapter.component.outputs if spec.state == "none")
        self._start, self._valid = np.zeros(1, np.int64), np.zeros(1, np.int64)
        self._chunk_start = self._frames = 0  # mel frames encoded of this piece, before and with the last chunk
        self._piece = 0  # number of those begun

    def mark(self) -> "ListenerMark":
        """Return where the piece stands; see ``back``."""
        return ListenerMark(
            self._piece, self._mel.mark(), self._encoder.save(), self._adapter.save() if self._adapter else {},
            int(self._start[0]), self._frames,
        )  # fmt: skip

    def back(self, mark: "ListenerMark") -> None:
        """Forget what was heard or finished since the mark; ``frames_computed`` counts work and stays.

        No other piece may have begun since, which writes over in-place caches from their first position on.
        """
        assert mark.piece == self._piece or not mark.start, "a mark dies with its piece"
        self._mel.back(mark.mel)
        self._encoder.load(mark.encoder)
        if self._adapter:
            self._adapter.load(mark.adapter)
        self._start[0], self._frames = mark.start, mark.frames

    @property
    def room_samples(self) -> int:
        """Samples that this piece still takes; it must be finished when there are none."""
        return self._mel.room_samples

    @property
    def chunk_samples(self) -> tuple[int, int]:
        """Bounds of the chunk just yielded, in samples since the piece's first; the last may lie in added silence."""
        return self._chunk_start * self._hop, self._frames * self._hop

    def push(self, samples: Array) -> Iterator[Array]:
        """Yield an adapter output per chunk that ``samples``, (n,) at the front end's rate, complete. Take them all."""
        with self._trace.span(FEATURES, len(samples)):
            chunks = self._mel.push(samples)
        yield from self._encode(chunks)

    def finish(self) -> Iterator[Array]:
        """Yield the outputs of the rest of the piece, silence at its end included, and be ready for the next."""
        with self._trace.span(FEATURES, 0):
            chunks = self._mel.finish()
        yield from self._encode(chunks)
        self._encoder.reset()
        if self._adapter:
            self._adapter.reset()
        self._start[0] = self._chunk_start = self._frames = 0

    def _encode(self, chunks: Iterable[MelChunk]) -> Iterator[Array]:
        for chunk in chunks:
            positions = self._grid.positions(chunk.frames)
            inputs: dict[str, Array] = {"mel": chunk.mel, "start": self._start}
            if self._grid.masks_last_position:
                self._valid[0] = self._start[0] + positions - chunk.last
                inputs["valid"] = self._valid
            self._piece += not self._start[0]
            with self._trace.span(ENCODER, positions):
                frames = self._encoder.run(inputs)["frames"]
            self._start += positions
            kept = self._grid.kept_frames(positions, int(self._start[0]), last=chunk.last)
            if not kept <= len(frames) <= positions:
                raise BackendError(
                    f"{self._encoder_graph}: made {len(frames)} frames of {chunk.frames} mel frames, the manifest's "
                    f"grid has {kept}; run `edgekit verify` on the bundle"
                )
            frames = frames[:kept]
            self._chunk_start, self._frames = self._frames, self._frames + chunk.frames
            self.frames_computed += chunk.frames
            if not len(frames):  # a last chunk of one masked position has none
                continue
            if self._adapter is None:
                yield frames
                continue
            with self._trace.span(ADAPTER, len(frames)):
                heard = self._adapter.run({"frames": frames})[self._heard]
            yield heard
