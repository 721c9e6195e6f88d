"""Graphs of Qwen3-Omni's ears and voice, built from the tiny weights and called as a stream calls them."""

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from edgekit.bundle import Grid, Precision
from edgekit.exporter.families.qwen3_omni.code2wav import Code2Wav
from edgekit.exporter.families.qwen3_omni.ears import Qwen3OmniEars
from edgekit.recipe import GridSettings
from edgekit.runtime.backends.ort import OrtEngine
from tests.exporter.graphs import split
from tests.exporter.parts import Array, engine
from tests.reference import omni_audio

EARS = Qwen3OmniEars(omni_audio.EARS)
VOICE = Code2Wav(omni_audio.VOICE)
BLOCK, SEGMENT = EARS.grid(GridSettings(mode="exact")), EARS.grid(GridSettings(mode="chunked"))


class Hearing:
    """Encoder and adapter of some ears."""

    def __init__(
        self, folder: Path, ears: Qwen3OmniEars, weights: Mapping[str, Array], kind: Precision, dialect: str
    ) -> None:
        self.encoder, self.adapter = (
            engine(folder, part, lambda g, w, part=part: ears.build(part, g, w), weights, kind, dialect=dialect)
            for part in ("encoder", "adapter")
        )

    def hear(self, mel: Array, grid: Grid) -> Array:
        """Return embeddings of features (mel_bins, frames), called as the grid says."""
        call, adapter, start, heard = self.encoder.bind({}), self.adapter.bind({}), 0, []
        for part in split(mel.shape[1], [grid.chunk_frames]):
            frames = call.run({"mel": np.ascontiguousarray(mel[:, part]), "start": np.array([start])})["frames"]
            start += len(frames)
            assert len(frames) == grid.positions(part.stop - part.start)
            heard.append(adapter.run({"frames": frames})["embeds"])
        return np.concatenate(heard)


def hearing(
    folder: Path,
    kind: Precision = "float32",
    weights: Mapping[str, Array] | None = None,
    dialect: str = "ort-cpu",
) -> Hearing:
    """Return the tiny ears in one precision."""
    return Hearing(folder, EARS, omni_audio.ears_weights() if weights is None else weights, kind, dialect)


def voice(
    folder: Path,
    kind: Precision = "float32",
    weights: Mapping[str, Array] | None = None,
    dialect: str = "ort-cpu",
) -> OrtEngine:
    """Return the tiny decoder in one precision."""
    tensors = omni_audio.voice_weights() if weights is None else weights
    return engine(folder, "decoder", partial(VOICE.build, "decoder"), tensors, kind, dialect=dialect)


def speak(decoder: OrtEngine, codes: np.ndarray, sizes: Iterable[int]) -> list[Array]:
    """Return the samples of each call on codes (frames, codebooks), fed by ``sizes`` frames; see ``graphs.split``."""
    call, spoken = decoder.bind({}), []
    for part in split(len(codes), sizes):
        found = call.run({"codes": np.ascontiguousarray(codes[part]), "start": np.array([part.start])})
        spoken.append(found["samples"][int(found["lead"][0]) if "lead" in found else 0 :])
    return spoken
