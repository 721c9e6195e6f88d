"""`edgekit verify --reference`: a bundle against its checkpoint, run live by torch and transformers on the same grid.

The reference modules are transformers' own; see ``reference``. The bundle's features go into them, so that what is
compared is encoder, backbone and their weights. Limits are the recipe's for a quantised bundle and rounding for a float
one.
"""

from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path

import numpy as np

from edgekit.bundle import Bundle, Manifest, open_bundle
from edgekit.bundle.trust import Trust
from edgekit.errors import MissingPackageError, VerifyError
from edgekit.exporter.checks.quality import check_clips, relative_error
from edgekit.exporter.checks.weight_check import check_weights, weight_errors
from edgekit.exporter.dialects import DIALECTS
from edgekit.exporter.families import Family
from edgekit.exporter.hub import locate
from edgekit.exporter.reference.base import Array, Prompt, Reference
from edgekit.exporter.source import open_known
from edgekit.exporter.tables import written_bundle
from edgekit.recipe import Recipe, stored_recipe
from edgekit.runtime.answer.sampler import Greedy, likeliest
from edgekit.runtime.backends import twin_of
from edgekit.runtime.judge.golden_clips import carries_clips, golden_clips
from edgekit.runtime.judge.probe import Answer, Heard, answer, around, hear, recognised
from edgekit.runtime.judge.verify import SURE_LEAD, TOLERANCE_FLOAT32, Check, rounds
from edgekit.runtime.model import Model, load_opened


def verify_reference(
    bundle: str | Path, checkpoint: str | Path, *, bars: bool = False, trust: Trust | None = None
) -> tuple[Check, ...]:
    """Return every comparison of a bundle with its checkpoint on the recipe's check clips.

    checkpoint and bars: as in ``locate``. trust: keys of which one must have signed the bundle. Raises QualityError for
    a weight that is not the checkpoint's, MissingPackageError without torch and transformers, VerifyError for a family
    without a reference and, before anything is fetched, for dummy weights or where there is no clip to hear.
    """
    opened = open_bundle(bundle, trust=trust)
    if opened.manifest.dummy_seed is not None:
        raise VerifyError(
            f"{bundle}: holds dummy weights, no checkpoint has them; run `edgekit verify` without --reference"
        )
    recipe = stored_recipe(opened.manifest.recipe, bundle)
    clips = _clips(opened, recipe)
    model = load_opened(opened, backend=twin_of(opened.manifest.dialect))
    found, family = open_known(locate(checkpoint, bars=bars).folder)
    if family.name != model.manifest.family:
        raise VerifyError(
            f"{checkpoint}: is of family {family.name}, the bundle of {model.manifest.family}; name its own"
        )
    whole = family.beside(found, lambda second: locate(second, known=False).folder)
    cut = family.bind(whole.config, found.generation)
    dialect = DIALECTS.get(model.manifest.dialect)
    weights = written_bundle(opened.folder, cut, dialect, model.manifest.components, model.manifest.tables())
    checked = check_weights(cut, weights, whole.tensors, lambda _done, _total: None)
    checks = [
        Check(f"{checked['tensors']} weights: {key.replace('_', ' ')}", error, getattr(recipe.limits, key))
        for key, error in weight_errors(checked, model.manifest.precision).items()
    ]
    return (*checks, *_live_checks(model, _reference(family).open(found.folder), clips, recipe))


def _clips(bundle: Bundle, recipe: Recipe) -> Iterable[Array]:
    """Return the samples that both hear: those that the bundle carries, else the recipe's own recordings."""
    carried = golden_clips(bundle) if carries_clips(bundle) else None
    clips = carried or check_clips(recipe, bundle.manifest.front_end.sample_rate_hz)
    if not clips:
        raise VerifyError(
            f"{bundle.folder}: has no check clip to hear, so nothing would be compared with the checkpoint; export it "
            "again with a recipe that names check clips in a language of it"
        )
    return clips.values()


