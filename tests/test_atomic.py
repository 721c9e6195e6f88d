"""A file or folder appears whole or not at all, and what refuses it is one line."""

import os
import resource
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from edgekit.atomic import draft_file, draft_folder, write_whole
from edgekit.errors import OutputError

ROOT = Path(__file__).resolve().parent.parent


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_is_published_is_the_bytes_that_were_written_and_nothing_else(tmp_path):
    place = tmp_path / "new" / "folder" / "a.bin"
    with draft_file(place) as draft:
        for part in (b"", b"one", memoryview(b"two")):
            draft.write(part)
        assert not place.exists()
        assert draft.publish() == place
    assert place.read_bytes() == b"onetwo"
    assert names(place.parent) == ["a.bin"]


def test_a_file_may_learn_its_name_from_what_was_written(tmp_path):
    with draft_file(tmp_path / "a.bin") as draft:
        draft.write(b"1")
        assert draft.publish(tmp_path / "b.bin") == tmp_path / "b.bin"
    assert names(tmp_path) == ["b.bin"]


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt, SystemExit])
def test_what_is_not_published_vanishes_and_what_was_there_stays(tmp_path, error):
    (tmp_path / "a.bin").write_bytes(b"before")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_bytes(b"before")

    def spoil():
        with draft_file(tmp_path / "a.bin") as file, draft_folder(tmp_path / "a") as folder:
            file.write(b"half")
            (folder.path / "file").write_bytes(b"half")
            if error:
                raise error

    if error:
        with pytest.raises(error):
            spoil()
    else:
        spoil()
    assert names(tmp_path) == ["a", "a.bin"]
    assert (tmp_path / "a.bin").read_bytes() == (tmp_path / "a" / "file").read_bytes() == b"before"


def test_a_whole_file_takes_the_place_of_another(tmp_path):
    for content in (b"a longer one", b"short"):
        write_whole(tmp_path / "a.bin", content)
        assert (tmp_path / "a.bin").read_bytes() == content
    assert names(tmp_path) == ["a.bin"]


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    with draft_file(tmp_path / "a.bin") as one, draft_file(tmp_path / "a.bin") as other:
        one.write(b"first")
        other.write(b"second")
        one.publish()
        other.publish()
    assert (tmp_path / "a.bin").read_bytes() == b"second"
    assert names(tmp_path) == ["a.bin"]


def test_what_a_killed_program_left_is_in_nobody_s_way(tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from edgekit.atomic import draft_file, draft_folder\n"
        "with draft_file(Path(sys.argv[1], 'a.bin')) as file, draft_folder(Path(sys.argv[1], 'a')):\n"
        "    file.write(b'half'); os.kill(os.getpid(), 9)\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, tmp_path], cwd=ROOT, check=False)
    assert killed.returncode == -9
    assert all(name.startswith((".a.", ".a.bin.")) and name.endswith(".partial") for name in names(tmp_path))
    assert len(names(tmp_path)) == 2
    write_whole(tmp_path / "a.bin", b"whole")
    assert (tmp_path / "a.bin").read_bytes() == b"whole"


def test_a_file_is_readable_by_whom_the_user_says(tmp_path):
    for umask, mode in ((0o022, 0o644), (0o077, 0o600)):
        before = os.umask(umask)
        try:
            write_whole(tmp_path / "a.bin", b"")
            with draft_folder(tmp_path / f"{umask}") as folder:
                folder.publish()
        finally:
            os.umask(before)
        assert stat.S_IMODE((tmp_path / "a.bin").stat().st_mode) == mode
        assert stat.S_IMODE((tmp_path / f"{umask}").stat().st_mode) == 0o777 & ~umask


def test_a_place_that_cannot_be_written_is_one_line_and_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for place, reason in (("file/a", "(Not a directory|File exists)"), ("folder", "Is a directory")):
        with pytest.raises(OutputError, match=f"^{tmp_path / place}: {reason}; choose another place or free some"):
            write_whole(tmp_path / place, b"content")
    with (
        pytest.raises(OutputError, match=r"^/.*/a: no \((Not a directory|File exists)\); go$"),
        draft_folder(tmp_path / "file/a", refused="no ({reason}); go"),
    ):
        pass
    assert names(tmp_path) == ["file", "folder"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_one_line(tmp_path):
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(OutputError, match="a.bin: Permission denied; choose another place"):
            write_whole(tmp_path / "a.bin", b"")
    finally:
        tmp_path.chmod(0o755)


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on a file's size there")
def test_a_full_disk_is_one_line_and_leaves_what_was_there(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"before")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OutputError, match="a.bin: File too large; choose another place or free some space"):
            write_whole(tmp_path / "a.bin", bytes(2000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (tmp_path / "a.bin").read_bytes() == b"before"
    assert names(tmp_path) == ["a.bin"]


def test_a_folder_takes_the_place_of_another_whole(tmp_path):
    for content in ("old", "new"):
        with draft_folder(tmp_path / "a") as draft:
            (draft.path / content).write_text(content)
            assert draft.publish() == tmp_path / "a"
        assert names(tmp_path) == ["a"]
        assert names(tmp_path / "a") == [content]


def test_a_folder_that_cannot_take_the_place_gives_it_back(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "old").write_text("old")

    def spoil():
        with draft_folder(tmp_path / "a") as draft:
            draft.path.rmdir()  # as if another program had taken it away
            draft.publish()

    with pytest.raises(FileNotFoundError):
        spoil()
    assert names(tmp_path) == ["a"]
    assert names(tmp_path / "a") == ["old"]
