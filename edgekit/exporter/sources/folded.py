"""Weight norm, folded away: tensors stored as a direction and a length, handed out as the one weight they stand for.

Knows the two forms in which torch stores them; knows no architecture.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import CheckpointError
from edgekit.exporter.sources.checkpoint import Tensors

# Endings of (length, direction) of one tensor called X.weight: torch.nn.utils.weight_norm, and its parametrization.
FORMS = ((".weight_g", ".weight_v"), (".parametrizations.weight.original0", ".parametrizations.weight.original1"))


@dataclass(frozen=True, slots=True)
class _Pair:
    length: str
    direction: str


class FoldedTensors:
    """Tensors of ``source`` under other names, each pair of a weight norm as one tensor.

    ``drop`` is taken from the front of stored names where it stands, ``prefix`` is put there. Raises CheckpointError if
    half of a pair is missing, misshapen, or two stored tensors come to one name.
    """

    def __init__(self, source: Tensors, drop: str, prefix: str) -> None:
        self._source = source
        self._stored: dict[str, str | _Pair] = {}
        names = source.names()
        for name in sorted(names):
            pair = _pair(name)
            stored: str | _Pair = pair or name
            if pair and name == pair.length:
                continue  # its direction tells of both
            if pair:
                self._check(pair)
            whole = f"{_base(name)}.weight" if pair else name
            told = prefix + whole.removeprefix(drop)
            if told in self._stored:
                raise CheckpointError(f"{name}: {told} is stored twice; fetch the checkpoint again")
            self._stored[told] = stored
        for name in sorted(names):
            pair = _pair(name)
            if pair and pair.direction not in names:
                raise CheckpointError(f"{name}: {pair.direction} is missing, a weight is both; fetch the file again")

    def names(self) -> frozenset[str]:
        """Return the name of every tensor."""
        return frozenset(self._stored)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of one tensor."""
        stored = self._find(name)
        return self._source.shape(stored.direction if isinstance(stored, _Pair) else stored)

    def rows(self, name: str, start: int, stop: int) -> NDArray[np.float32]:
        """Return rows [start, stop) of one tensor's first axis as finite float32; a scalar counts as one row.

        A row of a weight is its direction, divided by its own norm, times its length: Salimans and Kingma 2016.
        """
        stored = self._find(name)
        if not isinstance(stored, _Pair):
            return self._source.rows(stored, start, stop)
        direction = self._source.rows(stored.direction, start, stop)
        length = self._source.rows(stored.length, start, stop).astype(np.float64)
        norm = np.sqrt(np.square(direction, dtype=np.float64).sum(axis=tuple(range(1, direction.ndim)), keepdims=True))
        if not norm.all():
            raise CheckpointError(f"{stored.direction}: a row is zero, it has no direction; fetch the checkpoint again")
        weight: NDArray[np.float64] = direction * (length / norm)
        return weight.astype(np.float32)

    def _find(self, name: str) -> str | _Pair:
        if name not in self._stored:
            raise CheckpointError(f"{name}: no such tensor in the checkpoint; is it of another family?")
        return self._stored[name]

    def _check(self, pair: _Pair) -> None:
        if pair.length not in self._source.names():
            raise CheckpointError(f"{pair.direction}: {pair.length} is missing, a weight is both; fetch the file again")
        length, shape = self._source.shape(pair.length), self._source.shape(pair.direction)
        if len(shape) < 2 or length != (shape[0], *(1 for _ in shape[1:])):
            raise CheckpointError(
                f"{pair.length}: shape {list(length)} for directions {list(shape)}, one length a row is needed; "
                "use the published checkpoint"
            )


def _pair(name: str) -> _Pair | None:
    for length, direction in FORMS:
        if name.endswith((length, direction)):
            return _Pair(_base(name) + length, _base(name) + direction)
    return None


def _base(name: str) -> str:
    for ending in (ending for form in FORMS for ending in form):
        if name.endswith(ending):
            return name.removesuffix(ending)
    return name
