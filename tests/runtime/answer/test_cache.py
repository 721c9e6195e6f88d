"""CrossCache: pieces in, one contiguous array per decoder layer and kind out."""

import numpy as np
import pytest

from edgekit.runtime.answer.cross.cache import CrossCache

LAYERS, HEADS, HEAD_DIM = 3, 2, 4


def _piece(positions: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((2 * LAYERS, HEADS, positions, HEAD_DIM)).astype(np.float32)


@pytest.mark.parametrize("sizes", [(5,), (1, 4), (4, 1), (1, 1, 1, 2), (0, 5)])
def test_pieces_of_any_size_are_joined_in_order(sizes: tuple[int, ...]) -> None:
    cache = CrossCache(LAYERS, HEADS, HEAD_DIM, max_positions=5)
    pieces = [_piece(size, seed) for seed, size in enumerate(sizes)]
    for piece in pieces:
        cache.append(piece)
    whole = np.concatenate(pieces, axis=2)
    packed = cache.packed()
    assert cache.positions == 5
    assert len(packed) == 2 * LAYERS
    for row, array in enumerate(packed):
        assert array.flags.c_contiguous
        np.testing.assert_array_equal(array, whole[row : row + 1])


def test_packing_twice_returns_the_same_arrays_so_that_they_stay_bound() -> None:
    cache = CrossCache(LAYERS, HEADS, HEAD_DIM, max_positions=5)
    cache.append(_piece(2, 0))
    first = cache.packed()
    assert all(one is two for one, two in zip(first, cache.packed(), strict=True))


def test_reset_forgets_the_utterance() -> None:
    cache = CrossCache(LAYERS, HEADS, HEAD_DIM, max_positions=5)
    cache.append(_piece(5, 0))
    cache.packed()
    cache.reset()
    cache.append(_piece(1, 7))
    np.testing.assert_array_equal(cache.packed()[5], _piece(1, 7)[5:])


def test_an_empty_cache_packs_to_arrays_without_positions() -> None:
    assert {array.shape for array in CrossCache(LAYERS, HEADS, HEAD_DIM, 5).packed()} == {(1, HEADS, 0, HEAD_DIM)}


def test_more_positions_than_the_encoder_has_are_our_own_mistake() -> None:
    cache = CrossCache(LAYERS, HEADS, HEAD_DIM, max_positions=5)
    cache.append(_piece(5, 0))
    with pytest.raises(AssertionError):
        cache.append(_piece(1, 1))


def test_the_room_made_is_filled_without_another_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = CrossCache(LAYERS, HEADS, HEAD_DIM, max_positions=9)
    pieces = [_piece(size, seed) for seed, size in enumerate((3, 2, 2))]
    cache.append(pieces[0])
    cache.make_room(4)
    monkeypatch.setattr(cache, "_lay", lambda *_sizes: pytest.fail("copied again"))
    for piece in pieces[1:]:
        cache.append(piece)
    whole = np.concatenate(pieces, axis=2)
    for row, array in enumerate(cache.packed()):
        np.testing.assert_array_equal(array, whole[row : row + 1])


@pytest.mark.parametrize("room", [0, 1, 2, 3, 100])
def test_a_wrong_guess_of_the_room_changes_nothing(room: int) -> None:
    cache = CrossCache(LAYERS, HEADS, HEAD_DIM, max_positions=5)
    cache.append(_piece(2, 0))
    cache.make_room(room)
    cache.append(_piece(2, 1))
    whole = np.concatenate([_piece(2, 0), _piece(2, 1)], axis=2)
    for row, array in enumerate(cache.packed()):
        assert array.flags.c_contiguous
        np.testing.assert_array_equal(array, whole[row : row + 1])
