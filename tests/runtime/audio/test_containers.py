"""Whole files: what headers say too little, too much or nothing of is heard to its end, or the missing part is said."""

import io
import logging
import os
import struct
import threading
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgekit.errors import AudioError
from edgekit.runtime.audio import containers, files
from edgekit.runtime.audio.containers import Splice
from edgekit.runtime.audio.files import at_rest, blocks, check_file, read_audio, shown

Samples = NDArray[np.float32]
RATE = 16_000


def noise(samples: int, channels: int = 1) -> Samples:
    rng = np.random.default_rng(samples + channels)
    return (0.2 * rng.standard_normal((samples, channels))).clip(-0.9, 0.9).astype(np.float32)


def stored(samples: Samples, kind: str, subtype: str | None = None, rate: int = RATE, **how: object) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, subtype=subtype, format=kind, **how)
    return file.getvalue()


def heard(data: bytes, seconds: float = 0.1) -> Samples:
    return np.concatenate([block.samples for block in blocks(io.BytesIO(data), seconds)])


def refused(data: bytes) -> tuple[int, str]:
    """Return how many samples are heard before the error, and what it says."""
    position = 0
    try:
        for block in blocks(io.BytesIO(data), 0.1):
            position += len(block.samples)
    except AudioError as error:
        return position, str(error)
    pytest.fail("heard as if whole")


def put(data: bytes, at: int, value: bytes) -> bytes:
    return data[:at] + value + data[at + len(value) :]


