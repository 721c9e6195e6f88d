"""What a Whisper is fed before its answer and what ends it, whichever file says so.

The one place for every source: a published folder, one without generation_config.json, a CTranslate2 folder and a
config alone. generation_config.json wins; without it config.json's own lists count, as in transformers; the rest comes
from the names of the tokens. Source: transformers 4.57.6, models/whisper/generation_whisper.py, _retrieve_init_tokens.

Three things differ from it. A Whisper that writes languages is always told its task, as it was in training, where
transformers says none unless a file names one. Whoever names no length gets half of the context, as OpenAI has it, and
not 20 tokens. ``forced_decoder_ids`` that begin at place 2 leave the language open instead of being skipped.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgekit.bundle import Timestamps, TokenProtocol
from edgekit.errors import CheckpointError
from edgekit.exporter.families.config import value
from edgekit.exporter.families.generation import ids
from edgekit.exporter.families.keys import Config
from edgekit.exporter.families.whisper_keys import whole_config
from edgekit.exporter.sources.tokenizer import marks_of

CONFIG, GENERATION = "config.json", "generation_config.json"
START, END, NO_TIMESTAMPS = "<|startoftranscript|>", "<|endoftext|>", "<|notimestamps|>"
_FIRST_TIME = "<|0.00|>"  # right behind NO_TIMESTAMPS
_NO_SPEECH = ("<|nospeech|>", "<|nocaptions|>")  # the name that it has, and the one that it had first
TASKS = ("transcribe", "translate")
MAX_REPEATS = 8
"""Of every Whisper: people say a word and read out a digit fewer times; a loop of the longest phrase fits an answer."""
_TASK = TASKS[0]
_LANGUAGE = re.compile(r"<\|[a-z]{2,3}\|>")
_LONGEST_NAME = 64  # of a language or a task
_ENGLISH = 51_864  # tokens of the published vocabulary of English alone; those of more languages have more
_TIMESTAMPS = 1501  # the last tokens of every published vocabulary: 0.00 to 30.00 s
_ENGLISH_END, _MANY_END = 50_256, 50_257  # the end token comes right after the text tokens, however many follow it

_NAMES = """
en english, zh chinese/mandarin, de german, es spanish/castilian, ru russian, ko korean, fr french, ja japanese,
pt portuguese, tr turkish, pl polish, ca catalan/valencian, nl dutch/flemish, ar arabic, sv swedish, it italian,
id indonesian, hi hindi, fi finnish, vi vietnamese, he hebrew, uk ukrainian, el greek, ms malay, cs czech,
ro romanian/moldavian/moldovan, da danish, hu hungarian, ta tamil, no norwegian, th thai, ur urdu, hr croatian,
bg bulgarian, lt lithuanian, la latin, mi maori, ml malayalam, cy welsh, sk slovak, te telugu, fa persian,
lv latvian, bn bengali, sr serbian, az azerbaijani, sl slovenian, kn kannada, et estonian, mk macedonian,
br breton, eu basque, is icelandic, hy armenian, ne nepali, mn mongolian, bs bosnian, kk kazakh, sq albanian,
sw swahili, gl galician, mr marathi, pa punjabi/panjabi, si sinhala/sinhalese, km khmer, sn shona, yo yoruba,
so somali, af afrikaans, oc occitan, ka georgian, be belarusian, tg tajik, sd sindhi, gu gujarati, am amharic,
yi yiddish, lo lao, uz uzbek, fo faroese, ht haitian creole/haitian, ps pashto/pushto, tk turkmen, nn nynorsk,
mt maltese, sa sanskrit, lb luxembourgish/letzeburgesch, my myanmar/burmese, bo tibetan, tl tagalog, mg malagasy,
as assamese, tt tatar, haw hawaiian, ln lingala, ha hausa, ba bashkir, jw javanese, su sundanese, yue cantonese
"""
LANGUAGES: Mapping[str, str] = {
    name: code
    for code, _, names in (entry.strip().partition(" ") for entry in _NAMES.split(","))
    for name in names.split("/")
}
"""English name to code, of the languages of Whisper's tokens: ISO 639, but jw for Javanese as Whisper has it."""


@dataclass(frozen=True, slots=True)
class Written:
    """What the two configs say. ``config``: with its class's defaults; ``file``: the one that ``generation`` is of."""

    config: Config
    generation: Config
    file: str

    @property
    def vocabulary(self) -> int:
        """Tokens that there are rows of."""
        return value(self.config, "vocab_size", int)


def written(config: Config, generation: Config) -> Written:
    """Return what the two say; without a file of its own, generation is a part of config."""
    own = any(config.get(key) != given for key, given in generation.items())
    return Written(whole_config(config), generation, GENERATION if own else CONFIG)


