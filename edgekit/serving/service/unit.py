"""A unit: what lets systemd run `listen` or `serve`. Made of a target's own, so that what a service may do stands once.

``runtimes/TARGET/edgekit.service`` is the text; here stands what differs: the command, what it needs of the network and
of sound, and which directives a user's own systemd can keep.
"""

import hashlib
import os
import stat
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from edgekit.atomic import write_whole
from edgekit.bundle import open_bundle
from edgekit.errors import OutputError, UsageError
from edgekit.plainfiles import read_plain
from edgekit.recipe import load_target, target_names
from edgekit.resources import resource
from edgekit.serving.configuration import CREDENTIALS, Configured
from edgekit.serving.guard import is_loopback
from edgekit.serving.settings import Settings

SYSTEM_FOLDER = Path("/etc/systemd/system")
STATE = Path("/var/lib/edgekit")
"""The only place where a service of its own user may keep something (StateDirectory)."""
_MARK = "# Written by `edgekit {command} --install-service`, which `edgekit {command} --uninstall-service` undoes: "
_HIDDEN = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")  # noqa: S108 - by ProtectHome and PrivateTmp
_JETSON = Path("/etc/nv_tegra_release")
_LARGEST = 1 << 16
_NEEDS = "# It needs a microphone, "
# What a systemd of a user's can keep without rights of its own: what the kernel grants to everybody. The others would
# be left out in silence, or fail the start.
_OF_USERS = {
    "Description", "After", "StartLimitIntervalSec", "Type", "ExecStart", "ExecReload", "WatchdogSec", "TimeoutStopSec",
    "Restart", "RestartPreventExitStatus", "RestartSec", "RestartSteps", "RestartMaxDelaySec", "Environment",
    "StandardOutput",
    "NoNewPrivileges", "UMask", "RestrictAddressFamilies", "LockPersonality", "RestrictNamespaces", "RestrictRealtime",
    "RestrictSUIDSGID", "SystemCallArchitectures", "SystemCallFilter", "SystemCallErrorNumber", "WantedBy",
}  # fmt: skip
_UNHEARD = "what it hears is printed to nobody: the journal is a file. --http PORT shows it, --record FOLDER keeps it"
_SAID = {"listen": "write down what the microphone hears", "serve": "serve a bundle to other programs"}


def unit_path(command: str, *, user: bool) -> Path:
    """Return where the unit of a command lies."""
    name = f"edgekit-{command}.service"
    if not user:
        return SYSTEM_FOLDER / name
    named = os.environ.get("XDG_CONFIG_HOME", "")
    try:
        own = Path(named) if named.startswith("/") else Path("~/.config").expanduser()
    except RuntimeError as error:
        raise UsageError("--user: this user has no home, where its units lie; set HOME, or use --system") from error
    return own / "systemd/user" / name


def unit_text(command: str, words: Sequence[str], configured: Configured, bundle: Path, *, user: bool) -> str:
    """Return the unit by which systemd runs ``edgekit COMMAND WORDS``.

    Raises UsageError for what the service could not see or read, BundleFileError and others for no bundle.
    """
    settings = configured.settings
    manifest = open_bundle(bundle, check_hashes=False).manifest
    program = _program()
    if not user:
        _check_seen(settings, configured.file, bundle, program)
    base = (resource("runtimes") / _target(manifest.dialect) / "edgekit.service").read_text(encoding="utf-8")
    edit = _edits(command, [*program, command, *words], settings, user=user)
    body = "\n".join(_edited(base, edit)).replace(_NEEDS, _needs(command, settings)) + "\n"
    return _MARK.format(command=command) + _digest(body) + "\n" + body


def write(command: str, text: str, *, user: bool) -> Path:
    """Write the unit where systemd looks, in place of an earlier one of ours; raises OutputError."""
    path = unit_path(command, user=user)
    if os.path.lexists(path):
        _check_ours(command, path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text.encode())
        path.chmod(0o644)
    except OSError as error:
        reason = error.strerror or getattr(error.__cause__, "strerror", None) or str(error)
        step = "check the disk" if user else "run it as root, or with --user"
        raise OutputError(f"{path}: not written ({reason}); {step}") from error
    return path