def _reference(family: Family) -> type[Reference]:
    """Return the class of a family's reference."""
    module, _, name = family.reference.partition(":")
    if not name:
        raise VerifyError(f"{family.name}: has no reference in torch; run `edgekit verify` without --reference")
    try:
        found: type[Reference] = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        if isinstance(error, AttributeError) or f"{module}.".startswith(f"{error.name}."):
            raise VerifyError(
                f"{family.name}: its reference {family.reference} is not there; correct what the family says"
            ) from error
        raise MissingPackageError(
            f"{error.name}: not installed, --reference runs it; pip install 'edgekit-audio[reference]'"
        ) from error
    return found


def _live_checks(model: Model, reference: Reference, clips: Iterable[Array], recipe: Recipe) -> list[Check]:
    manifest = model.manifest
    frames, logits, leads, otherwise = [], [], [], []
    for samples in clips:
        heard = hear(model, samples)
        expected = reference.hear(_mel(manifest, heard), _chunk_positions(manifest))
        frames.append((reference.heard(heard), expected))
        language = _recognised(reference, expected, manifest)
        told = answer(model, heard, language=language)
        if language:
            otherwise.append(recognised(model, heard) != language)
        prompt = Prompt(*around(model, language))
        rows = reference.answer(expected, prompt, told.tokens, manifest.levels[-1].experts_per_token)
        theirs = rows[: len(told.logits)]
        logits.append((told.logits, theirs))
        leads.append((told, theirs))
    checks = _compared(manifest, recipe, frames, logits, leads)
    if otherwise:
        allowed = max(recipe.limits.token_mismatch, 1 / len(otherwise)) if rounds(manifest) else 0.0
        checks.append(Check("languages recognised that differ / clips", float(np.mean(otherwise)), allowed))
    return checks


def _recognised(reference: Reference, heard: Array, manifest: Manifest) -> str | None:
    """Return the language that the reference hears; None where the bundle has no languages."""
    protocol = manifest.protocol
    if not protocol.languages:
        return None
    (row,) = reference.answer(heard, Prompt(protocol.start, ()), (), manifest.levels[-1].experts_per_token)
    names = list(protocol.languages)
    return names[int(np.argmax(row[[protocol.languages[name] for name in names]]))]


def _compared(
    manifest: Manifest,
    recipe: Recipe,
    frames: Sequence[tuple[Array, Array]],
    logits: Sequence[tuple[Array, Array]],
    told: Sequence[tuple[Answer, Array]],
) -> list[Check]:
    rounded = rounds(manifest)
    greedy = Greedy(manifest.protocol, likeliest(manifest.protocol.sampling))
    differing = steps = 0
    for ours, theirs in told:
        for step, (picked, row) in enumerate(zip(ours.picked, theirs, strict=True)):
            best = greedy.pick(row, ours.tokens[:step])
            steps += 1
            differing += best != picked and float(row[best] - row[picked]) >= SURE_LEAD
    limits = recipe.limits
    return [
        Check(
            "what the backbone hears: relative error",
            relative_error(frames),
            limits.frame_error if rounded else TOLERANCE_FLOAT32,
        ),
        Check(
            "logits, tokens forced: relative error",
            relative_error(logits),
            limits.logit_error if rounded else TOLERANCE_FLOAT32,
        ),
        Check(
            "greedy tokens that differ / tokens", differing / max(1, steps), limits.token_mismatch if rounded else 0.0
        ),
    ]


def _mel(manifest: Manifest, heard: Heard) -> Array:
    """Return the features of a clip without the columns that neighbouring encoder calls share."""
    left, right = manifest.grid.left_frames, manifest.grid.right_frames
    return np.concatenate([mel[:, left : mel.shape[1] - right] for mel in heard.mel], axis=1)


def _chunk_positions(manifest: Manifest) -> int:
    grid = manifest.grid
    return grid.positions(grid.chunk_frames) if grid.mode == "chunked" else 0
