"""Codes of weights in plain ONNX: signed, with a scale for each row or for each block of one."""

from collections.abc import Iterable

import numpy as np

from edgekit.bundle import Precision
from edgekit.errors import CheckpointError
from edgekit.exporter.graph import GraphWriter
from edgekit.exporter.quantize import (
    BITS,
    SCALE,
    SMALLEST_BLOCK,
    dequantize_blocks,
    dividing_block,
    nonzero,
    quantize_blocks,
    quantize_channels,
    turn_sign,
)
from edgekit.exporter.weights import Float
from edgekit.exporter.written import Layout, WrittenWeight
from edgekit.recipe import Group


class SignedCodes:
    """Codes (rows, width), two of INT4 a byte, and scales (rows,) or (rows, blocks): DequantizeLinear's layout.

    INT8 has a scale for each row; INT4 one for each block of a row, since TensorRT takes blocks of that alone, and in
    two dimensions alone. A bank of experts is one expert after another.
    """

    def pack(
        self,
        g: GraphWriter,
        name: str,
        shape: tuple[int, ...],
        blocks: Iterable[tuple[int, Float]],
        precision: Precision,
        *,
        group: Group,
        at_most: int,
    ) -> str:
        """Store a matrix (rows, width) of a group of weights and return it as it multiplies.

        blocks: (row, rows) of it; ``at_most``: size of a block of INT4.
        """
        rows, width = shape
        if precision == "int8":
            codes, scales = g.weight(name, "int8", shape), g.weight(name + SCALE, g.activations, (rows,))
            for row, block in blocks:
                block_codes, block_scales = quantize_channels(block, g.activations)
                codes.write(row, block_codes)
                scales.write(row, nonzero(block_scales))
            return g.node("DequantizeLinear", name, name + SCALE, axis=0)
        size = dividing_block(width, at_most)
        if size is None:
            raise CheckpointError(
                f"{name}: {width} wide, INT4 needs a multiple of {SMALLEST_BLOCK}; export with --{group} int8"
            )
        codes, scales = g.weight(name, "int4", shape), g.weight(name + SCALE, g.activations, (rows, width // size))
        for row, block in blocks:
            block_codes, block_scales = quantize_blocks(block, BITS["int4"], size, g.activations)
            codes.write(row, turn_sign(block_codes, BITS["int4"]).reshape(len(block), -1))
            scales.write(row, nonzero(block_scales))
        return g.node("DequantizeLinear", name, name + SCALE, axis=1, block_size=size)

    def layout(self, weight: WrittenWeight, scales: WrittenWeight) -> Layout:
        """Return the matrix; of INT8 a row is one block."""
        bits = int(weight.attributes.get("bits", 8))
        rows, width = weight.shape[0], weight.shape[1] * 8 // bits
        blocks = scales.bytes // scales.dtype.itemsize // rows
        return Layout(rows, width, width // blocks, bits, looked_up=True)

    def unpack(self, weight: WrittenWeight, scales: WrittenWeight, start: int, stop: int) -> tuple[Float, Float]:
        """Return numbers and scales of rows [start, stop)."""
        layout = self.layout(weight, scales)
        part = scales.rows(start, stop).astype(np.float32).reshape(stop - start, -1)
        codes = turn_sign(weight.rows(start, stop), layout.bits).reshape(*part.shape, -1)
        return dequantize_blocks(codes, part, layout.bits, layout.width), np.repeat(part, layout.block, axis=1)


SIGNED = SignedCodes()
