"""AAC, Opus in WebM, AMR and the sound of videos, by an extra; without it, one line that names it."""

import io
import logging
import sys

import numpy as np
import pytest
from numpy.typing import NDArray

from edgekit.errors import AudioError
from edgekit.runtime.audio.decoders import media
from edgekit.runtime.audio.files import blocks, check_file

av = pytest.importorskip("av")

Samples = NDArray[np.float32]

# container, codec of the sound, rate, channels, most samples that its encoder adds at both ends
KINDS = [
    ("mp4", "aac", 16_000, 1, 2_048),
    ("mp4", "aac", 44_100, 2, 2_048),
    ("ipod", "aac", 48_000, 2, 2_048),
    ("adts", "aac", 16_000, 1, 3_072),
    ("webm", "libopus", 48_000, 2, 1_960),
    ("matroska", "aac", 22_050, 1, 3_072),
    ("mov", "pcm_s16le", 8_000, 1, 0),
    ("amr", "libopencore_amrnb", 8_000, 1, 320),
    ("asf", "wmav2", 44_100, 2, 6_144),
    ("avi", "pcm_u8", 11_025, 1, 0),
    ("matroska", "wavpack", 16_000, 6, 0),
    ("matroska", "wavpack", 16_000, 8, 0),  # as many planes as a frame has places for
]
LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}
IDS = [f"{container}-{codec}-{rate}-{channels}" for container, codec, rate, channels, _ in KINDS]


def tone(samples: int, rate: int, channels: int) -> Samples:
    return np.stack([0.4 * np.sin(2 * np.pi * (300 + 200 * k) * np.arange(samples) / rate) for k in range(channels)], 1)


