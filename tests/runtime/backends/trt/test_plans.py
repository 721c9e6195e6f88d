"""The store of plans: what is whole and fits comes back, everything else is as good as none."""

import hashlib
import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from edgekit.bundle import open_bundle
from edgekit.errors import OutputError
from edgekit.runtime.backends.trt.plans import PlanKey, PlanNote, PlanStore

KEY = PlanKey(
    graph="aa", data="bb", builder="tensorrt-rtx", version="1.7.1", device="8.0 to 12.0", sizes="x:(1,):(1,):(2,)"
)
PLAN = b"\x00plan\n of some bytes"


@pytest.fixture
def store(tiny_bundle):
    return PlanStore(open_bundle(tiny_bundle().folder))


def note(key=KEY, plan=PLAN):
    return PlanNote(
        key=key, quantised_layers=3, quantised_asked=3, weight_bytes=10, build_s=0.5,
        sha256=hashlib.sha256(plan).hexdigest(), bytes=len(plan),
    )  # fmt: skip


def publish(store, note, plan, component="encoder"):
    with store.draft(component) as draft:
        for at in range(0, len(plan), 3):
            draft.write(plan[at : at + 3])
        return draft.publish(note)


def read(store, component, key):
    """Return note and plan, read in pieces of seven bytes; None if there is none."""
    if (held := store.open(component, key)) is None:
        return None
    note, reader = held
    with closing(reader):
        return note, b"".join(iter(lambda: reader.read(7), b""))


def test_a_plan_comes_back_as_it_was_with_its_note(store):
    assert read(store, "encoder", KEY) is None
    path = publish(store, note(), PLAN)
    assert path.parent == store.folder
    assert store.folder.name.endswith(".plans")
    assert read(store, "encoder", KEY) == (note(), PLAN)
    assert [file.name for file in store.folder.iterdir()] == [path.name]


def test_an_empty_plan_is_a_plan(store):
    publish(store, note(plan=b""), b"")
    assert read(store, "encoder", KEY) == (note(plan=b""), b"")


@pytest.mark.parametrize("field", ["graph", "data", "builder", "version", "device", "sizes"])
def test_a_plan_of_something_else_is_not_found(field, store):
    publish(store, note(), PLAN)
    assert read(store, "encoder", msgspec.structs.replace(KEY, **{field: "another"})) is None


def test_a_plan_of_another_component_is_not_found(store):
    publish(store, note(), PLAN)
    assert read(store, "adapter", KEY) is None


def test_a_foreign_plan_under_the_right_name_is_refused(store):
    other = msgspec.structs.replace(KEY, device="8.7")
    foreign = publish(store, note(key=other), PLAN)
    foreign.rename(store.path("encoder", KEY))
    assert read(store, "encoder", KEY) is None


def test_no_damage_goes_unseen(store):
    path = publish(store, note(), PLAN)
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        found = read(store, "encoder", KEY)
        # figures of the census may change, which is only told; the plan and what it is for may not
        assert found is None or (found[0].key, found[1]) == (KEY, PLAN), at
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        assert read(store, "encoder", KEY) is None, size


def test_what_is_read_again_after_a_seek_is_the_same(store):
    publish(store, note(), PLAN)
    _, reader = store.open("encoder", KEY)
    with closing(reader):
        assert (reader.read(5), reader.tell()) == (PLAN[:5], 5)
        assert [reader.seek(at) for at in (-1, len(PLAN) + 1)] == [False, False]
        assert reader.tell() == 5
        assert reader.seek(2)
        assert reader.read(1000) == PLAN[2:]
        assert reader.seek(len(PLAN))
        assert reader.read(1) == b""


def test_a_plan_that_is_not_published_leaves_nothing(store):
    with store.draft("encoder") as draft:
        draft.write(PLAN)
    assert list(store.folder.iterdir()) == []


def test_a_full_disk_is_one_line_and_leaves_nothing(store):
    code = (
        "import resource, sys; from pathlib import Path; from edgekit.bundle import open_bundle\n"
        "from edgekit.runtime.backends.trt.plans import PlanStore; from edgekit.errors import OutputError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "with PlanStore(open_bundle(sys.argv[1]), Path(sys.argv[2])).draft('encoder') as draft:\n"
        "    draft.write(bytes(600))\n"
        "    try: draft.write(bytes(600))\n"
        "    except OutputError as error: print(error)\n"
    )
    bundle = store.folder.with_name(store.folder.name.removesuffix(".plans"))
    said = run(code, bundle, store.folder)
    assert said.endswith("File too large; free space, or choose another --output\n")
    assert list(store.folder.iterdir()) == []


def test_reading_a_plan_of_200_mb_takes_less_than_32_mb_of_memory(store):
    block = os.urandom(1 << 20)
    with store.draft("encoder") as draft:
        for _ in range(200):
            draft.write(block)
        size = draft.bytes
        draft.publish(msgspec.structs.replace(note(), sha256=draft.sha256, bytes=size))
    # as TensorRT does by the reader: no more of it is asked for at a time than 8 MiB
    code = (
        "import hashlib, re, sys; from pathlib import Path; import msgspec; from edgekit.bundle import open_bundle\n"
        "from edgekit.runtime.backends.trt.plans import PlanKey, PlanStore\n"
        "store = PlanStore(open_bundle(sys.argv[1]), Path(sys.argv[2]))\n"
        "peak = lambda: int(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1])\n"
        "before = peak()\n"
        "note, reader = store.open('encoder', msgspec.json.decode(sys.argv[3], type=PlanKey))\n"
        "digest, size = hashlib.sha256(), 0\n"
        "while block := reader.read(8 << 20): digest.update(block); size += len(block)\n"
        "assert (digest.hexdigest(), size) == (note.sha256, note.bytes)\n"
        "print(size, peak() - before)\n"
    )
    bundle = store.folder.with_name(store.folder.name.removesuffix(".plans"))
    read_bytes, raised_kib = map(int, run(code, bundle, store.folder, msgspec.json.encode(KEY).decode()).split())
    assert read_bytes == size == 200 << 20
    assert raised_kib * 1024 < 32e6


def run(code, *arguments):
    """Return what a Python of its own prints."""
    root = str(Path(__file__).resolve().parents[4])
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], check=True, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": root},
    ).stdout  # fmt: skip


def test_what_was_found_out_at_some_cost_is_kept_by_the_name_of_its_file(store):
    assert store.cache("tensorrt-10.3-8.7.timings") == b""
    store.keep_cache("tensorrt-10.3-8.7.timings", b"measured")
    assert store.cache("tensorrt-10.3-8.7.timings") == b"measured"
    assert store.cache("tensorrt-10.3-8.9.timings") == b""


def test_a_folder_that_cannot_be_made_is_one_line_and_leaves_nothing(tiny_bundle, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    store = PlanStore(open_bundle(tiny_bundle().folder), tmp_path / "file")
    with pytest.raises(OutputError, match="choose another --output"):
        publish(store, note(), PLAN)
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".partial")] == []


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with a name here")
def test_a_pipe_in_place_of_a_plan_is_no_plan_and_is_not_waited_for(store):
    path = store.path("encoder", KEY)
    path.parent.mkdir(parents=True)
    os.mkfifo(path)
    assert read(store, "encoder", KEY) is None
    assert store.notes("encoder") == []
