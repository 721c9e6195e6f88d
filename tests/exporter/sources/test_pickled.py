"""Files of torch.save, read without torch and without running what they name."""

import os
import time
import tracemalloc
import warnings
import zipfile

import numpy as np
import pytest

from edgekit.errors import CheckpointError
from edgekit.exporter.families.step_audio.hift import HiFT, open_hift
from edgekit.exporter.sources import opcodes
from edgekit.exporter.sources.checkpoint import read
from edgekit.exporter.sources.pickled import open_pickled
from tests.exporter.pickles import BFLOAT16, REBUILD, call, number, ordered, save, storage, tensor, text, whole, write
from tests.reference import hift_case

DRAWS = np.random.default_rng(8)
NUMBERS = np.round(DRAWS.uniform(-8, 8, (5, 3, 2)) * 8) / 8  # exact in every number type
FEW = np.arange(6, dtype=np.float32).reshape(2, 3)


def one(path, view, array=FEW):
    return write(path, ordered({"a": view}), {"0": array})


@pytest.mark.parametrize("kind", ["float32", "float16", BFLOAT16, "int64"], ids=str)
def test_numbers_of_every_kind_are_read(kind, tmp_path):
    opened = open_pickled(save(tmp_path / "a.pt", {"w": NUMBERS.astype(kind), "scalar": np.array(3).astype(kind)}))
    assert opened.names() == {"w", "scalar"}
    assert (opened.shape("w"), opened.shape("scalar")) == ((5, 3, 2), ())
    np.testing.assert_array_equal(read(opened, "w"), NUMBERS.astype(kind).astype(np.float32))
    np.testing.assert_array_equal(opened.rows("w", 1, 3), NUMBERS.astype(kind)[1:3].astype(np.float32))
    assert read(opened, "scalar") == 3.0
    assert opened.rows("w", 2, 2).shape == (0, 3, 2)


def test_a_vocoder_is_the_same_from_a_file_and_from_memory(tmp_path):
    stored = hift_case.stored()
    opened = open_hift(save(tmp_path / "hift.pt", stored))
    assert HiFT.of(opened) == hift_case.SMALL
    assert opened.names() == set(hift_case.SMALL.expected())
    np.testing.assert_array_equal(read(opened, "hift.conv_pre.bias"), stored["generator.conv_pre.bias"])


