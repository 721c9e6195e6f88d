"""Reports render from stored profiles: complete, self-contained, and the same every time."""

import hashlib
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from edgekit.errors import UsageError
from edgekit.profiler.diagnosis import diagnose
from edgekit.profiler.profiles import DEFINITIONS, summarise
from edgekit.profiler.report import column_labels, render_html, render_markdown
from tests.profiler.conftest import STORED

ROOT = Path(__file__).resolve().parents[2]
RENDER = (
    "import hashlib, sys; from edgekit.profiler import load_profile, render_html, render_markdown; "
    "p = [load_profile(sys.argv[1])]; print(hashlib.sha256((render_html(p) + render_markdown(p)).encode()).hexdigest())"
)


def test_markdown_shows_every_figure_its_definition_and_where_it_comes_from(profile):
    text = render_markdown([profile])
    for metric in profile.metrics:
        assert DEFINITIONS[metric.name].title in text
        assert DEFINITIONS[metric.name].text in text
    assert "| First token, without the decision | ms | 24 | 29.6 | 30.9 | 20 | 31 | 3 |" in text
    for fact in ("Imagined Processor <4>", "onnxruntime 1.31.0", "0" * 64, "1" * 64, "2026-01-31", "unknown"):
        assert fact in text


def test_dummy_weights_are_told_above_every_figure(profile):
    dummy = msgspec.structs.replace(profile, bundle=msgspec.structs.replace(profile.bundle, dummy_seed=1))
    for render in (render_markdown, render_html):
        text = render([dummy])
        assert text.index("Dummy weights: ") < text.index("First token, without the decision")
        assert render([dummy, profile]).count("Dummy weights: ") == 1
        assert "Dummy weights" not in render([profile])


def test_a_fallback_is_told_above_every_figure_and_what_ran_stands_with_the_facts(profile):
    settings = msgspec.structs.replace(
        profile.settings, fallback="tensorrt: no device", context_tokens=4096, engines={"backbone": {"replayed": 12}}
    )
    fallen = msgspec.structs.replace(profile, settings=settings)
    for render in (render_markdown, render_html):
        text = render([fallen])
        told = "Fallback: measured on onnxruntime-cpu, because of tensorrt: no device."
        assert text.index(told) < text.index("First token, without the decision")
        assert "a KV cache of 4,096 tokens; backbone: 12 replayed" in text
        assert render([fallen, profile]).count(told) == 1
        assert "Fallback" not in render([profile])


def test_html_is_one_file_with_plots_and_nothing_from_elsewhere(profile):
    page = render_html([profile])
    assert page.count("<svg") == 3
    assert not re.search(r"""(?:src|href)=["'](?!#)""", page.replace("xlink:href", "href"))
    assert "<script" not in page
    assert "Imagined Processor &lt;4&gt;" in page
    assert "<metadata>" not in page


def test_ids_of_one_plot_are_not_those_of_another(profile):
    plots = re.findall(r"<svg.*?</svg>", render_html([profile]), flags=re.DOTALL)
    clips = [set(re.findall(r'<clipPath id="([^"]+)"', plot)) for plot in plots]
    assert all(clips)
    assert not (clips[0] & clips[1]) | (clips[1] & clips[2])


