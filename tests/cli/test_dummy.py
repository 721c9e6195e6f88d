"""Dummy weights as a user meets them: every command that shows what they give says so."""

import json

import numpy as np
import pytest
import soundfile

from tests.cli.conftest import RECIPE

LABEL = "edgekit: tiny-dummy holds dummy weights: its text means nothing\n"


@pytest.fixture
def dummy(cli, checkpoint, tmp_path):
    """Return the bundle that the command line makes of a config alone, and what it printed."""
    alone = tmp_path / "config.json"
    alone.write_bytes((checkpoint / "config.json").read_bytes())
    code, out, _ = cli("export", alone, "-o", tmp_path / "b", "--recipe", RECIPE, "--dummy-weights")
    assert code == 0
    return tmp_path / "b", out


def test_export_run_listen_and_verify_say_that_weights_are_dummies(cli, dummy, checkpoint, wav):
    bundle, out = dummy
    assert "tiny-dummy" in out.splitlines()[0]
    assert out.splitlines()[1] == "  dummy weights: noise of seed 1, to measure with; its text means nothing"
    path = wav()
    code, out, err = cli("run", bundle, path)
    assert (code, err) == (0, LABEL)
    assert set(out) == {"▯", "\n"}
    code, out, err = cli("run", bundle, path, "--json")
    assert err == LABEL
    assert {json.loads(line)["dummy"] for line in out.splitlines()} == {True}
    code, _, err = cli("listen", bundle, "--simulate", path, "--gate", "off")
    assert (code, err.startswith(LABEL)) == (0, True)
    code, out, err = cli("verify", bundle, "--reference", checkpoint)
    assert (code, out) == (1, "")
    assert err.startswith(f"edgekit: {bundle}: holds dummy weights")
    assert err.count("\n") == 1


def test_profile_and_report_say_that_weights_are_dummies(cli, dummy, tmp_path):
    bundle, _ = dummy
    soundfile.write(tmp_path / "talk.wav", np.random.default_rng(8).uniform(-0.5, 0.5, 8000), 16_000)
    made = tmp_path / "p.json"
    code, _, err = cli(
        "profile", bundle, tmp_path / "talk.wav", "-o", made, "--no-realtime", "--repeat", "1", "--warmup", "0"
    )
    assert code == 0
    assert LABEL in err
    assert json.loads(made.read_text())["bundle"]["dummy_seed"] == 1
    code, out, _ = cli("report", made)
    assert code == 0
    assert out.splitlines()[2].startswith("**Dummy weights: tiny-dummy holds noise")


def test_a_config_without_weights_is_refused_unless_dummies_are_asked_for(cli, checkpoint, tmp_path):
    (tmp_path / "config.json").write_bytes((checkpoint / "config.json").read_bytes())
    code, out, err = cli("export", tmp_path / "config.json", "-o", tmp_path / "b", "--recipe", RECIPE)
    assert (code, out) == (1, "")
    assert "or pass --dummy-weights to measure its shape" in err
