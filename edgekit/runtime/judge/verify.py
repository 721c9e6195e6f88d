"""Verify: run a bundle on this machine and compare with the goldens stored in it. Needs no torch and no onnx.

The same graphs on another processor differ by rounding: float32 in the order of sums, INT8 where a value falls on the
other side of a step. The tolerances say how much; a wrong kernel or a damaged weight is far outside them.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgekit.bundle import Manifest, open_bundle
from edgekit.runtime.engine import Array
from edgekit.runtime.judge.golden_clips import FOLDER, golden_clips
from edgekit.runtime.judge.probe import Answer, Heard, answer, hear, speak
from edgekit.runtime.model import Model, load_opened
from edgekit.runtime.speak import Spoken

CALLS = 2  # encoder calls whose input and output are stored
POSITIONS = 64  # encoder positions stored
LOGIT_ROWS = 4  # decoding steps stored
SPOKEN_FRAMES = 8  # frames of speech codes stored
_COLUMNS = 512  # logits stored of each
_MEL_TOLERANCE = 1e-4
TOLERANCE_FLOAT32 = 1e-3  # root mean square of the difference / of the golden
TOLERANCE_QUANTISED = 3e-2
TOKEN_SHARE = 0.1  # tokens that may differ: one flip changes the rest of its clip


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
    """Every comparison of a bundle, and what ran it; ``fallback`` as of Model."""

    checks: tuple[Check, ...]
    backend: str
    fallback: str


def sample_columns(vocabulary: int) -> Array:
    """Return the token ids whose logits are stored: about 512, evenly spread."""
    return np.arange(0, vocabulary, max(1, vocabulary // _COLUMNS))


def verify(path: str | os.PathLike[str], **loading: Any) -> Verified:  # noqa: ANN401 - of edgekit.load
    """Return every comparison of a bundle with its goldens; ``loading``: what else ``edgekit.load`` takes.

    Raises BundleFormatError or BundleFileError for a damaged bundle, VerifyError if it carries no goldens, or not the
    clips that they are of and EdgeKit's own recordings are not there either.
    """
    bundle = open_bundle(path)
    clips = golden_clips(bundle)
    model = load_opened(bundle, speak=_speaks(bundle.manifest), **loading)
    return Verified(_checks(model, clips), model.backend, model.fallback)


def _checks(model: Model, clips: Mapping[str, Array]) -> tuple[Check, ...]:
    quantised = _rounds(model.manifest)
    tolerance = TOLERANCE_QUANTISED if quantised else TOLERANCE_FLOAT32
    checks: list[Check] = []
    differing = total = 0
    for index, (name, samples) in enumerate(clips.items()):
        expected, heard = model.manifest.verification["goldens"][name], hear(model, samples)
        if index == 0:
            checks += _heard(model, heard, tolerance)
        if "tokens" not in expected:  # a bundle too large to be run whole when it was made
            return tuple(checks)
        if index == 0:
            checks.append(_told(model, answer(model, heard, forced=expected["tokens"]), tolerance))
            if _speaks(model.manifest):
                checks += _spoken(model, heard, expected["tokens"], tolerance)
        if model.manifest.dummy_seed is not None:
            return tuple(checks)
        tokens = list(answer(model, heard).tokens)
        total += max(len(tokens), len(expected["tokens"]))
        differing += _differing(tokens, expected["tokens"])
    checks.append(Check("tokens that differ / tokens", differing / max(1, total), TOKEN_SHARE if quantised else 0.0))
    return tuple(checks)


def _rounds(manifest: Manifest) -> bool:
    """Return whether weights are quantised, or products made in float16: another device then rounds otherwise."""
    specs = (spec for component in manifest.components.values() for spec in (*component.inputs, *component.outputs))
    return any(kind != "float32" for kind in manifest.precision.values()) or any(
        spec.dtype == "float16" for spec in specs
    )


def _heard(model: Model, heard: Heard, tolerance: float) -> list[Check]:
    checks = [_check(model, "mel", f"mel.{call}", mel, _MEL_TOLERANCE) for call, mel in enumerate(heard.mel[:CALLS])]
    checks.append(_check(model, "encoder", "frames", heard.frames[:POSITIONS], tolerance))
    parts = enumerate(heard.parts[:CALLS])
    return checks + [_check(model, "adapter", f"heard.{call}", part, tolerance) for call, part in parts]


def _told(model: Model, told: Answer, tolerance: float) -> Check:
    columns = sample_columns(told.logits.shape[1])
    return _check(model, "backbone", "logits", told.logits[:LOGIT_ROWS, columns], tolerance)


def _speaks(manifest: Manifest) -> bool:
    stored: dict[str, dict[str, Any]] = manifest.verification.get("goldens") or {}
    return any("spoken" in entry for entry in stored.values())


def _spoken(model: Model, heard: Heard, tokens: list[int], tolerance: float) -> list[Check]:
    """Compare what speaks, given the stored codes: the codes it would have chosen, and the sound it makes of them.

    A flow is judged by its mel frames: the vocoder adds up the phase of tones, and rounding with it.
    """
    stored = {name: _load(model, f"spoken.{name}") for name in ("tokens", "codes", "sound")}
    silent = np.zeros(0, np.float32)
    forced = Spoken(tuple(stored["tokens"].tolist()), stored["codes"], (), silent, silent)
    again = speak(model, heard, tokens, frames=SPOKEN_FRAMES, forced=forced)
    sound = again.mel if len(again.mel) else again.samples
    checks = [Check("speech (spoken.sound): relative error", _relative(sound, stored["sound"]), tolerance)]
    if model.manifest.dummy_seed is None and any(map(len, again.picked)):
        books = [picked[: len(codes)] != codes for picked, codes in zip(again.picked, stored["codes"].T, strict=True)]
        quantised = tolerance == TOLERANCE_QUANTISED
        share = float(np.mean(np.concatenate(books)))
        checks.append(Check("speech codes that differ / codes", share, TOKEN_SHARE if quantised else 0.0))
    return checks


def _load(model: Model, file: str) -> Array:
    return np.asarray(np.load(model.bundle.file(f"{FOLDER}/{file}.npy"), allow_pickle=False))


def _check(model: Model, what: str, file: str, array: Array, tolerance: float) -> Check:
    return Check(f"{what} ({file}): relative error", _relative(array, _load(model, file)), tolerance)


def _relative(array: Array, golden: Array) -> float:
    if array.shape != golden.shape:
        return float("inf")
    ours, stored = array.astype(np.float64), golden.astype(np.float64)  # squares of float16 overflow
    return float(np.linalg.norm(ours - stored) / max(float(np.linalg.norm(stored)), 1e-12))


def _differing(tokens: list[int], expected: list[int]) -> int:
    """Return how many of the longer list's tokens come at or after the first difference."""
    same = 0
    for ours, theirs in zip(tokens, expected, strict=False):
        if ours != theirs:
            break
        same += 1
    return max(len(tokens), len(expected)) - same
