"""`edgekit listen`: the microphone's twin, the account of samples, signals, and machines without a microphone."""

import json
import os
import re
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import edgekit
from edgekit.cli.listen import _Microphone
from edgekit.errors import DeviceError
from edgekit.serving.configuration import Configured
from edgekit.serving.server import Server
from edgekit.serving.settings import Settings
from edgekit.serving.watch import Watch
from tests.cli.conftest import ROOT
from tests.runtime.audio.devices.machine import Machine, Plugged

ACCOUNT = re.compile(
    r"captured (\d+) = processed (\d+) \+ gated (\d+) \+ dropped (\d+) samples at (\d+) Hz; (\d+) over"
)


def account(err):
    (found,) = ACCOUNT.findall(err)
    return tuple(int(number) for number in found)


def test_a_simulated_microphone_gives_the_text_of_the_file_and_an_account(cli, bundle, wav):
    path = wav(samples=np.random.default_rng(1).uniform(-0.3, 0.3, 8000))
    _, text, _ = cli("run", bundle, path)
    code, out, err = cli("listen", bundle, "--simulate", path)
    assert (code, out) == (0, text)
    captured, processed, gated, dropped, rate, overflows = account(err)
    assert (captured, rate, overflows) == (8000, 16_000, 0)
    assert captured == processed + gated + dropped


def test_listening_shows_drafts_unless_told_not_to(cli, bundle, wav):
    path = wav(samples=np.random.default_rng(1).uniform(-0.3, 0.3, 16_000))
    told = {}
    for option in ("--partials", "--no-partials", None):
        _, out, _ = cli("listen", bundle, "--simulate", path, "--json", *filter(None, [option]))
        told[option] = any('"text"' in line and '"end_s": 1.0' not in line for line in out.splitlines())
    assert told == {"--partials": True, "--no-partials": False, None: True}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_in_good_order(program, bundle, wav, number):
    path = wav("long.wav", np.random.default_rng(1).uniform(-0.3, 0.3, 16_000 * 60))
    process = program("listen", bundle, "--simulate", path, "--json")
    assert '"speech_started"' in process.stdout.readline()
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert '"final": true' in out
    captured, processed, gated, dropped, _, _ = account(err)
    assert captured == processed + gated + dropped
    assert 0 < captured < 16_000 * 60


STEP_HANGS = r"a step, or showing what it made, has not ended for \d+\.\d s"
HANGS = {
    "Stream.step = lambda self: hang()": STEP_HANGS,
    "Printer.event = lambda self, event: hang()": STEP_HANGS,
    "Stream.push = lambda self, *sound, **said: hang()": "taking sound, or letting go of its device, does not end",
    "Server.adopt = lambda self, *given: hang()": "what listens with the bundle is not put together yet",
}


@pytest.mark.parametrize("line", HANGS)
def test_what_hangs_is_named_with_the_account_and_does_not_keep_it_from_ending(program, bundle, wav, tmp_path, line):
    path = wav("long.wav", np.random.default_rng(1).uniform(-0.3, 0.3, 16_000 * 60))
    (tmp_path / "sitecustomize.py").write_text(
        "import sys, threading\nfrom edgekit.cli.printer import Printer\nfrom edgekit.runtime.stream import Stream\n"
        "from edgekit.serving.server import Server\n"
        f"def hang():\n    print('it hangs', file=sys.stderr, flush=True)\n    threading.Event().wait()\n\n\n{line}\n"
    )
    names = os.pathsep.join([str(tmp_path), str(ROOT), os.environ.get("PYTHONPATH", "")])
    process = program("listen", bundle, "--simulate", path, env={"PYTHONPATH": names})
    while process.stderr.readline() != "it hangs\n":
        assert process.poll() is None
    begun = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - begun < 2.0
    assert process.returncode == 0, err
    assert re.search(
        f"^edgekit: listen: {HANGS[line]}, all ends within 2 s; what waits for it is dropped$", err, re.MULTILINE
    )
    if "adopt" not in line:
        captured, processed, gated, dropped, _, _ = account(err)
        assert captured == processed + gated + dropped > 0


