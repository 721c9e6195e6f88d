"""What is kept of what is said: whole utterances, for their owner alone, not for ever, in nobody's way."""

import errno
import json
import logging
import os
import stat
import threading
import wave
from datetime import datetime, timezone

import numpy as np
import pytest

from edgekit.errors import SettingsError
from edgekit.runtime.events import SpeechStarted, SpeechStopped, Text
from edgekit.runtime.options import StreamOptions
from edgekit.serving import record
from edgekit.serving.record import KEPT_S, MOST_S, Recorder
from edgekit.serving.served import waited
from edgekit.serving.server import Server
from edgekit.serving.settings import RecordSettings
from tests.runtime.streams import sound_of

RATE = 1000
NOW = datetime(2026, 3, 4, 5, 6, 7, 250_000, tzinfo=timezone.utc).timestamp()
OPTIONS = StreamOptions(sample_rate_hz=RATE)
DAY_S = 86_400


class Wall:
    """A time of day that stands until it is moved."""

    def __init__(self):
        self.now = NOW

    def __call__(self):
        return self.now


@pytest.fixture
def wall():
    """Return such a clock."""
    return Wall()


@pytest.fixture
def folder(tmp_path):
    """Return the name of a folder that is not there yet."""
    return tmp_path / "said"


def settings(folder, **fields):
    return RecordSettings(dir=str(folder), **fields)


def ramp(count, channels=1):
    """Return samples that tell where they are, as float32."""
    whole = np.arange(count * channels, dtype=np.float32).reshape(count, channels) / 32_768
    return whole[:, 0] if channels == 1 else whole


def utterance(tap, start_s, end_s, text="words"):
    tap.event(SpeechStarted(start_s))
    tap.event(Text(text, final=False, start_s=start_s, end_s=end_s))
    tap.event(SpeechStopped(end_s, end_s + 0.5))
    tap.event(Text(text, final=True, start_s=start_s, end_s=end_s))


def sound_in(path):
    with wave.open(str(path)) as file:
        return np.frombuffer(file.readframes(1 << 20), "<i2").tolist()


def kept(folder):
    return sorted(path.name for path in folder.iterdir())


def test_an_utterance_is_its_sound_and_a_line_that_only_the_owner_reads(folder, wall):
    with Recorder(settings(folder), wall=wall) as recorder:
        tap = recorder.tap("http 1", OPTIONS)
        for piece in np.array_split(ramp(3000), 7):
            tap.pushed(piece)
        utterance(tap, 0.5, 1.75, "grüße")
    name = "20260304T050604750Z-1"  # 2.5 s before all of it was there
    assert kept(folder) == [f"{name}.json", f"{name}.wav"]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    with wave.open(str(folder / f"{name}.wav")) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, RATE)
        assert np.frombuffer(file.readframes(9999), "<i2").tolist() == list(range(500, 1750))
    (line,) = (folder / f"{name}.json").read_text(encoding="utf-8").splitlines()
    said = json.loads(line)
    assert (said["text"], said["stream"], said["wav"], said["seconds"]) == ("grüße", "http 1", f"{name}.wav", 1.25)
    assert said["at"] == "2026-03-04T05:06:04.750+00:00"


def test_sound_of_several_channels_and_of_whole_numbers_is_kept_as_it_came(folder, wall):
    with Recorder(settings(folder), wall=wall) as recorder:
        tap = recorder.tap("a", StreamOptions(sample_rate_hz=RATE, channels=2))
        tap.pushed((ramp(1000, 2) * 32_768).astype(np.int16))
        utterance(tap, 0.2, 0.3)
    with wave.open(str(next(folder.glob("*.wav")))) as file:
        assert file.getnchannels() == 2
        assert np.frombuffer(file.readframes(9999), "<i2").tolist() == list(range(400, 600))


def test_sound_that_is_too_loud_or_no_number_does_not_wrap_round(folder, wall):
    with Recorder(settings(folder), wall=wall) as recorder:
        tap = recorder.tap("a", OPTIONS)
        tap.pushed(np.array([2, -2, np.nan, 1, -1], np.float32))
        tap.pushed(np.zeros((3, 4), np.float32))  # which the stream will refuse
        utterance(tap, 0, 0.005)
    with wave.open(str(next(folder.glob("*.wav")))) as file:
        assert np.frombuffer(file.readframes(9), "<i2").tolist() == [32_767, -32_768, 0, 32_767, -32_768]


