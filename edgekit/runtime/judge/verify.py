"""Verify: is this the bundle that was judged, and does this machine compute with it what it should?

The first by its record, to the bit. The second by running it: features, frames, logits and speech, tokens at the
fullest and at the cheapest level, texts. Needs no torch and no onnx.

The same graphs on another processor differ by rounding: float32 in the order of sums, INT8 where a value falls on the
other side of a step, which is as far as the bundle is from float numbers anyway. So a quantised bundle is compared with
its float twin, and may be as far from it as its recipe allows.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgekit.bundle import Bundle, Manifest, open_bundle
from edgekit.bundle.trust import Trust
from edgekit.errors import BundleFormatError
from edgekit.recipe import Limits
from edgekit.runtime.engine import Array
from edgekit.runtime.judge.golden_clips import FOLDER, golden_clips, load_array
from edgekit.runtime.judge.goldens import (
    COMPARED,
    ITSELF,
    NOT_RUN,
    NOTHING,
    TWIN,
    WHY,
    Results,
    compared_levels,
    distance,
    results,
    stored_answers,
    stored_part,
)
from edgekit.runtime.judge.probe import Answer, hear
from edgekit.runtime.judge.record import JUDGED, unjudged
from edgekit.runtime.model import Model, load_opened
from edgekit.runtime.speak import Spoken

TOLERANCE_FLOAT32 = 1e-4  # root mean square of the difference / of the golden
SPREAD = 1.25  # by which another processor may be further from the float twin than the recipe allows
COARSER = 3.5  # by which than the one that made the bundle: x86's INT8 kernels were up to 3 times as far as ARM's
SURE_LEAD = 1e-3  # a greedy token of a float bundle that leads by less may fall either way
_ADAPTED = 2**0.5  # times the error of frames: the adapter, a linear more, adds as much of its own
_CHEAPER = 2  # times the error of the fullest level: near-ties of experts, that of three steps in four
_SOUND = 0.1  # no limit of a recipe is in these units
_WORDS = {
    TWIN: "compared with its float twin",
    ITSELF: "compared with its own results when it was made",
}


@dataclass(frozen=True, slots=True)
class Check:
    """One comparison: ``error`` against ``tolerance``, both as the name says."""

    name: str
    error: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the error is within its tolerance; NaN is not."""
        return self.error <= self.tolerance


@dataclass(frozen=True, slots=True)
class Verified:
    """Every comparison of a bundle, what it was compared with in words, and what ran it; ``fallback`` as of Model.

    ``judged``: whether its files and settings are those that were judged, so that a failed check tells of this machine;
    None where a bundle of an earlier format version has no record. ``signer``: file and fingerprint of the key that
    signed it, where a signature was required.
    """

    checks: tuple[Check, ...]
    compared: str
    judged: bool | None
    backend: str = ""
    fallback: str = ""
    signer: str = ""


def verify(path: str | os.PathLike[str], *, trust: Trust | None = None, **loading: Any) -> Verified:  # noqa: ANN401
    """Return every comparison of a bundle with its record and its goldens; ``loading``: what else ``load`` takes.

    trust: keys of which one must have signed it, which is checked first; SignatureError if none did.
    Raises BundleFormatError or BundleFileError for a damaged bundle, VerifyError if it carries no goldens and does
    not say why, or not the clips that they are of and EdgeKit's own recordings are not there either.
    """
    bundle = open_bundle(path, trust=trust)
    signer = str(bundle.signer or "")
    checks = _record(bundle)
    judged = all(check.passed for check in checks) if checks else None
    verification = bundle.manifest.verification
    against = verification.get(COMPARED, {"with": ITSELF})
    if not verification.get("goldens") and against.get("with") == NOTHING and against.get(WHY) in NOT_RUN:
        return Verified(tuple(checks), f"nothing was run: {NOT_RUN[against[WHY]]}", judged, signer=signer)
    clips = golden_clips(bundle)
    model = load_opened(bundle, speak=_speaks(bundle.manifest), **loading)
    checks += _checks(model, clips)
    return Verified(
        tuple(checks),
        _WORDS.get(against.get("with"), _WORDS[ITSELF]),
        judged,
        model.backend,
        model.fallback,
        signer,
    )


def rounds(manifest: Manifest) -> bool:
    """Return whether weights are quantised, or products made in float16: another device then rounds otherwise."""
    specs = (spec for component in manifest.components.values() for spec in (*component.inputs, *component.outputs))
    return any(kind != "float32" for kind in manifest.precision.values()) or any(
        spec.dtype == "float16" for spec in specs
    )


def _record(bundle: Bundle) -> list[Check]:
    """Compare with what was judged; nothing for a bundle of a format version before 3."""
    verification = bundle.manifest.verification
    if JUDGED not in verification and COMPARED not in verification:
        return []
    wrong = unjudged(bundle.text, verification.get(JUDGED, {}))
    named = f" ({', '.join(wrong[:4])}{', ...' if len(wrong) > 4 else ''})" if wrong else ""
    return [Check(f"files and settings that are not those judged{named}", len(wrong), 0)]


