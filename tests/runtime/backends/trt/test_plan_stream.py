"""What each TensorRT is given for a plan. Its base class is stood in for: the library itself is not here.

The reader is tested with the library of TensorRT for RTX, too, in tests/engines.
"""

import hashlib
from contextlib import closing
from types import SimpleNamespace

import pytest

from edgekit.bundle import open_bundle
from edgekit.runtime.backends.trt.plan_stream import stream_reader
from edgekit.runtime.backends.trt.plans import PlanKey, PlanNote, PlanStore

KEY = PlanKey(graph="aa", data="bb", builder="tensorrt", version="10.3.0", device="8.7", sizes="")
PLAN = bytes(range(256)) * 3


@pytest.fixture
def plan(tiny_bundle):
    store = PlanStore(open_bundle(tiny_bundle().folder))
    note = PlanNote(
        key=KEY, quantised_layers=0, quantised_asked=0, weight_bytes=0, build_s=0.0,
        sha256=hashlib.sha256(PLAN).hexdigest(), bytes=len(PLAN),
    )  # fmt: skip
    with store.draft("encoder") as draft:
        draft.write(PLAN)
        draft.publish(note)
    _, reader = store.open("encoder", KEY)
    with closing(reader):
        yield reader


# 10.7 and 10.8 have the class, but do not ask again for what a read left out.
@pytest.mark.parametrize(("version", "reader"), [("10.3.0.26", None), ("10.7.0.23", object), ("10.8.0.43", object)])
def test_a_library_whose_reader_cannot_be_used_gets_the_plan_alone_out_of_the_file(version, reader, plan):
    library = SimpleNamespace(__version__=version, IStreamReader=object)
    if reader is not None:
        library.IStreamReaderV2 = reader
    with stream_reader(library, plan) as given:
        assert given.readonly
        assert given == PLAN


@pytest.mark.parametrize("version", ["1.7.1.116", "10.9.0.34", "10.13.3.9", "11.1.0.1"])
def test_a_library_that_asks_again_gets_a_reader(version, plan):
    seek = SimpleNamespace(SET=0, CUR=1, END=2)
    reader = stream_reader(SimpleNamespace(__version__=version, IStreamReaderV2=object, SeekPosition=seek), plan)
    assert [reader.read(size, 0) for size in (7, 500, 10_000, 1)] == [PLAN[:7], PLAN[7:507], PLAN[507:], b""]
    assert reader.seek(-3, seek.END)
    assert reader.read(1 << 40, 0) == PLAN[-3:]
