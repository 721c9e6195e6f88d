"""Quantised numbers: layout, bounds and awkward widths."""

import numpy as np
import pytest

from edgekit.errors import CheckpointError
from edgekit.exporter.quantize import (
    choose_block,
    choose_expert_block,
    dequantize_blocks,
    half_step,
    nonzero,
    quantize_blocks,
    quantize_channels,
    turn_sign,
)

# Rounding to nearest is at most half a step away; the constants only leave room for float32.


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("block", [16, 32, 64, 128])
@pytest.mark.parametrize("width", [1, 31, 32, 33, 127, 128, 129, 384])
def test_a_weight_comes_back_within_half_a_step(bits, block, width):
    rows = np.random.default_rng(width).normal(size=(5, width)).astype(np.float32)
    codes, scales = quantize_blocks(rows, bits, block)
    back = dequantize_blocks(codes, scales, bits, width)
    assert codes.shape == (5, -(-width // block), block * bits // 8)
    assert (np.abs(back - rows) <= np.repeat(half_step(scales), block, axis=1)[:, :width]).all()


@pytest.mark.parametrize("bits", [8, 4])
def test_zero_is_exact_and_the_largest_weight_is_kept(bits):
    rows = np.zeros((2, 64), np.float32)
    rows[1, 3] = -5.0
    codes, scales = quantize_blocks(rows, bits, 32)
    np.testing.assert_array_equal(dequantize_blocks(codes, scales, bits, 64), rows)


def test_the_first_of_two_small_codes_lies_in_the_low_half():
    rows = np.zeros((1, 32), np.float32)
    rows[0, :2] = 7.0, -7.0
    codes, _ = quantize_blocks(rows, 4, 32)
    assert codes[0, 0, 0] == (1 << 4) | 15


def test_channels_have_a_scale_each():
    rows = np.array([[1.0, -2.0], [100.0, 50.0], [0.0, 0.0]], np.float32)
    codes, scales = quantize_channels(rows)
    np.testing.assert_allclose(codes * scales[:, None], rows, atol=0.5)
    np.testing.assert_allclose(scales, [2 / 127, 100 / 127, 0])


@pytest.mark.parametrize(
    ("width", "at_most", "block"), [(384, 128, 128), (192, 128, 64), (96, 128, 32), (100, 128, 32)]
)
def test_the_largest_block_that_divides_is_chosen(width, at_most, block):
    assert choose_block(width, at_most) == block


def test_experts_of_an_odd_width_are_refused_by_size():
    assert choose_expert_block(384, 16, 64, "experts") == 16
    with pytest.raises(CheckpointError, match=r"384 x 24.*multiples of 16.*--decoder float32"):
        choose_expert_block(384, 24, 64, "decoder")


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("largest", [1e-9, 1e-7, 1e-6, 1e-4, 1e-2, 1.0, 1e4])
def test_scales_in_float16_cut_no_weight_however_small(bits, largest):
    """The smallest float16 is 6e-8, the smallest with all its digits 6e-5: rounding to nearest would cut some."""
    rows = (np.random.default_rng(bits).uniform(-1, 1, (7, 64)) * largest).astype(np.float32)
    rows[0] = 0
    codes, scales = quantize_blocks(rows, bits, 32, "float16")
    assert scales.dtype == np.float16
    assert (nonzero(scales) > 0).all()
    back = dequantize_blocks(codes, scales, bits, 64)
    assert (np.abs(back - rows) <= np.repeat(half_step(scales.astype(np.float32)), 32, axis=1)).all()
    channels, steps = quantize_channels(rows, "float16")
    assert steps.dtype == np.float16
    wide = steps.astype(np.float32)[:, None]
    assert (np.abs(channels * wide - rows) <= half_step(wide)).all()


@pytest.mark.parametrize("bits", [8, 4])
def test_signed_codes_are_those_with_a_zero_point_less_it(bits):
    rows = np.random.default_rng(4).normal(size=(3, 64)).astype(np.float32)
    codes, _ = quantize_blocks(rows, bits, 32)
    signed = turn_sign(codes, bits)
    assert signed.dtype == np.int8
    np.testing.assert_array_equal(turn_sign(signed, bits), codes)
    if bits == 8:
        np.testing.assert_array_equal(signed.astype(int), codes.astype(int) - 128)
    else:
        low = (signed.astype(int) << 28).astype(np.int32) >> 28
        np.testing.assert_array_equal(low, (codes & 15).astype(int) - 8)
