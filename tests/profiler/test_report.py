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


def _with_bundle(profile, **facts):
    return msgspec.structs.replace(profile, bundle=msgspec.structs.replace(profile.bundle, **facts))


def _with_metric(profile, name, level=None, **figures):
    changed = [
        msgspec.structs.replace(m, **figures) if m.name == name and level in (None, m.level) else m
        for m in profile.metrics
    ]
    return msgspec.structs.replace(profile, metrics=tuple(changed))


def test_words_changed_and_a_waiver_stand_above_every_figure(profile):
    waiver = "word_error_rate 0.213, the recipe allows 0.05; the reason given: a demo"
    lossy = _with_bundle(profile, words_changed={"experts-2": 0.31, "full": 0.213}, twin="whole", waiver=waiver)
    for render in (render_markdown, render_html):
        text = render([lossy])
        for message in (
            "Words changed against float at level",
            "21.3 %",
            "Waiver: imagined int8 failed its export",
            waiver.replace("'", "&#39;") if render is render_html else waiver,
        ):
            assert text.index(message) < text.index("First token, without the decision")
        assert "Waiver" not in render([profile])


def test_words_changed_are_those_of_the_level_that_was_measured(profile):
    lossy = _with_bundle(profile, words_changed={"experts-2": 0.31, "full": 0.2}, twin="whole")
    cheap = msgspec.structs.replace(lossy, settings=msgspec.structs.replace(lossy.settings, level="experts-2"))
    assert "at level `full`: 20 %" in render_markdown([lossy])
    assert "at level `experts-2`: 31 %" in render_markdown([cheap])


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"words_changed": {"full": 0.004}, "twin": "whole"}, "against float: 0.4 %"),
        ({"words_changed": {"full": 0.0}, "twin": "whole"}, "against float: 0 %"),
        ({"twin": "weights"}, "not measured, its export ran no float twin beside it; only its weights"),
        ({"twin": "none"}, "of no meaning"),
        ({"dummy_seed": 3}, "of no meaning"),
        ({"precision": {"encoder": "float32"}}, "none, nothing is rounded"),
        ({}, "against float: not recorded"),
    ],
)
def test_what_is_not_known_of_the_words_is_said_too(profile, facts, message):
    assert message in render_markdown([_with_bundle(profile, **facts)])
    assert message in render_html([_with_bundle(profile, **facts)])


def test_side_by_side_have_ratios_and_every_bundle_its_own_loss(profile, slower):
    half = msgspec.structs.replace(_with_bundle(slower, twin="whole", words_changed={"full": 0.2}), date="2026-02-01")
    text = render_markdown([profile, half])
    assert "| imagined int8 2026-01-31 | imagined float32 2026-02-01 | imagined float32 2026-02-01 / " in text
    assert "| 24 / 29.6 / 30.9 | 48 / 59.2 / 61.7 | 2 |" in text
    assert "imagined float32 2026-02-01: Words changed against float: 20 %" in text
    assert "a ratio near 1 tells nothing" in text
    assert text.count("Words changed against float") == 2


def test_profiles_of_different_clips_are_not_said_to_compare(profile, slower):
    clips = tuple(msgspec.structs.replace(clip, sha256="2" * 64) for clip in profile.settings.clips)
    other = msgspec.structs.replace(slower, settings=msgspec.structs.replace(slower.settings, clips=clips))
    assert "different clips: their latencies do not compare" in render_markdown([profile, other])
    assert "different clips" not in render_markdown([profile, slower])


def test_bundles_are_told_apart_by_what_differs(profile):
    one = _with_bundle(profile, precision={"encoder": "int8", "backbone": "int4", "head": "int8"})
    two = _with_bundle(profile, precision={"encoder": "int8", "backbone": "int8", "head": "int4"})
    assert column_labels([one, two]) == [
        "imagined backbone int4, head int8",
        "imagined backbone int8, head int4",
    ]
    coarse, fine = _with_bundle(profile, chunk_ms=1280), _with_bundle(profile, chunk_ms=320)
    assert column_labels([coarse, fine]) == ["imagined int8 chunks of 1,280 ms", "imagined int8 chunks of 320 ms"]
    again = _with_bundle(profile, manifest_sha256="ab" * 32)
    digest = profile.bundle.manifest_sha256[:8]
    assert column_labels([profile, again]) == [f"imagined int8 {digest}", "imagined int8 abababab"]


def test_a_level_that_is_slower_is_not_called_cheaper(profile):
    swapped = _with_metric(profile, "decode_ms", "experts-2", p50=9.0)
    sentences = " ".join(diagnose(swapped))
    assert "the level that the Policy falls to is slower here" in sentences
    assert "catch up" not in sentences
    assert "saves nothing" in " ".join(diagnose(_with_metric(profile, "decode_ms", "experts-2", p50=5.2)))


def test_prefill_is_that_of_the_level_whose_wait_is_told(profile):
    work = profile.metric("first_token_ms")
    other = summarise("prefill_ms", [0.9 * work.p50] * 3, level="experts-2", pace=work.pace)
    kept = [m for m in profile.metrics if m.name != "prefill_ms"]
    assert "prefill" not in " ".join(diagnose(msgspec.structs.replace(profile, metrics=(other, *kept))))
    own = msgspec.structs.replace(other, level=work.level)
    for takes, advice in ((True, "a shorter prompt helps"), (False, "a smaller backbone helps")):
        long = msgspec.structs.replace(_with_bundle(profile, takes_prompt=takes), metrics=(own, *kept))
        assert advice in " ".join(diagnose(long))


def test_advice_names_only_what_there_is_to_choose(profile):
    slow = _with_metric(profile, "real_time_factor", p50=1.2, p90=1.3)
    assert "Choose a smaller precision, a cheaper level or a smaller model." in " ".join(diagnose(slow))
    one_level = tuple(m for m in slow.metrics if m.level in ("full", ""))
    fewest = msgspec.structs.replace(_with_bundle(slow, precision={"backbone": "int4"}), metrics=one_level)
    assert "Choose a smaller model." in " ".join(diagnose(fewest))


def test_a_gate_that_is_off_does_no_work_of_its_own(profile):
    assert "the gate's own work" in " ".join(diagnose(profile))
    assert "the gate is off" in " ".join(diagnose(_with_bundle(profile, gate="off")))


def test_a_figure_that_varies_by_nature_is_no_sign_of_a_busy_machine(profile):
    assert "x its median" not in " ".join(diagnose(_with_metric(profile, "final_text_ms", n=50, p99=10_000.0)))


def test_numbers_are_written_as_people_write_them(profile):
    slow = _with_metric(profile, "first_token_ms", p50=1010.0, p90=12_345.6, p99=99.96)
    for render in (render_markdown, render_html):
        text = render([slow])
        assert "1,010" in text
        assert "12,346" in text
        assert not re.search(r"\d\.?\d*e[+-]\d", re.sub(r"<svg.*?</svg>", "", text, flags=re.DOTALL))
    assert "1,010 / 12,346 / 100" in render_html([slow])
    assert "1,010 ms are work" in " ".join(diagnose(slow))
