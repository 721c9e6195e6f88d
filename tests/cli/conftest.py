"""A bundle of random weights, exported once by the command line itself, and ways to run commands."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from edgekit.cli import main
from edgekit.cli.group import Invocation, edgekit
from tests.reference import checkpoints

ROOT = Path(__file__).resolve().parents[2]
CUT = re.compile(r"text cut at \d+\.\d\d s: (nobody says so much in that time|it began to repeat itself)$")
RECIPE = Path(__file__).parent / "quick.toml"


def uncut(err: str) -> str:
    """Return stderr without the lines that say that an answer was cut: random weights never stop by themselves."""
    return "".join(line for line in err.splitlines(keepends=True) if not CUT.search(line))


@pytest.fixture
def cli(whole_cli):
    """Do as ``whole_cli`` does, but for ``uncut``."""

    def run(*arguments):
        code, out, err = whole_cli(*arguments)
        return code, out, uncut(err)

    return run


@pytest.fixture
def whole_cli(capfd):
    """Run a command in this process and return exit code, stdout and stderr."""

    def run(*arguments):
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return end.value.code, out, err

    return run


@pytest.fixture
def program(tmp_path):
    """Start a command as a process of its own, in tmp_path, and return its Popen with pipes of text."""
    started = []

    def start(*arguments, **options):
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        process = subprocess.Popen(
            [sys.executable, "-m", "edgekit", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=options.pop("cwd", tmp_path),
            env=os.environ | {"PYTHONPATH": path} | options.pop("env", {}),
            **options,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """Write a checkpoint of random weights: the family of edgekit-tiny, experts and chunks included."""
    return checkpoints.write(tmp_path_factory.mktemp("checkpoint"), "whisper-experts")


@pytest.fixture(scope="session")
def bundle(checkpoint, tmp_path_factory):
    """Export that checkpoint to INT8."""
    folder = tmp_path_factory.mktemp("bundles") / "tiny-int8"
    done = CliRunner().invoke(
        edgekit, ["export", str(checkpoint), "-o", str(folder), "--recipe", str(RECIPE)], obj=Invocation()
    )
    assert done.exit_code == 0, done.output
    return folder


@pytest.fixture(scope="session")
def exact_bundle(tmp_path_factory):
    """Export a checkpoint of random weights with its family's own window, which is one chunk."""
    folder = tmp_path_factory.mktemp("exact")
    source = checkpoints.write(folder / "checkpoint", "whisper-dense")
    done = CliRunner().invoke(
        edgekit,
        ["export", str(source), "-o", str(folder / "bundle"), "--recipe", str(RECIPE), "--mode", "exact"],
        obj=Invocation(),
    )
    assert done.exit_code == 0, done.output
    return folder / "bundle"


@pytest.fixture
def wav(tmp_path):
    """Write a file of samples, by default half a second of noise, and return its path."""

    def write(name="talk.wav", samples=None, rate=16_000, subtype="PCM_16"):
        if samples is None:
            samples = np.random.default_rng(7).uniform(-0.3, 0.3, rate // 2)
        soundfile.write(tmp_path / name, samples, rate, subtype=subtype)
        return tmp_path / name

    return write
