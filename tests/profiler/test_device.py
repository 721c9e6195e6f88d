"""A device is described from its own files; what they do not say is unknown."""

import msgspec
import pytest

from edgekit.profiler.device import UNKNOWN, describe_device, describe_software, software_digest

FILES = {
    "proc/cpuinfo": "model name\t: Imagined CPU\nflags\t\t: fpu avx2 avx512f avx512_vnni hypervisor\n",
    "proc/meminfo": "MemTotal:       4194304 kB\n",
    "etc/os-release": 'NAME="x"\nPRETTY_NAME="Imagined Linux 1"\n',
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "powersave\n",
    "sys/fs/cgroup/memory.max": "1073741824\n",
    "proc/1/cgroup": "0::/docker/abc\n",
}


def root_with(tmp_path, files):
    """Write files under a folder that stands for the root of a machine."""
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_a_server_tells_its_processor_memory_limit_and_governor(tmp_path):
    device = describe_device(root_with(tmp_path, FILES), "x86_64", 2)
    assert device.slug == "x86-2core-avx512"
    assert (device.cpu, device.memory_mib, device.os) == ("Imagined CPU", 1024, "Imagined Linux 1")
    assert device.instructions == ("avx2", "avx512f", "avx512_vnni")
    assert (device.power_mode, device.environment) == ("powersave", "virtual machine, container")


@pytest.mark.parametrize(
    ("machine", "flags", "slug"),
    [
        ("x86_64", "avx2 amx_int8 avx512f", "x86-4core-amx"),
        ("x86_64", "avx2", "x86-4core-avx2"),
        ("x86_64", "sse2", "x86-4core"),
        ("aarch64", "asimd asimddp", "arm-4core-dotprod"),
        ("aarch64", "asimd asimddp i8mm sve", "arm-4core-sve"),
        ("riscv64", "", "riscv64-4core"),
    ],
)
def test_the_slug_names_architecture_cores_and_the_widest_instructions(tmp_path, machine, flags, slug):
    key = "Features" if machine == "aarch64" else "flags"
    assert describe_device(root_with(tmp_path, {"proc/cpuinfo": f"{key} : {flags}\n"}), machine, 4).slug == slug


def test_a_board_is_named_by_its_device_tree(tmp_path):
    files = {"proc/device-tree/model": "NVIDIA Jetson Orin Nano Kit\0", "var/lib/nvpmodel/status": "pmode:0001\n"}
    device = describe_device(root_with(tmp_path, files), "aarch64", 6)
    assert (device.slug, device.power_mode) == ("nvidia-jetson-orin-nano-kit", "pmode:0001")


def test_a_machine_that_tells_nothing_is_unknown_not_guessed(tmp_path):
    device = describe_device(tmp_path, "", 1)
    assert (device.cpu, device.power_mode, device.memory_mib, device.instructions) == (UNKNOWN, UNKNOWN, 0, ())
    assert device.environment == "no sign of a virtual machine or container"


def test_this_machine_and_its_software_have_names():
    assert describe_device().slug
    software = describe_software(["numpy", "no-such-distribution"])
    assert software.numpy == software.others["numpy"] != UNKNOWN
    assert software.others["no-such-distribution"] == UNKNOWN


@pytest.mark.parametrize("field", ["edgekit", "numpy", "onnxruntime", "python"])
def test_another_version_gives_another_digest(field):
    software = describe_software()
    assert software_digest() == software_digest(software)
    assert software_digest(msgspec.structs.replace(software, **{field: "0"})) != software_digest(software)


def test_a_changed_renamed_or_added_module_gives_another_digest(tmp_path):
    software = describe_software()

    def digest(name, files):
        folder = root_with(tmp_path / name, files)
        return software_digest(software, folder)

    base = {"a.py": "one", "b/c.py": "two"}
    assert digest("same", base) == digest("again", {**base, "note.txt": "no module", "a.pyc": "cache"})
    others = [{"a.py": "two", "b/c.py": "two"}, {"d.py": "one", "b/c.py": "two"}, {**base, "d.py": ""}, {"a.py": "one"}]
    found = {digest(f"other{index}", files) for index, files in enumerate(others)}
    assert len(found | {digest("base", base)}) == 5


def test_the_digest_covers_the_runtime(tmp_path):
    assert software_digest() != software_digest(runtime=tmp_path)
