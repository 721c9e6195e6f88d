"""The unit that a command writes for itself: what it may do, what it says, and that it can be undone."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec import structs

from edgekit.errors import OutputError, UsageError
from edgekit.exporter.export import ExportOptions, export
from edgekit.serving.configuration import Configured
from edgekit.serving.service import unit
from edgekit.serving.settings import Settings
from tests.confined import directives
from tests.reference import checkpoints

ROOT = Path(__file__).resolve().parents[3]
# What systemd says of a unit of each kind, from 0, nothing is exposed, to 10, everything (systemd 252).
EXPOSED = {
    ("listen", False, False): 0.9, ("serve", False, False): 1.6, ("serve", False, True): 1.7,
    ("listen", True, False): 6.0, ("serve", True, False): 6.3,
}  # fmt: skip


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """Export a bundle of random weights."""
    folder = tmp_path_factory.mktemp("unit")
    recipe = ROOT / "tests/cli/quick.toml"
    export(checkpoints.write(folder / "c", "whisper-experts"), folder / "b", ExportOptions(recipe=str(recipe)))
    return folder / "b"


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    """Let units lie below tmp_path, which a service sees."""
    monkeypatch.setattr(unit, "SYSTEM_FOLDER", tmp_path / "system")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(unit, "_check_seen", lambda *_needed: None)


def configured(**settings):
    return Configured(structs.replace(Settings(), **settings))


def opened(command, *, network):
    """Return a configuration that is this machine's alone, or is reached from others."""
    if not network:
        return configured()
    settings = Settings()
    http = structs.replace(settings.http, host="0.0.0.0", token_file="/etc/edgekit/token", cert="/c", key="/k")  # noqa: S104, S106
    return configured(http=http)


def text_of(command, bundle, configuration=None, words=(), *, user):
    return unit.unit_text(command, words or [str(bundle)], configuration or configured(), bundle, user=user)


def unit_file(folder, text, *, start=True):
    """Write a unit as systemd reads it, whose program is there."""
    path = folder / "edgekit-test.service"
    path.write_text(re.sub("ExecStart=.*", f"ExecStart={shutil.which('true')}", text) if start else text)
    return path


@pytest.mark.parametrize("case", EXPOSED, ids=str)
def test_systemd_has_no_complaint_and_sees_little_exposed(bundle, tmp_path, case):
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("no systemd-analyze here")
    command, user, network = case
    path = unit_file(tmp_path, text_of(command, bundle, opened(command, network=network), user=user))
    manager = ["--user"] if user else []
    done = subprocess.run(
        [program, *manager, "verify", "--man=no", path], capture_output=True, text=True, check=False,
        env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)},
    )  # fmt: skip
    newer = r".*Unknown key( name)? '(RestartSteps|RestartMaxDelaySec)' in section .*, ignoring\.\n"
    assert (done.returncode, re.sub(newer, "", done.stderr)) == (0, "")
    done = subprocess.run(
        [program, "security", "--offline=true", "--no-pager", path], capture_output=True, text=True, check=False
    )
    (exposure,) = re.findall(r"Overall exposure level for edgekit-test.service: (\d+\.\d+)", done.stdout)
    assert float(exposure) == pytest.approx(EXPOSED[case], abs=0.3)  # versions of systemd differ


def test_what_a_service_may_do_stands_once_with_its_target(bundle, tmp_path):
    """Of the directives, `listen` has every one of its target's unit, and `serve` differs in what it needs."""
    base = directives(ROOT / "runtimes/cpu/edgekit.service")
    listens = directives(unit_file(tmp_path, text_of("listen", bundle, user=False), start=False))
    assert {key for key in base if listens.get(key) != base[key]} == {"ExecStart"}
    serves = directives(unit_file(tmp_path, text_of("serve", bundle, user=False), start=False))
    assert {key for key in base if serves.get(key) != base[key]} == {
        "Description", "After", "ExecStart", "SupplementaryGroups", "DeviceAllow", "PrivateNetwork",
        "RestrictAddressFamilies", "StandardOutput",
    }  # fmt: skip
    assert serves["RestrictAddressFamilies"] == ["AF_UNIX AF_INET AF_INET6"]
    assert (serves["IPAddressDeny"], serves["IPAddressAllow"]) == (["any"], ["localhost"])
    assert "PrivateNetwork" not in serves
    assert "DeviceAllow" not in serves


