"""The recordings that an export hears, in the languages that a checkpoint claims.

A multilingual checkpoint names its languages by tokens; it is told the language of every clip, so that one which
recognises a language otherwise is not taken for one that loses words.
"""

from collections.abc import Iterable

import msgspec

from edgekit.bundle import TokenProtocol
from edgekit.recipe import Recipe
from edgekit.recordings import Recording, named, recordings


def with_clips_claimed(recipe: Recipe, protocol: TokenProtocol) -> Recipe:
    """Return a recipe that names each check clip by its own name, those of the languages that a checkpoint claims.

    Where it claims others alone, all of them: beside a float twin any speech tells what rounding changes.
    """
    every = named(recipe.check.clips, "check.clips")
    clips = tuple(one.name for one in claimed(every, recipe, protocol) or every)
    return msgspec.structs.replace(recipe, check=msgspec.structs.replace(recipe.check, clips=clips))


def claimed(found: Iterable[Recording], recipe: Recipe, protocol: TokenProtocol) -> tuple[Recording, ...]:
    """Return the recordings in a language that the checkpoint's tokens name, else in one of the recipe's.

    Of one that is fixed to a language, such as a fine-tune of a multilingual checkpoint, those in this language.
    """
    languages = (protocol.language,) if protocol.language else protocol.languages or recipe.check.languages
    return tuple(one for one in found if one.language in languages)


def language_of(name: str, protocol: TokenProtocol) -> str | None:
    """Return the language that an answer to a clip is asked in; None where no token names one."""
    language = recordings()[name].language
    return language if language in protocol.languages else None
