"""A configuration: one TOML file, and the flags that go before it. Settings with where each comes from.

Unknown keys, other types and values out of range are refused in one line: file, key, value, rule, next step.
"""

import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import msgspec
from msgspec import Struct, structs

from edgekit.errors import SettingsError
from edgekit.plainfiles import is_there, read_plain, read_with_mode
from edgekit.recipe import LARGEST_FILE, tables
from edgekit.reprs import cut, exact
from edgekit.runtime.options import nearest
from edgekit.serving.guard import SHORTEST_TOKEN
from edgekit.serving.settings import CREDENTIAL, PATH, UNWRITTEN, HttpSettings, Settings

SYSTEM_FILE = Path("/etc/edgekit/edgekit.toml")
_LONGEST_TOKEN = 4096  # bytes
_MOST_ITEMS = 100  # of a list
_LONG = 300  # characters of what is printed in one line, each of which may become six
_LONGEST_SHOWN = 60  # characters of what --set is given, in a message
_EXPECTED = re.compile(r"Expected (?P<rule>.+?)(?: - at `(?P<place>[^`]*)`)?", re.DOTALL)
_WHERE = "default"


@dataclass(frozen=True, slots=True)
class Configured:
    """Settings, the file that they come from if there is one, and what each key was given by that is given."""

    settings: Settings
    file: Path | None = None
    origins: dict[str, str] = field(default_factory=dict)


def default_files() -> tuple[Path, ...]:
    """Return where a file is looked for that is not named: the first that is there is the one that is read."""
    named = os.environ.get("XDG_CONFIG_HOME", "")
    try:
        own = Path(named) if named.startswith("/") else Path("~/.config").expanduser()
    except RuntimeError:  # a user without a home
        return (SYSTEM_FILE,)
    return (own / "edgekit/edgekit.toml", SYSTEM_FILE)


def configure(file: Path | None = None, flags: Mapping[str, tuple[str, Any]] | None = None) -> Configured:
    """Return the settings of a file, by default the one that ``default_files`` names, and of flags, which go first.

    flags: by dotted key the flag and its value, such as ``{"http.port": ("--http", 8080)}``. Raises SettingsError.
    """
    chosen = file or next((one for one in default_files() if is_there(one)), None)
    values, origins = {}, {}
    if chosen is not None:
        folder = Path(chosen).absolute().parent
        for key, value in _keys(_read(chosen), Settings, str(chosen)):
            values[key], origins[key] = _checked(key, value, str(chosen), folder), str(chosen)
    for key, (flag, value) in (flags or {}).items():
        values[key], origins[key] = _checked(key, value, flag, Path.cwd()), flag
    settings = _with_credentials(_settings(values))
    _check_together(settings, origins)
    if settings.http.token_file is not None:
        token = read_token(Path(settings.http.token_file))
        settings = structs.replace(settings, http=structs.replace(settings.http, token=token))
    return Configured(settings, chosen, origins)


def set_value(text: str) -> tuple[str, Any]:
    """Return the key and the value of ``KEY=VALUE``, which is TOML's, or a text if it is none of that.

    Raises SettingsError where nothing is set.
    """
    key, equals, value = text.partition("=")
    key, value = key.strip(), value.strip()
    if not equals or not key or not value:
        shown = cut(text, _LONGEST_SHOWN)
        raise SettingsError(f"--set: '{shown}', KEY=VALUE is needed; such as --set limits.streams=2")
    _fields_at(key, "--set")
    try:
        return key, tables(f"value = {value}")["value"]
    except (ValueError, RecursionError):
        return key, value


def as_toml(configured: Configured) -> str:
    """Return the whole configuration as TOML that can be read again; a comment says where each value is from.

    A key that is not set is a comment, since TOML has no word for that; no secret is among them.
    """
    lines = [f"# {configured.file or 'no file'}, and the flags of this command"]
    tables_of: dict[str, list[str]] = {"": []}
    for key, value in settings_keys(configured.settings):
        table, _, name = key.rpartition(".")
        origin = configured.origins.get(key, _WHERE)
        line = f"# {name}: not set" if value is None else f"{name} = {toml_value(value)}  # {one_line(origin)}"
        tables_of.setdefault(table, []).append(line)
    for table, content in tables_of.items():
        lines += ["", f"[{table}]"] if table else []
        lines += content
    return "\n".join(lines) + "\n"


