"""What is left to draw from, against transformers' own logits processors."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from transformers.generation import logits_process as published  # noqa: E402

from edgekit.bundle import Sampling  # noqa: E402
from edgekit.runtime.answer.sampler import remaining, unrepeated  # noqa: E402

pytestmark = pytest.mark.reference

ROUNDING = 1e-5  # of a share, relative: float32 softmax there, float64 here
SUPPRESSED = [1, 5, 900]


def _published(logits, sampling, drawn):
    """Return the scores (vocabulary,) in the order of transformers' ``_get_logits_processor``."""
    chain = []
    if sampling.repetition_penalty != 1:
        chain.append(published.RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    if sampling.no_repeat_ngram_size:
        chain.append(published.NoRepeatNGramLogitsProcessor(sampling.no_repeat_ngram_size))
    chain.append(published.SuppressTokensLogitsProcessor(SUPPRESSED))
    chain.append(published.TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k is not None:
        chain.append(published.TopKLogitsWarper(sampling.top_k))
    if sampling.top_p is not None:
        chain.append(published.TopPLogitsWarper(sampling.top_p))
    scores = torch.from_numpy(logits.copy())[None]
    for step in chain:
        scores = step(torch.tensor([drawn], dtype=torch.long), scores)
    return scores[0]


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=0.9, top_k=50, repetition_penalty=1.05),  # Qwen3-Omni, talker
        Sampling(temperature=1.0, top_k=50, top_p=0.8),  # Qwen3-Omni, code predictor
        Sampling(temperature=0.7, top_p=0.9, repetition_penalty=1.05),  # Step-Audio 2
        Sampling(temperature=0.01, top_p=0.5),
        Sampling(temperature=0.8, repetition_penalty=1.2, no_repeat_ngram_size=2),
        Sampling(temperature=1.0, no_repeat_ngram_size=1),
        Sampling(temperature=30.0, top_k=5000, top_p=0.999, repetition_penalty=0.7),
    ],
)
@pytest.mark.parametrize("drawn", [[], [7], list(range(0, 1000, 3)) * 2, [3, 4, 3, 5, 3]])
def test_the_same_tokens_are_left_with_the_same_shares(sampling, drawn):
    for seed in range(5):
        logits = (4 * np.random.default_rng(seed).standard_normal(3072)).astype(np.float32)
        shares = torch.softmax(_published(logits, sampling, drawn).double(), 0).numpy()
        logits[SUPPRESSED] = -np.inf
        tokens, weights = remaining(unrepeated(logits, sampling, drawn), sampling)
        assert sorted(tokens[weights > 0]) == np.flatnonzero(shares).tolist()
        np.testing.assert_allclose(weights / weights.sum(), shares[tokens], rtol=ROUNDING, atol=0)