def test_a_hangup_reads_the_configuration_again_and_the_next_sentence_is_heard_by_it(program, bundle, wav, tmp_path):
    path = wav("long.wav", np.random.default_rng(1).uniform(-0.3, 0.3, 16_000 * 60))
    config = tmp_path / "edgekit.toml"
    config.write_text("[stream]\npartials = true\n", encoding="utf-8")
    process = program("listen", bundle, "--simulate", path, "--json", "--config", config)
    assert '"speech_started"' in process.stdout.readline()
    config.write_text("[stream]\npartials = 7\n", encoding="utf-8")
    process.send_signal(signal.SIGHUP)
    read = [process.stderr.readline() for _ in range(2)]
    assert f"not reloaded: {config}: stream.partials is 7, " in read[1]
    assert read[1].endswith("what was read before stays\n")
    config.write_text("[stream]\npartials = false\n", encoding="utf-8")
    process.send_signal(signal.SIGHUP)
    assert process.stderr.readline() == f"edgekit: reloaded: {config}\n"
    assert "captured " in process.stderr.readline(), "of the stream that there was"
    lines = iter(process.stdout.readline, "")
    assert any('"speech_started", "at_s": 0.0}' in line for line in lines), "heard by a new one"
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    heard = [json.loads(line) for line in out.splitlines()]
    stopped = next(at for at, event in enumerate(heard) if event["event"] == "speech_stopped")
    assert not [event for event in heard[:stopped] if event["event"] == "text"], "partials were on before"
    captured, processed, gated, dropped, _, _ = account(err)
    assert captured == processed + gated + dropped


def test_without_a_bundle_the_newest_is_taken(program, bundle, wav, tmp_path):
    path = wav()
    for age, name in ((0, ".half.partial"), (100, "newer"), (200, "older")):
        copy = shutil.copytree(bundle, tmp_path / "bundles" / name)
        stat = (copy / "manifest.json").stat()
        os.utime(copy / "manifest.json", (stat.st_atime, stat.st_mtime - age))
    _, err = program("listen", "--simulate", path).communicate(timeout=60)
    assert "bundles/newer listens to" in err


def test_the_environment_may_name_the_bundle(program, bundle, wav):
    process = program("listen", "--simulate", wav(), env={"EDGEKIT_BUNDLE": str(bundle)})
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert f"{bundle} listens to" in err


def test_without_any_bundle_it_says_how_to_make_one(program, wav):
    process = program("listen", "--simulate", wav())
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (1, "")
    assert err == (
        "edgekit: bundles: holds no bundle, and none was named; make one with `edgekit demo`, or name one: "
        "`edgekit listen BUNDLE`\n"
    )


def test_a_file_that_cannot_be_played_is_one_line(cli, bundle, tmp_path):
    code, out, err = cli("listen", bundle, "--simulate", tmp_path / "none.wav")
    assert (code, out) == (1, "")
    assert err == f"edgekit: {tmp_path / 'none.wav'}: no such file, a recording is needed; check the path\n"


class PortAudioError(Exception):
    """As the sounddevice module has it."""


class NoMicrophone:
    """A sounddevice module on a machine without a microphone."""

    PortAudioError = PortAudioError

    @staticmethod
    def query_devices(device=None, kind=None):
        """Find nothing."""
        if kind is None:
            return []
        raise PortAudioError(f"Error querying device {device or -1} for {kind}")

    @staticmethod
    def query_hostapis():
        """Return the one system by which devices would be reached."""
        return [{"name": "ALSA"}]


class BusyMicrophone(NoMicrophone):
    """A sounddevice module whose microphone another program holds."""

    @staticmethod
    def query_devices(device, kind):
        """Find one."""
        return {"name": f"{kind} {device}", "max_input_channels": 2, "default_samplerate": 48_000.0}

    @staticmethod
    def check_input_settings(**_settings):
        """Take anything."""

    @staticmethod
    def InputStream(**_settings):  # noqa: N802 - sounddevice's name
        """Refuse."""
        raise PortAudioError("Error opening InputStream: Device unavailable [PaErrorCode -9985]", -9985)


@pytest.mark.parametrize(
    ("module", "line"),
    [
        (NoMicrophone, "edgekit: microphone: none found (Error querying device "),
        (BusyMicrophone, "edgekit: microphone: busy, another program holds it; "),
        (None, "edgekit: sounddevice: "),
    ],
)
def test_a_machine_without_a_usable_microphone_is_told_so_in_one_line(cli, bundle, monkeypatch, module, line):
    monkeypatch.setitem(sys.modules, "sounddevice", module)
    code, out, err = cli("listen", bundle, "--device", "2")
    assert (code, out) == (1, "")
    assert err.startswith(line)
    assert err.count("\n") == 1


def test_without_portaudio_it_says_what_to_install(program, bundle, tmp_path):
    (tmp_path / "sounddevice.py").write_text("raise OSError('PortAudio library not found')\n")
    process = program("listen", bundle)  # runs in tmp_path, whose sounddevice.py comes first
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (1, "")
    assert err == (
        "edgekit: microphone: PortAudio library not found, the PortAudio library is needed; "
        "`apt install libportaudio2`\n"
    )


BROKEN = "import sys\nclass PortAudioError(Exception): pass\n"


