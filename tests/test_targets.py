"""Every target that ships loads and has what a device needs."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from edgekit.bundle.dialects import DIALECTS, DialectName
from edgekit.errors import RecipeError
from edgekit.recipe import load_target

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
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("no systemd-analyze here")
    text = (RUNTIMES / name / "edgekit.service").read_text(encoding="utf-8")
    assert "ExecStart=/opt/edgekit/venv/bin/edgekit listen /opt/edgekit/bundle\n" in text
    unit = tmp_path / "edgekit.service"
    unit.write_text(re.sub("ExecStart=.*", f"ExecStart={shutil.which('true')}", text))  # the installed one is not here
    done = subprocess.run([program, "verify", "--man=no", unit], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


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


def test_plans_of_a_bundle_are_built_where_it_is_installed_and_take_its_place_with_it(tmp_path):
    bundle, prefix = tmp_path / "mine", tmp_path / "prefix"
    bundle.mkdir()
    python = tmp_path / "python"
    edgekit = (
        'echo "$*" >>"$(dirname "$0")/../../said"\n'
        'case $1 in build) mkdir "$2.plans"; touch "$EDGEKIT_PLAN_KEY";; verify) [ ! -e "$2/bad" ];; esac'
    )
    python.write_text(
        '#!/bin/sh\n[ "$1" = -m ] || exit 0\nmkdir -p "$3/bin"\n'
        f"printf '#!/bin/sh\\nexit 0\\n' >\"$3/bin/python\"\n"
        f'cat >"$3/bin/edgekit" <<\'END\'\n#!/bin/sh\n{edgekit}\nEND\nchmod +x "$3/bin/"*\n'
    )
    python.chmod(0o755)
    trust, here = tmp_path / "trust", tmp_path / "runtimes"
    trust.mkdir()
    here.mkdir()
    for name in ("desktop-rtx", "../requirements"):
        (here / name).symlink_to(RUNTIMES / name)
    script = (RUNTIMES / "place.sh").read_text(encoding="utf-8")
    (here / "place.sh").write_text(script.replace("=/etc/edgekit/trust\n", f"={trust}\n"))
    command = [shutil.which("sh"), here / "place.sh", "desktop-rtx", "rtx", bundle, prefix]

    def place(dialect, *, bad=False):
        (bundle / "manifest.json").write_text(f'{{\n "dialect": "{dialect}"\n}}\n')
        if bad:
            (bundle / "bad").touch()
        (prefix / "said").unlink(missing_ok=True)
        environment = {**os.environ, "PYTHON": str(python)}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        names = sorted(path.name for path in prefix.iterdir() if path.name.startswith("bundle"))
        return done.returncode, (prefix / "said").read_text().splitlines(), names

    new, unit = prefix / "bundle.new", prefix / "edgekit.service"
    expected = [f"build {new} --target desktop-rtx", f"verify {new}"]
    for _ in range(2):
        assert place("standard") == (0, expected, ["bundle", "bundle.plans"])
    (trust / "README").touch()
    assert place("ort-cpu") == (0, [f"verify {new}"], ["bundle"])
    assert place("standard") == (0, expected, ["bundle", "bundle.plans"])
    code, _, names = place("standard", bad=True)
    assert code != 0
    assert {"bundle", "bundle.plans"} < set(names)  # the one in use stays
    assert not (prefix / "bundle" / "bad").exists()
    (bundle / "bad").unlink()
    assert f"LoadCredential=edgekit-plan-key:{prefix}/plan.key\n" in unit.read_text()
    assert f"ExecStart={prefix}/venv/bin/edgekit listen {prefix}/bundle\n" in unit.read_text()
    (trust / "acme.pub").touch()
    signed = [f"{line} --trust {trust}" for line in expected]
    assert place("standard") == (0, signed, ["bundle", "bundle.plans"])
    assert f"ExecStart={prefix}/venv/bin/edgekit listen {prefix}/bundle --require-signature\n" in unit.read_text()
    (prefix / "plan.key").unlink()
    assert place("ort-cpu") == (0, [signed[1]], ["bundle"])
    assert "LoadCredential" not in unit.read_text()