def remove(command: str, *, user: bool) -> Path:
    """Remove the unit, if it is as it was written; raises OutputError."""
    path = unit_path(command, user=user)
    if not os.path.lexists(path):
        other = "--system" if user else "--user"
        raise OutputError(f"{path}: no such file, so there is nothing to undo; was it written with {other}?")
    _check_ours(command, path)
    try:
        path.unlink()
    except OSError as error:
        raise OutputError(f"{path}: not removed ({error.strerror}); run it as root") from error
    return path


def explain_written(path: Path, *, user: bool) -> str:
    """Return what was done, and what to type next."""
    control = "systemctl --user" if user else "systemctl"
    journal = "journalctl --user" if user else "journalctl"
    lines = [
        f"wrote {path}; nothing runs yet. Next:",
        f"  {control} daemon-reload",
        f"  {control} enable --now {path.stem}",
        *([f"  loginctl enable-linger {_user()}    # so that it runs while nobody is logged in"] if user else []),
        f"  {control} status {path.stem}",
        f"  {journal} -fu {path.stem}",
        f"  {control} reload {path.stem}    # when the configuration was changed",
        *([_UNHEARD] if path.stem == "edgekit-listen" else []),
        "it comes back for ever, whatever ends it, but not after wrong usage. To undo:",
        f"  {control} disable --now {path.stem}",
        f"  edgekit {path.stem.removeprefix('edgekit-')} --uninstall-service --{'user' if user else 'system'}",
    ]
    return "\n".join(lines) + "\n"


def explain_removed(path: Path, *, user: bool) -> str:
    """Return what was done, and what to type next."""
    control = "systemctl --user" if user else "systemctl"
    return f"removed {path}. Next:\n  {control} stop {path.stem}\n  {control} daemon-reload\n"


def _hosts(command: str, settings: Settings) -> list[str]:
    """Return the addresses at which a command listens."""
    http = command == "serve" if settings.http.on is None else settings.http.on
    return [settings.http.host] * http + [settings.wyoming.host] * settings.wyoming.on


def _needs(command: str, settings: Settings) -> str:
    microphone, network = "a microphone, " * (command == "listen"), "the network, " * bool(_hosts(command, settings))
    return f"# It needs {microphone}{network}"


def _edits(  # noqa: C901 - a table of cases
    command: str, words: Sequence[str], settings: Settings, *, user: bool
) -> Callable[[str, str], list[str]]:
    """Return what becomes of each directive: its lines, none if it is left out."""
    serves = command == "serve"
    hosts = _hosts(command, settings)
    local = all(map(is_loopback, hosts))
    announced = settings.wyoming.on and settings.wyoming.zeroconf and not is_loopback(settings.wyoming.host)
    keeps = settings.record.dir

    def edit(key: str, value: str) -> list[str]:  # noqa: C901, PLR0911, PLR0912 - a table of cases
        line = f"{key}={value}"
        if user and key not in _OF_USERS:
            return []
        match key:
            case "Description":
                return [f"{key}=EdgeKit: {_SAID[command]}"]
            case "StandardOutput" if serves:
                return []  # it prints nothing
            case "After" if serves:
                return [
                    f"{key}=network{'' if local else '-online'}.target {value.replace('sound.target', '')}".rstrip()
                ]
            case "ExecStart":
                lines = [f"{key}={' '.join(map(_word, words))}"]
                if not user:
                    lines += [
                        f"LoadCredential={name}:{_percent(str(path))}"
                        for field, name in CREDENTIALS.items()
                        if (path := getattr(settings.http, field)) is not None
                    ]
                    lines += ["StateDirectory=edgekit", "StateDirectoryMode=0700"] if keeps else []
                return lines
            case "SupplementaryGroups" if serves:
                groups = value.replace("audio", "").split()
                return [f"{key}={' '.join(groups)}"] if groups else []
            case "DeviceAllow" if serves and value.startswith("char-alsa"):
                return []
            case "PrivateNetwork" if hosts:
                return []
            case "IPAddressDeny" if hosts:
                return [line, "IPAddressAllow=localhost"] if local else []
            case "RestrictAddressFamilies" if hosts:
                return [f"{line} AF_INET AF_INET6{' AF_NETLINK' if announced else ''}"]
            case "WantedBy" if user:
                return [f"{key}=default.target"]
            case _:
                return [line]

    return edit


