"""Whether a graph of a stranger may be loaded: before onnxruntime or TensorRT sees it, without the onnx package.

Refused are ops that its dialect does not name, what is not a plain list of nodes, data outside the one file that the
manifest names, and constants that grow when a library computes them at loading. What a graph does when it runs is not
bounded here: a size that is free until then may be any.
"""

from dataclasses import dataclass

from edgekit.bundle.dialects import DIALECTS, DialectName
from edgekit.errors import BundleFormatError
from edgekit.runtime.graphs.folding import largest_folded
from edgekit.runtime.graphs.model import Model, Tensor, read_model
from edgekit.runtime.graphs.protobuf import UnreadableError

MOST_BYTES = 128 << 20  # of a graph file; weights lie beside it


@dataclass(frozen=True, slots=True)
class Checked:
    """What is known of a graph that may be loaded: how many nodes, and bytes of the largest value made at loading."""

    nodes: int
    folded_bytes: int


def check_graph(graph: bytes, path: object, location: str | None, data_bytes: int, dialect: str | None) -> Checked:
    """Return what is known of a graph's bytes; raise BundleFormatError, which names what is wrong, if it may not load.

    path: what messages call it; location: its data file as the graph must name it, None for none, and that file's
    size; dialect: whose ops it may hold, None for a graph of the exporter's own that is not a bundle's.
    """
    if len(graph) > MOST_BYTES:
        raise BundleFormatError(f"{path}: {len(graph)} bytes, at most {MOST_BYTES} are read; export it again")
    try:
        model = read_model(graph)
        if dialect is not None:
            _check_ops(model, DIALECTS.get(dialect))
        _check_data(model.tensors, location, data_bytes)
        return Checked(len(model.nodes), largest_folded(model))
    except UnreadableError as error:
        raise BundleFormatError(f"{path}: not a graph that may be loaded ({error}); do not use this bundle") from error


def _check_ops(model: Model, named: DialectName) -> None:
    for domain, version in model.opsets.items():
        lowest, highest = named.opsets.get(domain, (0, -1))
        if highest < lowest:
            raise UnreadableError(f"ops of domain '{domain}', which dialect '{named.name}' does not have")
        if not lowest <= version <= highest:
            raise UnreadableError(f"opset {version} of '{domain}', dialect '{named.name}' has {lowest} to {highest}")
    lowest, highest = named.ir_versions
    if not lowest <= model.ir_version <= highest:
        raise UnreadableError(f"IR version {model.ir_version}, dialect '{named.name}' has {lowest} to {highest}")
    known = {(domain.encode(), op.encode()) for domain, op in named.ops}
    for node in model.nodes:
        if (node.domain, node.op) not in known:
            raise UnreadableError(f"{node}, an op that dialect '{named.name}' does not have")


def _check_data(tensors: tuple[Tensor, ...], location: str | None, data_bytes: int) -> None:
    """Refuse external data that is not in the one file, runs over its end, or is told more than once."""
    end = 0
    for tensor in sorted(tensors, key=lambda one: one.offset):
        if tensor.location is None:
            continue
        named = tensor.location.decode(errors="replace")
        if named.startswith(("/", "\\")) or ":" in named or ".." in named.replace("\\", "/").split("/"):
            raise UnreadableError(f"external data '{named}' leaves the bundle")
        if named != location:
            raise UnreadableError(f"external data '{named}', manifest says '{location}'")
        last, end = end, tensor.offset + tensor.size
        if not tensor.size or end > data_bytes or tensor.offset < last:
            raise UnreadableError(
                f"tensor '{tensor.name.decode(errors='replace')}' at bytes {tensor.offset} to "
                f"{tensor.offset + tensor.size} of '{named}', which has {data_bytes}, shared with no other tensor"
            )
