"""The scripts under profiles/bench start, and say what they need."""

import importlib.util
import subprocess
import sys
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted((ROOT / "profiles/bench").glob("*.py"))


def run(script, *arguments):
    """Run a script as a process of its own."""
    return subprocess.run(
        [sys.executable, str(script), *arguments],
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_starts_and_explains_itself(script):
    if "torch" in script.stem and importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed here")
    assert "-" in script.stem, "a script has a hyphen, so that nobody imports it"
    done = run(script, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage:")


def test_quality_without_recordings_names_the_script_that_fetches_them(tmp_path):
    done = run(ROOT / "profiles/bench/int8-quality.py", "--int8", "a", "--float", "b", "--speech", str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.strip() == f"{tmp_path}: no WAV files there; python profiles/data/fetch-speech.py fetches them"


def test_a_peer_that_is_not_installed_is_named_with_the_way_round_it():
    if importlib.util.find_spec("moonshine_voice") is not None:
        pytest.skip("moonshine-voice is installed here")
    others = [word for name in ("faster-whisper", "whisper.cpp") for word in ("--skip", name)]
    done = run(ROOT / "profiles/bench/beside-peers.py", "--int8", "a", *others)
    assert done.returncode == 1
    assert done.stderr.strip() == (
        "Moonshine: package moonshine-voice is missing; pip install -r requirements/bench.txt, or --skip 'Moonshine'"
    )


def test_long_speech_names_a_peer_that_is_not_installed_and_what_remains():
    if importlib.util.find_spec("pywhispercpp") is not None:
        pytest.skip("pywhispercpp is installed here")
    done = run(ROOT / "profiles/bench/long-speech.py", "--only", "whisper.cpp base", "Moonshine tiny")
    assert done.returncode == 1
    assert done.stderr.startswith(
        "whisper.cpp base: package pywhispercpp is missing; pip install -r requirements/bench.txt, or --only 'EdgeKit "
    )
    assert "'whisper.cpp" not in done.stderr


@pytest.mark.parametrize("words", [None, "hello\thello\n"])
def test_long_speech_without_recordings_names_what_fetches_them(words, tmp_path):
    options = ["--only", "EdgeKit edgekit-tiny INT8", "--speech", str(tmp_path), "--work", str(tmp_path / "work")]
    if words:
        (tmp_path / "words.tsv").write_text(words, encoding="utf-8")
        options += ["--words", str(tmp_path / "words.tsv")]
    done = run(ROOT / "profiles/bench/long-speech.py", *options)
    assert done.returncode == 1
    assert done.stderr.strip() == (
        f"{tmp_path / 'en'}: 0 WAV files, of none the words are known; `make prompt-data` fetches the files, "
        "profiles/data/README.md names the list of words"
    )
    assert not (tmp_path / "work").exists()
    done = run(ROOT / "profiles/bench/long-speech.py", *options, "--words", str(tmp_path / "none.tsv"))
    assert done.stderr.strip() == f"{tmp_path / 'none.tsv'}: not there; make speech-data WORDS=FILE makes it"


def test_a_sample_of_more_recordings_than_have_words_is_refused(tmp_path):
    (tmp_path / "one.wav").touch()
    (tmp_path / "wordless.wav").touch()
    words = tmp_path / "words.tsv"
    words.write_text("one\tone\nwordless\t\tno words in it\nabsent\ttwo\n", encoding="utf-8")
    peers = ("faster-whisper", "whisper.cpp", "Moonshine", "Moonshine with drafts")
    skipped = [word for name in peers for word in ("--skip", name)]
    script = ROOT / "profiles/bench/beside-peers.py"
    done = run(script, "--int8", "a", "--speech", str(tmp_path), "--words", str(words), "--sample", "2", *skipped)
    assert done.returncode == 1
    assert done.stderr.strip() == (
        f"{tmp_path}: 1 recordings with words in {words}, --sample asks for 2; "
        "python profiles/data/fetch-speech.py fetches them"
    )
    words.write_text("one\t\nwordless\t\ta sound\n", encoding="utf-8")
    done = run(script, "--int8", "a", "--speech", str(tmp_path), "--words", str(words), "--sample", "2", *skipped)
    assert done.stderr.startswith(f"{tmp_path}: 1 recordings in {words}, --sample asks for 2; ")
    words.unlink()
    done = run(script, "--int8", "a", "--speech", str(tmp_path), "--sample", "2", *skipped)
    assert done.stderr.strip() == f"{words}: not there; make speech-data makes it"


@pytest.fixture
def word_errors():
    """Return the script as a module."""
    spec = importlib.util.spec_from_file_location("word_errors", ROOT / "profiles/bench/word-errors.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["word_errors"] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    yield module
    del sys.modules["word_errors"]


def test_without_a_list_the_judge_s_words_stand_for_the_prompts_and_it_is_not_scored_on_them(word_errors):
    pytest.importorskip("whisper_normalizer")
    nothing = np.zeros(0, np.float32)
    clips = [
        word_errors.Clip("a", word_errors.PROMPTS, "", nothing),
        word_errors.Clip("b", word_errors.PROMPTS, "", nothing),
        word_errors.Clip("c", word_errors.SENTENCES, "four words are here", nothing),
    ]
    heard = {
        "Whisper base": ["press the key", "...", "four words"],
        "EdgeKit full": ["press key", "noise", "four words"],
    }
    texts = {("clean", name): told for name, told in heard.items()}
    judged, wordless = word_errors.judge(clips, texts["clean", "Whisper base"])
    assert [clip.words for clip in judged] == ["press the key", "", "four words are here"]
    assert wordless == ["b"]
    subjects = tuple(word_errors.Subject(name, (), lambda _: "") for name in heard)
    args = types.SimpleNamespace(conditions=("clean",))
    rates, notes = word_errors.score(args, judged, texts, subjects, judged=True)
    assert {rate.name: round(rate.value, 4) for rate in rates} == {
        "prompts against Whisper base, clean: EdgeKit full": 0.3333,
        "prompts of three words and more against Whisper base, clean: EdgeKit full": 0.3333,
        "sentences, clean: Whisper base": 0.5,
        "sentences, clean: EdgeKit full": 0.5,
    }
    assert all("against Whisper base" in note for note in notes if note.startswith("prompts"))
    listed = [replace(clip, words="one two") if clip.group == word_errors.PROMPTS else clip for clip in clips]
    rates, _ = word_errors.score(args, listed, texts, subjects, judged=False)
    assert "prompts, clean: Whisper base" in {rate.name for rate in rates}


def test_word_errors_without_a_list_and_without_the_judge_is_one_line(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(1600), 16_000)
    (tmp_path / "words.tsv").write_text("a\t\n", encoding="utf-8")
    done = run(ROOT / "profiles/bench/word-errors.py", "--speech", str(tmp_path), "--yardsticks", "tiny.en")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(
        f"{tmp_path}: no words, so Whisper base must hear the clean prompts; make speech-data"
    )
    (tmp_path / "words.tsv").unlink()
    done = run(ROOT / "profiles/bench/word-errors.py", "--speech", str(tmp_path))
    assert done.stderr.startswith(f"{tmp_path}/words.tsv: not there; make speech-data WORDS=FILE takes one")


@pytest.mark.parametrize(
    ("script", "option", "folder", "command"),
    [
        ("stream-language.py", "--speech", "en", "make prompt-data"),
        ("no-speech-rule.py", "--sounds", "music", "make sound-data"),
        ("partial-text.py", "--speech", "", "make speech-data"),
    ],
)
def test_a_script_without_its_recordings_names_what_fetches_them(tmp_path, script, option, folder, command):
    done = run(ROOT / "profiles/bench" / script, "--bundle", "a", option, str(tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"{tmp_path / folder}: no ")
    assert done.stderr.strip().endswith(f"`{command}` fetches them")


@pytest.fixture
def stream_language():
    """Return the script as a module."""
    spec = importlib.util.spec_from_file_location("stream_language", ROOT / "profiles/bench/stream-language.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["stream_language"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["stream_language"]


def test_a_change_of_language_is_scored_by_the_first_utterance_that_follows_it(stream_language):
    told = tuple(stream_language.Utterance(one, 2.0, np.zeros(2), "", 0.0) for one in ("en", "en", "es", "es", "es"))
    stream = stream_language.changing(stream_language.MINUTE, told[:2], told[2:])
    heard = {"en en es es es": (0, 5), "en nl en es es": (1, 3), "en en en en en": (3, 2)}
    for found, expected in heard.items():
        names = found.split()
        assert (stream_language.lateness(stream, names), stream_language.right(stream, names)[0]) == expected
    by_name = {one.name: one.value for one in stream_language.rates("x", [(stream, names.split()) for names in heard])}
    assert by_name["a minute, then another, x: by the second utterance"] == pytest.approx(2 / 3, rel=1e-4)


def test_words_of_another_language_are_counted_apart(stream_language):
    told = tuple(stream_language.Utterance(one, 2.0, np.zeros(2), "", 0.0) for one in ("en", "es", "en", "es"))
    stream = stream_language.Stream("words", told, "en")
    assert stream_language.right(stream, ["en", "es", "fr", "en"]) == (1, 2)
    assert stream_language.between(stream, ["en", "es", "fr", "en"]) == ["es", "en"]


def test_streams_are_the_same_each_time_and_say_nothing_twice(stream_language):
    told = [
        stream_language.Utterance(language, seconds, np.zeros(2), f"{language}/{place}-{seconds}", 0.0)
        for language in stream_language.LANGUAGES
        for place in range(14)
        for seconds in (0.9, 2.0, 12.0)
    ]
    streams = stream_language.make_streams(told, 2)
    assert streams == stream_language.make_streams(told, 2)
    for one in streams:
        own = [each.recording for each in one.utterances if one.only in {None, each.language}]
        assert len(own) == len(set(own))
    assert {len(one.utterances) for one in streams if one.kind == stream_language.SIX} == {6}
    minutes = [one for one in streams if one.kind == stream_language.MINUTE]
    assert len(minutes) == 2 * 20
    assert {one.changes_at for one in minutes} == {5}