@pytest.mark.parametrize("user", [True, False])
def test_no_word_that_is_heard_goes_to_the_journal_which_is_a_file(bundle, tmp_path, user):
    assert directives(unit_file(tmp_path, text_of("listen", bundle, user=user)))["StandardOutput"] == ["null"]


def test_a_server_that_others_reach_may_and_gets_its_secrets_from_systemd(bundle, tmp_path):
    serves = directives(unit_file(tmp_path, text_of("serve", bundle, opened("serve", network=True), user=False)))
    assert "IPAddressDeny" not in serves
    assert serves["LoadCredential"] == ["edgekit-token:/etc/edgekit/token", "edgekit-cert:/c", "edgekit-key:/k"]
    assert serves["After"] == ["network-online.target"]
    wyoming = structs.replace(Settings().wyoming, on=True, host="0.0.0.0")  # noqa: S104 - asked for
    serves = directives(unit_file(tmp_path, text_of("serve", bundle, configured(wyoming=wyoming), user=False)))
    assert serves["RestrictAddressFamilies"] == ["AF_UNIX AF_INET AF_INET6 AF_NETLINK"]  # zeroconf asks for addresses


def test_a_microphone_that_serves_too_keeps_its_sound(bundle, tmp_path):
    http = structs.replace(Settings().http, on=True)
    listens = directives(unit_file(tmp_path, text_of("listen", bundle, configured(http=http), user=False)))
    assert listens["DeviceAllow"] == ["char-alsa rw"]
    assert listens["SupplementaryGroups"] == ["audio"]
    assert listens["RestrictAddressFamilies"] == ["AF_UNIX AF_INET AF_INET6"]


def test_what_is_kept_has_a_place_that_the_service_alone_may_write(bundle, tmp_path):
    record = structs.replace(Settings().record, dir="/var/lib/edgekit/recordings")
    text = text_of("listen", bundle, configured(record=record), user=False)
    listens = directives(unit_file(tmp_path, text))
    assert (listens["StateDirectory"], listens["StateDirectoryMode"]) == (["edgekit"], ["0700"])
    assert "StateDirectory" not in directives(unit_file(tmp_path, text_of("listen", bundle, user=False)))


def test_a_user_s_unit_has_only_what_a_user_s_systemd_keeps(bundle, tmp_path):
    text = text_of("listen", bundle, user=True)
    keys = directives(unit_file(tmp_path, text))
    assert not {"DynamicUser", "ProtectHome", "PrivateNetwork", "DeviceAllow", "CapabilityBoundingSet"} & keys.keys()
    assert keys["WantedBy"] == ["default.target"]
    assert {"Type", "WatchdogSec", "ExecReload", "NoNewPrivileges", "SystemCallFilter"} <= keys.keys()
    comments = [line for line in text.splitlines() if line.startswith("#")]
    assert not [line for line in comments if "ProcSubset" in line or "MemoryDenyWriteExecute" in line]


def test_the_command_of_a_unit_is_read_by_systemd_as_it_was_typed(bundle, tmp_path):
    program = shutil.which("systemd-analyze")
    words = ["/a b/c", "--prompt", 'say "50%" of $HOME\\n', "--set", "http.hosts=['x']", ""]
    text = text_of("serve", bundle, words=words, user=False)
    (line,) = [line for line in text.splitlines() if line.startswith("ExecStart=")]
    assert line.endswith(' serve "/a b/c" --prompt "say \\"50%%\\" of $$HOME\\\\n" --set "http.hosts=[\'x\']" ""')
    if program is not None:
        path = tmp_path / "edgekit-test.service"
        path.write_text(re.sub(r"ExecStart=\S+", f"ExecStart={shutil.which('true')}", text))
        done = subprocess.run([program, "verify", "--man=no", path], capture_output=True, text=True, check=False)
        assert done.returncode == 0
        assert "ExecStart" not in done.stderr


