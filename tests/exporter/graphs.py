"""Call the graphs of a float bundle as a stream does: the encoder window by window, the backbone with its cache."""

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekit.bundle import open_bundle
from edgekit.exporter.export import ExportOptions, export
from edgekit.runtime.answer.embedding import TokenTable
from edgekit.runtime.backends.ort import load_component
from tests.reference import checkpoints
from tests.reference.goldens import Sound

Array = NDArray[np.float32]
CONTEXT_TOKENS = 128
STANDARD, ORT_CUDA = (str(Path(__file__).parent / f"{name}.toml") for name in ("standard", "ort-cuda"))


class Graphs:
    """The three components of one tiny checkpoint, exported in float32 and loaded on onnxruntime.

    ``chunk_positions`` 0 asks for the published window; ``target`` is what they are exported for. The recipe
    names no check clips: nothing but graphs is tested.
    """

    def __init__(self, folder: Path, name: str, chunk_positions: int, target: str = "cpu") -> None:
        self.checkpoint = checkpoints.write(folder / "checkpoint", name)
        recipe = folder / "recipe.toml"
        grid = f'mode = "chunked"\nchunk_ms = {20 * chunk_positions}' if chunk_positions else 'mode = "exact"'
        recipe.write_text(f'name = "{name}"\n[grid]\n{grid}\n', encoding="utf-8")
        export(self.checkpoint, folder / "bundle", ExportOptions(recipe=recipe, precision="float32", target=target))
        bundle = open_bundle(folder / "bundle")
        self.manifest = bundle.manifest
        self.table = TokenTable(bundle)
        self.engines = {part: load_component(bundle, part, 1) for part in self.manifest.components}

    def encode(self, mel: Array) -> list[Array]:
        """Return the encoder's answer to each window that the grid cuts out of features (mel_bins, frames)."""
        call, start = self.engines["encoder"].bind({}), 0
        answers = []
        for window, positions, last in self._windows(mel):
            inputs = {"mel": window, "start": np.array([start])}
            start += positions
            if self.manifest.grid.masks_last_position:
                inputs["valid"] = np.array([start - last])
            kept = self.manifest.grid.kept_frames(positions, start, last=last)
            answers.append(call.run(inputs)["frames"][:kept])
        return answers

    def adapt(self, frames: Iterable[Array]) -> Array:
        """Return what the adapter makes of one utterance: cross-KV, or embeddings."""
        call = self.engines["adapter"].bind({})
        (name,) = (spec.name for spec in self.manifest.components["adapter"].outputs if spec.state == "none")
        parts = [call.run({"frames": part})[name] for part in frames if len(part)]
        if not parts:
            return np.zeros((0, self.table.width), np.float32)
        return np.concatenate(parts, axis=2 if name == "cross" else 0)

    def _windows(self, mel: Array) -> Iterator[tuple[Array, int, bool]]:
        """Yield mel with its context (zeros outside the sound), its positions, and whether it is the last."""
        grid, frames = self.manifest.grid, mel.shape[1]
        chunk = grid.chunk_frames
        padded = np.pad(mel, ((0, 0), (grid.left_frames, grid.right_frames)))
        for first in range(0, frames, chunk):
            count = min(chunk, frames - first)
            window = padded[:, first : first + grid.left_frames + count + grid.right_frames]
            yield np.ascontiguousarray(window), -(-count // grid.frames_per_position), first + count == frames


class Writer:
    """One KV cache of the backbone, and the sound it attends to."""

    def __init__(self, graphs: Graphs, experts_per_token: int | None, cross: Array | None = None) -> None:
        engine = graphs.engines["backbone"]
        self._call = engine.bind({"context": CONTEXT_TOKENS})
        self._fixed: dict[str, np.ndarray] = {}
        if any(spec.name == "experts_per_token" for spec in engine.component.inputs):
            self._fixed["experts_per_token"] = np.array([experts_per_token])
        if cross is not None:
            self._fixed |= {f"cross.{row}": np.ascontiguousarray(cross[row][None]) for row in range(len(cross))}
        self.tokens = 0

    def logits(self, embeds: Array, rows: Iterable[int]) -> Array:
        """Append rows (n, hidden) to the cache; return logits (rows, vocabulary) of the asked ones among them."""
        inputs = {"embeds": embeds, "start": np.array([self.tokens]), "logit_rows": np.array(list(rows), np.int64)}
        self.tokens += len(embeds)
        return self._call.run(inputs | self._fixed)["logits"]

    def greedy(self, prompt: Array, count: int, embed: Callable[[list[int]], Array]) -> list[int]:
        """Return ``count`` greedy tokens after the prompt."""
        tokens = [int(self.logits(prompt, [len(prompt) - 1]).argmax())]
        while len(tokens) < count:
            tokens.append(int(self.logits(embed(tokens[-1:]), [0]).argmax()))
        return tokens


def split(total: int, sizes: Iterable[int]) -> list[slice]:
    """Return slices of ``sizes`` rows, the last size repeated as long as rows are left; 0 stands for all the rest."""
    slices, first, sizes = [], 0, list(sizes)
    while first < total:
        size = (sizes.pop(0) if len(sizes) > 1 else sizes[0]) or total
        slices.append(slice(first, min(first + size, total)))
        first = slices[-1].stop
    return slices


def exported(folder: Path, target: str = "cpu") -> Callable[[str, Sound], Graphs]:
    """Return a function from a checkpoint's name and a sound to the Graphs for its chunk, each made once."""

    @cache
    def made(name: str, chunk_positions: int) -> Graphs:
        return Graphs(folder / f"{name}-{chunk_positions}", name, chunk_positions, target)

    return lambda name, sound: made(name, sound.chunk_positions)
