"""Whatever signal ends a command: nothing half-written stays, the exit code tells which, and no traceback is shown."""

import os
import shutil
import signal

import pytest

from edgekit.bundle import open_bundle
from tests.cli.conftest import RECIPE

ENDING = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.fixture
def begun(program, tmp_path):
    """Start a command that writes a bundle to ``made/b``, and return it once it has begun to write."""

    def start(*arguments):
        process = program(*arguments, "-o", tmp_path / "made/b")
        while not list(tmp_path.glob("made/.b.*.partial/new")):
            assert process.poll() is None, process.communicate()
        return process

    return start


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("number", ENDING)
def test_an_export_that_a_signal_ends_leaves_nothing(begun, checkpoint, tmp_path, number):
    process = begun("export", checkpoint, "--recipe", RECIPE)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (128 + number, "")
    assert err.strip() == ""
    assert names(tmp_path / "made") == []


def test_a_quantisation_that_is_ended_twice_leaves_the_bundle_that_was_to_be_replaced(
    begun, cli, checkpoint, bundle, tmp_path
):
    assert cli("export", checkpoint, "-o", tmp_path / "f", "--recipe", RECIPE, "--precision", "float32")[0] == 0
    shutil.copytree(bundle, tmp_path / "made/b")
    process = begun("quantize", tmp_path / "f", "--overwrite")
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode in {128 + signal.SIGTERM, -signal.SIGTERM}  # the second may find it cleaned up
    assert names(tmp_path / "made") == ["b"]
    open_bundle(tmp_path / "made/b")


def test_what_a_killed_export_left_is_cleared_by_the_next_and_not_by_one_to_another_place(
    begun, cli, checkpoint, tmp_path
):
    process = begun("export", checkpoint, "--recipe", RECIPE)
    code, _, err = cli("export", checkpoint, "-o", tmp_path / "made/b", "--recipe", RECIPE)
    assert (code, err.count("\n")) == (1, 1)
    assert err.startswith(f"edgekit: {tmp_path / 'made/b'}: another export is writing it; wait for that, or choose")
    process.kill()
    process.communicate(timeout=60)
    (left,) = names(tmp_path / "made")
    for name, expected in (("other", [left, "other"]), ("b", ["b", "other"])):
        assert cli("export", checkpoint, "-o", tmp_path / "made" / name, "--recipe", RECIPE)[0] == 0
        assert names(tmp_path / "made") == expected
        open_bundle(tmp_path / "made" / name)


@pytest.mark.parametrize("number", ENDING)
def test_a_report_that_a_signal_ends_is_not_written(program, tmp_path, number):
    os.mkfifo(tmp_path / "profile.json")
    process = program("report", tmp_path / "profile.json", "-o", tmp_path / "report.html")
    with (tmp_path / "profile.json").open("wb"):  # waits until it is being read
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err.strip()) == (128 + number, "", "")
    assert names(tmp_path) == ["profile.json"]


def test_a_signal_that_is_ignored_from_the_start_ends_nothing(program, tmp_path):
    """As ``nohup`` does it."""
    os.mkfifo(tmp_path / "profile.json")
    arguments = ("report", tmp_path / "profile.json", "-o", tmp_path / "report.html")
    process = program(*arguments, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    with (tmp_path / "profile.json").open("wb"):
        process.send_signal(signal.SIGHUP)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "profile.json" in err