def published_generation(config: Config) -> dict[str, Any]:
    """Return what stands for a checkpoint's generation_config.json where a config comes alone.

    Of the languages only English. Source: Whisper, tokenizer.py: translate, transcribe and four more, then timestamps.
    """
    vocabulary = value(whole_config(config), "vocab_size", int)
    ends = list(ids(config, "eos_token_id", CONFIG)) or [_MANY_END if vocabulary > _ENGLISH else _ENGLISH_END]
    if vocabulary <= _ENGLISH:
        return {"begin_suppress_tokens": ends}
    stamps = vocabulary - _TIMESTAMPS
    english = value(config, "decoder_start_token_id", int, ends[0] + 1) + 1
    return {
        "begin_suppress_tokens": ends,
        "lang_to_id": {"<|en|>": english},
        "task_to_id": {"translate": stamps - 6, "transcribe": stamps - 5},
        "no_timestamps_token_id": stamps - 1,
    }


def whisper_protocol(whole: Written, tokenizer: str) -> TokenProtocol:
    """Return the token protocol of a checkpoint; tokenizer: the text of its tokenizer.json.

    Raises CheckpointError naming file and key for what contradicts itself, and the file for what no file says.
    """
    said = _Said(whole, marks_of(tokenizer))
    no_timestamps = said.no_timestamps()
    begin = _begin(said, no_timestamps)
    context = value(whole.config, "max_target_positions", int)
    ends, forbidden = said.ends(), ids(whole.generation, "suppress_tokens")
    if not (stop := tuple(token for token in ends if token not in forbidden)):
        raise CheckpointError(
            f"{said.file}: suppress_tokens forbids {ends[0]}, which ends an answer; take it out of the list"
        )
    return TokenProtocol(
        attention="cross",
        stop=stop,
        start=(said.start(),),
        start_tail=(no_timestamps,),
        languages=begin.languages,
        tasks=begin.tasks,
        language=begin.language,
        task=begin.task,
        begin_suppress=ids(whole.config, "begin_suppress_tokens") if said.file == CONFIG else (),  # the class has some
        max_tokens=context // 2,  # as published: the other half is for a text prompt
        context_tokens=context,
        max_repeats=MAX_REPEATS,
        timestamps=said.timestamps(no_timestamps),
        alignment=alignment_heads(whole),
        no_speech=next((said.marks[name] for name in _NO_SPEECH if name in said.marks), None),
    )


