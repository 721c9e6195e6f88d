"""Checkpoint folders: read exactly and in blocks, and refused with one clear line when something is wrong."""

import json
import os
import struct
import time
import tracemalloc
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save, save_file

from edgekit.errors import CheckpointError
from edgekit.exporter.sources.checkpoint import Checkpoint, check_names, open_checkpoint, read
from tests.exporter import pickles


def tensors(seed: int = 0) -> dict[str, np.ndarray]:
    """Return one tensor per readable number type, with 0, 1 and odd sizes, and a scalar."""
    rng = np.random.default_rng(seed)
    return {
        "full": rng.standard_normal((7, 5)).astype(np.float32),
        "half": rng.standard_normal((3, 2, 4)).astype(np.float16),
        "brain": rng.standard_normal((9, 3)).astype(ml_dtypes.bfloat16),
        "row": rng.standard_normal((1, 6)).astype(np.float32),
        "none": np.zeros((0, 4), np.float32),
        "scalar": np.asarray(2.5, np.float32),
    }


def write(folder: Path, content: dict[str, np.ndarray], config: object | None = None) -> Path:
    """Write config.json and model.safetensors; returns the folder."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "test"} if config is None else config))
    save_file(content, folder / "model.safetensors")
    return folder


def write_shards(folder: Path, shards: dict[str, dict[str, np.ndarray]], weight_map: dict[str, str]) -> Path:
    """Write shards and their index; returns the folder."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text("{}")
    for name, content in shards.items():
        save_file(content, folder / name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def refusal(path: Path) -> str:
    """Return the one line with which a checkpoint is refused."""
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    line = str(caught.value)
    assert "\n" not in line
    return line


@pytest.mark.parametrize("name", tensors())
def test_every_number_type_reads_as_the_same_numbers_in_float32(tmp_path, name):
    checkpoint = open_checkpoint(write(tmp_path, tensors()))

    values = read(checkpoint, name)

    assert values.dtype == np.float32
    assert checkpoint.shape(name) == tensors()[name].shape
    np.testing.assert_array_equal(values, tensors()[name].astype(np.float32), strict=True)


def test_any_row_block_equals_the_slice_of_the_whole(tmp_path):
    checkpoint = open_checkpoint(write(tmp_path, tensors()))
    for name in ("full", "half", "brain", "row", "none"):
        whole = tensors()[name].astype(np.float32)
        for start in range(len(whole) + 1):
            for stop in range(start, len(whole) + 1):
                np.testing.assert_array_equal(checkpoint.rows(name, start, stop), whole[start:stop], strict=True)


def test_config_and_generation_config_are_read(tmp_path):
    write(tmp_path, tensors(), {"model_type": "whisper", "d_model": 4})
    assert open_checkpoint(tmp_path).generation == {}

    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 7}')
    checkpoint = open_checkpoint(tmp_path)

    assert isinstance(checkpoint, Checkpoint)
    assert checkpoint.folder == tmp_path
    assert checkpoint.config == {"model_type": "whisper", "d_model": 4}
    assert checkpoint.generation == {"eos_token_id": 7}
    assert checkpoint.names() == tensors().keys()


def test_the_path_of_config_json_opens_its_folder(tmp_path):
    write(tmp_path, tensors())
    assert open_checkpoint(str(tmp_path / "config.json")).names() == open_checkpoint(tmp_path).names()


def test_shards_read_as_one_checkpoint(tmp_path):
    content = tensors()
    first = {name: content[name] for name in ("full", "half")}
    second = {name: content[name] for name in content if name not in first}
    weight_map = dict.fromkeys(first, "a.safetensors") | dict.fromkeys(second, "b.safetensors")
    checkpoint = open_checkpoint(write_shards(tmp_path, {"a.safetensors": first, "b.safetensors": second}, weight_map))

    assert checkpoint.names() == content.keys()
    for name, values in content.items():
        np.testing.assert_array_equal(read(checkpoint, name), values.astype(np.float32))