def test_a_target_s_unit_is_chosen_by_the_bundle_s_dialect_and_the_board(tmp_path, monkeypatch):
    from edgekit.recipe import load_target

    assert unit._target("ort-cpu") == "cpu"
    assert load_target(unit._target("standard")).unified_memory is False
    (tmp_path / "tegra").touch()
    monkeypatch.setattr(unit, "_JETSON", tmp_path / "tegra")
    assert load_target(unit._target("standard")).unified_memory is True
    assert unit._target("no such dialect") == "cpu"


@pytest.mark.parametrize("user", [True, False])
def test_it_is_written_replaced_and_undone_and_says_what_to_type(bundle, user):
    path = unit.unit_path("serve", user=user)
    assert path.name == "edgekit-serve.service"
    first = text_of("serve", bundle, user=user)
    assert unit.write("serve", first, user=user) == path
    assert path.read_text() == first
    assert path.stat().st_mode & 0o777 == 0o644
    second = text_of("serve", bundle, words=["other"], user=user)
    unit.write("serve", second, user=user)
    assert path.read_text() == second
    said = unit.explain_written(path, user=user)
    assert f"wrote {path}; nothing runs yet." in said
    assert ("systemctl --user enable --now edgekit-serve" in said) == user
    assert ("loginctl enable-linger" in said) == user
    assert unit.remove("serve", user=user) == path
    assert not path.exists()
    assert list(path.parent.iterdir()) == []
    assert "daemon-reload" in unit.explain_removed(path, user=user)
    with pytest.raises(OutputError, match=r"no such file, so there is nothing to undo; was it written with --"):
        unit.remove("serve", user=user)


def test_a_unit_of_another_s_or_one_that_was_changed_is_left_alone(bundle, tmp_path):
    path = unit.unit_path("listen", user=True)
    path.parent.mkdir(parents=True)
    ours = text_of("listen", bundle, user=True)
    precious = tmp_path / "precious"
    precious.write_text(ours)
    for content, why in (
        ("[Service]\n", "is another's"), (ours + "Nice=5\n", "was changed since it was written"),
        (ours.replace("listen --", "serve --"), "is another's"), ("", "is another's"),
    ):  # fmt: skip
        path.write_text(content)
        for work in (lambda: unit.remove("listen", user=True), lambda: unit.write("listen", ours, user=True)):
            with pytest.raises(
                OutputError, match=f"{re.escape(str(path))}: {why}, so it is left alone; remove it by hand"
            ):
                work()
        assert path.read_text() == content
    path.unlink()
    path.symlink_to(precious)
    with pytest.raises(OutputError, match="so it is left alone; remove it by hand"):
        unit.remove("listen", user=True)
    assert precious.read_text() == ours


