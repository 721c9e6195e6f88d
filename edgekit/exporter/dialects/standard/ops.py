"""The allow-list of the ``standard`` dialect, ``bundle/ops/standard.toml``, and the check of every graph against it."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import onnx
from onnx import numpy_helper

from edgekit.bundle.dialects import OpList, op_list
from edgekit.errors import CensusError

# Which input names the axes, of ops where that may not be computed.
_AXES = {"ReduceL2": 1, "ReduceMax": 1, "ReduceMean": 1, "ReduceSum": 1, "Squeeze": 1, "Unsqueeze": 1, "Slice": 3}
_MOST_CHOSEN = 3840
_PAD_INPUTS = 3  # data, pads and the value; axes come after them
_CODES = (onnx.TensorProto.INT8, onnx.TensorProto.INT4)


@cache
def allow_list() -> OpList:
    """Return the list."""
    return op_list("standard")


def check_ops(path: Path) -> None:
    """Raise CensusError naming the first node of a graph that TensorRT 10.3 would not take."""
    model = onnx.load(str(path), load_external_data=False)
    allowed = allow_list()
    constants = {one.name: one for one in model.graph.initializer}
    highest, newest = allowed.opset, allowed.ir_version
    if any(one.data_type == onnx.TensorProto.INT4 for one in constants.values()):
        highest, newest = allowed.int4_opset, allowed.int4_ir_version
    for opset in model.opset_import:
        if opset.domain or opset.version > highest:
            raise _refused(path, f"opset {opset.version} of '{opset.domain}'", f"opset {highest} is the highest")
    if model.ir_version > newest:
        raise _refused(path, f"IR version {model.ir_version}", f"{newest} is the highest")
    for node in model.graph.node:
        if node.domain or node.op_type not in allowed.ops:
            raise _refused(path, f"{node.op_type} '{node.name}'", "is not in the allow-list")
        if rule := _broken_rule(node, constants):
            raise _refused(path, f"{node.op_type} '{node.name}'", rule)


def _broken_rule(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> str:
    """Return the restriction that a node of an allowed op does not keep to; empty if it keeps to all."""
    given = [constants.get(name) for name in node.input]
    axes = _AXES.get(node.op_type)
    if axes is not None and (len(given) <= axes or given[axes] is None):
        return "axes must be an initializer"
    if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        return _broken_scale(*given, None, None)
    first = given[0] if given else None
    if node.op_type == "Gather" and first is not None and first.data_type in _CODES:
        return "a quantised constant may only be gathered after DequantizeLinear"
    if node.op_type == "Pad" and len(given) > _PAD_INPUTS:
        return "axes may not be given"
    if node.op_type == "TopK" and given[1] is not None and numpy_helper.to_array(given[1]).max() >= _MOST_CHOSEN:
        return f"fewer than {_MOST_CHOSEN} may be chosen"
    return ""


def _broken_scale(
    value: onnx.TensorProto | None,
    scale: onnx.TensorProto | None,
    zero: onnx.TensorProto | None,
    *_: onnx.TensorProto | None,
) -> str:
    if scale is None:
        return "the scale must be an initializer"
    if value is not None and value.data_type == onnx.TensorProto.INT4 and not _in_blocks(value.dims, scale.dims):
        return "int4 must be of two dimensions, in whole blocks of a row"
    if not scale.external_data and not (numpy_helper.to_array(scale) > 0).all():
        return "scales must be positive"
    if zero is not None and numpy_helper.to_array(zero).any():
        return "the zero point must be 0"
    return ""


def _in_blocks(codes: Sequence[int], scales: Sequence[int]) -> bool:
    return len(codes) == len(scales) == 2 and codes[0] == scales[0] and codes[1] % (2 * scales[1]) == 0


def _refused(path: Path, what: str, rule: str) -> CensusError:
    return CensusError(f"{path.name}: {what}: {rule} for TensorRT 10.3 (standard.toml); report this as a bug")
