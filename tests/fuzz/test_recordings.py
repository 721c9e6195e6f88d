"""Damaged recordings of every kind are heard as far as they go, or refused."""

import io

import numpy as np
import pytest
import soundfile

from edgekit.runtime.audio.files import blocks, check_file
from tests.runtime.audio.test_media import made, tone

MOST_S = 3600.0  # what a file of a few kilobytes may hold: silence is small
SNDFILE = [
    ("WAV", "PCM_16"), ("WAV", "FLOAT"), ("WAV", "IMA_ADPCM"), ("WAVEX", "PCM_24"), ("RF64", "PCM_16"), ("W64",
    "PCM_16"), ("AIFF", "PCM_16"), ("AU", "PCM_16"), ("CAF", "ALAC_16"), ("NIST", "PCM_16"), ("SVX", "PCM_16"),
    ("VOC", "PCM_U8"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III"),
]  # fmt: skip
MEDIA = [
    ("mp4", "aac", 16_000), ("adts", "aac", 16_000), ("webm", "libopus", 48_000), ("amr", "libopencore_amrnb", 8_000),
    ("asf", "wmav2", 44_100), ("avi", "pcm_u8", 11_025),
]  # fmt: skip


def _sndfile(form, subtype, seconds=0.3):
    data = io.BytesIO()
    rate = 48_000 if subtype == "OPUS" else 16_000
    sound = tone(int(seconds * rate), rate, 1 if form == "SVX" else 2)
    soundfile.write(data, sound, rate, format=form, subtype=subtype)
    return data.getvalue()


def _heard(data):
    """Hear a file by a caller's own hands, as it comes; a few bytes cannot hold hours."""
    source = io.BytesIO(data)
    check_file(source)
    source.seek(0)
    heard_s = 0.0
    for block in blocks(source, 1.0):
        assert block.samples.dtype == np.float32
        assert np.isfinite(block.samples).all()
        assert len(block.samples) <= block.sample_rate_hz
        heard_s += len(block.samples) / block.sample_rate_hz
        if heard_s > MOST_S:
            return


@pytest.mark.parametrize("family", ["PCM", "FLAC", "OGG", "MP3", "joined"])
def test_a_damaged_recording_is_heard_or_refused(fuzz, family):
    kinds = {
        "PCM": SNDFILE[:12], "FLAC": SNDFILE[12:13], "OGG": SNDFILE[13:15], "MP3": SNDFILE[15:], "joined": SNDFILE[12:],
    }[family]  # fmt: skip
    whole = [_sndfile(*kind) for kind in kinds]
    if family == "joined":
        whole = [one + one for one in whole] + [one + whole[0] for one in whole]
    fuzz(
        f"audio: {family}",
        lambda case: _heard(case.data(case.chosen(whole))),
        whole=len(kinds),  # of those joined, one and another may be of two rates
    )


def test_damaged_media_are_heard_or_refused(fuzz):
    pytest.importorskip("av")
    whole = [made(container, codec, tone(rate // 4, rate, 1), rate) for container, codec, rate in MEDIA]
    fuzz("audio: media", lambda case: _heard(case.data(case.chosen(whole))), whole=len(whole))


def test_a_file_of_any_bytes_is_heard_or_refused(fuzz, tmp_path):
    """By a name, which tells some kinds, and with a beginning that many kinds have."""
    names = ["a.wav", "a.raw", "a.gsm", "a.vox", "a.mp3", "a.flac", "a.au", "a"]
    heads = [
        _sndfile("WAV", "PCM_16"),
        b"",
        b"RIFF",
        b"fLaC",
        b"OggS\0\2",
        b"ID3\4\0\0",
        b"\xff\xfb\x90\x64",
        b"FORM",
        b".snd",
        b"caff",
        b"\0\0\0\x20ftyp",
    ]

    def attempt(case):
        path = tmp_path / (names[0] if case.mild else case.chosen(names))
        _, seed, size = (0, 0, 0) if case.mild else case.edits[0]
        noise = np.random.default_rng(seed).bytes(size % 3000)
        head = 0 if case.mild else case.which // 8 % len(heads)
        path.write_bytes(case.data(heads[head] + noise))
        for _ in blocks(path, 1.0):
            pass

    fuzz("audio: any bytes", attempt)