def test_each_final_text_of_a_long_speech_is_kept_and_no_partial(folder, wall):
    with Recorder(settings(folder), wall=wall) as recorder:
        tap = recorder.tap("a", OPTIONS)
        tap.pushed(ramp(2000))
        tap.event(SpeechStarted(0.1))
        for start in (0.1, 0.7):
            tap.event(Text("so far", final=False, start_s=start, end_s=start + 0.5))
            tap.event(Text("whole", final=True, start_s=start, end_s=start + 0.5))
    assert len(kept(folder)) == 4


def test_the_sound_before_a_beginning_that_is_known_late_is_there_and_older_is_not_kept_in_memory(folder, wall):
    with Recorder(settings(folder), wall=wall) as recorder:
        tap = recorder.tap("a", OPTIONS)
        for _ in range(100):
            tap.pushed(np.zeros(1000, np.float32))
        assert tap._last - tap._first <= (KEPT_S + 1) * RATE
        tap.event(SpeechStarted(100 - KEPT_S + 1))
        for _ in range(round(MOST_S) + 50):
            tap.pushed(np.zeros(1000, np.float32))
        assert tap._last - tap._first <= (MOST_S + 1) * RATE
        tap.event(Text("late", final=True, start_s=0.0, end_s=1e6))  # what is left of it
    with wave.open(str(next(folder.glob("*.wav")))) as file:
        assert file.getnframes() == round(MOST_S + 1) * RATE  # to the piece


def test_sound_that_was_lost_is_silence_of_its_length(folder, wall):
    with Recorder(settings(folder), wall=wall) as recorder:
        tap = recorder.tap("a", OPTIONS)
        tap.pushed(ramp(100), 50)
        tap.pushed(ramp(100), 30)
        utterance(tap, 0.04, 0.19)
        tap.pushed(ramp(100), round(MOST_S + 1) * RATE)  # of a device that was gone
        utterance(tap, MOST_S + 1.28, MOST_S + 1.3)
    first, second = map(sound_in, sorted(folder.glob("*.wav")))
    assert first == [*[0] * 10, *range(100), *[0] * 30, *range(10)]
    assert second == list(range(20))


def old(folder, days, size=10):
    """Write a pair as it was written so many days ago."""
    moment = datetime.fromtimestamp(NOW - days * DAY_S, tz=timezone.utc)
    name = f"{moment:%Y%m%dT%H%M%S}000Z-1"
    for kind in ("wav", "json"):
        (folder / f"{name}.{kind}").write_bytes(b"x" * size)
    return [f"{name}.json", f"{name}.wav"]


def test_what_is_too_old_goes_at_the_start_and_nothing_else_does(folder, wall):
    folder.mkdir(mode=0o700)
    gone, stays = old(folder, 8), old(folder, 6)
    others = ["notes.txt", "20200101T000000000Z-1.mp3", ".20200101T000000000Z-1.wav.other"]
    for name in others:
        (folder / name).touch()
    (folder / ".20200101T000000000Z-9.wav.partial").touch()  # of a program that was killed
    (folder / "20200101T000000000Z-2.wav").mkdir()
    (folder / "20200101T000000000Z-3.wav").symlink_to(folder / "notes.txt")
    with Recorder(settings(folder, keep_days=7), wall=wall):
        pass
    assert set(gone).isdisjoint(kept(folder))
    assert set(kept(folder)) == {*stays, *others, "20200101T000000000Z-2.wav", "20200101T000000000Z-3.wav"}


def test_the_oldest_go_where_there_is_too_much_while_it_runs(folder, wall):
    folder.mkdir(mode=0o700)
    first, second = old(folder, 2, 3000), old(folder, 1, 3000)
    with Recorder(settings(folder, max_mb=0.0115), wall=wall) as recorder:  # 11,500 bytes
        tap = recorder.tap("a", OPTIONS)
        tap.pushed(ramp(1000))
        utterance(tap, 0, 0.5)
    names = kept(folder)
    assert set(first).isdisjoint(names)
    assert set(second) <= set(names)
    assert len(names) == 4
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 11_500


