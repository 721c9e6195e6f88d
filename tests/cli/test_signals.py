"""Whatever signal ends a command: nothing half-written stays, the exit code tells which, and no traceback is shown."""

import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

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


@pytest.fixture
def waiting(program, bundle, tmp_path):
    """Start ``edgekit run`` on a pipe that nobody writes to, and return it and the pipe once it waits for sound."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    def start(**options):
        process = program("run", bundle, pipe, **options)
        return process, opened(pipe, process)

    return start


def opened(pipe, process):
    """Return the writing end of a pipe once a process waits for what it holds; one that ended would never open it.

    Not before it sleeps: Python hears of a signal that comes just before a read only when the read is over.
    """
    writer = None
    while process.poll() is None:
        if writer is None:
            with suppress(OSError):  # nobody reads it yet
                writer = os.fdopen(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK), "wb")  # wakes the reader
        elif Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "S":
            return writer
    pytest.fail(str(process.communicate()))


@pytest.mark.parametrize("number", ENDING)
def test_a_command_that_waits_for_a_pipe_is_ended(waiting, number):
    process, writer = waiting()
    with writer:
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (128 + number, "")
    assert "Traceback" not in err


def test_a_signal_that_is_ignored_from_the_start_ends_nothing(waiting):
    """As ``nohup`` does it."""
    process, writer = waiting(preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    process.send_signal(signal.SIGHUP)
    writer.close()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "pipe" in err


# Sends itself a signal: when a module is loaded, at the "exit" as a library's handler might, or at the "end", when
# Python has put its handlers away and lets go of what is kept in modules.
PROGRAM = """
import atexit, os, sys
from edgekit.__main__ import main

number, moment = int(sys.argv.pop(1)), sys.argv.pop(1)
signal = os.getpid(), number

class Loading:
    def find_spec(self, name, path=None, target=None):
        if name == "edgekit.cli" and moment == "exit":
            atexit.register(os.kill, *signal)
        if name == moment:
            os.kill(*signal)

class Kept:
    def __del__(self, kill=os.kill, signal=signal):
        kill(*signal)

sys.meta_path.insert(0, Loading())
if moment == "end":
    sys.kept = Kept()
main()
"""


@pytest.mark.parametrize("number", ENDING)
@pytest.mark.parametrize("moment", ["edgekit.cli", "click", "exit", "end"])
def test_a_signal_at_any_moment_ends_it_without_a_traceback(tmp_path, moment, number):
    """At the end nothing is left that it could end: the exit code is the command's."""
    arguments = ["report", tmp_path / "profile.json", "-o", tmp_path / "report.html"]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(int(number)), moment, *arguments],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == (1 if moment == "end" else 128 + number)
    assert done.stderr.count("\n") <= 1
    assert "Traceback" not in done.stderr
    assert names(tmp_path) == []
