"""profile_bundle measures what it says it does, on a bundle of random weights."""

import numpy as np
import pytest
import soundfile

from edgekit.bundle import hash_file
from edgekit.errors import AudioError, ProfileError, UsageError
from edgekit.profiler import load_profile, profile_bundle, render_html, save_profile
from edgekit.profiler.fresh import Job, measure_fresh, measure_import, resident_mib
from tests.runtime.conftest import tiny_bundle  # noqa: F401 - a fixture


@pytest.fixture
def bundle(tiny_bundle):  # noqa: F811 - the fixture
    """Return the folder of a bundle of random weights, gate off."""
    return tiny_bundle().folder


@pytest.fixture
def clip(tmp_path):
    """Return a file of 0.3 s of noise."""
    soundfile.write(tmp_path / "noise.wav", np.random.default_rng(8).uniform(-0.5, 0.5, 4800), 16_000)
    return tmp_path / "noise.wav"


def test_a_profile_has_every_figure_at_every_level_and_renders(bundle, clip, tmp_path):
    steps = []
    measured = profile_bundle(
        bundle, [clip], paced=True, repeat=2, warmup=1, threads=1, progress=lambda *step: steps.append(step)
    )
    assert {metric.name for metric in measured.metrics} == set(measured.definitions)
    for name in ("encoder_ms", "decode_ms", "real_time_factor"):
        assert {m.level for m in measured.metrics if m.name == name and m.pace == "back to back"} == {"light", "full"}
    counts = {(m.name, m.level, m.pace): m.n for m in measured.metrics}
    assert counts["first_token_ms", "full", "real time"] == 2
    assert counts["real_time_factor", "light", "back to back"] == 2
    assert counts["drafted_final_text_ms", "full", "real time"] == 2
    assert counts["drafted_real_time_factor", "full", "back to back"] == 2
    assert counts["first_draft_ms", "full", "real time"] == counts["drafted", "full", "real time"] == 2
    assert 2 <= counts["draft_ms", "full", "real time"] <= 2 * 3
    assert counts["encoder_ms", "full", "real time"] == 2 * 5  # 30 frames and a tail of 4, in chunks of 8
    assert counts["peak_memory_mib", "full", "fresh process"] == 2
    without, whole = measured.metric("first_token_ms"), measured.metric("first_token_with_decision_ms")
    assert whole.p50 == pytest.approx(without.p50, rel=1e-3)  # gate off: there is nothing to decide
    assert measured.timeline is not None
    assert measured.bundle.manifest_sha256 == hash_file(bundle / "manifest.json")
    assert [step[0] for step in steps] == sorted(step[0] for step in steps)
    assert steps[-1][0] < steps[-1][1]
    save_profile(measured, tmp_path / "p.json")
    assert render_html([load_profile(tmp_path / "p.json")]).count("<svg") == 3


def test_a_pinned_level_is_the_only_one_measured(bundle, clip):
    measured = profile_bundle(bundle, [clip], paced=False, repeat=1, warmup=0, level="light", threads=1)
    assert {metric.level for metric in measured.metrics} == {"light"}
    assert {metric.pace for metric in measured.metrics} == {"back to back", "fresh process"}
    assert measured.timeline is None
    assert any("not paced" in note for note in measured.notes)


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"repeat": 0}, "repeat 0"),
        ({"warmup": -1}, "warmup -1"),
        ({"level": "none"}, "level: 'none' is not in this bundle"),
    ],
)
def test_a_request_that_cannot_be_is_refused(bundle, clip, options, part):
    with pytest.raises(UsageError, match=part):
        profile_bundle(bundle, [clip], **options)


def test_a_profile_of_nothing_or_of_silence_is_refused(bundle, tmp_path):
    with pytest.raises(UsageError, match="clips: none given"):
        profile_bundle(bundle, [])
    soundfile.write(tmp_path / "silence.wav", np.zeros(1000), 16_000)
    with pytest.raises(AudioError, match="nothing but silence"):
        profile_bundle(bundle, [tmp_path / "silence.wav"])


def test_a_fresh_process_has_its_own_memory_and_not_its_parents(bundle, tmp_path):
    np.save(tmp_path / "s.npy", np.zeros(1600, np.float32))
    ballast = np.ones(64 << 20, np.float32)  # 256 MiB in this process
    took = measure_fresh(Job(str(bundle), str(tmp_path / "s.npy"), 1, "off", None))
    assert ballast.nbytes >> 20 < resident_mib(peak=True)
    assert 0 < took.loaded_mib <= took.peak_mib < 256
    assert took.load_s > 0


def test_a_fresh_process_that_fails_says_why_in_one_line(tmp_path):
    np.save(tmp_path / "s.npy", np.zeros(1600, np.float32))
    with pytest.raises(ProfileError, match=r"fresh process: exit code 1 \(.*BundleFileError.*no such folder") as caught:
        measure_fresh(Job(str(tmp_path / "none"), str(tmp_path / "s.npy"), 1, None, None))
    assert "\n" not in str(caught.value)


def test_import_is_measured_in_milliseconds():
    assert 1 < measure_import() < 60_000
