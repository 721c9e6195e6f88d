"""What static INT8 activations would cost the decoders, on tiny random weights: ``python -m`` this module prints it.

Each linear's input gets one scale, found on other codes than those judged, over all steps of the flow: as
``calibrate`` finds those of the encoders. Distances are root mean squares / those of the float graphs' own.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import numpy as np
import onnxruntime

from edgekit.exporter.blocks import OBSERVED
from edgekit.exporter.calibrate import LARGEST_LOSS, best_range
from edgekit.exporter.dialects import DIALECTS
from edgekit.exporter.dialects.standard.dialect import StandardDialect
from edgekit.exporter.families.step_audio.flow import Flow
from edgekit.exporter.graph import GraphWriter
from edgekit.exporter.sources.checkpoint import Tensors
from edgekit.exporter.weights import Weights
from edgekit.recipe import GROUPS, QuantizeSettings
from edgekit.runtime.backends.ort import OrtEngine
from edgekit.runtime.engine import Array
from edgekit.runtime.speak.matching import Flow as Stream
from tests.exporter import flows, omni_audio
from tests.exporter.parts import Held
from tests.reference import flow_weights
from tests.reference import omni_audio as reference

CODES = 100
_BINS = 2048
Build = Callable[[str, GraphWriter, Weights], None]
Run = Callable[[Mapping[str, OrtEngine], int], Array]


class _Recorder:
    """Outputs of every call that begin with OBSERVED, by name."""

    def __init__(self, engine: OrtEngine, seen: dict[str, list[Array]]) -> None:
        self.component, self._engine, self._seen = engine.component, engine, seen

    def bind(self, sizes):
        call, seen = self._engine.bind(sizes), self._seen

        class Call:
            def run(self, inputs):
                found = call.run(inputs)
                for name in [name for name in found if name.startswith(OBSERVED)]:
                    seen.setdefault(name.removeprefix(OBSERVED), []).append(np.abs(found.pop(name)))
                return found

        return Call()


@contextmanager
def _observing() -> Iterator[None]:
    whole = StandardDialect.linear

    def linear(self, g, w, x, name, *, group, bias):
        g.output(x, OBSERVED + name, "float32", ("rows", w.source.shape(name)[1]))
        return whole(self, g, w, x, name, group=group, bias=bias)

    with patch.object(StandardDialect, "linear", linear):
        yield


def measure(names: tuple[str, ...], build: Build, source: Tensors, run: Run) -> dict[str, float]:
    """Return the distance of the sound or mel with INT8 weights, with rounded inputs too, and what rounding loses."""

    def engines(precision: str, ranges: Mapping[str, float]) -> dict[str, OrtEngine]:
        w = Weights(source, dict.fromkeys(GROUPS, precision), QuantizeSettings(), ranges=ranges)
        found = {}
        with TemporaryDirectory() as folder:
            for name in names:
                with GraphWriter(Path(folder), name, DIALECTS.get("standard")) as g:
                    build(name, g, w)
                    component = g.close(precision)
                session = onnxruntime.InferenceSession(str(Path(folder) / component.graph))
                found[name] = OrtEngine(component, session)  # unchecked: one observed input has a single row
        return found

    seen: dict[str, list[Array]] = {}
    with _observing():
        run({name: _Recorder(engine, seen) for name, engine in engines("float32", {}).items()}, 1)
    largest = {name: max(float(part.max()) for part in parts) for name, parts in seen.items()}
    cuts = {
        name: best_range(sum(np.histogram(part, _BINS, (0, largest[name]))[0] for part in parts), largest[name])
        for name, parts in seen.items()
    }
    ranges = {name: cut for name, (cut, _) in cuts.items()}
    spared = {name: cut for name, (cut, loss) in cuts.items() if loss <= LARGEST_LOSS}
    wanted = run(engines("float32", {}), 2)

    def distance(ranges: Mapping[str, float]) -> float:
        return float(np.linalg.norm(run(engines("int8", ranges), 2) - wanted) / np.linalg.norm(wanted))

    losses = [loss for _, loss in cuts.values()]
    return {
        "weights": distance({}), "all inputs": distance(ranges), "inputs within the limit": distance(spared),
        "linears": len(ranges), "kept float": len(ranges) - len(spared), "median loss": float(np.median(losses)),
        "largest loss": max(losses),
    }  # fmt: skip


def flow() -> dict[str, float]:
    """Return the figures of Step-Audio 2's flow: mel frames of an answer."""
    shape = flow_weights.TINY
    whole = Flow(shape)

    def run(engines: Mapping[str, OrtEngine], seed: int) -> Array:
        voice, codes = flow_weights.draw_voice(shape, 20, 5), flow_weights.draw_codes(shape, CODES, seed)
        stream = Stream(engines["flow_encoder"], engines["flow_step"], voice, flows.speech(shape))
        return np.concatenate([stream.push(codes), stream.finish()])

    return measure(tuple(whole.components), whole.build, flow_weights.draw(shape, 3), run)


def code2wav() -> dict[str, float]:
    """Return the figures of Qwen3-Omni's decoder: samples of an answer."""

    def run(engines: Mapping[str, OrtEngine], seed: int) -> Array:
        return np.concatenate(omni_audio.speak(engines["decoder"], reference.codes(CODES, seed), [20]))

    tensors = Held(reference.voice_weights())
    return measure(("decoder",), omni_audio.VOICE.build, tensors, run)


if __name__ == "__main__":
    for one in (flow, code2wav):
        print(one.__name__, {name: round(value, 4) for name, value in one().items()})
