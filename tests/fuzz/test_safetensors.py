"""A damaged safetensors file or index is refused, or every tensor of it is read as finite numbers of its shape."""

import json
import re
import struct

import ml_dtypes
import numpy as np
from safetensors.numpy import save

from edgekit.errors import CheckpointError
from edgekit.exporter.sources.checkpoint import open_checkpoint
from tests.fuzz.worker import must_work

DRAWS = np.random.default_rng(3)
TENSORS = {
    "a.weight": DRAWS.standard_normal((7, 5)).astype(np.float32),
    "a.bias": DRAWS.standard_normal(3).astype(np.float16),
    "b.weight": DRAWS.standard_normal((2, 3, 4)).astype(ml_dtypes.bfloat16),
    "none": np.zeros((0, 4), np.float32),
    "scalar": np.asarray(2.5, np.float32),
}
TOLD_WHEN_READ = re.compile("stored as|must be finite|holds whole numbers beyond")
INDEX = "model.safetensors.index.json"


def read_all(opened):
    """Read every tensor, whole and by its last row."""
    for name in sorted(opened.names()):
        shape = opened.shape(name)
        count = shape[0] if shape else 1
        try:
            block = opened.rows(name, 0, count)
        except CheckpointError as error:
            if TOLD_WHEN_READ.search(str(error)):
                continue
            raise
        with must_work():
            assert block.dtype == np.float32
            assert block.shape == (shape or (1,))
            np.testing.assert_array_equal(opened.rows(name, count - bool(count), count), block[count - bool(count) :])


def with_header(header, data):
    """Return a file of a header and data."""
    return struct.pack("<Q", len(header)) + header + data


def test_a_damaged_safetensors_file_is_refused_or_read(fuzz, tmp_path):
    whole = save(TENSORS)
    length = int.from_bytes(whole[:8], "little")
    header, data = whole[8 : 8 + length], whole[8 + length :]
    (tmp_path / "config.json").write_text("{}")

    def attempt(case):
        structural = with_header(case.document(header), data)
        (tmp_path / "model.safetensors").write_bytes(structural if case.which % 2 else case.data(whole))
        read_all(open_checkpoint(tmp_path))

    fuzz("safetensors", attempt, whole=2)


def test_a_damaged_index_is_refused_or_read(fuzz, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    names = sorted(TENSORS)
    shards = {f"model-{number}-of-2.safetensors": names[number - 1 :: 2] for number in (1, 2)}
    for shard, held in shards.items():
        (tmp_path / shard).write_bytes(save({name: TENSORS[name] for name in held}))
    whole = json.dumps(
        {"metadata": {"total_size": 1}, "weight_map": {name: one for one in shards for name in shards[one]}}
    )

    def attempt(case):
        (tmp_path / INDEX).write_bytes(case.document(whole) if case.which % 4 else case.data(whole.encode()))
        read_all(open_checkpoint(tmp_path))

    fuzz("safetensors index", attempt, whole=2)
