"""The tokens around the sound of a turn, as a bundle's protocol and what the caller asks for make them.

The one place that fills in the protocol's texts: a stream feeds these tokens, a check compares with these tokens.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from edgekit.bundle import Thinking, TokenProtocol
from edgekit.errors import UsageError
from edgekit.runtime.answer.text import Tokenizer

DETECTED = "auto"
"""Asked for as language: the likeliest one, though the bundle names another."""
_DEFAULT_TASK = "transcribe"
DICTATION = "transcribe"
"""The question, by name, whose answer is what was said, word for word."""
Tokens = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Asking:
    """How answers are asked for; what is None is as the bundle says.

    ``turns``: how many earlier turns an answer remembers at most, None for all that fit. ``think``: whether a thought
    comes first, or of how many tokens at most.
    """

    system: str | None = None
    prompt: str | None = None
    tools: str | None = None
    turns: int | None = 0
    think: bool | int | None = None


@dataclass(frozen=True, slots=True)
class CrossPrompt:
    """What an answer begins with where sound is attended to beside the tokens.

    ``languages``: one of these follows ``start``, the likeliest, where none was named; ``rest`` comes last.
    """

    start: Tokens
    languages: Tokens
    rest: Tokens

    @property
    def around(self) -> tuple[Tokens, Tokens]:
        """Tokens before the sound and behind it; a language that is still to be chosen is left out."""
        return (*self.start, *self.rest), ()


@dataclass(frozen=True, slots=True)
class PrefixPrompt:
    """What stands around sound in the token stream; fields as those of TokenProtocol, filled in.

    ``after`` ends with the ``reply`` that leads to an answer; ``lead`` is what EdgeKit writes of the answer: that
    there is no thought, that it is spoken. ``thinking``: how to think, None for not at all; ``thought_tokens``: most
    tokens of a thought, None for no limit of its own.
    """

    opening: Tokens
    before: Tokens
    between: Tokens
    after: Tokens
    reply: Tokens
    again: Tokens
    lead: Tokens
    thinking: Thinking | None
    thought_tokens: int | None

    @property
    def around(self) -> tuple[Tokens, Tokens]:
        """Tokens before the first turn's sound and behind it, up to its answer where no thought comes first."""
        return (*self.opening, *self.before), (*self.after, *self.lead)


def cross_prompt(protocol: TokenProtocol, language: str | None = None, task: str | None = None) -> CrossPrompt:
    """Return the prompt of a protocol; ``language`` DETECTED: the likeliest, whatever the bundle says.

    Raises UsageError for a language or task that the bundle does not have.
    """
    language = language or protocol.language
    if language == DETECTED and protocol.languages:
        language = None
    chosen: list[int] = []
    if language is not None:
        chosen.append(_choice("language", language, protocol.languages))
    if task is not None or protocol.tasks:
        chosen.append(_choice("task", task or protocol.task or _DEFAULT_TASK, protocol.tasks))
    languages = () if language is not None else tuple(protocol.languages.values())
    return CrossPrompt(protocol.start, languages, (*chosen, *protocol.start_tail))


def prefix_prompt(protocol: TokenProtocol, tokenizer: Tokenizer, asking: Asking, *, speaks: bool) -> PrefixPrompt:
    """Return the prompt of a protocol, of answers that are spoken by the same tokens if it ``speaks``.

    Raises UsageError for what the bundle was not made for, and for a text that would open or close turns of its own.
    """
    thinking, thought_tokens = _thought(protocol.thinking, asking.think)
    question = protocol.questions.get(asking.prompt or "")
    asked, prompt = (question.system, question.prompt) if question else (None, asking.prompt)
    system = protocol.system if asking.system is None and asked is None else None
    for name, text in (("system", asking.system), ("prompt", asking.prompt), ("tools", asking.tools)):
        check_text(tokenizer, name, text)
    if asking.tools is not None and not protocol.tools:
        raise UsageError("tools: this bundle was not made to call tools; leave them out")
    texts = {
        "{system}": "\n".join(text for text in (asking.system, asked, system) if text is not None),
        "{tools}": protocol.tools.replace("{tools}", asking.tools) if asking.tools is not None else "",
        "{prompt}": protocol.prompt if prompt is None else prompt,
    }
    begun = protocol.thinking.none if protocol.thinking and not thinking and protocol.thinking.usual else ""

    def encode(text: str) -> Tokens:
        return tuple(tokenizer.encode(text))

    return PrefixPrompt(
        opening=encode(filled(protocol.opening, texts)), before=encode(protocol.before),
        between=encode(protocol.between), after=encode(filled(protocol.after, texts) + protocol.reply),
        reply=encode(protocol.reply), again=encode(protocol.again),
        lead=encode(begun + (protocol.speak if speaks else "")), thinking=thinking, thought_tokens=thought_tokens,
    )  # fmt: skip


class Asked(Protocol):
    """What was asked for that decides whether an answer is what was said; StreamOptions are one."""

    @property
    def prompt(self) -> str | None:
        """The name of a question, or a text of one's own."""
        ...

    @property
    def think(self) -> bool | int | None:
        """Whether a thought comes first."""
        ...

    @property
    def speak(self) -> bool:
        """Whether the answers are spoken."""
        ...


def no_dictation(protocol: TokenProtocol, asked: Asked) -> str | None:
    """Return why the answers of a bundle that converses are not what was said; None if that is what is asked for."""
    if asked.prompt != DICTATION or DICTATION not in protocol.questions:
        known = DICTATION in protocol.questions
        return f"it answers what it hears, unless prompt is '{DICTATION}'" if known else "it answers what it hears"
    if _thought(protocol.thinking, asked.think)[0] is not None:
        return "it thinks before it answers, unless think is False"
    return "it speaks its answers, unless speak is False" if asked.speak else None


def filled(template: str, texts: Mapping[str, str]) -> str:
    """Return a template with its names replaced; what stands in the texts themselves is left alone."""
    return re.sub("|".join(map(re.escape, texts)), lambda name: texts[name[0]], template)


def check_text(tokenizer: Tokenizer, name: str, text: str | None) -> None:
    """Raise UsageError for a text that would open or close turns of its own."""
    if text and (mark := tokenizer.mark_in(text)):
        raise UsageError(f"{name}: holds '{mark}', a mark of the model's own; write it otherwise")


def _thought(thinking: Thinking | None, asked: bool | int | None) -> tuple[Thinking | None, int | None]:
    """Return how to think, None for not at all, and the most tokens of a thought, None for no limit of its own."""
    if thinking is None:
        if asked:
            raise UsageError("think: this bundle was not made to think; leave it out")
        return None, None
    if asked is None or isinstance(asked, bool):
        return (thinking if (thinking.usual if asked is None else asked) else None), None
    if asked < 0:
        raise UsageError(f"think: {asked} tokens, must be 0 or more, on or off; correct it")
    return (thinking if asked else None), asked or None


def _choice(kind: str, name: str, known: Mapping[str, int]) -> int:
    if name not in known:
        offered = f"choose one of: {', '.join(known)}" if known else f"it has no choice of {kind}: leave it out"
        raise UsageError(f"{kind}: '{name}' is not in this bundle; {offered}")
    return known[name]
