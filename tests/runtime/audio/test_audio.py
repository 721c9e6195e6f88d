"""Audio files, resampling and the microphone, the latter on a stand-in for PortAudio."""

import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgekit.errors import AudioError, DeviceError, MissingPackageError, UsageError
from edgekit.runtime.audio.files import blocks, read_audio, read_mono
from edgekit.runtime.audio.microphone import Microphone
from edgekit.runtime.hear.downmix import to_mono
from edgekit.runtime.hear.resampler import Resampler
from tests.runtime.audio.portaudio import FakePortAudio

Samples = NDArray[np.float32]


def sound(samples: int, channels: int = 1) -> Samples:
    rng = np.random.default_rng(samples + channels)
    return (0.2 * rng.standard_normal((samples, channels))).clip(-0.99, 0.99).astype(np.float32)


@pytest.mark.parametrize(
    ("suffix", "subtype", "step"),
    [
        ("wav", "PCM_U8", 2**-7),
        ("wav", "PCM_16", 2**-15),
        ("wav", "PCM_24", 2**-23),
        ("wav", "FLOAT", 0.0),
        ("wav", "DOUBLE", 0.0),
        ("flac", "PCM_16", 2**-15),
        ("flac", "PCM_24", 2**-23),
    ],
)
@pytest.mark.parametrize("layout", [(16_000, 1), (96_000, 2), (8_000, 8), (44_100, 1)])
def test_a_file_is_read_as_it_was_written(
    tmp_path: Path, suffix: str, subtype: str, step: float, layout: tuple[int, int]
) -> None:
    """Tolerance: one step of the stored precision."""
    rate, channels = layout
    path = tmp_path / f"talk.{suffix}"
    soundfile.write(path, sound(1_001, channels), rate, subtype=subtype)
    audio = read_audio(path)
    assert (audio.samples.shape, audio.samples.dtype, audio.sample_rate_hz) == ((1_001, channels), np.float32, rate)
    np.testing.assert_allclose(audio.samples, sound(1_001, channels), rtol=0, atol=step)


def test_ten_channels_are_read(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "array.wav", sound(100, 10), 48_000)
    assert read_audio(tmp_path / "array.wav").samples.shape == (100, 10)


def test_a_file_of_any_rate_and_channels_is_read_as_mono_at_the_rate_that_is_wanted(tmp_path: Path) -> None:
    """Tolerance: the resampler may round the length to one sample more or less."""
    soundfile.write(tmp_path / "same.wav", sound(1_001, 2), 16_000, subtype="FLOAT")
    np.testing.assert_array_equal(read_mono(tmp_path / "same.wav", 16_000), to_mono(sound(1_001, 2)))
    soundfile.write(tmp_path / "fast.wav", sound(48_000, 2), 48_000)
    for rate in (8_000, 16_000, 24_000, 44_100):
        assert abs(len(read_mono(tmp_path / "fast.wav", rate)) - rate) <= 1


def test_a_file_that_the_system_refuses_is_an_audio_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AudioError, match="File name too long, a readable file is needed"):
        read_audio(tmp_path / ("x" * 300))
    path = tmp_path / "secret.wav"
    soundfile.write(path, sound(100), 16_000)

    def refuse(*_arguments: object) -> None:  # the superuser, who may run this, is refused nothing
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(AudioError, match=r"secret\.wav: Permission denied, a readable file is needed"):
        read_audio(path)


def test_more_channels_than_any_recording_has_are_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "most.wav", sound(100, 64), 16_000)
    assert read_mono(tmp_path / "most.wav", 16_000).shape == (100,)
    soundfile.write(tmp_path / "many.wav", sound(100, 65), 16_000)
    with pytest.raises(AudioError, match=r"many\.wav: 65 channels, at most 64 are heard; mix it down"):
        read_audio(tmp_path / "many.wav")
    with pytest.raises(UsageError, match="65 channels, at most 64 are heard; transpose"):
        Resampler(16_000, 65, rate_out=16_000)


def test_ogg_is_read(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "talk.ogg", sound(40_000), 16_000)
    assert read_audio(str(tmp_path / "talk.ogg")).samples.shape == (40_000, 1)


def test_one_sample_is_enough(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "talk.wav", sound(1), 16_000)
    assert read_audio(tmp_path / "talk.wav").samples.shape == (1, 1)


