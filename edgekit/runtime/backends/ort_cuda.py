"""``onnxruntime-cuda``: its provider's options, why it is not active, and whether it really runs a graph's nodes.

It falls back to the CPU without an error: for a whole session where a library of CUDA is missing, and node by node
where it has no kernel. Both are errors here. Only the refusals were run, on a machine without a GPU.
"""

import contextlib
import ctypes
import io
from collections import Counter
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from edgekit.bundle import Bundle, Component
from edgekit.errors import BackendError
from edgekit.runtime.backends.base import LoadSettings, Runs
from edgekit.runtime.backends.device import cuda_free_mib
from edgekit.runtime.backends.examining import Examined, Machine
from edgekit.runtime.backends.ort import FATAL_ONLY, HOST, OrtEngine, Provider, load_component
from edgekit.runtime.backends.ort_call import Device, one_line
from edgekit.runtime.backends.sizes import device_need
from edgekit.runtime.memory import Need, check_load

CUDA = "CUDAExecutionProvider"
_LIBRARY = "libonnxruntime_providers_cuda.so"
# onnxruntime itself puts what computes shapes on the CPU, where shapes are known before a kernel starts. So its option
# session.disable_cpu_ep_fallback, which refuses any node there, would refuse nearly every graph.
_SHAPE_OPS = frozenset(
    {
        "Add", "And", "Cast", "Concat", "ConstantOfShape", "Div", "Equal", "Gather", "Identity", "Less", "LessOrEqual",
        "Max", "Min", "Mod", "Mul", "Neg", "Range", "Reshape", "Shape", "Slice", "Squeeze", "Sub", "Unsqueeze", "Where",
    }
)  # fmt: skip


def prepare_cuda(onnxruntime: Any) -> None:
    """Load CUDA's libraries, where they are. Raises BackendError where this onnxruntime has no CUDA provider."""
    if CUDA not in onnxruntime.get_available_providers():
        raise BackendError(
            f"onnxruntime {onnxruntime.__version__}: this build has no {CUDA}; pip uninstall -y onnxruntime, "
            "then pip install 'edgekit-audio[gpu]'"
        )
    onnxruntime.set_default_logger_severity(FATAL_ONLY)  # what it logs is told by why_inactive
    if hasattr(onnxruntime, "preload_dlls"):
        # From packages of this environment, where the system's loader does not look. It prints what it does not find.
        with contextlib.redirect_stdout(io.StringIO()):
            onnxruntime.preload_dlls()


def cuda_options(*, records: bool) -> dict[str, str]:
    """Return the provider's options. Source: onnxruntime's documentation of the CUDA execution provider."""
    return {
        "device_id": "0",
        "arena_extend_strategy": "kSameAsRequested",  # else memory grows by powers of two, on a device that has little
        "cudnn_conv_algo_search": "HEURISTIC",  # else each new length of a chunk is timed with every algorithm first
        "use_tf32": "0",  # what shall be rounded is float16 in the graph; routers, norms and sums keep their 24 bits
        "enable_cuda_graph": str(int(records)),
    }


def why_inactive(onnxruntime: Any) -> str:
    """Return why the provider of a session that was made is not active, and what to type."""
    try:
        ctypes.CDLL(str(Path(onnxruntime.__file__).parent / "capi" / _LIBRARY))
    except OSError as error:
        step = "`edgekit doctor` says what of the driver is missing"
        if not str(error).startswith("libcuda.so"):
            step = "pip install 'onnxruntime-gpu[cuda,cudnn]'"
        return f"{one_line(error)}; {step}"
    return "its libraries load, so no device answers; `edgekit doctor` looks at driver and device"


def check_placement(path: Path, session: Any) -> dict[str, int]:
    """Return how many nodes each provider runs. Raises BackendError if one on the CPU does more than compute shapes."""
    placed: dict[str, Counter[str]] = {}
    for part in session.get_provider_graph_assignment_info():
        placed.setdefault(part.ep_name, Counter()).update(node.op_type for node in part.get_nodes())
    strays = {op: number for op, number in sorted(placed.get(HOST.name, Counter()).items()) if op not in _SHAPE_OPS}
    if strays:
        told = ", ".join(f"{number} {op}" for op, number in strays.items())
        raise BackendError(
            f"{path}: {told} would run on the CPU, for which {CUDA} has no kernel; export it for a target with CUDA"
        )
    return {provider: sum(ops.values()) for provider, ops in placed.items()}


class CudaProvider(Provider):
    """onnxruntime's CUDA provider; see Provider."""

    name = CUDA
    device: Device = "cuda"
    extra = "gpu"
    package = "onnxruntime-gpu"
    step = "`edgekit doctor` looks at the device"

    def prepare(self, onnxruntime: Any) -> None:
        """Load CUDA's libraries; see ``prepare_cuda``."""
        prepare_cuda(onnxruntime)

    def records(self, component: Component) -> bool:
        """Return whether to record CUDA graphs: a graph has addresses in it, which sound has anew each time.

        Arrays that stay on the GPU for one utterance lie elsewhere for the next.
        """
        return not any("sound" in spec.shape for spec in component.inputs)

    def configured(self, options: Any, *, records: bool) -> Any:
        """Ask where nodes are placed; return the provider with its options."""
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        return (CUDA, cuda_options(records=records))

    def check(self, path: Path, session: Any) -> Mapping[str, int]:
        """Return nodes by provider; see ``check_placement``."""
        return check_placement(path, session)

    def why_inactive(self, onnxruntime: Any) -> str:
        """Return why, and what to type; see the function."""
        return why_inactive(onnxruntime)


PROVIDER = CudaProvider()


class OrtCuda:
    """onnxruntime on the first NVIDIA GPU; see Backend."""

    name = "onnxruntime-cuda"
    dialects = (Runs("ort-cuda"),)
    everywhere = False

    def absent(self) -> str:
        """Return why its package is not here."""
        return "" if find_spec("onnxruntime") else "onnxruntime is not installed; pip install 'edgekit-audio[gpu]'"

    def load(self, bundle: Bundle, names: tuple[str, ...], settings: LoadSettings) -> dict[str, OrtEngine]:
        """Return the Engine of each component; see Backend."""
        check_load(bundle, self.need(bundle, names, settings.context_tokens), cuda_free_mib(), "the GPU")
        return {name: load_component(bundle, name, settings.threads, PROVIDER) for name in names}

    def need(self, bundle: Bundle, names: tuple[str, ...], context_tokens: int) -> Need:
        """Return what lies in the GPU's memory for certain; what its libraries take beside that was not measured."""
        return device_need(bundle.manifest, names, context_tokens)

    def examine(self, machine: Machine) -> Examined:
        """Return how onnxruntime and this provider are here."""
        from edgekit.runtime.backends.ort_examining import examine_provider

        return examine_provider(machine, PROVIDER)
