"""One TOML file and the flags before it: every key, every fault in one line, printed to be read again."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from edgekit.errors import SettingsError
from edgekit.serving.configuration import (
    SYSTEM_FILE,
    as_toml,
    configure,
    default_files,
    read_token,
    set_value,
    settings_keys,
)
from edgekit.serving.settings import Settings

SECRET = "0123456789abcdef-0123"  # noqa: S105 - of this test


@pytest.fixture(autouse=True)
def nothing_configured(tmp_path, monkeypatch):
    """Let this machine's own configuration be none."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "none"))
    monkeypatch.setattr("edgekit.serving.configuration.SYSTEM_FILE", tmp_path / "etc.toml")
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)


@pytest.fixture
def toml(tmp_path):
    """Write a configuration and return its path."""

    def write(text, name="edgekit.toml"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_without_a_file_and_flags_everything_is_as_by_default():
    configured = configure()
    assert (configured.settings, configured.file, configured.origins) == (Settings(), None, {})


def test_a_file_says_what_differs_and_a_flag_goes_before_it(toml):
    path = toml('bundle = "b"\nthreads = 3\n[http]\nport = 1\nhosts = ["box.lan"]\n[limits]\nstreams = 7\n')
    configured = configure(path, {"http.port": ("--http", 2), "threads": ("--threads", 5)})
    settings = configured.settings
    assert (settings.threads, settings.http.port, settings.http.hosts) == (5, 2, ("box.lan",))
    assert (settings.limits.streams, settings.limits.events) == (7, Settings().limits.events)
    assert configured.origins["http.port"] == "--http"
    assert configured.origins["limits.streams"] == str(path)


def test_paths_of_a_file_are_beside_it_and_those_of_flags_where_the_user_is(toml, tmp_path, monkeypatch):
    path = toml('bundle = "b"\nplans = "/p"\ntrust = ["k", "/t"]\n')
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    settings = configure(path, {"record.dir": ("--record", "r")}).settings
    assert settings.bundle == str(tmp_path / "b")
    assert settings.plans == "/p"
    assert settings.trust == (str(tmp_path / "k"), "/t")
    assert settings.record.dir == str(tmp_path / "here/r")


def test_the_user_s_own_file_is_read_before_the_machine_s(tmp_path, monkeypatch):
    assert Path("/etc/edgekit/edgekit.toml") == SYSTEM_FILE
    own, machine = default_files()[0], tmp_path / "etc.toml"
    assert own == tmp_path / "none/edgekit/edgekit.toml"
    machine.write_text("threads = 1\n")
    assert configure().settings.threads == 1
    own.parent.mkdir(parents=True)
    own.write_text("threads = 2\n")
    assert configure().settings.threads == 2
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")  # which the standard says to ignore
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_files()[0] == tmp_path / "home/.config/edgekit/edgekit.toml"


FAULTS = {
    "prot = 1": "prot is 1, there is no such key; choose one of: bundle, ",
    "[http]\nprot = 1": "http.prot is 1, there is no such key; did you mean 'port'?",
    "[htpt]\nport = 1": "htpt is {'port': 1}, there is no such key; did you mean 'http'?",
    '[http]\nport = "x"': "http.port is 'x', must be int, got str; correct it",
    "[http]\nport = 70000": "http.port is 70000, must be int <= 65535; correct it",
    "[http]\nport = -1": "http.port is -1, must be int >= 0; correct it",
    "threads = true": "threads is True, must be int, got bool; correct it",
    "threads = 10000000000000000000": "must be",
    "http = 3": "http is 3, must be a table; write [http] above its keys",
    "[bundle]\na = 1": "bundle is a table, must be a value; correct it",
    '[stream]\npartials = "maybe"': "stream.partials is 'maybe', must be one of: agreed, committed, true, false; corr",
    '[stream]\nturns = "some"': "stream.turns is 'some', must be one of: all, a number from 0; correct it",
    '[stream]\ngate = "x"': "stream.gate is 'x', must be one of: speech, sound, off; correct it",
    "[limits]\nlate_s = nan": "limits.late_s is nan, must be a finite number; correct it",
    "[limits]\nlate_s = 0": "limits.late_s is 0, must be float > 0.0; correct it",
    "[limits]\nstreams = 1.5": "limits.streams is 1.5, must be int, got float; correct it",
    'trust = "x"': "trust is 'x', must be a list, got str; correct it",
    'trust = [""]': "trust is [''], must be str of length >= 1; correct it",
    'bundle = "a\\nb"': r"bundle is 'a\nb', must be str of one line; correct it",
    '[http]\ntoken = "abc"': "http.token: a secret has no place in a configuration; put it into a file of mode 600",
    '[http]\ncert = "c.pem"': "http.cert is ",
    '[stream]\nvoice = "anna"': "stream.voice is 'anna', nothing speaks; set speak = true, or leave it",
    "x ==": "Invalid value (at line 1, column 4); correct it",
    "a = 1\na = 2": "Cannot overwrite a value",
    f"a = {'[' * 5000}": "line 1 has 5004 characters, must have at most 2000; break it",
}


@pytest.mark.parametrize("text", FAULTS, ids=lambda text: text[:30])
def test_a_wrong_file_is_one_line_that_names_file_key_value_and_rule(toml, text):
    path = toml(text)
    with pytest.raises(SettingsError) as raised:
        configure(path)
    said = str(raised.value)
    assert said.startswith(f"{path}: "), said
    assert FAULTS[text] in said, said
    assert "\n" not in said


def test_a_wrong_value_of_a_flag_names_the_flag():
    with pytest.raises(SettingsError, match=r"^--http: http.port is 70000, must be int <= 65535; correct it$"):
        configure(None, {"http.port": ("--http", 70_000)})


def test_a_file_that_cannot_be_read_is_one_line(toml, tmp_path):
    for path, said in (
        (tmp_path / "no.toml", "no such file; `edgekit serve --print-config` prints one to begin with"),
        (tmp_path, "Is a directory; give a TOML file that this user may read"),
        (Path("/dev/zero"), "Is a device, must be a regular file; give a TOML file"),
    ):
        with pytest.raises(SettingsError, match=re.escape(f"{path}: {said}")):
            configure(path)
    path = toml("")
    path.write_bytes(b"a = '\xff'")
    with pytest.raises(SettingsError, match="not UTF-8 at byte 5, TOML is; save it as UTF-8"):
        configure(path)
    path.write_bytes(b"#" * (1 << 17))
    with pytest.raises(SettingsError, match="Has 131,072 bytes, at most 65,536 are read"):
        configure(path)


@pytest.mark.parametrize("text", ["a", "=1", "limits.streams=", "limits.streams", " = 3"])
def test_what_sets_nothing_is_refused(text):
    with pytest.raises(SettingsError, match="^--set: .*KEY=VALUE is needed"):
        set_value(text)


@pytest.mark.parametrize(("text", "key", "value"), [
    ("limits.streams=2", "limits.streams", 2), ("http.page = false", "http.page", False),
    ("bundle=a b", "bundle", "a b"), ('bundle="3"', "bundle", "3"), ('http.hosts=["a"]', "http.hosts", ["a"]),
])  # fmt: skip
def test_any_key_can_be_set_by_a_flag_as_toml_has_it_or_as_a_text(text, key, value):
    assert set_value(text) == (key, value)


@pytest.mark.parametrize(("text", "said"), [
    ("limits.strems=2", "limits.strems is 2, there is no such key; did you mean 'streams'?"),
    ("limits=2", "limits is 2, must be a table"), ("threads.x=2", "threads is a table"), ("a..b=1", "no such key"),
])  # fmt: skip
def test_a_key_that_is_set_and_is_none_is_refused(text, said):
    with pytest.raises(SettingsError, match=f"^--set: .*{re.escape(said)}"):
        set_value(text)


LONG = st.text(st.sampled_from(' a"\\\n\x7f\x01ü\U0001f600'), min_size=290, max_size=2000)
TEXTS = st.one_of(st.text(st.characters(codec="utf-8"), max_size=40), LONG)
NAMES = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zl", "Zp")), min_size=1, max_size=20)
VALUES = {
    "bundle": NAMES, "threads": st.integers(1, 4096), "trust": st.lists(NAMES, max_size=3), "speak": st.just(True),
    "stream.system": TEXTS, "stream.prompt": TEXTS, "stream.think": st.one_of(st.booleans(), st.integers(1, 2**20)),
    "stream.turns": st.one_of(st.just("all"), st.integers(0, 99)), "stream.partials": st.sampled_from(["agreed", True]),
    "stream.temperature": st.floats(0, 1000), "stream.top_p": st.floats(0, 1, exclude_min=True),
    "stream.seed": st.integers(0, 2**63 - 1), "limits.late_s": st.floats(0, 1e5, exclude_min=True),
    "http.on": st.booleans(), "http.port": st.integers(0, 65_535), "http.hosts": st.lists(NAMES, max_size=3),
    "wyoming.name": st.one_of(st.just(""), NAMES), "record.dir": NAMES, "record.max_mb": st.floats(1e-3, 1e9),
}  # fmt: skip


@given(values=st.fixed_dictionaries({}, optional=VALUES))
def test_what_is_printed_is_read_again_as_the_same(tmp_path_factory, values):
    first = configure(None, {key: ("--set", value) for key, value in values.items()})
    path = tmp_path_factory.mktemp("printed") / "again.toml"
    path.write_text(as_toml(first), encoding="utf-8")
    assert configure(path).settings == first.settings


def test_what_is_printed_says_where_each_value_is_from_and_names_every_key(toml):
    path = toml("threads = 3\n")
    text = as_toml(configure(path, {"http.port": ("--http", 1234)}))
    assert f"threads = 3  # {path}\n" in text
    assert "port = 1234  # --http\n" in text
    assert "streams = 4  # default\n" in text
    assert "# language: not set\n" in text
    for key, _ in settings_keys(Settings()):
        assert re.search(rf"^(# )?{key.split('.')[-1]}( = |: not set)", text, re.MULTILINE), key


@pytest.fixture
def secret(tmp_path):
    """Write a token that nobody else may read."""
    path = tmp_path / "token"
    path.write_text(f"{SECRET}\n")
    path.chmod(0o600)
    return path


def test_a_token_is_read_from_a_file_and_printed_nowhere(secret):
    configured = configure(None, {"http.token_file": ("--token-file", str(secret))})
    assert configured.settings.http.token == SECRET
    assert SECRET not in as_toml(configured)
    assert f'token_file = "{secret}"' in as_toml(configured)


def test_a_token_that_others_may_read_or_that_is_easily_guessed_is_refused(secret):
    secret.chmod(0o604)
    with pytest.raises(SettingsError, match=r"everybody may read it \(mode 0604\), a secret is its owner's; chmod 600"):
        read_token(secret)
    secret.chmod(0o600)
    for text in ("short", "", "with a space in it, and long", "ü" * 20):
        secret.write_text(text)
        with pytest.raises(
            SettingsError, match=r"characters, 16 or more are needed, of ASCII without spaces"
        ) as raised:
            read_token(secret)
        assert not text or text not in str(raised.value)
    with pytest.raises(SettingsError, match=r"http.token_file: .*: No such file or directory; give a file"):
        read_token(secret.with_name("none"))


def test_what_systemd_hands_to_the_service_goes_before_the_file_that_is_named(secret, tmp_path, monkeypatch):
    (tmp_path / "credentials").mkdir()
    handed = tmp_path / "credentials/edgekit-token"
    handed.write_text("handed-over-by-systemd")
    handed.chmod(0o400)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(handed.parent))
    assert configure(None, {"http.token_file": ("--token-file", str(secret))}).settings.http.token == handed.read_text()


def test_half_of_what_tls_needs_is_refused():
    with pytest.raises(SettingsError, match=r"^--key: http.key is /k, TLS needs http.cert as well; name both files$"):
        configure(None, {"http.key": ("--key", "/k")})
    assert configure(None, {"http.key": ("--key", "/k"), "http.cert": ("--cert", "/c")}).settings.http.cert == "/c"


def test_settings_are_compared_by_what_a_model_is_loaded_with():
    one = Settings()
    assert structs.replace(one, threads=2).loading != one.loading
    assert structs.replace(one, http=structs.replace(one.http, port=1)).loading == one.loading
