"""Codes of weights as several dialects write them: ``pack`` into a graph's data, and back.

Unsigned, with the middle as zero, in blocks of a row with a scale each. A packing of one dialect alone stands there.
"""

import numpy as np

from edgekit.exporter.dialects.experts import ExpertBank
from edgekit.exporter.graph import GraphWriter
from edgekit.exporter.quantize import SCALE, dequantize_blocks, quantize_blocks
from edgekit.exporter.weights import Float, Weights
from edgekit.exporter.written import Layout, WrittenWeight


class BlockCodes:
    """Codes (rows, blocks, bytes of a block) and scales (rows, blocks): MatMulNBits' layout, and token tables'."""

    def pack(self, g: GraphWriter, w: Weights, name: str, bits: int, size: int, *, turned: bool) -> None:
        """Store a matrix and its scales under its own name; the last block of a row is filled up with zeros.

        ``turned``: see ``quantize_blocks``.
        """
        rows, width = w.source.shape(name)
        count = -(-width // size)
        codes = g.weight(name, "uint8", (rows, count, size * bits // 8))
        scales = g.weight(name + SCALE, g.activations, (rows, count))
        for row, block in w.blocks(name):
            block_codes, block_scales = quantize_blocks(block, bits, size, g.activations, turned=turned)
            codes.write(row, block_codes)
            scales.write(row, block_scales)

    def layout(self, weight: WrittenWeight, scales: WrittenWeight) -> Layout:
        """Return the matrix, padding left out."""
        del scales
        bits, block, width = (int(weight.attributes[key]) for key in ("bits", "block_size", "K"))
        return Layout(weight.shape[0], width, block, bits, looked_up=True)

    def unpack(self, weight: WrittenWeight, scales: WrittenWeight, start: int, stop: int) -> tuple[Float, Float]:
        """Return numbers and scales of rows [start, stop)."""
        layout, part = self.layout(weight, scales), scales.rows(start, stop)
        held = dequantize_blocks(weight.rows(start, stop), part, layout.bits, layout.width)
        return held, np.repeat(part, layout.block, axis=1)[:, : layout.width]


class ExpertCodes:
    """Codes (experts, rows, bytes of a row) and scales (experts, rows, blocks): QMoE's layout."""

    def pack(self, g: GraphWriter, w: Weights, bank: ExpertBank, bits: int, size: int, *, turned: bool) -> None:
        """Store both matrices of every expert and their scales under the bank's names; ``turned``: as above."""
        for name, rows, width in bank.matrices:
            codes = g.weight(name, "uint8", (bank.experts, rows, width * bits // 8))
            scales = g.weight(name + SCALE, g.activations, (bank.experts, rows, width // size))
            for expert in range(bank.experts):
                matrix = bank.matrix(w, name, expert)
                expert_codes, expert_scales = quantize_blocks(matrix, bits, size, g.activations, turned=turned)
                codes.write(expert, expert_codes.reshape(1, rows, -1))
                scales.write(expert, expert_scales[None])

    def layout(self, weight: WrittenWeight, scales: WrittenWeight) -> Layout:
        """Return the matrix of all experts' rows."""
        bits, block = int(weight.attributes["expert_weight_bits"]), int(weight.attributes["block_size"])
        return Layout(weight.shape[0] * weight.shape[1], scales.shape[2] * block, block, bits)

    def unpack(self, weight: WrittenWeight, scales: WrittenWeight, start: int, stop: int) -> tuple[Float, Float]:
        """Return numbers and scales of rows [start, stop)."""
        layout, rows = self.layout(weight, scales), weight.shape[1]
        first, last = start // rows, -(-stop // rows)
        within = slice(start - first * rows, stop - first * rows)
        part = scales.rows(first, last).reshape(-1, scales.shape[2])[within]
        codes = weight.rows(first, last).reshape(-1, weight.shape[2])[within].reshape(*part.shape, -1)
        return dequantize_blocks(codes, part, layout.bits, layout.width), np.repeat(part, layout.block, axis=1)


BLOCKS, EXPERTS = BlockCodes(), ExpertCodes()
