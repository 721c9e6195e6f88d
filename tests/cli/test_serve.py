"""`edgekit serve` as a process: ready, reloaded, stopped, and every way to start it wrongly in one line."""

import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import time
import types
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ADDRESS = re.compile(r"http://127\.0\.0\.1:(\d+)")
WAIT_S = 60
HANGS = "Stream.step = lambda self: (print('it hangs', file=sys.stderr, flush=True), threading.Event().wait())"


class Serving:
    """A server that runs, what it says, and clients of it."""

    def __init__(self, folder, *arguments, before=(), **variables):
        self.notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notified.bind(str(folder / "notify"))
        self.notified.settimeout(WAIT_S)
        kept = {name: text for name, text in os.environ.items() if not name.startswith(("XDG_", "EDGEKIT_"))}
        names = {"PYTHONPATH": str(ROOT), "XDG_CONFIG_HOME": str(folder / "config"), "HOME": str(folder)}
        names["NOTIFY_SOCKET"] = str(folder / "notify")
        command = [sys.executable, *before, ROOT / "tests/serving/program.py", "serve", *map(str, arguments)]
        self.process = subprocess.Popen(
            command, env=kept | names | variables, cwd=folder, text=True, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        self.err = ""
        self.statuses = []

    def until(self, text):
        """Read stderr until this text is there."""
        end = time.monotonic() + WAIT_S
        while time.monotonic() < end:
            ready, _, _ = select.select([self.process.stderr], [], [], 1)
            came = os.read(self.process.stderr.fileno(), 9999).decode() if ready else None
            self.err += came or ""
            if text in self.err or came == "":
                break
        if text in self.err:
            return
        raise AssertionError(f"no {text!r} in: {self.err}")

    def told(self, text):
        """Return what systemd is told next that begins so, but for the watchdog and a status."""
        while True:
            while not select.select([self.notified], [], [], 1)[0]:
                assert self.process.poll() is None, self.err + self.process.stderr.read()
            lines = self.notified.recv(4096).decode().split("\n")
            if lines[0].startswith(text):
                return lines
            self.statuses += [line for line in lines if line.startswith("STATUS")]
            assert lines[0].startswith(("STATUS", "WATCHDOG", "EXTEND", "READY")), (text, lines)

    def rest(self, seconds):
        """Return the first lines of all that systemd is told in some seconds."""
        lines, end = [], time.monotonic() + seconds
        while (left_s := end - time.monotonic()) > 0:
            ready, _, _ = select.select([self.notified], [], [], left_s)
            lines += [self.notified.recv(4096).decode().split("\n")[0]] if ready else []
        return lines

    @property
    def port(self):
        return int(ADDRESS.search(self.err)[1])

    @contextmanager
    def client(self):
        """Connect; yield a file of lines in and out."""
        with (
            socket.create_connection(("127.0.0.1", self.port), timeout=WAIT_S) as connection,
            connection.makefile("rw", encoding="utf-8", newline="\n") as lines,
        ):
            yield lines

    def end(self, number=signal.SIGTERM):
        """Send a signal; return the exit code, the seconds until then and the rest of stderr."""
        begun = time.monotonic()
        self.process.send_signal(number)
        _, err = self.process.communicate(timeout=WAIT_S)
        self.err += err
        return self.process.returncode, time.monotonic() - begun, self.err


@pytest.fixture
def serving(tmp_path):
    """Start servers; return the function that does."""
    started = []

    def start(*arguments, **variables):
        (folder := tmp_path / str(len(started))).mkdir()
        started.append(Serving(folder, *arguments, **variables))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.communicate()
        one.notified.close()


@pytest.fixture
def configured(bundle, tmp_path):
    """Write a configuration; return the function that does, and its path."""
    path = tmp_path / "edgekit.toml"

    def write(text="", name=bundle):
        path.write_text(f'bundle = "{name}"\n{text}')
        return path

    return write


def lines_until(client, key):
    """Return what a client is told, up to a line with this key."""
    lines = []
    while not lines or key not in lines[-1]:
        line = client.readline()
        assert line, lines
        lines.append(json.loads(line))
    return lines


def say(client, seconds):
    client.write(f"{seconds}\n")
    client.flush()


def test_it_says_where_it_listens_and_who_can_reach_it_then_that_it_is_ready(serving, bundle):
    server = serving(bundle, "--http", 0)
    assert server.told("READY=1") == ["READY=1"]
    server.until("is ready")
    address, kept, ready = [line for line in server.err.splitlines() if "dummy" not in line]
    assert re.fullmatch(r"edgekit: http://127\.0\.0\.1:\d+: this machine alone", address)
    assert kept == "edgekit: nothing of what is said is written to disk"
    assert ready.endswith("is ready; ^C ends it")
    with server.client() as client:
        assert "level" in json.loads(client.readline())
        say(client, 1)
        say(client, 0)
        assert lines_until(client, "ended")[-1] == {"ended": "finished"}
    code, _, err = server.end()
    assert code == 0, err
    assert re.search(
        r"edgekit: 1 streams, 0 refused; received 1\.0 s = heard \d\.\d \+ gated \d\.\d \+ dropped 0\.0 s", err
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_sentence_be_finished_within_two_seconds(serving, bundle, number):
    server = serving(bundle, "--http", 0)
    server.told("READY=1")
    server.until("is ready")
    with server.client() as client:
        client.readline()
        say(client, 1.5)
        assert json.loads(client.readline())["event"] == "speech_started"
        code, took_s, err = server.end(number)
        assert (code, server.told("STOPPING=1")) == (0, ["STOPPING=1"]), err
        assert took_s < 3.5  # two seconds, and what Python takes to end on a busy machine
        told = lines_until(client, "ended")
        assert told[-1] == {"ended": "stopping"}
        assert any(one.get("event") == "text" and one["final"] for one in told)
    assert err.count("received") == 1


def test_a_second_signal_ends_it_at_once(serving, bundle):
    server = serving(bundle, "--http", 0)
    server.until("is ready")
    with server.client() as client:
        client.readline()
        say(client, 9)
        client.readline()
        server.process.send_signal(signal.SIGTERM)
        server.told("READY=1")
        server.told("STOPPING=1")
        code, took_s, _ = server.end(signal.SIGTERM)
    assert code in {0, 128 + signal.SIGTERM}  # it may have been over
    assert took_s < 2


@pytest.fixture
def patched(serving, bundle, tmp_path):
    """Start a server in whose process a line of Python was run before; return the function that does."""

    def start(line):
        script = tmp_path / "patched.py"
        script.write_text(
            f"import runpy, sys, threading, edgekit\nfrom edgekit.runtime.stream import Stream\n{line}\n"
            "sys.argv = sys.argv[1:]\nrunpy.run_path(sys.argv[0], run_name='__main__')\n"
        )
        return serving(bundle, "--http", 0, before=[script])

    return start


def test_until_the_model_is_loaded_a_stream_is_refused_by_name_and_a_signal_ends_it(patched):
    server = patched("edgekit.load = lambda *given, **named: threading.Event().wait()")
    server.until("http://")
    with server.client() as client:
        refused = json.loads(client.readline())
    assert refused == {"refused": "loading", "message": "server: the model is being loaded; connect again in a moment"}
    code, took_s, err = server.end()
    assert code == 0, err
    assert took_s < 3.5


def test_a_step_that_never_ends_does_not_keep_it_from_ending(patched):
    server = patched(HANGS)
    server.until("is ready")
    with server.client() as client:
        client.readline()
        say(client, 1)
        server.until("it hangs")
        code, took_s, err = server.end()
    assert code == 0, err
    assert took_s < 3.5
    assert "received 1.0 s = heard 0.0 + gated 0.0 + dropped 1.0 s" in err


def test_a_watchdog_is_fed_and_a_status_told_until_a_step_never_ends(patched, monkeypatch):
    monkeypatch.setenv("WATCHDOG_USEC", "400000")
    server = patched(f"from edgekit.serving.service import life; life.works.__defaults__ = (0.7,)\n{HANGS}")
    server.told("READY=1")
    server.until("is ready")
    for _ in range(3):
        server.told("WATCHDOG=1")
    with server.client() as client:
        client.readline()
        say(client, 1)
        server.until("it hangs")
        fed = server.rest(3.0).count("WATCHDOG=1")
    assert fed <= 0.7 / 0.2 + 2  # for what may be slow, and what was on its way
    assert "STATUS=0 of 4 streams; 0.0 s behind; 0% busy" in server.statuses


def test_a_changed_configuration_is_read_again_and_what_cannot_change_is_named(serving, configured):
    path = configured("[limits]\nstreams = 1\n")
    server = serving("--config", path, "--http", 0)
    server.told("READY=1")
    server.until("is ready")
    with server.client() as first:
        first.readline()
        with server.client() as second:
            assert json.loads(second.readline())["refused"] == "streams"
        configured("[limits]\nstreams = 2\n[wyoming]\non = true\nport = 7\n")
        server.process.send_signal(signal.SIGHUP)
        reloading = server.told("RELOADING=1")
        assert reloading[1].startswith("MONOTONIC_USEC=")
        assert server.told("READY=1") == ["READY=1"]
        with server.client() as second:
            assert "level" in json.loads(second.readline())
    assert server.end()[0] == 0
    assert "edgekit: changed, but it holds from the next start on: wyoming.on, wyoming.port\n" in server.err
    assert f"edgekit: reloaded: {path}\n" in server.err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[limits]\nstreams = 0\n", "limits.streams is 0, must be int >= 1; correct it"),
        ('[stream]\nlanguage = "xx"\n', "stream.language: 'xx'"),
        (
            '[http]\nhost = "0.0.0.0"\n',
            "http.host: '0.0.0.0' can be reached from other machines, which needs a token and TLS",
        ),
    ],
)
def test_a_configuration_that_is_wrong_is_said_and_the_old_one_stays(serving, configured, text, said):
    path = configured()
    server = serving("--config", path, "--http", 0)
    server.told("READY=1")
    server.until("is ready")
    configured(text)
    server.process.send_signal(signal.SIGHUP)
    server.told("RELOADING=1")
    server.told("READY=1")
    with server.client() as client:
        assert "level" in json.loads(client.readline())
    assert server.end()[0] == 0
    (line,) = [line for line in server.err.splitlines() if "not reloaded" in line]
    assert said in line
    assert line.endswith("; what was read before stays")


