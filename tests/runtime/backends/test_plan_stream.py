"""What an older TensorRT is given for a plan. Its base class is stood in for: the library itself is not here.

The reader of newer ones is tested with the library, in tests/engines.
"""

import hashlib
from contextlib import closing
from types import SimpleNamespace

import pytest

from edgekit.bundle import open_bundle
from edgekit.runtime.backends.plan_stream import stream_reader
from edgekit.runtime.backends.plans import PlanKey, PlanNote, PlanStore

KEY = PlanKey(graph="aa", data="bb", builder="tensorrt", version="10.3.0", device="8.7", sizes="")
PLAN = bytes(range(256)) * 3


@pytest.fixture
def plan(tiny_bundle):
    store = PlanStore(open_bundle(tiny_bundle().folder))
    note = PlanNote(
        key=KEY, int8_layers=0, int8_asked=0, weight_bytes=0, build_s=0.0, sha256=hashlib.sha256(PLAN).hexdigest(),
        bytes=len(PLAN),
    )  # fmt: skip
    with store.draft("encoder") as draft:
        draft.write(PLAN)
        draft.publish(note)
    _, reader = store.open("encoder", KEY)
    with closing(reader):
        yield reader


def test_a_reader_that_does_not_ask_again_gets_all_it_asks_for(plan):
    reader = stream_reader(SimpleNamespace(IStreamReader=object), plan)
    assert [reader.read(size) for size in (0, 7, 500, 10_000, 1)] == [b"", PLAN[:7], PLAN[7:507], PLAN[507:], b""]


def test_a_library_without_readers_gets_the_plan_alone_out_of_the_file(plan):
    with stream_reader(SimpleNamespace(), plan) as given:
        assert given.readonly
        assert given == PLAN
