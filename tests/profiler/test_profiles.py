"""Profiles: order statistics, JSON and back, and what is refused."""

import os
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edgekit.errors import OutputError, ProfileError
from edgekit.profiler.comparison import Comparison, load_record
from edgekit.profiler.profiles import (
    DEFINITIONS,
    SCHEMA_VERSION,
    Profile,
    decode_profile,
    encode_record,
    load_profile,
    save_profile,
    summarise,
)

ROOT = Path(__file__).resolve().parents[2]
RECORDS = sorted(path for path in (ROOT / "profiles").glob("*/*.json") if path.parent.name != "data")


def interpolated(samples, percent):
    """Return a percentile by its textbook formula: linear between the order statistics around (n - 1) * p."""
    ordered, place = sorted(samples), (len(samples) - 1) * percent / 100
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


@pytest.mark.parametrize("count", [1, 2, 3, 9, 10, 100, 101])
def test_percentiles_are_linear_between_order_statistics_as_numpys_default_is(count):
    samples = np.random.default_rng(count).lognormal(2.0, 1.0, count).tolist()
    metric = summarise("decode_ms", samples, level="full", pace="real time")
    assert (metric.n, metric.unit) == (count, "ms")
    for found, percent in ((metric.p50, 50), (metric.p90, 90), (metric.p99, 99), (metric.min, 0), (metric.max, 100)):
        # Stored with five significant digits.
        assert found == pytest.approx(interpolated(samples, percent), rel=5e-5)
        assert found == pytest.approx(np.percentile(samples, percent), rel=5e-5)


def test_a_profile_comes_back_from_json_unchanged(profile, tmp_path):
    save_profile(profile, tmp_path / "new" / "p.json")
    assert load_profile(tmp_path / "new" / "p.json") == profile
    assert (tmp_path / "new" / "p.json").read_bytes() == encode_record(profile)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["p.json"]


def test_a_profile_of_another_schema_is_refused_in_one_line(profile):
    text = encode_record(msgspec.structs.replace(profile, schema_version=SCHEMA_VERSION + 1))
    with pytest.raises(ProfileError, match=rf"p.json: schema version {SCHEMA_VERSION + 1}, this EdgeKit reads"):
        decode_profile(text, "p.json")


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b'{"schema_version": 1}', b'{"schema_version": "1"}'])
def test_what_is_no_profile_is_refused_by_name(text):
    with pytest.raises(ProfileError, match=r"p\.json: "):
        decode_profile(text, "p.json")


def test_an_unknown_field_is_refused(profile):
    text = encode_record(profile).replace(b'"date"', b'"moon": 1, "date"')
    with pytest.raises(ProfileError, match="moon"):
        decode_profile(text, "p.json")


def test_a_profile_that_cannot_be_written_leaves_nothing(profile, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="choose another place"):
        save_profile(profile, tmp_path / "file" / "p.json")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError):
        save_profile(profile, tmp_path / "folder")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_a_metric_is_found_by_name_pace_and_level(profile):
    assert profile.metric("decode_ms").level == "experts-2"
    assert profile.metric("decode_ms", level="full").p50 == 5.35
    assert profile.metric("decode_ms", pace="real time") is None


def test_every_metric_has_a_title_a_unit_and_a_definition():
    assert all(d.title and d.unit and d.text.endswith(".") for d in DEFINITIONS.values())


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_profile_of_the_repository_loads_and_says_where_it_was_made(path):
    record = load_record(path)
    assert isinstance(record, Profile | Comparison)
    assert path.parent.name == record.device.slug
    assert "unknown" not in (record.software.onnxruntime, record.software.numpy, record.device.cpu)


@pytest.mark.parametrize("text", [b"[" * 100_000, b'{"schema_version":' * 50_000, b'{"a": "\xff"}', b""])
def test_a_text_that_is_too_deep_or_no_utf_8_is_refused_in_one_line(text):
    with pytest.raises(ProfileError, match=r"profile\.json: .*make it again with `edgekit profile`"):
        decode_profile(text, "profile.json")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with a name here")
def test_a_pipe_that_nobody_writes_and_a_device_without_end_are_no_profile(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(OSError, match="must be a regular file"):
            load_profile(path)
