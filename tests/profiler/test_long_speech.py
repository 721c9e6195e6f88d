"""Long speech: recordings joined without pauses, and where each of them begins."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from edgekit.errors import ProfileError
from edgekit.profiler.clips import speech_blocks
from edgekit.profiler.long_speech import (
    LongSpeech,
    Recording,
    babble,
    join_recordings,
    read_recordings,
    with_noise,
    without_pauses,
)
from edgekit.profiler.words import Reference
from edgekit.runtime.audio.files import read_mono

RATE = 16_000
CLIPS = Path(__file__).resolve().parents[2] / "export/clips"


def tone(seconds, rate=RATE, level=0.3):
    """Return a 220 Hz tone."""
    return (level * np.sin(2 * np.pi * 220 * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def quiet(seconds, rate=RATE):
    """Return a tone 60 dB below."""
    return tone(seconds, rate, 0.0003)


def sentences():
    """Return the recordings that ship with their words."""
    words = json.loads((CLIPS / "transcripts.json").read_text(encoding="utf-8"))
    return [Recording(name, read_mono(CLIPS / name, RATE), words[name]) for name in sorted(words)]


def longest_pause_s(samples, rate):
    """Return the longest run of blocks without speech."""
    loud = "".join("#" if block else "." for block in speech_blocks(samples, rate))
    return max(map(len, loud.split("#"))) * 0.02


@pytest.mark.parametrize("rate", [11_025, 16_000, 24_000])
@pytest.mark.parametrize("pause_s", [0.03, 0.08, 0.5, 3.0])
def test_every_silence_is_cut_to_80_ms_and_no_speech_with_it(pause_s, rate):
    parts = (quiet(0.7, rate), tone(0.61, rate), quiet(pause_s, rate), tone(0.37, rate), quiet(1.1, rate))
    cut = without_pauses(np.concatenate(parts), rate)
    assert longest_pause_s(cut, rate) <= 0.08 + 1e-9
    assert len(cut) / rate == pytest.approx(0.04 + 0.61 + min(pause_s, 0.08) + 0.37 + 0.04, abs=0.05)
    assert np.square(cut).sum() == pytest.approx(np.square(np.concatenate(parts)).sum(), rel=1e-3)


def test_recordings_follow_each_other_without_a_pause_and_each_lies_where_it_is_said_to():
    recordings = sentences()
    speech = join_recordings(recordings, RATE, 15.3)
    assert 15.3 <= speech.seconds < 24
    assert speech.joins[0] == 0
    assert [one.start_s for one in speech.said[1:]] == [one.end_s for one in speech.said[:-1]]
    assert speech.said[-1].end_s == speech.seconds
    assert speech.words == " ".join(one.words for one in recordings[: len(speech.said)])
    for one, piece in zip(recordings, speech.pieces(), strict=False):
        assert np.array_equal(piece, without_pauses(one.samples, RATE)), one.name
        assert longest_pause_s(piece, RATE) <= 0.08 + 1e-9, one.name


def test_no_more_recordings_are_taken_than_are_needed():
    speech = join_recordings(sentences(), RATE, 0.1)
    assert [one.name for one in speech.said] == ["librivox-0870.flac"]


def test_too_little_speech_is_told_in_one_line():
    with pytest.raises(ProfileError, match=r"^long speech: \d+\.\d s in 5 recordings, 155 s are needed; take more$"):
        join_recordings(sentences(), RATE, 155)


def test_noise_fills_the_pauses_and_moves_no_join():
    plain = join_recordings(sentences(), RATE, 15)
    noisy = with_noise(plain, np.random.default_rng(3).standard_normal(30_011).astype(np.float32), 10)
    assert (noisy.said, len(noisy.samples)) == (plain.said, len(plain.samples))
    assert longest_pause_s(noisy.samples, RATE) == 0
    assert np.abs(noisy.samples).max() < 1


@pytest.fixture
def prompts(tmp_path):
    """Return a folder of prompts in the languages of babble, a tone each, and two English ones."""
    for index, name in enumerate(("fr/a", "fr/deep/b", "it/a", "ru/a", "en/hello", "en/digits/one")):
        path = tmp_path / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.concatenate((tone(0.5 + index / 7), quiet(1.0), tone(0.3))), RATE, subtype="PCM_16")
    return tmp_path


def test_babble_is_the_same_of_the_same_seed_and_never_silent(prompts):
    mixed = babble(prompts, 50_003)
    assert mixed.shape == (50_003,)
    assert np.array_equal(mixed, babble(prompts, 50_003))
    assert not np.array_equal(mixed, babble(prompts, 50_003, seed=1))
    assert np.mean(np.square(mixed)) == pytest.approx(1, rel=1e-4)
    assert longest_pause_s(mixed, RATE) <= 0.08


def test_babble_without_its_languages_names_what_fetches_them(prompts):
    (prompts / "it/a.wav").unlink()
    with pytest.raises(ProfileError, match=r"it: no WAV files there; `make prompt-data` fetches them$"):
        babble(prompts, 100)


def test_recordings_are_those_with_words_that_are_scored(prompts):
    known = {"hello": Reference("Hello."), "digits/one": Reference("One", "a digit"), "missing": Reference("Where?")}
    assert [(one.name, one.words) for one in read_recordings(prompts / "en", known)] == [("hello", "Hello.")]


def test_recordings_without_words_are_told(prompts):
    with pytest.raises(ProfileError, match=r"2 WAV files, of none the words are known; `make prompt-data`"):
        read_recordings(prompts / "en", {})


def test_pieces_are_all_of_the_samples():
    samples = np.arange(7, dtype=np.float32)
    speech = join_recordings([Recording("a", tone(0.3), "a"), Recording("b", tone(0.4), "b")], RATE, 0.5)
    assert np.array_equal(np.concatenate(speech.pieces()), speech.samples)
    assert [piece.tolist() for piece in LongSpeech(samples, RATE, speech.said[:1]).pieces()] == [samples.tolist()]
