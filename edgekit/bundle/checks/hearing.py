"""Hearing: front end, grid, encoder and adapter fit each other, and the backbone takes what they give."""

from edgekit.bundle.checks.attention import ATTENTION
from edgekit.bundle.checks.signatures import held_faults, shape_of, signature_faults, widths
from edgekit.bundle.faults import Faults, fault
from edgekit.bundle.manifest import FrontEnd, Grid, Manifest

COMPONENTS: tuple[str, ...] = ("encoder", "adapter", "backbone")
_SHORTEST_S = 0.1  # of the longest piece: in less there is no word
_LARGEST_CHUNK = 1 << 24  # numbers of a chunk's mel


def front_end_fault(front_end: FrontEnd) -> str | None:
    """Return how the sizes of a front end contradict each other, None if they do not."""
    half, hop, pad = front_end.n_fft // 2, front_end.hop_samples, front_end.right_pad_samples
    if front_end.n_fft % 2 or not half / 2 < hop < half:
        return f"n_fft {front_end.n_fft} and hop {hop}, a quarter of an even n_fft < hop < half of it is needed"
    if pad and pad < hop - 1:
        return f"right_pad_samples {pad}, 0 or at least hop - 1 is needed"
    return None


def hearing_faults(manifest: Manifest) -> Faults:
    """Yield what is wrong between sound and the backbone."""
    if what := front_end_fault(manifest.front_end):
        yield fault("front_end", what)
    yield from _grid_faults(manifest.grid, manifest.front_end)
    if absent := [name for name in COMPONENTS if name not in manifest.components]:
        yield fault("components", f"has no '{absent[0]}', {', '.join(COMPONENTS)} are needed")
        return
    yield from _encoder_faults(manifest)
    yield from _adapter_faults(manifest)


def _grid_faults(grid: Grid, front_end: FrontEnd) -> Faults:
    rules = (
        ("chunk_frames", grid.chunk_frames, grid.chunk_frames <= grid.max_frames, f"max_frames {grid.max_frames}"),
        ("pad_to_frames", grid.pad_to_frames, grid.pad_to_frames <= grid.max_frames, f"max_frames {grid.max_frames}"),
        ("tail_frames", grid.tail_frames, grid.tail_frames <= grid.max_frames, f"max_frames {grid.max_frames}"),
        (
            "frames_per_position", grid.frames_per_position, grid.frames_per_position <= grid.chunk_frames,
            f"chunk_frames {grid.chunk_frames}",
        ),
    )  # fmt: skip
    for name, value, fits, most in rules:
        if not fits:
            yield fault(f"grid.{name}", f"is {value}, at most {most} may be")
    if grid.segment_frames is not None and grid.segment_frames < grid.frames_per_position:
        yield fault(
            "grid.segment_frames",
            f"is {grid.segment_frames}, at least frames_per_position {grid.frames_per_position} may be",
        )
    seconds = grid.max_frames * front_end.hop_samples / front_end.sample_rate_hz
    if seconds < _SHORTEST_S:
        yield fault(
            "grid.max_frames", f"is {grid.max_frames}, {seconds:.3g} s of sound; {_SHORTEST_S} s at least are heard"
        )
    columns = grid.left_frames + grid.chunk_frames + grid.right_frames
    if columns * front_end.mel_bins > _LARGEST_CHUNK:
        yield fault(
            "grid.chunk_frames",
            f"is {grid.chunk_frames}, with {columns - grid.chunk_frames} beside and {front_end.mel_bins} mel bins at "
            f"most {_LARGEST_CHUNK} numbers may be",
        )
    yield from _position_faults(grid)
    yield from _context_faults(grid)


def _position_faults(grid: Grid) -> Faults:
    """Yield where an utterance, or a chunk of what begins anew, has more positions than the encoder's cache holds."""
    a_chunk = grid.positions(grid.chunk_frames)
    if grid.segment_frames is not None:
        if a_chunk > grid.max_positions or grid.max_positions % a_chunk:
            yield fault("grid.max_positions", f"is {grid.max_positions}, a multiple of a chunk's {a_chunk} is needed")
        return
    chunks, rest = divmod(grid.max_frames, grid.chunk_frames)
    positions = chunks * a_chunk + grid.positions(rest)
    if positions > grid.max_positions:
        yield fault("grid.max_positions", f"is {grid.max_positions}, max_frames {grid.max_frames} make {positions}")


