"""The check clips that goldens are made of, as a bundle carries them: 16-bit samples at the front end's rate.

Goldens are made of these very samples, so that a device hears them anew without EdgeKit's own recordings. They are
stored as FLAC; bundles of format version 2 have them as numpy arrays.
"""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.bundle import Bundle
from edgekit.errors import BundleFormatError, MissingPackageError, VerifyError
from edgekit.resources import resource
from edgekit.runtime.audio.files import read_mono
from edgekit.runtime.engine import Array
from edgekit.runtime.hear.resampler import as_samples

FOLDER = "goldens"
CLIP = "clip"  # of a clip's entry among the goldens: the file that holds its samples
_FULL_SCALE = 1 << 15
_FLAC_HZ = 655_350  # highest rate that FLAC's header holds; RFC 9639, section 8.2


def in_16_bits(samples: Array) -> Array:
    """Return samples (n,) float32 in [-1, 1] as int16: exact where the recording has 16 bits and its rate is kept."""
    return np.clip(np.rint(samples * np.float32(_FULL_SCALE)), -_FULL_SCALE, _FULL_SCALE - 1).astype(np.int16)


def as_heard(samples: Array) -> Array:
    """Return int16 samples (n,) as float32 in [-1, 1], as a stream takes them."""
    return as_samples(samples, 1)[:, 0]


def packed(samples: Array, rate_hz: int) -> tuple[str, bytes]:
    """Return samples (n,) int16 as a file: how its name ends, and its bytes. Nothing is lost."""
    try:
        import soundfile
    except (ImportError, OSError) as error:
        raise MissingPackageError(f"soundfile: {error}; `pip install soundfile`") from error
    kind = "FLAC" if rate_hz <= _FLAC_HZ else "WAV"
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate_hz, "PCM_16", format=kind)
    return kind.lower(), buffer.getvalue()


def golden_clips(bundle: Bundle) -> dict[str, Array]:
    """Return the samples (n,) float32 of each clip that ``verify`` hears, in the order of the goldens.

    A bundle of format version 1 carries none: they are then EdgeKit's own recordings. Raises VerifyError where there
    are no goldens or no recording, BundleFormatError for a clip that is no bare file name.
    """
    manifest = bundle.manifest
    stored: Mapping[str, dict[str, Any]] = manifest.verification.get("goldens") or {}
    if not stored:
        raise VerifyError(f"{bundle.folder}: carries no goldens; export it again with a recipe that names check clips")
    for name in stored:
        if name in ("", ".", "..") or "/" in name or "\\" in name:
            raise BundleFormatError(
                f"{bundle.folder}: clip '{name}' of the goldens is not a bare file name; export it again"
            )
    # tokens of noise lead by so little that rounding picks others: only what leads to them is compared
    names = list(stored)[:1] if manifest.dummy_seed is not None else list(stored)
    return {name: _carried(bundle, name, stored[name].get(CLIP)) for name in names}


def carries_clips(bundle: Bundle) -> bool:
    """Return whether a bundle carries the samples of the clips that its goldens are of."""
    stored: Mapping[str, dict[str, Any]] = bundle.manifest.verification.get("goldens") or {}
    return bool(stored) and all(CLIP in entry for entry in stored.values())


def _carried(bundle: Bundle, name: str, file: str | None) -> Array:
    if file is None:
        return _recorded(bundle, name)
    path = bundle.file(file)
    if path.suffix != ".npy":
        return read_mono(path, bundle.manifest.front_end.sample_rate_hz)
    samples = load_array(bundle, file)
    if samples.dtype != np.int16 or samples.ndim != 1 or not samples.size:
        raise BundleFormatError(
            f"{bundle.folder}: '{file}' is {samples.dtype} {samples.shape}, samples (n,) int16 are needed; export it "
            "again"
        )
    return as_heard(samples)


def load_array(bundle: Bundle, file: str) -> Array:
    """Return the array in a ``.npy`` file of a bundle; raises BundleFormatError for what is none."""
    content = io.BytesIO(bundle.read(file))
    try:
        return np.asarray(np.load(content, allow_pickle=False))
    except (ValueError, EOFError, OSError, SyntaxError, TypeError, OverflowError, MemoryError) as error:
        raise BundleFormatError(
            f"{bundle.file(file)}: no array of numpy ({' '.join(str(error).split())}); export it again"
        ) from error


def _recorded(bundle: Bundle, name: str) -> Array:
    place: Path = resource("export") / "clips" / name
    if not place.is_file():
        raise VerifyError(
            f"{bundle.folder}: carries no samples of its clip '{name}', and {place.parent} has none; export it "
            "again, or verify it where EdgeKit's export/clips is"
        )
    return read_mono(place, bundle.manifest.front_end.sample_rate_hz)
