"""What is printed, where stdout and stderr are not UTF-8, closed, full, missing or read by nobody."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import edgekit
from edgekit.cli import main
from edgekit.cli.output import open_output
from edgekit.errors import OutputError
from tests.cli.test_listen import account

ROOT = Path(__file__).resolve().parents[2]
STRANGE = "тест é 😀 \udcff.wav"  # the last as Python has a byte that is no UTF-8
VERSION = f"edgekit {edgekit.__version__}\n"
CLOSED = "edgekit: output: not written, stdout is closed; leave it open, or send it to a file\n"
FULL = "edgekit: output: not written, No space left on device; free some space or send it elsewhere\n"
full_disk = pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")


@pytest.fixture
def shell(tmp_path):
    """Run a command with a shell's redirections; return exit code, stdout and stderr."""

    def run(redirections, *arguments, **environment):
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        done = subprocess.run(
            ["/bin/sh", "-c", f'"$0" -m edgekit "$@" {redirections}', sys.executable, *map(str, arguments)],
            capture_output=True, check=False, cwd=tmp_path, timeout=120,
            env=os.environ | {"PYTHONPATH": path} | environment,
        )  # fmt: skip
        return done.returncode, done.stdout.decode(), done.stderr.decode()

    return run


def printed(monkeypatch, encoding, *arguments):
    """Return the exit code and what a command prints to a stdout of this encoding."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    return end.value.code, stream.buffer.getvalue().decode(encoding)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1251", "utf-8"])
def test_a_line_of_json_is_one_in_every_encoding(monkeypatch, bundle, wav, encoding):
    path = wav("тест é 😀.wav")
    code, text = printed(monkeypatch, encoding, "run", bundle, path, path, "--json", "--no-partials")
    assert code == 0
    assert {json.loads(line)["file"] for line in text.splitlines()} == {str(path)}
    assert ("тест" in text) == (encoding in {"cp1251", "utf-8"})


def test_letters_that_a_terminal_lacks_are_escaped_and_the_next_file_is_run(monkeypatch, bundle, wav, tmp_path):
    path, plain = wav("тест é.wav"), wav("plain.wav")
    code, text = printed(monkeypatch, "latin-1", "run", bundle, path, plain)
    assert code == 0
    first, second = text.splitlines()
    assert first.startswith(f"{tmp_path}/\\u0442\\u0435\\u0441\\u0442 é.wav: ")
    assert second.startswith(f"{plain}: ")


def test_names_that_no_encoding_has_stop_nothing(monkeypatch):
    escaped = "\\u0442\\u0435\\u0441\\u0442 \\u00e9 \\ud83d\\ude00 \\udcff"
    for encoding, shown in (("utf-8", "тест é 😀 \\udcff"), ("ascii", escaped)):
        stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        monkeypatch.setattr(sys, "stdout", stream)
        with open_output():
            print(STRANGE)
            sys.stdout.flush()
        assert stream.buffer.getvalue().decode(encoding) == f"{shown}.wav\n"
        assert json.loads(f'"{shown}.wav"') == STRANGE


def test_errors_are_shown_on_a_terminal_that_lacks_their_letters(shell):
    code, out, err = shell("", "run", "тест", "x", PYTHONIOENCODING="ascii")
    assert (code, out) == (1, "")
    assert err.startswith("edgekit: \\u0442\\u0435\\u0441\\u0442")
    assert err.count("\n") == 1


def test_streams_are_left_as_they_were_found(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    monkeypatch.setattr(sys, "stdout", stream)
    with open_output():
        assert sys.stdout is not stream
        assert sys.stdout.encoding == "latin-1"
        sys.stdout.writelines(["a", "т"])
    assert sys.stdout is stream
    assert stream.errors == "strict"
    stream.flush()
    assert stream.buffer.getvalue() == b"a\\u0442"


def test_without_stderr_the_text_is_on_stdout(shell, bundle, wav):
    path = wav()
    text = edgekit.load(bundle).transcribe(path).text
    assert shell("2>&-", "run", bundle, path) == (0, f"{text}\n", "")
    code, out, _ = shell("2>&-", "run", bundle, path, "none.wav")
    assert (code, out) == (1, f"{path}: {text}\n")


@pytest.mark.parametrize("arguments", [("--version",), ("--help",), ("doctor", "--json")])
def test_without_stdout_every_command_is_one_line(shell, arguments):
    assert shell(">&-", *arguments) == (1, "", CLOSED)
    assert shell(">&- 2>&-", *arguments) == (1, "", "")


def test_without_stdout_a_text_is_not_lost_without_a_word(shell, bundle, wav):
    assert shell(">&-", "run", bundle, wav()) == (1, "", CLOSED)


@full_disk
@pytest.mark.parametrize("arguments", [("--version",), ("--help",), ("doctor",)])
def test_a_full_disk_is_one_line(shell, arguments):
    assert shell("> /dev/full", *arguments) == (1, "", FULL)


@full_disk
@pytest.mark.parametrize("option", ["--json", "--no-partials"])
def test_text_for_a_full_disk_is_one_line(shell, bundle, wav, option):
    assert shell("> /dev/full", "run", bundle, wav(), option) == (1, "", FULL)


@full_disk
def test_a_full_disk_for_messages_leaves_the_text(shell, bundle, wav):
    path = wav()
    _, out, _ = shell("", "run", bundle, path, path, "none.wav")
    assert shell("2> /dev/full", "run", bundle, path, path, "none.wav") == (1, out, "")


@full_disk
@pytest.mark.parametrize("redirection", ["> /dev/full", ">&-"])
@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_listening_for_nobody_ends_with_an_account_that_balances(shell, bundle, wav, rate, redirection):
    path = wav(samples=np.random.default_rng(1).uniform(-0.3, 0.3, 4 * rate), rate=rate)
    code, _, err = shell(redirection, "listen", bundle, "--simulate", path, "--json")
    assert (code, err.splitlines()[-1]) == (1, (CLOSED if "&" in redirection else FULL).strip())
    captured, processed, gated, dropped, _, _ = account(err)
    assert captured == processed + gated + dropped
    assert 0 < captured <= 4 * rate
    assert min(processed, gated, dropped) >= 0


def test_a_reader_that_has_enough_ends_it_quietly(shell, bundle, wav):
    path = wav(samples=np.random.default_rng(1).uniform(-0.3, 0.3, 16_000))
    code, out, err = shell("| head -n 1", "run", bundle, *[path] * 8, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["event"] == "speech_started"
    _, out, err = shell("| head -n 1", "listen", bundle, "--simulate", path, "--json")
    assert json.loads(out)["event"] == "speech_started"
    captured, processed, gated, dropped, _, _ = account(err)
    assert captured == processed + gated + dropped
    assert err.count("\n") == 2, "what it listens to, and the account"


def test_a_program_without_streams_still_ends_with_the_right_code(monkeypatch, bundle, wav):
    for arguments, without, expected in (
        (["--version"], ("stderr",), 0),
        (["--version"], ("stdout",), 1),
        (["run", str(bundle), str(wav())], ("stdout", "stderr"), 1),
        (["run"], ("stdout", "stderr"), 2),
    ):
        with monkeypatch.context() as patch:
            for name in without:
                patch.setattr(sys, name, None)
            with pytest.raises(SystemExit) as end:
                main(arguments)
            assert end.value.code == expected


def test_what_is_printed_and_held_back_is_an_error_too(monkeypatch):
    class Full(io.RawIOBase):
        def writable(self):
            return True

        def write(self, data):
            raise OSError(28, "No space left on device")

    stream = io.TextIOWrapper(io.BufferedWriter(Full()), encoding="utf-8")
    monkeypatch.setattr(sys, "stdout", stream)
    with open_output():
        sys.stdout.write("text")
        with pytest.raises(OutputError, match="output: not written, No space left on device; free some space"):
            sys.stdout.flush()
    monkeypatch.undo()
    with pytest.raises(OSError, match="No space"):
        stream.close()


def test_no_file_gets_the_number_of_a_stream_that_is_closed():
    program = (
        "import os\n"
        "from edgekit.cli.output import open_output\n"
        "with open_output():\n"
        "    file = os.open(os.devnull, os.O_RDONLY)\n"
        "raise SystemExit(file)\n"
    )
    for closed in ("<&- >&- 2>&-", "2>&-", ">&-", ""):
        command = ["/bin/sh", "-c", f'"$0" -c "$1" {closed}', sys.executable, program]
        assert subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode > 2
