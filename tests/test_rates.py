"""One bound for the rates of files, of pushed samples and of front ends."""

import numpy as np
import pytest

from edgekit.bundle import FrontEnd
from edgekit.rates import DEFAULT_HZ, HIGHEST_HZ, LOWEST_HZ, rate_fault


@pytest.mark.parametrize("rate", [LOWEST_HZ, 11_025, DEFAULT_HZ, np.int64(44_100), HIGHEST_HZ])
def test_a_rate_within_the_bound_has_no_fault(rate):
    assert rate_fault(rate) is None


@pytest.mark.parametrize(
    ("rate", "shown"),
    [
        (LOWEST_HZ - 1, "999 Hz"),
        (HIGHEST_HZ + 1, "768001 Hz"),
        (0, "0 Hz"),
        (44_100.5, "44100.5 Hz"),
        (float("nan"), "nan Hz"),
        ("16000", "'16000'"),
        (True, "True"),
        (None, "None"),
    ],
)
def test_any_other_is_named_with_the_rule(rate, shown):
    assert rate_fault(rate) == f"{shown}, a whole number from 1,000 to 768,000 Hz is heard"


def test_a_front_end_that_says_no_rate_hears_the_default():
    assert FrontEnd(mel_bins=80).sample_rate_hz == DEFAULT_HZ
