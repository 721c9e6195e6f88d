"""The allow-list of the ``ort-cuda`` dialect, ``bundle/ops/ort-cuda.toml``, and the check of every graph against it."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import onnx
from onnx import helper

from edgekit.bundle.dialects import MICROSOFT, OpList, op_list
from edgekit.errors import CensusError

BLOCK = 32  # of the compact kernels; others fall back to slow ones (onnxruntime 1.30.0, release notes)
EXPERT_TILE = 64  # QMoE refuses widths that are no multiple (contrib_ops/cuda/moe/moe_quantization.cc)
_ZERO_POINTS = {"MatMulNBits": (3,), "QMoE": (11, 12, 13)}
_MIX = 14
_BITS = {"MatMulNBits": "bits", "QMoE": "expert_weight_bits"}
# What ops give that is not of their first input's type.
_GIVES = {
    "And": "bool", "Equal": "bool", "Greater": "bool", "GreaterOrEqual": "bool", "Less": "bool", "LessOrEqual": "bool",
    "Shape": "int64",
}  # fmt: skip


@cache
def cuda_allow_list() -> OpList:
    """Return the list."""
    return op_list("ort-cuda")


def check_cuda_ops(path: Path) -> None:
    """Raise CensusError naming the first node that the CUDA provider would leave to the CPU, run slowly or misread."""
    model = onnx.load(str(path), load_external_data=False)
    allowed = cuda_allow_list()
    versions = {one.domain: one.version for one in model.opset_import}
    if versions != {"": allowed.opset, MICROSOFT: 1} or model.ir_version > allowed.ir_version:
        raise _refused(path, f"opsets {versions}, IR version {model.ir_version}", f"opset {allowed.opset} is written")
    constants = {one.name: one for one in model.graph.initializer}
    types = {name: _type(one.data_type) for name, one in constants.items()}
    types |= {one.name: _type(one.type.tensor_type.elem_type) for one in model.graph.input}
    for node in model.graph.node:
        kinds = allowed.types(node.domain, node.op_type)
        what = f"{node.op_type} '{node.name}'"
        if kinds is None:
            raise _refused(path, what, "is not in the allow-list")
        if types[node.input[0]] not in kinds:
            raise _refused(path, what, f"takes {types[node.input[0]]}, allowed is {' or '.join(kinds)}")
        given = {one.name: helper.get_attribute_value(one) for one in node.attribute}
        if rule := _broken_rule(node, given, constants):
            raise _refused(path, what, rule)
        types |= dict.fromkeys(node.output, _gives(node, given, types))
        if node.op_type == "TopK":
            types[node.output[1]] = "int64"


def _gives(node: onnx.NodeProto, given: Mapping[str, Any], types: Mapping[str, str]) -> str:
    if node.op_type == "Cast":
        return _type(given["to"])
    if node.op_type == "ConstantOfShape":
        return _type(given["value"].data_type) if "value" in given else "float32"
    return _GIVES.get(node.op_type) or types[node.input[node.op_type == "Where"]]


def _broken_rule(node: onnx.NodeProto, given: Mapping[str, Any], constants: Mapping[str, onnx.TensorProto]) -> str:
    """Return what a node of an op on quantised weights does not keep to; empty if it keeps to all."""
    if node.op_type not in _BITS:
        return ""
    bits = given[_BITS[node.op_type]]
    rules = {
        f"codes must have 4 or 8 bits and blocks of {BLOCK}": bits not in (4, 8) or given["block_size"] != BLOCK,
        "codes must have no zero points": _has(node, *_ZERO_POINTS[node.op_type]),
    }
    if node.op_type == "QMoE":
        widths = [constants[node.input[at]].dims[-1] * 8 // bits for at in (2, 5)]
        rules |= {
            "weights_prepacked must be 0: the default takes codes for packed ones": given.get("weights_prepacked") != 0,
            "mixing weights are not read by the kernel": _has(node, _MIX),
            f"widths must be multiples of {EXPERT_TILE}": any(width % EXPERT_TILE for width in widths),
        }
    return next((rule for rule, broken in rules.items() if broken), "")


def _has(node: onnx.NodeProto, *inputs: int) -> bool:
    return any(at < len(node.input) and node.input[at] for at in inputs)


def _type(element: int) -> str:
    return str(helper.tensor_dtype_to_np_dtype(element))


def _refused(path: Path, what: str, rule: str) -> CensusError:
    return CensusError(f"{path.name}: {what}: {rule} for the CUDA provider (ort-cuda.toml); report this as a bug")