def alignment_heads(whole: Written) -> tuple[tuple[int, int], ...]:
    """Return layer and head of the cross-attentions that follow the words, in order: the published ones.

    Where no file names them all heads of the layers' later half stand for them; an empty list says that there are none.
    Source: Whisper, model.py, Whisper.
    Raises CheckpointError for heads that there are none of.
    """
    layers, heads = (value(whole.config, f"decoder_{name}", int) for name in ("layers", "attention_heads"))
    given = whole.generation.get("alignment_heads")
    if given is None:
        return tuple((layer, head) for layer in range(layers // 2, layers) for head in range(heads))
    pairs = given if isinstance(given, list | tuple) else (given,)
    for pair in pairs:
        if not (
            isinstance(pair, list | tuple)
            and [type(number) for number in pair] == [int, int]
            and 0 <= pair[0] < layers
            and 0 <= pair[1] < heads
        ):
            raise CheckpointError(
                f"{whole.file}: alignment_heads has {str(pair)[:60]}, must be [layer, head] pairs below "
                f"[{layers}, {heads}]; take the published file, or take the key out"
            )
    return tuple(sorted((layer, head) for layer, head in pairs))


@dataclass(frozen=True, slots=True)
class _Begin:
    """Languages and tasks that may be asked for, and those taken unless somebody asks; language None: detected."""

    languages: dict[str, int]
    tasks: dict[str, int]
    language: str | None = None
    task: str | None = None


class _Said:
    """What the files say of generation, and what the tokens' names say where they are silent."""

    def __init__(self, whole: Written, tokens: Mapping[str, int]) -> None:
        self.file, self.generation, self._config = whole.file, whole.generation, whole.config
        self.marks, self._vocabulary = tokens, whole.vocabulary
        self.forced_by = CONFIG
        if (highest := max(tokens.values(), default=0)) >= whole.vocabulary:
            name = next(name for name, token in tokens.items() if token == highest)
            raise CheckpointError(
                f"tokenizer.json: {name} has id {highest}, the weights have {whole.vocabulary} tokens; take the "
                "tokenizer that belongs to these weights"
            )

    def start(self) -> int:
        """Return the token that decoding starts from."""
        return self._first("decoder_start_token_id", START)[0]

    def ends(self) -> tuple[int, ...]:
        """Return the tokens that end an answer."""
        return self._first("eos_token_id", END)

    def no_timestamps(self) -> int:
        """Return the token that says that no times are to be written."""
        given = self.generation.get("no_timestamps_token_id")
        if given is None:
            return self.mark(NO_TIMESTAMPS)
        token = self.token("no_timestamps_token_id", given)
        if self.marks.get(NO_TIMESTAMPS, token) != token:
            raise self._other_tokenizer("no_timestamps_token_id", token, NO_TIMESTAMPS)
        return token

    def timestamps(self, no_timestamps: int) -> Timestamps | None:
        """Return the tokens that are times, which follow the one for none; None if the weights have no such tokens."""
        first = no_timestamps + 1
        if self._vocabulary - first < _TIMESTAMPS:
            return None
        if self.marks.get(_FIRST_TIME, first) != first:
            raise self._other_tokenizer("no_timestamps_token_id", no_timestamps, _FIRST_TIME)
        latest = self.generation.get("max_initial_timestamp_index")
        if latest is None:
            return Timestamps(first, _TIMESTAMPS)
        if type(latest) is not int or not 0 <= latest < _TIMESTAMPS:
            raise self.wrong("max_initial_timestamp_index", latest, f"a whole number from 0, below {_TIMESTAMPS}")
        return Timestamps(first, _TIMESTAMPS, latest_start=latest)

    def mark(self, name: str) -> int:
        """Return the id of a token that only the tokenizer knows. Raises CheckpointError if it cannot be right."""
        if name not in self.marks:
            raise CheckpointError(
                f"tokenizer.json: no token {name}, and no {GENERATION} says its id; take that file, or the tokenizer "
                "of these weights"
            )
        start = self.start()
        if self.marks.get(START, start) != start:
            raise self._other_tokenizer("decoder_start_token_id", start, START)
        return self.marks[name]

    def forced(self) -> list[int | None]:
        """Return the tokens that are forced after the start, None for one left open."""
        given, file = self.generation.get("forced_decoder_ids"), self.file
        if given is None:
            given, file = self._config.get("forced_decoder_ids"), CONFIG
        self.forced_by = file
        if not given:
            return []
        listed = given if isinstance(given, list | tuple) else [given]
        pairs = [pair if isinstance(pair, list | tuple) and len(pair) == 2 else (0, None) for pair in listed]
        places, tokens = [place for place, _ in pairs], [token for _, token in pairs]
        first = 2 if places[0] == 2 else 1
        if places != list(range(first, first + len(pairs))) or any(
            type(token) not in (int, type(None)) for token in tokens
        ):
            raise self.wrong("forced_decoder_ids", given, "[place, token] pairs from place 1 without gaps", file)
        return [*[None] * (first - 1), *tokens]

    def get(self, key: str) -> Any:  # noqa: ANN401 - a JSON value
        """Return what generation_config.json says of a key."""
        return self.generation.get(key)

    def ids(self, key: str) -> dict[str, int] | None:
        """Return names and tokens of a key of generation_config.json; None if it is not there."""
        given = self.generation.get(key)
        if given is None:
            return None
        if not isinstance(given, dict):
            raise self.wrong(key, given, "names with token ids")
        if wrong := [
            name for name in given if not name.isprintable() or not 0 < len(name.strip("<|>")) <= _LONGEST_NAME
        ]:
            raise self.wrong(key, wrong[0], f"names of up to {_LONGEST_NAME} characters")
        found = {name: self.token(key, token) for name, token in given.items()}
        for name, token in found.items():
            mark = name if name.startswith("<|") else f"<|{name}|>"
            if self.marks.get(mark, token) != token:
                raise self._other_tokenizer(f"{key}.{name}", token, mark)
        return found

    def token(self, key: str, given: object) -> int:
        """Return a token id of a key."""
        if type(given) is not int or not 0 <= given < self._vocabulary:
            raise self.wrong(key, given, f"a token below {self._vocabulary}")
        return given

    def wrong(self, key: str, given: object, rule: str, file: str = "") -> CheckpointError:
        """Return the error for a key that says what cannot be."""
        return CheckpointError(
            f"{file or self.file}: {key} is {str(given)[:60]}, must be {rule}; take the published file, or correct it"
        )

    def writes_languages(self, no_timestamps: int, forced: Sequence[int | None]) -> bool:
        """Return whether the prompt names a language. Raises CheckpointError if no file says so."""
        known = self.get("is_multilingual")
        if not self.get("lang_to_id") and isinstance(known, bool):
            return known
        if any(self.get(key) is not None for key in ("lang_to_id", "language", "task")):
            return True
        if forced or not _languages(self.marks):
            return bool(forced) and forced[0] != no_timestamps
        end = self.marks.get(END)
        if end in (_ENGLISH_END, _MANY_END):
            return end == _MANY_END
        if self._vocabulary >= _ENGLISH:
            return self._vocabulary > _ENGLISH
        raise CheckpointError(
            f"{GENERATION}: not there or without is_multilingual, and nothing else tells whether a Whisper of "
            f"{self._vocabulary} tokens writes English only; add it with is_multilingual true or false"
        )

    def _first(self, key: str, mark: str) -> tuple[int, ...]:
        """Return the token or tokens of a key in either file, else the token of a name."""
        for file, found in ((self.file, self.generation), (CONFIG, self._config)):
            given = found.get(key)
            if given is None:
                continue
            several: list[Any] = given if isinstance(given, list) and given and key == "eos_token_id" else [given]
            for token in several:
                if type(token) is not int or not 0 <= token < self._vocabulary:
                    raise self.wrong(key, given, f"a token below {self._vocabulary}", file)
            return tuple(several)
        if mark not in self.marks:
            raise CheckpointError(
                f"{CONFIG}: no {key}, and tokenizer.json has no {mark}; take the published config.json"
            )
        return (self.marks[mark],)

    def _other_tokenizer(self, key: str, token: int, mark: str) -> CheckpointError:
        return CheckpointError(
            f"{self.file}: {key} is {token}, tokenizer.json has {mark} at {self.marks[mark]}; take both from the "
            "checkpoint of these weights"
        )


def _begin(said: _Said, no_timestamps: int) -> _Begin:
    """Return what the prompt names. A language or task that the files name is the default, and may be overruled."""
    forced = said.forced()
    if not said.writes_languages(no_timestamps, forced):
        return _no_languages(said, no_timestamps, forced)
    named = said.ids("lang_to_id")
    languages = {name.strip("<|>"): token for name, token in (named or _found_languages(said)).items()}
    tasks = said.ids("task_to_id") or {task: said.mark(f"<|{task}|>") for task in TASKS}
    language, task = _language(said, languages), said.get("task")
    if task is not None and task not in list(tasks):  # of any type
        raise said.wrong("task", task, f"one of {', '.join(tasks)}")
    if language is not None or task is not None:
        return _Begin(languages, tasks, language, task or _TASK)
    return _forced(said, no_timestamps, forced, _Begin(languages, tasks))


def _forced(said: _Said, no_timestamps: int, forced: Sequence[int | None], offered: _Begin) -> _Begin:
    """Return what remains of what is offered once the forced tokens took their places."""
    rest = list(forced or [None])
    languages, tasks, language, task = offered.languages, offered.tasks, None, _TASK
    if rest[0] is None or rest[0] in languages.values():
        first = rest.pop(0)
        language = next((name for name, token in languages.items() if token == first), None)
    else:
        languages = {}
    if rest and rest[0] in tasks.values():
        second = rest.pop(0)
        task = next(name for name, token in tasks.items() if token == second)
    elif rest:
        tasks = {}
    _check_rest(said, rest, no_timestamps)
    return _Begin(languages, tasks, language, task if tasks else None)


def _no_languages(said: _Said, no_timestamps: int, forced: Sequence[int | None]) -> _Begin:
    for key in ("language", "task"):
        if said.get(key) is not None:
            raise said.wrong(key, said.get(key), "left out: is_multilingual says that this Whisper writes English only")
    _check_rest(said, [token for token in forced if token is not None], no_timestamps)
    return _Begin({}, {})


def _check_rest(said: _Said, rest: Sequence[int | None], no_timestamps: int) -> None:
    if [token for token in rest if token != no_timestamps]:
        rule = f"a language, a task and {NO_TIMESTAMPS}, in this order and nothing else"
        raise said.wrong("forced_decoder_ids", rest, rule, said.forced_by)


def _language(said: _Said, languages: Mapping[str, int]) -> str | None:
    """Return the code of the language that generation_config.json fixes: of "fr", "<|fr|>" or "french"."""
    given = said.get("language")
    if given is None:
        return None
    alone = given[0] if isinstance(given, list) and len(given) == 1 else given
    word = alone.lower().strip("<|> ") if isinstance(alone, str) else ""
    code = word if word in languages else LANGUAGES.get(word, "")
    if code not in languages:
        raise said.wrong("language", given, f"one that its tokens name: {', '.join(languages)}")
    return code


def _found_languages(said: _Said) -> dict[str, int]:
    found = _languages(said.marks)
    if not found:
        raise CheckpointError(
            f"tokenizer.json: no token of a language such as <|en|>, and no {GENERATION} names them; take that file, "
            "or the tokenizer of these weights"
        )
    said.mark(next(iter(found)))
    return found


def _languages(tokens: Mapping[str, int]) -> dict[str, int]:
    """Return the tokens whose name is a code of a language, in the order of their ids."""
    return {
        name: token for name, token in sorted(tokens.items(), key=lambda item: item[1]) if _LANGUAGE.fullmatch(name)
    }
