"""Seals: a plan or a cache that another device made never reaches TensorRT, whoever wrote its hash."""

import hashlib
import os
import re
import threading
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from edgekit.bundle import open_bundle
from edgekit.errors import BackendError, OutputError
from edgekit.runtime.backends.trt.library import FULL
from edgekit.runtime.backends.trt.loading import load_components
from edgekit.runtime.backends.trt.plans import PlanKey, PlanNote, PlanStore
from edgekit.runtime.backends.trt.seal import fits, key_file, seal_of
from tests.runtime.backends.conftest import CONTEXT
from tests.runtime.backends.host_device import HostDevice, publish, tensorrt

KEY = PlanKey(graph="aa", data="bb", builder="tensorrt", version="10.3.0", device="8.7", sizes="")
BLOCK = 4 << 20


@pytest.fixture
def key(tmp_path, monkeypatch):
    """Return the path of this test's own device key, which is not there yet."""
    monkeypatch.setenv("EDGEKIT_PLAN_KEY", str(tmp_path / "device" / "plan.key"))
    return tmp_path / "device" / "plan.key"


@pytest.fixture
def store(tiny_bundle):
    return PlanStore(open_bundle(tiny_bundle().folder))


def write(store, plan):
    note = PlanNote(
        key=KEY, quantised_layers=0, quantised_asked=0, weight_bytes=0, build_s=0.0,
        sha256=hashlib.sha256(plan).hexdigest(), bytes=len(plan),
    )  # fmt: skip
    with store.draft("encoder") as draft:
        draft.write(plan)
        return draft.publish(note)


def taken(store):
    """Return the plan that TensorRT would be given, None if there is none."""
    if (held := store.open("encoder", KEY)) is None:
        return None
    with closing(held[1]) as plan:
        return plan.read(1 << 40)


def test_the_key_is_made_with_the_first_plan_and_is_its_owner_s_alone(store, key):
    assert taken(store) is None
    assert not key.exists(), "asking makes none"
    write(store, b"plan")
    first = key.read_bytes()
    assert len(first) == 32
    assert key.stat().st_mode & 0o777 == 0o600
    write(store, b"another")
    assert key.read_bytes() == first
    assert taken(store) == b"another"


def test_programs_that_make_the_key_at_once_agree_on_one(key):
    seals, begin = [], threading.Barrier(8)

    def work():
        begin.wait()
        seals.append(seal_of(b"what", b"content"))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seals) == 8
    assert len(set(seals)) == 1
    assert [path.name for path in key.parent.iterdir()] == ["plan.key"]


def test_a_plan_of_another_device_is_none(store, key, monkeypatch):
    write(store, b"plan")
    for another in (key.with_name("another"), key.with_name("none")):
        if another.name == "another":
            another.write_bytes(os.urandom(32))
            another.chmod(0o600)
        monkeypatch.setenv("EDGEKIT_PLAN_KEY", str(another))
        assert taken(store) is None
        assert store.notes("encoder") == []
        assert store.has_foreign("encoder")
    monkeypatch.setenv("EDGEKIT_PLAN_KEY", str(key))
    assert taken(store) == b"plan"
    assert not store.has_foreign("encoder")


def test_a_plan_put_in_the_place_of_another_with_the_hash_of_its_own_is_none(store, key):
    path = write(store, b"ours")
    line = msgspec.json.encode(
        msgspec.structs.replace(store.notes("encoder")[0], sha256=hashlib.sha256(b"evil").hexdigest())
    )
    end = re.search(rb"\nedgekit plan 3 \d{8} [0-9a-f]{64}\n$", path.read_bytes())[0]
    path.write_bytes(b"evil" + line + end)
    assert taken(store) is None
    sealed = seal_of(b"another thing", line)  # of this device, and of something else
    path.write_bytes(b"evil" + line + end[:-65] + sealed + b"\n")
    assert taken(store) is None
    path.write_bytes(b"evil" + line + b"\nedgekit plan 2 %08d\n" % len(line))  # as an earlier EdgeKit wrote it
    assert taken(store) is None
    path.write_bytes(b"evil" + line + end[:-65] + seal_of(b"edgekit plan 3", line) + b"\n")
    assert taken(store) == b"evil", "who has the key makes plans"


def test_a_plan_of_elsewhere_is_told_and_never_deserialised(bundle, key):
    device = HostDevice()
    library = tensorrt(device)
    publish(bundle, library)
    key.write_bytes(bytes(32))
    with pytest.raises(BackendError) as refused:
        load_components(bundle, ["backbone"], FULL, CONTEXT, library=library, device=device)
    assert re.fullmatch(
        r"backbone: its plan was built elsewhere or by an earlier EdgeKit, .*plan\.key is not the key that sealed it "
        rf"\(.*\.plans\); run `edgekit build {bundle.folder} --target jetson-orin`",
        str(refused.value),
    )
    assert library.taken == []


def test_a_pipe_in_place_of_a_cache_is_none_and_nobody_waits_for_it(store):
    store.keep_cache("one.compiled", b"kernels")
    (store.folder / "one.compiled").unlink()
    os.mkfifo(store.folder / "one.compiled")
    assert store.cache("one.compiled") == b""


def test_a_cache_of_another_device_or_name_or_time_is_none(store, key):
    store.keep_cache("one.compiled", b"kernels")
    assert store.cache("one.compiled") == b"kernels"
    file = store.folder / "one.compiled"
    whole = file.read_bytes()
    file.rename(store.folder / "two.compiled")
    assert store.cache("two.compiled") == b""
    for content in (b"", b"kernels", whole[:-1], whole + b"\n", b"K" + whole[1:], whole[1:]):
        file.write_bytes(content)
        assert store.cache("one.compiled") == b""
        assert store.has_cache("one.compiled")
    file.write_bytes(whole)
    key.write_bytes(bytes(32))
    assert store.cache("one.compiled") == b""
    assert not store.has_cache("three.compiled")