def test_a_folder_of_links_into_a_download_cache_opens(tmp_path):
    real = write(tmp_path / "blobs", tensors())
    links = tmp_path / "snapshot"
    links.mkdir()
    for file in real.iterdir():
        (links / file.name).symlink_to(file)
    assert open_checkpoint(links).names() == tensors().keys()


def test_walking_a_large_tensor_holds_one_block_and_maps_nothing(tmp_path):
    rows, width, block = 4096, 2048, 128  # 16 MiB of BF16, read 0.5 MiB (1 MiB as float32) at a time
    write(tmp_path, {"table": np.ones((rows, width), ml_dtypes.bfloat16)})
    checkpoint = open_checkpoint(tmp_path)
    total = 0.0
    tracemalloc.start()
    for start in range(0, rows, block):
        total += float(checkpoint.rows("table", start, start + block).sum())
        assert str(tmp_path) not in Path("/proc/self/maps").read_text()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert total == rows * width
    # Stored block, float32 block, a byte a number for the finiteness check, the previous block: 0.5 + 1 + 0.25 + 1 MiB.
    assert peak < 3.5 * 2**20


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_a_weight_that_is_not_finite_is_named_with_its_index_in_the_whole_tensor(tmp_path, bad, kind):
    values = np.zeros((6, 2, 3), kind)
    values[4, 1, 2] = values[5, 0, 0] = bad
    checkpoint = open_checkpoint(write(tmp_path, {"layer.weight": values}))

    checkpoint.rows("layer.weight", 0, 4)
    with pytest.raises(CheckpointError, match=r"^layer\.weight: -?(nan|inf) at index \[4, 1, 2\]"):
        checkpoint.rows("layer.weight", 3, 6)


def test_a_scalar_that_is_not_finite_is_refused(tmp_path):
    checkpoint = open_checkpoint(write(tmp_path, {"scale": np.asarray(np.nan, np.float32)}))
    with pytest.raises(CheckpointError, match=r"^scale: nan at index \[\]"):
        read(checkpoint, "scale")


def test_integers_may_lie_beside_the_weights_but_are_not_read(tmp_path):
    checkpoint = open_checkpoint(write(tmp_path, {"steps": np.arange(3), "weight": np.ones(2, np.float32)}))
    np.testing.assert_array_equal(read(checkpoint, "weight"), [1, 1])
    with pytest.raises(CheckpointError, match="steps: stored as I64, export reads F32, F16 and BF16"):
        read(checkpoint, "steps")


def test_an_unknown_name_is_refused_by_name(tmp_path):
    checkpoint = open_checkpoint(write(tmp_path, tensors()))
    with pytest.raises(CheckpointError, match=r"^absent: no such tensor"):
        checkpoint.shape("absent")


@pytest.mark.parametrize("kind", [np.int8, np.uint8, ml_dtypes.float8_e4m3fn])
def test_eight_bit_weights_are_refused_by_name(tmp_path, kind):
    line = refusal(write(tmp_path, {"w": np.ones((2, 2), np.float32), "q": np.ones((2, 2), kind)}))
    assert "q is stored as" in line
    assert "pre-quantised" in line


@pytest.mark.parametrize(
    "config",
    [
        {"quantization_config": {"quant_method": "gptq", "bits": 4}},
        {"text_config": {"quantization_config": {"quant_method": "gptq"}}},
        {"thinker_config": {"text_config": {"quantization_config": {"quant_method": "gptq"}}}},
        {"compression_config": {"quant_method": "gptq"}},
    ],
)
def test_a_config_that_says_quantised_is_refused_by_method(tmp_path, config):
    line = refusal(write(tmp_path, tensors(), config))
    assert "pre-quantised checkpoint (gptq): export needs the original float weights" in line