def test_views_of_one_storage_are_read_by_their_strides(tmp_path):
    base = np.arange(24, dtype=np.float32)
    views = {
        "turned": ((4, 3), (1, 4), 2),
        "every other": ((3, 2), (8, 2), 1),
        "same row": ((5, 2), (0, 1), 3),
        "end": ((1,), (1,), 23),
        "none": ((0, 3), (3, 1), 24),
    }
    items = {
        name: tensor("0", "FloatStorage", 24, shape, strides, first=first)
        for name, (shape, strides, first) in views.items()
    }
    opened = open_pickled(write(tmp_path / "a.pt", ordered(items), {"0": base}))
    for name, (shape, strides, first) in views.items():
        expected = np.lib.stride_tricks.as_strided(base[first:], shape, [4 * step for step in strides])
        np.testing.assert_array_equal(read(opened, name), expected)
        np.testing.assert_array_equal(
            opened.rows(name, len(expected) // 2, len(expected)), expected[len(expected) // 2 :]
        )


def test_dicts_within_dicts_are_joined_by_dots_and_what_is_no_tensor_is_passed_over(tmp_path):
    inner = ordered({"w": whole("0", FEW), "steps": number(3)})
    content = ordered(
        {"generator": inner, "epoch": number(9), "note": text("trained"), "list": b"]" + whole("0", FEW) + b"a"}
    )
    opened = open_pickled(write(tmp_path / "a.pt", content, {"0": FEW}))
    assert opened.names() == {"generator.w"}
    np.testing.assert_array_equal(read(opened, "generator.w"), FEW)


def test_a_parameter_is_its_tensor(tmp_path):
    view = call(b"ctorch._utils\n_rebuild_parameter\n", whole("0", FEW), b"\x88", call(b"ccollections\nOrderedDict\n"))
    np.testing.assert_array_equal(read(open_pickled(one(tmp_path / "a.pt", view)), "a"), FEW)


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (b"cos\nsystem\n", [text("touch RAN")]),
        (b"cposix\nsystem\n", [text("touch RAN")]),
        (b"cbuiltins\neval\n", [text("open('RAN', 'w')")]),
        (b"cbuiltins\ngetattr\n", [b"ccollections\nOrderedDict\n", text("__init__")]),
        (b"ctorch\nload\n", [text("other.pt")]),
        (b"ctorch._utils\n_rebuild_tensor_v3\n", []),
        (b"ccollections\nCounter\n", []),
        (b"cedgekit.exporter.pickled\nopen_pickled\n", [text("other.pt")]),
        (text("os") + text("system") + b"\x93", [text("touch RAN")]),
    ],
    ids=lambda value: repr(value) if isinstance(value, bytes) else "",
)
def test_a_pickle_that_names_anything_but_tensors_is_refused(function, arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    view = call(function, *arguments)
    for place, content in (("inside", ordered({"a": view})), ("before", view + b"0" + ordered({"a": whole("0", FEW)}))):
        path = write(tmp_path / f"{place}.pt", content, {"0": FEW})
        with pytest.raises(
            CheckpointError, match=r"wants to run '\S+' when it is read, a plain file of weights"
        ) as refusal:
            open_pickled(path)
        assert "\n" not in str(refusal.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["before.pt", "inside.pt"]


def test_the_refusal_names_what_the_pickle_wants(tmp_path):
    path = one(tmp_path / "hift.pt", call(b"cos\nsystem\n", text("true")))
    with pytest.raises(CheckpointError, match=r"hift.pt: wants to run 'os.system' when it is read"):
        open_pickled(path)


def test_a_name_with_line_breaks_stays_on_one_line(tmp_path):
    view = call(text("a\nb") + text("c" * 200) + b"\x93")
    with pytest.raises(CheckpointError) as refusal:
        open_pickled(one(tmp_path / "a.pt", view))
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 400


@pytest.mark.parametrize("name", ["_rebuild_tensor_v2", "_rebuild_parameter"])
@pytest.mark.parametrize("attribute", ["call", "__code__", "__defaults__", "__class__"])
def test_a_pickle_cannot_change_the_functions_that_it_may_name(name, attribute, tmp_path):
    function = b"ctorch._utils\n" + name.encode() + b"\n"
    slots = b"N}" + text(attribute) + b"Ns\x86"  # the state (None, {attribute: None}) is set attribute by attribute
    for state in (slots, b"}" + text(attribute) + b"Ns"):
        with pytest.raises(CheckpointError, match="damaged, its description does not read"):
            open_pickled(one(tmp_path / "a.pt", function + state + b"b"))
    np.testing.assert_array_equal(read(open_pickled(one(tmp_path / "b.pt", whole("0", FEW))), "a"), FEW)


DAMAGED = {
    "longer than its storage": tensor("0", "FloatStorage", 6, (2, 4), (3, 1)),
    "ends beyond": tensor("0", "FloatStorage", 6, (2, 3), (3, 1), first=1),
    "starts before": tensor("0", "FloatStorage", 6, (2, 3), (3, 1), first=-1),
    "goes backwards": tensor("0", "FloatStorage", 6, (2, 3), (-3, 1), first=3),
    "negative size": tensor("0", "FloatStorage", 6, (-2, 3), (3, 1)),
    "fewer strides": tensor("0", "FloatStorage", 6, (2, 3), (3,)),
    "huge": tensor("0", "FloatStorage", 6, (2, 1 << 62), (3, 1)),
    "more numbers than announced": tensor("0", "FloatStorage", 7, (2, 3), (3, 1)),
    "no such storage": tensor("1", "FloatStorage", 6, (2, 3), (3, 1)),
    "storage outside": tensor("../data.pkl", "FloatStorage", 6, (2, 3), (3, 1)),
    "wider numbers": tensor("0", "LongStorage", 6, (2, 3), (3, 1)),
    "no storage": call(b"ctorch._utils\n_rebuild_tensor_v2\n", b"N", number(0), b")", b")"),
    "no arguments": call(b"ctorch._utils\n_rebuild_tensor_v2\n"),
    "ordered of something": call(b"ccollections\nOrderedDict\n", number(3)),
    "storage without form": text("storage") + b"Q",
    "storage of a number": storage("0", "FloatStorage", 6).removesuffix(b"Q") + b"0" + b"I1\nQ",
    "nothing": b"",
    "memo far away": b"r\xff\xff\xff\xff",
    "bytes without end": b"\x8e" + b"\xff" * 7 + b"\x7f",
    "extension": b"\x82\x01",
    "marks": b"((((",
}


@pytest.mark.parametrize("view", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_description_is_refused_in_one_line(view, tmp_path):
    with pytest.raises(CheckpointError, match=r"a\.pt: damaged, .*; fetch the file again") as refusal:
        open_pickled(one(tmp_path / "a.pt", view))
    assert "\n" not in str(refusal.value)


def test_dicts_without_end_are_refused(tmp_path):
    circle = b"}q\x01" + text("again") + b"h\x01s"
    for content in (circle, b"".join(b"}" + text("a") for _ in range(20)) + b"N" + b"s" * 20):
        with pytest.raises(CheckpointError, match="damaged, dicts deeper than 16"):
            open_pickled(write(tmp_path / "a.pt", content, {}))


def test_dicts_that_share_dicts_are_not_counted_forever(tmp_path):
    pieces = [b"}q\x00"]
    for level in range(1, 14):
        shared = b"".join(number(key) + b"h" + bytes([level - 1]) for key in range(40))
        pieces.append(b"}q" + bytes([level]) + b"(" + shared + b"u")
    with pytest.raises(CheckpointError, match="more than 100000 names"):
        open_pickled(write(tmp_path / "a.pt", b"".join(pieces), {}))


def test_two_tensors_of_one_name_are_refused(tmp_path):
    content = ordered({"a.b": whole("0", FEW), "a": ordered({"b": whole("0", FEW)})})
    with pytest.raises(CheckpointError, match="two tensors are called 'a.b'"):
        open_pickled(write(tmp_path / "a.pt", content, {"0": FEW}))


@pytest.mark.parametrize(
    "content", [ordered({}), number(3), whole("0", FEW)[:0] + b"N"], ids=["empty", "number", "none"]
)
def test_a_file_without_tensors_is_refused(content, tmp_path):
    with pytest.raises(CheckpointError, match="no tensors in its dicts"):
        open_pickled(write(tmp_path / "a.pt", content, {}))


def test_other_numbers_may_lie_there_unread(tmp_path):
    opened = open_pickled(save(tmp_path / "a.pt", {"mask": np.ones(3, bool), "wide": np.ones(3), "w": FEW}))
    assert opened.shape("mask") == (3,)
    np.testing.assert_array_equal(read(opened, "w"), FEW)
    for name, kind in (("mask", "BoolStorage"), ("wide", "DoubleStorage")):
        with pytest.raises(CheckpointError, match=f"{name}: stored as {kind}, export reads FloatStorage"):
            read(opened, name)


@pytest.mark.parametrize("value", [(1 << 24) + 1, -(1 << 63)])
def test_whole_numbers_that_float32_cannot_hold_are_refused(value, tmp_path):
    opened = open_pickled(save(tmp_path / "a.pt", {"a": np.array([1 << 24, value])}))
    assert opened.rows("a", 0, 1) == 1 << 24
    with pytest.raises(CheckpointError, match="a: holds whole numbers beyond 16777216"):
        read(opened, "a")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused_by_their_place(value, tmp_path):
    array = FEW.copy()
    array[1, 2] = value
    opened = open_pickled(save(tmp_path / "a.pt", {"a": array, "scalar": array[1, 2]}))
    np.testing.assert_array_equal(opened.rows("a", 0, 1), FEW[:1])
    with pytest.raises(CheckpointError, match=r"a: (nan|inf) at index \[1, 2\], weights must be finite"):
        opened.rows("a", 1, 2)
    with pytest.raises(CheckpointError, match=r"scalar: (nan|inf) at index \[\],"):
        read(opened, "scalar")


@pytest.mark.parametrize("kept", [0, 1, 40, 0.5, -23, -1])
def test_a_file_cut_short_is_refused(kept, tmp_path):
    path = save(tmp_path / "a.pt", {"a": FEW})
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data)) if isinstance(kept, float) else kept])
    with pytest.raises(
        CheckpointError, match=r"a\.pt: not a whole zip file of weights .*; fetch the file again"
    ) as refusal:
        open_pickled(path)
    assert "\n" not in str(refusal.value)


