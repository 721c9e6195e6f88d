"""Quantised numbers: layout, bounds and awkward widths."""

import numpy as np
import pytest

from edgekit.errors import CheckpointError
from edgekit.exporter.quantize import (
    STEPS_INT4,
    allowed_distance,
    choose_block,
    choose_expert_block,
    dequantize_blocks,
    half_step,
    nonzero,
    quantize_blocks,
    quantize_channels,
    turn_sign,
)

# Rounding to nearest is at most half a step away, but for INT4 weights beyond the outermost code; the constants only
# leave room for float32.


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("block", [16, 32, 64, 128])
@pytest.mark.parametrize("width", [1, 31, 32, 33, 127, 128, 129, 384])
@pytest.mark.parametrize("turned", [True, False])
def test_a_weight_comes_back_as_the_nearest_that_its_block_holds(bits, block, width, turned):
    rows = np.random.default_rng(width).normal(size=(5, width)).astype(np.float32)
    codes, scales = quantize_blocks(rows, bits, block, turned=turned)
    back = dequantize_blocks(codes, scales, bits, width)
    assert codes.shape == (5, -(-width // block), block * bits // 8)
    steps = np.repeat(scales, block, axis=1)[:, :width]
    assert (np.abs(back - rows) <= allowed_distance(rows, steps, bits)).all()
    outermost = np.abs(rows) > np.abs(steps) * (127.5 if bits == 8 else 7.5)
    assert (np.abs(back - rows) <= half_step(steps))[~outermost].all()
    assert (scales > 0).all() or (turned and bits == 4)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("largest", [5.0, -5.0])
@pytest.mark.parametrize("turned", [True, False])
def test_zero_is_exact_and_a_lone_weight_is_kept(bits, largest, turned):
    rows = np.zeros((2, 64), np.float32)
    rows[1, 3] = largest
    codes, scales = quantize_blocks(rows, bits, 32, turned=turned)
    np.testing.assert_allclose(dequantize_blocks(codes, scales, bits, 64), rows, rtol=1e-6, atol=0)


def _relative(back, rows):
    return float(np.sqrt(np.square(back - rows).sum() / np.square(rows).sum()))


@pytest.mark.parametrize(("block", "least"), [(32, 0.13), (128, 0.12)])
def test_int4_loses_less_than_with_the_scale_that_cuts_nothing(block, least):
    """A scale of largest / 7 is what MatMulNBits' own quantiser and this one took: the best one of several is finer."""
    rows = np.random.default_rng(0).normal(size=(64, 512)).astype(np.float32)
    blocks = rows.reshape(64, -1, block)
    plain = np.abs(blocks).max(axis=-1, keepdims=True) / 7
    before = _relative(np.rint(blocks / plain) * plain, blocks)
    loss = {turned: _relative(dequantize_blocks(*quantize_blocks(rows, 4, block, turned=turned), 4, 512), rows)
            for turned in (True, False)}  # fmt: skip
    assert loss[True] < (1 - least) * before
    assert loss[True] < loss[False] < before


@pytest.mark.parametrize("stored", ["float32", "float16"])
def test_no_int4_scale_that_is_tried_loses_less_than_the_one_taken(stored):
    rows = np.random.default_rng(1).standard_t(4, size=(8, 64)).astype(np.float32)
    codes, scales = quantize_blocks(rows, 4, 32, stored)
    blocks = rows.reshape(8, 2, 32)
    loss = np.square(dequantize_blocks(codes, scales, 4, 64) - rows).reshape(8, 2, 32).sum(axis=-1)
    for count in STEPS_INT4:
        step = np.abs(blocks).max(axis=-1, keepdims=True) / count
        other = np.square(np.clip(np.rint(blocks / step), -8, 7) * step - blocks).sum(axis=-1)
        assert (loss <= other * (1.02 if stored == "float16" else 1.0001)).all()


def test_what_is_cut_is_bounded_and_only_outwards():
    """A number may be the outermost code's only if it lies beyond it, and by no more than the steps that are tried."""
    given = np.array([7.4, 9.5, 12.0, -8.4, -9.5, -12.0], np.float32)
    np.testing.assert_allclose(
        allowed_distance(given, np.ones(6, np.float32), 4), [0.9, 3.0, 0.5, 0.9, 2.0, 0.5], rtol=2e-3
    )
    np.testing.assert_allclose(
        allowed_distance(-given, -np.ones(6, np.float32), 4), [0.9, 3.0, 0.5, 0.9, 2.0, 0.5], rtol=2e-3
    )
    np.testing.assert_allclose(allowed_distance(given * 20, np.ones(6, np.float32), 8), 0.5, rtol=2e-3)


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
    assert (np.abs(back - rows) <= allowed_distance(rows, np.repeat(scales.astype(np.float32), 32, axis=1), bits)).all()
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