def settings_keys(settings: Struct, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every key with its value, dotted."""
    for one in structs.fields(settings):
        key, value = prefix + one.name, getattr(settings, one.name)
        if isinstance(value, Struct):
            yield from settings_keys(value, f"{key}.")
        elif key not in UNWRITTEN:
            yield key, value


def read_token(path: Path) -> str:
    """Return the secret in a file that others cannot read, without white space about it. Raises SettingsError."""
    try:
        data, mode = read_with_mode(path, _LONGEST_TOKEN)
    except OSError as error:
        raise SettingsError(f"http.token_file: {path}: {error.strerror}; give a file with the token alone") from error
    if mode & 0o007:
        raise SettingsError(
            f"http.token_file: {path}: everybody may read it (mode {mode:04o}), a secret is its owner's; chmod 600 it"
        )
    token = data.decode("ascii", "replace").strip()
    if len(token) < SHORTEST_TOKEN or not re.fullmatch(r"[\x21-\x7e]+", token):
        raise SettingsError(
            f"http.token_file: {path}: {len(token)} characters, {SHORTEST_TOKEN} or more are needed, of ASCII without "
            "spaces; `openssl rand -hex 32` makes some"
        )
    return token


def read_tools(path: str | None) -> str | None:
    """Return the text of ``stream.tools``. Raises SettingsError."""
    if path is None:
        return None
    try:
        return read_plain(Path(path), 1 << 20).decode("utf-8")
    except OSError as error:
        raise SettingsError(f"stream.tools: {path}: {error.strerror}; give a text file") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"stream.tools: {path}: no UTF-8 at byte {error.start}; save it as UTF-8") from error


def one_line(text: str) -> str:
    """Return a text without what ends a line, or is none of UTF-8's."""
    return " ".join(text.encode("utf-8", "replace").decode().split())


def _read(path: Path) -> dict[str, Any]:
    try:
        return tables(read_plain(path, LARGEST_FILE).decode("utf-8"))
    except FileNotFoundError as error:
        raise SettingsError(f"{path}: no such file; `edgekit serve --print-config` prints one to begin with") from error
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}; give a TOML file that this user may read") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path}: not UTF-8 at byte {error.start}, TOML is; save it as UTF-8") from error
    except RecursionError as error:
        raise SettingsError(f"{path}: lists or tables too deep within each other; correct it") from error
    except (msgspec.MsgspecError, ValueError) as error:
        raise SettingsError(f"{path}: {error}; correct it") from error


def _keys(content: Mapping[str, Any], kind: Any, where: str, prefix: str = "") -> Iterator[tuple[str, Any]]:  # noqa: ANN401 - a class of Struct
    """Yield the dotted keys of a file with their values; raises SettingsError for one that there is not."""
    known = {one.name: one.type for one in structs.fields(kind)}
    for name, value in content.items():
        key = prefix + name
        if key in UNWRITTEN:
            raise SettingsError(
                f"{where}: {key}: a secret has no place in a configuration; put it into a file of mode 600 and name "
                f"that: {key}_file"
            )
        if name not in known:
            readable = [one for one in known if prefix + one not in UNWRITTEN]
            raise SettingsError(f"{where}: {key} is {exact(value)}, there is no such key; {nearest(name, readable)}")
        inside = known[name]
        if not (isinstance(inside, type) and issubclass(inside, Struct)):
            yield key, value
        elif isinstance(value, dict):
            yield from _keys(value, inside, where, f"{key}.")
        else:
            raise SettingsError(f"{where}: {key} is {exact(value)}, must be a table; write [{key}] above its keys")


def _fields_at(key: str, where: str) -> Any:  # noqa: ANN401 - a type
    """Return the type of a dotted key; raises SettingsError where there is none."""
    content: Any = 0
    for name in reversed(key.split(".")):
        content = {name: content}
    ((_, _),) = _keys(content, Settings, where)
    kind: Any = Settings
    for index, name in enumerate(names := key.split(".")):
        if not (isinstance(kind, type) and issubclass(kind, Struct)):
            raise SettingsError(f"{where}: {'.'.join(names[:index])} is a table, must be a value; correct it")
        kind = {one.name: one.type for one in structs.fields(kind)}[name]
    return kind


def _checked(key: str, value: Any, where: str, folder: Path) -> Any:  # noqa: ANN401 - as its type says
    """Return the value of a key as Settings has it, paths absolute; raises SettingsError."""
    kind = _fields_at(key, where)
    if isinstance(value, Mapping):
        raise SettingsError(f"{where}: {key} is a table, must be a value; correct it")
    numbers = value if isinstance(value, list) else [value]
    rule = ""
    if len(numbers) > _MOST_ITEMS:
        rule = f"a list of at most {_MOST_ITEMS} items"
    elif any(isinstance(one, int) and abs(one) >= 2**63 for one in numbers):
        rule = "a number of 64 bits"
    elif any(isinstance(one, float) and not math.isfinite(one) for one in numbers):
        rule = "a finite number"
    if not rule:
        try:
            result = msgspec.convert(value, kind)
        except (msgspec.MsgspecError, ValueError, OverflowError) as error:
            rule = _rule(str(error), kind)
        else:
            return _absolute(result, folder) if _extra(kind).get(PATH) else result
    raise SettingsError(f"{where}: {key} is {exact(value)}, must be {rule}; correct it")


