"""A process is watched from outside: its time, its memory by kind, and what becomes of it where there is not enough."""

import sys

import pytest

from edgekit.errors import ProfileError
from edgekit.profiler.footprint import measure_footprint, memory_of
from edgekit.runtime.memory import available_mib

HOLD = "import hashlib, sys; held = b'x' * (200 << 20); hashlib.md5(held).digest(); sys.stdout.write('done')"
MAP = """
import hashlib, mmap, sys
with open(sys.argv[1], 'rb') as file:
    held = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    hashlib.md5(held).digest()
    hashlib.md5(held).digest()
"""


def test_memory_that_was_allocated_and_freed_is_still_seen():
    text, found = measure_footprint([sys.executable, "-c", HOLD])
    assert text == "done"
    assert 200 < found.peak_mib < 260  # the interpreter takes 10 to 30
    assert 200 < found.peak_anonymous_mib <= found.peak_mib
    assert 0 < found.wall_s < 60
    assert 0 < found.cpu_s < 30
    assert found.others_cores >= 0


def test_pages_of_a_mapped_file_are_resident_and_not_allocated(tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(b"x" * (100 << 20))
    _, found = measure_footprint([sys.executable, "-c", MAP, str(path)])
    assert found.peak_mib > 100
    assert found.peak_anonymous_mib < 60


def test_a_program_that_fails_is_one_line_with_its_last_words():
    with pytest.raises(ProfileError, match=r"exit code 3 \(no room\)") as caught:
        measure_footprint([sys.executable, "-c", "import sys; sys.stderr.write('a\\nno room\\n'); sys.exit(3)"])
    assert "\n" not in str(caught.value)


def test_a_program_that_leaves_too_little_memory_is_stopped():
    with pytest.raises(ProfileError, match=r"stopped at .* MiB, .* it needs more memory"):
        measure_footprint([sys.executable, "-c", "import signal; signal.pause()"], spare_mib=available_mib() * 2)


def test_this_process_has_memory_and_one_that_is_gone_has_none():
    own = memory_of()
    assert own.peak_mib >= own.now_mib > own.anonymous_mib > 0
    assert own.now_mib == pytest.approx(own.anonymous_mib + own.file_mib, rel=0.05)  # read one after the other
    with pytest.raises(ProfileError, match="/proc/999999999/status: tells no memory"):
        memory_of(999_999_999)
