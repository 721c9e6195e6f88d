"""What the services run listens, and is refused the rest, when it is confined as their units say."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import soundfile

from edgekit.exporter.export import ExportOptions, export
from tests.confined import HIDDEN
from tests.reference import checkpoints

ROOT = Path(__file__).resolve().parent.parent
UNITS = sorted((ROOT / "runtimes").glob("*/edgekit.service"))
PROBE = """
import ctypes, os, socket
from pathlib import Path
from cffi import FFI
from edgekit.runtime.memory import available_mib

def refused(name, action):
    try:
        action()
    except OSError:
        return
    print("allowed:", name)

libc = ctypes.CDLL(None, use_errno=True)

def call(*arguments):
    if libc.syscall(*arguments) == -1:
        raise OSError(ctypes.get_errno(), "")

assert FFI().callback("int(int)", lambda number: number + 1)(1) == 2, "what PortAudio calls"
assert available_mib() > 0, "what is checked before a bundle is loaded"
assert socket.socketpair(socket.AF_UNIX)
assert os.getuid() != 0
assert sorted(os.listdir("/dev")) == ["full", "null", "random", "urandom", "zero"]
assert os.listdir("/tmp") == [], "its own"
Path("/tmp/mine").touch()
assert Path("/tmp/mine").stat().st_mode & 0o777 == 0o600
refused("internet", lambda: socket.socket(socket.AF_INET))
refused("netlink", lambda: socket.socket(socket.AF_NETLINK))
refused("writing", lambda: Path("/mnt/x").touch())
refused("home", lambda: os.listdir("/home"))
refused("root", lambda: os.listdir("/root"))
refused("other processes", lambda: os.listdir("/proc/1"))
refused("realtime", lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)))
refused("owner", lambda: os.chown("/tmp/mine", 0, 0))
refused("user", lambda: os.setuid(0))
refused("namespace", lambda: call(NUMBERS["unshare"], 0x10000000))
refused("mount", lambda: call(NUMBERS["mount"], b"none", b"/mnt", b"tmpfs", 0, None))
refused("bpf", lambda: call(NUMBERS["bpf"], 0, 0, 0))
refused("module", lambda: call(NUMBERS["init_module"], 0, 0, b""))
print("probed")
"""
NUMBERS = {
    "x86_64": {"unshare": 272, "mount": 165, "bpf": 321, "init_module": 175},
    "aarch64": {"unshare": 97, "mount": 40, "bpf": 280, "init_module": 105},
}


@pytest.fixture(scope="module")
def confined():
    """Return what runs a Python confined, with the packages of this one."""
    machine = os.uname().machine if sys.platform == "linux" else ""
    if machine not in NUMBERS or os.geteuid() != 0 or shutil.which("systemd-analyze") is None:
        pytest.skip("needs root on Linux, on x86-64 or ARM, and systemd-analyze for its groups of system calls")
    python = Path(f"/usr/bin/python3.{sys.version_info.minor}")
    packages = sysconfig.get_path("purelib")
    hidden = tuple(f"{folder}/" for folders in HIDDEN.values() for folder in folders)
    if not python.exists() or f"{packages}/".startswith(hidden) or f"{ROOT}/".startswith(hidden):
        pytest.skip("needs a Python of the system's, and the packages and this checkout outside of what units hide")

    def run(unit, folder, *arguments):
        command = [sys.executable, "-m", "tests.confined", unit, folder, python, *arguments]
        path = os.pathsep.join([str(ROOT), packages])
        environment = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
        if done.returncode and re.search(r"libseccomp|PermissionError", done.stderr) and "confine(" in done.stderr:
            pytest.skip(f"this machine does not let itself be confined: {done.stderr.splitlines()[-1]}")
        return done

    return run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Write a bundle and a recording."""
    folder = tmp_path_factory.mktemp("confined")
    recipe = Path(__file__).parent / "cli/quick.toml"
    export(checkpoints.write(folder / "c", "whisper-experts"), folder / "bundle", ExportOptions(recipe=str(recipe)))
    soundfile.write(folder / "talk.wav", np.random.default_rng(7).uniform(-0.3, 0.3, 16_000), 16_000)
    folder.chmod(0o755)
    return folder


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.parent.name)
def test_a_confined_daemon_hears_and_accounts_for_every_sample(confined, folder, unit):
    command = re.findall(r"^ExecStart=\S+ (listen) (\S+)", unit.read_text(encoding="utf-8"), re.MULTILINE)
    assert command == [("listen", "/opt/edgekit/bundle")]
    done = confined(unit, folder, "-m", "edgekit", "listen", "/mnt/bundle", "--simulate", "/mnt/talk.wav", "--json")
    assert done.returncode == 0, done.stderr
    assert '"final": true' in done.stdout
    assert "captured 16000 = processed 16000 + gated 0 + dropped 0 samples" in done.stderr


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.parent.name)
def test_a_confined_daemon_has_what_it_needs_and_no_more(confined, folder, unit):
    numbers = NUMBERS[os.uname().machine]
    done = confined(unit, folder, "-c", f"NUMBERS = {numbers}\n{PROBE}")
    assert (done.returncode, done.stdout) == (0, "probed\n"), done.stderr