def _rule(message: str, kind: Any) -> str:  # noqa: ANN401 - a type
    """Return in words what msgspec expected."""
    parts = get_args(kind) if get_origin(kind) in {Union, UnionType} else (kind,)
    bare = {get_args(one)[0] if hasattr(one, "__metadata__") else one for one in parts}
    choices = [one for part in parts if get_origin(part) is Literal for one in get_args(part)]
    if choices:
        choices += ["true", "false"] * (bool in bare) + ["a number from 0"] * (int in bare)
        return f"one of: {', '.join(choices)}"
    match = _EXPECTED.fullmatch(message)
    rule = (match["rule"] if match else message).replace("`", "").replace(" | null", "")
    return re.sub(r"matching regex .*", "of one line", rule).replace("array", "a list")


def _extra(kind: Any) -> dict[str, Any]:  # noqa: ANN401 - a type
    """Return what the type of a field says beside its range, or that of the items of a list."""
    said: dict[str, Any] = {}
    for one in (kind, *get_args(kind)):
        for note in getattr(one, "__metadata__", ()):
            said |= getattr(note, "extra", None) or {}
    return said


def _absolute(value: Any, folder: Path) -> Any:  # noqa: ANN401 - a path, several or none
    if isinstance(value, tuple):
        return tuple(str(folder / one) for one in value)
    return None if value is None else str(folder / value)


def _settings(values: Mapping[str, Any]) -> Settings:
    """Return the Settings of dotted keys, whose values are as they must be."""
    nested: dict[str, Any] = {}
    for key, value in values.items():
        *folders, name = key.split(".")
        place = nested
        for one in folders:
            place = place.setdefault(one, {})
        place[name] = value
    settings = Settings()
    for name, value in nested.items():
        inside = structs.replace(getattr(settings, name), **value) if isinstance(value, dict) else value
        settings = structs.replace(settings, **{name: inside})
    return settings


def _with_credentials(settings: Settings) -> Settings:
    """Return them with the files that systemd has laid where this service alone reads them."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    if not folder:
        return settings
    fields = {key: str(place) for key, name in CREDENTIALS.items() if is_there(place := Path(folder) / name)}
    return structs.replace(settings, http=structs.replace(settings.http, **fields))


def _check_together(settings: Settings, origins: Mapping[str, str]) -> None:
    """Raise SettingsError for what contradicts itself."""
    http, stream = settings.http, settings.stream
    for one, other in (("cert", "key"), ("key", "cert")):
        if getattr(http, one) is not None and getattr(http, other) is None:
            where = origins.get(f"http.{one}", "")
            raise SettingsError(
                f"{where}: http.{one} is {getattr(http, one)}, TLS needs http.{other} as well; name both files"
            )
    if stream.voice is not None and not settings.speak:
        where = origins.get("stream.voice", "")
        raise SettingsError(f"{where}: stream.voice is '{stream.voice}', nothing speaks; set speak = true, or leave it")


def toml_value(value: Any) -> str:  # noqa: ANN401 - of a setting
    """Return a value as TOML writes it, whose texts are JSON's but for one character; of what is long several lines."""
    if isinstance(value, tuple):
        items = list(map(toml_value, value))
        between = ",\n  " if sum(map(len, items)) > _LONG else ", "
        return f"[{between.join(items)}]"
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, str) and len(value) > _LONG:
        # A backslash at the end of a line joins it with the next one, whose leading spaces go.
        parts = [_escaped(value[start : start + _LONG]) for start in range(0, len(value), _LONG)]
        parts = [f"\\u0020{part[1:]}" if part[0] == " " else part for part in parts]
        return '"""\\\n' + "\\\n".join(parts) + '"""'
    return f'"{_escaped(value)}"' if isinstance(value, str) else json.dumps(value)


def _escaped(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1].replace("\x7f", "\\u007f")


CREDENTIALS = {one.name: name for one in structs.fields(HttpSettings) if (name := _extra(one.type).get(CREDENTIAL))}
"""The names by which systemd hands over files that fields of HttpSettings name."""
