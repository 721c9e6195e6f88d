"""What grows is told from what does not, whatever its shape."""

import numpy as np
import pytest

from edgekit.profiler.steadiness import holding, trend

TIMES = np.arange(30.0)


@pytest.mark.parametrize("seed", range(5))
def test_what_only_varies_is_no_trend(seed):
    values = 100 + np.random.default_rng(seed).standard_normal(30)
    assert abs(trend(TIMES, values).z) < 2.6, "one in a hundred by chance"


@pytest.mark.parametrize("shape", [TIMES * 0.5, np.floor(TIMES / 6), np.log1p(TIMES)])
def test_what_grows_is_a_trend_whatever_its_shape(shape):
    result = trend(TIMES, 100 + shape + 0.05 * np.random.default_rng(0).standard_normal(30))
    assert result.grows
    assert result.slope > 0
    assert not trend(TIMES, 100 - shape).grows


def test_what_is_always_the_same_is_no_trend():
    assert trend(TIMES, [7.0] * 30) == trend(TIMES[:4], [7.0] * 4)
    assert not trend(TIMES, [7.0] * 30).grows


def test_one_step_at_the_start_is_no_growth_and_many_are():
    assert not trend(TIMES, [99.0] + [100.0] * 29).grows
    assert trend(TIMES, 100 + np.repeat(np.arange(5), 6)).grows


def test_the_slope_is_the_lines_own_and_one_wild_value_does_not_move_it():
    values = 3 + 0.25 * TIMES
    values[7] = 1e6
    assert trend(TIMES, values).slope == pytest.approx(0.25)


def test_a_process_holds_memory_and_descriptors_which_it_counts_itself(tmp_path):
    before = holding()
    with (tmp_path / "open").open("w"):
        assert holding().descriptors == before.descriptors + 1
    assert holding().descriptors == before.descriptors
    assert before.memory_mib > 1
    assert before.threads >= 1
