"""Nothing leaves the machine and nothing is left on it: no IP socket, and no file but those that were asked for."""

import json
import os
import platform
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from edgekit.runtime.graphs.library import TELEMETRY
from tests.cli import no_network

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
PROGRAM = ROOT / "tests/serving/program.py"
pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in no_network.MACHINES,
    reason="only Linux on x86-64 and 64-bit ARM is known to filter system calls here",
)
LIBRARY = "from edgekit.runtime.graphs.library import load_onnxruntime; load_onnxruntime()\n"
# onnxruntime says nothing of itself where one of these is set (names in its library, version 1.31.1), so that what is
# watched is set free of them: the same under continuous integration as at a user's.
INTEGRATION = (
    "CI", "TF_BUILD", "GITHUB_ACTIONS", "GITLAB_CI", "CIRCLECI", "TRAVIS", "JENKINS_URL", "CODEBUILD_BUILD_ID",
    "BUILDKITE", "TEAMCITY_VERSION", "APPVEYOR", "BITBUCKET_BUILD_NUMBER",
)  # fmt: skip
# Left on purpose: names of the fonts here, which matplotlib would look for anew at every report.
KEPT = ("cache/matplotlib/fontlist",)


@pytest.fixture
def watched(tmp_path):
    """Run a program with a home, caches and a place for temporary files that are empty; return how it ended.

    It is killed if it opens an IP socket; where it is to serve, ``serving`` gets its process once it runs, and it is
    killed if it connects to anything. What it left in those places comes with the answer.
    """
    places = {name: tmp_path / name for name in ("home", "cache", "config", "data", "state", "tmp")}

    def run(*arguments, variables=None, folder=None, timeout=600, serving=None):
        for place in places.values():
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir()
        names = ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "TMPDIR")
        kept = {
            name: text
            for name, text in os.environ.items()
            if name not in (TELEMETRY, "MPLCONFIGDIR", "HF_HOME", *INTEGRATION) and not name.startswith("XDG_")
        }
        path = os.pathsep.join(filter(None, [str(ROOT), kept.get("PYTHONPATH")]))
        watching = [HERE / "no_network.py", *(["--serving"] if serving else []), sys.executable]
        with subprocess.Popen(
            [sys.executable, *watching, *map(str, arguments)],
            env=kept | dict(zip(names, map(str, places.values()), strict=True)) | {"PYTHONPATH": path}
            | {"PYTHONDONTWRITEBYTECODE": "1"} | (variables or {}),
            cwd=folder or tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        ) as process:  # fmt: skip
            try:
                if serving:
                    serving(process)
                out, err = process.communicate(timeout=timeout)
            finally:
                process.kill()
        done = subprocess.CompletedProcess(arguments, process.returncode, out, err)
        left = sorted(
            path.relative_to(tmp_path).as_posix()
            for place in places.values()
            for path in place.rglob("*")
            if not path.is_dir() and not path.relative_to(tmp_path).as_posix().startswith(KEPT)
        )
        return done, left

    return run


@pytest.fixture
def quiet(watched):
    """Run a command of EdgeKit's and return its stdout, after it ended well, opened no IP socket and left no file."""

    def run(*arguments, **options):
        done, left = watched("-m", "edgekit", *arguments, **options)
        assert done.returncode == 0, f"{done.returncode}: {done.stderr}"
        assert left == []
        return done.stdout

    return run


def test_a_program_that_opens_an_ip_socket_is_killed_in_native_code_and_in_its_children_too(watched):
    code = "import subprocess, sys; sys.exit(subprocess.run([sys.executable, '-c', sys.argv[1]]).returncode)"
    for family in ("AF_INET", "AF_INET6"):
        tried = f"import socket; socket.socket(socket.{family}, socket.SOCK_DGRAM)"
        assert watched("-c", tried)[0].returncode == -signal.SIGSYS
        assert watched("-c", code, tried)[0].returncode != 0
    assert watched("-c", "import socket; socket.socket(socket.AF_UNIX)")[0].returncode == 0


def test_a_program_that_serves_may_listen_and_is_killed_if_it_connects(watched):
    listens = "import socket; s = socket.create_server(('127.0.0.1', 0)); "
    looks = {"serving": lambda _process: None}
    assert watched("-c", listens, **looks)[0].returncode == 0
    for tried in (
        f"{listens}socket.create_connection(s.getsockname())", "socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
        "socket.socket(socket.AF_UNIX).connect('x')", "socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | 0o2000000)",
    ):  # fmt: skip
        assert watched("-c", f"import socket; {tried}", **looks)[0].returncode == -signal.SIGSYS, tried