def varied(samples: int) -> Samples:
    """Return silence and then noise, whose frames in MP3 are of different lengths."""
    sound = noise(samples)
    sound[: samples // 3] *= 1e-3
    return sound


def mp3(samples: Samples, *, tag: bool = True, rate: int = RATE) -> bytes:
    data = stored(samples, "MP3", rate=rate, bitrate_mode="VARIABLE")
    at = data.find(b"Xing") if b"Xing" in data else data.find(b"Info")
    header = data.rfind(b"\xff", 0, at - 8)
    assert 0 <= header < at < 100
    second = data.find(data[header : header + 2], at)
    return data if tag else data[second:]


# Kinds that state how long they are, and where: at a position, so many bytes, in this order.
STATED = ("WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "SVX", "VOC", "NIST", "FLAC", "OGG", "MP3")


@pytest.mark.parametrize("kind", STATED)
@pytest.mark.parametrize("kept", [0.3, 0.61, 0.95])
def test_a_cut_file_is_called_truncated_whatever_its_kind(kind: str, kept: float) -> None:
    data = stored(noise(40_001), kind)
    assert len(heard(data)) == 40_001
    _, message = refused(data[: int(len(data) * kept)])
    assert message.startswith("audio: truncated, ")


@pytest.mark.parametrize("kind", ["WAV", "W64", "AIFF", "AU", "FLAC", "OGG", "MP3"])
def test_files_that_were_joined_are_heard_to_the_end_of_the_last(kind: str) -> None:
    first, second, third = (stored(noise(count), kind) for count in (20_011, 9_999, 1_601))
    found = heard(first + second + third)
    assert found.shape == (31_611, 1)
    np.testing.assert_array_equal(found, np.concatenate([heard(first), heard(second), heard(third)]))


def test_files_of_different_kinds_are_told_apart_where_they_were_joined() -> None:
    parts = [stored(noise(2_001), kind) for kind in ("WAV", "AU", "AIFF", "W64", "OGG", "RF64", "MP3")]
    assert len(heard(b"".join(parts))) == 7 * 2_001


@pytest.mark.parametrize(("rate", "channels"), [(8_000, 1), (RATE, 2)])
def test_a_joined_file_of_another_rate_or_channels_ends_with_one_line(rate: int, channels: int) -> None:
    data = stored(noise(3_001), "WAV") + stored(noise(999, channels), "WAV", rate=rate)
    position, message = refused(data)
    assert position == 3_001
    assert message.startswith(f"audio: after 3001 samples of 16000 Hz and 1 channels, {rate} Hz and {channels} follow;")


@pytest.mark.parametrize("kind", ["FLAC", "OGG", "MP3"])
def test_the_second_of_two_joined_files_may_be_cut(kind: str) -> None:
    first, second = stored(noise(20_011), kind), stored(noise(20_011), kind)
    _, message = refused(first + second[: len(second) // 2])
    assert "truncated" in message


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
def test_mp3_without_a_tag_is_heard_frame_by_frame_to_its_end(rate: int) -> None:
    """The encoder's delay and its filling are heard too: nothing says how long they are."""
    data = mp3(varied(3 * rate), tag=False, rate=rate)
    found = heard(data)
    assert 3 * rate + 1_000 < len(found) < 3 * rate + 4_000
    assert len(found) % 576 == 0
    whole = heard(mp3(varied(3 * rate), rate=rate))
    assert len(whole) == 3 * rate
    np.testing.assert_allclose(found[1_105 : 1_105 + len(whole)], whole, atol=1e-5)


def test_mp3_with_and_without_tags_may_be_joined_in_any_order() -> None:
    tagged, plain = mp3(varied(20_000)), mp3(varied(30_000), tag=False)
    alone = len(heard(plain))
    assert len(heard(plain + plain)) == 2 * alone
    assert len(heard(plain + tagged)) == alone + 20_000
    # what follows has no tag of its own, so that the delay of the first alone is left out
    behind = len(heard(tagged + plain))
    assert 20_000 + alone <= behind <= 20_000 + alone + 2 * 1_152


def test_tags_between_joined_mp3_files_are_no_damage(caplog: pytest.LogCaptureFixture) -> None:
    tags = b"TAG" + b"x" * 125 + b"ID3\x04\0\0\0\0\0\x05title"
    data = b"ID3\x03\0\0\0\0\x01\x00" + b"\xff\xfb" * 64 + mp3(varied(9_999)) + tags + mp3(varied(8_001)) + bytes(999)
    assert len(heard(data)) == 18_000
    assert not caplog.records


def test_damage_between_mp3_frames_is_said_and_the_rest_is_heard(caplog: pytest.LogCaptureFixture) -> None:
    data = mp3(varied(40_000), tag=False)
    spoilt = data[: len(data) // 2] + b"junk" * 50 + data[len(data) // 2 :]
    assert len(heard(data)) - 2_400 < len(heard(spoilt)) <= len(heard(data))
    assert "bytes between its frames are left out" in caplog.text


def test_a_tag_that_counts_too_few_frames_does_not_end_the_reading() -> None:
    data = mp3(varied(40_000))
    at = max(data.find(b"Xing"), data.find(b"Info")) + 8
    frames = int.from_bytes(data[at : at + 4], "big")
    assert len(heard(put(data, at, (frames - 20).to_bytes(4, "big")))) >= 40_000
    there = f"{frames} of {frames + 20} frames are there"
    samples, message = refused(put(data, at, (frames + 20).to_bytes(4, "big")))
    assert samples >= 40_000
    assert message == f"audio: truncated, it is shorter than its header says: {there}; copy or record it again"


def test_an_mp3_file_is_the_same_whatever_pieces_it_is_read_in(capfd: pytest.CaptureFixture[str]) -> None:
    data = mp3(varied(30_000), tag=False)
    whole = heard(data, 10.0)
    for seconds in (0.0101, 0.02, 0.3):
        np.testing.assert_array_equal(heard(data, seconds), whole)
    assert capfd.readouterr() == ("", "")


def test_a_damaged_mp3_frame_is_said_by_us_alone(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    data = bytearray(mp3(varied(60_000), tag=False))
    for at in range(300, len(data), 97):
        if data[at - 2 : at + 3].find(b"\xff") < 0:  # headers stay
            data[at] ^= 0x5A
    heard(bytes(data))
    assert "damaged frames, silent or wrong: " in caplog.text
    assert capfd.readouterr() == ("", "")


def test_flac_of_unknown_length_is_read_to_its_end() -> None:
    data = stored(noise(30_011), "FLAC")
    unknown = put(put(data, 21, bytes([data[21] & 0xF0])), 22, bytes(4))
    np.testing.assert_array_equal(heard(unknown), heard(data))
    np.testing.assert_array_equal(heard(unknown + b"TAG" + bytes(125)), heard(data))
    assert len(heard(unknown + unknown)) == 60_022


LENGTHS = [0, 0xFFFF_FFFF, 0x7FFF_F000]


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("outer", [36, 0, 0xFFFF_FFFF])
def test_a_wave_file_whose_header_was_never_finished_is_read_to_its_end(length: int, outer: int) -> None:
    data = stored(noise(3_201), "WAV", "PCM_16")
    assert data[36:40] == b"data"
    assert len(heard(put(put(data, 4, struct.pack("<I", outer)), 40, struct.pack("<I", length)))) == 3_201


def test_a_wave_file_that_holds_nothing_and_says_so_has_no_samples() -> None:
    notes = b"LIST" + struct.pack("<I", 400) + bytes(400)
    data = stored(noise(0), "WAV", "PCM_16")[:44] + notes
    assert "no samples in it" in refused(put(data, 4, struct.pack("<I", len(data) - 8)))[1]


def test_headers_that_were_never_finished_are_read_to_the_end_whatever_their_kind() -> None:
    au = stored(noise(1_001), "AU", "PCM_16")
    aiff = stored(noise(1_001), "AIFF", "PCM_16")
    common, sound = aiff.find(b"COMM"), aiff.find(b"SSND")
    long = stored(noise(1_001), "RF64", "PCM_16")
    ds64 = long.find(b"ds64") + 8
    w64 = stored(noise(1_001), "W64", "PCM_16")
    caf = stored(noise(1_001), "CAF", "PCM_16")
    open_files = {
        "AU": put(au, 8, b"\xff\xff\xff\xff"),
        "AU of 0": put(au, 8, bytes(4)),
        "AIFF": put(put(put(aiff, 4, bytes(4)), common + 10, bytes(4)), sound + 4, bytes(4)),
        "RF64": put(long, ds64, bytes(24)),
        "W64": put(put(w64, 16, b"\xff" * 8), w64.find(b"data\xf3") + 16, b"\xff" * 8),
        "CAF": put(caf, caf.find(b"data") + 4, b"\xff" * 8),
    }
    assert {name: len(heard(data)) for name, data in open_files.items()} == dict.fromkeys(open_files, 1_001)


def test_what_follows_the_end_that_a_header_states_is_said_unless_it_is_notes() -> None:
    data = stored(noise(5_001), "WAV", "PCM_16")
    for harmless in (b"", b"\0" * 999, b"TAG" + b"x" * 125, b"bext" + struct.pack("<I", 6) + b"by me!"):
        assert len(heard(data + harmless)) == 5_001
    position, message = refused(data + np.full(600, 777, np.int16).tobytes())
    assert position == 5_001
    assert message == "audio: truncated, 1200 bytes follow the end that its header states; copy or record it again"


def test_flac_whose_header_states_too_few_samples_is_not_taken_for_whole() -> None:
    data = stored(noise(200_000), "FLAC")
    position, message = refused(put(data, 22, (100_000).to_bytes(4, "big")))
    assert position == 100_000
    assert "bytes follow the 100000 samples that its header states" in message


def test_ogg_without_one_of_its_pages_is_called_truncated() -> None:
    data = stored(noise(200_000), "OGG")
    pages = [at for at in range(len(data)) if data.startswith(b"OggS", at)]
    middle = len(pages) // 2
    assert "truncated" in refused(data[: pages[middle]] + data[pages[middle + 1] :])[1]


def test_a_wave_file_of_another_order_is_measured_too(tmp_path: Path) -> None:
    path = tmp_path / "talk.wav"
    soundfile.write(path, noise(1_001), RATE, endian="BIG", subtype="PCM_16")
    data = path.read_bytes()
    assert data[:4] == b"RIFX"
    assert len(heard(data)) == 1_001
    assert "truncated" in refused(data[:900])[1]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.data())
def test_whatever_is_done_to_a_file_it_is_heard_or_refused_in_one_line(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(STATED))
    file = bytearray(_whole(kind))
    for at, value in data.draw(st.lists(st.tuples(st.integers(0, 199), st.integers(0, 255)), max_size=4)):
        file[at % len(file)] = value
    kept = data.draw(st.integers(0, len(file)))
    logging.disable(logging.WARNING)
    try:
        heard(bytes(file[:kept]))
    except AudioError as error:
        lines = str(error).count("\n")
    else:
        lines = 0
    finally:
        logging.disable(logging.NOTSET)
    assert lines == 0


_WHOLE: dict[str, bytes] = {}


def _whole(kind: str) -> bytes:
    if kind not in _WHOLE:
        _WHOLE[kind] = stored(noise(1_999), kind)
    return _WHOLE[kind]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 15))), st.lists(st.integers(-3, 60)))
def test_a_splice_is_the_bytes_of_its_pieces(parts: list[tuple[int, int]], places: list[int]) -> None:
    whole = bytes(range(60))
    pieces = [range(a, min(60, a + n)) if a % 2 else whole[a : a + n] for a, n in parts]
    expected = b"".join(p if isinstance(p, bytes) else whole[p.start : p.stop] for p in pieces)
    splice = Splice(io.BytesIO(whole), pieces)
    assert splice.read() == expected
    for place in places:
        splice.seek(place)
        assert splice.read(7) == expected[max(0, place) :][:7]
    assert splice.seek(0, io.SEEK_END) == len(expected)


def test_a_disk_that_fails_in_the_middle_ends_the_file_with_its_words(capfd: pytest.CaptureFixture[str]) -> None:
    class Failing(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() > 200_000:
                raise OSError(5, "Input/output error")
            return super().read(size)

    with pytest.raises(AudioError, match=r"^audio: \[Errno 5\] Input/output error; check its disk and copy it again$"):
        list(blocks(Failing(stored(noise(200_000), "WAV", "PCM_16")), 1.0))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "MP3"])
