"""Files of strangers: opened without waiting, read up to a size, and refused in a line that can be shown."""

import os
from pathlib import Path

import pytest

from edgekit.errors import BundleFileError, CheckpointError
from edgekit.plainfiles import open_plain, read_plain


def test_a_plain_file_is_read_up_to_the_size_that_is_named(tmp_path):
    path = tmp_path / "a"
    for content in (b"", b"x", bytes(range(256)) * 33):
        path.write_bytes(content)
        assert read_plain(path, len(content)) == content
        with open_plain(path) as file:
            assert file.read() == content
    with pytest.raises(OSError, match="Has 8,448 bytes, at most 8,447 are read"):
        read_plain(path, 8447)


def test_what_is_no_plain_file_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("fifo")
    (tmp_path / "nowhere").symlink_to("nothing")
    for path, said in (
        (tmp_path / "fifo", "Is a FIFO, must be a regular file"),
        (tmp_path / "link", "Is a FIFO, must be a regular file"),
        (Path("/dev/zero"), "Is a device, must be a regular file"),
        (tmp_path, "Is a directory"),
        (tmp_path / "nothing", "No such file"),
        (tmp_path / "nowhere", "No such file"),
        (tmp_path / "a\0b", "No file can have this name"),
        (tmp_path / "a\ud800", "No file can have this name"),
        (tmp_path / ("a" * 300), "File name too long"),
    ):
        for read in (open_plain, lambda path: read_plain(path, 1 << 20)):
            with pytest.raises(OSError, match=said) as refusal:
                read(path)
            assert refusal.value.strerror


def test_a_message_stays_one_short_line_whatever_it_quotes():
    hostile = CheckpointError(f"a\nb\x1b[2J\u202ec\ud800{'d' * 100_000}; fetch the file again")
    assert str(hostile).startswith(r"a b\x1b[2J\u202ec\ud800ddd")
    assert str(hostile).endswith("d; fetch the file again")
    assert str(hostile).isprintable()
    assert len(str(hostile)) < 2000
    assert str(BundleFileError("▯ é 请: not there; copy it again")) == "▯ é 请: not there; copy it again"
