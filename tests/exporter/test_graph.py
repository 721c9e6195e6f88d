"""GraphWriter: what it stores once, and what it must not take for the same."""

import numpy as np

from edgekit.exporter.graph import GraphWriter


def test_constants_that_differ_only_at_their_end_are_two(tmp_path):
    one = np.arange(64)
    other = one.copy()
    other[-1] = 0
    with GraphWriter(tmp_path, "g") as g:
        names = [g.constant(value) for value in (one, other, one.copy(), one[:4], other[:4])]
    assert names[0] == names[2] != names[1]
    assert names[3] == names[4]
