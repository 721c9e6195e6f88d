"""Text to tokens and back: the bundle's own tokenizer, and a detokeniser that speaks as tokens come.

Knows tokenizer.json; knows nothing of prompts or of what a model means by its tokens.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgekit.bundle import Bundle
from edgekit.bundle.manifest import TOKENIZER
from edgekit.bundle.tokenizer_file import SAMPLE, check_tokenizer
from edgekit.errors import BundleFormatError, MissingPackageError

UNFINISHED = "\ufffd"  # what the bytes of a part of a character become
_MAX_HELD_TOKENS = 4  # a character has at most 4 bytes, a token at least one


class Tokenizer:
    """The tokenizer of a bundle."""

    def __init__(self, path: Path, content: bytes | None = None) -> None:
        """Load a tokenizer.json, or what was read from there.

        Raises BundleFormatError if it is not one, MissingPackageError without tokenizers.
        """
        try:
            import tokenizers
        except ImportError as error:
            raise MissingPackageError(
                "tokenizers is not installed, text needs it; pip install 'edgekit-audio[cpu]'"
            ) from error
        self._path = path
        with self._guarded():
            read = path.read_bytes() if content is None else content
            check_tokenizer(read)
            self._tokenizer: Any = tokenizers.Tokenizer.from_buffer(read)
            # Of batches, and one text is none: some checkpoints were saved with a length that every text is brought to.
            self._tokenizer.no_padding()
            self._tokenizer.no_truncation()
            self._tokenizer.encode(SAMPLE, add_special_tokens=False)

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Raise BundleFormatError for what the library raises in a block: bare Exception, or a panic, which is none."""
        try:
            yield
        except BaseException as error:
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            raise BundleFormatError(
                f"{self._path}: not a tokenizer ({error}); copy or export the bundle again"
            ) from error

    def encode(self, text: str) -> list[int]:
        """Return the tokens of ``text``; special tokens written in it are recognised and none is added."""
        with self._guarded():
            return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def mark_in(self, text: str) -> str | None:
        """Return the first special token that is written in ``text``, None if there is none."""
        special = {number: token.content for number, token in self._tokenizer.get_added_tokens_decoder().items()}
        return next((special[token] for token in self.encode(text) if token in special), None)

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of ``tokens`` without special ones; bytes that are no UTF-8 become U+FFFD."""
        with self._guarded():
            return str(self._tokenizer.decode(list(tokens), skip_special_tokens=True))


class Detokenizer:
    """Text of one utterance, token by token; what it returns, joined, is the text of all tokens."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._tokens: list[int] = []  # since the last text, after the tokens that gave it
        self._context = 0  # how many of them were already returned: decoders treat the first token of all differently

    def push(self, token: int) -> str:
        """Return the text that became certain with ``token``: often its own, '' in the middle of a character."""
        self._tokens.append(token)
        return self._take(hold=len(self._tokens) - self._context < _MAX_HELD_TOKENS)

    def finish(self) -> str:
        """Return what was held back; an unfinished character becomes U+FFFD."""
        return self._take(hold=False)

    def _take(self, hold: bool) -> str:
        shown = self._tokenizer.decode(self._tokens[: self._context])
        text = self._tokenizer.decode(self._tokens)
        if len(text) <= len(shown) or (hold and text.endswith(UNFINISHED)):
            return ""
        del self._tokens[: self._context]
        self._context = len(self._tokens)
        return text[len(shown) :]


def load_tokenizer(bundle: Bundle) -> Tokenizer:
    """Return the bundle's Tokenizer; see there."""
    return Tokenizer(bundle.file(TOKENIZER), bundle.read(TOKENIZER))
