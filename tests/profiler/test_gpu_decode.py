"""profiles/bench/gpu-decode.py on a toy and the CPU: every step of it but the GPU's own."""

import argparse
import importlib.util
from pathlib import Path

import pytest

from edgekit.profiler.comparison import render_comparison
from edgekit.runtime.backends.ort import load_component

ROOT = Path(__file__).resolve().parents[2]
STEPS, ROUNDS = 6, 2


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("gpu_decode", ROOT / "profiles/bench/gpu-decode.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    return argparse.Namespace(
        device="cpu", rounds=ROUNDS, steps=STEPS, context=128, tiny=True, keep=False,
        work=tmp_path_factory.mktemp("work"),
    )  # fmt: skip


@pytest.fixture(scope="module")
def measured(script, settings):
    return script.measure("moe-small", "int4", settings)


def test_every_form_of_a_step_is_measured_in_every_round(script, measured):
    assert set(measured["decode_s"]) == {script.GRAPH, script.BOUND, script.DEFAULTS}
    for rounds in measured["decode_s"].values():
        assert [len(taken) for taken in rounds] == [STEPS - 2] * ROUNDS
    assert {form: len(taken) for form, taken in measured["encoder_s"].items()} == {
        script.GRAPH: ROUNDS, script.BOUND: ROUNDS
    }  # fmt: skip
    assert len(measured["first_token_s"]) == ROUNDS
    assert min(measured["first_token_s"]) > 0
    assert measured["torch"].startswith("not run: ")


def test_the_cpu_agrees_with_itself_and_nothing_is_left_behind(script, measured, settings):
    assert measured["distances"] == [0.0] * (1 + script.CHECKED)
    assert measured["same_token"] == [True] * (1 + script.CHECKED)
    assert [path.suffix for path in settings.work.iterdir()] == [".json"]


def test_what_is_too_far_from_the_cpu_and_the_share_of_the_bandwidth_are_told(script, measured, settings):
    far = measured | {"distances": [0.5], "same_token": [False], "copies": [1e9], "state": [{"name": "NVIDIA H100"}]}
    told = script.compare({"moe-small-int4": measured, "dense-7b-int8": far}, settings)
    assert "moe-small-int4 agrees with the CPU" in told.notes[0]
    assert told.notes[3].startswith("dense-7b-int8 IS TOO FAR FROM the CPU: 0.5000 of the largest logit, 0 of 1")
    assert [ratio.limit for ratio in told.ratios] == [None, 0.6]
    rounds = measured["decode_s"][script.GRAPH]
    fastest = max(len(taken) / sum(taken) for taken in rounds)
    assert told.ratios[1].high == pytest.approx(fastest * sum(measured["token_bytes"].values()) / 1e9)
    assert "torch not run" in render_comparison(told)


def test_the_folder_is_named_after_the_gpu(script, measured, settings):
    row = measured | {"state": [{"name": "NVIDIA H100 80GB HBM3"}]}
    assert script.compare({"moe-small-int4": row}, settings).device.slug == "nvidia-h100-80gb-hbm3"


def test_state_that_comes_and_goes_gives_what_bound_state_gives(script, settings, tmp_path):
    args = argparse.Namespace(**vars(settings) | {"keep": True, "work": tmp_path})
    script.measure("dense-0.5b", "int8", args)
    engine = load_component(script.open_bundle(tmp_path / "dense-0.5b-int8"), "backbone", 1)
    calls = [engine.bind({"context": 32}), script.Unbound(engine, 32)]
    for at, tokens in ((0, 3), (3, 1), (4, 1)):
        bound, unbound = (call.run(script.step(engine, at, tokens))["logits"] for call in calls)
        assert (bound == unbound).all()
