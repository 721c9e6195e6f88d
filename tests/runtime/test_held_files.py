"""What was hashed is what is read: files that are replaced, written to or cut while a bundle is open."""

import gc
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import edgekit
from edgekit.bundle import open_bundle
from edgekit.errors import BundleFileError, BundleFormatError
from edgekit.runtime.answer.embedding import TokenTable
from edgekit.runtime.backends.ort import load_component
from edgekit.runtime.model import load_opened
from tests.runtime.graphs.hostile import external, model, node, value

ROOT = Path(__file__).resolve().parents[2]


def _replace(path, content):
    beside = path.with_name(path.name + ".new")
    beside.write_bytes(content)
    beside.replace(path)


def _frames(bundle):
    mel = np.random.default_rng(3).standard_normal((8, 11)).astype(np.float32)
    return load_component(bundle, "encoder", 1).bind({}).run({"mel": mel, "start": np.array([0])})["frames"]


def test_files_that_are_replaced_after_they_were_checked_change_nothing(tiny_bundle):
    folder = tiny_bundle().folder
    bundle = open_bundle(folder)
    expected, row = _frames(open_bundle(folder)), TokenTable(bundle).row(3).copy()
    for path in sorted(folder.iterdir()):
        _replace(path, bytes(path.stat().st_size))
    np.testing.assert_array_equal(_frames(bundle), expected)
    np.testing.assert_array_equal(TokenTable(bundle).row(3), row)
    assert load_opened(bundle, threads=1).stream().finish() is not None
    with pytest.raises(BundleFormatError):
        edgekit.load(folder, threads=1)


def test_a_whole_bundle_that_is_gone_after_it_was_checked_still_loads(tiny_bundle):
    folder = tiny_bundle().folder
    bundle = open_bundle(folder)
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    assert load_opened(bundle, threads=1).stream().finish() is not None


@pytest.mark.parametrize("name", ["encoder.onnx", "tokenizer.json"])
def test_a_file_that_is_written_to_after_it_was_checked_is_refused_by_its_hash(tiny_bundle, name):
    folder = tiny_bundle().folder
    bundle = open_bundle(folder)
    held = bytearray((folder / name).read_bytes())
    held[-1] ^= 1
    with (folder / name).open("r+b") as stream:
        stream.write(held)
    with pytest.raises(BundleFormatError, match=rf"'{name}' does not match its SHA-256"):
        load_opened(bundle, threads=1)


def test_weights_that_are_written_to_after_they_were_checked_are_refused(tiny_bundle):
    folder = tiny_bundle().folder
    bundle = open_bundle(folder)
    path = folder / "encoder.data"
    held = path.read_bytes()
    path.write_bytes(bytes(len(held)))
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1_000_000))  # where the clock of files is coarse
    with pytest.raises(BundleFormatError, match=r"encoder\.data: was written to while it was loaded"):
        load_component(bundle, "encoder", 1)


def test_without_hashes_sizes_and_kinds_of_files_are_still_checked(tiny_bundle):
    folder = tiny_bundle().folder
    assert open_bundle(folder, check_hashes=False).read("tokens.bin") == (folder / "tokens.bin").read_bytes()
    (folder / "tokens.bin").write_bytes(b"short")
    with pytest.raises(BundleFormatError, match="'tokens.bin' has 5 bytes, manifest says"):
        open_bundle(folder, check_hashes=False)


@pytest.mark.parametrize("name", ["manifest.json", "encoder.onnx", "encoder.data", "tokens.bin", "tokenizer.json"])
def test_a_pipe_in_place_of_a_file_is_refused_and_nobody_waits_for_it(tiny_bundle, name):
    folder = tiny_bundle().folder
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(BundleFormatError, match=f"'{name}' is a folder, pipe or device"):
        open_bundle(folder)