def test_the_same_profile_gives_the_same_bytes_in_another_process(profile):
    here = hashlib.sha256((render_html([profile]) + render_markdown([profile])).encode()).hexdigest()
    done = subprocess.run(
        [sys.executable, "-c", RENDER, str(STORED)],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == here


def test_several_profiles_stand_side_by_side(profile, slower):
    text = render_markdown([profile, slower])
    assert "| Figure | Unit | imagined int8 | imagined float32 |" in text
    assert "| First token, without the decision | ms | 24 / 29.6 / 30.9 | 48 / 59.2 / 61.7 |" in text
    page = render_html([profile, slower])
    assert page.count("<svg") == 4
    assert "Side by side: imagined int8, imagined float32" in page


def test_a_figure_that_one_profile_lacks_is_a_dash(profile, slower):
    fewer = msgspec.structs.replace(slower, metrics=slower.metrics[1:])
    assert "| First token, without the decision | ms | 24 / 29.6 / 30.9 | - |" in render_markdown([profile, fewer])


def test_labels_say_what_tells_profiles_apart(profile, slower):
    other = msgspec.structs.replace(profile, settings=msgspec.structs.replace(profile.settings, threads=1))
    assert column_labels([profile]) == ["imagined int8"]
    assert column_labels([profile, slower]) == ["imagined int8", "imagined float32"]
    assert column_labels([profile, other]) == ["imagined int8 4 threads", "imagined int8 1 threads"]
    assert column_labels([profile, profile]) == ["imagined int8 #1", "imagined int8 #2"]


def test_a_profile_without_latency_or_timeline_still_renders(profile):
    bare = msgspec.structs.replace(profile, metrics=profile.metrics[-1:], timeline=None)
    assert "<svg" not in render_html([bare])
    assert "Peak memory" in render_markdown([bare])


def test_no_profile_is_no_report():
    for render in (render_html, render_markdown):
        with pytest.raises(UsageError, match="profiles: none given"):
            render([])


def test_the_diagnosis_says_what_the_wait_is_made_of(profile):
    sentences = " ".join(diagnose(profile))
    assert "waits 524 ms for the first token (median): 500 ms tell the end of speech from a pause (95%)" in sentences
    assert "24 ms are work. The final text follows 86 ms later." in sentences
    assert "`min_silence_ms`" in sentences
    assert "idle 94% of the time" in sentences
    assert "Level `full` takes 5.3 ms per token, `experts-2` 3.2 ms: 1.6 x" in sentences
    assert "power mode is unknown" in sentences
    assert "simulated" in sentences


@pytest.mark.parametrize(("factor", "part"), [(1.2, "does not keep up"), (0.8, "only while nothing else runs")])
def test_the_diagnosis_warns_of_a_device_that_hardly_keeps_up(profile, factor, part):
    metrics = [
        msgspec.structs.replace(m, p50=factor, p90=factor) if m.name == "real_time_factor" else m
        for m in profile.metrics
    ]
    assert part in " ".join(diagnose(msgspec.structs.replace(profile, metrics=tuple(metrics))))


def test_the_diagnosis_of_a_wide_spread_names_the_widest_figure(profile):
    metrics = [
        msgspec.structs.replace(m, n=50, p99=40 * m.p50) if m.name == "encoder_ms" else m for m in profile.metrics
    ]
    assert "`encoder_ms` has a p99 40.0 x its median" in " ".join(
        diagnose(msgspec.structs.replace(profile, metrics=tuple(metrics)))
    )


def test_speech_has_its_rows_bars_and_sentences_where_it_was_measured(profile):
    assert "First sound" not in render_markdown([profile])
    figures = {"first_audio_ms": 180.0, "first_audio_with_decision_ms": 680.0, "speech_real_time_factor": 0.62}
    spoken = [summarise(name, [value] * 3, level="full", pace="real time") for name, value in figures.items()]
    definitions = {name: DEFINITIONS[name].text for name in figures}
    heard = msgspec.structs.replace(
        profile, metrics=(*profile.metrics, *spoken), definitions=profile.definitions | definitions
    )
    text, page = render_markdown([heard]), render_html([heard])
    assert "| First sound of the answer, without the decision | ms | 180 | 180 | 180 | 180 | 180 | 3 |" in text
    assert page.count("First sound of the answer") > text.count("First sound of the answer")
    sentences = " ".join(diagnose(heard))
    assert "The answer is heard 180 ms after the decision (median)" in sentences
    assert "a second of it takes 0.62 s." in sentences
    assert "The voice stops" not in sentences
    slow = [msgspec.structs.replace(m, p90=1.1) if m.name == "speech_real_time_factor" else m for m in heard.metrics]
    assert "up to 1.10 s (p90)" in " ".join(diagnose(msgspec.structs.replace(heard, metrics=tuple(slow))))
