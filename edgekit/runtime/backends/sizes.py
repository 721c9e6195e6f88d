"""Sizes: between what bounds every input of a component lies, so that one plan serves all that a bundle admits.

Also what a device needs for the components of one stream.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from edgekit.bundle import Manifest
from edgekit.errors import BundleFormatError
from edgekit.runtime.engine import Sizes
from edgekit.runtime.memory import MIB, Need, state_bytes, weight_bytes
from edgekit.runtime.speak import kind_of

_USUAL_SHARE = 4  # an utterance is usually about a quarter of the longest one


@dataclass(frozen=True, slots=True)
class InputSizes:
    """Lowest, usual and highest shape of an input; of an input that sets shapes by its value, that value."""

    low: tuple[int, ...]
    usual: tuple[int, ...]
    high: tuple[int, ...]


def free_sizes(manifest: Manifest, name: str, context_tokens: int) -> Sizes:
    """Return the bounds of every free size that the inputs of component ``name`` may have."""
    speech = manifest.speech
    spoken = kind_of(speech).free_sizes(speech, context_tokens) if speech else {}
    return spoken[name] if name in spoken else _text_sizes(manifest, context_tokens)


def state_sizes(manifest: Manifest, name: str, context_tokens: int) -> Mapping[str, int]:
    """Return the free sizes of what component ``name`` is handed from call to call, in one stream.

    What depends on a voice is left out.
    """
    speech = manifest.speech
    spoken = kind_of(speech).state_sizes(speech).get(name, {}) if speech else {}
    return {"context": context_tokens, "sound": manifest.grid.max_positions, **spoken}


def device_need(manifest: Manifest, names: Iterable[str], context_tokens: int) -> Need:
    """Return what components take of a device's memory for certain: weights as in the file, and one stream's state."""
    names = tuple(names)
    state = sum(state_bytes(manifest.components[name], state_sizes(manifest, name, context_tokens)) for name in names)
    return Need(sum(weight_bytes(manifest, names).values()) / MIB, state / MIB)


def input_sizes(manifest: Manifest, name: str, context_tokens: int) -> dict[str, InputSizes]:
    """Return the bounds of every input whose shape is free, and of ``experts_per_token``, by the input's name.

    Raises BundleFormatError for a free size that no part of the manifest tells of.
    """
    sizes, component = free_sizes(manifest, name, context_tokens), manifest.components[name]
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


def _text_sizes(manifest: Manifest, context_tokens: int) -> Sizes:
    """Return those of what hears and writes."""
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
        "context": (context_tokens, context_tokens, context_tokens),
    }
