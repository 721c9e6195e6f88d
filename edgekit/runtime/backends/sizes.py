"""Sizes: between what bounds every input of a component lies, so that one plan serves all that a bundle admits."""

from dataclasses import dataclass

from edgekit.bundle import Manifest, TalkerSpeech
from edgekit.errors import BundleFormatError

_USUAL_SHARE = 4  # an utterance is usually about a quarter of the longest one


@dataclass(frozen=True, slots=True)
class InputSizes:
    """Lowest, usual and highest shape of an input; of an input that sets shapes by its value, that value."""

    low: tuple[int, ...]
    usual: tuple[int, ...]
    high: tuple[int, ...]


def free_sizes(manifest: Manifest, context_tokens: int) -> dict[str, tuple[int, int, int]]:
    """Return lowest, usual and highest value of every free size that a graph's inputs may name."""
    grid = manifest.grid
    beside = grid.left_frames + grid.right_frames
    positions = grid.positions(grid.chunk_frames)
    longest = grid.max_positions
    return {
        "mel_frames": (beside + 1, beside + grid.chunk_frames, beside + grid.chunk_frames),
        "frames": (1, positions, positions),
        "sound": (1, max(1, longest // _USUAL_SHARE), longest),
        "tokens": (1, 1, context_tokens),
        "rows": (0, 1, context_tokens),  # none: no head is computed
        "n": (1, 1, context_tokens),
        "context": (context_tokens, context_tokens, context_tokens),
    }


def _cache_positions(manifest: Manifest, name: str, context_tokens: int) -> int:
    """Return the most rows that a component is given: what speaks has caches of its own lengths."""
    if name == "talker" and isinstance(manifest.speech, TalkerSpeech):
        return manifest.speech.context_frames
    held = [spec.shape[2] for spec in manifest.components[name].inputs if spec.name == "past.key.0"]
    return next((size for size in held if isinstance(size, int)), context_tokens)


def input_sizes(manifest: Manifest, name: str, context_tokens: int) -> dict[str, InputSizes]:
    """Return the bounds of every input of a component whose shape is free, and of ``experts_per_token``, by its name.

    Raises BundleFormatError for a free size that no grid tells of.
    """
    component = manifest.components[name]
    sizes = free_sizes(manifest, _cache_positions(manifest, name, context_tokens))
    found = {}
    for spec in component.inputs:
        if unknown := [size for size in spec.shape if isinstance(size, str) and size not in sizes]:
            raise BundleFormatError(
                f"{component.graph}: input '{spec.name}' has the free size '{unknown[0]}', known are "
                f"{', '.join(sizes)}; export it again"
            )
        if any(isinstance(size, str) for size in spec.shape):
            low, usual, high = (
                tuple(size if isinstance(size, int) else sizes[size][which] for size in spec.shape)
                for which in range(3)
            )
            found[spec.name] = InputSizes(low, usual, high)
        elif spec.name == "experts_per_token":
            offered = [level.experts_per_token for level in manifest.levels if level.experts_per_token]
            most = max(offered, default=1)
            found[spec.name] = InputSizes((1,), (most,), (most,))
    return found
