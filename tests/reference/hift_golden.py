"""Make the vocoder's golden anew from the torch twin: ``python -m tests.reference.hift_golden``.

Keys of ``tests/goldens/hift.npz``: ``digest`` of the weights; ``N.samples`` and ``N.source`` of N mel frames in one
call; ``streamed``, what hift_case.PIECES give piece by piece.
"""

import numpy as np
from numpy.typing import NDArray

from tests.reference import hift_case as case
from tests.reference.hift_twin import FRAME, HiFTTwin, StreamTwin


def make() -> dict[str, NDArray[np.generic]]:
    """Return the golden."""
    stored = case.stored()
    twin = HiFTTwin(stored)
    golden: dict[str, NDArray[np.generic]] = {"digest": np.array(case.digest(stored))}
    for frames in (case.SHORTEST, case.WHOLE):
        samples, source = twin.speak(case.mel(frames), case.noise(frames * FRAME))
        golden[f"{frames}.samples"], golden[f"{frames}.source"] = samples, source
    golden["streamed"] = np.concatenate(streamed(twin, case.PIECES_PUBLISHED, case.NOISE_SEED))
    return golden


def streamed(twin: HiFTTwin, pieces: tuple[int, ...], seed: int) -> list[NDArray[np.float32]]:
    """Return the samples of each piece, the last one ending the reply; noise is drawn as Vocoder draws it."""
    draws = np.random.default_rng(seed)

    def noise(samples: int, kept: int) -> NDArray[np.float32]:
        drawn = draws.standard_normal((samples - kept, 9), np.float32)
        return np.concatenate([np.zeros((kept, 9), np.float32), drawn])

    stream = StreamTwin(twin, noise)
    mel = np.split(case.mel(sum(pieces)), np.cumsum(pieces)[:-1])
    return [stream.push(part, last=index == len(pieces) - 1) for index, part in enumerate(mel)]


if __name__ == "__main__":
    np.savez_compressed(case.GOLDEN, **make())  # type: ignore[arg-type]
    print(f"{case.GOLDEN.name}: {case.GOLDEN.stat().st_size} bytes")
