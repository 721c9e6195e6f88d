"""A sound server of the tests' own: PulseAudio with a sink that leads nowhere, whose monitor is the microphone."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgekit.cli.group import Invocation, edgekit

ROOT = Path(__file__).resolve().parents[2]
CLIP = ROOT / "export" / "clips" / "librivox-0870.flac"
PACKAGES = {"pulseaudio": "pulseaudio", "pactl": "pulseaudio-utils", "paplay": "pulseaudio-utils"}
TOOLS = {name: shutil.which(name) or "" for name in PACKAGES}


class SoundServer:
    """One that can be killed, frozen and thawed; nobody else's is touched."""

    def __init__(self, folder: Path) -> None:
        self.env = os.environ | {"HOME": str(folder), "XDG_RUNTIME_DIR": str(folder / "run")}
        for name in ("PULSE_SERVER", "PULSE_RUNTIME_PATH", "XDG_CONFIG_HOME"):
            self.env.pop(name, None)
        (folder / "run").mkdir(mode=0o700)
        self._log = (folder / "pulseaudio.log").open("w")
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self.process = subprocess.Popen(
            [
                TOOLS["pulseaudio"], "-n", "--daemonize=no", "--exit-idle-time=-1", "--use-pid-file=no",
                "--load=module-native-protocol-unix", "--load=module-null-sink sink_name=nowhere",
            ],
            env=self.env, stdout=self._log, stderr=self._log,
        )  # fmt: skip
        until(self.answers)

    def answers(self) -> bool:
        """Return whether it answers."""
        return subprocess.run([TOOLS["pactl"], "info"], env=self.env, capture_output=True, check=False).returncode == 0

    def stop(self) -> None:
        """End it, and its log."""
        self.kill()
        self._log.close()

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()
        self.process.wait()

    def freeze(self) -> None:
        """Let it answer nobody."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it answer again."""
        self.process.send_signal(signal.SIGCONT)

    def play(self) -> None:
        """Play the clip to its end, which the microphone hears."""
        subprocess.run([TOOLS["paplay"], str(CLIP)], env=self.env, check=True, timeout=60)


class Listening:
    """``edgekit listen`` in a process of its own, its lines with the times at which they came."""

    def __init__(self, bundle: Path, env: dict[str, str], *options: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "edgekit", "listen", str(bundle), "--device", "pulse", "--no-partials", *options],
            env=env | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.out: list[str] = []
        self.err: list[tuple[float, str]] = []
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        reads = (lambda: self.out.extend(self.process.stdout or ()), self._read_err)
        self._readers = [threading.Thread(target=read, daemon=True) for read in reads]
        for reader in self._readers:
            reader.start()

    def _read_err(self) -> None:
        self.err.extend((time.monotonic(), line) for line in self.process.stderr or ())

    def close(self) -> None:
        """End it, and what reads its lines."""
        self.process.kill()
        self.process.wait()
        for reader, pipe in zip(self._readers, (self.process.stdout, self.process.stderr), strict=True):
            reader.join(20)
            if pipe is not None:
                pipe.close()

    def said(self, words: str) -> float | None:
        """Return when it first said this on stderr, None if it has not."""
        return next((at for at, line in list(self.err) if words in line), None)

    def end(self) -> tuple[int, float]:
        """Send SIGTERM; return the exit code and the seconds that it took."""
        begun = time.monotonic()
        self.process.terminate()
        code = self.process.wait(20)
        return code, time.monotonic() - begun


def until(true, seconds: float = 20.0) -> float:
    """Wait until something is true; return for how long."""
    begun = time.monotonic()
    while not true():
        assert time.monotonic() - begun < seconds, "it does not become true"
        time.sleep(0.02)
    return time.monotonic() - begun


@pytest.fixture
def sound_server(tmp_path):
    missing = sorted({package for name, package in PACKAGES.items() if not TOOLS[name]})
    assert not missing, f"missing: apt install {' '.join(missing)} libasound2-plugins libportaudio2"
    server = SoundServer(tmp_path)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """Export the checkpoint that ships."""
    folder = tmp_path_factory.mktemp("bundles") / "tiny"
    checkpoint = ROOT / "models" / "edgekit-tiny" / "edgekit_tiny" / "checkpoint"
    done = CliRunner().invoke(
        edgekit, ["export", str(checkpoint), "-o", str(folder), "--precision", "float32"], obj=Invocation()
    )
    assert done.exit_code == 0, done.output
    return folder


@pytest.fixture
def listening(sound_server, tiny):
    """Return a function that starts ``edgekit listen`` and waits until it listens."""
    started = []

    def start(*options):
        started.append(Listening(tiny, sound_server.env, *options))
        until(lambda: started[-1].said("listens to the microphone"), 60)
        return started[-1]

    yield start
    for one in started:
        one.close()
