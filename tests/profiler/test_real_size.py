"""profiles/bench/real-size.py on a system that takes no time: what it finds, and what it tells of one too large."""

import importlib.util
import json
from pathlib import Path

import msgspec
import pytest

from edgekit.exporter.export import ExportOptions, export
from edgekit.profiler.comparison import render_comparison, save_comparison
from edgekit.profiler.traffic import token_bytes, weight_bytes

ROOT = Path(__file__).resolve().parents[2]
QUICK = ROOT / "tests/exporter/quick.toml"


@pytest.fixture(scope="module")
def script():
    """Return the script as a module."""
    spec = importlib.util.spec_from_file_location("real_size", ROOT / "profiles/bench/real-size.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def measured(script, tmp_path_factory):
    """Return what the script finds of a tiny system, but for what comes from processes that it starts."""
    config = json.loads((ROOT / "profiles/data/configs/step-audio-2-mini.json").read_text())
    config["eos_token_id"] = [315]
    config["text_config"] |= {
        "vocab_size": 320,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    config["audio_encoder_config"] |= {"n_audio_state": 64, "n_audio_head": 4, "n_audio_layer": 1, "llm_dim": 128}
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "tiny.json").write_text(json.dumps(config))
    options = ExportOptions(recipe=QUICK, precision="int8", dummy_weights=True)
    manifest = export(folder / "tiny.json", folder / "b", options)
    process = {"wall_s": 1.0, "cpu_s": 1.0, "peak_mib": 90.0, "peak_anonymous_mib": 60.0, "others_cores": 0.0}
    return {
        "date": "2026-01-01",
        "software": "0",
        "versions": {"onnxruntime": "1"},
        "config": "tiny.json",
        "config_sha256": "0" * 64,
        "precision": "int8",
        "threads": 1,
        "estimated_bytes": script.estimate(folder / "tiny.json"),
        "memory_mib": 1000,
        "export": process,
        "weight_bytes": weight_bytes(manifest),
        "run": process,
        "answer": script.load_and_answer(folder / "b", 1, 1),
        "bandwidth": [1e9, 2e9, 3e9],
        "token_bytes": dict(token_bytes(manifest, 100)),
    }


def test_every_pass_writes_as_many_tokens_as_were_asked_for(script, measured):
    passes = measured["answer"]["passes"]
    assert [len(one["decode_s"]) for one in passes] == [script.TOKENS] * 2
    assert all(one["hear_s"] > 0 and one["prefill_s"] > 0 for one in passes)
    assert measured["answer"]["prompt_tokens"] > 125  # ten seconds at 12.5 a second, and the text around them


def test_memory_is_compared_with_the_weights_and_speed_with_the_bandwidth(script, measured):
    told = script.compare({"tiny": measured})
    peak = max(90.0, measured["answer"]["answered"]["peak_mib"])
    ratio, share = told.ratios
    assert ratio.limit == 1.2
    assert ratio.value == pytest.approx(peak * 2**20 / measured["weight_bytes"])
    speed = script.TOKENS / sum(measured["answer"]["passes"][1]["decode_s"])  # the first pass does not count
    assert share.value == pytest.approx(speed * sum(measured["token_bytes"].values()) / 2e9)
    assert told.notes == ("tiny: the export takes at most 0.09 GB of memory, within the limit of 3 GB.",)


def test_others_at_work_are_told(script, measured):
    busy = measured | {"run": measured["run"] | {"others_cores": 1.5}}
    assert "was busy: other work held 0.0 cores during the export and 1.5" in script.compare({"tiny": busy}).notes[1]


def test_a_system_that_does_not_fit_is_told_with_what_would(script, measured):
    sizes = {"parameters": 3e9, "int8": 3.1e9, "int4": 1.6e9}
    failed = measured | {"failure": "3.1 GB of weights", "estimated_bytes": sizes, "memory_mib": 2000}
    for key in ("answer", "run", "export"):
        del failed[key]
    told = script.compare({"tiny": measured, "large": failed})
    assert told.notes[1] == "large does not fit: 3.1 GB of weights. Would fit: int4 (1.6 GB)."
    assert "| Parameters | 10^9 |" in render_comparison(told)


def test_what_is_written_is_found_again(script, measured, tmp_path):
    path = save_comparison(script.compare({"tiny": measured}), tmp_path, "real-size")
    assert script.found_rows(path.with_suffix(".json")) == {"tiny": msgspec.to_builtins(measured)}
    assert script.found_rows(tmp_path / "none.json") == {}


def test_the_estimate_knows_what_the_published_sizes_take(script):
    sizes = script.estimate(ROOT / "profiles/data/configs/step-audio-2-mini.json")
    assert sizes["parameters"] == 8_315_179_264
    assert 8.5e9 < sizes["int8"] < 8.7e9
    assert 4.4e9 < sizes["int4"] < 4.6e9
