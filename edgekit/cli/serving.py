"""What `listen` and `serve` share: the configuration and the flags that go before it, the service, how they end."""

import logging
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edgekit.cli.paths import FilePath
from edgekit.cli.speech import no_echo
from edgekit.errors import BundleFileError, UsageError

if TYPE_CHECKING:
    from edgekit.runtime.model import Model
    from edgekit.serving.configuration import Configured
    from edgekit.serving.service.neighbours import Place
    from edgekit.serving.settings import Settings

_Command = TypeVar("_Command", bound=Callable[..., Any])
_LARGEST_PORT = 65_535
_FLUSH_S = 0.2

# The key of each flag whose name is not that of a setting of streams.
_KEYS = {
    "bundle": "bundle", "threads": "threads", "backend": "backend", "allow_fallback": "allow_fallback",
    "context_tokens": "context_tokens", "plans": "plans", "trust": "trust", "require_signature": "require_signature",
    "speak": "speak", "device": "microphone.device", "speaker": "microphone.speaker", "record": "record.dir",
    "max_streams": "limits.streams", "token_file": "http.token_file", "cert": "http.cert", "key": "http.key",
}  # fmt: skip
_STREAM = (
    "gate", "level", "language", "task", "times", "partials", "provisional_ms", "system", "prompt", "tools", "turns",
    "think", "max_tokens", "voice", "temperature", "top_k", "top_p", "repetition_penalty", "seed",
)  # fmt: skip
_OF_CONFIGURATION = (
    "http", "wyoming", "echo", "settings", "config", "print_config", "install_service", "uninstall_service", "user",
    "print_unit",
)  # fmt: skip
_OF_SERVICES = {"as_json": "--json", "wait": "--wait"}  # what a service's command says beside its configuration
_NOT_SAID = ("allow_fallback", "require_signature", "speak")  # flags that say nothing when they are absent


@dataclass(frozen=True, slots=True)
class Address:
    """What ``--http`` and ``--wyoming`` take: a port, a host with one, or off."""

    on: bool
    host: str | None = None
    port: int | None = None


class AddressType(click.types.StringParamType):
    """``[HOST:]PORT``, or ``off``."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the Address."""
        if isinstance(value, Address):
            return value
        if value == "off":
            return Address(on=False)
        host, colon, port = str(value).rpartition(":")
        if not (port.isascii() and port.isdecimal() and int(port) <= _LARGEST_PORT) or (colon and not _is_host(host)):
            self.fail(f"'{value}' is neither a port from 0 to {_LARGEST_PORT}, nor HOST:PORT, nor off", param, ctx)
        host = host.removeprefix("[").removesuffix("]")
        return Address(on=True, host=host or None, port=int(port))


def _is_host(text: str) -> bool:
    """Return whether a text names a host as it stands before a port: an IPv6 address in brackets."""
    return bool(text) and (":" not in text or (text[0] == "[" and text[-1] == "]"))


def serving_options(command: _Command) -> _Command:
    """Add the configuration, who is served, what is kept, and the service; see ``configured``."""
    added = [
        click.option(
            "--http", type=AddressType(), metavar="[HOST:]PORT|off", help="Where HTTP, websockets and the page are."
        ),
        click.option("--wyoming", type=AddressType(), metavar="[HOST:]PORT|off", help="Where Wyoming is spoken."),
        click.option(
            "--token-file", type=FilePath(), metavar="FILE", help="HTTP asks for the secret that is in it, mode 0600."
        ),
        click.option("--cert", type=FilePath(), metavar="FILE", help="Certificate, in PEM; HTTP by TLS, with --key."),
        click.option("--key", type=FilePath(), metavar="FILE", help="Its private key, in PEM."),
        click.option(
            "--max-streams", type=click.IntRange(min=1), metavar="N", help="Streams at once; one more is refused."
        ),
        click.option(
            "--record", type=FilePath(), metavar="FOLDER", help="Keep sound and text of what is said; else nothing is."
        ),
        click.option(
            "--config",
            type=FilePath(readable=False),
            metavar="FILE",
            help="The configuration, TOML. If absent: $XDG_CONFIG_HOME/edgekit/edgekit.toml, which is in ~/.config "
            "where that is not set, else /etc/edgekit/edgekit.toml, if one is there. Flags go before it.",
        ),
        click.option(
            "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any key of the configuration. Repeatable."
        ),
        click.option("--print-config", is_flag=True, help="Print the whole configuration, and end."),
        click.option("--install-service", is_flag=True, help="Write a unit that lets systemd run this, and end."),
        click.option("--uninstall-service", is_flag=True, help="Remove that unit, and end."),
        click.option("--user/--system", "user", default=None, help="Whose; if absent: the system's for root."),
        click.option("--print", "print_unit", is_flag=True, help="Print the unit in place of writing it."),
    ]
    for option in reversed(added):
        command = option(command)
    return command


