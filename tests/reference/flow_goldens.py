"""The flow's goldens: what the torch twin makes of a few answers, stored so that light tests need no torch.

``python -m tests.reference.flow_goldens`` writes ``tests/goldens/flow.npz`` anew, ``--check`` only compares. Keys:
``digest`` of weights and noise, and for each case its key: mel frames (n, bins) float32.
"""

import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekit.runtime.speak.voice import Voice
from tests.reference.flow_weights import TINY, Arrays, digest, draw, draw_codes, draw_voice

FILE = Path(__file__).parents[1] / "goldens" / "flow.npz"
SEED = 5
TOLERANCE = 1e-5  # torch against torch: another build may add in another order


@dataclass(frozen=True)
class Case:
    """An answer of ``codes`` codes after a prompt of ``prompt``; ``chunks`` sizes, the last repeated, none: in one."""

    prompt: int
    codes: int
    chunks: tuple[int, ...] = ()

    @property
    def key(self) -> str:
        """Name of the case in the golden file."""
        return f"{self.prompt}.{self.codes}.{'-'.join(map(str, self.chunks)) or 'whole'}"

    def voice(self) -> Voice:
        """Return the voice prompt."""
        return draw_voice(TINY, self.prompt, SEED)

    def answer(self) -> NDArray[np.int64]:
        """Return the codes of the answer."""
        return draw_codes(TINY, self.codes, SEED + self.codes)


# 25 codes with 3 looked ahead is the published chunk. Attention forgets from 50 codes on; what it forgets depends on
# whether the prompt is longer than 50 codes.
CASES = (
    Case(3, 1),
    Case(20, 40),
    Case(20, 12, (1,)),
    Case(20, 61, (1, 4, 9)),
    Case(7, 2, (25,)),
    Case(7, 27, (25,)),
    Case(7, 28, (25,)),
    Case(7, 120, (25,)),
    Case(50, 110, (25,)),
    Case(60, 130, (25,)),
)


def weights() -> Arrays:
    """Return the tensors that the goldens were made with."""
    return draw(TINY, SEED)


def identity(noise: NDArray[np.float32]) -> str:
    """Return the SHA-256 of weights and noise."""
    return hashlib.sha256(digest(weights()).encode() + np.ascontiguousarray(noise).data).hexdigest()


def load() -> dict[str, NDArray[np.generic]]:
    """Return the stored goldens."""
    with np.load(FILE) as stored:
        return {key: stored[key] for key in stored.files}


def make() -> dict[str, NDArray[np.generic]]:
    """Return the goldens made anew by the twin."""
    from edgekit.exporter.families.step_audio.flow import draw_noise
    from tests.reference.step_audio_flow_twin import FlowTwin

    noise = draw_noise(TINY.dit.mel_bins)
    twin = FlowTwin({name.removeprefix("flow."): array for name, array in weights().arrays.items()}, noise)
    found: dict[str, NDArray[np.generic]] = {"digest": np.array(identity(noise))}
    for case in CASES:
        voice, codes = case.voice(), case.answer()
        found[case.key] = twin.answer(voice, codes, list(case.chunks)) if case.chunks else twin.whole(voice, codes)
    return found


def differences(fresh: dict[str, NDArray[np.generic]], stored: dict[str, NDArray[np.generic]]) -> list[str]:
    """Return what in the stored goldens is not what was made afresh, one line for each key."""
    found = [f"{key}: only in one of them" for key in sorted(fresh.keys() ^ stored.keys())]
    for key in sorted(fresh.keys() & stored.keys()):
        one, other = fresh[key], stored[key]
        if one.shape != other.shape or (key == "digest" and one != other):
            found.append(f"{key}: {one.shape} is not {other.shape}, or other weights")
        elif key != "digest" and not np.allclose(one, other, rtol=0, atol=TOLERANCE):
            found.append(f"{key}: {float(np.abs(one - other).max()):.1e} apart, at most {TOLERANCE:.0e}")
    return found


def main(arguments: list[str]) -> int:
    """Write or check the goldens; return the exit status."""
    if "--check" in arguments:
        found = differences(make(), load())
        print("; ".join(found) or "as stored")
        return int(bool(found))
    np.savez_compressed(FILE, **make())  # type: ignore[arg-type]
    print(f"{FILE.name}: {FILE.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
