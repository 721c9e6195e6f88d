"""A damaged voice file is a voice or refused, and takes no more memory than a voice."""

import io
import zipfile

import numpy as np

from edgekit.runtime.speak.voice import load_voice
from tests.runtime.speak.test_voice import RATE, parts, voice


def _deflated(arrays):
    data = io.BytesIO()
    np.savez_compressed(data, **arrays)
    return data.getvalue()


def _bomb(header):
    """A part that says it is large and is small: a header, and a thousand times its bytes in zeros, deflated."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as file:
        text = repr(header).encode().ljust(117) + b"\n"
        file.writestr("codes.npy", b"\x93NUMPY\1\0v\0" + text + bytes(1 << 20))
    return data.getvalue()


def test_a_damaged_voice_is_read_or_refused(fuzz, tmp_path):
    path = tmp_path / "a.voice"
    voice(4).save(path)
    huge = {"descr": "<i8", "fortran_order": False, "shape": (10**12,)}
    whole = [path.read_bytes(), _deflated(parts()), _bomb(huge), _bomb(huge | {"shape": (1 << 17,)}), _npy()]

    def attempt(case):
        path.write_bytes(_another(case) if case.mild and case.edits else case.data(case.chosen(whole)))
        load_voice(path, RATE)

    fuzz("voice", attempt, whole=2)  # the others are refused undamaged


def _another(case):
    """A whole file of other numbers, where a flipped bit would only ever meet the archive's checksums."""
    arrays = parts()
    ((kind, place, how),) = case.edits
    name = sorted(arrays)[kind % len(arrays)]
    flat = arrays[name] = arrays[name].copy()
    flat.reshape(-1)[place % flat.size] += (1, -1, 100, -100)[how % 4]
    return _deflated(arrays)


def _npy():
    data = io.BytesIO()
    np.save(data, np.zeros(3))
    return data.getvalue()