def test_one_that_is_larger_than_all_of_it_is_not_kept_and_costs_no_other(folder, wall, caplog):
    folder.mkdir(mode=0o700)
    stays = old(folder, 1)
    with Recorder(settings(folder, max_mb=0.001), wall=wall) as recorder:
        tap = recorder.tap("a", OPTIONS)
        tap.pushed(ramp(1000))
        utterance(tap, 0, 1)
    assert kept(folder) == stays
    assert "record.max_mb is less; set it higher" in caplog.text


def test_a_disk_that_is_full_ends_the_recording_which_is_said_once_and_nothing_else(folder, wall, caplog, monkeypatch):
    def full(*_arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with Recorder(settings(folder), wall=wall) as recorder:
        tap = recorder.tap("a", OPTIONS)
        monkeypatch.setattr(record.os, "fsync", full)
        for _ in range(3):
            tap.pushed(ramp(1000))
            utterance(tap, 0, 0.5)
    assert kept(folder) == []
    (said,) = [one for one in caplog.records if one.levelno == logging.WARNING]
    assert said.getMessage() == (
        f"record: {folder}: nothing more is kept (No space left on device); free some space and start again"
    )
    assert recorder.stopped


@pytest.mark.parametrize("planted", ["file", "link"])
def test_a_name_that_somebody_has_planted_is_not_written_through(folder, wall, tmp_path, planted, caplog):
    target = tmp_path / "precious"
    target.write_text("mine")
    with Recorder(settings(folder), wall=wall) as recorder:
        draft = folder / ".20260304T050606250Z-1.wav.partial"
        draft.write_text("x") if planted == "file" else draft.symlink_to(target)
        tap = recorder.tap("a", OPTIONS)
        tap.pushed(ramp(1000))
        utterance(tap, 0, 0.5)
    assert target.read_text() == "mine"
    assert "nothing more is kept (File exists)" in caplog.text


def test_a_folder_that_is_a_link_or_open_to_others_or_nothing_is_refused(tmp_path):
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "open").mkdir(mode=0o755)
    (tmp_path / "file").touch()
    for name, words in (
        ("link", "is a link, a folder that nobody else may read is needed; name another"),
        ("open", "others may read it (mode 0755), a folder that nobody else may read is needed; chmod 700 it"),
        ("file", "Not a directory, a folder that nobody else may read is needed; name another"),
        ("no/where", "no is not there, a folder that nobody else may read is needed; make it first"),
    ):
        with pytest.raises(SettingsError) as raised:
            Recorder(settings(tmp_path / name))
        assert words in str(raised.value)


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="no /proc here")  # noqa: PTH112 - Linux's own
def test_a_folder_that_takes_no_other_is_not_said_to_be_missing():
    with pytest.raises(SettingsError) as raised:
        Recorder(settings("/proc/nowhere"))
    rule = "a folder that nobody else may read is needed"
    assert str(raised.value) == f"record.dir: /proc/nowhere: /proc takes no new folder, {rule}; name another"