def _checks(model: Model, clips: Mapping[str, Array]) -> list[Check]:
    goldens = model.manifest.verification["goldens"]
    checks: list[Check] = []
    tokens: dict[str, list[bool]] = {}
    texts: list[bool] = []
    for index, (name, samples) in enumerate(clips.items()):
        said = _said(model) if index == 0 and "spoken" in goldens[name] else None
        found = results(model, hear(model, samples), goldens[name], said)
        if index == 0:
            checks += [_check(model, file, array) for file, array in found.arrays.items()]
            checks += _codes(model, found, said)
        if model.manifest.dummy_seed is not None:  # noise prefers no token by more than rounding
            return checks
        for role, stored in stored_answers(goldens[name]).items():
            tokens.setdefault(role, []).extend(_differing(model, found.answers[role], stored))
            texts.append(found.answers[role].text != stored["text"])
    levels = compared_levels(model.manifest)
    for role, differing in tokens.items():
        if not differing:
            continue
        # near-ties fall either way; one does so in a clip of a few tokens, too
        limit = max(_limit(model.manifest, "token_mismatch"), 1 / len(differing)) if rounds(model.manifest) else 0.0
        checks.append(Check(f"tokens at {levels[role]} that differ / tokens", float(np.mean(differing)), limit))
    return [*checks, *([Check("texts of the stored tokens that differ", sum(texts), 0)] if texts else [])]


def _limit(manifest: Manifest, name: str) -> float:
    """Return a limit of the recipe; the default where a bundle's recipe says nothing."""
    default: float = getattr(Limits(), name)
    return float(manifest.recipe.get("limits", {}).get(name, default))


def _tolerance(manifest: Manifest, file: str) -> float:
    """Return how far an array may be from its golden.

    Float32 by sums in another order. What rounds as far as the recipe allows, and no further than COARSER says, so that
    a wide limit hides nothing; a bundle whose loss was accepted as far as it was then.
    """
    kind = file.partition(".")[0]
    if kind == "mel" or not rounds(manifest):
        return TOLERANCE_FLOAT32
    measured: float | None = manifest.verification.get(COMPARED, {}).get("distance", {}).get(file)
    match file.split("."):
        case ["frames"]:
            limit = _limit(manifest, "frame_error")
        case ["heard", _]:
            limit = _limit(manifest, "frame_error") * _ADAPTED
        case ["logits"]:
            limit = _limit(manifest, "logit_error")
        case ["logits", _]:
            limit = _limit(manifest, "logit_error") * _CHEAPER
        case _:
            limit = _SOUND
    if measured is None:
        return SPREAD * limit
    if measured > limit:
        return SPREAD * measured
    return max(TOLERANCE_FLOAT32, min(SPREAD * limit, COARSER * measured))


def _check(model: Model, file: str, array: Array) -> Check:
    part = stored_part if COMPARED in model.manifest.verification else _as_version_2
    golden = _load(model, file)
    return Check(f"{file}: relative error", distance(file, part(file, array), golden), _tolerance(model.manifest, file))


def _as_version_2(file: str, array: Array) -> Array:
    """Return the part of an array that a bundle of format version 2 or 1 stores."""
    if file == "frames":
        return array[:64]
    return array[:4, np.arange(0, array.shape[1], max(1, array.shape[1] // 512))] if file == "logits" else array


def _differing(model: Model, told: Answer, stored: Mapping[str, Any]) -> list[bool]:
    """Return for each stored token whether another one is taken here, after the same ones before it."""
    expected = [*stored["tokens"], *([stored["then"]] if stored.get("then") is not None else [])]
    sure = 0.0 if rounds(model.manifest) else SURE_LEAD
    found = []
    for picked, token, logits in zip(told.picked, expected, told.logits, strict=False):
        lead = float(logits[picked] - logits[token])
        found.append(picked != token and not 0 <= lead < sure)
    return found + [True] * (len(expected) - len(found))


def _speaks(manifest: Manifest) -> bool:
    stored: dict[str, dict[str, Any]] = manifest.verification.get("goldens") or {}
    return any("spoken" in entry for entry in stored.values())


def _said(model: Model) -> Spoken:
    tokens, codes = (_load(model, f"spoken.{name}") for name in ("tokens", "codes"))
    if (tokens.ndim, codes.ndim) != (1, 2) or tokens.dtype.kind not in "iu" or codes.dtype.kind not in "iu":
        raise BundleFormatError(
            f"{model.bundle.folder}: spoken goldens are {tokens.dtype} {tokens.shape} and {codes.dtype} {codes.shape}, "
            "whole numbers (n,) and (frames, codebooks) are needed; export it again"
        )
    silent = np.zeros(0, np.float32)
    return Spoken(tuple(tokens.tolist()), codes, (), silent, silent)


def _codes(model: Model, found: Results, said: Spoken | None) -> list[Check]:
    """Compare the codes that would have been taken after the stored ones."""
    if said is None or found.spoken is None or model.manifest.dummy_seed is not None:
        return []
    if not any(map(len, found.spoken.picked)):
        return []
    books = [picked[: len(codes)] != codes for picked, codes in zip(found.spoken.picked, said.codes.T, strict=True)]
    limit = _limit(model.manifest, "code_mismatch") if rounds(model.manifest) else 0.0
    return [Check("speech codes that differ / codes", float(np.mean(np.concatenate(books))), limit)]


def _load(model: Model, file: str) -> Array:
    return load_array(model.bundle, f"{FOLDER}/{file}.npy")
