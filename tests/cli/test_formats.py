"""``edgekit run --format`` and ``--output-dir``: what is written of each file."""

import json
import stat
from pathlib import Path

import numpy as np
import pytest

from edgekit.cli.transcripts import Transcripts


@pytest.fixture
def sound():
    return np.random.default_rng(3).uniform(-0.3, 0.3, 16_000)


def test_each_form_holds_the_text_that_run_prints(cli, whole_cli, bundle, wav, sound):
    path = wav(samples=sound)
    _, text, _ = cli("run", bundle, path)
    assert text.strip()
    code, out, _ = cli("run", bundle, path, "--format", "txt")
    assert (code, out) == (0, text)
    code, out, _ = cli("run", bundle, path, "--format", "json")
    transcript = json.loads(out)
    assert code == 0
    assert transcript["text"] == text.strip()
    assert transcript["truncated"]
    assert transcript["segments"][0]["end_s"] <= transcript["audio_s"] == 1.0
    _, out, err = whole_cli("run", bundle, path, "--format", "srt")
    assert out.startswith("1\n00:00:0")
    assert "text cut at 1.00 s" in err
    _, out, _ = cli("run", bundle, path, "--format", "vtt")
    assert out.startswith("WEBVTT\n\n00:00:0")


def test_a_folder_gets_a_file_for_each_and_text_unless_another_form_is_named(cli, bundle, wav, sound, tmp_path):
    one, other = wav("one.wav", sound), wav("other.wav", sound[:8000])
    _, expected, _ = cli("run", bundle, one)
    folder = tmp_path / "not" / "there yet"
    code, out, err = cli("run", bundle, one, other, "--output-dir", folder)
    assert (code, out) == (0, "")
    assert sorted(path.name for path in folder.iterdir()) == ["one.txt", "other.txt"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    assert (folder / "one.txt").read_text() == expected
    assert f"{folder / 'one.txt'} written" in err
    assert cli("run", bundle, one, "--output-dir", folder) == (
        1, "", f"edgekit: {folder / 'one.txt'}: is there already; add --overwrite, or name another --output-dir\n",
    )  # fmt: skip
    assert cli("run", bundle, other, one, "--output-dir", folder, "--overwrite")[0] == 0
    cli("run", bundle, one, other, "--output-dir", folder, "--format", "json")
    assert json.loads((folder / "other.json").read_text())["file"] == str(other)


def test_several_files_are_lines_of_json_and_no_subtitles_on_stdout(cli, bundle, wav, sound):
    files = wav("a.wav", sound), wav("b.wav", sound)
    code, out, _ = cli("run", bundle, *files, "--format", "json")
    assert code == 0
    assert [json.loads(line)["file"] for line in out.splitlines()] == [str(path) for path in files]
    code, out, err = cli("run", bundle, *files, "--format", "srt")
    assert (code, out) == (2, "")
    assert err == "edgekit: --format srt: 2 files, stdout holds one of these; add --output-dir DIR\n"


def test_two_files_of_one_place_are_refused_before_any_is_heard(cli, bundle, wav, sound, tmp_path):
    (tmp_path / "x").mkdir()
    files = wav("a.wav", sound), wav("x/a.wav", sound)
    code, out, err = cli("run", bundle, *files, "--output-dir", tmp_path / "o")
    assert (code, out) == (2, "")
    assert "would both be written to" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "o").exists()


def test_of_a_file_that_breaks_off_what_was_heard_is_written(cli, bundle, wav, sound, tmp_path):
    whole = wav("whole.wav", sound)
    cut = tmp_path / "cut.wav"
    cut.write_bytes(whole.read_bytes()[:-8000])
    code, _, err = cli("run", bundle, cut, whole, "--output-dir", tmp_path / "o", "--format", "json")
    assert code == 1
    assert "truncated, it is shorter than its header says" in err
    heard = json.loads((tmp_path / "o" / "cut.json").read_text())
    assert (heard["audio_s"], heard["truncated"], bool(heard["text"])) == (0.75, True, True)
    assert json.loads((tmp_path / "o" / "whole.json").read_text())["audio_s"] == 1.0


def test_a_text_that_cannot_be_written_is_said_and_ends_nothing(capsys, tmp_path):
    folder = tmp_path / "o"
    transcripts = Transcripts("txt", folder, [Path("one.wav"), Path("other.wav")], overwrite=False)
    folder.rmdir()
    folder.write_text("in its place")
    assert not transcripts.write(Path("one.wav"), [], 1.0, whole=True)
    assert f"edgekit: {folder / 'one.txt'}: not written, " in capsys.readouterr().err
    folder.unlink()
    folder.mkdir()
    assert transcripts.write(Path("other.wav"), [], 1.0, whole=True)
    assert (folder / "other.txt").read_text() == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--json", "--format", "srt"), "--json: prints events as they come, --format srt writes files once heard"),
        (("--overwrite",), "--overwrite: nothing is written without --output-dir"),
        (("--times", "words"), "--times words: text alone shows no times; add --json"),
        (("--times", "words", "--format", "txt"), "--times words: text alone shows no times"),
        (("--times", "segments", "--json"), "times: 'segments', this bundle writes none of these"),
    ],
)
def test_options_that_do_not_go_together_are_refused(cli, bundle, wav, options, message):
    code, out, err = cli("run", bundle, wav(), *options)
    assert (code, out) == (2, "")
    assert message in err
