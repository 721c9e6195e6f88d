"""``edgekit run`` and the files that people have: pipes, odd names, refused ones; none of them stops the others."""

import io
import json
import os
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.cli.conftest import uncut


@pytest.fixture
def heard(cli, bundle, wav):
    """Return the text of a good recording, without a name."""
    code, text, err = cli("run", bundle, wav("talk.wav"))
    assert (code, err) == (0, "")
    assert text.strip()
    return text


def _sound(kind="WAV", samples=None):
    file = io.BytesIO()
    noise = np.random.default_rng(7).uniform(-0.3, 0.3, 8_000) if samples is None else samples
    soundfile.write(file, noise, 16_000, format=kind, subtype="PCM_16")
    return file.getvalue()


@pytest.mark.parametrize("name", ["-", "/dev/stdin"])
@pytest.mark.parametrize("kind", ["WAV", "FLAC"])
def test_sound_is_read_from_what_is_piped_in(program, bundle, heard, name, kind):
    process = program("run", bundle, name, stdin=-1)
    process.stdin.buffer.write(_sound(kind))
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, uncut(err)) == (0, heard, "")


def test_standard_input_from_a_file_and_closed(program, bundle, heard, tmp_path):
    with (tmp_path / "talk.wav").open("rb") as file:
        process = program("run", bundle, "-", stdin=file)
        out, err = process.communicate(timeout=60)
        assert (out, uncut(err)) == (heard, "")
    with Path(os.devnull).open("rb") as file:
        process = program("run", bundle, "-", stdin=file)
        assert process.communicate(timeout=60) == ("", "edgekit: -: empty, a recording is needed; record it again\n")
        assert process.returncode == 1


def test_a_named_pipe_is_heard_beside_files(cli, bundle, heard, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(_sound(),))
    writer.start()
    code, out, err = cli("run", bundle, tmp_path, pipe, tmp_path / "talk.wav")
    writer.join()
    assert (code, out) == (1, f"{pipe}: {heard}{tmp_path / 'talk.wav'}: {heard}")
    assert err == f"edgekit: {tmp_path}: is a folder, a recording is needed; give the files in it: {tmp_path}/*\n"


def test_a_name_that_is_no_utf_8_is_heard_and_shown_with_escapes(cli, bundle, heard, tmp_path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.wav"))
    path.write_bytes(_sound())
    shown = f"{tmp_path}/caf\\xe9.wav"
    code, out, err = cli("run", bundle, path, tmp_path / "talk.wav")
    assert (code, out, err) == (0, f"{shown}: {heard}{tmp_path / 'talk.wav'}: {heard}", "")
    code, out, err = cli("run", bundle, "--json", path, path)
    assert (code, err) == (0, "")
    assert {json.loads(line)["file"] for line in out.splitlines()} == {shown}
    path.write_bytes(b"no sound")
    assert cli("run", bundle, path)[2].startswith(f"edgekit: {shown}: ")


def test_a_file_that_may_not_be_read_is_reported_and_the_others_are_run(cli, bundle, heard, tmp_path, monkeypatch):
    secret = tmp_path / "secret.wav"
    secret.write_bytes(_sound())
    opened, access = Path.open, os.access

    def refuse(path, *arguments, **how):  # the superuser, who may run this, is refused nothing
        if path == secret:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *arguments, **how)

    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr(os, "access", lambda path, *modes, **how: str(path) != str(secret) and access(path, *modes))
    code, out, err = cli("run", bundle, secret, tmp_path / "talk.wav")
    assert (code, out) == (1, f"{tmp_path / 'talk.wav'}: {heard}")
    line = f"edgekit: {secret}: Permission denied, a readable file is needed; check its path and permissions\n"
    assert err == line
    for command in (("listen", bundle, "--simulate", secret), ("profile", bundle, secret, "-o", tmp_path / "p.json")):
        code, _, err = cli(*command)
        assert (code, err) == (1, line)


def test_what_is_heard_of_opposite_channels_is_told_by_file(cli, bundle, heard, tmp_path):
    left = np.random.default_rng(7).uniform(-0.3, 0.3, 8_000)
    path = tmp_path / "opposite.wav"
    path.write_bytes(_sound(samples=np.stack([left, -left], axis=1)))
    code, out, err = cli("run", bundle, path, tmp_path / "talk.wav")
    assert (code, out) == (0, f"{path}: {heard}{tmp_path / 'talk.wav'}: {heard}")
    assert err == f"edgekit: {path}: its channels cancel each other, channel 1 is heard alone\n"


def test_what_was_heard_before_a_file_ends_early_is_printed_too(cli, bundle, heard, tmp_path):
    path = tmp_path / "long.wav"
    path.write_bytes(_sound() + np.full(600, 777, np.int16).tobytes())
    code, out, err = cli("run", bundle, path, "--gate", "off")
    assert (code, err) == (
        1,
        f"edgekit: {path}: truncated, 1200 bytes follow the end that its header states; copy or record it again\n",
    )
    assert out.strip()