def test_a_place_that_cannot_be_written_is_one_line(bundle, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(unit, "SYSTEM_FOLDER", tmp_path / "file")
    with pytest.raises(
        OutputError, match=r"edgekit-serve.service: not written \(.*\); run it as root, or with --user$"
    ):
        unit.write("serve", text_of("serve", bundle, user=False), user=False)


def seen(monkeypatch, settings=None, file=None, bundle="/usr", program="/usr/bin/env"):
    """Look at what a service sees, with a Python that it does."""
    monkeypatch.undo()
    monkeypatch.setattr(sys, "_base_executable", "/usr/bin/env", raising=False)
    monkeypatch.setattr(sys, "base_prefix", "/usr")
    unit._check_seen(settings or Settings(), file, Path(bundle), [program])


def test_what_a_service_of_the_system_does_not_see_or_read_is_refused(monkeypatch, tmp_path):
    seen(monkeypatch)
    other = "which the service does not see; put it elsewhere, or install with --user"
    with pytest.raises(UsageError, match=f"^/tmp/x: lies in /tmp, {other}$"):
        seen(monkeypatch, bundle="/tmp/x")  # noqa: S108 - which is the point
    with pytest.raises(UsageError, match=f"^/run/user/a.toml: lies in /run/user, {other}$"):
        seen(monkeypatch, file=Path("/run/user/a.toml"))
    with pytest.raises(UsageError, match=r"^/usr/no such thing: the service's own user may not read it; chmod a\+rX"):
        seen(monkeypatch, bundle="/usr/no such thing")
    for folder in ("/srv/x", "/var/lib/edgekit", "/var/lib/edgekit/../x"):
        record = structs.replace(Settings().record, dir=folder)
        with pytest.raises(UsageError, match="the service may write below /var/lib/edgekit alone; name /var/lib/edg"):
            seen(monkeypatch, structs.replace(Settings(), record=record))


def test_a_file_that_its_owner_alone_may_read_is_found_closed(tmp_path):
    (tmp_path / "a").write_text("")
    (tmp_path / "a").chmod(0o600)
    assert unit._closed_to_others(tmp_path / "a") is not None
    assert unit._closed_to_others(Path("/usr/bin/env")) is None


def test_the_command_line_writes_explains_and_undoes_it_for_a_user(cli_here, bundle, tmp_path):
    path = unit.unit_path("serve", user=True)
    code, out, err = cli_here("serve", bundle, "--install-service", "--user", "--http", "[::1]:9", "--no-partials")
    assert (code, err) == (0, "")
    assert out == unit.explain_written(path, user=True)
    (line,) = re.findall("^ExecStart=.*", path.read_text(), re.MULTILINE)
    assert line.endswith(f' serve {bundle} --http "[::1]:9" --no-partials')
    shown = cli_here("serve", bundle, "--install-service", "--user", "--print", "--http", "[::1]:9", "--no-partials")
    assert shown == (0, path.read_text(), "")
    code, out, err = cli_here("serve", "--uninstall-service", "--user")
    assert (code, out, err) == (0, unit.explain_removed(path, user=True), "")
    assert not path.exists()
    code, out, err = cli_here("serve", "--uninstall-service", "--user")
    assert (code, out, err.count("\n")) == (1, "", 1)


def test_an_address_that_others_reach_is_refused_before_a_unit_is_written(cli_here, bundle):
    code, out, err = cli_here("serve", bundle, "--install-service", "--user", "--http", "0.0.0.0:80")
    assert (code, out) == (2, "")
    assert "which needs a token and TLS" in err
    assert not unit.unit_path("serve", user=True).exists()


def test_what_a_service_s_command_says_beside_its_configuration_is_kept_or_refused():
    from edgekit.cli.serving import _other_words

    asked = {"bundle": "b", "language": "en", "http": None, "print_unit": True, "simulate": None, "as_json": True}
    assert _other_words(asked, "listen") == ["--json", "--wait"]
    assert _other_words({**asked, "wait": True, "as_json": False}, "listen") == ["--wait"]
    assert _other_words({**asked, "as_json": False}, "serve") == []
    with pytest.raises(UsageError, match="^--simulate: a service has no use for it; leave it out$"):
        _other_words({**asked, "simulate": "talk.wav"}, "listen")


def test_a_bundle_that_the_configuration_names_stays_its_own_to_name(cli_here, bundle, tmp_path):
    path = tmp_path / "edgekit.toml"
    path.write_text(f'bundle = "{bundle}"\n[http]\nport = 9\n')
    code, out, _ = cli_here("serve", "--config", path, "--install-service", "--user", "--print", "--think", "7")
    assert code == 0
    assert re.search(rf"^ExecStart=.* serve --config {path} --think 7$", out, re.MULTILINE)


@pytest.fixture
def cli_here(capfd):
    """Run a command in this process and return exit code, stdout and stderr."""
    from edgekit.cli import main

    def run(*arguments):
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return end.value.code, out, err

    return run
