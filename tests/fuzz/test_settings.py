"""A damaged configuration, key or token is refused, or gives settings that are printed and read again as the same."""

import json

import tomllib

from edgekit.recipe import LARGEST_FILE
from edgekit.runtime.options import StreamOptions
from edgekit.serving.configuration import as_toml, configure, set_value, settings_keys
from edgekit.serving.server import Server
from edgekit.serving.service.neighbours import places
from edgekit.serving.settings import Settings
from tests.fuzz.toml import as_toml as toml_of
from tests.fuzz.worker import must_work

WHOLE = """
bundle = "bundles/mine"
threads = 2
trust = ["a.pub"]
[stream]
language = "en"
partials = "agreed"
provisional_ms = 200
turns = "all"
think = 100
temperature = 0.5
seed = 7
[limits]
streams = 2
late_s = 1.5
[http]
on = true
host = "127.0.0.1"
port = 8017
hosts = ["box.lan"]
[wyoming]
on = false
networks = ["192.168.1.0/24"]
[record]
keep_days = 3.5
"""


def use(configured, path):
    """Do with a configuration what a server does before it binds."""
    path.write_text(text := as_toml(configured), encoding="utf-8")
    if len(text.encode()) <= LARGEST_FILE:
        assert configure(path).settings == configured.settings
    settings = configured.settings
    assert 0 <= settings.http.port < 65_536
    assert 1 <= settings.limits.streams <= 256
    assert settings.limits.late_s > 0
    Server(None, settings.limits)
    stream = settings.stream
    StreamOptions(turns=stream.turns or 0, think=stream.think, max_tokens=stream.max_tokens, seed=stream.seed)
    assert not settings.wyoming.on or settings.wyoming.host
    if settings.http.on is False and not settings.wyoming.on:
        assert places(settings, Server(None, settings.limits), http=True) == []


def test_a_damaged_configuration_is_read_or_refused(fuzz, tmp_path):
    path, again = tmp_path / "edgekit.toml", tmp_path / "again.toml"

    def attempt(case):
        if case.which % 3:
            path.write_bytes(toml_of(case.tree(json.dumps(tomllib.loads(WHOLE)))))
        else:
            path.write_bytes(case.data(WHOLE.encode()))
        configured = configure(path)
        with must_work():
            use(configured, again)

    fuzz("configuration", attempt, whole=3)


def test_a_damaged_key_and_value_is_set_or_refused(fuzz):
    known = dict(settings_keys(Settings()))

    def attempt(case):
        text = case.chosen(["limits.streams=2", 'http.hosts=["a"]', "http.page=false", "bundle=b", "stream.think=7"])
        key, value = set_value(case.data(text.encode()).decode("utf-8", "surrogateescape"))
        assert key in known
        configure(None, {key: ("--set", value)})

    fuzz("key and value", attempt, whole=5)
