"""Commands on a backend that is not there: one line, or the CPU where that is allowed, told in every report."""

import json

import pytest

from edgekit.runtime.backends.ort_cpu import CPU
from tests.cli.conftest import RECIPE
from tests.reference import checkpoints

CUDA = "onnxruntime-cuda"


@pytest.fixture(scope="module")
def made_for_cuda(tmp_path_factory):
    from edgekit.exporter.export import ExportOptions, export

    folder = tmp_path_factory.mktemp("cuda")
    checkpoint = checkpoints.write(folder / "checkpoint", "whisper-dense")
    export(checkpoint, folder / "bundle", ExportOptions(recipe=RECIPE, target="desktop-cuda", precision="float32"))
    return folder / "bundle"


def test_a_backend_that_is_not_there_is_one_line_and_exit_code_1(cli, made_for_cuda, wav):
    code, out, err = cli("run", made_for_cuda, wav())
    assert (code, out) == (1, "")
    assert err.startswith("edgekit: onnxruntime ")
    assert err.count("\n") == 1


def test_a_fallback_is_told_on_stderr_and_with_each_line_of_json(cli, made_for_cuda, wav):
    path = wav()
    code, expected, err = cli("run", made_for_cuda, path, "--backend", CPU)
    assert (code, err) == (0, "")
    code, out, err = cli("run", made_for_cuda, path, "--allow-fallback")
    assert (code, out) == (0, expected)
    assert err.startswith(f"edgekit: fell back to {CPU} ({CUDA}: ")
    _, out, _ = cli("run", made_for_cuda, path, "--allow-fallback", "--json")
    assert all(json.loads(line)["fallback"].startswith(f"{CUDA}: ") for line in out.splitlines())


def test_verify_says_what_it_ran_on(cli, made_for_cuda):
    code, _, err = cli("verify", made_for_cuda)
    assert code == 1
    assert err.count("\n") == 1
    _, out, err = cli("verify", made_for_cuda, "--allow-fallback", "--json")
    assert json.loads(out)["backend"] == CPU
    assert json.loads(out)["fallback"].startswith(f"{CUDA}: ")
    assert "fell back" in err


def test_a_profile_keeps_the_fallback_and_the_length_of_the_cache(cli, made_for_cuda, wav, tmp_path):
    arguments = ("--allow-fallback", "--context-tokens", 20, "--repeat", 1, "--warmup", 0, "--no-realtime")
    code, _, err = cli("profile", made_for_cuda, wav(), "-o", tmp_path / "p.json", *arguments)
    assert code == 0, err
    settings = json.loads((tmp_path / "p.json").read_text())["settings"]
    assert (settings["backend"], settings["context_tokens"]) == (CPU, 20)
    assert settings["fallback"].startswith(f"{CUDA}: ")


@pytest.mark.parametrize("tokens", [0, -1, 10**6])
def test_a_cache_that_the_bundle_does_not_admit_is_refused(cli, bundle, wav, tokens):
    code, out, err = cli("run", bundle, wav(), "--context-tokens", tokens)
    assert (code, out) == (2, "")
    assert f"context_tokens: {tokens}, this bundle takes 1 to " in err


def test_the_live_comparison_takes_no_backend(cli, bundle):
    code, _, err = cli("verify", bundle, "--reference", "none", "--backend", CPU)
    assert code == 2
    assert "--reference: compares on the CPU" in err
