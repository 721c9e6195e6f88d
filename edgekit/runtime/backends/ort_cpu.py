"""``onnxruntime-cpu``: onnxruntime on the host, which runs on any machine.

Bundles of the dialects made for GPUs run on it as their numerical twins: the same numbers, too slow for use.
"""

from importlib.util import find_spec

from edgekit.bundle import Bundle
from edgekit.runtime.backends.base import LoadSettings, Runs
from edgekit.runtime.backends.examining import Examined, Machine
from edgekit.runtime.backends.ort import HOST, OrtEngine, load_component
from edgekit.runtime.memory import Need, available_mib, check_load, packed_need

CPU = "onnxruntime-cpu"


class OrtCpu:
    """onnxruntime on the CPU; see Backend."""

    name = CPU
    dialects = (Runs("ort-cpu"), Runs("ort-cuda", twin=True), Runs("standard", twin=True))
    everywhere = True

    def absent(self) -> str:
        """Return why its package is not here."""
        return "" if find_spec("onnxruntime") else "onnxruntime is not installed; pip install 'edgekit-audio[cpu]'"

    def load(self, bundle: Bundle, names: tuple[str, ...], settings: LoadSettings) -> dict[str, OrtEngine]:
        """Return the Engine of each component; see Backend."""
        check_load(bundle, self.need(bundle, names, settings.context_tokens), available_mib(settings.root))
        return {name: load_component(bundle, name, settings.threads) for name in names}

    def need(self, bundle: Bundle, names: tuple[str, ...], context_tokens: int) -> Need:  # noqa: ARG002 - see below
        """Return what loading takes for certain: weights as they are packed anew, for graphs made for it.

        A twin's stay in the mapped file, whose pages the kernel may drop. A cache takes memory page by page as it is
        written, so none of it is counted.
        """
        made = any(one.dialect == bundle.manifest.dialect and not one.twin for one in self.dialects)
        return packed_need(bundle.manifest, names) if made else Need(0.0, 0.0)

    def examine(self, machine: Machine) -> Examined:
        """Return how onnxruntime and its provider for the CPU are here."""
        from edgekit.runtime.backends.ort_examining import examine_provider

        return examine_provider(machine, HOST)
