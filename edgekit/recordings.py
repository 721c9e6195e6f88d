"""The recordings that ship under ``export/clips``: what the exporter calibrates on and judges by.

A folder of them stands with its licence. Words are those that a person gave for the recording, never a model's.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path

from edgekit.errors import RecipeError
from edgekit.resources import resource

ENGLISH = "en"
_SENTENCES, _PROMPTS = "transcripts.json", "prompts/clips.json"


@dataclass(frozen=True, slots=True)
class Recording:
    """One clip: its bare file name, where it is, its language (ISO 639-1), and its words, empty where unknown."""

    name: str
    path: Path
    language: str
    words: str


@lru_cache(maxsize=1)
def recordings() -> Mapping[str, Recording]:
    """Return every recording by its bare name, in the order of their languages."""
    folder = resource("export") / "clips"
    sentences = json.loads((folder / _SENTENCES).read_text(encoding="utf-8"))
    result = {name: Recording(name, folder / name, ENGLISH, words) for name, words in sentences.items()}
    if (listed := folder / _PROMPTS).is_file():
        for name, facts in json.loads(listed.read_text(encoding="utf-8")).items():
            result[name] = Recording(name, listed.parent / name, facts["language"], facts.get("words", ""))
    return result


def named(names: Iterable[str], field: str) -> tuple[Recording, ...]:
    """Return the recordings that a recipe's ``field`` names, each once; ``*`` and ``?`` stand for any characters.

    Raises RecipeError for a name that none has.
    """
    known = recordings()
    result: dict[str, Recording] = {}
    for name in names:
        matching = {key: known[key] for key in known if fnmatchcase(key, name)}
        if not matching:
            raise RecipeError(
                f"{field}: '{name}' is no recording of {resource('export') / 'clips'}; name one that is there, such as "
                f"'{next(iter(known))}' or 'en-*'"
            )
        result |= matching
    return tuple(result.values())