@dataclass(slots=True)
class Flags:
    """What the command line says of the configuration. ``words``: flag, key and text of each, to say it again."""

    config: Path | None
    values: dict[str, tuple[str, Any]] = field(default_factory=dict)
    words: list[tuple[str, str, str | None]] = field(default_factory=list)

    def add(self, flag: str, key: str, value: Any, word: str | None = None) -> None:
        """Add one key."""
        self.values[key] = (flag, value)
        self.words.append((flag, key, word))


def flags_of(asked: Mapping[str, Any]) -> Flags:
    """Return what the options of a command say of the configuration. Raises SettingsError for --set."""
    from edgekit.serving.configuration import set_value

    flags = Flags(asked.get("config"))
    for name, value in asked.items():
        if value is None or value == () or (name in _NOT_SAID and not value):
            continue
        flag = f"--{name.replace('_', '-')}"
        if name in {"http", "wyoming"}:
            _add_address(flags, name, value)
        elif name == "echo":
            flags.add("--echo" if value else "--no-echo", "microphone.echo", "cancel" if value else "off")
        elif name == "settings":
            for text in value:
                flags.add("--set", *set_value(text))
        elif name in _KEYS or name in _STREAM:
            key = _KEYS.get(name, f"stream.{name}")
            plain = [str(one) for one in value] if isinstance(value, tuple) else value
            flags.add(flag, key, str(plain) if isinstance(plain, Path) else plain)
    return flags


def configured(asked: Mapping[str, Any], command: str) -> "Configured":
    """Return the configuration that a command's options name, with those that go before it.

    Raises SettingsError; UsageError for a flag that sets what has no effect, which a file that others share may do.
    """
    from edgekit.serving.configuration import configure, toml_value

    flags = flags_of(asked)
    result = configure(flags.config, flags.values)
    for key, (flag, value) in flags.values.items():
        if reason := _without_effect(key, result.settings, asked, command):
            shown = value if isinstance(value, str) else toml_value(value)
            said = flag if flag == "--echo" else f"{flag} {key}={shown}" if flag == "--set" else f"{flag} {shown}"
            raise UsageError(f"{said}: {reason}")
    return result


def _without_effect(key: str, settings: "Settings", asked: Mapping[str, Any], command: str) -> str:
    """Return why a key that is set changes nothing, and what to do; empty where it may change something."""
    table = key.partition(".")[0]
    http = command == "serve" if settings.http.on is None else settings.http.on
    simulate = asked.get("simulate")
    if table == "microphone" and command != "listen":
        return f"`{command}` opens no sound device; leave it out, or `edgekit listen`"
    served, cancels = http or settings.wyoming.on, settings.microphone.echo == "cancel"
    chosen = key in {"http.on", "wyoming.on"}
    reasons = {
        "http": "" if http or chosen else "HTTP is off; add --http PORT, or leave it out",
        "wyoming": "" if settings.wyoming.on or chosen else "Wyoming is off; add --wyoming PORT, or leave it out",
        "limits": "" if served else "nobody else is served; add --http PORT or --wyoming PORT, or leave it out",
        "record": "" if settings.record.dir else "nothing is kept; add --record FOLDER, or leave it out",
        "microphone.device": f"--simulate plays {simulate} in place of a microphone; leave one out" if simulate else "",
        "microphone.speaker": "" if settings.speak else "without --speak nothing is spoken; add it, or leave this out",
        "microphone.echo": no_echo(speak=settings.speak, simulate=simulate) if cancels else "",
        "stream.times": "text alone shows no times; add --json" if command == "listen" and not asked["as_json"] else "",
    }
    return reasons.get(key) or reasons.get(table) or ""