NOTIFIED = """
import os, socket
from edgekit.serving.service.notify import Notify
os.chdir("/tmp")
here = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
here.bind("notify")
Notify({"NOTIFY_SOCKET": "notify"}).ready()
print(here.recv(100).decode())
"""
SERVED = """
import json, re, signal, socket, subprocess, sys
server = subprocess.Popen([sys.executable, PROGRAM, "serve", "/mnt/bundle", "--http", "0"], stderr=-1, text=True)
port = int(re.search(r"http://127.0.0.1:(\\d+)", server.stderr.readline())[1])
while "is ready" not in server.stderr.readline():
    pass
with socket.create_connection(("127.0.0.1", port)) as client, client.makefile("rw") as lines:
    lines.write("1\\n0\\n")
    lines.flush()
    print(json.loads(list(lines)[-1])["ended"])
server.send_signal(signal.SIGTERM)
print(server.wait())
for family in (socket.AF_NETLINK, socket.AF_PACKET):
    try:
        socket.socket(family, socket.SOCK_RAW)
    except OSError:
        print("refused")
"""


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.parent.name)
def test_a_confined_service_can_tell_that_it_is_ready(confined, folder, unit):
    done = confined(unit, folder, "-c", NOTIFIED)
    assert (done.returncode, done.stdout) == (0, "READY=1\n"), done.stderr


def test_a_confined_server_serves_by_the_unit_that_it_writes_for_itself(confined, folder, tmp_path):
    unit = tmp_path / "edgekit.service"
    unit.write_text(_edited_unit(folder / "bundle"))
    program = str(ROOT / "tests/serving/program.py")
    done = confined(unit, folder, "-c", f"PROGRAM = {program!r}\n{SERVED}")
    assert (done.returncode, done.stdout) == (0, "finished\n0\nrefused\nrefused\n"), done.stderr


def _edited_unit(bundle):
    from edgekit.serving.configuration import Configured
    from edgekit.serving.service.unit import unit_text
    from edgekit.serving.settings import Settings

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgekit.serving.service.unit._check_seen", lambda *_needed: None)  # pytest's folders are hidden
        return unit_text("serve", [str(bundle)], Configured(Settings()), bundle, user=False)


def test_memory_that_is_never_writable_and_executable_would_silence_the_daemon(confined, folder, tmp_path):
    """So no unit has that directive, though it would look well."""
    text = (ROOT / "runtimes/cpu/edgekit.service").read_text(encoding="utf-8")
    unit = tmp_path / "edgekit.service"
    unit.write_text(text.replace("[Install]", "MemoryDenyWriteExecute=yes\n[Install]"))
    done = confined(unit, folder, "-c", PROBE.partition("assert available")[0])
    assert done.returncode == 1
    assert "MemoryError: Cannot allocate write+execute memory for ffi.callback()" in done.stderr