def test_a_null_quantization_config_is_no_quantisation(tmp_path):
    assert open_checkpoint(write(tmp_path, tensors(), {"quantization_config": None})).names()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "No such file"),
        ("", "not readable as JSON"),
        ("{", "not readable as JSON"),
        ("[" * 100_000, "not readable as JSON"),
        ("[]", "a JSON list, must be an object"),
        ('{"a": 1, "a": 2}', "'a' appears twice"),
        (b"\xff\xfe\xfa", "not readable as JSON"),
    ],
)
def test_an_unusable_config_is_refused_by_path(tmp_path, text, said):
    write(tmp_path, tensors())
    path = tmp_path / "config.json"
    path.unlink()
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    line = refusal(tmp_path)
    assert line.startswith(f"{path}: ")
    assert said in line


def test_every_cut_of_a_file_is_refused(tmp_path):
    write(tmp_path, {"a": np.ones((2, 3), np.float32), "b": np.ones(1, np.float16)})
    path = tmp_path / "model.safetensors"
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        assert str(path) in refusal(tmp_path)
    path.write_bytes(whole + b"\0")
    assert "its header says" in refusal(tmp_path)


def test_a_file_cut_after_it_was_opened_is_refused_when_read(tmp_path):
    checkpoint = open_checkpoint(write(tmp_path, {"a": np.ones((4, 2), np.float32)}))
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: ends 1 bytes before the end of a"):
        read(checkpoint, "a")