def test_a_portaudio_that_does_not_start_is_one_line_that_says_where_to_look(program, bundle, tmp_path):
    (tmp_path / "sounddevice.py").write_text(
        BROKEN + "raise PortAudioError('Error initializing PortAudio: Unanticipated host error', -9999)\n"
    )
    out, err = (process := program("listen", bundle)).communicate(timeout=60)
    assert (process.returncode, out) == (1, "")
    assert err == (
        "edgekit: microphone: PortAudio does not start (Error initializing PortAudio: Unanticipated host error); "
        "correct ~/.asoundrc if there is one, then `edgekit doctor`\n"
    )


def test_an_error_of_the_module_itself_is_a_bug(program, bundle, tmp_path):
    (tmp_path / "sounddevice.py").write_text(BROKEN + "raise ZeroDivisionError('x')\n")
    _, err = (process := program("listen", bundle)).communicate(timeout=60)
    assert process.returncode == 70
    assert err.startswith("edgekit: bug: ZeroDivisionError: x; ")


SEVERAL = """
pcm.usb_one { type null hint { show on description "one" } }
pcm.usb_two { type null hint { show on description "two" } }
"""


@pytest.fixture
def alsa(program, tmp_path):
    """Return a function that runs ``listen`` with an ALSA of its own, where there is a real PortAudio on ALSA."""

    def run(asoundrc, *arguments):
        (tmp_path / ".asoundrc").write_text(asoundrc)
        process = program("listen", *arguments, env={"HOME": str(tmp_path)})
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    pytest.importorskip("sounddevice", exc_type=(ImportError, OSError))
    if not Path("/usr/share/alsa/alsa.conf").exists():
        pytest.skip("no ALSA here")
    return run


def test_a_real_portaudio_lists_the_microphones_that_match_and_those_there_are(alsa, bundle):
    listed = r"\d+ \(usb_one, ALSA\), \d+ \(usb_two, ALSA\)"
    for name, why in (
        ("usb", rf"microphone 'usb': several match; name one with --device by its number: {listed}"),
        ("no such", rf"microphone 'no such': none has this name; name one with --device: .*{listed}.*"),
        ("7777", rf"microphone 7777: none has this number; name one with --device: .*{listed}.*"),
    ):
        code, out, err = alsa(SEVERAL, bundle, "--device", name)
        assert (code, out) == (1, "")
        assert re.fullmatch(f"edgekit: {why}\n", err), err


def test_a_real_portaudio_does_not_start_with_a_broken_configuration(alsa, bundle):
    code, out, err = alsa('pcm.mic {\n  type plug\n  hint { show on description "Mic" }\n', bundle)
    assert (code, out) == (1, "")
    assert err.startswith("edgekit: microphone: PortAudio does not start (")
    assert err.endswith("; correct ~/.asoundrc if there is one, then `edgekit doctor`\n")
    assert err.count("\n") == 1


def test_a_microphone_that_is_away_when_the_configuration_changes_is_waited_for(bundle, monkeypatch):
    """The first one has to be there, unless `--wait` is given; later nothing that can come back ends it."""
    machine = Machine(Plugged())
    monkeypatch.setitem(sys.modules, "sounddevice", machine)
    model = edgekit.load(bundle, threads=1)
    asked = {"wait": False, "simulate": None, "as_json": True}
    configured = Configured(Settings(bundle=str(bundle)))
    microphone = _Microphone(asked, configured, Server(model), Watch())
    for plugged in (True, False):
        if not plugged:
            machine.unplug()
        with microphone.begin(model) as daemon:
            (daemon.leave if plugged else daemon.stop)()
            daemon.run()
        assert daemon.handed_over == plugged
    monkeypatch.setitem(sys.modules, "sounddevice", Machine())  # as a fresh process finds it
    with pytest.raises(DeviceError, match="none found"):
        _Microphone(asked, configured, Server(model), Watch())


def test_a_simulated_microphone_goes_on_where_it_is_when_the_configuration_is_read_again(
    program, bundle, wav, tmp_path
):
    path = wav("short.wav", np.random.default_rng(1).uniform(-1e-5, 1e-5, 16_000 * 4))
    config = tmp_path / "edgekit.toml"
    config.write_text("[stream]\npartials = true\n", encoding="utf-8")
    process = program("listen", bundle, "--simulate", path, "--config", config, "--gate", "sound")
    while "^C ends it" not in process.stderr.readline():
        assert process.poll() is None
    config.write_text("[stream]\npartials = false\n", encoding="utf-8")
    process.send_signal(signal.SIGHUP)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    accounts = [tuple(map(int, found)) for found in ACCOUNT.findall(err)]
    assert len(accounts) == 2, err
    assert all(captured == sum(parts) for captured, *parts in (one[:4] for one in accounts))
    assert sum(captured for captured, *_ in accounts) == 16_000 * 4
    assert min(captured for captured, *_ in accounts) > 0