def _context_faults(grid: Grid) -> Faults:
    """Yield where a chunk and the frames beside it are none that convolutions make whole positions of.

    Centred convolutions see as far ahead of a position's first frame as behind it, and the last position of a chunk
    begins ``frames_per_position`` before the chunk's end. Segments see nothing of each other. Of the convolutions known
    here none sees further back than one position; twice that is allowed.
    """
    left, right, step = grid.left_frames, grid.right_frames, grid.frames_per_position
    whole, name = (
        (step, "frames_per_position") if grid.segment_frames is None else (grid.segment_frames, "segment_frames")
    )
    if grid.chunk_frames % whole and grid.chunk_frames < grid.max_frames:
        yield fault(
            "grid.chunk_frames", f"is {grid.chunk_frames}, max_frames or a multiple of {name} {whole} is needed"
        )
    if grid.segment_frames is not None and (left or right):
        yield fault("grid.left_frames", f"is {left}, right_frames {right}, with segment_frames 0 and 0 are needed")
    if left > 2 * step:
        yield fault("grid.left_frames", f"is {left}, at most twice frames_per_position {step} may be")
    ahead = max(0, left - step + 1)
    if right != ahead:
        yield fault("grid.right_frames", f"is {right}, left_frames {left} and frames_per_position {step} need {ahead}")


def _encoder_faults(manifest: Manifest) -> Faults:
    encoder, grid = manifest.components["encoder"], manifest.grid
    path = "components.encoder"
    fed = ("mel", "start", "valid") if grid.masks_last_position else ("mel", "start")
    yield from signature_faults(path, encoder, fed, ("frames",))
    yield from held_faults(path, encoder, ())
    mel = shape_of(encoder.inputs, "mel")
    if len(mel) < 2 or (isinstance(mel[-2], int) and mel[-2] != manifest.front_end.mel_bins):
        yield fault(path, f"input 'mel' is {mel}, front_end.mel_bins is {manifest.front_end.mel_bins}")
    elif isinstance(mel[-1], int):
        yield from _fixed_faults(path, mel[-1], grid)
    for spec in encoder.inputs:
        most = max((size for size in spec.shape if isinstance(size, int)), default=0)
        if spec.state == "in-place" and most < grid.max_positions:
            yield fault(path, f"state '{spec.name}' is {spec.shape}, grid.max_positions is {grid.max_positions}")


def _fixed_faults(path: str, columns: int, grid: Grid) -> Faults:
    """Yield where some call of an encoder that takes so many frames, no more and no fewer, has others."""
    needed = grid.left_frames + grid.chunk_frames + grid.right_frames
    if columns != needed:
        yield fault(path, f"input 'mel' has {columns} frames, the grid's left, chunk and right frames are {needed}")
    elif grid.pad_to_frames % grid.chunk_frames or grid.max_frames % grid.chunk_frames:
        yield fault(
            path,
            f"input 'mel' has {columns} frames, pad_to_frames {grid.pad_to_frames} and max_frames {grid.max_frames} "
            f"must be multiples of chunk_frames {grid.chunk_frames}",
        )


def _adapter_faults(manifest: Manifest) -> Faults:
    adapter, path = manifest.components["adapter"], "components.adapter"
    yield from signature_faults(path, adapter, ("frames",), ())
    yield from held_faults(path, adapter, ())
    given = [spec for spec in adapter.outputs if spec.state == "none"]
    if len(given) != 1:
        yield fault(f"{path}.outputs", f"are {len(given)} beside state, one is heard")
        return
    sides = shape_of(manifest.components["encoder"].outputs, "frames"), shape_of(adapter.inputs, "frames")
    if differing := widths(*sides):
        yield fault(path, f"input 'frames' is {differing[1]} wide, the encoder's output {differing[0]}")
    yield from ATTENTION[manifest.protocol.attention](manifest, given[0])
