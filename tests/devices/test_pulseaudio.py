"""`edgekit listen` on a real PortAudio and a real sound server: heard, killed and started again, frozen."""

import json
import re
import subprocess
import sys

import pytest

from tests.devices.conftest import ROOT, until

pytestmark = pytest.mark.devices
WORDS = "Dashwood"  # of the clip
ACCOUNT = re.compile(r"captured (\d+) = processed (\d+) \+ gated (\d+) \+ dropped (\d+) samples")


def balances(listening):
    until(lambda: listening.said("captured"))
    (found,) = ACCOUNT.findall("".join(line for _, line in listening.err))
    captured, *parts = map(int, found)
    return captured == sum(parts) and captured > 0


def heard(listening, times=1):
    return sum(line.count(WORDS) for line in list(listening.out)) >= times


def test_what_is_played_is_heard_and_sigterm_ends_it_within_two_seconds(sound_server, listening):
    listen = listening()
    sound_server.play()
    until(lambda: heard(listen))
    code, seconds = listen.end()
    assert (code, seconds < 2.0) == (0, True)
    assert balances(listen)


def test_a_sound_server_that_is_killed_and_started_again_is_heard_within_five_seconds(sound_server, listening):
    listen = listening()
    sound_server.play()
    until(lambda: heard(listen))
    sound_server.kill()
    assert until(lambda: listen.said("it is opened again until it is well")) <= 3.0
    sound_server.start()
    # Said after 2.5 s of sound, more than any fault takes to be noticed.
    assert until(lambda: listen.said("well again")) <= 5.0 + 2.5
    sound_server.play()
    until(lambda: heard(listen, 2))
    assert listen.end()[0] == 0
    assert balances(listen)


def test_a_sound_server_that_is_frozen_is_noticed_and_heard_again_when_it_thaws(sound_server, listening):
    listen = listening()
    sound_server.play()
    until(lambda: heard(listen))
    sound_server.freeze()
    assert until(lambda: listen.said("no sound for")) <= 3.1
    until(lambda: listen.said("PortAudio does not answer"))
    sound_server.thaw()
    assert until(lambda: listen.said("well again")) <= 5.0 + 2.5
    sound_server.play()
    until(lambda: heard(listen, 2))
    assert listen.end()[0] == 0


@pytest.mark.parametrize("wait", ["at once", "noticed", "does not answer"])
def test_sigterm_ends_it_within_two_seconds_while_the_sound_server_is_frozen(sound_server, listening, wait):
    listen = listening()
    sound_server.play()
    until(lambda: heard(listen))
    sound_server.freeze()
    if wait != "at once":
        until(lambda: listen.said("no sound for" if wait == "noticed" else "PortAudio does not answer"))
    code, seconds = listen.end()
    assert (code, seconds < 2.0) == (0, True), seconds
    assert balances(listen)


def test_who_waits_hears_a_sound_server_that_comes_later(sound_server, listening):
    sound_server.kill()
    listen = listening("--wait")
    sound_server.start()
    until(lambda: listen.said("well again"))
    sound_server.play()
    until(lambda: heard(listen))
    assert listen.end()[0] == 0


def test_who_starts_while_the_sound_server_is_frozen_is_told_and_may_be_started_again(sound_server, tiny):
    sound_server.freeze()
    done = subprocess.run(
        [sys.executable, "-m", "edgekit", "listen", str(tiny)],
        env=sound_server.env | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (75, "")
    assert done.stderr == (
        "edgekit: microphone: PortAudio has not answered for 8 s; see whether the sound server runs, then start again\n"
    )


def test_devices_of_a_real_portaudio_are_listed(sound_server):
    done = subprocess.run(
        [sys.executable, "-m", "edgekit", "devices", "--json"],
        env=sound_server.env | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert "pulse" in {one["name"] for one in json.loads(done.stdout)}
    assert [one["default_input"] for one in json.loads(done.stdout)].count(True) == 1
