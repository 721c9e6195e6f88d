"""The recordings: check clips as published, and the fetcher of the larger speech set."""

import hashlib
import importlib.util
import json
import re
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile

ROOT = Path(__file__).resolve().parents[1]
CLIPS = ROOT / "export" / "clips"
DATA = ROOT / "profiles" / "data"
LANGUAGES = ("en", "es", "fr", "it", "ru")
PACKAGE = Path("/usr/share/pocketsphinx/test/data/librivox")

# SHA-256 of the samples as little-endian int16, computed from the WAV files of pocketsphinx-testdata.
SAMPLES_SHA256 = {
    "librivox-0870.flac": "d6ae5769a7bd5312d26213a382b5c0629d7e015a8290b91dfd51b15b0e249948",
    "librivox-0880.flac": "0f8e7b446750517dfc5f444bccb67d2f65b05e2d2476d93600cee814f5791cc2",
    "librivox-0890.flac": "f5db1acab6b8e07eba8bb5a240311e66fa47aa818a499cca8d6b3ffdc9d31f2d",
    "librivox-0920.flac": "ea5551d7cba0ace6a98a9875e2ed38791737699b1f5e81df71ae1eef4fd24606",
    "librivox-0930.flac": "0faf49d5f7782e92c1600066445e2127069e6aa8cba0349715efcd3e9e0da401",
}


def samples(path: Path) -> np.ndarray:
    """Return the file's samples, (n,) int16 at 16 kHz."""
    read, rate_hz = soundfile.read(path, dtype="int16")
    assert (rate_hz, read.ndim) == (16_000, 1)
    return read


@pytest.mark.parametrize("name", SAMPLES_SHA256)
def test_clip_holds_the_published_samples(name):
    assert hashlib.sha256(samples(CLIPS / name).astype("<i2").tobytes()).hexdigest() == SAMPLES_SHA256[name]


@pytest.mark.parametrize("name", SAMPLES_SHA256)
def test_clip_equals_the_wav_of_the_debian_package(name):
    wav = PACKAGE / f"sense_and_sensibility_01_austen_64kb-{Path(name).stem[-4:]}.wav"
    if not wav.exists():
        pytest.skip("needs the Debian package pocketsphinx-testdata")
    np.testing.assert_array_equal(samples(CLIPS / name), samples(wav))


def test_every_clip_has_plain_words_and_every_transcript_a_clip():
    transcripts = json.loads((CLIPS / "transcripts.json").read_text(encoding="utf-8"))
    assert sorted(transcripts) == sorted(path.name for path in CLIPS.glob("*.flac")) == sorted(SAMPLES_SHA256)
    for words in transcripts.values():
        assert re.fullmatch(r"[a-z]+( [a-z]+)*", words)


def prompts() -> dict[str, dict[str, str]]:
    """Return what stands in clips.json of the check recordings in five languages."""
    found: dict[str, dict[str, str]] = json.loads((CLIPS / "prompts" / "clips.json").read_text(encoding="utf-8"))
    return found


def test_the_prompts_are_eight_of_each_of_five_languages_under_their_licence():
    assert sorted(prompts()) == sorted(path.name for path in (CLIPS / "prompts").glob("*.flac"))
    languages = [facts["language"] for facts in prompts().values()]
    assert {language: languages.count(language) for language in languages} == dict.fromkeys(
        ("en", "es", "fr", "it", "ru"), 8
    )
    for name, facts in prompts().items():
        assert name.startswith(facts["language"] + "-")
        assert ("words" in facts) == (facts["language"] == "en")
    text = (CLIPS / "prompts" / "LICENSE").read_text(encoding="utf-8")
    assert all(who in text for who in ("Allison Smith", "June Wallack", "Carlo Flora", "Maxim Topal"))
    assert text.count("License: CC-BY-SA-3.0") >= 3
    assert text.count("License: CC-BY-3.0") >= 3


def test_no_prompt_that_judges_is_one_of_those_that_are_measured_on():
    measured = {line.split("  ")[1] for line in (DATA / "prompts.sha256").read_text(encoding="utf-8").splitlines()}
    judging = {f"{facts['language']}/{facts['source'].partition('/')[2]}" for facts in prompts().values()}
    assert len(measured) == 240
    assert not judging & measured


@pytest.mark.parametrize("name", prompts())
def test_a_prompt_holds_the_listed_samples_of_11_bits(name):
    held = samples(CLIPS / "prompts" / name)
    assert not (held % 32).any()
    assert hashlib.sha256(held.astype("<i2").tobytes()).hexdigest() == prompts()[name]["samples_sha256"]


@pytest.mark.parametrize("name", prompts())
def test_a_prompt_equals_the_recording_of_the_debian_package(name, tmp_path):
    facts = prompts()[name]
    source = Path("/usr/share/asterisk/sounds") / facts["source"]
    if not source.exists() or not shutil.which("ffmpeg"):
        pytest.skip(f"needs ffmpeg and the Debian package asterisk-core-sounds-{facts['language']}-g722")
    assert hashlib.sha256(source.read_bytes()).hexdigest() == facts["source_sha256"]
    command = ["ffmpeg", "-nostdin", "-v", "error", "-f", "g722", "-i", str(source), "-ac", "1", "-ar", "16000"]
    subprocess.run([*command, str(tmp_path / "a.wav")], check=True)
    rounded = np.clip(np.rint(samples(tmp_path / "a.wav") / 32), -1024, 1023) * 32
    np.testing.assert_array_equal(samples(CLIPS / "prompts" / name), rounded)


