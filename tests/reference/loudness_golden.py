"""Write ``tests/runtime/hear/goldens/loudness.npz``: ``python -m tests.reference.loudness_golden``."""

import numpy as np
import transformers
from numpy.typing import NDArray

from tests.runtime.hear.loudness import GOLDEN, ORDERS, RATE, STEP, Order, in_order


def features(order: Order) -> NDArray[np.float32]:
    """Return what transformers' extractor makes of the recordings, as Qwen3-Omni's processor calls it."""
    sound = in_order(order)
    extractor = transformers.WhisperFeatureExtractor(feature_size=128)
    made = extractor(sound, sampling_rate=RATE, padding=True, truncation=False, return_tensors="np")
    result: NDArray[np.float32] = made.input_features[0]
    return result


if __name__ == "__main__":
    np.savez_compressed(GOLDEN, **{order: features(order)[:, ::STEP] for order in ORDERS})