@pytest.mark.parametrize("samples", [1, 1_599, 1_600, 1_601])
def test_blocks_are_the_file_in_pieces(tmp_path: Path, samples: int) -> None:
    soundfile.write(tmp_path / "talk.flac", sound(samples, 2), 16_000)
    pieces = list(blocks(tmp_path / "talk.flac", 0.1))
    assert [len(piece.samples) for piece in pieces] == [1_600] * (samples // 1_600) + [samples % 1_600][
        : samples % 1_600
    ]
    whole = read_audio(tmp_path / "talk.flac").samples
    np.testing.assert_array_equal(np.concatenate([piece.samples for piece in pieces]), whole)


def test_blocks_hold_one_piece_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "long.wav"
    soundfile.write(path, np.zeros(600 * 8_000, np.int16), 8_000)  # 19 MB as float32
    peaks = []
    for _ in range(3):  # another test's thread may allocate meanwhile
        tracemalloc.start()
        seconds = sum(len(piece.samples) / piece.sample_rate_hz for piece in blocks(path, 1.0))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert seconds == 600
    assert min(peaks) < 1_000_000


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.99])
def test_a_truncated_file_is_refused(tmp_path: Path, suffix: str, kept: float) -> None:
    path = tmp_path / f"talk.{suffix}"
    soundfile.write(path, sound(40_000), 16_000)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(AudioError, match=f"{path}: (truncated|damaged)"):
        read_audio(path)


def test_an_ogg_file_without_its_last_page_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "talk.ogg"
    soundfile.write(path, sound(200_000), 16_000)
    data = path.read_bytes()
    path.write_bytes(data[: data.rindex(b"OggS")])
    with pytest.raises(AudioError, match="truncated"):
        read_audio(path)


def test_a_wave_file_cut_inside_its_header_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "talk.wav"
    soundfile.write(path, sound(100), 16_000)
    path.write_bytes(path.read_bytes()[:30])
    with pytest.raises(AudioError, match="truncated"):
        read_audio(path)


@pytest.mark.parametrize("length", [b"\xff\xff\xff\xff", b"\x00\xf0\xff\x7f"])
def test_a_wave_file_from_a_pipe_is_read_to_its_end(tmp_path: Path, length: bytes) -> None:
    path = tmp_path / "talk.wav"
    soundfile.write(path, sound(100), 16_000, subtype="PCM_16")
    data = path.read_bytes()
    start = data.index(b"data") + 4
    path.write_bytes(data[:4] + length + data[8:start] + length + data[start + 4 :])
    assert read_audio(path).samples.shape == (100, 1)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"empty.*record it again"),
        (b"hello, this is a letter and no sound at all", r"convert it first.*ffmpeg"),
        (b"\x00" * 5_000, r"convert it first.*ffmpeg"),
        (b"OggS", r"truncated.*copy"),
        (b"fLaC\x00\x00", r"convert it first.*ffmpeg"),
    ],
)
def test_what_is_not_audio_is_refused_in_one_line(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "talk.wav"
    path.write_bytes(data)
    with pytest.raises(AudioError, match=message) as caught:
        read_audio(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_a_file_without_samples_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"talk.{suffix}"
    soundfile.write(path, np.zeros(0, np.float32), 16_000)
    with pytest.raises(AudioError, match=r"no samples|empty"):
        read_audio(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path, said in ((tmp_path, "is a folder, .*give the files in it"), (tmp_path / "none.wav", "no such file")):
        with pytest.raises(AudioError, match=said):
            read_audio(path)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("index", [0, 1_600, 4_999])
def test_a_sample_that_is_not_finite_is_named(tmp_path: Path, bad: float, index: int) -> None:
    path = tmp_path / "talk.wav"
    samples = sound(5_000, 2)
    samples[index, 1] = bad
    soundfile.write(path, samples, 16_000, subtype="FLOAT")
    with pytest.raises(AudioError, match=f"{path}: sample {index} is NaN or infinite"):
        list(blocks(path, 0.1))
    resampler = Resampler(16_000, 2, str(path), rate_out=16_000)
    resampler.push(samples[:index])
    with pytest.raises(AudioError, match=f"{path}: sample {index} is NaN or infinite"):
        resampler.push(samples[index:])


def test_mono_is_the_mean_of_the_channels() -> None:
    np.testing.assert_array_equal(to_mono(np.array([[1, 0, 0.5], [0, 0, 0]], np.float32)), [0.5, 0])
    np.testing.assert_array_equal(to_mono(np.array([[0.1], [0.2]], np.float32)), np.array([0.1, 0.2], np.float32))


def resample(samples: Samples, rate: int, cuts: list[int] | None = None) -> Samples:
    resampler = Resampler(rate, samples.shape[1], rate_out=16_000)
    parts = [resampler.push(part) for part in np.split(samples, sorted(cuts or []))]
    return np.concatenate([*parts, resampler.finish()])


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 22_050, 44_100, 48_000, 96_000, 1_000])
@pytest.mark.parametrize("samples", [0, 1, 2, 319, 320, 321, 5_000])
def test_the_length_follows_the_rate(rate: int, samples: int) -> None:
    resampled = resample(sound(samples), rate)
    assert resampled.dtype == np.float32
    assert resampled.size == pytest.approx(samples * 16_000 / rate, abs=max(1.0, 16_000 / rate))


@pytest.mark.parametrize("rate", [8_000, 44_100, 48_000])
def test_a_tone_keeps_its_pitch_time_and_level(rate: int) -> None:
    """Tolerance: ripple of the resampler's filter, away from the two ends."""
    seconds = np.arange(rate) / rate
    tone = (0.5 * np.sin(2 * np.pi * 440 * seconds)).astype(np.float32)[:, None]
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)
    np.testing.assert_allclose(resample(tone, rate)[1_000:-1_000], expected[1_000:-1_000], atol=1e-4)