def test_another_bundle_is_loaded_beside_the_one_that_open_streams_keep(
    serving, configured, bundle, exact_bundle, tmp_path
):
    (place := tmp_path / "served").symlink_to(bundle)  # the same name, as where a new bundle took the old one's place
    path = configured(name=place)
    server = serving("--config", path, "--http", 0)
    server.told("READY=1")
    server.until("is ready")
    with server.client() as open_before:
        open_before.readline()
        place.unlink()
        place.symlink_to(exact_bundle)
        server.process.send_signal(signal.SIGHUP)
        server.told("RELOADING=1")
        server.told("READY=1")
        say(open_before, 1)
        say(open_before, 0)
        assert lines_until(open_before, "ended")[-1] == {"ended": "finished"}
        with server.client() as new:
            assert "level" in json.loads(new.readline())
        configured(name=tmp_path / "none")
        server.process.send_signal(signal.SIGHUP)
        server.until("not reloaded")
    assert server.end()[0] == 0
    assert "serves new streams; those that are open go on with the model they have" in server.err, server.err
    assert f"edgekit: not reloaded: {tmp_path / 'none'}: no such folder" in server.err


def test_a_terminal_that_is_closed_ends_it(bundle, tmp_path):
    child, master = pty.fork()
    if child == 0:
        os.chdir(tmp_path)
        os.environ |= {"PYTHONPATH": str(ROOT), "XDG_CONFIG_HOME": str(tmp_path / "none")}
        os.environ.pop("NOTIFY_SOCKET", None)
        log = os.open(tmp_path / "err", os.O_WRONLY | os.O_CREAT)
        os.dup2(log, 2)
        program = str(ROOT / "tests/serving/program.py")
        os.execv(  # noqa: S606 - no shell is wanted
            sys.executable, [sys.executable, program, "serve", str(bundle), "--http", "0"]
        )
    log = tmp_path / "err"
    try:
        _until(lambda: log.exists() and "is ready" in log.read_text())
        os.kill(child, signal.SIGHUP)  # while the terminal is there: it reads its configuration again
        _until(lambda: "reloaded: no configuration file is there" in log.read_text())
        os.close(master)
        ended = []
        _until(lambda: ended or ended.extend(pid for pid, *_ in [os.waitpid(child, os.WNOHANG)] if pid))
        assert "received" in log.read_text()
    finally:
        if not ended:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def _until(condition):
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end, "it did not come"
        select.select([], [], [], 0.05)


