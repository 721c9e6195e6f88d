"""A flag that would change nothing is refused by name; the same key in a file that others share is not."""

import pytest

HTTP_OFF = "HTTP is off; add --http PORT, or leave it out"
WYOMING_OFF = "Wyoming is off; add --wyoming PORT, or leave it out"
NOBODY = "nobody else is served; add --http PORT or --wyoming PORT, or leave it out"
NOT_KEPT = "nothing is kept; add --record FOLDER, or leave it out"
NO_DEVICE = "`serve` opens no sound device; leave it out, or `edgekit listen`"
NO_TIMES = "text alone shows no times; add --json"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("serve --set microphone.device=usb", f"--set microphone.device=usb: {NO_DEVICE}"),
        ("serve --set microphone.echo=off", f"--set microphone.echo=off: {NO_DEVICE}"),
        ("serve --http off --wyoming 0 --token-file secret", f"--token-file secret: {HTTP_OFF}"),
        ("serve --set record.keep_days=3", f"--set record.keep_days=3: {NOT_KEPT}"),
        ("serve --set wyoming.name=kitchen", f"--set wyoming.name=kitchen: {WYOMING_OFF}"),
        ("serve --print-config --set wyoming.port=7", f"--set wyoming.port=7: {WYOMING_OFF}"),
        ("listen --max-streams 3", f"--max-streams 3: {NOBODY}"),
        ("listen --max-streams 3 --install-service --print", f"--max-streams 3: {NOBODY}"),
        ("listen --set limits.idle_s=3", f"--set limits.idle_s=3: {NOBODY}"),
        ("listen --cert a.pem --key b.pem", f"--cert a.pem: {HTTP_OFF}"),
        ("listen --wyoming 0 --set http.page=false", f"--set http.page=false: {HTTP_OFF}"),
        ("listen --set record.max_mb=3", f"--set record.max_mb=3: {NOT_KEPT}"),
        (
            "listen --simulate a.wav --set microphone.device=usb",
            "--set microphone.device=usb: --simulate plays a.wav in place of a microphone; leave one out",
        ),
        (
            "listen --set microphone.speaker=usb",
            "--set microphone.speaker=usb: without --speak nothing is spoken; add it, or leave this out",
        ),
        ("listen --echo", "--echo: nothing is spoken; add --speak"),
        ("listen --simulate a.wav --speak --echo", "--echo: a file hears no loudspeaker; leave it out"),
        ("listen --set stream.times=words", f"--set stream.times=words: {NO_TIMES}"),
    ],
)
def test_a_flag_without_effect_is_refused_by_name(cli, tmp_path, monkeypatch, words, line):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "secret").write_text("s" * 40)
    (tmp_path / "secret").chmod(0o600)
    assert cli(*words.split()) == (2, "", f"edgekit: {line}\n")


@pytest.mark.parametrize(
    "words",
    [
        "serve --http off --wyoming 0",
        "listen --http 0 --max-streams 3",
        "listen --wyoming 0 --max-streams 3",
        "listen --set http.on=true --set http.page=false",
        "listen --http off --wyoming off",
        "listen --no-echo",
        "listen --speak --speaker usb --echo",
        "listen --record kept --set record.keep_days=3",
        "listen --json --times words",
    ],
)
def test_a_flag_that_changes_something_is_taken(cli, bundle, tmp_path, monkeypatch, words):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    command, *rest = words.split()
    code, _, err = cli(command, bundle, *rest, "--print-config")
    assert (code, err) == (0, "")


@pytest.mark.parametrize("command", ["serve", "listen"])
def test_a_file_that_both_commands_share_may_say_what_only_one_of_them_uses(cli, bundle, tmp_path, command):
    path = tmp_path / "edgekit.toml"
    path.write_text(
        '[stream]\ntimes = "words"\n[limits]\nstreams = 3\n[http]\npage = false\n[wyoming]\nname = "kitchen"\n'
        '[microphone]\ndevice = "usb"\nspeaker = "usb"\necho = "cancel"\n[record]\nkeep_days = 3\n'
    )
    code, _, err = cli(command, bundle, "--config", path, "--print-config")
    assert (code, err) == (0, "")


def test_a_file_that_cancels_an_echo_is_no_hindrance_where_nothing_is_spoken(cli, bundle, wav, tmp_path):
    path = tmp_path / "edgekit.toml"
    path.write_text('[microphone]\necho = "cancel"\ndevice = "usb"\n')
    code, _, err = cli("listen", bundle, "--config", path, "--simulate", wav())
    assert code == 0, err


def test_a_speaker_is_taken_where_the_file_says_that_it_speaks(cli, bundle, tmp_path):
    path = tmp_path / "edgekit.toml"
    path.write_text("speak = true\n")
    code, _, err = cli("listen", bundle, "--config", path, "--speaker", "usb", "--print-config")
    assert (code, err) == (0, "")
