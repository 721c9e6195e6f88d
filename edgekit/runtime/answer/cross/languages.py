"""Languages: which language a stream is in, from what each utterance sounds like.

One utterance alone is often too short to tell: Whisper base takes every tenth sentence of two seconds for another
language. So a stream's language is the state of a hidden Markov model (Rabiner 1989): it seldom changes from one
utterance to the next, and an utterance counts as much as its length allows. Knows probabilities; nothing of tokens or
sound.
"""

import numpy as np

from edgekit.runtime.engine import Array

# Chosen by profiles/bench/stream-language.py --tune, with Whisper base in five languages, on the half of the prompts
# that its report is not of. ENOUGH_S: the least whole seconds at which no word of another language, between sentences
# of a stream's own, is followed. CHANGES: the middle of what differs little, 0.05 to 0.2: there 97 to 98 % of changes
# are followed by the second utterance at the latest.
CHANGES = 0.1  # of utterances that are in another language than the one before
ENOUGH_S = 3.0  # of sound that tells a language by itself; less counts for its share


class LanguageBelief:
    """What a stream's utterances so far say of its language: a probability for each."""

    def __init__(self, count: int, changes: float = CHANGES, enough_s: float = ENOUGH_S) -> None:
        self._changes, self._enough_s = changes, enough_s
        self._belief: Array = np.full(count, 1 / max(1, count))

    def weighed(self, logits: Array, heard_s: float) -> Array:
        """Return the probabilities (count,) with one more utterance, which is not taken note of.

        logits: (count,) of the utterance's language, from the model; heard_s: its length in seconds.
        """
        others = max(1, len(self._belief) - 1)
        before = self._belief * (1 - self._changes) + (1 - self._belief) * (self._changes / others)
        likely = np.log(before) + min(1.0, heard_s / self._enough_s) * logits.astype(np.float64)
        probabilities: Array = np.exp(likely - np.logaddexp.reduce(likely))
        return probabilities

    def note(self, belief: Array) -> None:
        """Take note of what ``weighed`` returned."""
        self._belief = belief

    def mark(self) -> Array:
        """Return where it stands; see ``back``."""
        return self._belief

    def back(self, mark: Array) -> None:
        """Forget what was noted since the mark."""
        self._belief = mark
