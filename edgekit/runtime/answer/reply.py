"""Reply: an answer as it comes into being: its tokens to thoughts and text, and to sound where it is spoken.

Knows tokens and texts; knows nothing of samples heard, levels or of when an answer is due.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing

from edgekit.bundle import ComputeLevel, TokenProtocol
from edgekit.runtime.answer.answerer import Answerer
from edgekit.runtime.answer.loops import loop_start
from edgekit.runtime.answer.speaker import Speaker
from edgekit.runtime.answer.text import Detokenizer, Tokenizer
from edgekit.runtime.engine import Array
from edgekit.runtime.events import Audio, AudioCut, Text, Thought
from edgekit.spans import SPEAK
from edgekit.timing import Trace


class Reply:
    """One stream's answers, one after another."""

    Event = Thought | Text | Audio | AudioCut

    def __init__(
        self,
        decoder: Answerer,
        tokenizer: Tokenizer,
        protocol: TokenProtocol,
        mouth: Speaker | None,
        trace: Trace,
        *,
        hush: Callable[[], bool] | None = None,
    ) -> None:
        self._decoder, self._tokenizer, self._protocol = decoder, tokenizer, protocol
        self._mouth, self._trace, self._hush = mouth, trace, hush

    def events(
        self, level: ComputeLevel, heard_s: float | None, bounds: tuple[float, float], shown: str
    ) -> Generator["Reply.Event", None, None]:
        """Decode; yield a Thought or Text for every token that changes what is shown, then the whole text as final.

        Audio comes between and after them, as soon as there is some. A loop's repeats are left out of the final text.
        bounds: start and end of what was heard, in seconds; shown: the draft that the caller knows.
        """
        yield from self._think(level, bounds)
        detokenizer = Detokenizer(self._tokenizer)
        text, tokens = "", list[int]()
        with closing(self._decoder.answer(level, heard_s)) as answer:
            for token in answer:
                if self._mouth is None or not self._mouth.takes(token):
                    tokens.append(token)
                    if piece := detokenizer.push(token):
                        text += piece
                        if not shown.startswith(text.strip()):
                            shown = text.lstrip()
                            yield Text(shown, False, *bounds, stable=len(shown))
                if self._mouth is not None and not self._hushed():
                    yield from self._sound(self._mouth.say(token))
        text += detokenizer.finish()
        kept = self.without_loop(tokens)
        if len(kept) < len(tokens):
            text = self._tokenizer.decode(kept)
        text = text.strip()
        yield Text(text, True, *bounds, tuple(kept), len(text))
        if self._mouth is not None and not self._hushed():
            yield from self._sound(self._mouth.finish())
            if self._mouth.cut is not None:
                yield AudioCut(self._mouth.cut, bounds[1])

    def without_loop(self, tokens: Sequence[int]) -> Sequence[int]:
        """Return the tokens up to where they began to repeat themselves."""
        return tokens[: loop_start(tokens, self._protocol.max_repeats)]

    def _think(self, level: ComputeLevel, bounds: tuple[float, float]) -> Iterator[Thought]:
        detokenizer = Detokenizer(self._tokenizer)
        close = self._protocol.thinking.close if self._protocol.thinking else ""
        text, thought = "", False
        for token in self._decoder.think(level):
            thought = True
            if piece := detokenizer.push(token):
                text += piece
                yield Thought(_before(text, close), False, *bounds)
        if thought:
            yield Thought(_before(text + detokenizer.finish(), close), True, *bounds)

    def _hushed(self) -> bool:
        return self._hush is not None and self._hush()

    def _sound(self, pieces: Iterator[Array]) -> Iterator[Audio]:
        assert self._mouth is not None, "only a Speaker sounds"
        while not self._hushed():
            with self._trace.span(SPEAK):
                samples = next(pieces, None)
            if samples is None:
                return
            yield Audio(samples, self._mouth.sample_rate_hz)


def _before(text: str, close: str) -> str:
    """Return a thought without the text that closes it."""
    return text.partition(close)[0].strip() if close else text.strip()
