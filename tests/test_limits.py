"""How many cores are used: what a container or a service leaves of them, from imagined machines."""

import os

import pytest

from edgekit.limits import available_cores
from edgekit.profiler.device import describe_device

ALL = 7
UNIFIED = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
CPU = "33 31 0:30 {root} /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n"
HYBRID = (
    "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n"
    "34 31 0:31 / /sys/fs/cgroup/cpuset rw,relatime shared:9 - cgroup cgroup rw,cpuset\n"
    f"{CPU.format(root='/')}"
    "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n"
)
V1 = "sys/fs/cgroup/cpu,cpuacct"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Write files below a folder that stands for the root of a machine of seven cores."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: set(range(ALL)), raising=False)

    def write(files):
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return write


def of_version_1(folder, quota, period="100000\n"):
    return {f"{folder}/cpu.cfs_quota_us": f"{quota}\n", f"{folder}/cpu.cfs_period_us": period}


@pytest.mark.parametrize(
    ("quota", "cores"),
    [
        ("max 100000\n", ALL), ("50000 100000\n", 1), ("100000 100000\n", 1), ("100001 100000\n", 2),
        ("150000 100000\n", 2), ("30000 10000\n", 3), ("1000 1000000\n", 1), ("9900000 100000\n", ALL),
        ("200000\n", 2), ("max\n", ALL), ("", ALL), ("a few\n", ALL), ("200000 0\n", ALL),
    ],
)  # fmt: skip
def test_a_quota_of_version_2_counts_rounded_up(machine, quota, cores):
    files = {"proc/self/cgroup": "0::/\n", "proc/self/mountinfo": UNIFIED, "sys/fs/cgroup/cpu.max": quota}
    assert available_cores(machine(files)) == cores


@pytest.mark.parametrize(
    ("quota", "period", "cores"),
    [(-1, "100000\n", ALL), (50_000, "100000\n", 1), (250_000, "100000\n", 3), (20_000, "5000", 4), (100_000, "", ALL)],
)
def test_a_quota_of_version_1_counts_rounded_up(machine, quota, period, cores):
    own = "4:memory:/\n2:cpu,cpuacct:/\n"
    mounts = CPU.format(root="/")
    root = machine({"proc/self/cgroup": own, "proc/self/mountinfo": mounts} | of_version_1(V1, quota, period))
    assert available_cores(root) == cores


@pytest.mark.parametrize(
    ("quotas", "cores"),
    [
        ({"a.slice": "300000 100000", "a.slice/b.service": "max 100000"}, 3),
        ({"a.slice": "300000 100000", "a.slice/b.service": "500000 100000"}, 3),
        ({"a.slice": "300000 100000", "a.slice/b.service": "110000 100000"}, 2),
        ({"": "100000 100000", "a.slice": "300000 100000"}, 1),
        ({"other.slice": "100000 100000"}, ALL),
        ({}, ALL),
    ],
)
def test_the_smallest_quota_from_the_own_group_up_to_the_root_counts(machine, quotas, cores):
    files = {"proc/self/cgroup": "0::/a.slice/b.service\n", "proc/self/mountinfo": UNIFIED}
    root = machine(files | {f"sys/fs/cgroup/{group}/cpu.max": quota for group, quota in quotas.items()})
    assert available_cores(root) == cores


def test_where_both_versions_are_mounted_the_one_that_has_the_controller_counts(machine):
    files = {"proc/self/cgroup": "3:cpuset:/\n2:cpu,cpuacct:/a/b\n0::/a/b\n", "proc/self/mountinfo": HYBRID}
    root = machine(files | of_version_1(f"{V1}/a", 350_000) | of_version_1(f"{V1}/a/b", -1))
    assert available_cores(root) == 4


def test_a_container_that_is_told_its_path_on_the_host_finds_its_group_where_it_is_mounted(machine):
    files = {"proc/self/cgroup": "2:cpuacct,cpu:/docker/3f/inner\n"}
    mounts = {"proc/self/mountinfo": CPU.format(root="/docker/3f")}
    assert available_cores(machine(files | mounts | of_version_1(V1, 200_000))) == 2
    assert available_cores(machine(of_version_1(f"{V1}/inner", 100_000))) == 1


def test_a_group_that_lies_outside_of_what_is_mounted_is_the_one_that_is_mounted(machine):
    files = {"proc/self/cgroup": "0::/../other\n", "proc/self/mountinfo": UNIFIED}
    assert available_cores(machine(files | {"sys/fs/cgroup/cpu.max": "200000 100000"})) == 2


def test_a_place_with_a_space_in_its_name_is_found(machine):
    mounts = "30 23 0:26 / /my\\040groups rw - cgroup2 cgroup2 rw\n"
    files = {"proc/self/cgroup": "0::/\n", "proc/self/mountinfo": mounts, "my groups/cpu.max": "200000 100000"}
    assert available_cores(machine(files)) == 2


@pytest.mark.parametrize(
    "files",
    [
        {"sys/fs/cgroup/cpu.max": "200000 100000"},
        of_version_1("sys/fs/cgroup/cpu", 200_000),
        {"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/cpu.max": "200000 100000"},
    ],
)
def test_a_machine_that_does_not_say_what_is_mounted_is_taken_for_a_usual_one(machine, files):
    assert available_cores(machine(files)) == 2


def test_a_machine_without_control_groups_has_the_cores_it_may_run_on(machine, tmp_path, monkeypatch):
    assert available_cores(tmp_path) == ALL
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert available_cores(tmp_path) == 3
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert available_cores(tmp_path) == 1


def test_what_is_shown_of_a_device_are_the_cores_that_are_left(machine):
    files = {"proc/self/cgroup": "0::/\n", "proc/self/mountinfo": UNIFIED, "sys/fs/cgroup/cpu.max": "150000 100000"}
    assert describe_device(machine(files), "x86_64").cores == 2


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("proc/self/cgroup", "0::/\nno colons\n:\n\n5:cpu\n"),
        ("proc/self/cgroup", "0::/a\0b\n0::/\n"),
        ("proc/self/mountinfo", f"{UNIFIED}\n30 23\n- \n30 23 0:26 / /a - cgroup\n"),
        ("sys/fs/cgroup/cpu.max", "9" * 5000 + " 100000\n"),
        ("sys/fs/cgroup/cpu.max", "\u0663 100000\n"),
    ],
)
def test_a_line_that_no_kernel_writes_limits_nothing(machine, name, text):
    files = {"proc/self/cgroup": "0::/\n", "proc/self/mountinfo": UNIFIED, "sys/fs/cgroup/cpu.max": "max 100000\n"}
    assert available_cores(machine(files | {name: text})) == ALL