def test_a_folder_that_is_exchanged_for_a_link_meanwhile_is_not_followed(folder, wall, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with Recorder(settings(folder), wall=wall) as recorder:
        folder.rename(tmp_path / "moved")
        folder.symlink_to(elsewhere)
        tap = recorder.tap("a", OPTIONS)
        tap.pushed(ramp(1000))
        utterance(tap, 0, 0.5)
    assert kept(elsewhere) == []
    assert len(kept(tmp_path / "moved")) == 2


@pytest.mark.parametrize("whole", [np.float32, np.int16])
def test_each_text_of_a_server_s_stream_is_kept_with_the_sound_that_it_is_about(folder, load, whole):
    quiet = np.zeros(16_000, np.float32)
    sound = np.concatenate([quiet, sound_of(9000), quiet, sound_of(5000, seed=1), quiet])
    sound = (sound * 20_000).astype(np.int16) if whole is np.int16 else sound * np.float32(0.5)
    with Recorder(settings(folder)) as recorder, Server(load()) as server:
        server.taps = recorder.tap
        woken = threading.Event()
        served = server.open({"sample_rate_hz": 16_000}, name="a", wake=woken.set)
        for start in range(0, len(sound), 777):
            served.push(sound[start : start + 777])
        served.finish()
        texts = [
            event
            for event in waited(served, lambda: woken.wait(20) and woken.clear())
            if isinstance(event, Text) and event.final
        ]
        ended = served.ended
    assert ended.reason == "finished"
    assert len(texts) > 2
    lines = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    assert len(lines) == len(texts)
    by_start = {line["start_s"]: line for line in lines}
    for text in texts:
        line = by_start[text.start_s]
        assert (line["text"], line["end_s"], line["tokens"]) == (text.text, text.end_s, list(text.tokens))
        part = sound[round(text.start_s * 16_000) : round(text.end_s * 16_000)]
        expected = part if whole is np.int16 else np.rint(part * 32_768).astype(np.int16)
        assert sound_in(folder / line["wav"]) == expected.tolist()


def test_of_wide_sound_no_more_is_kept_than_bytes_may_be_and_it_is_said_once(folder, wall, caplog, monkeypatch):
    monkeypatch.setattr(record, "MOST_BYTES", 2 * 7 * 4_100)
    with Recorder(settings(folder), wall=wall) as recorder:
        tap = recorder.tap("wide", StreamOptions(sample_rate_hz=RATE, channels=7))
        tap.event(SpeechStarted(0.0))
        for piece in np.array_split(ramp(9_000, 7) / 3, 90):
            tap.pushed(piece)
        assert sum(piece.nbytes for piece in tap._pieces) <= record.MOST_BYTES
        tap.event(Text("one", final=True, start_s=0.0, end_s=9.0))
        while recorder._waiting_bytes:
            recorder._thread.join(0.001)
        tap.pushed(ramp(50, 7), missing_samples=1_000_000)
        assert sum(len(piece) for piece in tap._pieces) <= 4_100
        tap.event(Text("two", final=True, start_s=0.0, end_s=1e6))
    said = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    assert [(one["text"], one["seconds"]) for one in said] == [("one", 4.1), ("two", 4.05)]
    assert said[0]["at"] == "2026-03-04T05:06:03.150+00:00", "when the sound of it began that is kept"
    assert sound_in(folder / said[0]["wav"])[-1] == 9_000 * 7 // 3
    (line,) = [line for line in caplog.messages if "the beginning of what was said is not kept" in line]
    assert line.startswith("record: wide: ")


def test_what_is_not_written_yet_is_bounded_in_bytes_and_one_utterance_always_waits(folder, wall, caplog, monkeypatch):
    monkeypatch.setattr(record, "MOST_BYTES", 2 * 1_000)
    may, writes = threading.Event(), threading.Event()
    synced = os.fsync
    monkeypatch.setattr(record.os, "fsync", lambda number: (writes.set(), may.wait(20), synced(number)))
    with Recorder(settings(folder), wall=wall) as recorder:
        tap = recorder.tap("a", OPTIONS)
        tap.pushed(ramp(900))
        for number in range(9):
            utterance(tap, 0, 0.3, str(number))
            assert writes.wait(20)
        may.set()
    assert len(list(folder.glob("*.wav"))) == 3
    assert caplog.text.count("too slow for what is said, some is not kept; it goes on") == 1
    with Recorder(settings(folder), wall=wall) as recorder:
        tap = recorder.tap("a", OPTIONS)
        tap.pushed(ramp(1_000))
        utterance(tap, 0, 1.0)
    assert len(list(folder.glob("*.wav"))) == 4


def test_a_slow_disk_keeps_nobody_waiting_and_loses_by_name(folder, wall, caplog, monkeypatch):
    may = threading.Event()
    synced = os.fsync
    monkeypatch.setattr(record.os, "fsync", lambda number: (may.wait(20), synced(number)))
    with Recorder(settings(folder), wall=wall) as recorder:
        tap = recorder.tap("a", OPTIONS)
        tap.pushed(ramp(100))
        for _ in range(100):
            utterance(tap, 0, 0.05)
        may.set()
    assert caplog.text.count("too slow for what is said, some is not kept; it goes on") == 1
    assert 2 * 64 <= len(kept(folder)) < 200
