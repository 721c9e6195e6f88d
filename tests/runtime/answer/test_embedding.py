"""TokenTable: rows of every precision, straight from the file."""

from collections.abc import Callable

import msgspec
import numpy as np
import pytest

from edgekit.bundle import Embedding, TensorRef, open_bundle
from edgekit.errors import BundleFormatError
from edgekit.runtime.answer.embedding import TokenTable

VOCABULARY, WIDTH, BLOCK = 7, 40, 32  # the second block is padding beyond column 40
OFFSET = 24


def _quantized(tiny_bundle: Callable, bits: int) -> tuple[TokenTable, np.ndarray]:
    """Return a table of random codes in a bundle, and its rows worked out one code at a time."""
    rng = np.random.default_rng(bits)
    blocks = -(-WIDTH // BLOCK)
    codes = rng.integers(0, 2**bits, (VOCABULARY, blocks, BLOCK), np.uint8)
    scales = rng.random((VOCABULARY, blocks), np.float32)
    packed = codes if bits == 8 else codes[..., 0::2] | codes[..., 1::2] << 4
    bundle = tiny_bundle()
    content = bytes(OFFSET) + packed.tobytes() + scales.tobytes()
    (bundle.folder / "table.bin").write_bytes(content)
    bundle.change()
    described = Embedding(
        weight=TensorRef(file="table.bin", offset=OFFSET, dtype="uint8", shape=packed.shape),
        scales=TensorRef(file="table.bin", offset=OFFSET + packed.nbytes, dtype="float32", shape=scales.shape),
        width=WIDTH, block_size=BLOCK, bits=bits,
    )  # fmt: skip
    rows = np.zeros((VOCABULARY, WIDTH), np.float32)
    for token in range(VOCABULARY):
        for column in range(WIDTH):
            code = int(codes[token, column // BLOCK, column % BLOCK]) - 2 ** (bits - 1)
            rows[token, column] = np.float32(code) * scales[token, column // BLOCK]
    return TokenTable(open_bundle(bundle.folder), described), rows


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("tokens", [[], [0], [6], [3, 3, 0], list(range(VOCABULARY))])
def test_quantised_rows_are_code_minus_zero_point_times_scale(
    tiny_bundle: Callable, bits: int, tokens: list[int]
) -> None:
    table, rows = _quantized(tiny_bundle, bits)
    found = table.rows(tokens)
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, rows[tokens])
    for token in tokens:
        np.testing.assert_array_equal(table.row(token), rows[token])


def test_float_rows_are_the_files_own(tiny_bundle: Callable) -> None:
    bundle = open_bundle(tiny_bundle().folder)
    table = TokenTable(bundle)
    stored = np.fromfile(bundle.folder / "tokens.bin", np.float32).reshape(table.vocabulary, table.width)
    np.testing.assert_array_equal(table.rows([0, table.vocabulary - 1]), stored[[0, -1]])
    np.testing.assert_array_equal(table.row(1), stored[1])


def test_another_table_of_the_bundle_is_found_by_its_own_description(tiny_bundle: Callable) -> None:
    bundle = tiny_bundle()
    rows = np.arange(12, dtype=np.float32).reshape(4, 3)
    rows.tofile(bundle.folder / "codes.bin")
    bundle.change()
    described = Embedding(
        weight=TensorRef(file="codes.bin", offset=0, dtype="float32", shape=(4, 3)), scales=None, width=3
    )
    table = TokenTable(open_bundle(bundle.folder), described)
    assert (table.vocabulary, table.width) == (4, 3)
    np.testing.assert_array_equal(table.rows([3, 0]), rows[[3, 0]])


@pytest.mark.parametrize("token", [-1, VOCABULARY])
def test_a_token_outside_the_table_is_refused(tiny_bundle: Callable, token: int) -> None:
    table, _ = _quantized(tiny_bundle, 8)
    with pytest.raises(BundleFormatError, match="the table has 7 rows"):
        table.rows([0, token])
    with pytest.raises(BundleFormatError, match="the table has 7 rows"):
        table.row(token)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 65}, "scales of the token table"),
        ({"width": 16}, "scales of the token table"),
        ({"bits": 4}, "token table is uint8"),
        ({"bits": 2}, "2 bits of width 40 need"),
        ({"scales": None}, "no scales"),
        ({"weight": TensorRef(file="table.bin", offset=600, dtype="uint8", shape=(7, 2, 32))}, "the file has"),
        ({"weight": TensorRef(file="table.bin", offset=-1, dtype="uint8", shape=(7, 2, 32))}, "the file has"),
        ({"weight": TensorRef(file="table.bin", offset=24, dtype="bool", shape=(7, 2, 32))}, "token table is bool"),
        (
            {"weight": TensorRef(file="tokens.bin", offset=0, dtype="float32", shape=(7, 40)), "bits": 32, "width": 41},
            "need",
        ),
    ],
)
def test_a_table_that_contradicts_its_description_is_refused(
    tiny_bundle: Callable, change: dict[str, object], message: str
) -> None:
    bundle = tiny_bundle()
    (bundle.folder / "table.bin").write_bytes(bytes(24 + 7 * 64 + 7 * 2 * 4))
    described = Embedding(
        weight=TensorRef(file="table.bin", offset=24, dtype="uint8", shape=(7, 2, 32)),
        scales=TensorRef(file="table.bin", offset=24 + 448, dtype="float32", shape=(7, 2)),
        width=WIDTH, block_size=BLOCK, bits=8,
    )  # fmt: skip
    bundle.change()
    with pytest.raises(BundleFormatError, match=message):
        TokenTable(open_bundle(bundle.folder), msgspec.structs.replace(described, **change))


def test_rows_are_the_callers_own_to_write_to(tiny_bundle: Callable) -> None:
    table = TokenTable(open_bundle(tiny_bundle().folder))
    rows = table.rows([1, 2])
    rows[0] = 0
    assert table.rows([1])[0].any()