@pytest.mark.parametrize("at", [0, BLOCK - 1, BLOCK, 2 * BLOCK, 2 * BLOCK + 99])
def test_a_plan_that_changes_after_it_was_checked_is_not_handed_out(store, at):
    plan = os.urandom(1 << 20) * 8 + bytes(100)
    path = write(store, plan)
    _, reader = store.open("encoder", KEY)
    with closing(reader), path.open("r+b") as file:
        file.seek(at)
        file.write(bytes([plan[at] ^ 1]))
        file.flush()
        got = b"".join(iter(lambda: reader.read(1 << 20), b""))
        assert reader.changed
        assert got == plan[: at // BLOCK * BLOCK], "not a byte of the block that changed"
        assert reader.seek(at)
        assert reader.read(1) == b""


def test_a_plan_that_is_cut_after_it_was_checked_is_not_handed_out(store):
    path = write(store, bytes(BLOCK + 10))
    _, reader = store.open("encoder", KEY)
    with closing(reader):
        os.truncate(path, BLOCK + 5)
        assert len(reader.read(1 << 40)) == BLOCK
        assert reader.changed


def test_a_plan_that_changed_while_tensorrt_read_it_runs_nothing(bundle):
    device = HostDevice()
    library = tensorrt(device, "10.9.0")
    library.IStreamReaderV2, library.SeekPosition = object, SimpleNamespace(SET=0, CUR=1, END=2)
    store = publish(bundle, library)
    (note,) = store.notes("backbone")
    plan = bytes(20_000)  # more than a file's buffer
    with store.draft("backbone") as draft:
        draft.write(plan)
        path = draft.publish(msgspec.structs.replace(note, sha256=draft.sha256, bytes=len(plan)))
    given = []

    class Runtime:
        def __init__(self, logger):
            pass

        def deserialize_cuda_engine(self, reader):
            with path.open("r+b") as file:
                file.write(b"x")
            given.append(reader.read(1 << 40, 0))
            return object()

    library.Runtime = Runtime
    with pytest.raises(BackendError, match=r"\.plan: changed while it was read; see who writes there, and build it"):
        load_components(bundle, ["backbone"], FULL, CONTEXT, library=library, device=device)
    assert given == [b""]


@pytest.mark.parametrize(("content", "mode", "said"), [
    (b"", 0o600, "is no file of 32 bytes, as the key that seals plans is; remove it and build again"),
    (bytes(33), 0o600, "is no file of 32 bytes"),
    (bytes(32), 0o640, r"others may read it \(mode 0640\), and could seal plans of their own; remove it and build"),
    (bytes(32), 0o604, "others may read it"),
])  # fmt: skip
def test_a_key_that_is_none_or_that_others_know_is_not_used(store, key, content, mode, said):
    key.parent.mkdir()
    key.write_bytes(content)
    key.chmod(mode)
    for work in (lambda: seal_of(b"", b""), lambda: fits(bytes(64), b"", b""), lambda: write(store, b"plan")):
        with pytest.raises(BackendError, match=f"plan.key: {said}"):
            work()
    assert key.read_bytes() == content
    assert not store.folder.exists() or list(store.folder.iterdir()) == []


def test_a_key_that_is_no_file_is_told_and_nobody_waits_for_it(key):
    key.parent.mkdir()
    os.mkfifo(key, 0o600)
    with pytest.raises(BackendError, match="Is a FIFO, must be a regular file"):
        fits(bytes(64), b"", b"")


def test_a_key_that_cannot_be_made_is_one_line(key):
    key.parent.write_bytes(b"")
    with pytest.raises((BackendError, OutputError), match=r"plan\.key: ") as refused:
        seal_of(b"", b"")
    assert "\n" not in str(refused.value)


def test_a_service_has_the_key_as_a_credential(store, key, tmp_path, monkeypatch):
    write(store, b"plan")
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "edgekit-plan-key").write_bytes(key.read_bytes())
    (credentials / "edgekit-plan-key").chmod(0o440)  # as it looks where its reader is named in an access list
    monkeypatch.delenv("EDGEKIT_PLAN_KEY")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert key_file() == tmp_path / "state" / "edgekit" / "plan.key"
    assert taken(store) is None
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    assert key_file() == credentials / "edgekit-plan-key"
    assert taken(store) == b"plan"
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))  # a service with other credentials
    assert key_file() == tmp_path / "state" / "edgekit" / "plan.key"


def test_the_key_lies_in_the_state_of_who_runs_it(monkeypatch, tmp_path):
    for name in ("EDGEKIT_PLAN_KEY", "CREDENTIALS_DIRECTORY", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    expected = tmp_path / ".local" / "state" / "edgekit" / "plan.key"
    assert key_file() == expected
    monkeypatch.setenv("XDG_STATE_HOME", "state")  # a relative one is to be ignored
    assert key_file() == expected

    def nowhere(path):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", nowhere)
    with pytest.raises(BackendError, match="EDGEKIT_PLAN_KEY: not set, and this user has no home for the key of plans"):
        key_file()


def test_a_seal_is_of_one_thing_under_one_name():
    seal = seal_of(b"a", b"content")
    assert re.fullmatch(rb"[0-9a-f]{64}", seal)
    assert fits(seal, b"a", b"content")
    assert not fits(seal, b"b", b"content")
    assert not fits(seal, b"a", b"contents")
    assert not fits(b"", b"a", b"content")