def test_a_pipe_is_read_to_its_end(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    data = stored(noise(30_011), kind)
    os.mkfifo(path)
    for read in (lambda: read_audio(path).samples, lambda: _checked(path)):
        writer = threading.Thread(target=path.write_bytes, args=(data,))
        writer.start()
        assert len(read()) == 30_011
        writer.join()


def _checked(path: Path) -> Samples:
    source = at_rest(path)
    check_file(source)
    return np.concatenate([block.samples for block in blocks(source, 1.0)])


@pytest.mark.parametrize(("kind", "subtype", "at"), [("W64", "PCM_16", 40), ("CAF", "PCM_16", 8)])
def test_a_chunk_that_names_a_place_which_no_file_has_is_a_truncated_recording(
    kind: str, subtype: str, at: int
) -> None:
    data = bytearray(stored(noise(100), kind, subtype))
    name, order = (16, "little") if kind == "W64" else (4, "big")
    data[at + name : at + name + 8] = (2**64 - 1 if kind == "W64" else 2**63 - 1).to_bytes(8, order)
    with pytest.raises(AudioError, match="truncated, it is shorter than its header says"):
        heard(bytes(data))


@pytest.mark.parametrize("head", [b"OggS\x01", b"OggS\x01" + bytes(58), b"OggS" + b"\xff" * 300])
def test_what_begins_like_ogg_and_is_none_ends_and_is_refused(head: bytes) -> None:
    with pytest.raises(AudioError, match="^audio: "):
        heard(head)


@pytest.mark.parametrize("name", ["a\0b.wav", "\ud800.wav", "a" * 300 + ".wav"])
def test_a_name_that_no_file_can_have_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(AudioError, match="a readable file is needed; check its path"):
        read_audio(name)


def test_a_pipe_without_an_end_is_refused_when_more_came_than_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MOST_PIPED_BYTES", 3 << 20)
    os.mkfifo(tmp_path / "pipe")

    def write() -> None:
        with (tmp_path / "pipe").open("wb", buffering=0) as pipe, suppress(BrokenPipeError):
            while True:
                pipe.write(bytes(1 << 16))

    writer = threading.Thread(target=write)
    writer.start()
    with pytest.raises(AudioError, match="pipe: more than 3,145,728 bytes are piped in.*write them to a file first"):
        read_audio(tmp_path / "pipe")
    writer.join()


def test_a_device_is_no_recording() -> None:
    with pytest.raises(AudioError, match="^/dev/zero: is a device, a recording is needed"):
        read_audio("/dev/zero")


def test_a_name_that_is_no_text_is_shown_with_escapes(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9\n.wav"))
    path.write_bytes(stored(noise(100), "WAV"))
    assert len(read_audio(path).samples) == 100
    path.write_bytes(b"no sound")
    with pytest.raises(AudioError) as caught:
        read_audio(path)
    assert str(caught.value).startswith(f"{tmp_path}/caf\\xe9\\n.wav: ")
    assert shown("café.wav") == "café.wav"


def test_a_wave_file_under_another_name_is_read_by_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "talk.raw"
    path.write_bytes(stored(noise(100), "WAV"))
    assert len(read_audio(path).samples) == 100
    path.write_bytes(noise(100).tobytes())
    with pytest.raises(
        AudioError, match="samples without a header, .*`ffmpeg -f s16le -ar 16000 -i talk.raw talk.wav`"
    ):
        read_audio(path)


@pytest.mark.parametrize(("value", "said"), [(32_767.0, "32767"), (1e18, "1e+18"), (-17.0, "-17")])
def test_samples_far_beyond_full_scale_are_refused_with_their_place(value: float, said: str, tmp_path: Path) -> None:
    path = tmp_path / "talk.wav"
    samples = noise(5_001)
    samples[4_321] = value
    soundfile.write(path, samples, RATE, subtype="FLOAT")
    with pytest.raises(AudioError) as caught:
        list(blocks(path, 0.1))
    assert str(caught.value) == (
        f"{path}: sample 4321 is {said}, [-1, 1] is full scale; scale it first, e.g. "
        "`ffmpeg -i talk.wav -af volume=1/32768 talk.wav`"
    )


def test_a_file_that_claims_two_samples_a_second_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "slow.wav"
    path.write_bytes(put(put(stored(noise(RATE), "WAV", "PCM_16"), 24, struct.pack("<I", 2)), 28, struct.pack("<I", 4)))
    for look in (read_audio, check_file):
        with pytest.raises(AudioError, match=r"slow\.wav: 2 Hz, a whole number from 1,000 to 768,000 Hz is heard"):
            look(path)


@pytest.mark.parametrize(
    "data",
    [
        b"OggS" * 500_000, b"RIFF\xff\xff\xff\xffWAVE" + b"junk\0\0\0\0" * 250_000,
        b"fLaC\x80\0\0\x22" + b"fLaC" * 500_000,
        b"Creative Voice File\x1a\x1a\x00" + b"\x01\0\0\0" * 500_000, b"\0\0\0\x08ftyp" * 250_000,
        stored(noise(1), "WAV") * 40_000, (b"\xff\xfb\x90\0" + bytes(413)) * 4 + b"\xff\xfb\x90\0" * 500_000,
    ],
    ids=["ogg", "wav", "flac", "voc", "mp4", "joined", "mp3"],
)  # fmt: skip
def test_a_file_of_nothing_but_headers_is_refused_soon(data: bytes) -> None:
    """A hundred megabytes of them kept the threads that decode uploads, and the interpreter, busy for a minute."""
    looks = []

    class Counted(containers.Window):
        def at(self, position: int, count: int) -> bytes:
            looks.append(position)
            return super().at(position, count)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(containers, "Window", Counted)
        with pytest.raises(AudioError):
            check_file(io.BytesIO(data))
    assert len(looks) <= 10_001 + len(data) // 10
