"""Comparisons: ratios of interleaved rounds, bootstrap intervals, JSON and back."""

import numpy as np
import pytest

from edgekit.errors import ProfileError
from edgekit.profiler.comparison import (
    Findings,
    bootstrap_ratio,
    load_record,
    make_comparison,
    render_comparison,
    save_comparison,
)
from tests.profiler.conftest import STORED


@pytest.fixture
def findings():
    """Return three rounds of two subjects."""
    found = Findings()
    for ours, theirs in ((1.0, 4.0), (2.0, 4.0), (3.0, 3.0)):
        found.add("Wait", "ours", "ms", ours)
        found.add("Wait", "theirs", "ms", theirs)
    found.add("Load", "ours", "s", 0.5)
    return found


@pytest.fixture
def comparison(findings):
    """Return a Comparison of them."""
    return make_comparison(
        title="Ours beside theirs",
        question="Which waits less?",
        settings={"Settings": "3 rounds"},
        figures=findings.figures(),
        ratios=[findings.ratio("ours / theirs", "Wait", "ours", "theirs", limit=1.3)],
        definitions={"Wait": "From here to there."},
        details={"texts": {"ours": "one | two"}},
    )


def test_a_ratio_is_of_medians_and_bounded_by_single_rounds(findings):
    ratio = findings.ratio("r", "Wait", "ours", "theirs")
    assert (ratio.value, ratio.low, ratio.high, ratio.n) == (0.5, 0.25, 1.0, 3)


def test_rounds_that_do_not_pair_are_our_own_mistake(findings):
    findings.add("Wait", "theirs", "ms", 1.0)
    with pytest.raises(ValueError, match="shorter"):
        findings.ratio("r", "Wait", "theirs", "ours")


def test_the_bootstrap_resamples_items_and_is_the_same_every_time():
    random = np.random.default_rng(3)
    words = random.integers(1, 20, 400)
    wrong = random.binomial(words, 0.1)
    ratio = bootstrap_ratio("changed", wrong, words)
    assert ratio == bootstrap_ratio("changed", wrong, words)
    assert ratio.value == pytest.approx(wrong.sum() / words.sum(), rel=1e-4)
    # About 4000 words at 10 %: the normal interval is 1.96 * sqrt(0.1 * 0.9 / 4000) = 0.0093 to each side.
    assert ratio.value - ratio.low == pytest.approx(0.0093, rel=0.3)
    assert ratio.high - ratio.value == pytest.approx(0.0093, rel=0.3)


def test_a_bootstrap_of_equal_items_has_no_width():
    ratio = bootstrap_ratio("same", [1.0, 1.0, 1.0], [2.0, 2.0, 2.0])
    assert (ratio.value, ratio.low, ratio.high) == (0.5, 0.5, 0.5)


def test_a_comparison_is_saved_under_its_device_and_comes_back(comparison, tmp_path):
    path = save_comparison(comparison, tmp_path, "ours-theirs")
    assert path == tmp_path / comparison.device.slug / "ours-theirs.md"
    assert load_record(path.with_suffix(".json")) == comparison
    assert path.read_text() == render_comparison(comparison)


def test_the_table_has_a_column_for_each_subject_and_a_dash_where_there_is_nothing(comparison):
    text = render_comparison(comparison)
    assert "| Figure | Unit | ours | theirs |" in text
    assert "| Wait | ms | 2 (1 to 3; 3) | 4 (3 to 4; 3) |" in text
    assert "| Load | s | 0.5 (1) | - |" in text
    assert "| ours / theirs | 0.5 | 0.25 to 1 | lowest and highest round | 3 | 1.3 |" in text
    assert "**Wait**: From here to there." in text


def test_a_profile_is_a_record_too_and_rubbish_is_none(tmp_path):
    assert load_record(STORED).bundle.name == "imagined"
    (tmp_path / "p.json").write_text('{"kind": "poem"}')
    with pytest.raises(ProfileError, match=r"p\.json: "):
        load_record(tmp_path / "p.json")
