"""The words of the prompts, and the fetcher of sounds without speech."""

import hashlib
import importlib.util
import json
import re
import shutil
import struct
import subprocess
import wave
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

from edgekit.profiler.words import Reference, read_references

DATA = Path(__file__).resolve().parents[1] / "profiles" / "data"
CLASSES = {"music", "alarm", "bell", "impact", "engine", "animal", "other", "noise"}


def script(name: str) -> ModuleType:
    """Return a script under profiles/data as a module."""
    spec = importlib.util.spec_from_file_location(name.replace("-", "_"), DATA / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def riff(seconds=0.1):
    """Return a WAV file of a click train."""
    frames = struct.pack("<h", 8000) * round(16_000 * seconds)
    return b"RIFF" + struct.pack("<I", 36 + len(frames)) + b"WAVEfmt " + struct.pack(
        "<IHHIIHH", 16, 1, 1, 16_000, 32_000, 2, 16
    ) + b"data" + struct.pack("<I", len(frames)) + frames  # fmt: skip


def container(sounds):
    """Return an OpenTTD container of title -> WAV."""
    head, body = b"", b""
    for title, sound in sounds.items():
        label = title.encode() + b"\0"
        head += struct.pack("<II", 8 * len(sounds) + len(body), len(sound))
        body += bytes([len(label)]) + label + sound + b"\1\0"
    return head + body


@pytest.fixture
def prompts(tmp_path):
    """Return the fetcher, and a folder that stands for the fetched prompts."""
    folder = tmp_path / "prompts"
    folder.mkdir()
    return script("fetch-speech"), folder


NAMES = ["hello", "please-try-call-later", "spelled/a", "keys", "beep", "silence/1", "unknown", "late"]


PUBLISHED = r"""; a list as it is published
hello: Good  day [cheerful]
pls-try-call-later: Try: later!
spelled/a.wav: A B C
keys: press * or # thru 9 P.M. (a note)
beep: [a tone]
late: <a note>De-activated
else: not recorded
"""
OURS = """# a list of ours
hello\tGood day
pls-try-call-later\tTry: later!
spelled/a\tABC
keys\tpress star or pound through 9 PM
beep\t\ta tone
late\tDeactivated
"""


@pytest.mark.parametrize("text", [PUBLISHED, OURS])
def test_a_list_of_words_is_taken_in_either_form_and_written_as_it_is_said(text, prompts, tmp_path):
    fetch, folder = prompts
    (tmp_path / "list.txt").write_text(text, encoding="utf-8")
    assert fetch.write_words(folder, tmp_path / "list.txt", NAMES) == 5
    assert read_references(folder / "words.tsv") == {
        "hello": Reference("Good day"),
        "please-try-call-later": Reference("Try: later!"),
        "spelled/a": Reference("ABC"),
        "keys": Reference("press star or pound through 9 PM"),
        "beep": Reference("", "a sound"),
        "silence/1": Reference("", "silence"),
        "unknown": Reference("", "no words in the list"),
        "late": Reference("Deactivated"),
    }
    assert [path.name for path in folder.iterdir()] == ["words.tsv"]


def test_without_a_list_no_prompt_has_words_and_what_says_nothing_is_known_by_its_name(prompts):
    fetch, folder = prompts
    assert fetch.write_words(folder, None) == 0
    references = read_references(folder / "words.tsv")
    assert len(references) == 568
    assert {one for one in references.values() if one.words} == set()
    reasons = {name: one.left_out for name, one in references.items() if one.left_out}
    assert {reason: list(reasons.values()).count(reason) for reason in reasons.values()} == {
        "silence": 10,
        "a sound": 7,
    }
    assert set(fetch.SOUNDS) < set(references)
    assert set(fetch.RENAMED.values()) < set(references)


def test_a_list_that_is_of_something_else_is_refused_in_one_line_and_leaves_the_one_that_was_there(prompts, tmp_path):
    fetch, folder = prompts
    (tmp_path / "list.txt").write_text("hello: Hello\n", encoding="utf-8")
    fetch.write_words(folder, None, NAMES)
    before = (folder / "words.tsv").read_bytes()
    with pytest.raises(fetch.FetchError, match=r"list.txt: words of 1 of 8 prompts; lines are `name: words`"):
        fetch.write_words(folder, tmp_path / "list.txt", NAMES)
    with pytest.raises(fetch.FetchError, match="nothing.txt.*a list of the prompts' words is needed"):
        fetch.write_words(folder, tmp_path / "nothing.txt", NAMES)
    assert (folder / "words.tsv").read_bytes() == before
    with pytest.raises(fetch.FetchError, match="absent: not there; fetch the prompts first"):
        fetch.write_words(tmp_path / "absent", None)


def test_the_repository_holds_no_words_of_the_prompts():
    """They are others' work; reports keep the names of prompts, and what was heard in them."""
    assert not list(DATA.glob("*words*"))
    for path in (DATA.parent).glob("*/*.json"):
        details = json.loads(path.read_text(encoding="utf-8")).get("details")
        rows = details.get("clips", []) if isinstance(details, dict) else []
        assert not [row for row in rows if row[1] == "prompts" and len(row) > 2], path.name
        words = details.get("words", {}) if isinstance(details, dict) else {}
        assert set(words) <= {path.name for path in (DATA.parents[1] / "export/clips").iterdir()}, path.name


def test_every_sound_is_listed_once_with_a_class_a_package_and_a_place_of_its_own():
    fetch = script("fetch-sounds")
    lines = [line for line in fetch.TABLE.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    sounds = fetch.listed(fetch.TABLE)
    assert len(sounds) == len(lines)
    assert {path.split("/")[0] for path in sounds} == set(fetch.PACKAGES)
    assert {kind for _, kind in sounds.values()} == CLASSES
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest, _ in sounds.values())
    assert len({digest for digest, _ in sounds.values()}) == len(sounds)
    assert len({fetch.place(path, kind) for path, (_, kind) in sounds.items()}) == len(sounds)


def test_no_listed_sound_is_a_voice_by_its_name():
    voices = re.compile("soldiers|civilians|audio-channel|human|choir|voice|speech|laugh|applause|crowd", re.IGNORECASE)
    kept = [path for path in script("fetch-sounds").listed(DATA / "sounds.tsv") if voices.search(path)]
    assert [path.rsplit("/", 1)[1] for path in kept] == ["humanflyby.ogg", "rocket-human.ogg"]


def test_both_halves_hold_every_class_and_takes_of_one_sound_stay_together():
    fetch = script("fetch-sounds")
    found = {(fetch.half(path), kind) for path, (_, kind) in fetch.listed(fetch.TABLE).items()}
    assert found == {(part, kind) for part in ("train", "held-out") for kind in CLASSES}
    assert len({fetch.half(f"package/RailTrain{take}.wav") for take in range(100)}) == 1
    assert {fetch.half(f"package/{letter}.wav") for letter in "abcdefgh"} == {"train", "held-out"}


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Make a package of three kinds of files, and the fetcher that knows it; returns the fetcher and its output."""
    if not (shutil.which("ffmpeg") and shutil.which("dpkg-deb")):
        pytest.skip("needs ffmpeg and dpkg-deb")
    fetch = script("fetch-sounds")
    folder = tmp_path / "root" / "usr" / "share"
    folder.mkdir(parents=True)
    control = tmp_path / "root" / "DEBIAN" / "control"
    control.parent.mkdir()
    control.write_text("Package: some-sounds\nVersion: 1\nArchitecture: all\nMaintainer: a <a@b.c>\nDescription: d\n")
    (folder / "bell.wav").write_bytes(riff(0.1))
    (folder / "all.cat").write_bytes(container({'"Cow". By A.': riff(0.2), '"Horn/loud | 2". By B.': riff(0.3)}))
    with zipfile.ZipFile(folder / "snd.pk3", "w") as archive:
        archive.writestr("sound/door1.wav", riff(0.4))
    dpkg_deb = str(shutil.which("dpkg-deb"))
    subprocess.run([dpkg_deb, "-b", str(tmp_path / "root"), str(tmp_path / "some-sounds_1_all.deb")], check=True)
    inside = {
        "bell.wav": 0.1,
        "all.cat/00 Cow.wav": 0.2,
        "all.cat/01 Horn loud.wav": 0.3,
        "snd.pk3/sound/door1.wav": 0.4,
    }
    rows = [
        f"{hashlib.sha256(riff(seconds)).hexdigest()}\tbell\tsome-sounds/usr/share/{path}\n"
        for path, seconds in inside.items()
    ]
    (tmp_path / "table.tsv").write_text("# a comment\n" + "".join(rows))
    monkeypatch.setattr(fetch, "TABLE", tmp_path / "table.tsv")
    monkeypatch.setattr(fetch, "PACKAGES", {"some-sounds": ("1", "CC0-1.0")})
    monkeypatch.setattr(fetch, "TALKERS", {})
    monkeypatch.setattr(fetch, "GENERATED_S", 1)
    monkeypatch.setattr(fetch, "MINIMUM_FREE_BYTES", 1)
    return fetch, tmp_path / "made" / "sounds"


def test_sounds_are_taken_from_files_and_containers_and_noise_is_made_for_both_halves(packages, tmp_path):
    fetch, output = packages
    fetch.fetch(output, tmp_path)
    lengths = {}
    for path in output.rglob("some-sounds__*.wav"):
        with wave.open(str(path)) as stream:
            assert (stream.getframerate(), stream.getnchannels(), stream.getsampwidth()) == (16_000, 1, 2)
            lengths[path.stem.removeprefix("some-sounds__")] = stream.getnframes()
    assert lengths == {
        "share-bell": 1600,
        "all-cat-00-Cow": 3200,
        "all-cat-01-Horn-loud": 4800,
        "sound-door1": 6400,
    }
    made = {
        part: {path.name: path.read_bytes() for path in (output / part / "noise").glob("generated__*")}
        for part in ("train", "held-out")
    }
    assert set(made["train"]) == set(made["held-out"])
    assert len(made["train"]) == len(fetch.NOISES)
    same = {name for name in made["train"] if made["train"][name] == made["held-out"][name]}
    assert same == {"generated__silence.wav"}
    assert (output / ".gitignore").read_text() == "*\n"


def test_a_sound_that_is_not_the_listed_one_stops_the_fetch(packages, tmp_path):
    fetch, output = packages
    table = fetch.TABLE.read_text()
    fetch.TABLE.write_text(table.replace(table[12:20], "0" * 8, 1))
    with pytest.raises(fetch.FetchError, match=r"SHA-256 .*, listed 0000"):
        fetch.fetch(output, tmp_path)
    assert not output.exists()


def test_calls_come_with_their_words(tmp_path):
    fetch = script("fetch-speech")
    source = tmp_path / "source"
    (source / "cards").mkdir(parents=True)
    (source / "cards/001.wav").write_bytes(riff(0.1))
    (source / "go.raw").write_bytes(b"\1\0" * 800)
    fetch.CALLS = {
        "cards/001.wav": (hashlib.sha256(riff(0.1)).hexdigest(), "ten of clubs"),
        "go.raw": (hashlib.sha256(b"\1\0" * 800).hexdigest(), "go forward"),
    }
    fetch.fetch_calls(tmp_path / "calls", source)
    assert {name: one.words for name, one in read_references(tmp_path / "calls/words.tsv").items()} == {
        "001": "ten of clubs",
        "go": "go forward",
    }
    with wave.open(str(tmp_path / "calls/go.wav")) as stream:
        assert stream.readframes(10_000) == b"\1\0" * 800
    (source / "go.raw").write_bytes(b"\2\0" * 800)
    with pytest.raises(fetch.FetchError, match=r"go\.raw: SHA-256"):
        fetch.fetch_calls(tmp_path / "again", source)
