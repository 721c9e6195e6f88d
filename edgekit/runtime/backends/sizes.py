"""Sizes: between what bounds every input of a component lies, so that one plan serves all that a bundle admits."""

from dataclasses import dataclass

from edgekit.bundle import FlowSpeech, Manifest, TalkerSpeech
from edgekit.errors import BundleFormatError
from edgekit.runtime.speak.matching import CONTEXT_CODES, count_slots
from edgekit.runtime.speak.talker import LONGEST_FRAMES
from edgekit.runtime.speak.vocoder import HELD_FRAMES
from edgekit.runtime.speak.voice import FRAMES_PER_CODE, LEAST_CODES, MOST_CODES

_USUAL_SHARE = 4  # an utterance is usually about a quarter of the longest one, and so is a voice's prompt

Sizes = dict[str, tuple[int, int, int]]
"""Lowest, usual and highest value by the name of a free size."""


@dataclass(frozen=True, slots=True)
class InputSizes:
    """Lowest, usual and highest shape of an input; of an input that sets shapes by its value, that value."""

    low: tuple[int, ...]
    usual: tuple[int, ...]
    high: tuple[int, ...]


def free_sizes(manifest: Manifest, name: str, context_tokens: int) -> Sizes:
    """Return the bounds of every free size that the inputs of component ``name`` may have."""
    speech = manifest.speech
    if isinstance(speech, TalkerSpeech):
        spoken = _talker_sizes(speech, context_tokens)
    else:
        spoken = _flow_sizes(speech) if speech else {}
    return spoken[name] if name in spoken else _text_sizes(manifest, context_tokens)


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


def _talker_sizes(speech: TalkerSpeech, context_tokens: int) -> dict[str, Sizes]:
    """Return those of each component of a Talker; a frame is a token to it."""
    most = speech.context_frames
    return {
        "talker_adapter": {"n": (1, 1, context_tokens)},
        "talker": {"tokens": (1, 1, most), "rows": (0, 1, most), "context": (most, most, most)},
        "code_predictor": {"tokens": (1, 1, speech.codebooks)},
        "decoder": {"frames": (1, LONGEST_FRAMES, LONGEST_FRAMES)},
    }


def _flow_sizes(speech: FlowSpeech) -> dict[str, Sizes]:
    """Return those of each component of a FlowSpeaker.

    A call of the flow is for a voice's prompt, or for a chunk and what it looks ahead to; the vocoder's is for frames
    that it held back and for those of a chunk, or for a chunk and those that were too few to begin with.
    """
    ahead, chunk = speech.lookahead_codes, speech.chunk_codes
    most_frames = FRAMES_PER_CODE * (chunk + ahead)
    prompts = [FRAMES_PER_CODE * codes for codes in (LEAST_CODES, MOST_CODES // _USUAL_SHARE, MOST_CODES)]
    low, usual, high = (count_slots(frames, most_frames) for frames in prompts)
    codes_kept, frames_kept = CONTEXT_CODES, FRAMES_PER_CODE * CONTEXT_CODES
    per_frame = speech.samples_per_code // FRAMES_PER_CODE
    new = (1, FRAMES_PER_CODE * chunk, most_frames + HELD_FRAMES - 1)
    held = (0, HELD_FRAMES, HELD_FRAMES)
    return {
        "flow_encoder": {
            "codes": (ahead + 1, chunk + ahead, max(MOST_CODES, chunk + ahead) + ahead),
            "codes_kept": (codes_kept, codes_kept, codes_kept),
            "frames_kept": (frames_kept, frames_kept, frames_kept),
        },
        "flow_step": {
            "frames": (FRAMES_PER_CODE, FRAMES_PER_CODE * chunk, max(prompts[2], most_frames)),
            "capacity": (low, usual, high),
        },
        "vocoder": {
            "frames": (1, new[1] + held[1], new[2] + held[2]),
            "kept": (0, held[1] * per_frame, held[2] * per_frame),
            "new": (per_frame, new[1] * per_frame, new[2] * per_frame),
        },
    }