@pytest.mark.parametrize("path", ["/etc/hostname", "../x", "a/../x", "a\\x", "", ".", "a\0b"])
def test_a_path_that_leaves_the_bundle_is_refused(tiny_bundle, path):
    bundle = tiny_bundle()
    place = bundle.folder / "manifest.json"
    fields = json.loads(place.read_bytes())
    del fields["checksum"]
    next(one for one in fields["files"] if one["path"] == "tokenizer.json")["path"] = path
    place.write_text(json.dumps(fields))
    with pytest.raises(BundleFormatError, match=r"leaves the bundle|length >= 1|of one line"):
        open_bundle(bundle.folder)


def descriptors():
    open_files = Path("/proc/self/fd")
    if not open_files.is_dir():
        pytest.skip("no /proc here to count descriptors in")
    return len(list(open_files.iterdir()))


def test_a_bundle_takes_few_descriptors_and_gives_all_back(tiny_bundle):
    bundle = tiny_bundle()
    (bundle.folder / "spare").write_bytes(b"1")
    for number in range(40):
        (bundle.folder / f"golden-{number}.npy").write_bytes(b"1")
    bundle.change()
    edgekit.load(bundle.folder, threads=1)
    gc.collect()  # of other tests
    before = descriptors()
    model = edgekit.load(bundle.folder, threads=1)
    assert descriptors() - before <= 14  # the folder, 8 files that run, and 3 of these mapped
    del model
    assert descriptors() == before


def test_a_token_table_that_is_cut_is_one_line_and_no_signal(tiny_bundle):
    folder = tiny_bundle().folder
    table = TokenTable(open_bundle(folder))
    assert table.row(200).shape == (16,)
    os.truncate(folder / "tokens.bin", 16 * 4 * 100 + 4)
    assert table.row(99).shape == (16,)
    for read in (lambda: table.row(100), lambda: table.rows([3, 200])):
        with pytest.raises(
            BundleFormatError, match=r"tokens\.bin: ends at byte \d+, \d+ bytes before what the manifest"
        ):
            read()


CUT = """
import os, sys
from pathlib import Path
import numpy as np
import edgekit.cli
from edgekit.bundle import Component, TensorSpec
from edgekit.runtime.backends.ort import open_graph

edgekit.cli._tell_of_crashes()
rows = TensorSpec(name="rows", dtype="float32", shape=("n", 1024))
ids = TensorSpec(name="ids", dtype="int64", shape=("n",))
component = Component(graph="g.onnx", data="g.data", inputs=(ids,), outputs=(rows,), precision="float32")
call = open_graph(Path(sys.argv[1]), component, 1).bind({})
assert call.run({"ids": np.array([1])})["rows"][0, 0] == 1
os.truncate(os.path.join(sys.argv[1], "g.data"), 4096)
call.run({"ids": np.array([900])})
print("ran")
"""


def test_weights_that_are_cut_while_they_are_mapped_end_the_command_line_with_a_word(tmp_path):
    """A table that a graph gathers from is not packed, so that its pages are the file's."""
    table = np.repeat(np.arange(1000, dtype=np.float32)[:, None], 1024, axis=1)
    (tmp_path / "g.data").write_bytes(table.tobytes())
    stored = external("table", "g.data", dims=table.shape, length=table.nbytes)
    outputs = [value("rows", shape=("n", 1024))]
    graph = model([node("Gather", "table", "ids", out="rows")], [stored], inputs=[value("ids", 7)], outputs=outputs)
    (tmp_path / "g.onnx").write_bytes(graph.SerializeToString())
    done = subprocess.run([sys.executable, "-c", CUT, tmp_path], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == -signal.SIGBUS
    assert done.stderr.startswith("Fatal Python error: Bus error")


def test_a_crash_in_native_code_leaves_a_word_on_stderr():
    code = "import os, signal, edgekit.cli as cli; cli._tell_of_crashes(); os.kill(os.getpid(), signal.SIGBUS)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == -signal.SIGBUS
    assert done.stderr.startswith("Fatal Python error: Bus error")


@pytest.mark.parametrize("name", ["a" * 300, "a\0b", "\ud800"])
def test_a_name_that_no_folder_can_have_is_one_line(name):
    with pytest.raises(
        BundleFileError, match=r"cannot be opened \(File name too long\)|no folder can have this name"
    ) as told:
        open_bundle(name)
    assert "\n" not in str(told.value)
