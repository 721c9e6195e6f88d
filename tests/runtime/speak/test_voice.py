"""Voice files: written once, read back whole, refused in one line where they are no voice for the bundle."""

import zipfile
from dataclasses import replace

import numpy as np
import pytest

from edgekit.errors import BundleFileError, BundleFormatError
from edgekit.runtime.speak.voice import Voice, load_voice

RATE = 24_000


def voice(codes=3):
    generator = np.random.default_rng(codes)
    return Voice(
        codes=generator.integers(0, 9, codes),
        mel=generator.standard_normal((2 * codes, 5), np.float32),
        speaker=generator.standard_normal(4, np.float32),
        sample_rate_hz=RATE,
    )


def parts(**changed):
    one = voice()
    found = {"codes": one.codes, "mel": one.mel, "speaker": one.speaker, "sample_rate_hz": np.array(RATE)}
    return {name: array for name, array in (found | changed).items() if array is not None}


@pytest.mark.parametrize("codes", [3, 4, 250])
def test_a_voice_comes_back_as_it_was_written(codes, tmp_path):
    voice(codes).save(tmp_path / "kept.voice")
    found = load_voice(tmp_path / "kept.voice", RATE)
    for name in ("codes", "mel", "speaker"):
        np.testing.assert_array_equal(getattr(found, name), getattr(voice(codes), name))
    assert found.sample_rate_hz == RATE


def test_the_same_voice_gives_the_same_bytes(tmp_path):
    for name in ("one", "other"):
        voice().save(tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


def test_a_voice_of_another_rate_is_refused(tmp_path):
    replace(voice(), sample_rate_hz=16_000).save(tmp_path / "v")
    with pytest.raises(BundleFormatError, match=r"a voice at 16000 Hz, this bundle speaks at 24000; make it again"):
        load_voice(tmp_path / "v", RATE)


def test_a_voice_that_is_not_there_is_told(tmp_path):
    with pytest.raises(BundleFileError, match="no such voice"):
        load_voice(tmp_path / "v", RATE)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"speaker": None}, "'speaker' is missing"),
        ({"name": np.array("she")}, "'name' is not a part of a voice"),
        ({"sample_rate_hz": np.array([RATE])}, r"sample_rate_hz is int64 \(1,\)"),
        ({"sample_rate_hz": np.array(24e3)}, "sample_rate_hz is float64"),
        ({"codes": np.zeros((1, 3), np.int64)}, "codes is int64 with 2 axes"),
        ({"codes": np.zeros(3, np.int32)}, "codes is int32"),
        ({"codes": np.zeros(2, np.int64)}, "2 codes, at least 3"),
        ({"codes": np.array([1, -1, 2])}, "a code is below 0"),
        ({"mel": np.zeros((5, 5), np.float32)}, "5 mel frames for 3 codes"),
        ({"mel": np.full((6, 5), np.inf, np.float32)}, "not finite"),
        ({"mel": np.zeros((6, 5))}, "mel is float64"),
        ({"speaker": np.full(4, np.nan, np.float32)}, "not finite"),
        ({"speaker": np.zeros(4, np.float32)}, "speaker is zero everywhere"),
    ],
)
def test_a_file_that_is_no_voice_is_refused_in_one_line(changed, said, tmp_path):
    with (tmp_path / "v").open("wb") as stream:
        np.savez(stream, **parts(**changed))
    with pytest.raises(BundleFormatError, match=said) as caught:
        load_voice(tmp_path / "v", RATE)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", ["empty", "text", "array", "half", "pickle"])
def test_a_damaged_file_is_refused_in_one_line(damage, tmp_path):
    path = tmp_path / "v"
    voice().save(path)
    whole = path.read_bytes()
    if damage == "array":
        with path.open("wb") as stream:
            np.save(stream, np.zeros(3))
    elif damage == "pickle":
        with path.open("wb") as stream:
            np.savez(stream, **parts(codes=np.array([{"a": 1}], dtype=object)))
    else:
        path.write_bytes({"empty": b"", "text": b"a voice", "half": whole[: len(whole) // 2]}[damage])
    with pytest.raises(BundleFormatError, match="not a voice file") as caught:
        load_voice(path, RATE)
    assert "\n" not in str(caught.value)


def _npy(header, body=b""):
    text = repr(header).encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\0" + len(text).to_bytes(2, "little") + text + body


@pytest.mark.parametrize(
    ("part", "said"),
    [
        (_npy({"descr": "<i8", "fortran_order": False, "shape": (10**12,)}), "codes.npy is said to be int64"),
        (_npy({"descr": "<i8", "fortran_order": False, "shape": (3,)}, bytes(25)), "25 bytes are there"),
        (_npy({"descr": "<i8", "fortran_order": False, "shape": (-1, -3)}, bytes(24)), "not a voice file"),
        (_npy({"descr": "|V0", "fortran_order": False, "shape": (9,)}), "not a voice file"),
        (_npy({"descr": "<i8", "shape": (0,)}), "not a voice file"),
        (b"\x93NUMPY\x01\0\x04\0[[[(", "not a voice file"),
        (b"\x93NUMPY\x02\0\xff\xff\xff\xff", "another version"),
        (bytes(17 << 20), "a voice has at most"),
    ],
    ids=["more than there is", "rest", "negative", "nothing", "field", "Python", "version", "bomb"],
)
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_part_that_is_not_what_its_header_says_is_refused_before_memory_is_taken(part, said, method, tmp_path):
    path = tmp_path / "v"
    with zipfile.ZipFile(path, "w", method) as file:
        file.writestr("codes.npy", part)
    with pytest.raises(BundleFormatError, match=said) as caught:
        load_voice(path, RATE)
    assert "\n" not in str(caught.value)


def test_a_part_whose_deflated_bytes_are_damaged_is_refused(tmp_path):
    path = tmp_path / "v"
    with path.open("wb") as stream:
        np.savez_compressed(stream, **parts())
    whole = bytearray(path.read_bytes())
    whole[60:70] = b"\xff" * 10
    path.write_bytes(whole)
    with pytest.raises(BundleFormatError, match="not a voice file"):
        load_voice(path, RATE)
