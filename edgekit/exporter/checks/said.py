"""Whether words come out that a person said: asked once of every export, float ones included.

The float twin of a checkpoint that hears nothing hears nothing either, so what was said must come from people. One
recording that is heard is enough; it is not a word error rate.
"""

from edgekit.bundle import Bundle, TokenProtocol
from edgekit.errors import BackendError
from edgekit.exporter.checks.clips import claimed, language_of
from edgekit.exporter.checks.words import tally
from edgekit.recipe import Recipe
from edgekit.recordings import named
from edgekit.runtime.answer import driver_of
from edgekit.runtime.audio.files import read_mono
from edgekit.runtime.backends import twin_of
from edgekit.runtime.judge.probe import answer, hear
from edgekit.runtime.model import load_opened

_QUESTION = "transcribe"
_NOT_ASKED = "not asked: "
Said = dict[str, float] | str
"""Word errors / words by recording, up to the first that is heard; else why none was asked for."""


def words_said(bundle: Bundle, recipe: Recipe) -> Said | None:
    """Return what came of the recipe's transcripts; None where it names none."""
    if not recipe.check.transcripts:
        return None
    manifest = bundle.manifest
    protocol = manifest.protocol
    asked = claimed(named(recipe.check.transcripts, "check.transcripts"), recipe, protocol)
    clips = [one for one in asked if one.words]
    if not clips:
        return f"{_NOT_ASKED}no transcript is in a language of the checkpoint"
    converses = driver_of(protocol).converses
    if (reason := _unasked(protocol, converses)) is not None:
        return f"{_NOT_ASKED}{reason}"
    size_mib = sum(row.bytes for row in manifest.census) / 2**20
    if size_mib > recipe.check.run_limit_mib:
        return f"{_NOT_ASKED}{size_mib:.0f} MiB of weights, the recipe runs {recipe.check.run_limit_mib}"
    try:
        model = load_opened(bundle, backend=twin_of(manifest.dialect))
    except BackendError:  # of memory: what it says names a folder that is gone when the bundle is published
        return f"{_NOT_ASKED}the machine of the export could not load it"
    result: dict[str, float] = {}
    for one in clips:
        heard = hear(model, read_mono(one.path, manifest.front_end.sample_rate_hz))
        language = language_of(one.name, protocol)
        told = answer(model, heard, language=language, prompt=_QUESTION if converses else None)
        result[one.name] = tally(one.words, told.text).rate
        if result[one.name] <= recipe.limits.transcript_error_rate:
            break
    return result


def _unasked(protocol: TokenProtocol, converses: bool) -> str | None:
    if converses and _QUESTION not in protocol.questions:
        return f"the bundle answers and knows no question '{_QUESTION}'"
    return None if protocol.task in (None, _QUESTION) else f"the checkpoint is fixed to '{protocol.task}'"


def best(said: Said | None) -> float | None:
    """Return the word errors of the recording that was heard best; None where none was asked for."""
    return min(said.values()) if isinstance(said, dict) else None
