"""Seals of plans: what tells a plan that was built here from any other, by a key that this device alone has.

TensorRT takes a plan at its word, so a plan is trusted as a program is. A hash beside it shows damage and nothing more;
the seal is an HMAC-SHA256 (RFC 2104) under 32 random bytes that are made when the first plan is. Who has the key makes
plans: it is copied to another machine only by who wants that.
"""

import hmac
import os
from pathlib import Path

from edgekit.atomic import write_new
from edgekit.errors import BackendError, OutputError
from edgekit.plainfiles import read_with_mode

KEY_FILE = "EDGEKIT_PLAN_KEY"
CREDENTIAL = "edgekit-plan-key"
"""What a unit of systemd calls it in LoadCredential=; from systemd 247 on."""
_KEY_BYTES = 32
_OTHERS = 0o077


def key_file() -> Path:
    """Return where this device's key lies or will lie. Raises BackendError where there is no place for it.

    The file that EDGEKIT_PLAN_KEY names, else what systemd hands to a service, else ``edgekit/plan.key`` of who runs
    this, below $XDG_STATE_HOME or ~/.local/state.
    """
    if named := os.environ.get(KEY_FILE):
        return Path(named)
    if given := _credential():
        return given
    state = os.environ.get("XDG_STATE_HOME", "")
    try:
        return (Path(state) if state.startswith("/") else Path("~/.local/state").expanduser()) / "edgekit" / "plan.key"
    except RuntimeError as error:
        raise BackendError(f"{KEY_FILE}: not set, and this user has no home for the key of plans; set it") from error


def seal_of(what: bytes, content: bytes | memoryview) -> bytes:
    """Return the seal of ``content`` as 64 hex digits, making this device's key if there is none.

    what: for what it holds, so that the seal of one thing is not that of another. Raises OutputError where the key
    cannot be written, BackendError where it cannot be used.
    """
    path = key_file()
    if (key := _read_key(path)) is None:
        try:
            write_new(path, os.urandom(_KEY_BYTES), mode=0o600)
        except OutputError as error:
            raise OutputError(f"{error}; {KEY_FILE} names another place for the key that seals plans") from error
        key = _read_key(path)  # of two programs that make one, the key of the first
    if key is None:
        raise OutputError(f"{path}: was made and is not there; set {KEY_FILE} to a place that lasts")
    return _sealed(key, what, content)


def fits(seal: bytes, what: bytes, content: bytes | memoryview) -> bool:
    """Return whether this device sealed ``content``. Raises BackendError where its key cannot be used."""
    key = _read_key(key_file())
    return key is not None and hmac.compare_digest(seal, _sealed(key, what, content))


def _sealed(key: bytes, what: bytes, content: bytes | memoryview) -> bytes:
    mac = hmac.new(key, what + b"\n", "sha256")
    mac.update(content)
    return mac.hexdigest().encode()


def _credential() -> Path | None:
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    path = Path(folder, CREDENTIAL) if folder else None
    return path if path and path.exists() else None


def _read_key(path: Path) -> bytes | None:
    """Return the key in a file, None if there is no such file; raises BackendError for one that is no key of ours."""
    try:
        key, mode = read_with_mode(path, 1 << 12)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BackendError(
            f"{path}: {error.strerror}, the key that seals plans is there; check {KEY_FILE} and its permissions"
        ) from error
    if len(key) != _KEY_BYTES:
        raise BackendError(
            f"{path}: is no file of {_KEY_BYTES} bytes, as the key that seals plans is; remove it and build again"
        )
    # systemd hands a credential to its service alone, and shows that in an access list, not in these bits
    if mode & _OTHERS and path != _credential():
        raise BackendError(
            f"{path}: others may read it (mode {mode:04o}), and could seal plans of their own; remove it and build "
            "again, or chmod 600 it if nobody did"
        )
    return key