def session(wait_s):
    """Return a program that opens a session of onnxruntime's and waits."""
    from edgekit.runtime.backends.ort_examining import GRAPH

    return (
        f"import time, onnxruntime\nonnxruntime.InferenceSession({GRAPH!r}, providers=['CPUExecutionProvider'])\n"
        f"time.sleep({wait_s})"
    )


def writes_an_id(left):
    return any(path.endswith("deviceid") for path in left)


def test_onnxruntime_left_alone_writes_an_id_and_looks_for_a_host(watched):
    """What the tests below would see if EdgeKit did not turn it off: 8 s after it was loaded, so that 30 are enough."""
    onnxruntime = pytest.importorskip("onnxruntime")
    done, left = watched("-c", session(wait_s=30))
    if (done.returncode, left) == (0, []):
        pytest.skip(f"onnxruntime {onnxruntime.__version__} left alone sends nothing on this machine")
    assert done.returncode == -signal.SIGSYS
    assert writes_an_id(left)


@pytest.mark.parametrize("given", [None, "", "1"])
def test_onnxruntime_as_edgekit_loads_it_does_neither(watched, given):
    variables = None if given is None else {TELEMETRY: given}
    done, left = watched("-c", LIBRARY + session(wait_s=0 if variables else 20), variables=variables)
    assert (done.returncode, left) == (0, [])


def test_a_user_who_sets_the_variable_to_0_lets_it(watched):
    pytest.importorskip("onnxruntime")
    _, alone = watched("-c", "import onnxruntime")
    _, left = watched("-c", LIBRARY, variables={TELEMETRY: "0"})
    assert writes_an_id(left) == writes_an_id(alone)


def test_run_listen_verify_and_doctor_open_no_socket_and_leave_no_file(quiet, bundle, wav):
    talk = wav()
    quiet("run", bundle, talk)
    quiet("listen", bundle, "--simulate", talk)
    quiet("verify", bundle)
    quiet("doctor")


def served(seconds):
    """Return what listens to the stand-in of the tests' own for some seconds, and ends the server."""

    def serving(process):
        port = int(re.search(r"http://127\.0\.0\.1:(\d+)", process.stderr.readline())[1])
        while "is ready" not in process.stderr.readline():
            pass
        with socket.create_connection(("127.0.0.1", port), timeout=60) as client, client.makefile("rw") as lines:
            lines.write(f"{seconds}\n0\n")
            lines.flush()
            said = [json.loads(line) for line in lines]
        assert any(one.get("event") == "text" and one["final"] for one in said), said
        process.send_signal(signal.SIGTERM)

    return serving


def test_serving_makes_no_connection_and_leaves_no_file(watched, bundle):
    done, left = watched(PROGRAM, "serve", bundle, "--http", "0", serving=served(1.5))
    assert (done.returncode, left) == (0, []), done.stderr


def test_what_is_said_is_kept_where_somebody_asks_for_it_and_nowhere_else(watched, bundle, tmp_path):
    folder = tmp_path / "said"
    done, left = watched(PROGRAM, "serve", bundle, "--http", "0", "--record", folder, serving=served(1.5))
    assert (done.returncode, left) == (0, []), done.stderr
    assert sorted({path.suffix for path in folder.iterdir()}) == [".json", ".wav"]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


def test_export_opens_no_socket_and_leaves_its_bundle_alone(quiet, checkpoint, tmp_path):
    quiet("export", checkpoint, "-o", tmp_path / "made", "--recipe", HERE / "quick.toml")
    assert (tmp_path / "made" / "manifest.json").is_file()
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith((".", "made"))) == ["made"]


def test_profile_and_report_open_no_socket_and_leave_what_was_asked_for(quiet, bundle, wav, tmp_path):
    made = tmp_path / "p.json"
    quiet("profile", bundle, wav(), "-o", made, "--no-realtime", "--repeat", "1", "--warmup", "0")
    quiet("report", made)
    quiet("report", made, "-o", tmp_path / "report.html")
    assert (tmp_path / "report.html").is_file()


def test_the_demo_opens_no_socket_and_leaves_what_it_names(quiet, tmp_path):
    pytest.importorskip("edgekit_tiny")
    quiet("demo", "-o", tmp_path / "bundles")
    assert len(list((tmp_path / "bundles").iterdir())) == 3
