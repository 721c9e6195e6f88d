"""Attention by chunks, as references have it: which positions see which, and the mask that says so."""

import torch
from torch import Tensor

HIDDEN = -1e10  # added to the score of a key that may not be attended


def visible(positions: int, chunk_positions: int) -> Tensor:
    """Return (positions, positions) of whether a row may see a column: its own and earlier chunks, 0 = everything."""
    chunk = torch.arange(positions) // (chunk_positions or max(positions, 1))
    return chunk[:, None] >= chunk[None, :]
