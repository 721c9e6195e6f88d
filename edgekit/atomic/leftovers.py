"""What writers leave when they are killed: found by its name, and told from what is being written by a lock.

A writer holds a lock (flock(2)) on what it writes under a temporary name, ``.NAME.XXXXXXXX.partial``, for as long as it
lives; the kernel lets go of it when the process ends, however it does. Where a file system has no such locks nothing is
ever taken for a leftover.
"""

import errno
import logging
import os
import re
import shutil
import stat
import sys
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: no lock, so nothing is cleared
    fcntl = None  # type: ignore[assignment]

NEW, OLD = "new", "old"
"""In a temporary folder: what is being filled, and what stood in its place while that takes it in two steps."""
_log = logging.getLogger(__name__)


def temporary(place: Path) -> Path:
    """Return a temporary name in the same folder, which no other writer chooses."""
    place = _named(place)
    return place.with_name(f".{place.name}.{os.urandom(4).hex()}.partial")


def _named(place: Path) -> Path:
    """Return the place by a name of its own: that of ``.`` is another one. Raises OSError for the root."""
    if place.name in {"", ".."}:
        place = place.resolve()
    if not place.name:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(place))
    return place


def hold(path: Path, descriptor: int) -> bool:
    """Mark an open file or folder as alive until it is closed; return False if it is being cleared away just now."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def clear_leftovers(place: Path) -> bool:
    """Remove what dead writers of this place left, or put it back; return whether a living one is at work.

    Left by who was killed between two steps, the folder that stood at the place is put back there. Raises OSError if
    that fails. Nothing of another user is touched.
    """
    if fcntl is None:
        return False
    place = _named(place)
    name = re.compile(rf"\.{re.escape(place.name)}\.[0-9a-f]{{8}}\.partial(\.old)?")
    try:
        paths = [Path(entry.path) for entry in os.scandir(place.parent) if name.fullmatch(entry.name)]
    except OSError:  # not made yet, or not to be read
        return False
    return sum(_alive_or_cleared(path, place) for path in sorted(paths)) > 0


def _alive_or_cleared(path: Path, place: Path) -> bool:
    """Return True if something is being written, else clear it away."""
    assert fcntl is not None, "asked before"
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:  # gone meanwhile, or none of ours
        return False
    try:
        state = os.fstat(descriptor)
        if state.st_uid != os.geteuid() or not (stat.S_ISDIR(state.st_mode) or stat.S_ISREG(state.st_mode)):
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:  # nobody can tell
            return False
        if path.suffix == f".{OLD}":  # of an EdgeKit that put it beside
            _put_back(path, place)
        remove(path, place)
        return False
    finally:
        os.close(descriptor)


def remove(path: Path, place: Path) -> None:
    """Remove something temporary; a folder that was to be replaced goes back to its place if that is empty.

    What cannot be removed is logged. Raises OSError if it cannot go back, with all that there is left as it is.
    """
    if not os.path.lexists(path):
        return
    if stat.S_ISDIR(path.lstat().st_mode):
        _put_back(path / OLD, place)
        failure = _remove_folder(path)
    else:
        failure = None
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            failure = error
    if failure:
        _log.warning("%s: left behind, %s; delete it", path, getattr(failure, "strerror", None) or failure)


def _remove_folder(path: Path) -> BaseException | None:
    """Remove all that can be of a folder; return what the first of the rest raised."""
    failures: list[BaseException] = []
    if sys.version_info >= (3, 12):
        shutil.rmtree(path, onexc=lambda _call, _path, error: failures.append(error))
    else:
        shutil.rmtree(path, onerror=lambda _call, _path, error: failures.append(error[1]))
    return failures[0] if failures and os.path.lexists(path) else None


def _put_back(old: Path, place: Path) -> None:
    """Give a folder its place again if nothing stands there."""
    if old.is_dir() and not os.path.lexists(place):
        try:
            old.rename(place)
        except OSError as error:
            reason = f"{error.strerror}; what stood there is whole in {old}, rename it"
            raise OSError(error.errno, reason, str(place)) from error
        _log.warning("%s: put back, a run was stopped while it was being replaced", place)