def test_a_second_server_on_the_port_is_one_line(serving, bundle):
    first = serving(bundle, "--http", 0)
    first.until("is ready")
    second = serving(bundle, "--http", first.port)
    _, err = second.process.communicate(timeout=WAIT_S)
    assert second.process.returncode == 1
    assert err == (
        f"edgekit: http: 127.0.0.1:{first.port}: another program, or a second server, listens there; end it, or choose "
        "another port with --http\n"
    )
    with first.client() as client:
        assert "level" in json.loads(client.readline())


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (
            ("--http", "192.0.2.1:0", "--config", "{toml}"),
            2,
            "http.host: '192.0.2.1' can be reached from other machines",
        ),
        (("--http", "off"), 2, "serve: neither HTTP nor Wyoming is on, somebody must be served; leave --http off out"),
        (("--http", "x"), 2, "edgekit serve: Invalid value for '--http': 'x' is neither a port from 0 to 65535, nor"),
        (("--http", "::1"), 2, "edgekit serve: Invalid value for '--http': '::1' is neither a port"),
        (("--config", "none.toml"), 2, "none.toml: no such file; `edgekit serve --print-config` prints one"),
        (("--set", "limits.streams=0"), 2, "--set: limits.streams is 0, must be int >= 1; correct it"),
        (("--set", "x"), 2, "--set: 'x', KEY=VALUE is needed"),
        (("--language", "xx", "--http", "0"), 2, "stream.language: 'xx'"),
        (("--user",), 2, "--user: belongs to --install-service; add that, or leave it out"),
        (("--token-file", "none", "--http", "0"), 2, "http.token_file: "),
        (("--record", "none/here", "--http", "0"), 2, "record.dir: "),
    ],
)
def test_a_wrong_start_is_one_line(  # noqa: PLR0917 - what it needs, and a row of the table
    cli, bundle, tmp_path, monkeypatch, arguments, code, line
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.syspath_prepend(str(ROOT))
    _stand_in(monkeypatch)
    (tmp_path / "a.toml").write_text("")
    result, out, err = cli("serve", bundle, *[one.format(toml=tmp_path / "a.toml") for one in arguments])
    lines = [one for one in err.splitlines() if ": this machine alone" not in one and "nothing of what" not in one]
    assert (result, out, len(lines)) == (code, "", 1), err
    assert line in lines[0]


def _stand_in(monkeypatch):
    from tests.serving.program import Http

    module = types.ModuleType("edgekit.serving.http.neighbour")
    module.Http = Http
    monkeypatch.setitem(sys.modules, module.__name__, module)


def test_a_package_that_is_missing_is_named_with_what_brings_it(cli, bundle, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    _stand_in(monkeypatch)
    for name, arguments, needs in (
        ("uvicorn", (), "serving HTTP needs it"), ("python_multipart", (), "serving HTTP needs it"),
        ("wyoming", ("--http", "off", "--wyoming", "0"), "serving Wyoming needs it"),
        ("zeroconf", ("--http", "off", "--wyoming", "0.0.0.0:0"), "announcing it needs it"),
    ):  # fmt: skip
        with monkeypatch.context() as without:
            without.setitem(sys.modules, name, None)
            code, out, err = cli("serve", bundle, *arguments)
        assert (code, out) == (1, "")
        assert err == f"edgekit: {name} is not installed, {needs}; pip install 'edgekit-audio[serve]'\n"


def test_the_configuration_is_printed_to_be_read_again(cli, bundle, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    code, out, err = cli("serve", bundle, "--http", "[::1]:81", "--no-partials", "--think", "on", "--print-config")
    assert (code, err) == (0, "")
    path = tmp_path / "again.toml"
    path.write_text(out)
    code, again, err = cli("serve", "--config", path, "--print-config")
    assert (code, err) == (0, "")
    assert [line.partition("#")[0] for line in again.splitlines()] == [
        line.partition("#")[0] for line in out.splitlines()
    ]
    assert f'bundle = "{bundle}"' in out
    assert 'host = "::1"' in out