def test_a_file_that_lacks_bytes_in_its_middle_is_refused(tmp_path):
    path = save(tmp_path / "a.pt", {"a": NUMBERS.astype(np.float32)})
    data = path.read_bytes()
    path.write_bytes(data[:400] + data[416:])
    with pytest.raises(CheckpointError, match=r"a\.pt: (damaged|not a whole zip)"):
        open_pickled(path)


def test_a_storage_that_is_not_where_the_table_says_is_refused(tmp_path):
    path = save(tmp_path / "a.pt", {"a": FEW})
    data = bytearray(path.read_bytes())
    entry = data.rindex(b"PK\x01\x02", 0, data.rindex(b"archive/data/0"))
    data[entry + 42] ^= 1  # the table's offset of this entry
    path.write_bytes(data)
    with pytest.raises(
        CheckpointError, match=r"a\.pt: damaged, entry 'archive/data/0' is not where the zip's table says"
    ):
        open_pickled(path)


def test_a_far_memo_makes_no_room_for_all_before_it(tmp_path):
    path = one(tmp_path / "a.pt", b"Nr" + (1 << 22).to_bytes(4, "little"))
    tracemalloc.start()
    with pytest.raises(CheckpointError, match="damaged, its description does not read: 'memo 4194304'"):
        open_pickled(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_a_file_that_shrinks_after_it_was_opened_is_refused(tmp_path):
    path = save(tmp_path / "a.pt", {"a": NUMBERS.astype(np.float32)})
    opened = open_pickled(path)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(CheckpointError, match=r"a\.pt: .*; fetch the file again"):
        read(opened, "a")


def test_a_compressed_file_is_refused(tmp_path):
    path = write(tmp_path / "a.pt", ordered({"a": whole("0", FEW)}), {"0": FEW}, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match=r"a\.pt: compressed or encrypted"):
        open_pickled(path)


def test_an_old_pickle_a_pointer_and_a_missing_file_are_each_named(tmp_path):
    old, pointer = tmp_path / "old.pt", tmp_path / "pointer.pt"
    old.write_bytes(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.")
    pointer.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    for path, said in (
        (old, "a bare pickle, as torch wrote before 1.6"),
        (pointer, "perhaps cut short or a git-lfs pointer"),
        (tmp_path / "none.pt", "No such file"),
        (tmp_path, "Is a directory"),
    ):
        with pytest.raises(CheckpointError, match=said):
            open_pickled(path)


def test_a_zip_of_something_else_is_refused(tmp_path):
    path = tmp_path / "a.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("word/document.xml", "<xml/>")
    with pytest.raises(CheckpointError, match=r"a\.pt: damaged, 0 entries are called data\.pkl"):
        open_pickled(path)


def test_a_file_of_a_big_endian_machine_is_refused(tmp_path):
    path = write(tmp_path / "a.pt", ordered({"a": whole("0", FEW)}), {"0": FEW}, order="big")
    with pytest.raises(CheckpointError, match=r"a\.pt: saved on a big-endian machine"):
        open_pickled(path)


def test_rows_of_a_large_tensor_are_read_without_the_rest(tmp_path):
    path = save(tmp_path / "a.pt", {"a": np.zeros((1024, 4096), np.float32)})
    tracemalloc.start()
    rows = open_pickled(path).rows("a", 1000, 1001)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rows.shape == (1, 4096)
    assert peak < 1 << 20  # of 16 MiB


def within(limit_mib, seconds, path):
    """Return the refusal of a file, which takes no more memory and time than these."""
    start = time.monotonic()
    tracemalloc.start()
    with pytest.raises(CheckpointError) as refusal:
        open_pickled(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < limit_mib << 20
    assert time.monotonic() - start < seconds
    assert str(refusal.value).isprintable()
    return str(refusal.value)


def test_tuples_within_tuples_are_neither_hashed_nor_printed(tmp_path):
    doubled = b")" + b"2\x86" * 60  # each holds the one before twice: 2 ** 60 to print or hash
    for content in (
        b"}" + doubled + b"Ns",
        ordered({"a": call(REBUILD, storage("0", "FloatStorage", 6), number(0), doubled, doubled)}),
        doubled + b"Q",
        ordered({"a": call(b"ccollections\nOrderedDict\n", doubled)}),
    ):  # fmt: skip
        assert "damaged" in within(8, 2, write(tmp_path / "a.pt", content, {"0": FEW}))


@pytest.mark.parametrize("opcode", [b"}", b"]", b"(", b"N", b"\x94"], ids=repr)
def test_opcodes_without_end_are_refused_before_they_fill_the_memory(opcode, tmp_path, monkeypatch):
    path = write(tmp_path / "a.pt", b"N" + opcode * (2 << 20), {"0": FEW})
    start = time.monotonic()
    with pytest.raises(CheckpointError, match="more than 1000000 opcodes"):
        open_pickled(path)
    assert time.monotonic() - start < 10  # a second, of a machine that has other work
    monkeypatch.setattr(opcodes, "MOST_OPCODES", 10_000)
    within(8, 2, path)


def test_a_description_that_is_packed_or_too_long_is_not_unpacked(tmp_path):
    for compression in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        path = write(tmp_path / "a.pt", b"N" * (8 << 20), {"0": FEW}, compression=compression)
        assert "compressed or encrypted" in within(1, 2, path)
    assert "at most 16777216 are read" in within(1, 2, write(tmp_path / "a.pt", b"N" * (17 << 20), {}))
    path = write(tmp_path / "a.pt", ordered({"a": whole("0", FEW)}), {"0": FEW}, order="little" * 1000)
    assert "byteorder' has 6000 bytes, at most 64 are read" in within(1, 2, path)


@pytest.mark.parametrize("shape", [(1 << 40,), (1 << 20, 1 << 20), (7,), (2, 4)], ids=str)
def test_a_few_bytes_said_again_and_again_are_no_large_tensor(shape, tmp_path):
    view = tensor("0", "FloatStorage", 6, shape, (0,) * len(shape))
    assert "a tensor has more numbers than its storage" in within(1, 2, one(tmp_path / "a.pt", view))


def test_names_that_grow_as_they_are_joined_are_refused(tmp_path):
    inner = b"}(" + b"".join(text(str(index)) + b"N" for index in range(1000)) + b"u"
    path = write(tmp_path / "a.pt", b"}" + text("x" * (1 << 20)) + inner + b"s", {})
    assert "a name of more than 1024 characters" in within(16, 2, path)


def test_an_encrypted_file_two_entries_of_one_name_and_a_fifo_are_refused(tmp_path):
    path = save(tmp_path / "a.pt", {"a": FEW})
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    assert "compressed or encrypted" in within(1, 2, path)
    with warnings.catch_warnings(), zipfile.ZipFile(tmp_path / "b.pt", "w") as archive:
        warnings.simplefilter("ignore")
        for _ in range(2):
            archive.writestr("archive/data.pkl", b"\x80\x02}.")
    assert "two of its entries have one name" in within(1, 2, tmp_path / "b.pt")
    os.mkfifo(tmp_path / "c.pt")
    assert "Is a FIFO" in within(1, 2, tmp_path / "c.pt")


@pytest.mark.parametrize("key", [b"N", b")", b"]", b"}", b"G" + bytes(8), b"\x8b\x00\x01\x00\x00" + b"\x7f" * 256])
def test_a_key_that_is_neither_text_nor_whole_number_is_refused(key, tmp_path):
    content = b"}" + key + b"N" + b"s"
    assert "a key that is a" in within(1, 2, write(tmp_path / "a.pt", content, {}))