def _add_address(flags: Flags, name: str, address: Address) -> None:
    flag = f"--{name}"
    flags.add(flag, f"{name}.on", address.on)
    if address.port is not None:
        flags.add(flag, f"{name}.port", address.port)
    if address.host is not None:
        flags.add(flag, f"{name}.host", address.host)


def print_config(configuration: "Configured") -> None:
    """Print the whole configuration as TOML."""
    from edgekit.serving.configuration import as_toml

    click.echo(as_toml(configuration), nl=False)


def chosen_bundle(settings: "Settings", command: str) -> Path:
    """Return the settings' bundle, else that of EDGEKIT_BUNDLE, else the newest under ./bundles, as an absolute path.

    Raises BundleFileError if there is none.
    """
    if settings.bundle is not None:
        return Path(settings.bundle)
    if named := os.environ.get("EDGEKIT_BUNDLE"):
        return Path(named).absolute()
    made = [path for path in Path("bundles").glob("*/manifest.json") if not path.parent.name.startswith(".")]
    manifests = sorted(made, key=lambda path: path.stat().st_mtime)  # a dot folder is one still being written
    if not manifests:
        raise BundleFileError(
            "bundles: holds no bundle, and none was named; make one with `edgekit demo`, or name one: "
            f"`edgekit {command} BUNDLE`"
        )
    return manifests[-1].parent.absolute()


def service(asked: Mapping[str, Any], command: str) -> bool:
    """Write, print or remove the unit that runs a command, if that is asked for, and explain it; say whether it was."""
    if not (asked["install_service"] or asked["uninstall_service"]):
        if asked["print_unit"] or asked["user"] is not None:
            flag = "--print" if asked["print_unit"] else "--user" if asked["user"] else "--system"
            raise UsageError(f"{flag}: belongs to --install-service; add that, or leave it out")
        return False
    if asked["install_service"] and asked["uninstall_service"]:
        raise UsageError("--uninstall-service: --install-service is given as well; leave one out")
    from edgekit.serving.guard import check_bind
    from edgekit.serving.service import unit

    user = os.geteuid() != 0 if asked["user"] is None else asked["user"]
    if asked["uninstall_service"]:
        click.echo(unit.explain_removed(unit.remove(command, user=user), user=user), nl=False)
        return True
    configuration = configured(asked, command)
    http = configuration.settings.http
    check_bind(http.host, http.token, http.cert, http.key)
    bundle = chosen_bundle(configuration.settings, command)
    words = [*arguments(asked, configuration, bundle), *_other_words(asked, command)]
    text = unit.unit_text(command, words, configuration, bundle, user=user)
    if asked["print_unit"]:
        click.echo(text, nl=False)
    else:
        click.echo(unit.explain_written(unit.write(command, text, user=user), user=user), nl=False)
    return True


def arguments(asked: Mapping[str, Any], configuration: "Configured", bundle: Path) -> list[str]:
    """Return the words that say the same from any folder."""
    from edgekit.serving.configuration import settings_keys

    values = dict(settings_keys(configuration.settings))
    said = []
    if configuration.file is None or configuration.origins.get("bundle") != str(configuration.file):
        said.append(str(bundle))
    if configuration.file is not None:
        said += ["--config", str(Path(configuration.file).absolute())]
    addresses = set()
    for flag, key, _ in flags_of(asked).words:
        value = values[key]
        name = key.split(".")[0]
        if key == "bundle":
            continue
        if flag in {"--http", "--wyoming"}:
            if flag not in addresses:
                addresses.add(flag)
                said += [flag, _address(asked[name])]
        else:
            said += _words(flag, key, value)
    return said