def made(container: str, codec: str, sound: Samples, rate: int, *, picture: bool = False, tracks: int = 1) -> bytes:
    data = io.BytesIO()
    layout = LAYOUTS[sound.shape[1]]
    with av.open(data, "w", format=container) as output:
        video = output.add_stream("mpeg4", rate=5) if picture else None
        if video:
            video.width = video.height = 64
        streams = [output.add_stream(codec, rate=rate, layout=layout) for _ in range(tracks)]
        for stream in streams:
            if codec == "wmav2":
                stream.bit_rate = 64_000
        for number in range(len(sound) * 5 // rate if video else 0):
            image = av.VideoFrame.from_ndarray(np.full((64, 64, 3), number, np.uint8), "rgb24")
            output.mux(video.encode(image))
        if video:
            output.mux(video.encode(None))
        for stream in streams:
            codes = np.round(sound * 32_767).astype(np.int16).reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(codes, format="s16", layout=layout)
            frame.sample_rate = rate
            fifo = av.AudioFifo()
            resampler = av.AudioResampler(stream.codec_context.format.name, layout, rate)
            for piece in resampler.resample(frame):
                fifo.write(piece)
            size = stream.codec_context.frame_size or 1_024
            while (piece := fifo.read(size) or fifo.read(size, partial=True)) is not None:
                output.mux(stream.encode(piece))
            output.mux(stream.encode(None))
    return data.getvalue()


def heard(data: bytes, seconds: float = 0.1) -> tuple[Samples, int]:
    found = list(blocks(io.BytesIO(data), seconds))
    return np.concatenate([block.samples for block in found]), found[0].sample_rate_hz


@pytest.mark.parametrize(("container", "codec", "rate", "channels", "added"), KINDS, ids=IDS)
def test_the_whole_sound_is_heard_at_its_own_rate(
    container: str, codec: str, rate: int, channels: int, added: int
) -> None:
    """Every window of 50 ms has the loudness of the tone: tolerance, what the codec does to it."""
    count = 2 * rate + 777
    found, found_rate = heard(made(container, codec, tone(count, rate, channels), rate))
    assert (found_rate, found.shape[1], found.dtype) == (rate, channels, np.float32)
    cut_off = 2_048 if codec == "wmav2" else 0  # its encoder drops a last frame that is not whole
    assert count - cut_off <= len(found) <= count + added
    middle = found[added + rate // 20 : count - rate // 20]
    windows = middle[: len(middle) // (rate // 20) * (rate // 20)].reshape(-1, rate // 20, channels)
    np.testing.assert_allclose(np.sqrt(np.mean(windows**2, axis=1)), 0.4 / np.sqrt(2), rtol=0.2)


@pytest.mark.parametrize(("container", "codec"), [("mp4", "aac"), ("matroska", "aac"), ("mov", "pcm_s16le")])
def test_of_a_video_the_sound_is_heard_whatever_pieces_it_is_read_in(container: str, codec: str) -> None:
    data = made(container, codec, tone(50_001, 16_000, 1), 16_000, picture=True)
    whole, _ = heard(data, 10.0)
    assert 50_001 <= len(whole) <= 50_001 + 3_072
    for seconds in (0.013, 0.5):
        np.testing.assert_array_equal(heard(data, seconds)[0], whole)


@pytest.mark.parametrize(("container", "codec", "rate"), [("mp4", "aac", 16_000), ("webm", "libopus", 48_000)])
def test_a_media_file_that_was_cut_is_called_truncated(container: str, codec: str, rate: int) -> None:
    data = made(container, codec, tone(5 * rate, rate, 1), rate)
    with pytest.raises(AudioError, match="^audio: truncated, "):
        heard(data[: len(data) * 3 // 5])


def test_damage_ends_with_an_error_after_what_was_heard() -> None:
    data = bytearray(made("mov", "pcm_s16le", tone(50_001, 16_000, 1), 16_000))
    whole = len(heard(bytes(data))[0])
    aac = bytearray(made("adts", "aac", tone(50_001, 16_000, 1), 16_000))
    aac[len(aac) // 2 :] = np.random.default_rng(3).bytes(len(aac) - len(aac) // 2)
    position = 0
    with pytest.raises(AudioError, match="copy or record it again"):  # noqa: PT012 - counts what comes before
        for block in blocks(io.BytesIO(bytes(aac)), 0.1):
            position += len(block.samples)
    assert 10_000 < position < whole


def test_of_several_tracks_the_first_is_heard_and_it_is_said(caplog: pytest.LogCaptureFixture) -> None:
    found, _ = heard(made("matroska", "aac", tone(20_000, 16_000, 1), 16_000, tracks=2))
    assert len(found) < 24_000
    assert [record.getMessage() for record in caplog.records] == ["audio: 2 sound tracks, the first is heard"]


def test_a_video_without_sound_and_what_only_looks_like_media_are_one_line() -> None:
    silent = io.BytesIO()
    with av.open(silent, "w", format="mp4") as output:
        video = output.add_stream("mpeg4", rate=5)
        video.width = video.height = 64
        output.mux(video.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), "rgb24")))
        output.mux(video.encode(None))
    for data, said in ((silent.getvalue(), "no sound in it"), (b"\x1a\x45\xdf\xa3" + bytes(500), "Invalid data")):
        with pytest.raises(AudioError, match=f"^audio: {said}.*; convert it first") as caught:
            check_file(io.BytesIO(data))
        assert "\n" not in str(caught.value)


def test_a_playlist_opens_no_other_file(tmp_path) -> None:
    (tmp_path / "part.ts").write_bytes(made("mpegts", "aac", tone(20_000, 16_000, 1), 16_000))
    playlist = tmp_path / "list.m3u8"
    playlist.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\npart.ts\n#EXT-X-ENDLIST\n")
    with pytest.raises(AudioError, match=r"list\.m3u8: Format not recognised; convert it first"):
        check_file(playlist)


def test_nothing_is_printed_by_the_libraries(capfd: pytest.CaptureFixture[str]) -> None:
    logging.disable(logging.CRITICAL)
    try:
        data = bytearray(made("mp4", "aac", tone(50_001, 16_000, 1), 16_000))
        for at in range(3_000, len(data), 211):
            data[at] ^= 0xA5
        with pytest.raises(AudioError):
            heard(bytes(data))
    finally:
        logging.disable(logging.NOTSET)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", KINDS, ids=IDS)
def test_without_the_extra_one_line_names_it_and_a_command(
    monkeypatch: pytest.MonkeyPatch, kind: tuple[str, str, int, int, int]
) -> None:
    container, codec, rate, channels, _ = kind
    data = made(container, codec, tone(rate // 4, rate, channels), rate)
    monkeypatch.setitem(sys.modules, "av", None)
    assert not media.is_installed()
    with pytest.raises(AudioError) as caught:
        check_file(io.BytesIO(data))
    assert "libsndfile does not read it; `pip install 'edgekit-audio[media]'`, or convert it first" in str(caught.value)
    assert "`ffmpeg -i FILE talk.wav`" in str(caught.value)