def _edited(base: str, edit: Callable[[str, str], list[str]]) -> list[str]:
    """Return the lines of a unit, each directive edited; a comment goes with the directive that it stands above."""
    lines: list[str] = []
    comments: list[str] = []
    for line in base.splitlines():
        key, equals, value = line.partition("=")
        if line.startswith("#"):
            comments.append(line)
        elif equals:
            edited = edit(key, value)
            lines += [*comments, *edited] if edited else []
            comments = []
        elif line or (lines and lines[-1]):
            lines.append(line)
            comments = []
    return lines


def _target(dialect: str) -> str:
    """Return the target of this machine for a dialect; a Jetson says that it is one."""
    jetson = _JETSON.exists()
    fitting = [target for target in map(load_target, target_names()) if target.dialect == dialect]
    best = sorted(fitting, key=lambda target: any(stack.l4t for stack in target.stacks) != jetson)
    return best[0].name if best else "cpu"


def _program() -> list[str]:
    """Return the command that runs now, by its whole path."""
    beside = Path(sys.executable).parent / "edgekit"
    return [str(beside)] if beside.is_file() else [sys.executable, "-m", "edgekit"]


def _word(text: str) -> str:
    """Return a word as a unit's command line has it. Source: systemd.service(5), COMMAND LINES."""
    escaped = _percent(text).replace("\\", "\\\\").replace('"', '\\"').replace("$", "$$").replace("\n", "\\n")
    plain = text and all(one.isalnum() or one in "/._-:,=+@%" for one in text)
    return escaped if plain else f'"{escaped}"'


def _percent(text: str) -> str:
    return text.replace("%", "%%")


def _check_seen(settings: Settings, file: Path | None, bundle: Path, program: Sequence[str]) -> None:
    """Raise UsageError for what a service of the system's, with a user of its own, would not see, or not read."""
    other = "put it elsewhere, or install with --user"
    base = [getattr(sys, "_base_executable", sys.executable), sys.base_prefix]
    needed = [Path(one) for one in (program[0], *base, bundle, *settings.trust)]
    needed += [Path(one) for one in (file, settings.plans, settings.stream.tools) if one is not None]
    for path in needed:
        real = Path(os.path.realpath(path))
        for folder in _HIDDEN:
            if real.is_relative_to(os.path.realpath(folder)):
                raise UsageError(f"{path}: lies in {folder}, which the service does not see; {other}")
        if (closed := _closed_to_others(real)) is not None:
            raise UsageError(f"{closed}: the service's own user may not read it; chmod a+rX, or install with --user")
    keeps = settings.record.dir
    if keeps is not None and STATE not in Path(os.path.normpath(keeps)).parents:
        raise UsageError(f"record.dir: {keeps}, the service may write below {STATE} alone; name {STATE}/recordings")


def _closed_to_others(path: Path) -> Path | None:
    """Return what on the way to a file or folder others may not pass or read; None if they may read it."""
    for one in reversed((path, *path.parents)):
        try:
            mode = one.stat().st_mode
        except OSError:
            return one
        needed = stat.S_IXOTH if one != path else stat.S_IROTH | (stat.S_IXOTH if stat.S_ISDIR(mode) else 0)
        if mode & needed != needed:
            return one
    return None


def _check_ours(command: str, path: Path) -> None:
    """Raise OutputError for a unit that is not as `--install-service` has written it."""
    try:
        text = read_plain(path, _LARGEST, links=False).decode("utf-8", "replace")
    except OSError as error:
        raise OutputError(f"{path}: {error.strerror}, so it is left alone; remove it by hand") from error
    first, _, body = text.partition("\n")
    if first != _MARK.format(command=command) + _digest(body):
        why = "was changed since it was written" if first.startswith(_MARK.format(command=command)) else "is another's"
        raise OutputError(f"{path}: {why}, so it is left alone; remove it by hand, `rm {path}`")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _user() -> str:
    return os.environ.get("USER") or str(os.getuid())
