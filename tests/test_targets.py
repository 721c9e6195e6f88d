"""Every target that ships loads and has what a device needs."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgekit.bundle.dialects import DIALECTS, DialectName
from edgekit.errors import RecipeError, UsageError
from edgekit.recipe import load_target
from edgekit.serving.server import STOP_S, STUCK_S
from tests.confined import HIDDEN, directives

RUNTIMES = Path(__file__).resolve().parent.parent / "runtimes"
TARGETS = sorted(path.name for path in RUNTIMES.iterdir() if path.is_dir())


def test_the_cpu_target_is_there():
    assert "cpu" in TARGETS
    assert load_target("cpu").dialect == "ort-cpu"


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_loads_and_brings_its_installer(name):
    target = load_target(name)
    assert target.name == name
    assert target.backends
    for file in ("README.md", "Dockerfile", "install.sh", "smoke.sh", "edgekit.service"):
        assert (RUNTIMES / name / file).is_file(), file


@pytest.mark.parametrize("name", TARGETS)
def test_the_table_of_targets_says_what_each_file_says(name):
    target = load_target(name)
    row = re.search(rf"\| \[`{name}`\].*", (RUNTIMES / "README.md").read_text(encoding="utf-8"))
    assert row, "not in runtimes/README.md"
    cells = [cell.strip(" `") for cell in row[0].split("|")[2:4]]
    assert cells == [target.dialect, "yes" if target.tested else "no"]


def test_an_unknown_target_is_refused_with_the_known_ones():
    with pytest.raises(RecipeError, match=r"target 'toaster' is not known; choose one of: .*cpu"):
        load_target("toaster")


def test_a_target_combines_a_dialect_that_is_registered_with_what_that_offers(tmp_path):
    file = tmp_path / "toy.toml"
    text = (RUNTIMES / "cpu" / "target.toml").read_text(encoding="utf-8").replace('"ort-cpu"', '"toy"')
    file.write_text(text, encoding="utf-8")
    with pytest.raises(
        RecipeError, match=r"toy.toml: dialect 'toy' is not known; choose one of: ort-cpu, ort-cuda, standard, or reg"
    ):
        load_target(str(file))
    with DIALECTS.registered(DialectName("toy", ("float16",))):
        with pytest.raises(RecipeError, match=r"toy.toml: activations 'float32': dialect 'toy' has float16 only"):
            load_target(str(file))
        file.write_text(text + 'activations = "float16"\n', encoding="utf-8")
        assert load_target(str(file)).dialect == "toy"


@pytest.mark.parametrize("script", sorted(RUNTIMES.rglob("*.sh")), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_script_without_arguments_says_how_it_is_used(script):
    done = subprocess.run([shutil.which("sh"), script], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: sh ")


def test_the_installer_refuses_what_is_no_bundle_and_writes_nothing(tmp_path):
    done = subprocess.run(
        [shutil.which("sh"), RUNTIMES / "cpu" / "install.sh", tmp_path, tmp_path / "prefix"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "no manifest.json there" in done.stderr
    assert not (tmp_path / "prefix").exists()


@pytest.mark.parametrize("name", [name for name in TARGETS if name != "cpu"])
def test_a_target_for_gpus_names_them_and_where_each_version_comes_from(name):
    target = load_target(name)
    assert target.compute_capability
    assert all(re.fullmatch(r"\d+\.\d", one) for one in target.compute_capability)
    assert target.stacks
    assert all(stack.source and stack.cuda for stack in target.stacks)
    assert target.unified_memory == name.startswith("jetson") == any(stack.l4t for stack in target.stacks)


@pytest.mark.parametrize("name", TARGETS)
def test_a_unit_has_nothing_that_systemd_complains_about(name, tmp_path):
    """But for what systemd 254 brought, which older ones leave out and say so."""
    text = (RUNTIMES / name / "edgekit.service").read_text(encoding="utf-8")
    assert "ExecStart=/opt/edgekit/venv/bin/edgekit listen /opt/edgekit/bundle" in text
    unit = tmp_path / "edgekit.service"
    unit.write_text(re.sub("ExecStart=.*", f"ExecStart={shutil.which('true')}", text))  # the installed one is not here
    done = subprocess.run([_systemd_analyze(), "verify", "--man=no", unit], capture_output=True, text=True, check=False)
    newer = r".*Unknown key( name)? '(RestartSteps|RestartMaxDelaySec)' in section .*, ignoring\.\n"
    assert (done.returncode, re.sub(newer, "", done.stderr)) == (0, "")


@pytest.mark.parametrize("name", TARGETS)
def test_a_unit_leaves_the_service_little_to_do_harm_with(name):
    """From 0, nothing, to 10, everything; 7.6 before the directives that are looked at below."""
    command = [_systemd_analyze(), "security", "--offline=true", "--no-pager", RUNTIMES / name / "edgekit.service"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    (exposure,) = re.findall(r"Overall exposure level for edgekit.service: (\d+\.\d+)", done.stdout)
    assert float(exposure) <= 3.0
    assert float(exposure) == pytest.approx(0.9, abs=0.3)  # as runtimes/README.md says; versions of systemd differ


def _systemd_analyze():
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("no systemd-analyze here")
    return program


CONFINED = {
    "AmbientCapabilities": "", "CapabilityBoundingSet": "", "DevicePolicy": "closed", "DynamicUser": "yes",
    "IPAddressDeny": "any", "LockPersonality": "yes", "NoNewPrivileges": "yes", "PrivateNetwork": "yes",
    "PrivateTmp": "yes", "ProtectClock": "yes", "ProtectControlGroups": "yes", "ProtectHome": "yes",
    "ProtectHostname": "yes", "ProtectKernelLogs": "yes", "ProtectKernelModules": "yes",
    "ProtectKernelTunables": "yes", "ProtectProc": "invisible", "ProtectSystem": "strict", "RemoveIPC": "yes",
    "RestrictAddressFamilies": "AF_UNIX", "RestrictNamespaces": "yes", "RestrictRealtime": "yes",
    "RestrictSUIDSGID": "yes", "SystemCallArchitectures": "native", "SystemCallErrorNumber": "EPERM", "UMask": "0077",
}  # fmt: skip
BROKEN = {
    "MemoryDenyWriteExecute",  # cffi's callbacks, CUDA's kernels
    "PrivateDevices",  # the microphone
    "ProcSubset",  # /proc/meminfo
}


@pytest.mark.parametrize("name", TARGETS)
def test_a_unit_says_what_the_service_may_not_do_and_forbids_nothing_that_it_needs(name):
    unit = directives(RUNTIMES / name / "edgekit.service")
    assert {key: unit.get(key) for key in CONFINED} == {key: [value] for key, value in CONFINED.items()}
    assert unit["SystemCallFilter"] == ["@system-service", "~@privileged"]
    assert not BROKEN & unit.keys()
    devices = unit["DeviceAllow"]
    assert devices[0] == "char-alsa rw"
    assert ("char-nvidia* rw" in devices) == (name != "cpu")
    assert ("/dev/nvmap rw" in devices) == name.startswith("jetson")
    assert unit["SupplementaryGroups"][0].split()[0] == "audio"


@pytest.mark.parametrize("name", TARGETS)
def test_a_service_comes_back_for_ever_ever_later_but_not_after_wrong_usage(name):
    unit = directives(RUNTIMES / name / "edgekit.service")
    assert unit["Restart"] == ["always"]
    assert unit["StartLimitIntervalSec"] == ["0"]  # no number of starts is too many
    assert "StartLimitBurst" not in unit
    assert unit["RestartPreventExitStatus"] == [str(UsageError.exit_code)]
    first, steps, last = (int(unit[key][0]) for key in ("RestartSec", "RestartSteps", "RestartMaxDelaySec"))
    assert 1 <= first < last <= 60
    assert steps > 1


@pytest.mark.parametrize("name", TARGETS)
def test_a_service_says_when_it_is_ready_and_is_started_anew_where_it_hangs(name):
    unit = directives(RUNTIMES / name / "edgekit.service")
    assert unit["Type"] == ["notify"]
    assert unit["ExecReload"] == ["/bin/kill -HUP $MAINPID"]
    (watchdog_s,), (stop_s,) = map(int, unit["WatchdogSec"]), map(int, unit["TimeoutStopSec"])
    assert STUCK_S < watchdog_s <= 60  # what is slow is not killed
    assert STOP_S < stop_s <= 30


@pytest.mark.parametrize("name", TARGETS)
def test_no_word_that_is_heard_goes_to_the_journal(name):
    assert directives(RUNTIMES / name / "edgekit.service")["StandardOutput"] == ["null"]


@pytest.mark.parametrize("name", TARGETS)
def test_units_differ_in_what_their_devices_need_and_in_nothing_else(name):
    unit, cpu = (directives(RUNTIMES / one / "edgekit.service") for one in (name, "cpu"))
    own = {"DeviceAllow", "SupplementaryGroups", "CacheDirectory", "CacheDirectoryMode", "Environment", "After"}
    assert {key for key in unit.keys() | cpu.keys() if unit.get(key) != cpu.get(key)} <= own


@pytest.mark.parametrize("name", TARGETS)
def test_a_container_runs_without_root_on_an_image_that_is_named_by_its_digest(name):
    text = (RUNTIMES / name / "Dockerfile").read_text(encoding="utf-8")
    last = [line for line in text.splitlines() if line.startswith(("USER", "ENTRYPOINT"))]
    assert last[0] == "USER 65534:65534"
    assert last[1].startswith("ENTRYPOINT")
    assert text.count("\nUSER ") == 1
    if name == "jetson-thor":  # no digest is known to us that could be stood for: whoever builds it names one
        assert "\nARG BASE\nFROM ${BASE}\n" in text
    else:
        (base,) = re.findall(r"^(?:FROM |ARG BASE=)([^$\n]+)", text, re.MULTILINE)
        assert re.fullmatch(r"[a-z0-9./-]+:[a-z0-9.-]+@sha256:[0-9a-f]{64}", base)


@pytest.mark.parametrize("name", TARGETS)
def test_a_dockerfile_copies_what_is_there_and_never_a_tensorrt_of_its_own_on_a_jetson(name):
    text = (RUNTIMES / name / "Dockerfile").read_text(encoding="utf-8")
    for line in re.findall(r"^COPY (.+)", text, re.MULTILINE):
        for source in line.split()[:-1]:
            assert (RUNTIMES.parent / source).exists(), source
    if name.startswith("jetson"):
        (lock,) = re.findall(r"^COPY (requirements/\S+)", text, re.MULTILINE)
        assert "tensorrt" not in (RUNTIMES.parent / lock).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [name for name in TARGETS if name != "cpu"])
def test_an_installer_for_a_gpu_refuses_a_machine_without_one(name, tmp_path):
    if Path("/etc/nv_tegra_release").exists() or shutil.which("nvidia-smi"):
        pytest.skip("this machine has what the installer looks for")
    command = [shutil.which("sh"), RUNTIMES / name / "install.sh", tmp_path, tmp_path / "prefix"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.match("nvidia-smi: not there|/etc/nv_tegra_release: not there", done.stderr)
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "prefix").exists()


@pytest.mark.parametrize("name", [name for name in TARGETS if name != "cpu"])
def test_a_smoke_test_for_a_gpu_fails_without_one(name, tmp_path):
    doctor = tmp_path / "edgekit"
    doctor.write_text("#!/bin/sh\necho 'wrong    GPU: cuInit answers 100'\necho 'ok       GPU driver'\n")
    doctor.chmod(0o755)
    command = [shutil.which("sh"), RUNTIMES / name / "smoke.sh", "bundle", "talk.wav"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "EDGEKIT": str(doctor)}
    )
    assert done.returncode == 1
    assert done.stderr.endswith("GPU: none that works, see above\n")


@pytest.mark.parametrize(
    ("python", "release", "lock"),
    [
        ("exit 0", "# R36 (release), REVISION: 4.3", "jetpack6"),  # every question of the script is answered by yes
        ("case $2 in *version*) exit 1; esac", "# R39 (release), REVISION: 2.0", "cpu"),
        ("exit 0", "# R35 (release), REVISION: 4.1", None),
        ("exit 1", "# R36 (release), REVISION: 4.3", None),  # TensorRT does not load
    ],
)
def test_a_jetson_takes_the_board_s_tensorrt_and_the_lock_of_its_python(tmp_path, python, release, lock):
    text = (RUNTIMES / "on-jetson.sh").read_text(encoding="utf-8")
    (tmp_path / "on-jetson.sh").write_text(text.replace("/etc/nv_tegra_release", str(tmp_path / "release")))
    (tmp_path / "release").write_text(f"{release}, GCID: 1, BOARD: generic\n")
    (tmp_path / "place.sh").write_text('echo "$VENV_OPTIONS $*"\n')
    (tmp_path / "python").write_text(f"#!/bin/sh\n{python}\n")
    (tmp_path / "python").chmod(0o755)
    done = subprocess.run(
        [shutil.which("sh"), tmp_path / "on-jetson.sh", "jetson-orin", "36 39", "bundle", "prefix"],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHON": str(tmp_path / "python")},
    )  # fmt: skip
    if lock is None:
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    else:
        assert done.stdout == f"--system-site-packages jetson-orin {lock} bundle prefix\n"


@pytest.fixture
def place(tmp_path):
    """Install a bundle by ``place.sh``, all but its own steps by stand-ins; return exit code, what was said, the rest.

    Nothing is hidden there but what ``hidden`` names, since tests write to /tmp.
    """
    shutil.copytree(RUNTIMES, tmp_path / "runtimes")
    (tmp_path / "requirements").symlink_to(RUNTIMES.parent / "requirements")
    script, python, prefix = tmp_path / "runtimes/place.sh", tmp_path / "python", tmp_path / "prefix"
    text = script.read_text()
    edgekit = (
        'echo "$*" >>"$(dirname "$0")/../../said"\n'
        'case $1 in build) mkdir "$2.plans"; cp "$2/new" "$2.plans/$(cat "$2/new")"; touch "$EDGEKIT_PLAN_KEY";; '
        'verify) [ ! -e "$2/bad" ];; esac'
    )
    real = f'PYTHONPATH="{RUNTIMES.parent}" "{sys.executable}" "$@"'
    python.write_text(
        f'#!/bin/sh\n[ "$1" = -c ] && exec {sys.executable} "$@"\n[ "$1" = -m ] || exit 0\nmkdir -p "$3/bin"\n'
        'cat >"$3/bin/python" <<\'END\'\n#!/bin/sh\n[ "$2" = edgekit.atomic ] || exit 0\n'
        f'[ "$KILL" = "$3 before" ] && kill -9 $PPID && exit 1\n{real}\n'
        '[ "$KILL" != "$3 behind" ] || kill -9 $PPID\nEND\n'
        f'cat >"$3/bin/edgekit" <<\'END\'\n#!/bin/sh\n{edgekit}\nEND\nchmod +x "$3/bin/"*\n'
    )
    python.chmod(0o755)

    def run(bundle, *, hidden="", kill="", prefix=prefix):
        script.write_text(
            re.sub(
                r'^hidden=".*"',
                f'hidden="{hidden}"',
                text.replace("=/etc/edgekit/trust\n", f"={run.trust}\n"),
                count=1,
                flags=re.MULTILINE,
            )
        )
        (prefix / "said").unlink(missing_ok=True)
        command = [shutil.which("sh"), script, "desktop-rtx", "rtx", bundle, prefix]
        environment = {**os.environ, "PYTHON": str(python), "KILL": kill}
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)

    run.prefix, run.trust = prefix, tmp_path / "trust"
    run.trust.mkdir()
    return run


@pytest.fixture
def a_bundle(tmp_path):
    """Write what a bundle is to ``place.sh``."""

    def write(content, dialect="standard"):
        (tmp_path / "mine").mkdir(exist_ok=True)
        (tmp_path / "mine/new").write_text(content)
        (tmp_path / "mine/manifest.json").write_text(f'{{\n "dialect": "{dialect}"\n}}\n')
        return tmp_path / "mine"

    return write


def _placed(prefix):
    return sorted(path.name for path in prefix.iterdir() if "bundle" in path.name)


def test_plans_of_a_bundle_are_built_where_it_is_installed_and_take_its_place_with_it(place, a_bundle):
    prefix, new = place.prefix, place.prefix / "bundle.new"
    expected = [f"build {new} --target desktop-rtx", f"verify {new}"]
    for content, dialect, names in (
        ("first", "standard", ["bundle", "bundle.plans"]), ("second", "standard", ["bundle", "bundle.plans"]),
        ("third", "ort-cpu", ["bundle"]), ("fourth", "standard", ["bundle", "bundle.plans"]),
    ):  # fmt: skip
        done = place(a_bundle(content, dialect))
        assert done.returncode == 0, done.stderr
        assert (prefix / "said").read_text().splitlines() == expected[-len(names) :]
        assert _placed(prefix) == names
        assert (prefix / "bundle/new").read_text() == content
        assert [path.name for path in prefix.glob("bundle.plans/*")] == [content] * (dialect == "standard")
    (bad := a_bundle("fifth") / "bad").touch()
    assert place(bad.parent).returncode != 0
    assert (prefix / "bundle/new").read_text() == "fourth"
    assert [path.name for path in prefix.glob("bundle.plans/*")] == ["fourth"]


def test_where_the_machine_trusts_a_key_only_what_it_signed_is_installed_and_started(place, a_bundle):
    prefix, unit, new = place.prefix, place.prefix / "edgekit.service", place.prefix / "bundle.new"
    (place.trust / "README").touch()
    for trusted in ("", f" --trust {place.trust}"):
        done = place(a_bundle("any"))
        assert done.returncode == 0, done.stderr
        said = (prefix / "said").read_text().splitlines()
        assert said == [f"build {new} --target desktop-rtx{trusted}", f"verify {new}{trusted}"]
        started = f"ExecStart={prefix}/venv/bin/edgekit listen {prefix}/bundle --wait"
        assert f"{started}{' --require-signature' if trusted else ''}\n" in unit.read_text()
        (place.trust / "acme.pub").touch()


def test_the_service_is_handed_the_key_of_the_plans_that_were_built(place, a_bundle):
    unit, key = place.prefix / "edgekit.service", place.prefix / "plan.key"
    assert place(a_bundle("any")).returncode == 0
    assert unit.read_text().count(f"LoadCredential=edgekit-plan-key:{key}\n") == 1
    key.unlink()
    assert place(a_bundle("any", "ort-cpu")).returncode == 0
    assert "LoadCredential" not in unit.read_text()


@pytest.mark.parametrize("name", ["bundle.new", "bundle.new.plans"])
@pytest.mark.parametrize("moment", ["before", "behind"])
def test_an_installer_that_is_killed_leaves_a_whole_bundle_with_its_plans_and_mends_it_when_it_runs_again(
    place, a_bundle, name, moment
):
    prefix = place.prefix
    assert place(a_bundle("old")).returncode == 0
    assert place(a_bundle("new"), kill=f"{name} {moment}").returncode != 0
    there = (prefix / "bundle/new").read_text()
    assert there == ("old" if (name, moment) == ("bundle.new", "before") else "new")
    assert (prefix / "bundle.plans" / there).read_text() == there
    assert place(a_bundle("next")).returncode == 0
    assert _placed(prefix) == ["bundle", "bundle.plans"]
    assert (prefix / "bundle/new").read_text() == "next"
    assert [path.name for path in prefix.glob("bundle.plans/*")] == ["next"]


def test_the_bundle_that_an_older_installer_left_aside_is_not_lost(place, a_bundle):
    (place.prefix / "bundle.old").mkdir(parents=True)
    (place.prefix / "bundle.old/new").write_text("old")
    (bad := a_bundle("new") / "bad").touch()
    assert place(bad.parent).returncode != 0
    assert (place.prefix / "bundle/new").read_text() == "old"


def test_everybody_may_read_what_is_installed(place, a_bundle):
    """The service runs as a user of its own; who installs may keep files to himself."""
    bundle = a_bundle("new")
    bundle.chmod(0o700)
    (bundle / "new").chmod(0o600)
    before = os.umask(0o077)
    try:
        assert place(bundle).returncode == 0
    finally:
        os.umask(before)
    for path in (place.prefix, *place.prefix.rglob("*")):
        assert path.stat().st_mode & 0o444 == 0o444, path


@pytest.mark.parametrize("below", ["", "/new/prefix"])
@pytest.mark.parametrize("link", [False, True])
def test_an_installer_refuses_a_prefix_that_the_service_would_not_see(place, a_bundle, tmp_path, below, link):
    hidden = tmp_path / "home"
    hidden.mkdir()
    (tmp_path / "link").symlink_to(hidden)
    prefix = Path(f"{tmp_path / 'link' if link else hidden}{below}")
    done = place(a_bundle("new"), hidden=f"/nowhere {hidden} /elsewhere", prefix=prefix)
    line = f"{prefix}: lies in {hidden}, which the service does not see; name another PREFIX, such as /opt/edgekit\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", line)
    assert list(hidden.iterdir()) == []


def test_an_installer_refuses_an_interpreter_that_the_service_would_not_see(place, a_bundle):
    """The one behind this environment's links: its own folder is all that is hidden."""
    base = Path(sys.base_prefix).resolve()
    done = place(a_bundle("new"), hidden=base)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert f": lies in {base}, which the service does not see; name another with PYTHON=" in done.stderr
    assert not place.prefix.exists()


def test_an_installer_knows_what_every_unit_hides():
    (hidden,) = re.findall(r'^hidden="(.*)"$', (RUNTIMES / "place.sh").read_text(encoding="utf-8"), re.MULTILINE)
    places = {key: list(folders) for key, folders in HIDDEN.items()}
    for name in TARGETS:
        unit = directives(RUNTIMES / name / "edgekit.service")
        assert hidden.split() == [path for key, paths in places.items() if unit[key] == ["yes"] for path in paths]
        assert not {"InaccessiblePaths", "TemporaryFileSystem", "RootDirectory", "PrivateUsers"} & unit.keys()


def test_an_installer_refuses_a_prefix_that_a_unit_would_read_otherwise(place, a_bundle, tmp_path):
    for name in ("a b", "50%", "a&b", "a|b", "$HOME"):
        done = place(a_bundle("new"), prefix=tmp_path / name)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
        assert done.stderr.startswith(f"{tmp_path / name}: ")
        assert not (tmp_path / name).exists()
