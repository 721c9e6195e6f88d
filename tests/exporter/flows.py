"""Write the graphs of a flow from drawn tensors and load them on onnxruntime."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from edgekit.bundle import Precision, Sampling
from edgekit.bundle.speech import FlowSpeech
from edgekit.exporter.dialects import DIALECTS
from edgekit.exporter.families.step_audio.flow import Flow as FlowGraphs
from edgekit.exporter.families.step_audio.flow import FlowShape
from edgekit.exporter.graph import GraphWriter
from edgekit.exporter.sources.checkpoint import Tensors
from edgekit.exporter.weights import Weights
from edgekit.recipe import QuantizeSettings
from edgekit.runtime.backends.ort import OrtEngine
from edgekit.runtime.speak.matching import NO_CODE
from edgekit.runtime.speak.voice import Voice
from tests.reference.flow_weights import SAMPLE_RATE_HZ

Array = NDArray[np.float32]
LOOKAHEAD = 3
STEPS = 10


def engines(
    folder: Path, source: Tensors, shape: FlowShape, precision: Precision = "float32", dialect: str = "ort-cpu"
) -> dict[str, OrtEngine]:
    """Return both components of a flow, written into ``folder`` and loaded."""
    flow = FlowGraphs(shape)
    weights = Weights(source, {"decoder": precision}, QuantizeSettings())
    loaded = {}
    for name in flow.components:
        with GraphWriter(folder, name, DIALECTS.get(dialect)) as g:
            flow.build(name, g, weights)
            component = g.close(precision)
        DIALECTS.get(dialect).check(folder / component.graph, "float32")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(
            str(folder / component.graph), options, providers=["CPUExecutionProvider"]
        )
        loaded[name] = OrtEngine(component, session)
    return loaded


def speech(shape: FlowShape, chunk_codes: int = 25, guidance: float = 0.7) -> FlowSpeech:
    """Return what a manifest says of a flow of this shape."""
    return FlowSpeech(
        sample_rate_hz=SAMPLE_RATE_HZ,
        samples_per_code=960,
        first_code=1000,
        codes=shape.conformer.codes,
        start=10,
        end=11,
        chunk_codes=chunk_codes,
        lookahead_codes=LOOKAHEAD,
        steps=STEPS,
        guidance=guidance,
        voices={},
        sampling=Sampling(),
    )


def noise(loaded: dict[str, OrtEngine]) -> Array:
    """Return the noise that a flow's encoder holds."""
    return _encode(loaded, np.zeros(LOOKAHEAD + 1, np.int64), pad=0)["noise"]


def whole(loaded: dict[str, OrtEngine], voice: Voice, codes: NDArray[np.int64], guidance: float = 0.7) -> Array:
    """Return the mel frames of codes made in one call, as the published offline form does."""
    found = _encode(loaded, np.concatenate([voice.codes, codes]), pad=LOOKAHEAD)
    mu = found["mu"]
    cond = np.zeros_like(mu)
    cond[: len(voice.mel)] = voice.mel
    step = loaded["flow_step"]
    left = np.zeros(next(spec.shape for spec in step.component.inputs if spec.name == "left"), np.float32)
    shared = {
        "mu": mu,
        "cond": cond,
        "speaker": voice.speaker[None],
        "guidance": np.array([guidance], np.float32),
        "slots": np.arange(len(mu)),
        "mask": np.zeros(len(mu), np.float32),
        "left": left,
    }
    times = 1 - np.cos(np.linspace(0, 1, STEPS + 1, dtype=np.float32) * np.float32(0.5 * np.pi))
    x = found["noise"][: len(mu)]
    for time, after in pairwise(times):
        found = step.bind({"capacity": len(mu)}).run(shared | {"x": x, "t": np.array([time])})
        x = x + (after - time) * found["velocity"]
    return x[len(voice.mel) :]


def _encode(loaded: dict[str, OrtEngine], codes: NDArray[np.int64], pad: int) -> dict[str, Array]:
    encoder = loaded["flow_encoder"]
    left = np.zeros(next(spec.shape for spec in encoder.component.inputs if spec.name == "left"), np.float32)
    call = encoder.bind({"codes_kept": len(codes), "frames_kept": 2 * len(codes)})
    if all(spec.name != "pad" for spec in encoder.component.inputs):
        return call.run({"codes": np.concatenate([codes, np.full(pad, NO_CODE)]), "start": np.array([0]), "left": left})
    return call.run({"codes": codes, "start": np.array([0]), "pad": np.array([pad]), "left": left})
