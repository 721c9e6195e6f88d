"""The store of plans: what is whole and fits comes back, everything else is as good as none."""

import msgspec
import pytest

from edgekit.bundle import open_bundle
from edgekit.errors import OutputError
from edgekit.runtime.backends.plans import PlanKey, PlanNote, PlanStore

KEY = PlanKey(
    graph="aa", data="bb", builder="tensorrt-rtx", version="1.7.1", device="8.0 to 12.0", sizes="x:(1,):(1,):(2,)"
)
PLAN = b"\x00plan\n of some bytes"


@pytest.fixture
def store(tiny_bundle):
    return PlanStore(open_bundle(tiny_bundle().folder))


def note(key=KEY, plan=PLAN):
    import hashlib

    return PlanNote(
        key=key, int8_layers=3, int8_asked=3, weight_bytes=10, build_s=0.5,
        sha256=hashlib.sha256(plan).hexdigest(), bytes=len(plan),
    )  # fmt: skip


def test_a_plan_comes_back_as_it_was_with_its_note(store):
    assert store.read("encoder", KEY) is None
    path = store.publish("encoder", note(), PLAN)
    assert path.parent == store.folder
    assert store.folder.name.endswith(".plans")
    assert store.read("encoder", KEY) == (note(), PLAN)
    assert [file.name for file in store.folder.iterdir()] == [path.name]


def test_an_empty_plan_is_a_plan(store):
    store.publish("encoder", note(plan=b""), b"")
    assert store.read("encoder", KEY) == (note(plan=b""), b"")


@pytest.mark.parametrize("field", ["graph", "data", "builder", "version", "device", "sizes"])
def test_a_plan_of_something_else_is_not_found(field, store):
    store.publish("encoder", note(), PLAN)
    assert store.read("encoder", msgspec.structs.replace(KEY, **{field: "another"})) is None


def test_a_plan_of_other_flags_or_of_another_component_is_not_found(store):
    store.publish("encoder", note(), PLAN)
    assert store.read("encoder", msgspec.structs.replace(KEY, flags=("strict",))) is None
    assert store.read("adapter", KEY) is None


def test_a_foreign_plan_under_the_right_name_is_refused(store):
    other = msgspec.structs.replace(KEY, device="8.7")
    foreign = store.publish("encoder", note(key=other), PLAN)
    foreign.rename(store.path("encoder", KEY))
    assert store.read("encoder", KEY) is None


def test_no_damage_goes_unseen(store):
    path = store.publish("encoder", note(), PLAN)
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        found = store.read("encoder", KEY)
        # figures of the census may change, which is only told; the plan and what it is for may not
        assert found is None or (found[0].key, found[1]) == (KEY, PLAN), at
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        assert store.read("encoder", KEY) is None, size


def test_timings_are_kept_by_name(store):
    assert store.timing_cache("tensorrt-10.3-8.7") == b""
    store.keep_timings("tensorrt-10.3-8.7", b"measured")
    assert store.timing_cache("tensorrt-10.3-8.7") == b"measured"
    assert store.timing_cache("tensorrt-10.3-8.9") == b""


def test_a_folder_that_cannot_be_made_is_one_line_and_leaves_nothing(tiny_bundle, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    store = PlanStore(open_bundle(tiny_bundle().folder), tmp_path / "file")
    with pytest.raises(OutputError, match="choose another --output"):
        store.publish("encoder", note(), PLAN)
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".partial")] == []
