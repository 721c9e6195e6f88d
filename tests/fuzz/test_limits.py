"""Whatever the kernel's files say, a number of cores comes out."""

from edgekit.limits import available_cores
from edgekit.runtime.memory import available_mib, total_mib

FILES = {
    "proc/self/cgroup": b"0::/a/b\n4:cpu,cpuacct:/c\n",
    "proc/self/mountinfo": b"30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n"
    b"31 23 0:27 /c /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n",
    "proc/meminfo": b"MemTotal:       32768000 kB\nMemFree:        1000 kB\nMemAvailable:   20000000 kB\n",
    "sys/fs/cgroup/a/b/cpu.max": b"150000 100000\n",
    "sys/fs/cgroup/a/b/memory.max": b"1073741824\n",
    "sys/fs/cgroup/a/b/memory.current": b"1048576\n",
    "sys/fs/cgroup/a/b/memory.stat": b"anon 4096\nactive_file 8192\ninactive_file 4096\n",
    "sys/fs/cgroup/cpu/cpu.cfs_quota_us": b"200000\n",
    "sys/fs/cgroup/cpu/cpu.cfs_period_us": b"100000\n",
}


def test_damaged_files_of_the_kernel_limit_nothing_or_something(fuzz, tmp_path):
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)

    def attempt(case):
        for name, text in FILES.items():
            (tmp_path / name).write_bytes(text)
        name = case.chosen(list(FILES))
        (tmp_path / name).write_bytes(case.data(FILES[name]))
        assert available_cores(tmp_path) >= 1
        available_mib(tmp_path)
        total_mib(tmp_path)

    fuzz("control groups", attempt)
