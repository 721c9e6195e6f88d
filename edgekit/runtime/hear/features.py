"""Streaming log-mel: samples in, encoder-sized chunks of normalised mel frames out.

Knows Whisper's front end (STFT, Slaney mel, log10, floor) and the Grid that cuts it into chunks. Does not know speech
from silence, and does not resample. Every split of the same samples gives the same bits: STFT frames are computed in
batches that start and end at fixed frame numbers, so matrix products always see the same shapes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekit.bundle.checks import front_end_fault
from edgekit.bundle.manifest import Floor, FrontEnd, Grid
from edgekit.errors import BundleFormatError, UsageError

Samples = NDArray[np.float32]
Mel = NDArray[np.float32]

_BATCH_FRAMES = 64
# Larger matrix products go to several threads, which wait for each other. Measured with OpenBLAS 0.3.31 on two busy
# cores: 1.03 million multiplications took 10 ms on two threads, 0.15 ms on one; 0.51 million stayed on one.
_ONE_THREAD_PRODUCTS = 1 << 18
_SMALLEST_POWER = np.float32(1e-10)  # Whisper, audio.py: clamp before the logarithm


@dataclass(frozen=True, slots=True, eq=False)
class MelChunk:
    """The input of one encoder call.

    ``mel``: (mel_bins, left + frames + right) float32, C-contiguous, normalised; columns outside the utterance are 0.0.
    ``frames``: mel frames of this chunk's own, fewer than ``grid.chunk_frames`` only in the last. ``last``: the
    utterance ends here.
    """

    mel: Mel
    frames: int
    last: bool


@dataclass(frozen=True, slots=True, eq=False)
class LogMelMark:
    """Where a LogMel stood: its counters, and copies of what it carries."""

    pushed_samples: int
    done_frames: int
    chunk: int
    peak: np.float32
    filled: int
    columns: Mel
    carry: Samples
    held: tuple[MelChunk, ...]


def mel_filters(bins: int, n_fft: int, rate: int, top_hz: float | None = None) -> NDArray[np.float32]:
    """Return triangular Slaney mel filters, (bins, n_fft // 2 + 1) float32, each of unit area in Hz, 0 Hz to the top.

    ``top_hz``: rate / 2 if not given.

    The scale is linear below 1000 Hz (200/3 Hz per mel) and logarithmic above (6.4 per 27 mels). Source: M. Slaney,
    Auditory Toolbox, 1998.
    """
    end = top_hz or rate / 2
    top = 15.0 + 27.0 * np.log(end / 1000.0) / np.log(6.4) if end > 1000 else end * 3 / 200.0
    mels = np.linspace(0.0, top, bins + 2)
    edges = np.where(mels < 15.0, mels * 200.0 / 3, 1000.0 * np.exp(np.log(6.4) / 27.0 * (mels - 15.0)))
    hertz = np.linspace(0.0, rate / 2, n_fft // 2 + 1)
    rising = (hertz - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - hertz) / np.diff(edges)[1:, None]
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    return (triangles * (2.0 / (edges[2:] - edges[:-2]))[:, None]).astype(np.float32)


def log_mel(samples: Samples, front_end: FrontEnd, grid: Grid, floor: Floor = "running") -> Mel:
    """Return all normalised frames of one utterance, (mel_bins, frames) float32; ``samples``: (n,) in [-1, 1]."""
    stream = LogMel(front_end, grid, floor)
    chunks = [*stream.push(samples), *stream.finish()]
    columns = [chunk.mel[:, grid.left_frames : grid.left_frames + chunk.frames] for chunk in chunks]
    return np.concatenate([np.zeros((front_end.mel_bins, 0), np.float32), *columns], axis=1)


class LogMel:
    """Log-mel of one utterance at a time.

    floor: below what maximum values are lifted. ``running``: of the frames so far, those of a chunk's right context
    included; each chunk comes at once, and memory is bounded by one batch and one chunk. ``clip``: of the whole
    utterance; all chunks come with ``finish``, and until then 4 bytes are held for each bin of each frame.

    Raises BundleFormatError if the front end's sizes do not fit together.
    """

    def __init__(self, front_end: FrontEnd, grid: Grid, floor: Floor = "running") -> None:
        if fault := front_end_fault(front_end):
            raise BundleFormatError(f"front_end: {fault}; export the bundle again")
        self._front_end, self._grid, self._floor = front_end, grid, floor
        n_fft, self._hop, self._margin = front_end.n_fft, front_end.hop_samples, front_end.n_fft // 2
        batch = max(2, min(_BATCH_FRAMES, grid.chunk_frames))
        phases = np.arange(n_fft) * (2 * np.pi / n_fft)
        self._hann = (0.5 - 0.5 * np.cos(phases)).astype(np.float32)  # periodic, as torch.hann_window
        self._filters = mel_filters(front_end.mel_bins, n_fft, front_end.sample_rate_hz)
        self._product_frames = max(1, _ONE_THREAD_PRODUCTS // self._filters.size)
        self._carry = np.zeros((batch - 1) * self._hop + n_fft, np.float32)
        self._frames = np.lib.stride_tricks.sliding_window_view(self._carry, n_fft)[:: self._hop]
        self._windowed = np.zeros((batch, n_fft), np.float32)
        self._power = np.zeros((batch, n_fft // 2 + 1), np.float32)
        self._batch = np.zeros((front_end.mel_bins, batch), np.float32)
        columns = grid.left_frames + grid.chunk_frames + grid.right_frames
        self._columns = np.zeros((front_end.mel_bins, columns), np.float32)
        self._silence: Mel | None = None
        self._silence = self._compute_batch().copy()
        self.reset()

    def reset(self) -> None:
        """Forget the utterance so far."""
        self.pushed_samples = 0
        self._total_frames: int | None = None  # known from finish() on
        self._done_frames = 0
        self._chunk = 0
        self._peak = np.float32(-np.inf)
        self._held: list[MelChunk] = []  # not normalised yet: the clip's maximum is still to come
        self._columns[:] = 0.0
        self._carry[:] = 0.0
        self._filled = self._margin  # the reflected left edge is written once its mirror image is here

    def mark(self) -> "LogMelMark":
        """Return where the utterance stands; see ``back``."""
        return LogMelMark(
            self.pushed_samples, self._done_frames, self._chunk, self._peak, self._filled, self._columns.copy(),
            self._carry.copy(), tuple(self._held),
        )  # fmt: skip

    def back(self, mark: "LogMelMark") -> None:
        """Forget what was pushed or finished since the mark."""
        self.pushed_samples, self._done_frames, self._chunk = mark.pushed_samples, mark.done_frames, mark.chunk
        self._peak, self._filled = mark.peak, mark.filled
        self._columns[:], self._carry[:], self._held = mark.columns, mark.carry, list(mark.held)

    @property
    def room_samples(self) -> int:
        """Samples that still fit into this utterance without any of its right padding being cut."""
        limit = self._grid.max_frames * self._hop
        if self._front_end.right_pad_samples:
            limit += self._hop - 1 - self._front_end.right_pad_samples
        return limit - self.pushed_samples

    def push(self, samples: Samples) -> list[MelChunk]:
        """Return the chunks that ``samples`` ((n,) float32 in [-1, 1]) complete; none with the floor ``clip``.

        Raises UsageError if the utterance grows beyond ``grid.max_frames``: finish it and start the next.
        """
        samples = np.asarray(samples, np.float32)
        if samples.ndim != 1:
            raise UsageError(f"samples: shape {samples.shape}, mono (n,) is needed; average the channels first")
        limit = self._grid.max_frames * self._hop
        if self.pushed_samples + samples.size > limit:
            raise UsageError(
                f"utterance: {self.pushed_samples + samples.size} samples, at most {limit} fit; push no more than "
                "room_samples, then finish"
            )
        self.pushed_samples += samples.size
        chunks = self._feed(samples)
        if self._floor == "running":
            return chunks
        self._held += chunks
        return []

    def finish(self) -> list[MelChunk]:
        """Return the remaining chunks, the last marked so, and start afresh; nothing if no sample was pushed."""
        total = self._frames_of(self.pushed_samples)
        chunks: list[MelChunk] = []
        if total:
            self._total_frames = total
            piece = max(self.pushed_samples + self._front_end.right_pad_samples, total * self._hop)
            silence = np.zeros(self._carry.size, np.float32)
            for start in range(self.pushed_samples, piece, silence.size):
                chunks += self._feed(silence[: piece - start])
            beyond = self._margin - self._hop + 1
            if self._front_end.edge == "reflect" and self._done_frames < total:
                mirror = self._carry[self._filled - 1 - beyond : self._filled - 1]
                chunks += self._feed(mirror[::-1].copy())
            else:
                chunks += self._feed(silence[:beyond])
            while (
                self._chunk * self._grid.chunk_frames < total
            ):  # its frames were all some earlier chunk's right context
                chunks.append(self._close_group())
            if self._floor == "clip":
                chunks = [self._below_peak(index, chunk) for index, chunk in enumerate((*self._held, *chunks))]
        self.reset()
        return chunks

    def _frames_of(self, samples: int) -> int:
        """Return the frames of an utterance of so many samples, silence at its end and padding included."""
        if samples == 0:
            return 0
        if self._front_end.right_pad_samples or self._front_end.whole_hops:
            base = (samples + self._front_end.right_pad_samples) // self._hop
        else:
            base = -(-samples // self._hop)
        multiple = self._grid.pad_to_frames
        return min(-(-(base + self._grid.tail_frames) // multiple) * multiple, self._grid.max_frames)

    def _feed(self, samples: Samples) -> list[MelChunk]:
        chunks = []
        while samples.size and self._done_frames != self._total_frames:
            taken = samples[: self._carry.size - self._filled]
            self._carry[self._filled : self._filled + taken.size] = taken
            self._filled += taken.size
            samples = samples[taken.size :]
            while self._take_batch():
                if self._done_frames == self._group_end():
                    chunks.append(self._close_group())
        return chunks

    def _group_end(self) -> int:
        end = (self._chunk + 1) * self._grid.chunk_frames + self._grid.right_frames
        return end if self._total_frames is None else min(end, self._total_frames)

    def _take_batch(self) -> bool:
        """Compute the next batch of the current group if its samples are here; say whether it was."""
        count = min(self._batch.shape[1], self._group_end() - self._done_frames)
        first = self._done_frames == 0  # the left mirror needs one sample more than frame 0 spans
        needed = max((count - 1) * self._hop, int(first)) + self._front_end.n_fft
        if count == 0 or self._filled < needed:
            return False
        if first:
            self._carry[: self._margin] = self._carry[self._margin + 1 : 2 * self._margin + 1][::-1]
        start = self._grid.left_frames + self._done_frames - self._chunk * self._grid.chunk_frames
        self._columns[:, start : start + count] = self._compute_batch()[:, :count]
        self._done_frames += count
        kept = self._filled - count * self._hop
        self._carry[:kept] = self._carry[count * self._hop : self._filled].copy()
        self._carry[kept:] = 0.0
        self._filled = kept
        return True

    def _compute_batch(self) -> Mel:
        """Return log10-mel of the batch in the carry, (mel_bins, batch); columns not wanted now do no harm."""
        if self._silence is not None and not self._carry.any():
            return self._silence
        np.multiply(self._frames, self._hann, out=self._windowed)
        spectrum = np.fft.rfft(self._windowed)
        self._power[:] = spectrum.real**2 + spectrum.imag**2
        for start in range(0, len(self._power), self._product_frames):
            part = slice(start, start + self._product_frames)
            self._batch[:, part] = self._filters @ self._power[part].T
        np.maximum(self._batch, _SMALLEST_POWER, out=self._batch)
        return np.log10(self._batch, out=self._batch)

    def _close_group(self) -> MelChunk:
        """Return the chunk that the group completes; where the floor is known, its frames are normalised, each once."""
        grid = self._grid
        origin = self._chunk * grid.chunk_frames - grid.left_frames
        carried = 0 if self._chunk == 0 else grid.right_frames
        group = self._columns[:, grid.left_frames + carried : self._done_frames - origin]
        if group.size:
            self._peak = np.maximum(self._peak, group.max())
        if self._floor == "running":
            self._normalise(group)
        total = self._total_frames
        left = grid.chunk_frames if total is None else total - self._chunk * grid.chunk_frames
        frames = min(grid.chunk_frames, left)
        mel = self._columns[:, : grid.left_frames + frames + grid.right_frames].copy()
        context = grid.left_frames + grid.right_frames
        self._columns[:, :context] = self._columns[:, grid.chunk_frames : grid.chunk_frames + context].copy()
        self._columns[:, context:] = 0.0
        self._chunk += 1
        return MelChunk(mel, frames, last=total is not None and left <= grid.chunk_frames)

    def _below_peak(self, index: int, chunk: MelChunk) -> MelChunk:
        """Return the utterance's chunk of this number normalised; the one given stays as it is, a mark may hold it."""
        assert self._total_frames is not None, "the clip is over"
        mel, origin = chunk.mel.copy(), index * self._grid.chunk_frames - self._grid.left_frames
        self._normalise(mel[:, max(0, -origin) : self._total_frames - origin])
        return MelChunk(mel, chunk.frames, chunk.last)

    def _normalise(self, mel: Mel) -> None:
        """Write Whisper's form of log10-mel over it: a floor below the peak, then (x + 4) / 4."""
        np.maximum(mel, self._peak - np.float32(self._front_end.dynamic_range), out=mel)
        mel += np.float32(4.0)
        mel /= np.float32(4.0)
