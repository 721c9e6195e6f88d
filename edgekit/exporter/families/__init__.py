"""Families: architectures EdgeKit can recognise, cut into Components and surround with their token protocol.

Adding one is one file here and one line in ``_FAMILIES``.
"""

import difflib
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgekit.bundle import ComputeLevel, Embedding, FlowSpeech, FrontEnd, Grid, TalkerSpeech, TokenProtocol
from edgekit.errors import CheckpointError
from edgekit.exporter.families.qwen3_omni.family import Qwen3Omni
from edgekit.exporter.families.step_audio import token2wav
from edgekit.exporter.families.step_audio.family import StepAudio
from edgekit.exporter.families.whisper import Whisper, whisper_generation
from edgekit.exporter.graph import GraphWriter
from edgekit.exporter.sources.checkpoint import Beside, Tensors
from edgekit.exporter.sources.stored import StoredTensors
from edgekit.exporter.weights import Weights
from edgekit.recipe import GridSettings, Group


class Family(Protocol):
    """One architecture, bound to one config."""

    name: str
    components: tuple[str, ...]
    embedding: str
    tables: Mapping[str, tuple[str, ...]]
    """Token tables beside that of ``embedding``: name in the manifest's ``speech`` to the tensors it holds, in order.

    ``stored`` gives all tensors of one table the same name, and ``group`` the same group.
    """
    max_context: int
    marks: tuple[str, ...]
    """Tokens that ``protocol`` and ``speech`` may look up, in the order of their ids."""
    unnamed: int
    """How many ids must follow the last of ``marks``: codes that it begins."""

    def expected(self) -> Mapping[str, tuple[int, ...]]:
        """Return name and shape of every tensor the checkpoint must hold."""
        ...

    def ignored(self, name: str) -> bool:
        """Return whether a tensor may be in the checkpoint without being used."""
        ...

    def group(self, name: str) -> Group | None:
        """Return the precision group of a tensor; None keeps it float."""
        ...

    def stored(self, name: str) -> str:
        """Return the name under which a graph stores a tensor of the checkpoint."""
        ...

    def expert_rows(self, source: Tensors, stored: str, expert: int) -> NDArray[np.float32]:
        """Return one expert's matrix of a stored bank of experts."""
        ...

    def build(self, component: str, g: GraphWriter, w: Weights) -> None:
        """Write one component's graph."""
        ...

    def front_end(self, settings: GridSettings) -> FrontEnd:
        """Return the log-mel front end of a grid mode."""
        ...

    def grid(self, settings: GridSettings) -> Grid:
        """Return the streaming grid. Raises RecipeError for a mode that the weights were not made for."""
        ...

    def protocol(self, tokenizer: str) -> TokenProtocol:
        """Return the token protocol, ids looked up in the text of tokenizer.json."""
        ...

    def speech(self, tables: Mapping[str, Embedding], tokenizer: str) -> TalkerSpeech | FlowSpeech | None:
        """Return how answers are spoken, ``tables`` being where those of ``tables`` lie; None if they are not."""
        ...

    def levels(self) -> tuple[ComputeLevel, ...]:
        """Return the default compute levels, cheapest first."""
        ...


_FAMILIES: dict[str, Callable[[Mapping[str, Any], Mapping[str, Any]], Family]] = {
    "whisper": Whisper,
    "step_audio_2": StepAudio,
    "qwen3_omni_moe": Qwen3Omni,
}
_GENERATION: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {"whisper": whisper_generation}
_BESIDE: dict[str, Callable[[StoredTensors], Beside]] = {"step_audio_2": token2wav.beside}
_FILES: dict[str, tuple[str, ...]] = {"step_audio_2": token2wav.FILES}


def files_beside(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return patterns of the files that a checkpoint of this config may have beside weights, configs and tokenizer."""
    return _FILES.get(str(config.get("model_type")), ())


def open_beside(found: StoredTensors) -> Beside:
    """Return an opened checkpoint with what its family keeps in files of its own."""
    look = _BESIDE.get(str(found.config.get("model_type")))
    return look(found) if look else Beside(found, found.config, {}, found.folder)


def published_generation(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return generation settings for a config that comes alone; empty where the family keeps them in its config."""
    make = _GENERATION.get(str(config.get("model_type")))
    return make(config) if make else {}


def find_family(config: Mapping[str, Any], generation: Mapping[str, Any]) -> Family:
    """Return the family of a config. Raises CheckpointError naming the known ones and the nearest."""
    kind = str(config.get("model_type"))
    if kind in _FAMILIES:
        return _FAMILIES[kind](config, generation)
    known = ", ".join(sorted(_FAMILIES))
    nearest = difflib.get_close_matches(kind, _FAMILIES, n=1, cutoff=0.3)
    hint = f"; the nearest is '{nearest[0]}'" if nearest else ""
    raise CheckpointError(f"config.json: model_type '{kind}' is not an architecture EdgeKit knows ({known}){hint}")
