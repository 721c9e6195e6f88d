"""Token tables beside the backbone's, which a host looks up as well: those of codecs.

A family names them in ``tables``: the table, and the checkpoint's tensors that it holds one after another. The manifest
has each under the same name in ``speech``.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekit.bundle import Component, Embedding
from edgekit.exporter.dialects import Dialect
from edgekit.exporter.dialects.codes import BLOCKS
from edgekit.exporter.families.base import Opened
from edgekit.exporter.pack import write_embedding
from edgekit.exporter.sources.checkpoint import Tensors
from edgekit.exporter.weights import Weights
from edgekit.exporter.written import WrittenWeight, written_weights

COPY = "embedding:"  # before the name of a table that the host has beside the head, which it cannot look rows up in
LOOKUP = "Lookup"  # stands in the census for an op: the host's, of whatever dialect the graphs are


class JoinedTensors:
    """A source of tensors in which every table of the parts also is one tensor, under the name it is stored by."""

    def __init__(self, source: Tensors, opened: Opened) -> None:
        self._source = source
        held = source.names()
        self._parts = {stored_table(opened, name): parts for name, parts in opened.tables.items() if parts[0] in held}

    def names(self) -> frozenset[str]:
        """Return the name of every tensor."""
        return self._source.names() | self._parts.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of one tensor."""
        parts = self._parts.get(name)
        if parts is None:
            return self._source.shape(name)
        rows, width = self._source.shape(parts[0])
        return (len(parts) * rows, width)

    def rows(self, name: str, start: int, stop: int) -> NDArray[np.float32]:
        """Return rows [start, stop) of one tensor's first axis as finite float32."""
        parts = self._parts.get(name)
        if parts is None:
            return self._source.rows(name, start, stop)
        size = self._source.shape(parts[0])[0]
        found = [np.empty((0, *self._source.shape(parts[0])[1:]), np.float32)]
        for index in range(start // size, -(-stop // size)):
            first = index * size
            found.append(self._source.rows(parts[index], max(start - first, 0), min(stop - first, size)))
        return np.concatenate(found)


def stored_table(opened: Opened, table: str) -> str:
    """Return the name that a table's tensor has in the census."""
    return opened.stored(opened.tables[table][0])


def write_tables(folder: Path, opened: Opened, w: Weights) -> dict[str, Embedding]:
    """Write each table of the parts into a file of its own and return where they lie."""
    found = {}
    for table in opened.tables:
        name = stored_table(opened, table)
        group = opened.group(opened.tables[table][0])
        found[table] = write_embedding(folder, w, name, group, f"{table}.data")
    return found


def written_embedding(
    folder: Path, name: str, embedding: Embedding, place: str = "embedding"
) -> dict[str, WrittenWeight]:
    """Return a token table as weights that the host looks up; ``place`` stands for their component."""
    refs = {name: embedding.weight} | ({name + ".scale": embedding.scales} if embedding.scales else {})
    attributes = {"bits": embedding.bits, "block_size": embedding.block_size, "K": embedding.width}
    return {
        key: WrittenWeight(
            place, key, np.dtype(ref.dtype), ref.shape, LOOKUP, attributes, folder / ref.file, ref.offset, None, BLOCKS
        )
        for key, ref in refs.items()
    }


def written_bundle(
    folder: Path,
    opened: Opened,
    dialect: Dialect,
    components: Mapping[str, Component],
    tables: Mapping[str, Embedding],
) -> dict[str, WrittenWeight]:
    """Return every weight of a bundle: its graphs', then those of tables that have a file of their own.

    tables: every one by the name it has in the manifest, ``embedding`` that of the backbone.
    """
    found = written_weights(folder, components, dialect.packings)
    for table, one in tables.items():
        name = stored_table(opened, table) if table in opened.tables else opened.embedding
        looked_up = written_embedding(folder, name, one, table)
        for key, weight in looked_up.items():
            held = found.setdefault(key, weight)
            if (held.file, held.offset) != (weight.file, weight.offset):
                found[COPY + key] = weight
    return found