def test_another_rate_comes_out_where_it_is_asked_for() -> None:
    """Tolerance: ripple of the resampler's filter, away from the two ends."""
    tone = (0.5 * np.sin(2 * np.pi * 440 * np.arange(24_000) / 24_000)).astype(np.float32)
    resampler = Resampler(24_000, 1, rate_out=48_000)
    doubled = np.concatenate([resampler.push(tone), resampler.finish()])
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(48_000) / 48_000)
    np.testing.assert_allclose(doubled[1_000:-1_000], expected[1_000:-1_000], atol=1e-4)
    same = Resampler(24_000, 1, rate_out=24_000)
    np.testing.assert_array_equal(np.concatenate([same.push(tone), same.finish()]), tone)


def test_16_khz_passes_unchanged() -> None:
    np.testing.assert_array_equal(resample(sound(1_001), 16_000), sound(1_001)[:, 0])


def test_a_flat_mono_array_is_taken_too() -> None:
    resampler = Resampler(16_000, 1, rate_out=16_000)
    np.testing.assert_array_equal(
        np.concatenate([resampler.push(sound(321)[:, 0]), resampler.finish()]), sound(321)[:, 0]
    )


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    rate=st.sampled_from([8_000, 16_000, 22_050, 44_100, 96_000]),
    channels=st.sampled_from([1, 2, 10]),
    samples=st.sampled_from([0, 1, 439, 440, 441, 10_000]),
    cuts=st.lists(st.integers(0, 10_000), max_size=12),
)
def test_any_split_gives_the_same_bits(rate: int, channels: int, samples: int, cuts: list[int]) -> None:
    whole = resample(sound(samples, channels), rate)
    split = resample(sound(samples, channels), rate, [min(cut, samples) for cut in cuts])
    assert split.tobytes() == whole.tobytes()


def test_single_samples_give_the_same_bits() -> None:
    assert (
        resample(sound(2_000, 2), 44_100, list(range(1, 2_000))).tobytes()
        == resample(sound(2_000, 2), 44_100).tobytes()
    )


def test_after_finish_it_starts_afresh() -> None:
    resampler = Resampler(44_100, 1, rate_out=16_000)
    first = np.concatenate([resampler.push(sound(5_000)), resampler.finish()])
    second = np.concatenate([resampler.push(sound(5_000)), resampler.finish()])
    assert first.tobytes() == second.tobytes()
    with pytest.raises(AudioError, match="sample 0 "):
        resampler.push(np.full((1, 1), np.nan, np.float32))


