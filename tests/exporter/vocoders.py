"""Build graphs of the tiny vocoder and run them on onnxruntime."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from edgekit.exporter.dialects import DIALECTS
from edgekit.exporter.families.step_audio.hift import HiFT
from edgekit.exporter.graph import GraphWriter
from edgekit.exporter.sources.folded import FoldedTensors
from edgekit.exporter.weights import Weights
from edgekit.recipe import QuantizeSettings
from edgekit.runtime.backends.ort import OrtEngine
from tests.reference import hift_case as case

Array = NDArray[np.float32]
NONE = np.zeros(0, np.float32)


def tensors(form: str = "pair") -> FoldedTensors:
    """Return the tiny vocoder's weights."""
    return FoldedTensors(case.Arrays(case.stored(form=form)), "generator.", "hift.")


def engine(
    folder: Path, build: Callable[[GraphWriter, Weights], None], form: str = "pair", dialect: str = "ort-cpu"
) -> OrtEngine:
    """Return what ``build`` writes, loaded."""
    with GraphWriter(folder, "vocoder", DIALECTS.get(dialect)) as g:
        build(g, Weights(tensors(form), {}, QuantizeSettings()))
        component = g.close("float32")
    DIALECTS.get(dialect).check(folder / component.graph, "float32")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return OrtEngine(component, onnxruntime.InferenceSession(str(folder / component.graph), options))


def vocoder(folder: Path, form: str = "pair", dialect: str = "ort-cpu") -> OrtEngine:
    """Return the tiny vocoder, loaded."""
    return engine(folder, partial(HiFT.of(tensors(form)).build, "vocoder"), form, dialect)


def speak(loaded: OrtEngine, mel: Array, noise: Array, kept: Array = NONE) -> tuple[Array, Array]:
    """Return samples and source of one call."""
    out = loaded.bind({}).run({"mel": mel, "kept": kept, "noise": noise})
    return out["samples"], out["source"]
