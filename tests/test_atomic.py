"""A file or folder appears whole or not at all, and what refuses it is one line."""

import json
import os
import resource
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from edgekit.atomic import clear_leftovers, draft_file, draft_folder, write_whole
from edgekit.atomic.__main__ import main
from edgekit.atomic.exchanging import exchange
from edgekit.atomic.signals import signals_held
from edgekit.errors import OutputError
from tests.stops import FAULTS

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


def test_what_a_killed_program_left_is_cleared_by_the_next_writer_of_that_place(tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from edgekit.atomic import draft_file, draft_folder\n"
        "with draft_file(Path(sys.argv[1], 'a.bin')) as file, draft_folder(Path(sys.argv[1], 'a')) as folder:\n"
        "    file.write(b'half'); Path(folder.path, 'half').touch(); Path(folder.path.parent, 'twin').mkdir()\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, tmp_path], cwd=ROOT, check=False)
    assert killed.returncode == -9
    left = names(tmp_path)
    assert all(name.startswith((".a.", ".a.bin.")) and name.endswith(".partial") for name in left)
    assert len(left) == 2
    write_whole(tmp_path / "other.bin", b"whole")
    assert names(tmp_path) == [*left, "other.bin"]
    write_whole(tmp_path / "a.bin", b"whole")
    assert (tmp_path / "a.bin").read_bytes() == b"whole"
    assert [name for name in names(tmp_path) if name.startswith(".")] == [name for name in left if ".bin." not in name]
    with draft_folder(tmp_path / "a"):
        pass
    assert names(tmp_path) == ["a.bin", "other.bin"]


def test_what_a_living_program_writes_is_left_alone(tmp_path):
    code = (
        "import sys; from pathlib import Path; from edgekit.atomic import draft_file, draft_folder\n"
        "with draft_file(Path(sys.argv[1], 'a')) as file, draft_folder(Path(sys.argv[1], 'b')) as folder:\n"
        "    print('writes', flush=True); sys.stdin.read(); file.publish(); folder.publish()\n"
    )
    command = [sys.executable, "-c", code, tmp_path]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as living:
        assert living.stdout.readline()
        before = names(tmp_path)
        assert clear_leftovers(tmp_path / "a") is clear_leftovers(tmp_path / "b") is True
        assert names(tmp_path) == before
        living.stdin.close()
    assert living.returncode == 0
    assert names(tmp_path) == ["a", "b"]
    assert clear_leftovers(tmp_path / "a") is False


def test_nothing_but_a_leftover_of_one_s_own_is_cleared(tmp_path):
    aside = tmp_path / "aside"
    aside.mkdir()
    (aside / "mine").write_text("mine")
    kept = [".a.12345678.partial.bak", ".a.1234567.partial", ".aa.12345678.partial", "a.12345678.partial"]
    for name in kept:
        (tmp_path / name).write_text("")
    (tmp_path / ".a.12345678.partial").symlink_to(aside)
    os.mkfifo(tmp_path / ".a.87654321.partial")
    write_whole(tmp_path / "a", b"")
    assert names(tmp_path) == sorted([*kept, ".a.12345678.partial", ".a.87654321.partial", "a", "aside"])
    assert names(aside) == ["mine"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a file away")
def test_a_leftover_of_another_user_is_left_alone_and_never_put_in_a_place(tmp_path):
    planted = tmp_path / ".a.12345678.partial"
    (planted / "old").mkdir(parents=True)
    os.chown(planted, 65534, 65534)
    with draft_folder(tmp_path / "a"):
        pass
    assert names(tmp_path) == [".a.12345678.partial"]


def test_the_folder_that_an_older_program_left_beside_its_place_is_put_back(tmp_path):
    for name in (".a.12345678.partial.old", ".b.12345678.partial.old", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    for name in ("a", "b"):
        clear_leftovers(tmp_path / name)
    assert names(tmp_path) == ["a", "b"]
    assert (tmp_path / "a/file").read_text() == ".a.12345678.partial.old"
    assert (tmp_path / "b/file").read_text() == "b"


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(("what", "way"), [("folder", "exchange"), ("folder", "renames"), ("file", "exchange")])
def test_whoever_is_stopped_at_whatever_step_leaves_the_old_or_the_new_one_whole(tmp_path, what, way, fault):
    """Each step is a call that changes something on the disk, opens or locks; see ``stops``."""
    command = [sys.executable, "-m", "tests.stops", what, way, fault, tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["wrong"] == []
    assert result["stops"] >= {"folder": 30, "file": 7}[what] * (2 if fault.startswith("SIG") else 1)
    between = (
        {"missing, ['old'] to be put back"} if way == "renames" and fault in {"SIGKILL", "EIO for ever"} else set()
    )
    assert set(result["seen"]) == {"old", "new"} | between


def test_bytes_are_on_the_disk_before_they_have_a_name_and_the_name_is_before_it_is_said(tmp_path, monkeypatch):
    log, real = [], os.fsync

    def synced(descriptor):
        log.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", synced)
    place = tmp_path / "a"
    for content in ("old", "new"):
        with draft_folder(place) as draft:
            (draft.path / "goldens").mkdir()
            for name in ("file", "goldens/file"):
                (draft.path / name).write_text(content)
            draft.publish()
        assert sorted(log) == sorted(["file", "file", "goldens", "new", tmp_path.name])
        assert log[-1] == tmp_path.name
        log.clear()
    with draft_file(tmp_path / "b") as draft:
        temporary = draft.path.name
        draft.publish()
    assert log == [temporary, tmp_path.name]


def test_two_names_change_places_or_it_is_said_that_they_cannot(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    if not exchange(tmp_path / "a", tmp_path / "b"):
        pytest.skip("this kernel or file system does not offer it")
    assert names(tmp_path / "a") == ["b"]
    with pytest.raises(FileNotFoundError):
        exchange(tmp_path / "a", tmp_path / "none")


def test_a_signal_waits_for_what_it_must_not_come_between():
    done = []
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt), signals_held():  # noqa: PT012
            with signals_held():
                signal.raise_signal(signal.SIGINT)
                signal.raise_signal(signal.SIGINT)
                done.append("inner")
            done.append("outer")
    assert done == ["inner", "outer"] * 2
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_off_the_main_thread_no_signal_is_touched(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=write_whole, args=(tmp_path / "a", b"x"))
    thread.start()
    thread.join()
    assert (tmp_path / "a").read_bytes() == b"x"
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_folder_takes_a_place_from_the_command_line(tmp_path):
    for content in ("old", "new"):
        (tmp_path / "a.new").mkdir()
        (tmp_path / "a.new" / content).touch()
        assert main([str(tmp_path / "a.new"), str(tmp_path / "a")]) == (0, "")
        assert (names(tmp_path), names(tmp_path / "a")) == (["a"], [content])
    line = f"edgekit: {tmp_path / 'none'}: No such file or directory; check the path and the disk"
    assert main([str(tmp_path / "none"), str(tmp_path / "a")]) == (1, line)
    assert (names(tmp_path), names(tmp_path / "a")) == (["a"], ["new"])
    assert main([]) == (2, "usage: python -m edgekit.atomic NEW PLACE")


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


def test_what_somebody_said_is_its_owner_s_alone_from_the_first_byte_on(tmp_path):
    before = os.umask(0)
    try:
        with draft_file(tmp_path / "a.txt", private=True) as draft:
            assert stat.S_IMODE(draft.path.stat().st_mode) == 0o600
            draft.publish()
        write_whole(tmp_path / "b.txt", b"", private=True)
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}


def test_a_file_is_never_readable_by_more_than_the_one_in_whose_place_it_is(tmp_path):
    for mode, private, expected in ((0o600, False, 0o600), (0o640, False, 0o640), (0o644, True, 0o600)):
        (tmp_path / "a").touch()
        (tmp_path / "a").chmod(mode)
        write_whole(tmp_path / "a", b"new", private=private)
        assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == expected


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


def test_a_pipe_or_a_device_is_not_replaced_by_a_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path / "pipe", Path(os.devnull)):
        line = f"^{place}: a device or a pipe, which a file would replace; choose another place or free some space$"
        with pytest.raises(OutputError, match=line):
            write_whole(place, b"content")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert stat.S_ISCHR(Path(os.devnull).stat().st_mode)


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