def test_sound_of_another_shape_is_refused() -> None:
    resampler = Resampler(16_000, 2, rate_out=16_000)
    for samples in (np.zeros(4, np.float32), np.zeros((4, 3), np.float32)):
        with pytest.raises(UsageError, match=r"\(n, 2\) was announced"):
            resampler.push(samples)
    with pytest.raises(UsageError, match="^input: 0 channels, at least 1 is needed; give their number$"):
        Resampler(16_000, 0, rate_out=16_000)


@pytest.mark.parametrize("rate", [0, -16_000, 999, 768_001, 10**12])
def test_a_rate_that_no_recording_has_is_one_line_wherever_it_comes_from(rate: int, tmp_path: Path) -> None:
    rule = f"{rate} Hz, a whole number from 1,000 to 768,000 Hz is heard"
    with pytest.raises(UsageError, match=f"^talk: {rule}; give the rate that the samples have$"):
        Resampler(rate, 1, "talk", rate_out=16_000)
    if 0 < rate < 10**6:
        path = tmp_path / "talk.au"
        soundfile.write(path, sound(100), rate)
        with pytest.raises(AudioError, match=f"^{path}: {rule}; resample it first, e.g. `ffmpeg -i talk.au -ar 16000"):
            read_audio(path)


@pytest.mark.parametrize("rate", [1_000, 768_000])
def test_the_bounds_themselves_are_heard(rate: int, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "talk.au", sound(rate // 10), rate)
    assert len(read_mono(tmp_path / "talk.au", 16_000)) == pytest.approx(1_600, abs=16)


def test_a_microphone_hands_out_what_was_recorded() -> None:
    portaudio = FakePortAudio()
    with Microphone(portaudio=portaudio, channels=2) as microphone:
        assert microphone.sample_rate_hz == 16_000
        assert not microphone.wait(0)
        portaudio.stream.record(sound(100, 2))
        portaudio.stream.record(sound(50, 2), overflow=True)
        assert microphone.wait(0)
        np.testing.assert_array_equal(microphone.read(120), np.concatenate([sound(100, 2), sound(50, 2)])[:120])
        assert microphone.read(120).shape == (30, 2)
        assert microphone.read(120).shape == (0, 2)
        assert (microphone.overflows, microphone.dropped_samples) == (1, 0)
    assert not portaudio.stream.running


def test_a_late_reader_loses_the_oldest_samples_and_learns_how_many() -> None:
    portaudio = FakePortAudio()
    with Microphone(portaudio=portaudio, channels=2, buffer_s=0.01) as microphone:  # 160 samples
        portaudio.stream.record(sound(100, 2))
        portaudio.stream.record(sound(100, 2))
        assert microphone.dropped_samples == 100
        np.testing.assert_array_equal(microphone.read(1_000), sound(100, 2))


def test_a_device_without_16_khz_records_at_its_own_rate() -> None:
    portaudio = FakePortAudio(rates=(48_000,))
    assert Microphone(portaudio=portaudio).sample_rate_hz == 48_000
    assert portaudio.stream.settings["samplerate"] == 48_000


def test_no_microphone_is_told() -> None:
    with pytest.raises(DeviceError, match=r"none found.*plug one in"):
        Microphone(portaudio=FakePortAudio(present=False))


def test_a_busy_microphone_is_told() -> None:
    portaudio = FakePortAudio(busy=True)
    with pytest.raises(DeviceError, match=r"busy.*stop that program"), Microphone(portaudio=portaudio):
        pass


def test_too_few_channels_are_told() -> None:
    with pytest.raises(DeviceError, match="2 channels, 4 asked for"):
        Microphone(portaudio=FakePortAudio(), channels=4)


def test_an_unplugged_microphone_is_told_once_its_samples_are_read() -> None:
    portaudio = FakePortAudio()
    with Microphone(portaudio=portaudio) as microphone:
        portaudio.stream.record(sound(10))
        portaudio.stream.unplug()
        assert microphone.wait(60)
        microphone.read(10)
        with pytest.raises(DeviceError, match="check its plug"):
            microphone.wait(60)


def test_missing_portaudio_and_missing_package_say_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    (tmp_path / "sounddevice.py").write_text("raise OSError('PortAudio library not found')\n")
    with pytest.raises(DeviceError, match="apt install libportaudio2"):
        Microphone()
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'edgekit-audio\[mic\]'"):
        Microphone()