def with_header(header: object, data: bytes = b"") -> bytes:
    """Return the bytes of a safetensors file with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git-lfs pointer"),
        (with_header(b"{"), "not readable as JSON"),
        (with_header([]), "must be an object"),
        (with_header({"a": None}), "lacks dtype"),
        (with_header({"a": {"dtype": "F32", "shape": [1]}}), "lacks dtype"),
        (with_header({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, b"0000"), "lacks dtype"),
        (with_header({"a": {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}}, b"0000"), "lacks dtype"),
        (with_header({"a": {"dtype": "F32", "shape": 1, "data_offsets": [0, 4]}}, b"0000"), "lacks dtype"),
        (with_header({"a": {"dtype": "F32", "shape": [1], "data_offsets": "04"}}, b"0000"), "lacks dtype"),
        (
            with_header({"a": {"dtype": "Q9", "shape": [1], "data_offsets": [0, 4]}}, b"0000"),
            "not a safetensors number",
        ),
        (with_header({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, b"0000"), "needs 8"),
        (with_header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, b"00000000"), "expected 0"),
        (with_header(b'{"a": {}, "a": {}}'), "'a' appears twice"),
        (
            with_header({n: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for n in "ab"}, b"0000"),
            "data of b starts at 0, expected 4",
        ),
    ],
)
def test_a_damaged_header_is_refused(tmp_path, content, said):
    write(tmp_path, tensors())
    (tmp_path / "model.safetensors").write_bytes(content)
    assert said in refusal(tmp_path)


def test_an_index_that_names_an_absent_shard_is_refused(tmp_path):
    write_shards(
        tmp_path, {"a.safetensors": {"x": np.ones(1, np.float32)}}, {"x": "a.safetensors", "y": "b.safetensors"}
    )
    assert "b.safetensors: No such file" in refusal(tmp_path)


def test_a_shard_without_a_promised_tensor_is_refused(tmp_path):
    write_shards(
        tmp_path, {"a.safetensors": {"x": np.ones(1, np.float32)}}, {"x": "a.safetensors", "y": "a.safetensors"}
    )
    assert "a.safetensors: lacks y" in refusal(tmp_path)


def test_a_tensor_in_two_shards_is_refused(tmp_path):
    one = {"x": np.ones(1, np.float32)}
    two = {"x": np.ones(1, np.float32), "y": np.ones(1, np.float32)}
    shards = {"a.safetensors": one, "b.safetensors": two}
    write_shards(tmp_path, shards, {"x": "a.safetensors", "y": "b.safetensors"})
    assert "b.safetensors: x is also in a.safetensors" in refusal(tmp_path)


@pytest.mark.parametrize(
    "shard", ["../out.safetensors", "/out.safetensors", "a/../../out.safetensors", "", ".", 3, "c:\\x"]
)
def test_an_index_that_leaves_the_folder_is_refused(tmp_path, shard):
    (tmp_path / "out.safetensors").write_bytes(save({"x": np.ones(1, np.float32)}))
    folder = write_shards(tmp_path / "inside", {}, {"x": shard})
    assert "must be a file inside the folder" in refusal(folder)


@pytest.mark.parametrize("index", [{}, {"weight_map": {}}, {"weight_map": ["x"]}])
def test_an_index_without_a_map_is_refused(tmp_path, index):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "no weight_map" in refusal(tmp_path)


def test_shards_without_an_index_are_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    for name in ("a", "b"):
        save_file({name: np.ones(1, np.float32)}, tmp_path / f"{name}.safetensors")
    assert "0 indexes and 2 safetensors files" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("pytorch_model.bin", "pytorch_model.bin: a bare pickle"),
        ("flow.pt", "no *.safetensors here"),
        ("model.bin", "model.bin: no container of CTranslate2"),
    ],
)
def test_a_pickle_that_runs_something_is_refused_and_never_run(tmp_path, name, said):
    (tmp_path / "config.json").write_text("{}")
    # Opcodes that would raise SystemExit if anything unpickled them.
    (tmp_path / name).write_bytes(b"\x80\x02cbuiltins\nexit\n(tR.")
    assert said in refusal(tmp_path)


def test_weights_that_torch_saved_read_as_those_in_safetensors(tmp_path):
    stored = tensors()
    (tmp_path / "config.json").write_text("{}")
    pickles.save(tmp_path / "pytorch_model.bin", stored)
    opened = open_checkpoint(tmp_path)
    assert opened.names() == stored.keys()
    for name, array in stored.items():
        assert opened.shape(name) == array.shape
        np.testing.assert_array_equal(read(opened, name), array.astype(np.float32))


def test_shards_that_torch_saved_are_those_of_their_index(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    first, second = {"a": np.ones(3, np.float32)}, {"b": np.zeros((2, 2), np.float32)}
    for name, content in (("one.bin", first), ("two.bin", second)):
        pickles.save(tmp_path / name, content)
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "one.bin", "b": "two.bin"}}))
    assert open_checkpoint(tmp_path).names() == {"a", "b"}
    index.write_text(json.dumps({"weight_map": {"a": "one.bin", "c": "two.bin"}}))
    assert "two.bin: lacks c that the index promises" in refusal(tmp_path)
    pickles.save(tmp_path / "two.bin", first | second)
    index.write_text(json.dumps({"weight_map": {"a": "one.bin", "b": "two.bin"}}))
    assert "two.bin: a is also in one.bin" in refusal(tmp_path)


def test_a_folder_without_weights_and_a_missing_folder_are_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert "no *.safetensors here" in refusal(tmp_path)
    assert "not a folder" in refusal(tmp_path / "nowhere")
    assert "not a folder" in refusal(tmp_path / "nowhere" / "config.json")


def test_names_and_shapes_as_expected_pass(tmp_path):
    checkpoint = open_checkpoint(write(tmp_path, tensors()))
    shapes = {name: values.shape for name, values in tensors().items()}

    check_names(checkpoint, shapes)
    del shapes["none"]
    check_names(checkpoint, shapes, ignored=lambda name: name == "none")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"absent": (3, 4)}, "absent: missing, expected with shape [3, 4]; "),
        ({"absent": (3,), "lost": (4,)}, "absent: missing (and 1 more), expected with shape [3]; "),
        ({"full": (5, 7)}, "full: shape [7, 5], config.json implies [5, 7]; "),
        ({"full": None}, "full: shape [7, 5], not expected by this family; "),
        (
            {"full": None, "Full": (7, 5)},
            "Full: missing, expected with shape [7, 5], and full [7, 5] is not expected; ",
        ),
    ],
)
def test_a_wrong_name_or_shape_is_named_with_what_was_expected(tmp_path, change, said):
    checkpoint = open_checkpoint(write(tmp_path, tensors()))
    expected = {name: values.shape for name, values in tensors().items()} | change

    with pytest.raises(CheckpointError) as caught:
        check_names(checkpoint, {name: shape for name, shape in expected.items() if shape is not None})

    assert str(caught.value).startswith(said)


def with_header(folder: Path, header: bytes, data: bytes = b"") -> Path:
    """Write a safetensors file of any header; returns the folder."""
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + data)
    return folder


def entry(shape: object, end: object = 0, begin: object = 0, kind: object = "F32") -> bytes:
    """Return a header of one tensor."""
    return json.dumps({"a": {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}}).encode()


@pytest.mark.parametrize(
    "header",
    [
        entry([0, 1 << 60]),
        entry([0] * 17),
        entry([10**4000] * 3000),
        entry([1 << 20, 1 << 21, 0]),
        b'{"a":' * 1000 + b"1" + b"}" * 1000,
        b'{"a":' * 100_000,
        entry([1], 10**30),
        entry([-1], 4),
        entry([True], 4),
        entry([1.0], 4),
        entry("11", 4),
        entry({"1": 1}, 4),
        entry([1], 0, 4),
        entry([1], 4, kind=["F32"]),
        b'{"a\\ud800": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}',
        b'{"a\xed\xa0\x80": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}',
        b'{"a": NaN}',
        b"{" + b",".join(b'"a": 1' for _ in range(100_000)) + b"}",
        json.dumps({"a": 1}).encode("utf-16"),
    ],
    ids=lambda header: repr(header[:40]),
)
def test_a_header_of_what_cannot_be_is_refused_at_once(header, tmp_path):
    start = time.monotonic()
    assert "model.safetensors" in refusal(with_header(tmp_path, header, bytes(4)))
    assert time.monotonic() - start < 2


def test_a_header_that_says_it_is_long_makes_no_room_for_it(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", 30 << 20) + b"{}")
    tracemalloc.start()
    assert "its header does not fit" in refusal(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "generation_config.json"])
def test_a_fifo_or_a_folder_in_place_of_a_file_is_refused_without_waiting(name, tmp_path):
    write(tmp_path, tensors())
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    assert f"{name}: Is a FIFO, must be a regular file" in refusal(tmp_path)
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    assert f"{name}: Is a directory" in refusal(tmp_path)


def test_an_index_or_a_shard_that_is_a_fifo_is_refused_without_waiting(tmp_path):
    write_shards(tmp_path, {"a.safetensors": {"x": np.zeros(2, np.float32)}}, {"x": "a.safetensors"})
    (tmp_path / "a.safetensors").unlink()
    os.mkfifo(tmp_path / "a.safetensors")
    assert "a.safetensors: Is a FIFO" in refusal(tmp_path)
    (tmp_path / "model.safetensors.index.json").unlink()
    os.mkfifo(tmp_path / "model.safetensors.index.json")
    assert "model.safetensors.index.json: Is a FIFO" in refusal(tmp_path)


def test_a_config_of_megabytes_or_deeper_than_any_is_refused(tmp_path):
    write(tmp_path, tensors())
    (tmp_path / "config.json").write_bytes(b'{"a": "' + b"x" * (8 << 20) + b'"}')
    assert "config.json: Has 8,388,617 bytes, at most 8,388,608 are read" in refusal(tmp_path)
    for depth in (64, 900, 100_000):
        (tmp_path / "config.json").write_text('{"a":' * depth + "[]" + "}" * depth)
        if depth == 64:  # as deep as may be: 64 objects, and an empty list holds nothing
            assert open_checkpoint(tmp_path).names()
        else:
            assert "config.json: not readable as JSON" in refusal(tmp_path)


def test_a_file_of_weights_that_is_gone_when_it_is_read_is_one_line(tmp_path):
    checkpoint = open_checkpoint(write(tmp_path, tensors()))
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="No such file or directory; fetch the missing file"):
        checkpoint.rows("full", 0, 2)