def _words(flag: str, key: str, value: Any) -> list[str]:
    """Return the words that give a key its value by a flag."""
    if flag == "--set":
        from edgekit.serving.configuration import toml_value

        return [flag, f"{key}={toml_value(value)}"]
    if key == "microphone.echo":
        return [flag]
    if isinstance(value, bool):
        if key == "stream.think":
            return [flag, "on" if value else "off"]
        return [flag if value else flag.replace("--", "--no-", 1)]
    return [word for one in (value if isinstance(value, tuple) else [value]) for word in (flag, str(one))]


def _other_words(asked: Mapping[str, Any], command: str) -> list[str]:
    """Return the words of options that no configuration has. Raises UsageError for what a service has no use for."""
    known = {*_KEYS, *_STREAM, *_OF_CONFIGURATION}
    given = {name for name, value in asked.items() if name not in known and value not in (None, False, ())}
    if useless := sorted(given - _OF_SERVICES.keys()):
        flag = f"--{useless[0].replace('_', '-')}"
        raise UsageError(f"{flag}: a service has no use for it; leave it out")
    if command == "listen":
        given.add("wait")  # a microphone may come after its machine
    return [_OF_SERVICES[name] for name in sorted(given)]


def _address(address: Address) -> str:
    if not address.on:
        return "off"
    host = f"[{address.host}]" if address.host and ":" in address.host else address.host
    return f"{host}:{address.port}" if host else str(address.port)


def read_configuration(asked: Mapping[str, Any], command: str) -> "Configured":
    """Return the configuration with its bundle, after all was looked at that can be without loading it."""
    from msgspec import structs

    from edgekit.bundle import open_bundle
    from edgekit.bundle.trust import read_trust
    from edgekit.serving.guard import check_bind

    read = configured(asked, command)
    http = read.settings.http
    check_bind(http.host, http.token, http.cert, http.key)
    settings = structs.replace(read.settings, bundle=str(chosen_bundle(read.settings, command)))
    trust = read_trust(settings.trust or None, settings.require_signature)
    open_bundle(settings.bundle or "", check_hashes=False, trust=trust)  # loading checks them
    return replace(read, settings=settings)


def load(settings: "Settings") -> "Model":
    """Return the model that settings ask for."""
    import edgekit
    from edgekit.bundle.trust import read_trust

    assert settings.bundle is not None
    return edgekit.load(
        settings.bundle, threads=settings.threads, backend=settings.backend, allow_fallback=settings.allow_fallback,
        context_tokens=settings.context_tokens, plans=settings.plans, speak=settings.speak,
        trust=read_trust(settings.trust or None, settings.require_signature),
    )  # fmt: skip


def show_places(addresses: "Sequence[tuple[Place, str]]", settings: "Settings") -> None:
    """Say where it listens, who can reach that, and what is kept."""
    for place, address in addresses:
        click.echo(f"edgekit: {address}: {place.reach}", err=True)
    kept = settings.record
    if kept.dir:
        click.echo(
            f"edgekit: what is said is kept in {kept.dir}, for {kept.keep_days:g} days, at most {kept.max_mb:g} MB",
            err=True,
        )
    elif addresses:
        click.echo("edgekit: nothing of what is said is written to disk", err=True)


def leave(code: int) -> None:
    """End the process now, though a thread of it is in native code that does not return.

    Python would wait for it, or crash where it comes back into a process that is half taken down.
    """

    def flush() -> None:
        logging.shutdown()
        for stream in (sys.stderr, sys.stdout):
            stream.flush()

    flushing = threading.Thread(target=flush, daemon=True)
    flushing.start()
    flushing.join(_FLUSH_S)  # who reads a pipe no more would keep it
    os._exit(code)