def fetch_speech() -> ModuleType:
    """Return profiles/data/fetch-speech.py as a module."""
    spec = importlib.util.spec_from_file_location("fetch_speech", DATA / "fetch-speech.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def recordings(tmp_path) -> dict[str, str]:
    """Write two G.722 recordings, one in a subfolder, below tmp_path/source; returns name -> SHA-256."""
    if not shutil.which("ffmpeg"):
        pytest.skip("needs ffmpeg")
    hashes = {}
    for name, seconds in (("hello.g722", 0.5), ("digits/1.g722", 0.25)):
        path = tmp_path / "source" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        tone = ["-f", "lavfi", "-i", f"sine=frequency=440:sample_rate=16000:duration={seconds}"]
        command = ["ffmpeg", "-nostdin", "-v", "error", *tone, "-c:a", "g722", "-f", "g722", str(path)]
        subprocess.run(command, check=True)
        hashes[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return hashes


def test_speech_fetcher_lists_every_prompt_once():
    listed = fetch_speech().listed(DATA / "asterisk-en.sha256")
    assert len(listed) == len((DATA / "asterisk-en.sha256").read_text(encoding="utf-8").splitlines()) == 568
    assert all(name.endswith(".g722") and re.fullmatch("[0-9a-f]{64}", digest) for name, digest in listed.items())


def test_speech_fetcher_writes_16_khz_mono_and_keeps_it_out_of_git(recordings, tmp_path):
    output = tmp_path / "made" / "speech"
    digest = fetch_speech().fetch(output, tmp_path / "source", recordings)
    assert [len(samples(output / name)) for name in ("hello.wav", "digits/1.wav")] == [8000, 4000]
    assert np.abs(samples(output / "hello.wav")).max() > 1000
    assert (output / ".gitignore").read_text(encoding="utf-8") == "*\n"
    assert hashlib.sha256((output / "samples.sha256").read_bytes()).hexdigest() == digest
    assert [path.name for path in output.parent.iterdir()] == ["speech"]


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_speech_fetcher_refuses_recordings_that_are_not_the_listed_ones(recordings, tmp_path, damage):
    path = tmp_path / "source" / "hello.g722"
    if damage == "changed":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        path.unlink()
    module = fetch_speech()
    with pytest.raises(module.FetchError, match=r"hello\.g722"):
        module.fetch(tmp_path / "made", tmp_path / "source", recordings)
    assert not (tmp_path / "made").exists()


def test_speech_fetcher_leaves_an_existing_folder_alone(recordings, tmp_path):
    (tmp_path / "made").mkdir()
    module = fetch_speech()
    with pytest.raises(module.FetchError, match="already there"):
        module.fetch(tmp_path / "made", tmp_path / "source", recordings)
    assert list((tmp_path / "made").iterdir()) == []


def test_prompts_that_are_measured_on_are_none_that_an_export_is_judged_by():
    names = list(fetch_speech().listed(DATA / "prompts.sha256"))
    by_language = {language: [name for name in names if name.startswith(f"{language}/")] for language in LANGUAGES}
    assert {language: len(own) for language, own in by_language.items()} == dict.fromkeys(LANGUAGES, 48)
    judged = {path.stem for path in (ROOT / "export/clips/prompts").glob("*.flac")}
    assert judged
    assert not judged & {name.removesuffix(".g722").replace("/", "-") for name in names}


def test_short_prompts_are_none_of_the_others():
    module = fetch_speech()
    names = list(module.listed(module.SHORT_PROMPTS))
    assert len(names) == len(set(names)) == 5 * 72
    assert {name.partition("/")[0] for name in names} == set(LANGUAGES)
    assert not set(names) & set(module.listed(module.PROMPTS))
    judged = {path.stem for path in (ROOT / "export/clips/prompts").glob("*.flac")}
    assert not judged & {name.removesuffix(".g722").replace("/", "-") for name in names}


def test_speech_fetcher_takes_every_language_or_none(recordings, tmp_path):
    module = fetch_speech()
    for language in module.LANGUAGES:
        shutil.copytree(tmp_path / "source", tmp_path / "given" / language)
    expected = {f"{language}/{name}": digest for language in module.LANGUAGES for name, digest in recordings.items()}
    module.fetch_languages(tmp_path / "made" / "prompts", tmp_path / "given", expected)
    for language in module.LANGUAGES:
        assert len(samples(tmp_path / "made/prompts" / language / "hello.wav")) == 8000
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["prompts"]
    (tmp_path / "given/ru/hello.g722").write_bytes(b"")
    with pytest.raises(module.FetchError, match=r"hello\.g722"):
        module.fetch_languages(tmp_path / "again", tmp_path / "given", expected)
    assert not (tmp_path / "again").exists()
